"""Every file of the zoo comes to what it should, by each way that leads to pixels."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoding import encoded, jpeg, picture
from triangle import resized
from vggnet import InputError
from vggnet.augment import ColourPCA
from vggnet.cli import main
from vggnet.datasets import open_dataset
from vggnet.images import EncodedImage, Pixels, decode, read_file, scaled_size
from vggnet.loading import TrainingImages
from vggnet.parts import Dataset
from zoo import Specimen, zoo

GOOD = [specimen for specimen in zoo() if specimen.pixels is not None]
BAD = [specimen for specimen in zoo() if specimen.bad]


def by_name(specimen: Specimen) -> str:
    return specimen.name


@pytest.fixture(params=["installed", "without"])
def simplejpeg(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "installed":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr("vggnet.images.simplejpeg", None)


def test_the_zoo_is_as_large_as_it_should_be() -> None:
    assert len({specimen.name for specimen in zoo()}) == len(zoo()) >= 45
    assert len(GOOD) + len(BAD) == len(zoo())


@pytest.mark.usefixtures("simplejpeg")
@pytest.mark.parametrize("specimen", GOOD, ids=by_name)
def test_good_files(specimen: Specimen, tmp_path: Path) -> None:
    expected = specimen.pixels
    assert expected is not None
    found = decode(specimen.put(tmp_path))
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert off(found, expected) <= specimen.tolerance
    smallest = min(expected.shape[:2])
    sides = [max(1, smallest // 2), max(1, smallest // 9)]
    for side in sides if max(expected.shape) > 1000 else [*sides, 2 * smallest]:
        check_views(specimen, expected, side)


def check_views(specimen: Specimen, expected: Pixels, side: int) -> None:
    """Against the whole, resized by definition; rounding costs a level, and libjpeg's reduction of
    a picture that does not fill its last block some more at that border."""
    assert specimen.content is not None
    image = EncodedImage(specimen.content, specimen.name)
    assert image.shape == expected.shape[:2]
    size = scaled_size(*image.shape, side)
    may = specimen.tolerance + 1 + 2 * (image.format in ("JPEG", "MPO"))
    assert off(image.rescaled(side), resized(expected, size)) <= may
    part = (size[0] // 3, size[1] // 4, size[0] - size[0] // 2, size[1] - size[1] // 3)
    assert off(image.window(side, part), resized(expected, size, part)) <= may
    reduced = image.reduced(side)
    for least, found, most in zip(size, reduced.shape, image.shape, strict=False):
        assert min(least, most) <= found <= most


def off(found: Pixels, expected: np.ndarray) -> float:
    return float(np.abs(found - expected.astype(float)).max())


@pytest.mark.usefixtures("simplejpeg")
@pytest.mark.parametrize("specimen", BAD, ids=by_name)
def test_bad_files_are_named_whatever_is_asked(specimen: Specimen, tmp_path: Path) -> None:
    path = specimen.put(tmp_path)
    said = rf"^{re.escape(str(path))}: .*{specimen.bad}"
    with pytest.raises(InputError, match=said):
        decode(path)
    ways: tuple[Callable[[EncodedImage], Pixels], ...] = (
        lambda image: image.pixels(),
        lambda image: image.rescaled(4),
        lambda image: image.window(4, (1, 1, 2, 2)),
        lambda image: image.reduced(4),
    )
    for way in ways:
        with pytest.raises(InputError, match=said) as caught:
            way(EncodedImage(read_file(path), str(path)))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("specimen", GOOD, ids=by_name)
def test_both_decoders_give_the_same(specimen: Specimen, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    assert specimen.content is not None
    fast = list(views(specimen.content))
    monkeypatch.setattr("vggnet.images.simplejpeg", None)
    for one, other in zip(fast, views(specimen.content), strict=True):
        assert np.array_equal(one, other)


def views(content: bytes) -> Iterator[Pixels]:
    """Of each a new image: none profits from what another has decoded."""
    smallest = min(EncodedImage(content, "a").shape)
    yield EncodedImage(content, "a").pixels()
    for reduction in (8, 4, 2):
        side = max(1, smallest // reduction)
        yield EncodedImage(content, "a").reduced(side)
        yield EncodedImage(content, "a").rescaled(side)
        yield EncodedImage(content, "a").window(side, (0, 0, side, side))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_damage_anywhere_is_an_input_error_or_an_image(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else escapes, and the two decoders agree on what can be read."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    rng = np.random.default_rng(3)
    smooth = picture(33, 50)
    whole = jpeg(smooth) if kind == "JPEG" else encoded(smooth, kind)
    for _ in range(150):
        mutant = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 6)):
            mutant[place] = rng.integers(256)
        outcomes = []
        for installed in (True, False):
            with monkeypatch.context() as patch:
                if not installed:
                    patch.setattr("vggnet.images.simplejpeg", None)
                outcomes.append(outcome(bytes(mutant)))
        assert outcomes[0] == outcomes[1]


def outcome(content: bytes) -> tuple[object, ...]:
    try:
        found = list(views(content))
    except InputError as error:
        return (str(error),)
    return tuple((view.shape, view.tobytes()) for view in found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them by turns in two classes, most in train/, the others in val/; and a folder."""
    root = tmp_path_factory.mktemp("zoo")
    for part in ("train", "val"):
        for label in ("even", "odd"):
            (root / part / label).mkdir(parents=True)
    for i, specimen in enumerate(zoo()):
        specimen.put(root / ("val" if i % 4 < 1 else "train") / ("odd" if i // 4 % 2 else "even"))
    (root / "train/odd/folder.jpg").mkdir()  # a folder by an image's name is a folder
    return root


@pytest.fixture
def data(folder: Path) -> Dataset:
    found = open_dataset(str(folder))
    found.__dict__["_colours"] = ((0.0, 0.0, 0.0), ColourPCA(np.eye(3)))  # else from all images
    return found


def test_a_folder_of_the_zoo_has_the_bad_ones_and_no_more(data: Dataset, folder: Path) -> None:
    bad, names = {}, []
    for part in (data.train, data.validation, data.test):
        for i, name in enumerate(part.names or ()):
            names.append(Path(name).name)
            try:
                part.images[i]
            except InputError as error:
                bad[Path(name).name] = str(error).removeprefix(f"{folder / name}: ")
    assert sorted(names) == sorted(specimen.name for specimen in zoo())
    assert bad.keys() == {specimen.name for specimen in BAD}
    assert all(re.match(f"(.* )?{specimen.bad}", bad[specimen.name]) for specimen in BAD)
    assert not any(str(folder) in message for message in bad.values())


def test_training_on_the_zoo_leaves_out_the_bad_ones(data: Dataset) -> None:
    names = list(data.train.names or ())
    images = TrainingImages(
        data, S=8, crop=6, batch_size=16, flip=True, colour_shift=0.1, seed=0, workers=2
    )
    batches = list(images.epoch(0))
    images.close()
    found = {Path(names[i]).name for batch in batches for i, _ in batch.bad}
    expected = {Path(name).name for name in names} & {specimen.name for specimen in BAD}
    assert found == expected
    assert len(expected) > 10
    assert sum(len(batch.labels) for batch in batches) == len(names) - len(expected)


def test_check_data_finds_the_bad_ones_and_no_more(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "bad.jsonl"
    options = ["--json", "--workers", "2", "--bad-images", str(listed)]
    assert main(["check-data", str(folder), *options]) == 1
    out, err = capsys.readouterr()
    assert f"{len(BAD)} of {len(zoo())} images cannot be read" in err
    found = {Path(bad["path"]).name: bad["reason"] for bad in json.loads(out)["bad"]}
    assert found.keys() == {specimen.name for specimen in BAD}
    assert all(re.match(f"(.* )?{specimen.bad}", found[specimen.name]) for specimen in BAD)
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert {Path(line["path"]).name: line["reason"] for line in lines} == found
