"""The tasks that data sets make: by their own splits, or by those of Appendix B."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from vggnet.actions import has_actions, read_actions
from vggnet.cifar import CIFARS
from vggnet.datasets import open_dataset
from vggnet.errors import InputError
from vggnet.folders import ImageFiles, Tree, data_set_name, list_classes, subfolders
from vggnet.parts import Dataset, Part
from vggnet.splits import DRAWS, Kind, Split, Splits, Task, drawn, one_of
from vggnet.storage import Names, Place, exists, is_file, place_of
from vggnet.voc import is_voc, read_voc


def task_of(spec: str, kind: Kind | None, draw: Splits | None) -> Task:
    """The task that the command line calls `spec`.

    Args:
        spec: a data set, as `open_dataset` has it; a folder with a folder for each class and no
            `train/`; or a folder as VOC's, see `voc.read_voc` and `actions.read_actions`.
        kind: whose protocol is followed; by default the data set's own.
        draw: how images are drawn, instead of the protocol's way.

    Raises:
        InputError: for a data set that is not there, or does not fit the protocol.
    """
    if kind is not None and kind not in DRAWS:
        raise InputError(f"protocol {kind!r} is not known: take {', '.join(DRAWS)}")
    root = place_of(spec)
    if kind is None and spec and isinstance(root, Path) and is_voc(root):
        kind = "voc"
    elif kind is None and spec and isinstance(root, Path) and has_actions(root):
        kind = "voc-action"
    kind = kind or "own"
    draw = draw or DRAWS[kind]
    if kind in ("voc", "voc-action"):
        if draw != Splits(seed=draw.seed):
            raise InputError(f"{spec}: VOC brings its split: nothing is drawn a class")
        return replace(read_voc(root) if kind == "voc" else read_actions(root), draw=draw)
    # The embedded data sets' names are not looked for as folders: as `open_dataset`.
    embedded = spec == "digits" or spec.partition(":")[0] in ("fashion-mnist", *CIFARS, "")
    if not embedded and exists(root) and not is_file(root) and _is_unsplit(root):
        if draw.train_per_class is None:
            raise InputError(
                f"{spec}: has no train/: say how many images of each class to learn from, by "
                "--protocol caltech-101 (30), --protocol caltech-256 (60) or --train-per-class N"
            )
        return _unsplit(root, kind, draw)
    return _with_split(open_dataset(spec), kind, draw)


def _is_unsplit(root: Place) -> bool:
    """Whether it has folders of classes, and no parts: nor shards, which have no folders."""
    found = subfolders(root)
    return bool(found) and not {"train", "val", "test"} & set(found)


def _unsplit(root: Place, kind: Kind, draw: Splits) -> Task:
    classes = list_classes(Tree(root))
    files = ImageFiles(root, Names.joined(list(classes.values())))
    labels = np.repeat(np.arange(len(classes)), [len(names) for names in classes.values()])
    names = tuple(classes)
    splits = [
        Split(*drawn(labels, None, names, draw, repetition))
        for repetition in range(draw.repetitions)
    ]
    return Task(
        name=data_set_name(root),
        kind=kind,
        class_names=names,
        parts={"images": Part(files, labels, files.names)},
        labels=one_of(labels, len(names)),
        splits=splits,
        flip=True,
        draw=draw,
    )


def _with_split(data: Dataset, kind: Kind, draw: Splits) -> Task:
    """Its test part is tested on. What this package holds out for the learning rate is learnt from
    too, but not where it is the test part (ImageNet)."""
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    names = data.validation.names
    if names is not None and names == data.test.names:
        del parts["validation"]
    labels = np.concatenate([part.labels for part in parts.values()])
    training, test = np.split(np.arange(len(labels)), [len(labels) - len(data.test)])
    splits = []
    for repetition in range(draw.repetitions):
        train, tested = drawn(labels[training], labels[test], data.class_names, draw, repetition)
        splits.append(Split(training[train], test[tested]))
    return Task(
        name=data.name,
        kind=kind,
        class_names=data.class_names,
        parts=parts,
        labels=one_of(labels, len(data.class_names)),
        splits=splits,
        flip=data.flip,
        draw=draw,
    )
