"""Data sets in tar shards: against the same images in folders."""

import itertools
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tars import GOOD, Build, Member, number, packed, picture, put, sample, samples, written
from vggnet import InputError
from vggnet.folders import SPLIT_SEED, read_folder
from vggnet.shards import is_sharded, read_shards


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("nested", [True, False])
def test_the_same_as_the_images_in_folders(tmp_path: Path, format: int, nested: bool) -> None:
    classes = ["heron", "kite", "owl"]
    long = "n" * 60 + "/" if format == tarfile.USTAR_FORMAT else "ünder/" + "n" * 120 + "/"
    kinds = {"jpg": "JPEG", "JPEG": "JPEG", "png": "PNG", "WebP": "WEBP", "bmp": "BMP"}
    shards, plain = tmp_path / "shards", tmp_path / "plain"
    count = itertools.count()
    for part, sizes in (("train", (7, 5)), ("val", (4,)), ("test", (3, 3))):
        for shard, size in enumerate(sizes):
            members: list[Member] = [("README.md", b"about"), ("._x.jpg", b"a Mac's")]
            for i in range(size):
                unique, label = next(count), i % 3
                kind = list(kinds)[unique % len(kinds)]
                content = picture(unique, kinds[kind])
                key = f"{'./' if unique % 2 else ''}{long if unique % 3 else 'a.b/'}{unique:02d}"
                members += [(f"{key}.json", b"{}"), (f"{key}.{kind}", content)]
                members += [(f"{key}.seg.png", b"mask"), (f"{key}.cls", f" {label}\n".encode())]
                image = plain / part / classes[label] / f"{unique:02d}.{kind}"
                image.parent.mkdir(parents=True, exist_ok=True)
                image.write_bytes(content)
            name = f"{part}/{shard:03d}.tar" if nested else f"birds-{part}-{shard:03d}.tar"
            put(shards / name, members, format)
    (shards / "classes.txt").write_text("\n".join(classes) + "\n")
    assert is_sharded(shards)
    assert not is_sharded(plain)
    found, expected = read_shards(shards), read_folder(plain)
    assert (found.name, found.class_names, found.note) == ("shards", tuple(classes), "")
    assert expected.class_names == found.class_names
    for ours, theirs in (
        (found.train, expected.train),
        (found.validation, expected.validation),
        (found.test, expected.test),
    ):
        label_of = {Path(n).name: int(k) for n, k in zip(theirs.images.names, theirs.labels)}  # noqa: B905
        pixels = {Path(n).name: theirs.images[i] for i, n in enumerate(theirs.images.names)}
        assert {Path(name).name for name in ours.images.names} == set(label_of)
        for i, name in enumerate(ours.images.names):
            assert ours.labels[i] == label_of[Path(name).name]
            np.testing.assert_array_equal(ours.images[i], pixels[Path(name).name])
            file, _, member = name.partition(".tar/")
            assert ours.images.where(i) == f"{shards / file}.tar: {member}"


@pytest.mark.parametrize("names", [["train"], ["train", "val"], ["train", "test"], ["00001"]])
def test_parts_that_are_not_there_are_split_off(tmp_path: Path, names: list[str]) -> None:
    root = tmp_path / "digits"
    put(root / f"{names[0]}-0.tar", samples(0, 60, 3))
    put(root / f"{names[0]}-1.tar", samples(60, 63, 3))
    for name in names[1:]:
        put(root / f"{name}-0.tar", samples(200, 9, 3))
    found = read_shards(root)
    assert (found.name, found.class_names) == ("digits-folder", ("0", "1", "2"))
    assert str(SPLIT_SEED) in found.note
    assert "classes.txt" in found.note
    given = len(names) > 1
    parts = (found.train, found.validation, found.test)
    counts = [np.bincount(part.labels).tolist() for part in parts]
    assert counts == ([[37] * 3, [4] * 3, [3] * 3] if given else [[33] * 3, [4] * 3, [4] * 3])
    assert f"{sum(counts[0]) + 12 * given:,} images" in found.note
    own = parts[:2] if given else parts
    numbers = [[number(part.images.read(i)) for i in range(len(part.labels))] for part in own]
    assert sorted(itertools.chain(*numbers)) == list(range(123))
    for part, contents in zip(own, numbers, strict=True):
        assert contents == sorted(contents)  # as they are stored
        assert [content % 3 for content in contents] == part.labels.tolist()
    again = read_shards(root)
    assert list(again.validation.images.names) == list(found.validation.images.names)


def test_what_is_taken_for_shards(tmp_path: Path) -> None:
    for name in ("a/n01.tar", "b/train/n01.tar", "b/train/n01/x.png", "c/x.tar", "c/cat/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "d" / "train" / "n01").mkdir(parents=True)
    (tmp_path / "d" / "test").mkdir()
    (tmp_path / "d" / "test" / "ILSVRC2012_img_test.tar").touch()
    (tmp_path / "e").mkdir()
    assert [is_sharded(tmp_path / name) for name in "abcde"] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (packed(sample("a", 1, 7), "val-0.tar"), ["val-0.tar: a.png", "class is 7", "train"]),
        (packed(sample("a", 1, 1), "val-0.tar"), ["validation", "no image of class 0"]),
        (packed(sample("a", 1, 3)), ["for train", "no image of class 2"]),
        (packed(sample("a", 1, 999999999)), ["for train", "no image of class 2"]),
        (written("classes.txt", b"a\n"), ["train-0.tar: 00001.png", "class is 1", "names 1"]),
        (written("classes.txt", b""), ["train-0.tar: 00000.png", "class is 0", "names 0"]),
        (written("classes.txt", b"a\nb\nc\n"), ["for train", "no image of class 2"]),
        (written("classes.txt", b"a\n\nc\n"), ["classes.txt, line 2", "empty"]),
        (written("classes.txt", b"a\na\n"), ["classes.txt, line 2", "'a' is there twice"]),
        (written("classes.txt", b"\xff\n"), ["classes.txt", "UTF-8"]),
        (packed(GOOD, "extra.tar"), ["extra.tar", "which part"]),
        (packed(GOOD, "train-val.tar"), ["train-val.tar", "two parts"]),
    ],
)
def test_what_parts_and_classes_are_refused_for(
    tmp_path: Path, build: Build, words: list[str]
) -> None:
    root = tmp_path / "set"
    put(root / "train-0.tar", GOOD)
    build(root)
    assert is_sharded(root)
    for _ in range(2):  # nothing of it is kept
        with pytest.raises(InputError) as error:
            read_shards(root)
        assert "\n" not in str(error.value)
        for word in words:
            assert word in str(error.value)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda root: root.mkdir(), ["no tar shards"]),
        (packed(samples(0, 8, 1), "train-0.tar"), ["only one class, 0"]),
        (packed(samples(0, 4, 2), "train.tar"), ["'0'", "2 images", "needs 3"]),
        (
            lambda root: [
                put(root / part / "0.tar", [*sample("a", 1, 0), *sample("b", 1, 2)])
                for part in ("test", "train", "val")
            ],
            ["for train have no image of class 1"],
        ),
        (packed(GOOD, "val-0.tar"), ["none for training"]),
        (packed(GOOD, "val/0.tar"), ["none for training"]),
        (lambda root: [put(root / d / "0.tar", GOOD) for d in ("train", "val", "valid")], ["two"]),
        (lambda root: [put(root / "train/0.tar", GOOD), (root / "val").mkdir()], ["val", "no tar"]),
        (
            lambda root: [put(root / f"{p}.tar", samples(0, 2)) for p in ("train", "val")],
            ["'0'", "1 image ", "needs 2"],
        ),
    ],
)
def test_what_folders_are_refused_for(tmp_path: Path, build: Build, words: list[str]) -> None:
    build(tmp_path / "set")
    with pytest.raises(InputError) as error:
        read_shards(tmp_path / "set")
    for word in (str(tmp_path / "set"), *words):
        assert word in str(error.value)
