"""Folders of images by class: every layout against colours that tell each image's class."""

import hashlib
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vggnet import InputError
from vggnet.datasets import open_dataset
from vggnet.folders import ImageFiles
from vggnet.parts import Part


def picture(path: Path, red: int = 0, green: int = 0, blue: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (red, green, blue)).save(path)


def pictures(folder: Path, count: int, red: int) -> None:
    """Images of one class, whose red tells the class and whose green tells them apart."""
    for number in range(count):
        picture(folder / f"{number:03d}.png", red, number, 0)


def check(part: Part, reds: list[int]) -> None:
    """Each image has the red of its class, by its pixels."""
    assert len(part) == len(part.labels) == len(part.names or ())
    assert part.labels.dtype == np.int64
    for image, label in zip(part.images, part.labels, strict=True):
        assert image[0, 0, 0] == reds[label]


def numbers(part: Part, label: int) -> list[int]:
    return [
        int(image[0, 0, 1])
        for image, of in zip(part.images, part.labels, strict=True)
        if of == label
    ]


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(InputError) as error:
        open_dataset(str(folder))
    for word in words:
        assert word in str(error.value)


def test_three_parts_are_taken_as_they_are(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        pictures(root / part / "dog", count, 20)
        pictures(root / part / "cat", count, 10)
        pictures(root / part / "Emu", count, 30)
    (root / "docs" / "more").mkdir(parents=True)  # beside the parts
    (root / "README.md").touch()
    data = open_dataset(str(root))
    assert data.name == "pets"
    assert data.class_names == ("Emu", "cat", "dog")
    assert (data.flip, data.note) == (True, "")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [9, 6, 3]
    for found in (data.train, data.validation, data.test):
        check(found, [30, 10, 20])
    assert tuple(data.test.names or ()) == (
        "test/Emu/000.png",
        "test/cat/000.png",
        "test/dog/000.png",
    )
    assert data.test.name(2) == "test/dog/000.png"
    for other in ("valid", "validation"):
        (root / "val").rename(root / other)
        renamed = open_dataset(str(root))
        assert renamed.validation.name(0) == f"{other}/Emu/000.png"
        (root / other).rename(root / "val")
    (root / "valid").mkdir()
    refused(root, str(root), "val/ and valid/", "keep one")


def test_the_name_does_not_hang_on_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        pictures(tmp_path / "x" / "pets" / name, 4, 0)
    monkeypatch.chdir(tmp_path / "x" / "pets" / "a")
    assert open_dataset("..").name == "pets"
    first = open_dataset(str(tmp_path / "x" / "pets"))
    (tmp_path / "x").rename(tmp_path / "y")
    moved = open_dataset(f"{tmp_path}/y/pets/")
    assert (moved.name, moved.test.names) == ("pets", first.test.names)


@pytest.mark.parametrize(
    "name",
    ["digits", "digits-on-photos", "fashion-mnist", "cifar-10", "cifar-100", "imagenet"],
)
def test_a_folder_is_not_taken_for_a_data_set_that_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for label in "ab":
        pictures(tmp_path / name / label, 4, 0)
    monkeypatch.chdir(tmp_path)
    assert open_dataset(f"./{name}").name == f"{name}-folder"


def test_which_files_are_images(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for suffix in ("jpg", "JPEG", "png", "bmp", "gif", "webp", "tif", "TIFF", "ppm"):
        picture(root / "a" / f"x.{suffix}")
    for name in ("notes.txt", ".hidden.png", "png", "x.npy", "x.svg"):
        (root / "a" / name).touch()
    picture(root / "a" / ".thumbnails" / "x.png")
    picture(root / "a" / "sub.png" / "deep" / "x.png")
    picture(root / "a" / "B.png")
    pictures(root / "b", 3, 0)
    picture(root / "beside.png")
    picture(root / ".git" / "x.png")
    data = open_dataset(str(root))
    assert data.class_names == ("a", "b")
    names = {*(data.train.names or ()), *(data.validation.names or ()), *(data.test.names or ())}
    suffixes = ("JPEG", "TIFF", "bmp", "gif", "jpg", "png", "ppm", "tif", "webp")
    expected = ["a/B.png", "a/sub.png/deep/x.png", *(f"a/x.{suffix}" for suffix in suffixes)]
    assert {name for name in names if name.startswith("a/")} == set(expected)
    for part in (data.train, data.validation, data.test):
        assert list(part.names or ()) == sorted(part.names or ())
        assert [len(image) for image in part.images] == [2] * len(part)


def test_one_folder_of_classes_is_split_by_hash(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    counts = {"ant": 3, "bee": 19, "cat": 40}
    for red, (name, count) in enumerate(counts.items()):
        pictures(root / name, count, red)
    data = open_dataset(str(root))
    assert data.class_names == ("ant", "bee", "cat")
    shares = []
    for label, (name, count) in enumerate(counts.items()):
        parts = [numbers(part, label) for part in (data.train, data.validation, data.test)]
        assert sorted(parts[0] + parts[1] + parts[2]) == list(range(count))
        shares.append([len(part) for part in parts])
        # The order of the hashes, by hand: the first tenth validates, the second tests.
        order = sorted(
            range(count),
            key=lambda i, name=name: hashlib.sha256(  # type: ignore[misc]
                f"14091556:{name}/{i:03d}.png".encode()
            ).hexdigest(),
        )
        held = shares[-1][1]
        assert parts[1] == sorted(order[:held])
        assert parts[2] == sorted(order[held : 2 * held])
    assert shares == [[1, 1, 1], [17, 1, 1], [32, 4, 4]]
    for part in (data.train, data.validation, data.test):
        check(part, [0, 1, 2])
    for words in (
        "no train/",
        "split by seed 14091556 (a hash of its file names)",
        "50 images for training",
        "6 for validation",
        "6 for testing",
    ):
        assert words in data.note


def test_the_split_does_not_hang_on_the_order_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        pictures(tmp_path / name, 20, 0)
    first = open_dataset(str(tmp_path))
    scandir = os.scandir

    class Backwards:
        def __init__(self, folder: Any) -> None:
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> Any:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    again = open_dataset(str(tmp_path))
    for part in ("train", "validation", "test"):
        assert getattr(again, part).names == getattr(first, part).names
        assert getattr(again, part).fingerprint == getattr(first, part).fingerprint


@pytest.mark.parametrize("given", ["val", "valid", "validation", "test"])
def test_the_one_part_beside_train_is_for_the_errors(tmp_path: Path, given: str) -> None:
    root = tmp_path / "pets"
    for red, (name, count) in enumerate({"ant": 2, "bee": 30}.items()):
        pictures(root / "train" / name, count, red)
        pictures(root / given / name, 4, red)
    data = open_dataset(str(root))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [28, 4, 8]
    for part in (data.train, data.validation, data.test):
        check(part, [0, 1])
    assert all(name.startswith(f"{given}/") for name in data.test.names or ())
    assert [len(numbers(data.validation, label)) for label in (0, 1)] == [1, 3]
    kept, held = list(data.train.names or ()), list(data.validation.names or ())
    assert sorted(kept + held) == sorted(
        [f"train/ant/{i:03d}.png" for i in range(2)] + [f"train/bee/{i:03d}.png" for i in range(30)]
    )
    order = sorted(kept + held, key=lambda n: hashlib.sha256(f"14091556:{n}".encode()).hexdigest())
    assert set(held) == {
        *[name for name in order if "ant" in name][:1],
        *[name for name in order if "bee" in name][:3],
    }
    for words in (
        f"{given}/ is the test part",
        "train/'s 32 images, 4",
        "seed 14091556",
        "as validation",
    ):
        assert words in data.note


def pets(tmp_path: Path) -> Path:
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            pictures(tmp_path / part / name, 2, 0)
    return tmp_path


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda root: pictures(root / "val" / "emu", 1, 0),
            ("/val: has the class 'emu' (1 such), which train/ has not", "add it to train/"),
        ),
        (
            lambda root: (root / "test" / "cat").rename(root / "cat"),
            ("/test: lacks the class 'cat' (1 such), which train/ has", "add it there"),
        ),
        (
            lambda root: empty(root / "val" / "dog"),
            ("/val/dog: has no images (.jpg .jpeg", "add some"),
        ),
        (
            lambda root: empty(root / "train" / "dog"),
            ("/train/dog: has no images", "move the folder away"),
        ),
        (
            lambda root: (root / "train" / "cat").rename(root / "cat"),
            ("/train: has only one class, 'dog'", "two or more"),
        ),
        (
            lambda root: [(root / "train" / name).rename(root / name) for name in ("cat", "dog")],
            ("/train: has no folders", "one for each class"),
        ),
        (
            lambda root: [(root / "test" / name).rename(root / name) for name in ("cat", "dog")],
            ("/test: has no folders", "move test/ away"),
        ),
        (
            lambda root: [(root / part).rename(root / f"_{part}") for part in ("val", "test")],
            ("has train/, but neither val/ nor test/", "/train, which is then split"),
        ),
        (
            lambda root: (root / "train").rename(root / "Training"),
            ("Training/ looks like a part of a data set, but there is no train/", "rename"),
        ),
        (
            lambda root: [
                (root / "test").rename(root / "away"),
                (root / "train" / "cat" / "000.png").unlink(),
            ],
            ("/train/cat: 1 image; ", "2 or more", "add images"),
        ),
    ],
)
def test_folders_that_do_not_fit_are_named(
    tmp_path: Path, change: Callable[[Path], object], words: tuple[str, ...]
) -> None:
    change(pets(tmp_path))
    refused(tmp_path, str(tmp_path), *words)


def test_one_folder_that_does_not_fit_is_named(tmp_path: Path) -> None:
    refused(tmp_path, f"{tmp_path}: has no folders")
    picture(tmp_path / "x.png")
    refused(tmp_path, f"{tmp_path}: has no folders")
    pictures(tmp_path / "cat", 3, 0)
    refused(tmp_path, f"{tmp_path}: has only one class, 'cat'", "the folder whose folders are")
    pictures(tmp_path / "dog", 2, 0)
    refused(tmp_path, f"{tmp_path / 'dog'}: 2 images; a class needs 3 or more", "add images")
    (tmp_path / "emu").mkdir()
    refused(tmp_path, f"{tmp_path / 'emu'}: has no images")


def test_folders_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pets(tmp_path / "pets")
    (tmp_path / "circle").symlink_to("circle")
    refused(tmp_path / "circle", f"{tmp_path / 'circle'}: cannot be read")
    link = root / "val" / "cat" / "up"
    link.symlink_to(root / "val")
    refused(root, "link to a folder that it lies in", "remove the link")
    link.unlink()
    scandir = os.scandir

    def forbidding(folder: Any) -> Any:
        if str(folder).endswith("val/cat"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbidding)
    refused(root, f"{root / 'val' / 'cat'}: cannot be read (Permission denied)", "may you read it")


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "linked"
    pictures(tmp_path / "store", 3, 0)
    pictures(root / "a", 3, 1)
    (root / "b").symlink_to(tmp_path / "store")
    (root / "a" / "more.png").symlink_to(tmp_path / "store" / "000.png")
    data = open_dataset(str(root))
    assert len(data.train) + len(data.validation) + len(data.test) == 7


def test_links_that_lead_out_of_the_folder_are_told(tmp_path: Path) -> None:
    root = tmp_path / "linked"
    pictures(tmp_path / "store", 3, 0)
    for name in "ab":
        pictures(root / name, 3, 1)
    (root / "a" / "again.png").symlink_to("000.png")
    (root / "a" / "other.png").symlink_to(root / "b" / "000.png")
    (tmp_path / "notes.txt").touch()
    (root / "a" / "notes.txt").symlink_to(tmp_path / "notes.txt")  # no image
    assert "link" not in open_dataset(str(root)).note
    (root / "a" / "far.png").symlink_to(tmp_path / "store" / "000.png")
    note = open_dataset(str(root)).note
    target = tmp_path / "store" / "000.png"
    assert f"; a link leads out of the folder (a/far.png → {target}); it is followed" in note
    (root / "c").symlink_to("../store")
    (root / "b" / "gone.png").symlink_to("../../gone.png")
    (tmp_path / "by-link").symlink_to(root)  # the data set's folder itself may be a link
    for name in ("linked", "by-link"):
        note = open_dataset(str(tmp_path / name)).note
        assert f"3 links lead out of the folder (first: a/far.png → {target})" in note
        assert note.endswith("they are followed")


def test_what_can_only_be_found_by_reading_is_listed(tmp_path: Path) -> None:
    for name in "ab":
        pictures(tmp_path / name, 3, 1)
    (tmp_path / "a" / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    data = open_dataset(str(tmp_path))
    images = {
        name: (part.images, index)
        for part in (data.train, data.validation, data.test)
        for index, name in enumerate(part.names or ())
    }
    assert len(images) == 8
    for name, words in (("gone.jpg", "no such file"), ("pipe.jpg", "is a pipe, not a file")):
        part, index = images[f"a/{name}"]
        with pytest.raises(InputError, match=f"{tmp_path}/a/{name}: {words}"):
            part[index]


def test_a_loop_of_links_is_named(tmp_path: Path) -> None:
    for name in "ab":
        pictures(tmp_path / name, 3, 1)
    (tmp_path / "a" / "loop.jpg").symlink_to("loop.jpg")
    refused(tmp_path, f"{tmp_path}/a/loop.jpg: cannot be read (Too many levels", "remove it")


def test_images_stay_in_their_files(tmp_path: Path) -> None:
    pictures(tmp_path / "a", 5, 7)
    files = ImageFiles(tmp_path, tuple(f"a/{i:03d}.png" for i in range(5)))
    assert [int(image[0, 0, 1]) for image in files] == [0, 1, 2, 3, 4]
    assert files[np.int64(3)][0, 0].tolist() == [7, 3, 0]  # type: ignore[call-overload]
    assert files[-1][0, 0].tolist() == [7, 4, 0]
    part = files[1:3]
    assert tuple(part.names) == ("a/001.png", "a/002.png")
    assert [int(image[0, 0, 1]) for image in pickle.loads(pickle.dumps(part))] == [1, 2]
    with pytest.raises(IndexError):
        files[5]
    picture(tmp_path / "a" / "000.png", 9, 9, 9)  # read anew
    assert files[0][0, 0].tolist() == [9, 9, 9]
    (tmp_path / "a" / "001.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a/001\.png: not an image"):
        files[1]


def test_the_fingerprint_is_that_of_names_sizes_times_and_labels(tmp_path: Path) -> None:
    for name in "ab":
        pictures(tmp_path / "x" / name, 4, 0)

    def fingerprint() -> str:
        return open_dataset(str(tmp_path / "x")).train.fingerprint

    part = open_dataset(str(tmp_path / "x")).train
    first = fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert part.fingerprint == first
    assert Part(part.images, 1 - part.labels, part.names).fingerprint != first
    path = tmp_path / "x" / part.name(0)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert fingerprint() != first
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint() == first
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint() != first
    part = open_dataset(str(tmp_path / "x")).train
    path.unlink()
    with pytest.raises(InputError, match=rf"{path}: cannot be read \(No such file"):
        _ = part.fingerprint


def test_mean_and_colours_of_files(tmp_path: Path) -> None:
    for name, red in (("a", 0), ("b", 100)):
        for part in ("train", "val", "test"):
            pictures(tmp_path / part / name, 3, red if part == "train" else 255)
    data = open_dataset(str(tmp_path))
    assert data.mean_rgb == pytest.approx((50, 1, 0))
    covariance = data.colour_pca.components @ data.colour_pca.components.T
    assert covariance == pytest.approx(np.diag([2500, 2 / 3, 0]), abs=1e-9)


def test_a_copy_of_the_folder_is_the_same_data(tmp_path: Path) -> None:
    """By names, sizes and labels, not by times; an added image makes it other data."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for i in range(6):
            path = tmp_path / "one" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copy)
    for path in (tmp_path / "two").rglob("*.png"):
        os.utime(path, (1, 1))
    one, two = (open_dataset(str(tmp_path / name)) for name in ("one", "two"))
    assert one.trained_on == two.trained_on
    assert one.test.fingerprint != two.test.fingerprint
    shutil.copy(tmp_path / "one" / "a" / "0.png", tmp_path / "two" / "a" / "new.png")
    assert open_dataset(str(tmp_path / "two")).trained_on != one.trained_on


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_text_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    (tmp_path / "images" / "b").mkdir()
    with open(os.fsencode(folder) + b"/\xe9.png", "wb"):  # noqa: PTH123
        pass
    with pytest.raises(InputError, match=r"a/\\xe9\.png: its name is not UTF-8: rename it"):
        open_dataset(str(tmp_path / "images"))
