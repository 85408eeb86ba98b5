"""The index of tar shards: kept, made anew, and refused for every damage."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tars import (
    GOOD,
    Build,
    Recorder,
    number,
    packed,
    put,
    sample,
    samples,
    tar,
    three_parts,
    train,
    written,
)
from vggnet import InputError, tarindex
from vggnet.home import cache_home
from vggnet.shards import is_sharded, read_shards


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))


def test_the_index_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = three_parts(tmp_path / "set")
    recorder = Recorder(monkeypatch, tarindex)
    first = read_shards(root)
    assert len(recorder.opened) == 6
    again = read_shards(root)
    assert len(recorder.opened) == 6
    for old, new in ((first.train, again.train), (first.test, again.test)):
        assert list(old.images.names) == list(new.images.names)
        assert old.labels.tolist() == new.labels.tolist()
        numbers = [number(new.images.read(i)) for i in range(len(new.labels))]
        assert numbers == [number(old.images.read(i)) for i in range(len(old.labels))]

    os.utime(root / "x-val-000.tar", ns=(0, 1))  # of that part alone
    read_shards(root)
    assert recorder.opened[6:] == ["x-val-000.tar"]
    put(root / "x-train-004.tar", samples(130, 4))
    assert len(read_shards(root).train.labels) == 134
    assert len(recorder.opened) == 7 + 5


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "pickle", "other", "short"])
def test_a_damaged_index_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    root = three_parts(tmp_path / "set")
    expected = list(train(root).names)
    kept = list(cache_home().iterdir())
    assert len(kept) == 3
    for path in kept:
        content = path.read_bytes()
        if damage == "pickle":
            with path.open("wb") as file:
                np.savez(file, names=np.array([{}], object))
        elif damage == "short":
            with np.load(path) as whole:
                columns = {name: whole[name] for name in whole}
            columns["offset"] = columns["offset"][:-1]
            with path.open("wb") as file:
                np.savez(file, **columns)
        elif damage == "other":
            with path.open("wb") as file:
                np.savez(file, shard=np.zeros(3))
        else:
            path.write_bytes({"empty": b"", "cut": content[:-90], "text": b"no"}[damage])
    recorder = Recorder(monkeypatch, tarindex)
    assert list(train(root).names) == expected
    assert len(recorder.opened) == 6
    assert list(train(root).names) == expected
    assert len(recorder.opened) == 6


def test_without_a_place_for_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = three_parts(tmp_path / "set")
    (tmp_path / "file").touch()
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "file" / "cache"))
    assert len(train(root)) == 130

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "full"))
    monkeypatch.setattr(np, "savez", full)
    assert len(train(root)) == 130
    assert list((tmp_path / "full").iterdir()) == []


def test_the_home_of_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_home() == tmp_path / "cache"
    monkeypatch.setenv("VGGNET_CACHE", "~/mine")
    assert cache_home() == tmp_path / "mine"
    monkeypatch.delenv("VGGNET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_home() == tmp_path / "xdg" / "vggnet"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_home() == tmp_path / ".cache" / "vggnet"


LINK = io.BytesIO()
with tarfile.open(fileobj=LINK, mode="w") as archive:
    link = tarfile.TarInfo("a.png")
    link.type, link.linkname = tarfile.LNKTYPE, "b.png"
    archive.addfile(link)
    text = tarfile.TarInfo("a.cls")
    text.size = 1
    archive.addfile(text, io.BytesIO(b"0"))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (written("train-1.tar", tar(GOOD)[:-10240]), ["train-1.tar", "truncated", "copy"]),
        (written("train-1.tar", tar(GOOD)[:700]), ["train-1.tar", "truncated", "copy"]),
        (written("train-1.tar", tar(GOOD)[:512]), ["train-1.tar", "truncated", "copy"]),
        (written("train-1.tar", tar(GOOD)[: 512 * 32]), ["train-1.tar", "truncated", "copy"]),
        (
            written("train-1.tar", tar(GOOD)[:4096] + b"x" * 512 + tar(GOOD)[4608:]),
            ["train-1.tar", "damaged at byte 4,096", "copy"],
        ),
        (written("train-1.tar", b""), ["train-1.tar", "truncated", "empty"]),
        (written("train-1.tar", b"no tar " * 500), ["train-1.tar", "no tar file"]),
        (written("train-1.tar", b"\x1f\x8b" + bytes(600)), ["train-1.tar", "compressed", "unpack"]),
        (written("train-1.tar.gz", b""), ["train-1.tar.gz", "compressed", "plain .tar"]),
        (packed([]), ["train-1.tar", "no samples"]),
        (packed([("a.json", b"{}")]), ["train-1.tar", "no samples"]),
        (packed([*GOOD, ("x/a.png", b"")]), ["train-1.tar", "'x/a'", "no class", "x/a.cls"]),
        (packed([*GOOD, ("x/a.cls", b"0")]), ["train-1.tar", "'x/a'", "no image"]),
        (written("train-1.tar", LINK.getvalue()), ["train-1.tar", "'a'", "no image"]),
        (
            packed([("a.png", b""), ("b.png", b""), ("a.cls", b"0"), ("b.cls", b"0")]),
            ["train-1.tar", "'a'", "no class", "next to"],
        ),
        (packed([*sample("a", 1, 0), ("a.jpg", b"")]), ["train-1.tar", "'a'", "two images"]),
        (packed([*sample("a", 1, 0), ("a.cls", b"1")]), ["train-1.tar", "'a'", "two classes"]),
        (packed([("a.png", b""), ("a.cls", b"cat")]), ["train-1.tar", "'a'", "'cat'", "number"]),
        (packed([("a.png", b""), ("a.cls", b"-1")]), ["train-1.tar", "'a'", "'-1'", "number"]),
        (packed([("a.png", b""), ("a.cls", b"")]), ["train-1.tar", "'a'", "''", "number"]),
        (packed([("a.png", b""), ("a.cls", b"\xff")]), ["train-1.tar", "'a'", "number"]),
        (packed([("a\udcff.png", b""), ("a\udcff.cls", b"0")]), ["train-1.tar", "UTF-8"]),
        (
            packed([*sample("a", 1, 0), *sample("b", 1, 0), *sample("a", 2, 0)]),
            ["'a'", "twice", "train-1.tar"],
        ),
    ],
)
def test_what_shards_are_refused_for(tmp_path: Path, build: Build, words: list[str]) -> None:
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
