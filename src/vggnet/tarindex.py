"""What tar shards hold: where each sample's image lies, and its class. Found once, and kept.

The layout is WebDataset's: a sample is the members that follow each other and share their key, the
path up to the first dot of its last component; what comes behind that dot says what a member is.
"""

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vggnet.errors import InputError, RunError
from vggnet.files import write_atomically
from vggnet.folders import SUFFIXES
from vggnet.home import cache_home
from vggnet.storage import Names, Place, open_file, stamps

HEADER = 512
"""Bytes of the header that lies before a member's content."""

_FORMAT = 1
"""Goes up when the same shards give another index."""
_IMAGES = frozenset(suffix.removeprefix(".") for suffix in SUFFIXES)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


@dataclass(frozen=True, slots=True)
class Index:
    """The samples of some shards as they are stored, an entry each: 40 bytes and a name."""

    shard: NDArray[np.int32]
    """Which of the shards has it."""
    offset: NDArray[np.int64]
    """Where its image begins there, in bytes; before it comes the member's header."""
    size: NDArray[np.int64]
    """Of its image in bytes."""
    header: NDArray[np.uint32]
    """CRC-32 of that header, by which a shard that has been replaced is found out."""
    label: NDArray[np.int64]
    names: Names
    """Of the images: shard/member."""

    def __len__(self) -> int:
        return len(self.offset)

    def subset(self, chosen: NDArray[np.int64]) -> "Index":
        """The samples of these indices, in their order."""
        columns = {name: getattr(self, name)[chosen] for name in _COLUMNS}
        return Index(**columns, names=self.names.subset(chosen))


_COLUMNS = ("shard", "offset", "size", "header", "label")
_Sample = tuple[str, int, int, int, int]
"""The image's name in its shard, offset, size, header's CRC-32, label."""


def index_shards(root: Place, shards: Sequence[str]) -> Index:
    """Lists the samples of shards, in their order; header by header, with a progress bar.

    What it finds is kept in `cache_home()`, and is read from there until a shard's name, size or
    time of change is another.

    Args:
        root: the data set's folder.
        shards: their paths in it.

    Raises:
        InputError: for a shard that cannot be read, is no tar file, truncated, damaged,
            compressed, or without samples; for a sample without an image or a class, with two of
            either, with a class that is no number, or with the key of another in its shard.
    """
    kept = cache_home() / f"shards-{_key(root, shards)}.npz"
    found = _read(kept, len(shards))
    if found is None:
        bar = tqdm(shards, desc="indexing shards", unit="shard", disable=None, leave=False)
        found = _joined([_packed(i, name, scan(root / name)) for i, name in enumerate(bar)])
        _write(kept, found)
    return found


def scan(place: Place) -> list[_Sample]:
    """The samples of one shard; raises as `index_shards`."""
    with closing(open_file(place)) as file, _explained(place):
        if file.read(6).startswith(_COMPRESSED):
            raise InputError(
                "is compressed, and cannot be read from the middle: unpack it to a plain .tar"
            )
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            samples: dict[str, _Sample] = {}
            for key, members in groupby(_members(tar), key=lambda member: member[0]):
                sample = _sample(key, [(kind, member) for _, kind, member in members], file)
                if sample and key in samples:
                    raise InputError(f"sample {key!r} is there twice: keep one of them")
                if sample:
                    samples[key] = sample
            # At a damaged header tarfile stops as if the file were over.
            file.seek(tar.offset)
            if file.read(HEADER) != bytes(HEADER):
                raise InputError(
                    f"is truncated or damaged at byte {tar.offset:,}: copy or make it again"
                )
    if not samples:
        raise InputError(
            f"{place}: has no samples, which are KEY.jpg (or another image) and KEY.cls beside "
            "each other: remove it, or make it again"
        )
    return list(samples.values())


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Each file in a shard with its key and the rest of its name, in lower case."""
    for member in tar:
        folder, slash, name = member.name.rpartition("/")
        base, dot, kind = name.partition(".")
        if member.isreg() and base and dot:
            yield f"{folder}{slash}{base}", kind.lower(), member


def _sample(key: str, members: list[tuple[str, tarfile.TarInfo]], file: BinaryIO) -> _Sample | None:
    """None for files of other kinds alone."""
    images = [member for kind, member in members if kind in _IMAGES]
    classes = [member for kind, member in members if kind == "cls"]
    if not images and not classes:
        return None
    if not images:
        raise InputError(f"sample {key!r} has no image ({' '.join(SUFFIXES)}): add or remove it")
    if not classes:
        raise InputError(
            f"sample {key!r} has no class: put its number into {key}.cls, next to the image"
        )
    if len(images) > 1 or len(classes) > 1:
        what = "images" if len(images) > 1 else "classes"
        raise InputError(f"sample {key!r} has two {what}: keep one")
    image = images[0]
    if image.issparse():
        raise InputError(f"sample {key!r} is stored sparse: make the shard without --sparse")
    try:
        name = image.name.removeprefix("./")
        name.encode()
    except UnicodeEncodeError:  # it could be in no report
        raise InputError(f"sample {key!r} has a name that is not UTF-8: rename it") from None
    file.seek(classes[0].offset_data)
    text = file.read(min(classes[0].size, 40))
    if not re.fullmatch(rb"\s*[0-9]{1,9}\s*", text):
        shown = text.decode("utf-8", "backslashreplace")
        raise InputError(
            f"sample {key!r} has the class {shown!r}: write its number, counted from 0, in digits"
        )
    file.seek(image.offset_data - HEADER)
    return name, image.offset_data, image.size, zlib.crc32(file.read(HEADER)), int(text)


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    """What goes wrong with a shard as one InputError that names it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    except tarfile.TarError as error:
        raise InputError(
            f"{place}: is truncated, damaged or no tar file ({error}): copy or make it again"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # each remote file system has exceptions of its own
        raised = f"{type(error).__name__}: {error}"
        why = getattr(error, "strerror", None) or " ".join(raised.split())
        raise InputError(f"{place}: cannot be read ({why})") from None


def _packed(number: int, shard: str, samples: list[_Sample]) -> Index:
    """The samples of one shard."""
    names, offset, size, header, label = zip(*samples, strict=True)
    return Index(
        shard=np.full(len(names), number, np.int32),
        offset=np.array(offset, np.int64),
        size=np.array(size, np.int64),
        header=np.array(header, np.uint32),
        label=np.array(label, np.int64),
        names=Names.of([f"{shard}/{name}" for name in names]),
    )


def _joined(shards: Sequence[Index]) -> Index:
    columns = {
        name: np.concatenate([getattr(shard, name) for shard in shards]) for name in _COLUMNS
    }
    return Index(**columns, names=Names.joined([shard.names for shard in shards]))


def _key(root: Place, shards: Sequence[str]) -> str:
    """A hash over what an index depends on."""
    where = str(root.resolve() if isinstance(root, Path) else root)
    found = list(stamps(root, shards))
    return hashlib.sha256(json.dumps([_FORMAT, where, found]).encode()).hexdigest()[:20]


def _read(path: Path, shards: int) -> Index | None:
    """The index that was kept; None where there is none, or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            columns = {name: kept[name] for name in _COLUMNS}
            index = Index(**columns, names=Names(kept["names"], kept["ends"]))
            counts = {len(column) for column in (*columns.values(), index.names)}
            whole = counts == {len(index)} and kept["ends"][-1] == len(kept["names"])
    except Exception:  # on damaged files NumPy raises nearly anything
        return None
    return index if whole and len(np.unique(index.shard)) == shards else None


def _write(path: Path, index: Index) -> None:
    columns = {name: getattr(index, name) for name in _COLUMNS}
    columns["names"] = np.frombuffer("".join(index.names).encode(), np.uint8)
    columns["ends"] = np.cumsum([len(name.encode()) for name in index.names], dtype=np.int64)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a name, NumPy adds .npz to it
            np.savez(file, **columns)

    with suppress(InputError, RunError, OSError):  # it is found again the next time
        write_atomically(path, write)
