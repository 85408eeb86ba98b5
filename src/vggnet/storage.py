"""Where files lie, on this machine or anywhere that fsspec reaches, and images that stay there."""

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Self, overload

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.images import EncodedImage, Pixels


@dataclass(frozen=True, slots=True)
class Remote:
    """A file or folder by its URL, such as s3://bucket/images: what `Path` is for local ones."""

    url: str

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self.url.rstrip('/')}/{name}" if name else self.url)

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rstrip("/").rpartition("/")[2]


Place = Path | Remote


@dataclass(frozen=True, slots=True)
class Entry:
    """What a folder holds."""

    name: str
    is_folder: bool


def place_of(spec: str) -> Place:
    """A URL as fsspec takes it (it has ://), or a local path, where ~ is the home folder."""
    if "://" in spec:
        return Remote(spec)
    try:
        return Path(spec).expanduser()
    except (RuntimeError, ValueError):  # no such user
        return Path(spec)


class Names(Sequence[str]):
    """Many names in little memory: one block of bytes and where each name ends in it.

    A million Python strings take three times as much, and in worker processes they are copied as
    soon as they are looked at.
    """

    def __init__(self, blob: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self._blob, self._ends = blob, ends

    @classmethod
    def of(cls, names: Sequence[str]) -> "Names":
        encoded = [name.encode() for name in names]
        blob = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(blob, np.cumsum([len(name) for name in encoded], dtype=np.int64))

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

    def subset(self, chosen: NDArray[np.int64]) -> "Names":
        """The names of these indices, in their order."""
        return Names.of([self[int(i)] for i in chosen])


class EncodedImages(Sequence[Pixels]):
    """Images that stay in their files; each access reads and decodes one, as `images.decode`."""

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
        """Each image's name, size in bytes, and its file's time of change in nanoseconds.

        Raises:
            InputError: for a file that is gone or cannot be reached.
        """

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """A random order for an epoch of training: a permutation of the indices."""
        return rng.permutation(len(self))

    def stream(self, order: NDArray[np.int64]) -> Iterator[bytes]:
        """What `read` gives for each index of an order, or of an order's rest."""
        return (self.read(int(index)) for index in order)


def entries(folder: Place) -> list[Entry]:
    """What a folder holds, but for hidden entries, in no order.

    Raises:
        InputError: for a folder that is not there or cannot be read, or a name that is not UTF-8.
    """
    if isinstance(folder, Remote):
        with_details = _remote(folder, lambda system, path: system.ls(path, detail=True))
        found = [
            Entry(entry["name"].rstrip("/").rpartition("/")[2], entry["type"] == "directory")
            for entry in with_details
        ]
        # Some systems list a folder itself among what it holds.
        return [
            entry
            for entry in found
            if entry.name and entry.name != folder.name and not entry.name.startswith(".")
        ]
    try:
        with os.scandir(folder) as listed:
            return [
                Entry(_utf8(folder, entry.name), _is_folder(entry))
                for entry in listed
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
        found: bool = _remote(place, lambda system, path: system.isfile(path))
        return found
    try:
        return place.is_file()
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror}): may you read it?") from None


def exists(place: Place) -> bool:
    """Whether there is anything of that name."""
    if isinstance(place, Remote):
        found: bool = _remote(place, lambda system, path: system.exists(path))
        return found
    return os.path.lexists(place)


def read(place: Place) -> bytes:
    """What a file holds.

    Raises:
        InputError: for a file that is missing or cannot be read.
    """
    if isinstance(place, Remote):
        content: bytes = _remote(place, lambda system, path: system.cat_file(path))
        return content
    try:
        return place.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{place}: no such file") from None
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror})") from None


def open_file(place: Place) -> BinaryIO:
    """A file, open for reading; its caller closes it.

    Raises:
        InputError: as `read`.
    """
    if isinstance(place, Remote):
        file: BinaryIO = _remote(place, lambda system, path: system.open(path, "rb"))
        return file
    try:
        return place.open("rb")
    except FileNotFoundError:
        raise InputError(f"{place}: no such file") from None
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror})") from None


def stamp(place: Place) -> tuple[int, int]:
    """A file's size in bytes and its time of change in nanoseconds, 0 where there is none.

    Raises:
        InputError: for a file that is gone or cannot be reached.
    """
    if isinstance(place, Remote):
        facts = _remote(place, lambda system, path: system.info(path))
        return int(facts["size"] or 0), 0
    try:
        status = place.stat()
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns


def _remote(place: Remote, ask: Any) -> Any:
    """Asks the file system of a URL; whatever it raises becomes an InputError."""
    # A file system's connections do not survive a fork: each process makes its own.
    try:
        system, path = _system(place.url.partition("://")[0] + "://", os.getpid()), place.url
        return ask(system, system._strip_protocol(path))
    except FileNotFoundError:
        raise InputError(f"{place}: no such file or folder") from None
    except InputError:
        raise
    except Exception as error:  # each file system has exceptions of its own
        raise InputError(
            f"{place}: cannot be read ({type(error).__name__}: {error}): is the URL right, and "
            "may you read it?"
        ) from None


@lru_cache
def _system(protocol: str, process: int) -> Any:
    import fsspec

    name = protocol.removesuffix("://")
    try:
        return fsspec.filesystem(name)
    except ValueError:
        raise InputError(f"{protocol}: no file system that fsspec knows: give a path, or a URL such as s3://bucket/folder") from None
    except ImportError as error:
        raise InputError(f"{protocol}: {error}") from None


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link that leads in a circle
        raise InputError(f"{entry.path}: cannot be read ({error.strerror}): remove it") from None


def _utf8(folder: Path, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:  # it could be in no report
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        raise InputError(f"{folder}/{shown}: its name is not UTF-8: rename it") from None
    return name
