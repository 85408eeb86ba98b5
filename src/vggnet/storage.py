"""Where files lie, on this machine or anywhere that fsspec reaches, and images that stay there."""

import os
import stat
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self, overload

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.images import EncodedImage, Pixels
from vggnet.remote import Remote, ask, facts_of, listed, stamp_of

Place = Path | Remote

_CHUNK = 1 << 16  # names at a time
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Entry(NamedTuple):
    """What a folder holds."""

    name: str
    is_folder: bool
    """Or a link to one."""
    is_link: bool


def place_of(spec: str) -> Place:
    """A URL as fsspec takes it, or a local path, where ~ is the home folder.

    file:// is a local path too, which is read without fsspec.
    """
    local = spec.removeprefix("file://").removeprefix("local://")
    if "://" in local:
        return Remote(local)
    try:
        return Path(local).expanduser()
    except (RuntimeError, ValueError):  # no such user
        return Path(local)


class Names(Sequence[str]):
    """Many names in little memory: one block of bytes and where each name ends in it.

    A million Python strings take three times as much, and in worker processes they are copied as
    soon as they are looked at.
    """

    def __init__(self, blob: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self._blob, self._ends = blob, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        encoded = [name.encode() for name in names]
        blob = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(blob, np.cumsum([len(name) for name in encoded], dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence["Names"]) -> "Names":
        """The names of one after those of the other."""
        if not parts:
            return cls.of([])
        starts = np.cumsum([0, *(len(part._blob) for part in parts)])
        ends = [part._ends + start for part, start in zip(parts, starts[:-1], strict=True)]
        return cls(np.concatenate([part._blob for part in parts]), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Names": ...
    def __getitem__(self, index: int | slice) -> "str | Names":
        if isinstance(index, slice):
            return self.subset(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = self._ends[index - 1] if index else 0
        return self._blob[start : self._ends[index]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), _CHUNK):
            ends = self._ends[first : first + _CHUNK].tolist()
            base, block = start, self._blob[start : ends[-1]].tobytes()
            for end in ends:
                yield block[start - base : end - base].decode()
                start = end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Names):
            return NotImplemented
        same = np.array_equal(self._ends, other._ends)
        return same and np.array_equal(self._blob, other._blob)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names({len(self):,})"

    def subset(self, chosen: NDArray[np.int64]) -> "Names":
        """The names of these indices, in their order."""
        ends = self._ends[chosen]
        starts = np.concatenate([[0], self._ends])[:-1][chosen]
        lengths = ends - starts
        new_ends = np.cumsum(lengths, dtype=np.int64)
        new_starts = new_ends - lengths
        blob = np.empty(int(lengths.sum()), np.uint8)
        for first in range(0, len(chosen), _CHUNK):
            piece = slice(first, first + _CHUNK)
            begin, end = new_starts[piece][0], new_ends[piece][-1]
            # Each new byte's place in the old block.
            shift = np.repeat(starts[piece] - new_starts[piece], lengths[piece])
            blob[begin:end] = self._blob[np.arange(begin, end) + shift]
        return Names(blob, new_ends)


class EncodedImages(Sequence[Pixels]):
    """Images that stay in their files; each access reads and decodes one, as `images.decode`."""

    root: Place
    """The data set's folder."""
    names: Names
    """What to call each: its path relative to the data set, with forward slashes."""
    sequential = False
    """Whether they are to be read in the order in which they are stored: see `stream`."""

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> "Self": ...
    def __getitem__(self, index: int | slice) -> "Pixels | Self":
        if isinstance(index, slice):
            return self.subset(np.arange(len(self))[index])
        return self.open(index).pixels()

    def open(self, index: int) -> EncodedImage:
        """An image, to be decoded as far as it is needed.

        Raises:
            InputError: when it cannot be read, naming its file.
        """
        return EncodedImage(self.read(index), self.where(index))

    @abstractmethod
    def where(self, index: int) -> str:
        """The whole path or URL of an image, for messages."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """An image as it is stored."""

    @abstractmethod
    def subset(self, chosen: NDArray[np.int64]) -> Self:
        """The images of these indices, in their order."""

    @abstractmethod
    def stamps(self) -> Iterator[tuple[str, int, int]]:
        """Each image's name, size in bytes, and its file's time of change: see `stamp`.

        Raises:
            InputError: for a file that is gone or cannot be reached.
        """

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """A random order for an epoch of training: a permutation of the indices."""
        return rng.permutation(len(self))

    def stream(self, order: NDArray[np.int64]) -> Iterator[bytes | InputError]:
        """What `read` gives or raises for each index of an order, or of an order's rest."""
        for index in order.tolist():
            try:
                yield self.read(index)
            except InputError as error:
                yield error


def entries(folder: Place) -> list[Entry]:
    """What a folder holds, but for hidden entries, in no order.

    Raises:
        InputError: for a folder that is not there or cannot be read, or a name that is not UTF-8.
    """
    if isinstance(folder, Remote):
        return [
            Entry(utf8(name, folder), facts["type"] == "directory", False)
            for name, facts in listed(folder).items()
            if name and not name.startswith(".")
        ]
    try:
        with os.scandir(folder) as found:
            return [
                Entry(utf8(entry.name, folder), _is_folder(entry), entry.is_symlink())
                for entry in found
                if not entry.name.startswith(".")
            ]
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error.strerror}): is it a folder, and may you read it?"
        ) from None


def is_file(place: Place) -> bool:
    """Whether there is such a file, or a link to one.

    Raises:
        InputError: when that cannot be known, for want of permission.
    """
    if isinstance(place, Remote):
        facts = facts_of(place)
        return facts is not None and facts["type"] == "file"
    with _explained(place):
        return place.is_file()


def exists(place: Place) -> bool:
    """Whether there is anything of that name.

    Raises:
        InputError: when a file system that is not local cannot be asked.
    """
    if isinstance(place, Remote):
        return facts_of(place) is not None
    return os.path.lexists(place)


def read(place: Place) -> bytes:
    """What a file holds.

    Raises:
        InputError: for a file that is missing, cannot be read, or is none but a pipe, say, which
            could be waited for in vain.
    """
    if isinstance(place, Remote):
        return ask(place, lambda system, path: bytes(system.cat_file(path)))
    with open_file(place) as file, _explained(place):
        return file.read()


def open_file(place: Place) -> BinaryIO:
    """A file, open for reading; its caller closes it.

    Raises:
        InputError: as `read`.
    """
    if isinstance(place, Remote):
        file: BinaryIO = ask(place, lambda system, path: system.open(path, "rb"))
        return file
    with _explained(place):
        kind = stat.S_IFMT(place.stat().st_mode)
        if kind != stat.S_IFREG:
            raise InputError(f"{place}: is {_KINDS.get(kind, 'special')}, not a file: remove it")
        return place.open("rb")


def stamp(place: Place) -> tuple[int, int]:
    """A file's size in bytes, and its time of change in nanoseconds.

    Of files that are not local, the latter is a number that changes with whatever their system
    tells changed files by: an ETag, a time; 0 where it has none.

    Raises:
        InputError: for a file that is gone or cannot be reached.
    """
    if isinstance(place, Remote):
        facts = facts_of(place)
        if facts is None:
            raise InputError(f"{place}: no such file")
        return stamp_of(facts)
    return _local_stamp(str(place))


def _local_stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - of a million files, pathlib's takes twice as long
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns


def stamps(root: Place, names: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    """The names of files in a folder and those below it, with the `stamp` of each.

    Where the files are not local, each folder is asked once, not each file.

    Raises:
        InputError: for a file that is gone or cannot be reached.
    """
    if isinstance(root, Path):
        for name in names:
            yield (name, *_local_stamp(f"{root}/{name}"))
        return
    parent, found = None, {}
    for name in names:
        above, _, last = name.rpartition("/")
        if above != parent:
            parent, found = above, {n: stamp_of(facts) for n, facts in listed(root / above).items()}
        if last not in found:
            raise InputError(f"{root / name}: no such file")
        yield (name, *found[last])


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    """What goes wrong with a local file as one InputError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{place}: no such file") from None
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror}): may you read it?") from None


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link that leads in a circle
        raise InputError(f"{entry.path}: cannot be read ({error.strerror}): remove it") from None


def utf8(name: str, folder: Place | None = None) -> str:
    """The name, which goes into reports; raises InputError for one that cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        where = "" if folder is None else f"{folder}/"
        raise InputError(f"{where}{shown}: its name is not UTF-8: rename it") from None
    return name
