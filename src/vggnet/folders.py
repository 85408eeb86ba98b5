"""Folders of images: which files are of which class, and in which part."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.images import Pixels, decode

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
"""Of the files that are taken for images, in either case."""

SPLIT_SEED = 14091556
"""Fixed: with another split the errors of two runs on one folder could not be compared."""

_TAKEN = ("digits", "fashion-mnist", "imagenet")  # names of data sets that recipes know
_VALIDATION = ("val", "valid", "validation")
_PARTS = ("train", "training", *_VALIDATION, "test", "testing")

Classes = dict[str, list[str]]
"""By class, the images' names: paths relative to the data set's folder, with forward slashes."""
Parts = tuple[Classes, Classes, Classes, str]
"""Training, validation, test, and how they came to be where the folder does not say."""


class ImageFiles(Sequence[Pixels]):
    """Images that stay in their files; each access reads and decodes one, as `images.decode`.

    Args:
        root: the data set's folder.
        names: the files' paths relative to it, with forward slashes.
    """

    def __init__(self, root: Path, names: tuple[str, ...]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageFiles": ...
    def __getitem__(self, index: int | slice) -> "Pixels | ImageFiles":
        if isinstance(index, slice):
            return ImageFiles(self.root, self.names[index])
        return decode(self.root / self.names[index])

    def stamps(self) -> Iterator[tuple[str, int, int]]:
        """Each file's name, size in bytes and time of change in nanoseconds.

        Raises:
            InputError: for a file that is gone or cannot be reached.
        """
        for name in self.names:
            path = self.root / name
            try:
                status = path.stat()
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror})") from None
            yield name, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Listing:
    """The images of one part, class by class, each class in the order of its names."""

    images: ImageFiles
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder holds: see `datasets.open_dataset`."""

    name: str
    class_names: tuple[str, ...]
    train: Listing
    validation: Listing
    test: Listing
    note: str


def read_folder(root: Path) -> Folder:
    """Lists a folder of images by class, and splits it where it is not split already.

    `datasets.open_dataset` describes the layouts; `imagenet.read_imagenet` reads ImageNet's. No
    image is opened. Hidden files, files of other kinds than `SUFFIXES`, and images that lie beside
    the folders of classes are left out.

    Raises:
        InputError: for a folder that has none of the layouts, or cannot be read.
    """
    found = subfolders(root)
    if "train" in found:
        return as_folder(root, with_train(root, list_classes(root, "train"), found))
    return as_folder(root, _without_train(root, found))


def as_folder(root: Path, parts: Parts) -> Folder:
    """The parts with the data set's name, that of its folder, and the classes in order."""
    train, validation, test, note = parts
    name = root.resolve().name or str(root)

    def listing(part: Classes) -> Listing:
        names = tuple(image for label in train for image in part[label])
        counts = [len(part[label]) for label in train]
        labels = np.repeat(np.arange(len(train), dtype=np.int64), counts)
        return Listing(ImageFiles(root, names), labels)

    return Folder(
        name=f"{name}-folder" if name in _TAKEN else name,
        class_names=tuple(train),
        train=listing(train),
        validation=listing(validation),
        test=listing(test),
        note=note,
    )


def _without_train(root: Path, folders: list[str]) -> Parts:
    """80/10/10 of each class, whatever order the file system has; one image at least in each."""
    for name in folders:
        if name.lower() in _PARTS:
            raise InputError(
                f"{root}: {name}/ looks like a part of a data set, but there is no train/: name "
                "the parts train, val and test, with a folder for each class in each; rename "
                f"{name}/ if it is a class"
            )
    train: Classes = {}
    validation: Classes = {}
    test: Classes = {}
    for label, names in list_classes(root).items():
        if len(names) < 3:
            raise InputError(
                f"{root / label}: {len(names)} image{'s' * (len(names) > 1)}; a class needs 3 or "
                "more, one each for training, validation and testing: add images, or move the "
                "class away"
            )
        order = sorted(names, key=_hash)
        held = max(1, len(names) // 10)
        validation[label] = sorted(order[:held])
        test[label] = sorted(order[held : 2 * held])
        train[label] = sorted(order[2 * held :])
    note = (
        "the folder has no train/: each class was split by a hash of its file names, "
        f"{count(train)} images for training, {count(validation)} for validation, "
        f"{count(test)} for testing"
    )
    return train, validation, test, note


def with_train(root: Path, train: Classes, folders: Sequence[str]) -> Parts:
    """The parts where there is a `train/`.

    Args:
        root: the data set's folder.
        train: what its `train/` holds.
        folders: the folders in `root` that may be its parts.

    Raises:
        InputError: for parts that are missing, too many, or do not fit `train/`.
    """
    given = validation_folder(root, folders)
    testing = "test" in folders
    if not given and not testing:
        raise InputError(
            f"{root}: has train/, but neither val/ nor test/ with folders of classes: add one, "
            f"or give {root / 'train'}, which is then split; if train/ is a class, rename it"
        )
    test = list_classes(root, "test", like=train) if testing else {}
    if not given:
        return _held_out(root, train, test, "test")
    validation = list_classes(root, given, like=train)
    if testing:
        return train, validation, test, ""
    return _held_out(root, train, validation, given)


def validation_folder(root: Path, folders: Sequence[str]) -> str | None:
    """Which of the folders is the validation part, if one is.

    Raises:
        InputError: when two could be.
    """
    given = [name for name in _VALIDATION if name in folders]
    if len(given) > 1:
        raise InputError(f"{root}: has {given[0]}/ and {given[1]}/: keep one of them")
    return given[0] if given else None


def _held_out(root: Path, train: Classes, test: Classes, name: str) -> Parts:
    """The one other part that is given is for the errors; the schedule gets a part of train."""
    kept: Classes = {}
    validation: Classes = {}
    for label, names in train.items():
        if len(names) < 2:
            raise InputError(
                f"{root / 'train' / label}: 1 image; without a folder each for validation and "
                "test, a class needs 2 or more in train/, of which a tenth is held out for the "
                "learning-rate schedule: add images, or move the class away"
            )
        order = sorted(names, key=_hash)
        held = max(1, len(names) // 10)
        validation[label], kept[label] = sorted(order[:held]), sorted(order[held:])
    note = (
        f"{name}/ is the test part; of train/'s {count(train)} images, {count(validation)}, a "
        "tenth of each class by a hash of the file names, are held out as validation for the "
        "learning-rate schedule"
    )
    return kept, validation, test, note


def _hash(name: str) -> bytes:
    return hashlib.sha256(os.fsencode(f"{SPLIT_SEED}:{name}")).digest()


def count(classes: Classes) -> str:
    """How many images a part has, as it is printed."""
    return f"{sum(len(names) for names in classes.values()):,}"


def list_classes(root: Path, part: str = "", like: Classes | None = None) -> Classes:
    """A part's images by class, classes and names in order.

    Args:
        root: the data set's folder.
        part: the part's folder in it; empty where it is not split.
        like: the training part, whose classes this one must have.
    """
    folder = root / part
    labels = subfolders(folder)
    if not labels:
        raise InputError(
            f"{folder}: has no folders: make one for each class, named like it, with its images"
            + (f"; or move {part}/ away" if like is not None else "")
        )
    if like is not None:
        check_classes(folder, labels, like)
    elif len(labels) == 1:
        raise InputError(
            f"{folder}: has only one class, {labels[0]!r}: a classifier needs two or more; give "
            "the folder whose folders are the classes"
        )
    prefix = f"{part}/" if part else ""
    classes = {}
    for label in labels:
        names = sorted(_images(folder / label, f"{prefix}{label}/", ()))
        if not names:
            raise InputError(
                f"{folder / label}: has no images ({' '.join(SUFFIXES)}): add some, or move "
                "the folder away"
            )
        classes[label] = names
    return classes


def check_classes(folder: Path, found: Sequence[str], train: Classes) -> None:
    """Raises InputError where the classes found in a part's folder are not those of train."""
    unknown = sorted(set(found) - train.keys())
    if unknown:
        raise InputError(
            f"{folder}: has the class {unknown[0]!r} ({len(unknown)} such), which train/ has not: "
            "move it away, or add it to train/"
        )
    missing = sorted(train.keys() - set(found))
    if missing:
        raise InputError(
            f"{folder}: lacks the class {missing[0]!r} ({len(missing)} such), which train/ has: "
            "add it there, or take it out of train/"
        )


def _images(folder: Path, prefix: str, above: tuple[Path, ...]) -> Iterator[str]:
    """The names of the images in a folder and in those below it, links followed."""
    here = folder.resolve()
    if here in above:
        raise InputError(f"{folder}: is a link to a folder that it lies in: remove the link")
    for entry in entries(folder):
        if _is_folder(entry):
            yield from _images(folder / entry.name, f"{prefix}{entry.name}/", (*above, here))
        elif entry.name.lower().endswith(SUFFIXES):
            yield prefix + entry.name


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, hidden ones left out, in order."""
    return sorted(entry.name for entry in entries(folder) if _is_folder(entry))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link that leads in a circle
        raise InputError(f"{entry.path}: cannot be read ({error.strerror}): remove it") from None


def is_file(path: Path) -> bool:
    """Whether there is such a file, or a link to one.

    Raises:
        InputError: when that cannot be known, for want of permission.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): may you read it?") from None


def entries(folder: Path) -> "list[os.DirEntry[str]]":
    """What a folder holds, but for hidden entries, in no order."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error.strerror}): is it a folder, and may you read it?"
        ) from None
    for entry in found:
        try:
            entry.name.encode()
        except UnicodeEncodeError:  # it could be in no report
            shown = os.fsencode(entry.name).decode("utf-8", "backslashreplace")
            raise InputError(f"{folder}/{shown}: its name is not UTF-8: rename it") from None
    return found
