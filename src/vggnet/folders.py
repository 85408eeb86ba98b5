"""Folders of images: which files are of which class, and in which part."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.storage import EncodedImages, Names, Place, entries, read, stamps

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Of the files that are taken for images, in either case."""

SPLIT_SEED = 14091556
"""Fixed: with another split the errors of two runs on one folder could not be compared."""

_TAKEN = ("digits", "digits-on-photos", "fashion-mnist", "cifar-10", "cifar-100", "imagenet")
"""Names of data sets that recipes know."""
_VALIDATION = ("val", "valid", "validation")
_PARTS = ("train", "training", *_VALIDATION, "test", "testing")

Classes = dict[str, Names]
"""By class, the images' names: paths relative to the data set's folder, with forward slashes."""
Parts = tuple[Classes, Classes, Classes, str]
"""Training, validation, test, and how they came to be where the folder does not say."""


class ImageFiles(EncodedImages):
    """Images that are a file each.

    Args:
        root: the data set's folder.
        names: the files' paths relative to it, with forward slashes.
    """

    def __init__(self, root: Place, names: Sequence[str]) -> None:
        self.root = root
        self.names = names if isinstance(names, Names) else Names.of(names)

    def where(self, index: int) -> str:
        return str(self.root / self.names[index])

    def read(self, index: int) -> bytes:
        return read(self.root / self.names[index])

    def subset(self, chosen: NDArray[np.int64]) -> "ImageFiles":
        return ImageFiles(self.root, self.names.subset(chosen))

    def stamps(self) -> Iterator[tuple[str, int, int]]:
        return stamps(self.root, self.names)


@dataclass(frozen=True, slots=True)
class Listing:
    """The images of one part, class by class, each class in the order of its names."""

    images: EncodedImages
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


class Tree:
    """A data set's folder while it is listed, and the links that led out of it."""

    def __init__(self, root: Place) -> None:
        self.root = root
        self._inside = str(root.resolve()).rstrip("/") if isinstance(root, Path) else None
        self._real = lru_cache(1024)(_real)
        self._leading_out = 0
        self._first = ""

    @property
    def note(self) -> str:
        """For the user, who may not know that there are such links."""
        if not self._leading_out:
            return ""
        if self._leading_out == 1:
            return f"a link leads out of the folder ({self._first}); it is followed"
        return (
            f"{self._leading_out:,} links lead out of the folder (first: {self._first}); they are "
            "followed"
        )

    def follow(self, name: str) -> None:
        """Takes note of a file or folder if it is a link that leads out."""
        if self._inside is None:
            return
        try:
            # There may be a million: pathlib takes five times as long, here and below.
            target = os.readlink(f"{self._inside}/{name}")  # noqa: PTH115
        except OSError:  # no link
            return
        last = target.rpartition("/")[2]
        folder = target.removesuffix(last)
        if not folder.startswith("/"):
            folder = f"{self._inside}/{name.rpartition('/')[0]}/{folder}"
        if last == ".." or not f"{self._real(folder)}/{last}/".startswith(f"{self._inside}/"):
            self._leading_out += 1
            shown = f"{name} → {target}"
            self._first = min(self._first or shown, shown)


def _real(folder: str) -> str:
    return str(Path(folder).resolve())


def read_folder(root: Place) -> Folder:
    """Lists a folder of images by class, and splits it where it is not split already.

    `datasets.open_dataset` describes the layouts; `imagenet.read_imagenet` reads ImageNet's. No
    image is opened. Hidden files, files of other kinds than `SUFFIXES`, and images that lie beside
    the folders of classes are left out.

    Raises:
        InputError: for a folder that has none of the layouts, or cannot be read.
    """
    tree, found = Tree(root), subfolders(root)
    if "train" in found:
        return as_folder(tree, with_train(tree, list_classes(tree, "train"), found))
    return as_folder(tree, _without_train(tree, found))


def data_set_name(root: Place) -> str:
    """That of its folder, unless it would be taken for a data set that recipes know."""
    name = (root.resolve().name if isinstance(root, Path) else root.name) or str(root)
    return f"{name}-folder" if name in _TAKEN else name


def as_folder(tree: Tree, parts: Parts) -> Folder:
    """The parts with the data set's name, that of its folder, and the classes in order."""
    train, validation, test, note = parts
    root = tree.root

    def listing(part: Classes) -> Listing:
        counts = [len(part[label]) for label in train]
        labels = np.repeat(np.arange(len(train), dtype=np.int64), counts)
        return Listing(ImageFiles(root, Names.joined([part[label] for label in train])), labels)

    return Folder(
        name=data_set_name(root),
        class_names=tuple(train),
        train=listing(train),
        validation=listing(validation),
        test=listing(test),
        note="; ".join(filter(None, (note, tree.note))),
    )


def _without_train(tree: Tree, folders: list[str]) -> Parts:
    """80/10/10 of each class, whatever order the file system has; one image at least in each."""
    for name in folders:
        if name.lower() in _PARTS:
            raise InputError(
                f"{tree.root}: {name}/ looks like a part of a data set, but there is no train/: "
                "name the parts train, val and test, with a folder for each class in each; rename "
                f"{name}/ if it is a class"
            )
    train = list_classes(tree)
    validation: Classes = {}
    test: Classes = {}
    for label, names in train.items():
        if len(names) < 3:
            raise InputError(
                f"{tree.root / label}: {len(names)} image{'s' * (len(names) > 1)}; a class needs "
                "3 or more, one each for training, validation and testing: add images, or move the "
                "class away"
            )
        validation[label], test[label], train[label] = map(names.subset, tenths(names, 2))
    note = (
        f"the folder has no train/: each class was split by seed {SPLIT_SEED} (a hash of its "
        f"file names), {count(train)} images for training, {count(validation)} for validation, "
        f"{count(test)} for testing"
    )
    return train, validation, test, note


def with_train(tree: Tree, train: Classes, folders: Sequence[str]) -> Parts:
    """The parts where there is a `train/`.

    Args:
        tree: the data set's folder.
        train: what its `train/` holds.
        folders: the folders in it that may be its parts.

    Raises:
        InputError: for parts that are missing, too many, or do not fit `train/`.
    """
    given = validation_folder(tree.root, folders)
    testing = "test" in folders
    if not given and not testing:
        raise InputError(
            f"{tree.root}: has train/, but neither val/ nor test/ with folders of classes: add "
            f"one, or give {tree.root / 'train'}, which is then split; if train/ is a class, "
            "rename it"
        )
    test = list_classes(tree, "test", like=train) if testing else {}
    if not given:
        return _held_out(tree.root, train, test, "test")
    validation = list_classes(tree, given, like=train)
    if testing:
        return train, validation, test, ""
    return _held_out(tree.root, train, validation, given)


def validation_folder(root: Place, folders: Sequence[str]) -> str | None:
    """Which of the folders is the validation part, if one is.

    Raises:
        InputError: when two could be.
    """
    given = [name for name in _VALIDATION if name in folders]
    if len(given) > 1:
        raise InputError(f"{root}: has {given[0]}/ and {given[1]}/: keep one of them")
    return given[0] if given else None


def _held_out(root: Place, train: Classes, test: Classes, name: str) -> Parts:
    """The one other part that is given is for the errors; the schedule takes a part of train."""
    total = count(train)
    validation: Classes = {}
    for label, names in train.items():
        if len(names) < 2:
            raise InputError(
                f"{root / 'train' / label}: 1 image; without a folder each for validation and "
                "test, a class needs 2 or more in train/, of which a tenth is held out for the "
                "learning-rate schedule: add images, or move the class away"
            )
        validation[label], train[label] = map(names.subset, tenths(names, 1))
    note = (
        f"{name}/ is the test part; of train/'s {total} images, {count(validation)}, a "
        f"tenth of each class by seed {SPLIT_SEED} (a hash of its file names), are held out as "
        "validation for the learning-rate schedule"
    )
    return train, validation, test, note


def tenths(names: Sequence[str], number: int) -> list[NDArray[np.int64]]:
    """Splits a class by a hash of its images' names, in whatever order they come.

    Args:
        names: more than `number`.
        number: of the tenths that are split off; each has one image at least.

    Returns:
        The indices of the tenths' names, and those of the rest's, each in order.
    """
    hashes = [hashlib.sha256(f"{SPLIT_SEED}:{name}".encode()).digest() for name in names]
    order = np.array(sorted(range(len(hashes)), key=hashes.__getitem__), np.int64)
    held = max(1, len(order) // 10)
    return [np.sort(part) for part in np.split(order, [held * (i + 1) for i in range(number)])]


def count(classes: Classes) -> str:
    """How many images a part has, as it is printed."""
    return f"{sum(len(names) for names in classes.values()):,}"


def list_classes(tree: Tree, part: str = "", like: Classes | None = None) -> Classes:
    """A part's images by class, classes and names in order.

    Args:
        tree: the data set's folder.
        part: the part's folder in it; empty where it is not split.
        like: the training part, whose classes this one must have.
    """
    folder = tree.root / part
    tree.follow(part)
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
    classes: Classes = {}
    for label in labels:
        names = sorted(images_in(tree, f"{prefix}{label}"))
        if not names:
            raise InputError(
                f"{folder / label}: has no images ({' '.join(SUFFIXES)}): add some, or move "
                "the folder away"
            )
        classes[label] = Names.of(names)
    return classes


def check_classes(folder: Place, found: Sequence[str], train: Classes) -> None:
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


def images_in(tree: Tree, name: str, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """The names of the images in one of its folders and in those below, links followed."""
    folder = tree.root / name
    tree.follow(name)
    if isinstance(folder, Path):
        here = folder.resolve()
        if here in above:
            raise InputError(f"{folder}: is a link to a folder that it lies in: remove the link")
        above = (*above, here)
    for entry in entries(folder):
        if entry.is_folder:
            yield from images_in(tree, f"{name}/{entry.name}", above)
        elif entry.name.lower().endswith(SUFFIXES):
            if entry.is_link:
                tree.follow(f"{name}/{entry.name}")
            yield f"{name}/{entry.name}"


def subfolders(folder: Place) -> list[str]:
    """The names of the folders in a folder, hidden ones left out, in order."""
    return sorted(entry.name for entry in entries(folder) if entry.is_folder)
