"""PASCAL VOC's classification task: images of several classes each, some of them difficult."""

from pathlib import Path

import numpy as np

from vggnet.datasets import Part
from vggnet.errors import InputError
from vggnet.folders import ImageFiles
from vggnet.precision import Labels
from vggnet.splits import Split, Task
from vggnet.storage import Place

_LISTS, _IMAGES = "ImageSets/Main", "JPEGImages"


def is_voc(root: Path) -> bool:
    """Whether a folder is laid out as VOC's."""
    return (root / _LISTS).is_dir()


def read_voc(root: Place) -> Task:
    """Reads `ImageSets/Main/CLASS_SET.txt`, lines of an image and its label, and no image.

    The label is 1, -1, or 0 for a difficult one. The images are `JPEGImages/ID.jpg`. The sets are
    trainval and test, or train and val where there are no lists of test, which are not public from
    VOC 2008 on. The average precision is the 11-point one for a folder VOC2007, or else the area.

    Raises:
        InputError: for lists or images that are missing, or do not fit each other.
    """
    if not isinstance(root, Path):
        raise InputError(f"{root}: VOC is read from a folder of this machine alone: copy it here")
    if not is_voc(root):
        raise InputError(
            f"{root}: has no {_LISTS}/: give the folder of one year, such as VOCdevkit/VOC2007"
        )
    classes, training, testing = _sets(root)
    parts: dict[str, Part] = {}
    of_parts = []
    present = {path.name for path in (root / _IMAGES).glob("*.jpg")}
    for name in (training, testing):
        ids, labels = _labels(root, classes, name)
        missing = [one for one in ids if f"{one}.jpg" not in present]
        if missing:
            raise InputError(
                f"{root / _IMAGES / missing[0]}.jpg: is not there ({len(missing):,} of the "
                f"{len(ids):,} images of {name} are not): unpack the images too"
            )
        for k in np.flatnonzero(~(labels > 0).any(axis=0)):
            raise InputError(
                f"{root / _LISTS / classes[k]}_{name}.txt: has no image with label 1: a class "
                "needs one in training and in testing"
            )
        files = ImageFiles(root, [f"{_IMAGES}/{one}.jpg" for one in ids])
        parts[name] = Part(files, np.full(len(ids), -1, np.int64), files.names)
        of_parts.append(labels)
    twice = set(parts[training].names or ()) & set(parts[testing].names or ())
    if twice:
        raise InputError(f"{root}: {min(twice)} is in {training} and in {testing}: take it out")
    train, test = np.split(np.arange(sum(map(len, of_parts))), [len(of_parts[0])])
    return Task(
        name=root.resolve().name,
        kind="voc",
        class_names=tuple(classes),
        parts=parts,
        labels=np.concatenate(of_parts),
        splits=[Split(train, test)],
        flip=True,
        rule="11-point" if root.resolve().name == "VOC2007" else "area",
    )


def _sets(root: Path) -> tuple[list[str], str, str]:
    """The classes, in order, and what is learnt from and tested on."""
    found: dict[str, list[str]] = {"train": [], "val": [], "trainval": [], "test": []}
    for path in sorted((root / _LISTS).glob("*_*.txt")):
        label, _, name = path.stem.rpartition("_")
        if name in found:
            found[name].append(label)
    training, testing = ("trainval", "test") if found["test"] else ("train", "val")
    classes = sorted(found[training])
    if len(classes) < 2:
        raise InputError(
            f"{root / _LISTS}: has lists of {len(classes)} classes (CLASS_{training}.txt): two or "
            "more are needed"
        )
    if different := set(classes) ^ set(found[testing]):
        raise InputError(
            f"{root / _LISTS}: {min(different)} has not both of _{training}.txt and _{testing}.txt"
        )
    return classes, training, testing


def _labels(root: Path, classes: list[str], name: str) -> tuple[list[str], Labels]:
    """The images of a set, in the order of the first class's list, and their labels, n×K."""
    columns: list[list[int]] = []
    ids: list[str] = []
    for label in classes:
        path = root / _LISTS / f"{label}_{name}.txt"
        own = {}
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            words = line.split()
            if not words:
                continue
            if len(words) != 2 or words[1] not in ("1", "-1", "0", "+1"):
                raise InputError(
                    f"{path}, line {number}: {line!r} is no image with a label 1, -1 or 0"
                )
            if words[0] in own:
                raise InputError(f"{path}, line {number}: {words[0]} is there twice")
            own[words[0]] = int(words[1])
        ids = ids or list(own)
        if different := set(ids) ^ own.keys():
            raise InputError(
                f"{path}: the image {min(different)} is in one of this and "
                f"{classes[0]}_{name}.txt alone: every list of a set has the same images"
            )
        columns.append([own[one] for one in ids])
    return ids, np.array(columns, np.int8).T
