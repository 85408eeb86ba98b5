"""PASCAL VOC's lists of examples and labels, and its classification task, made of them.

An image, or a person in one, may be of several classes, and difficult for some.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vggnet.errors import InputError
from vggnet.folders import ImageFiles
from vggnet.parts import Part
from vggnet.precision import Labels
from vggnet.splits import Kind, Split, Task
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
    lists = Lists.read(root, _LISTS)
    return lists.task("voc", {name: lists.images(name) for name in lists.examples})


@dataclass(frozen=True)
class Lists:
    """The lists of one task of VOC: for each class and set a file, a line an example."""

    root: Path
    class_names: tuple[str, ...]
    examples: Mapping[str, list[tuple[str, ...]]]
    """Of the training set and then of the test set: the words of a line but for the label."""
    labels: Mapping[str, Labels]
    """Theirs, n×K: 1, -1, or 0 for a difficult one."""

    @classmethod
    def read(
        cls, root: Place, folder: str, words: tuple[str, ...] = ("image",), without: str = ""
    ) -> "Lists":
        """Reads the lists of a folder in `root`.

        Args:
            root: of one year of VOC.
            folder: such as ImageSets/Main.
            words: what a line says before the label, the image first; for messages.
            without: a class that is not read.

        Raises:
            InputError: for lists that are missing, or do not fit each other, and missing images.
        """
        if not isinstance(root, Path):
            raise InputError(
                f"{root}: VOC is read from a folder of this machine alone: copy it here"
            )
        if not (root / folder).is_dir():
            raise InputError(
                f"{root}: has no {folder}/: give the folder of one year, such as VOCdevkit/VOC2007"
            )
        classes, *sets = _sets(root / folder, without)
        examples, labels = {}, {}
        present = {path.name for path in (root / _IMAGES).glob("*.jpg")}
        for name in sets:
            examples[name], labels[name] = _labels(root / folder, classes, name, words)
            ids = {example[0] for example in examples[name]}
            if missing := sorted(one for one in ids if f"{one}.jpg" not in present):
                raise InputError(
                    f"{root / _IMAGES / missing[0]}.jpg: is not there ({len(missing):,} of the "
                    f"{len(ids):,} images of {name} are not): unpack the images too"
                )
            for k in np.flatnonzero(~(labels[name] > 0).any(axis=0)):
                raise InputError(
                    f"{root / folder / classes[k]}_{name}.txt: has no {words[-1]} with label 1: a "
                    "class needs one in training and in testing"
                )
        if twice := set(examples[sets[0]]) & set(examples[sets[1]]):
            raise InputError(
                f"{root / folder}: {' '.join(min(twice))} is in {sets[0]} and in {sets[1]}: take "
                "it out"
            )
        return cls(root, tuple(classes), examples, labels)

    def images(self, name: str) -> Part:
        """The images of a set's examples, of no one class."""
        ids = [example[0] for example in self.examples[name]]
        files = ImageFiles(self.root, [f"{_IMAGES}/{one}.jpg" for one in ids])
        return Part(files, np.full(len(ids), -1, np.int64), files.names)

    def task(self, kind: Kind, parts: Mapping[str, Part]) -> Task:
        """What is learnt from one set and tested on the other."""
        training, testing = (len(part) for part in parts.values())
        train, test = np.split(np.arange(training + testing), [training])
        return Task(
            name=self.root.resolve().name,
            kind=kind,
            class_names=self.class_names,
            parts=parts,
            labels=np.concatenate(list(self.labels.values())),
            splits=[Split(train, test)],
            flip=True,
            rule="11-point" if self.root.resolve().name == "VOC2007" else "area",
        )


def _sets(folder: Path, without: str) -> tuple[list[str], str, str]:
    """The classes, in order, and what is learnt from and tested on."""
    found: dict[str, list[str]] = {"train": [], "val": [], "trainval": [], "test": []}
    for path in sorted(folder.glob("*_*.txt")):
        label, _, name = path.stem.rpartition("_")
        if name in found and label != without:
            found[name].append(label)
    training, testing = ("trainval", "test") if found["test"] else ("train", "val")
    classes = sorted(found[training])
    if len(classes) < 2:
        raise InputError(
            f"{folder}: has lists of {len(classes)} classes (CLASS_{training}.txt): two or more "
            "are needed"
        )
    if different := set(classes) ^ set(found[testing]):
        raise InputError(
            f"{folder}: {min(different)} has not both of _{training}.txt and _{testing}.txt"
        )
    return classes, training, testing


def _labels(
    folder: Path, classes: list[str], name: str, words: tuple[str, ...]
) -> tuple[list[tuple[str, ...]], Labels]:
    """The examples of a set, in the order of the first class's list, and their labels, n×K."""
    columns: list[list[int]] = []
    examples: list[tuple[str, ...]] = []
    for label in classes:
        path = folder / f"{label}_{name}.txt"
        own = {}
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            *found, value = line.split() or [""]
            if not value:
                continue
            if len(found) != len(words) or value not in ("1", "-1", "0", "+1"):
                raise InputError(
                    f"{path}, line {number}: {line!r} is no {' and '.join(words)} with a label 1, "
                    "-1 or 0"
                )
            if tuple(found) in own:
                raise InputError(f"{path}, line {number}: {' '.join(found)} is there twice")
            own[tuple(found)] = int(value)
        examples = examples or list(own)
        if different := set(examples) ^ own.keys():
            raise InputError(
                f"{path}: the {words[-1]} {' '.join(min(different))} is in one of this and "
                f"{classes[0]}_{name}.txt alone: every list of a set has the same {words[-1]}s"
            )
        columns.append([own[one] for one in examples])
    return examples, np.array(columns, np.int8).T
