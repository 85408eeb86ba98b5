"""`vggnet check-data`: what it finds in folders in which everything is known."""

import json
import os
import re
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from photos import photo, write_photos
from vggnet.checks import report
from vggnet.cli import main
from vggnet.datasets import digits, open_dataset
from vggnet.findings import Report
from vggnet.images import EncodedImage, decode
from vggnet.index import PARTS, Index, files_of
from vggnet.measuring import Measured, measure
from vggnet.parts import Dataset
from vggnet.storage import EncodedImages


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "pets", {"train": 6, "val": 2, "test": 2})


def found_in(data: Dataset, crop: int = 64) -> Report:
    files = files_of(data, PARTS)
    index = Index.of(data)
    index.check(list(files.values()))
    return report(data, index, crop=crop, workers=2)


def test_counts_sizes_and_formats(root: Path) -> None:
    Image.new("RGB", (600, 530)).save(root / "train/class1/big.png")
    Image.new("RGB", (20, 900)).save(root / "train/class1/thin.webp")
    Image.new("RGB", (223, 300)).save(root / "train/class1/a.bmp")
    Image.new("RGB", (224, 300)).save(root / "train/class1/b.bmp")
    Image.new("RGB", (255, 256)).save(root / "train/class1/c.bmp")
    Image.new("RGB", (256, 256)).save(root / "train/class1/d.bmp")
    found = found_in(open_dataset(str(root)), crop=64)
    assert found.counts == {"train": [6, 12], "validation": [2, 2], "test": [2, 2]}
    assert found.images == {"train": 18, "validation": 4, "test": 4}
    paths = [path for path in root.rglob("*") if path.is_file()]
    assert found.bytes == sum(path.stat().st_size for path in paths)
    shapes = [decode(path).shape[:2] for path in paths]
    by_area = sorted(height * width for height, width in shapes)
    assert found.sizes is not None
    assert found.sizes.largest == (530, 600)
    assert np.prod(found.sizes.smallest) == by_area[0]
    assert np.prod(found.sizes.median) == by_area[(len(by_area) - 1) // 2]
    assert {found.sizes.smallest, found.sizes.median} <= set(shapes)
    small = sum(min(shape) < 224 for shape in shapes)
    assert found.sizes.smallest_sides == {
        "<224": small,
        "224-255": 2,
        "256-383": 1,
        "384-511": 0,
        ">=512": 1,
    }
    assert found.sizes.below_crop == sum(min(shape) < 64 for shape in shapes)
    assert found.formats == {"JPEG": 20, "BMP": 4, "PNG": 1, "WEBP": 1}
    assert next(iter(found.formats)) == "JPEG"
    assert (found.mislabelled, found.bad) == ((), ())
    assert "from 6 (class0) to 12 (class1)" in found.text()


def test_a_suffix_that_lies_is_no_bad_image(root: Path) -> None:
    Image.new("RGB", (50, 60)).save(root / "train/class0/a.JPG", "PNG")
    Image.new("RGB", (50, 60)).save(root / "val/class0/b.png", "JPEG")
    Image.new("RGB", (50, 60)).save(root / "test/class0/c.tif", "TIFF")
    found = found_in(open_dataset(str(root)))
    assert [(image.path, image.format) for image in found.mislabelled] == [
        (f"{root}/train/class0/a.JPG", "PNG"),
        (f"{root}/val/class0/b.png", "JPEG"),
    ]
    assert found.bad == ()


def test_duplicates_leakage_and_labels(root: Path) -> None:
    def copy(source: str, target: str) -> None:
        shutil.copy(root / source, root / target)

    copy("train/class0/001.jpg", "train/class0/x.jpg")
    copy("train/class0/001.jpg", "train/class1/y.jpg")
    copy("train/class0/001.jpg", "test/class0/z.jpg")
    copy("train/class1/002.jpg", "val/class1/leak.jpg")
    copy("train/class1/002.jpg", "val/class0/wrong.jpg")
    copy("val/class0/000.jpg", "test/class0/no-leak.jpg")
    (root / "train/class0/empty1.jpg").touch()
    (root / "test/class0/empty2.jpg").touch()  # what cannot be read is bad, not the same
    copies = found_in(open_dataset(str(root))).copies
    assert copies.duplicates == (
        ("train/class0/001.jpg", "train/class0/x.jpg", "train/class1/y.jpg"),
    )
    assert [(leak.train, leak.part, leak.image) for leak in copies.leakage] == [
        ("train/class0/001.jpg", "test", "test/class0/z.jpg"),
        ("train/class1/002.jpg", "validation", "val/class0/wrong.jpg"),
        ("train/class1/002.jpg", "validation", "val/class1/leak.jpg"),
    ]
    assert copies.labels_differ == (
        (
            ("train/class0/001.jpg", "class0"),
            ("train/class0/x.jpg", "class0"),
            ("train/class1/y.jpg", "class1"),
            ("test/class0/z.jpg", "class0"),
        ),
        (
            ("train/class1/002.jpg", "class1"),
            ("val/class0/wrong.jpg", "class0"),
            ("val/class1/leak.jpg", "class1"),
        ),
    )


def test_one_part_for_validation_and_test_counts_once(root: Path) -> None:
    data = open_dataset(str(root))
    (root / "test/class0/000.jpg").write_bytes(b"")
    found = found_in(replace(data, validation=open_dataset(str(root)).test))
    assert len(found.bad) == 1
    assert sum(found.formats.values()) == 15
    assert (found.copies.labels_differ, found.copies.leakage) == ((), ())


def test_colours_and_reading(root: Path) -> None:
    data = open_dataset(str(root))
    found = found_in(data)
    pixels = np.concatenate([np.asarray(x, np.float64).reshape(-1, 3) for x in data.train.images])
    assert found.rgb_covariance is not None
    assert np.allclose(found.rgb_covariance, np.cov(pixels.T, bias=True), rtol=1e-5)
    assert found.reading is not None
    speed, workers = found.reading.images_per_second, found.reading.workers
    assert workers == 2
    assert np.isclose(found.reading.seconds_per_epoch * speed * workers, len(data.train))
    assert re.search(r"reading alone, 2 workers: about .* an epoch \([\d,]+ images/s", found.text())


def test_reading_asks_for_the_crops_of_training(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    original = EncodedImage.window

    def window(self: EncodedImage, side: int, place: tuple[int, int, int, int]) -> np.ndarray:
        asked.append((self.name, side, place[2:]))
        found = original(self, side, place)
        assert found.shape == (224, 224, 3)
        return found

    monkeypatch.setattr(EncodedImage, "window", window)
    (root / "train/class0/000.jpg").write_bytes(b"")
    found_in(open_dataset(str(root)), crop=224)
    assert Counter(asked).total() == len(set(asked)) == 11
    assert {(side, size) for _, side, size in asked} == {(256, (224, 224))}


def test_nothing_that_can_be_read(root: Path) -> None:
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"")
    found = found_in(open_dataset(str(root)))
    assert len(found.bad) == 20
    assert [found.sizes, found.mean_rgb, found.rgb_covariance, found.reading] == [None] * 4
    assert "20 images that cannot be read" in found.text()
    json.dumps(found.to_json())


def test_long_lists_are_cut_in_the_text_alone(root: Path) -> None:
    for i in range(30):
        Image.new("RGB", (50, 60), (i, i, i)).save(root / f"train/class0/p{i}.jpg", "PNG")
        shutil.copy(root / f"train/class0/p{i}.jpg", root / "test/class1")
    found = found_in(open_dataset(str(root)))
    lines = found.text().splitlines()
    assert "  … and 10 more: --json has all" in lines  # of 30 leaks
    assert "  … and 40 more: --json has all" in lines  # of 60 with another format
    assert len(found.to_json()["leakage"]) == 30
    assert len(found.to_json()["mislabelled"]) == 60


def test_images_in_memory() -> None:
    data = digits()
    found = report(data, None, crop=32, workers=2)
    assert sum(found.images.values()) == 1797
    assert found.sizes is not None
    assert (found.sizes.smallest, found.sizes.largest) == ((8, 8), (8, 8))
    assert found.sizes.below_crop == 1797
    assert (found.formats, found.bad, found.reading) == ({}, (), None)
    assert found.mean_rgb == data.mean_rgb
    pixels = np.concatenate([image.reshape(-1, 3) for image in data.train.images])
    assert found.rgb_covariance is not None
    assert np.allclose(found.rgb_covariance, np.cov(pixels.T, bias=True))
    seen = {image.tobytes() for image in data.train.images}
    leaks = [image for image in data.test.images if image.tobytes() in seen]
    assert len([leak for leak in found.copies.leakage if leak.part == "test"]) == len(leaks)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["check-data", *map(str, arguments)])
    return code, *capsys.readouterr()


KEYS = {
    *("dataset", "classes", "images", "note", "bytes", "crop", "sizes", "formats", "mislabelled"),
    *(
        "total",
        "damaged",
        "finds_damage",
        "bad",
        "mean_rgb",
        "rgb_covariance",
        "reading",
        "duplicates",
    ),
    *("leakage", "labels_differ"),
}


def test_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, root, "--workers", 2)
    assert (code, err) == (0, "")
    assert out.startswith("pets: 2 classes, 20 images, ")
    assert not Path("bad-images.jsonl").exists()
    assert max(map(len, out.splitlines())) <= 100
    code, out, err = run(capsys, root, "--json", "--workers", 0)
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    assert found.keys() == KEYS
    assert found["classes"][1] == {"name": "class1", "train": 6, "validation": 2, "test": 2}
    assert found["crop"] == 224


def test_the_command_for_embedded_data(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "digits", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found.keys() == KEYS
    assert (found["crop"], found["images"]["test"]) == (32, 500)


def test_jpegs_of_which_a_part_is_lost(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read, as everywhere; where simplejpeg is, they are named, also afterwards."""
    path = root / "train/class0/000.jpg"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\xff\xd9")  # and the end mark
    with Image.open(path) as image:
        image.load()  # nothing is said
    with monkeypatch.context() as without:
        without.setattr("vggnet.images.simplejpeg", None)
        code, out, _ = run(capsys, root, "--workers", 0)
        assert code == 0
        assert "a part is lost are read with grey in its place; to find them: pip install" in out
    for _ in range(2):
        code, out, _ = run(capsys, root, "--workers", 0)
        assert code == 0
        assert f"1 image of which a part is lost; read with grey in its place:\n  {path}\n" in out
    assert json.loads(run(capsys, root, "--json")[1])["damaged"] == [str(path)]


def test_the_command_with_bad_images(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "train/class0/000.jpg").write_bytes(b"")
    (root / "test/class0/000.jpg").write_bytes(b"text")
    code, out, err = run(capsys, root, "--bad-images", "list.jsonl")
    assert code == 1
    assert f"  {root}/train/class0/000.jpg: is empty: copy" in out
    assert err.startswith("vggnet: error: 2 of 20 images cannot be read; all are listed in list")
    assert err.count("\n") == 1
    lines = [json.loads(line) for line in Path("list.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [
        f"{root}/train/class0/000.jpg",
        f"{root}/test/class0/000.jpg",
    ]
    photo(np.random.default_rng(5), 60, 60).save(root / "train/class0/000.jpg")
    code, out, err = run(capsys, root, "--bad-images", "list.jsonl", "--json")
    assert code == 1
    assert [image["part"] for image in json.loads(out)["bad"]] == ["test"]
    assert len(Path("list.jsonl").read_text().splitlines()) == 1  # those of this check


def test_mistakes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        ((root, "--workers", "-1"), "workers -1"),
        ((root, "--bad-images", root), "is a folder"),
        (("nowhere",), "nowhere"),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert words in err


@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    caller = os.getpid()

    def interrupted(images: EncodedImages, i: int) -> Measured:
        if images.names[i] == "val/class0/000.jpg":
            os.kill(caller, signal.SIGINT)
        return measure(images, i)

    with monkeypatch.context() as patch:
        patch.setattr("vggnet.measuring.measure", interrupted)
        code, out, err = run(capsys, root, "--workers", workers)
    assert (code, out) == (130, "")
    assert "interrupted: the same command goes on" in err
    assert "Traceback" not in err
    assert run(capsys, root, "--workers", 0)[0] == 0
