"""ImageNet (ILSVRC-2012): its layout, its synsets, and the devkit's classes of its images."""

import io
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from vggnet.errors import InputError
from vggnet.folders import (
    Classes,
    Folder,
    Tree,
    as_folder,
    check_classes,
    count,
    images_in,
    list_classes,
    subfolders,
    validation_folder,
    with_train,
)
from vggnet.storage import Names, Place, is_file, read

_SYNSET = re.compile(r"n[0-9]{8}")
_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_DEVKIT = ("", "data", "ILSVRC2012_devkit_t12/data", "devkit/data")


def is_imagenet(root: Place) -> bool:
    """Whether the folders in its `train/` are called as synsets are.

    Raises:
        InputError: for a folder that cannot be read.
    """
    labels = subfolders(root / "train") if "train" in subfolders(root) else []
    return bool(labels) and _are_synsets(labels)


def read_imagenet(root: Place) -> Folder:
    """Lists ImageNet or some of its synsets, as `folders.read_folder` other images.

    `datasets.open_dataset` describes the layout. The name is that of the folder; imagenet where
    the synsets are the 1,000 of ILSVRC-2012.

    Raises:
        InputError: for a folder that is not as described, or cannot be read.
    """
    tree, found = Tree(root), subfolders(root)
    train = list_classes(tree, "train")
    # ImageNet's own test images come without classes.
    if "test" in found and not any(map(_SYNSET.fullmatch, subfolders(root / "test"))):
        found.remove("test")
    given = validation_folder(root, found)
    if not given:
        parts = with_train(tree, train, found)
    elif "test" in found:
        test = list_classes(tree, "test", like=train)
        parts = train, _validation(tree, given, train), test, ""
    else:
        validation = _validation(tree, given, train)
        note = (
            f"as in the paper, ImageNet's validation images ({given}/, {count(validation)}) "
            "are both the validation and the test part: the learning-rate schedule has seen "
            "the images that the errors are reported on"
        )
        parts = train, validation, validation, note
    folder = as_folder(tree, parts)
    return replace(folder, name="imagenet") if train.keys() == synset_names().keys() else folder


def _validation(tree: Tree, part: str, train: Classes) -> Classes:
    if subfolders(tree.root / part):
        return list_classes(tree, part, like=train)
    return _flat_validation(tree, part, train)


def synset_names() -> dict[str, str]:
    """The 1,000 synsets of ILSVRC-2012, in order, and a readable name of each, all different.

    The name is WordNet's first word; where two synsets share it, the synset is added to both:
    'crane (n02012849)'.
    """
    text = (files("vggnet") / "data" / "imagenet_synsets.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()]
    first = {synset: words.split(",")[0].strip() for synset, words in rows}
    uses = Counter(first.values())
    return {
        synset: word if uses[word] == 1 else f"{word} ({synset})" for synset, word in first.items()
    }


def devkit_classes(meta_mat: str | Path) -> dict[int, int]:
    """ILSVRC2012_ID, 1 to 1,000, → index of the class in the order of the synsets, from 0.

    The devkit numbers its classes in an order of its own, in which some publish their ground truth
    and predictions; Caffe, Keras, torchvision and this package take them by synset.

    Args:
        meta_mat: the devkit's `data/meta.mat`.

    Raises:
        InputError: for a file that is not there, or not the devkit's; or without SciPy.
    """
    path = Path(meta_mat)
    index = {synset: i for i, synset in enumerate(synset_names())}
    found = {number: index[synset] for number, synset in _synsets(path).items() if synset in index}
    if sorted(found) != list(range(1, 1001)) or len(set(found.values())) < 1000:
        raise InputError(
            f"{path}: does not number the 1,000 classes of ILSVRC-2012 ({len(found):,} of them are "
            "in it): take the meta.mat of ILSVRC2012_devkit_t12.tar.gz"
        )
    return found


def _are_synsets(labels: Iterable[str]) -> bool:
    return all(_SYNSET.fullmatch(label) for label in labels)


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The folders' names; where all are synsets, WordNet's words for those that are known."""
    known = synset_names() if _are_synsets(labels) else {}
    return tuple(known.get(label, label) for label in labels)


def _flat_validation(tree: Tree, part: str, train: Classes) -> Classes:
    """Validation images that lie side by side, with their classes from ILSVRC-2012's devkit."""
    folder = tree.root / part
    names = sorted(images_in(tree, part))
    if not names:
        raise InputError(f"{folder}: has neither images nor folders of classes: put them there")
    truth, meta = (_devkit(tree.root, folder, name) for name in (_TRUTH, _META))
    ids = _ground_truth(truth)
    if len(ids) != len(names):
        raise InputError(
            f"{folder}: has {len(names):,} images, and {truth} has classes for {len(ids):,}: "
            "all images must be there, and no others; to use some, sort them into folders by "
            "synset"
        )
    for number, name in enumerate(names, start=1):
        if name.split(".")[0] != f"{part}/ILSVRC2012_val_{number:08d}":
            raise InputError(
                f"{tree.root / name}: expected ILSVRC2012_val_{number:08d}.JPEG: the devkit has "
                "the classes in the order of the original file names: restore them"
            )
    # The devkit numbers the synsets in an order of its own, which is not that of their names.
    synsets = _synsets(meta)
    unknown = sorted(set(ids) - synsets.keys())
    if unknown:
        raise InputError(f"{truth}: has the id {unknown[0]}, which {meta} does not: use one devkit")
    classes: dict[str, list[str]] = {}
    for name, number in zip(names, ids, strict=True):
        classes.setdefault(synsets[number], []).append(name)
    check_classes(folder, list(classes), train)
    return {label: Names.of(of_class) for label, of_class in classes.items()}


def _devkit(root: Place, images: Place, name: str) -> Place:
    places = [root / place for place in _DEVKIT]
    for place in places:
        if is_file(place / name):
            return place / name
    raise InputError(
        f"{images}: the images are not in folders by synset, and {name}, which has their "
        f"classes, is in none of {', '.join(map(str, places))}: unpack "
        f"ILSVRC2012_devkit_t12.tar.gz in {root}"
    )


def _ground_truth(path: Place) -> list[int]:
    try:
        lines = read(path).decode("ascii").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read ({error}): unpack the devkit again") from None
    for number, line in enumerate(lines, start=1):
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", line):
            raise InputError(
                f"{path}, line {number}: {line[:40]!r} is not the number of a synset: unpack the "
                "devkit again"
            )
    return [int(line) for line in lines]


def _synsets(path: Place) -> dict[int, str]:
    """From the devkit's meta.mat: ILSVRC2012_ID → WNID, leaves and inner nodes alike."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise InputError(
            f"{path}: reading it needs SciPy: pip install 'vggnet[imagenet]'"
        ) from None
    content = io.BytesIO(read(path))
    try:
        rows: Any = np.atleast_1d(
            loadmat(content, squeeze_me=True, variable_names=["synsets"])["synsets"]
        )
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
    except Exception as error:  # SciPy's reader raises nearly anything on a damaged file
        raise InputError(
            f"{path}: cannot be read as the devkit's meta.mat ({error!r}): unpack the devkit again"
        ) from None
