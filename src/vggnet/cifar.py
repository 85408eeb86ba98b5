"""CIFAR-10 and CIFAR-100 from their public files: Python's pickles, or records of bytes.

Pickles are followed, not loaded (`formats.numpypickle`); archives are read through, not unpacked.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.formats import numpypickle
from vggnet.storage import is_file

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
"""Where the sets are published, with the MD5 sums of their archives."""
SIDE = 32
"""Height and width of every image in pixels."""
LARGEST = 200 << 20
"""Bytes of a file or a member; CIFAR-100's training images are 155 million."""
_MEMBERS = 64
"""Of an archive at most; there are 9 in the public ones."""
_PIXELS = 3 * SIDE * SIDE

Pictures = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images, n×32×32×3 RGB 0–255, and their n classes."""


@dataclass(frozen=True, slots=True)
class Version:
    """A form in which a set is published."""

    archive: str
    md5: str
    """Of the archive, as the page states it."""
    folder: str
    """In the archive."""
    train: tuple[str, ...]
    test: str
    meta: str
    """Has the names of the classes."""

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.meta)


@dataclass(frozen=True, slots=True)
class Cifar:
    """A set, and where its files have what."""

    name: str
    title: str
    classes: int
    python: Version
    binary: Version
    labels: bytes
    """Key of the classes in a pickle."""
    class_names: bytes
    """Key of their names."""
    record_labels: int
    """Bytes in front of an image in a record; the last of them is its class."""
    known: tuple[str, ...] | None = None
    """The classes' names, where they are few enough to be written here."""

    @property
    def versions(self) -> tuple[Version, Version]:
        return self.python, self.binary

    def remedy(self, version: Version) -> str:
        return f"download {version.archive} (md5sum {version.md5}) again from {PAGE}"


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))

CIFAR_10 = Cifar(
    "cifar-10",
    "CIFAR-10",
    10,
    Version(
        "cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py",
        _BATCHES,
        "test_batch",
        "batches.meta",
    ),
    Version(
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-batches-bin",
        tuple(f"{name}.bin" for name in _BATCHES),
        "test_batch.bin",
        "batches.meta.txt",
    ),
    labels=b"labels",
    class_names=b"label_names",
    record_labels=1,
    known=(
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
)
CIFAR_100 = Cifar(
    "cifar-100",
    "CIFAR-100",
    100,
    Version(
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-python",
        ("train",),
        "test",
        "meta",
    ),
    Version(
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-binary",
        ("train.bin",),
        "test.bin",
        "fine_label_names.txt",
    ),
    labels=b"fine_labels",
    class_names=b"fine_label_names",
    record_labels=2,
)
CIFARS = {cifar.name: cifar for cifar in (CIFAR_10, CIFAR_100)}


def read_cifar(cifar: Cifar, place: Path) -> tuple[Pictures, Pictures, tuple[str, ...]]:
    """Training images, test images and the names of the classes.

    Any number of images will do, if the training files have as many each, and together five times
    the test file's: so a file that ends too soon is found out.

    Args:
        cifar: which of the two.
        place: the archive, the folder that has it, the folder that is in it, or the one that has
            that.

    Raises:
        InputError: for a file that is missing, cut off, damaged, or at odds with the others.
    """
    version, where, files = _files(cifar, place)
    batch = _pickled if version == cifar.python else _recorded

    def read(name: str) -> Pictures:
        try:
            return batch(cifar, files[name])
        except ValueError as error:
            raise InputError(f"{where}/{name}: {error}: {cifar.remedy(version)}") from None

    test = read(version.test)
    train = [read(name) for name in version.train]
    expected = 5 * len(test[1]) / len(train)
    for name, (images, _) in zip(version.train, train, strict=True):
        if len(images) != expected:
            raise InputError(
                f"{where}/{name}: has {len(images):,} images, where the {len(test[1]):,} of "
                f"{version.test} ask for {expected:,.0f}: one of the two is cut off: "
                f"{cifar.remedy(version)}"
            )
    try:
        names = _class_names(cifar, files[version.meta], pickled=version == cifar.python)
    except ValueError as error:
        raise InputError(f"{where}/{version.meta}: {error}: {cifar.remedy(version)}") from None
    images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    return (images, labels), test, names


def is_cifar(files: Collection[str], folders: Collection[str]) -> Cifar | None:
    """The set that a folder with these and no other folders has; None where there are others, which
    may be classes of images."""
    versions = {version: cifar for cifar in CIFARS.values() for version in cifar.versions}
    if set(folders) - {version.folder for version in versions}:
        return None
    for version, cifar in versions.items():
        if version.archive in files or version.folder in folders or {*version.names} <= {*files}:
            return cifar
    return None


def _files(cifar: Cifar, place: Path) -> tuple[Version, Path, dict[str, bytes]]:
    """The form that is there, where it is, and the content of its files."""
    if is_file(place):
        return _archived(cifar, place)
    for version in cifar.versions:
        for folder in (place, place / version.folder):
            missing = [name for name in version.names if not is_file(folder / name)]
            if not missing:
                return version, folder, {name: _read(folder / name) for name in version.names}
            if len(missing) < len(version.names):
                raise InputError(
                    f"{folder}: {cifar.title}'s {', '.join(missing)} not found there, beside its "
                    f"other files: {cifar.remedy(version)}"
                )
        if is_file(place / version.archive):
            return _archived(cifar, place / version.archive)
    either = " or ".join(f"{version.archive}, {version.folder}/" for version in cifar.versions)
    raise InputError(
        f"{place}: {cifar.title} not found there: give the folder that has {either}, or one of "
        f"these, as {cifar.name}:DIR; the archives are at {PAGE}"
    )


def _read(path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise InputError(f"{path}: has {size:,} bytes, more than any file of CIFAR")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _archived(cifar: Cifar, path: Path) -> tuple[Version, Path, dict[str, bytes]]:
    """The files of an archive, packed by gzip or not; nothing is written."""
    found: dict[str, bytes] = {}
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if packed:
                with gzip.open(file) as unpacked:
                    found = _members(cifar, unpacked)
                    # To the end, where gzip's checksum is.
                    if unpacked.read(_REST + 1)[_REST:]:
                        raise InputError("has more behind its files than any archive of CIFAR")
            else:
                found = _members(cifar, file)
    except InputError as error:
        raise InputError(f"{path}: {error}: {_again(cifar)}") from None
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as a tar file ({why}): {_again(cifar)}") from None
    for version in cifar.versions:
        files = {name: found.get(f"{version.folder}/{name}") for name in version.names}
        there = {name: content for name, content in files.items() if content is not None}
        if there and len(there) < len(files):
            missing = ", ".join(name for name in files if name not in there)
            raise InputError(
                f"{path}: {version.folder}/ in it has no {missing}: {cifar.remedy(version)}"
            )
        if there:
            return version, path / version.folder, there
    raise InputError(f"{path}: has none of {cifar.title}'s files: {_again(cifar)}")


_REST = 1 << 20
"""Bytes of an archive that may follow its last member."""


def _again(cifar: Cifar) -> str:
    archives = " or ".join(version.archive for version in cifar.versions)
    return f"give {archives}, downloaded from {PAGE}"


def _members(cifar: Cifar, file: io.BufferedIOBase) -> dict[str, bytes]:
    """Of the tar file that begins here, those that are wanted, by folder/name."""
    wanted = {f"{version.folder}/{name}" for version in cifar.versions for name in version.names}
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for number, member in enumerate(archive):
            if number >= _MEMBERS or member.size > LARGEST:
                raise InputError("has more or larger members than any archive of CIFAR")
            name = member.name.removeprefix("./")
            if name not in wanted or not member.isreg():
                continue
            if name in found:
                raise InputError(f"has {name} twice")
            content = archive.extractfile(member)
            assert content is not None  # a regular file
            found[name] = content.read()
    return found


def _pickled(cifar: Cifar, content: bytes) -> Pictures:
    """A batch of the Python version. Raises ValueError, which says what is wrong."""
    values = numpypickle.read(content)
    pixels, labels = values.get(b"data"), values.get(cifar.labels)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise ValueError(f"has no array 'data' of {_PIXELS:,} bytes an image")
    name = cifar.labels.decode()
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"has no list {name!r} of whole numbers")
    if len(labels) != len(pixels):
        raise ValueError(f"has {len(labels):,} {name} for {len(pixels):,} images")
    return _pictures(cifar, pixels, np.array(labels, np.int64))


def _recorded(cifar: Cifar, content: bytes) -> Pictures:
    """A batch of the binary version. Raises ValueError, which says what is wrong."""
    record = cifar.record_labels + _PIXELS
    if len(content) % record:
        raise ValueError(f"has {len(content):,} bytes, no multiple of an image's {record:,}")
    values = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = values[:, cifar.record_labels - 1].astype(np.int64)
    return _pictures(cifar, values[:, cifar.record_labels :], labels)


def _pictures(cifar: Cifar, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Pictures:
    """From all red values, then all green ones, then all blue ones, each row by row."""
    if not len(pixels):
        raise ValueError("has no images")
    wrong = np.flatnonzero((labels < 0) | (labels >= cifar.classes))
    if len(wrong):
        raise ValueError(
            f"label {labels[wrong[0]]} of image {wrong[0]} is not in 0–{cifar.classes - 1}"
        )
    planes = pixels.reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _class_names(cifar: Cifar, content: bytes, *, pickled: bool) -> tuple[str, ...]:
    """Raises ValueError, which says what is wrong."""
    if pickled:
        listed = numpypickle.read(content).get(cifar.class_names)
        if not isinstance(listed, list) or not all(isinstance(name, bytes) for name in listed):
            raise ValueError(f"has no list {cifar.class_names.decode()!r} of names")
        lines = listed
    else:
        lines = [line.strip() for line in content.splitlines() if line.strip()]
    names = tuple(line.decode("latin-1") for line in lines)
    # Both sets have them in alphabetical order.
    if len(names) != cifar.classes or list(names) != sorted(set(names)):
        raise ValueError(
            f"has {len(names)} names of classes, where {cifar.title}'s are {cifar.classes}, in "
            "alphabetical order"
        )
    if cifar.known and names != cifar.known:
        raise ValueError(f"its classes are not {cifar.title}'s: {', '.join(cifar.known)}")
    return names
