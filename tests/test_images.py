"""Decoding against Pillow's own reading, closed forms and NumPy's turns."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoding import stored
from vggnet import InputError
from vggnet.images import Pixels, decode

SHAPE = (5, 7)


@pytest.fixture
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.webp"])
def test_lossless_files_come_back(pixels: Pixels, tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name == "a.webp" else {}
    found = decode(saved(Image.fromarray(pixels), tmp_path / name, **options))
    assert found.dtype == np.uint8
    assert (found == pixels).all()
    assert (decode(str(tmp_path / name)) == pixels).all()


def test_jpeg_is_pillows(pixels: Pixels, tmp_path: Path) -> None:
    path = saved(Image.fromarray(pixels), tmp_path / "a.jpg")
    with Image.open(path) as image:
        assert (decode(path) == np.asarray(image)).all()


def test_grey_palette_and_bits_become_rgb(pixels: Pixels, tmp_path: Path) -> None:
    grey = pixels[..., 0]
    found = decode(saved(Image.fromarray(grey), tmp_path / "grey.png"))
    assert (found == np.stack([grey] * 3, axis=2)).all()

    palette = Image.fromarray(grey % 4, "P")
    colours = [(10, 20, 30), (255, 0, 0), (0, 255, 7), (1, 2, 3)]
    palette.putpalette([value for colour in colours for value in colour])
    found = decode(saved(palette, tmp_path / "palette.png"))
    assert (found == np.array(colours, np.uint8)[grey % 4]).all()

    bits = Image.fromarray(np.where(grey > 99, 255, 0).astype(np.uint8)).convert("1")
    found = decode(saved(bits, tmp_path / "bits.png"))
    assert (found == np.where(grey > 99, 255, 0)[..., None]).all()


def test_cmyk_is_ink_on_white(tmp_path: Path) -> None:
    ink = np.random.default_rng(1).integers(0, 256, (*SHAPE, 4), dtype=np.uint8)
    found = decode(saved(Image.fromarray(ink, "CMYK"), tmp_path / "a.tif"))
    left = 255.0 - ink
    expected = left[..., :3] * left[..., 3:] / 255
    assert np.abs(found - expected).max() <= 1


def on_white(colour: Pixels, alpha: Pixels) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def test_what_is_transparent_lies_on_white(pixels: Pixels, tmp_path: Path) -> None:
    alpha = np.random.default_rng(2).integers(0, 256, SHAPE, dtype=np.uint8)
    alpha[0, 0], alpha[0, 1] = 0, 255
    rgba = np.dstack([pixels, alpha])
    found = decode(saved(Image.fromarray(rgba), tmp_path / "rgba.png"))
    assert np.abs(found - on_white(pixels, alpha)).max() <= 1
    assert found[0, 0].tolist() == [255, 255, 255]
    assert (found[0, 1] == pixels[0, 1]).all()

    grey = np.dstack([pixels[..., 0], alpha])
    found = decode(saved(Image.fromarray(grey), tmp_path / "la.png"))
    assert np.abs(found - on_white(pixels[..., :1].repeat(3, 2), alpha)).max() <= 1

    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 9, 9, 9, 200, 100, 0])
    for name, transparent in (("one.png", 1), ("one.gif", 1), ("each.png", bytes([255, 0, 51]))):
        found = decode(saved(palette, tmp_path / name, transparency=transparent))
        assert found[0, :2].tolist() == [[0, 0, 0], [255, 255, 255]]
        last = [244, 224, 204] if name == "each.png" else [200, 100, 0]
        assert np.abs(found[0, 2].astype(int) - last).max() <= 1

    one_colour = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    found = decode(saved(one_colour, tmp_path / "rgb.png", transparency=(1, 2, 3)))
    assert found.tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_16_bits_of_grey_become_8(tmp_path: Path) -> None:
    wide = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    expected = [0, 0, 1, 1, 128, 254, 255, 255]  # 128/257 < ½ < 129/257
    big_endian = tmp_path / "big.ppm"  # as PGM has it
    big_endian.write_bytes(b"P5 8 1 65535\n" + wide.astype(">u2").tobytes())
    for path in (
        saved(Image.fromarray(wide), tmp_path / "a.png"),
        saved(Image.fromarray(wide), tmp_path / "a.tif"),
        saved(Image.fromarray(wide.astype(">u2")), tmp_path / "big.tif"),
        big_endian,
    ):
        assert decode(path).tolist() == [[[value] * 3 for value in expected]], path.name
    beyond = Image.fromarray(np.array([[-5, 70000]], np.int32))
    assert decode(saved(beyond, tmp_path / "b.tif")).tolist() == [[[0] * 3, [255] * 3]]


def test_floating_point_is_refused(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.ones((2, 2), np.float32)), tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: .*floating-point.*convert it to 8 bits"):
        decode(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(pixels: Pixels, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(stored(pixels, orientation))
    assert (decode(saved(image, tmp_path / "a.png", exif=exif)) == pixels).all()


def test_of_an_animation_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "lime", "blue")]
    for name in ("a.gif", "a.png", "a.tif"):
        path = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:])
        assert (decode(path) == [255, 0, 0]).all()


def encoded(pixels: Pixels, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.repeat(20, 0).repeat(20, 1)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_truncated_files_are_named(pixels: Pixels, tmp_path: Path, kind: str) -> None:
    whole = encoded(pixels, kind)
    path = tmp_path / "cut.jpg"
    for length in (len(whole) // 2, 30):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.jpg: .*remove it"):
            decode(path)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(InputError, match=r"text\.jpg: not an image .*: convert or remove it"):
        decode(tmp_path / "text.jpg")
    with pytest.raises(InputError, match=r"empty\.jpg: is empty: copy it again"):
        decode(tmp_path / "empty.jpg")
    with pytest.raises(InputError, match=r"gone\.jpg: no such file"):
        decode(tmp_path / "gone.jpg")
    with pytest.raises(InputError, match=r"cannot be read as an image \(Is a directory\)"):
        decode(tmp_path)


def test_only_what_pillow_refuses_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in (4, 5):
        saved(Image.new("RGB", (side, side)), tmp_path / f"{side}.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # it warns above that, refuses from twice on
    assert decode(tmp_path / "4.png").shape == (4, 4, 3)  # and no warning, which would be an error
    with pytest.raises(InputError, match=r"5\.png: too large .*25 pixels.*: scale it down"):
        decode(tmp_path / "5.png")
