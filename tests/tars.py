"""Tar shards for tests: samples whose colour is their number."""

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vggnet import InputError
from vggnet.shards import read_shards
from vggnet.storage import Place, open_file
from vggnet.tarstream import ShardedImages

Build = Callable[[Path], object]
Member = tuple[str, bytes]


def picture(number: int, kind: str = "png") -> bytes:
    """An image whose colour is its number."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (number % 256, number // 256, 0)).save(file, kind)
    return file.getvalue()


def tar(members: Sequence[Member], format: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def sample(key: str, number: int, label: int) -> list[Member]:
    return [(f"{key}.png", picture(number)), (f"{key}.cls", f"{label}".encode())]


def samples(first: int, count: int, classes: int = 2) -> list[Member]:
    """Whose colour tells them apart, and whose classes come in turn."""
    numbers = range(first, first + count)
    return [member for i in numbers for member in sample(f"{i:05d}", i, i % classes)]


def put(place: Path, members: Sequence[Member], format: int = tarfile.GNU_FORMAT) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(tar(members, format))
    return place


def three_parts(root: Path, shards: Sequence[int] = (30, 50, 9, 41)) -> Path:
    first = 0
    for number, count in enumerate(shards):
        put(root / f"x-train-{number:03d}.tar", samples(first, count))
        first += count
    put(root / "x-val-000.tar", samples(0, 6))
    put(root / "x-test-000.tar", samples(10, 4))
    return root


def train(root: Place) -> ShardedImages:
    images = read_shards(root).train.images
    assert isinstance(images, ShardedImages)
    return images


def number(content: bytes | InputError) -> int:
    """Which of the samples an image is."""
    assert isinstance(content, bytes)
    red, green, _ = np.asarray(Image.open(io.BytesIO(content)))[0, 0].tolist()
    return int(red + 256 * green)


class Recorder:
    """Files as `open_file` gives them, and what is done with them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        self.opened: list[str] = []
        self.reads: list[tuple[str, int, int]] = []
        """Which file, from where, up to where."""

        def opening(place: Place) -> Any:
            self.opened.append(place.name)
            return _Recorded(open_file(place), place.name, self.reads)

        monkeypatch.setattr(module, "open_file", opening)


class _Recorded:
    def __init__(self, file: Any, name: str, reads: list[tuple[str, int, int]]) -> None:
        self._file, self._name, self._reads = file, name, reads

    def read(self, count: int) -> bytes:
        start = self._file.tell()
        content: bytes = self._file.read(count)
        self._reads.append((self._name, start, start + count))
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


GOOD = samples(0, 8)


def written(name: str, content: bytes) -> Build:
    return lambda root: (root / name).write_bytes(content)


def packed(members: Sequence[Member], name: str = "train-1.tar") -> Build:
    return lambda root: put(root / name, members)
