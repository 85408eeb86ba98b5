"""Image files as the world has them, each with what is to become of it: pixels, or an error.

What is expected is a closed form, or what NumPy makes of the pixels that were written; where a
format loses something, within the levels that it may lose of a smooth picture.
"""

import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from encoding import (
    chunk,
    encoded,
    jpeg,
    on_white,
    orientation,
    picture,
    png,
    png_of,
    stored,
    with_exif,
    ycck,
)
from vggnet.images import Pixels

SHAPE = (61, 93)
"""Odd, so that no block of a JPEG ends with the picture."""


@dataclass(frozen=True)
class Specimen:
    """A file; exactly one of `pixels` and `bad` is there."""

    name: str
    content: bytes | None
    """None: a link to a file that is gone."""
    pixels: Pixels | None = None
    """H×W×3, upright."""
    tolerance: int = 0
    """Levels by which a pixel may be off."""
    bad: str = ""
    """Words of the message, a regular expression."""

    def put(self, folder: Path) -> Path:
        """Writes the file into a folder."""
        path = folder / self.name
        if self.content is None:
            path.symlink_to(folder / "nowhere" / self.name)
        else:
            path.write_bytes(self.content)
        return path


@cache
def zoo() -> tuple[Specimen, ...]:
    """All of them, in no order that matters."""
    return (*_jpegs(), *_turned_jpegs(), *_pngs(), *_others(), *_broken(), *_no_images(), *_bombs())


def _good(name: str, content: bytes, pixels: Pixels, tolerance: int = 0) -> Specimen:
    return Specimen(name, content, pixels, tolerance)


def _jpegs() -> list[Specimen]:
    smooth = picture(*SHAPE)
    whole = jpeg(smooth)
    grey = smooth[..., :1].repeat(3, axis=2)
    thin, colour = picture(4000, 1), np.full((1, 1, 3), (200, 100, 50), np.uint8)
    black = np.full(SHAPE, 60, np.uint8)
    cmyk = np.dstack([255 - smooth, black])
    inked = np.rint(smooth * ((255 - 60) / 255)).astype(np.uint8)
    profile = b"profile" * 12_000  # more than one block
    seconds = [Image.fromarray(255 - smooth)]
    return [
        _good("baseline.jpg", jpeg(smooth, subsampling="4:2:0"), smooth, 4),
        _good("422.jpeg", jpeg(smooth, subsampling="4:2:2"), smooth, 4),
        _good("444.JPG", jpeg(smooth, subsampling="4:4:4"), smooth, 4),
        _good("rgb.jpg", jpeg(smooth, keep_rgb=True), smooth, 3),
        _good("progressive.jpg", jpeg(smooth, progressive=True), smooth, 4),
        _good("grey.jpg", jpeg(smooth[..., 0]), grey, 3),
        _good("cmyk.jpg", encoded(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=95), inked, 4),
        _good("ycck.jpg", ycck(cmyk), inked, 4),
        _good("pixel.jpg", jpeg(colour), colour, 2),
        _good("thin.jpg", jpeg(thin), thin, 4),
        _good("wide.jpg", jpeg(thin.transpose(1, 0, 2)), thin.transpose(1, 0, 2), 4),
        _good("restarts.jpg", jpeg(smooth, restart_marker_blocks=2), smooth, 4),
        _good("profile.jpg", jpeg(smooth, icc_profile=profile), smooth, 4),
        _good("mpo.jpg", encoded(smooth, "MPO", save_all=True, append_images=seconds), smooth, 7),
        _good("trailing.jpg", whole + b"\0" * 999 + b"and a note", smooth, 4),
        _good("jpeg.png", whole, smooth, 4),
        _good("no-exif.jpg", with_exif(whole, b""), smooth, 4),
        _good("cut-exif.jpg", with_exif(whole, orientation(6)[:12]), smooth, 4),
        _good("lost-exif.jpg", with_exif(whole, b"MM\0*\xff\xff\xff\xff" + bytes(20)), smooth, 4),
        _good("no-turn.jpg", with_exif(whole, orientation(9)), smooth, 4),
    ]


def _turned_jpegs() -> list[Specimen]:
    upright = picture(*SHAPE)
    return [
        _good(f"turn-{i}.jpg", with_exif(jpeg(stored(upright, i)), orientation(i)), upright, 5)
        for i in range(1, 9)
    ]


def _pngs() -> list[Specimen]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    alpha = rng.integers(0, 256, SHAPE, dtype=np.uint8)
    indices, colours = noise[..., 0] % 4, rng.integers(0, 256, (4, 3), dtype=np.uint8)
    palette = Image.fromarray(indices, "P")
    palette.putpalette(colours.tobytes())
    opacity = np.array([0, 100, 255, 30], np.uint8)
    bits = np.where(noise[..., 0] > 99, 255, 0).astype(np.uint8)
    one = np.repeat(bits[..., None], 3, axis=2)
    wide = rng.integers(0, 65536, (*SHAPE, 4), dtype=np.uint16)
    grey = np.rint(wide[..., :1] / 257).astype(np.uint8).repeat(3, axis=2)
    wide_alpha = on_white((wide[..., :3] >> 8).astype(np.uint8), (wide[..., 3] >> 8).astype("u1"))
    hidden = np.where((noise == noise[0, 0]).all(axis=2, keepdims=True), 255, noise).astype("u1")
    rgba, la = np.dstack([noise, alpha]), np.dstack([noise[..., 0], alpha])
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.fromarray(255 - noise)]
    transparent = chunk(b"tRNS", struct.pack(">HHH", *noise[0, 0].tolist()))
    whole = png(noise, 2)
    return [
        _good("rgb.png", whole, noise),
        _good("png.jpg", whole, noise),
        _good("palette.png", encoded(palette, "PNG"), colours[indices]),
        _good(
            "palette-alpha.png",
            encoded(palette, "PNG", transparency=opacity.tobytes()),
            on_white(colours[indices], opacity[indices]),
            1,
        ),
        _good("rgba.png", encoded(rgba, "PNG"), on_white(noise, alpha), 1),
        _good("la.png", encoded(la, "PNG"), on_white(noise[..., :1].repeat(3, 2), alpha), 1),
        _good("grey16.png", png(wide[..., :1], 0), grey),
        _good("rgb16.png", png(wide[..., :3], 2), (wide[..., :3] >> 8).astype(np.uint8)),
        _good("rgba16.png", png(wide, 6), wide_alpha, 1),
        _good("bits.png", encoded(Image.fromarray(bits).convert("1"), "PNG"), one),
        _good("interlaced.png", png(noise, 2, interlaced=True), noise),
        _good("colour-key.png", png(noise, 2, extra=transparent), hidden),
        _good("gamma.png", png(noise, 2, extra=chunk(b"gAMA", struct.pack(">I", 45455))), noise),
        _good("turned.png", encoded(stored(noise, 6), "PNG", exif=exif), noise),
        _good("animated.png", encoded(noise, "PNG", save_all=True, append_images=frames), noise),
        # All pixels are there; what is not is the sum that checks them, and the end.
        _good("no-end.png", whole[:-20], noise),
    ]


def _others() -> list[Specimen]:
    rng = np.random.default_rng(1)
    smooth = picture(*SHAPE)
    noise = rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    few = np.repeat(noise[..., :1] // 64 * 80, 3, axis=2)
    alpha = rng.integers(0, 256, SHAPE, dtype=np.uint8)
    rgba = np.dstack([noise, alpha])
    frames = [Image.fromarray(255 - noise)]
    later = {"save_all": True, "append_images": frames}
    clear = Image.fromarray(few[..., 0] // 80, "P")
    clear.putpalette([value for level in (0, 80, 160, 240) for value in [level] * 3])
    shown = np.where(few == 80, 255, few).astype(np.uint8)
    wide = rng.integers(0, 65536, SHAPE, dtype=np.uint16)
    grey = np.rint(wide[..., None] / 257).astype(np.uint8).repeat(3, axis=2)
    ink = Image.fromarray(np.dstack([255 - noise, np.zeros(SHAPE, np.uint8)]), "CMYK")
    pgm = "P5 {1} {0} 65535\n".format(*SHAPE).encode() + wide.astype(">u2").tobytes()
    wide_tiff, turn = encoded(Image.fromarray(wide), "TIFF"), {274: 8}
    few_frames = [Image.fromarray(255 - few)]
    return [
        _good("still.gif", encoded(few, "GIF"), few),
        _good("animated.gif", encoded(few, "GIF", save_all=True, append_images=few_frames), few),
        _good("clear.gif", encoded(clear, "GIF", transparency=1), shown),
        _good("lossy.webp", encoded(smooth, "WEBP", quality=95), smooth, 8),
        _good("lossless.webp", encoded(noise, "WEBP", lossless=True), noise),
        _good("animated.webp", encoded(noise, "WEBP", lossless=True, **later), noise),
        _good(
            "alpha.webp",
            encoded(rgba, "WEBP", lossless=True, exact=True),
            on_white(noise, alpha),
            1,
        ),
        _good("rgb.tif", encoded(noise, "TIFF"), noise),
        _good("cmyk.tif", encoded(ink, "TIFF"), noise, 1),
        _good("lzw.tiff", encoded(noise, "TIFF", compression="tiff_lzw"), noise),
        _good("grey16.tif", wide_tiff, grey),
        _good("turned.tif", encoded(stored(noise, 8), "TIFF", tiffinfo=turn), noise),
        _good("pages.tif", encoded(noise, "TIFF", **later), noise),
        _good("rgb.bmp", encoded(noise, "BMP"), noise),
        _good("rgb.ppm", encoded(noise, "PPM"), noise),
        _good("grey16.ppm", pgm, grey),
    ]


def _broken() -> list[Specimen]:
    smooth = picture(*SHAPE)
    unread, unknown = "cannot be read as an image", "not an image"
    whole = {
        "jpg": jpeg(smooth),
        "progressive.jpg": jpeg(smooth, progressive=True),
        "png": encoded(smooth, "PNG"),
        "webp": encoded(smooth, "WEBP"),
        "gif": encoded(smooth, "GIF"),
        "tif": encoded(smooth, "TIFF"),
        "bmp": encoded(smooth, "BMP"),
    }
    lost = {"jpg": 20, "gif": 3, "png": 30}  # of which the last bytes hold no pixels
    found = []
    for kind, content in whole.items():
        said = f"({unread}|{unknown}).*remove it"
        found.append(Specimen(f"head.{kind}", content[:20], bad=said))
        found.append(Specimen(f"half.{kind}", content[: len(content) // 2], bad=unread))
        found.append(Specimen(f"tail.{kind}", content[: -lost.get(kind, 2)], bad=unread))
    flipped = bytearray(whole["png"])
    flipped[flipped.index(b"IDAT") + 20] ^= 255
    header = bytearray(whole["png"])
    header[29] ^= 255  # the sum of IHDR
    noise = np.random.default_rng(2).bytes(3000)
    floats = Image.fromarray(np.ones(SHAPE, np.float32))
    return [
        *found,
        Specimen("sum.png", bytes(flipped), bad=unread),
        Specimen("header-sum.png", bytes(header), bad=unknown),
        Specimen("random.jpg", b"\xff\xd8\xff\xe0" + noise, bad=unread),
        Specimen("zeros-after.jpg", whole["jpg"][:900] + bytes(900), bad=unread),
        Specimen("float.tif", encoded(floats, "TIFF"), bad="floating-point.*convert it to 8 bits"),
    ]


def _no_images() -> list[Specimen]:
    page = b"<!DOCTYPE html><html><title>403 Forbidden</title></html>"
    tensors = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    contents: dict[str, bytes] = {
        # Pillow would give it to Ghostscript, a whole programming language.
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "text.jpg": b"not an image\n",
        "page.jpg": page,
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "pdf.jpg": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
        "weights.jpg": struct.pack("<Q", len(tensors)) + tensors + bytes(4),
        "nulls.jpg": bytes(4096),
    }
    said = "not an image in a format that Pillow reads: convert or remove it"
    found = [Specimen(name, content, bad=said) for name, content in contents.items()]
    return [
        *found,
        Specimen("zero.jpg", b"", bad="is empty: copy it again or remove it"),
        Specimen("gone.jpg", None, bad="no such file"),
    ]


def _bombs() -> list[Specimen]:
    side = 20_000
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    content = jpeg(picture(*SHAPE))
    size = content.index(b"\xff\xc0") + 5
    promised = content[:size] + b"\xff\xff\xff\xff" + content[size + 4 :]
    return [
        Specimen("bomb.png", png_of(header, rows), bad="too large .*: scale it down or remove it"),
        Specimen("promise.jpg", promised, bad="too large .*: scale it down or remove it"),
        Specimen("promise-cut.jpg", promised[: size + 14], bad="too large"),
    ]
