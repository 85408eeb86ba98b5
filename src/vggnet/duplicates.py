"""Images with the same bytes in a data set: within its training part, and beyond it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggnet.index import PARTS, PartName, part_of
from vggnet.parts import Dataset


@dataclass(frozen=True, slots=True)
class Leak:
    """A training image that is among the validation or test images, too."""

    train: str
    """The first of the training images with these bytes."""
    part: PartName
    image: str


@dataclass(frozen=True, slots=True)
class Copies:
    """Images that are the same, byte by byte; of images in memory, pixel by pixel.

    Images are called by their names relative to the data set's folder, or by their index.
    """

    duplicates: tuple[tuple[str, ...], ...]
    """Training images that are the same, together."""
    leakage: tuple[Leak, ...]
    labels_differ: tuple[tuple[tuple[str, str], ...], ...]
    """Images that are the same and have different classes: each with its class."""


def find_copies(
    data: Dataset, digests: dict[PartName, tuple[NDArray[np.bytes_], NDArray[np.bool_]]]
) -> Copies:
    """Finds images with the same digest.

    Args:
        data: the data set.
        digests: for each part that is looked at, each image's digest, and whether it can be read;
            others are left out.
    """
    # In the order of the parts, so that training images come first among their like.
    parts = [name for name in PARTS if name in digests]
    index = [np.flatnonzero(digests[name][1]) for name in parts]
    part = np.repeat(np.arange(len(parts)), [len(found) for found in index])
    whole = np.concatenate([digests[name][0][i] for name, i in zip(parts, index, strict=True)])
    flat = np.concatenate(index)
    order = np.argsort(whole, kind="stable")
    same = whole[order][1:] == whole[order][:-1]
    first = np.flatnonzero(same & ~np.append(False, same[:-1]))  # of each group, its place
    duplicates, leakage, labels_differ = [], [], []
    for start in sorted(first.tolist(), key=lambda place: int(order[place])):
        end = start + 1
        while end <= len(same) and same[end - 1]:
            end += 1
        group = [(parts[part[i]], int(flat[i])) for i in order[start:end]]
        train = [_named(data, *image)[0] for image in group if image[0] == "train"]
        others = [image for image in group if image[0] != "train"]
        if len(train) > 1:
            duplicates.append(tuple(train))
        if train:
            leakage += [Leak(train[0], name, _named(data, name, i)[0]) for name, i in others]
        if len({int(part_of(data, name).labels[i]) for name, i in group}) > 1:
            labels_differ.append(tuple(_named(data, name, i) for name, i in group))
    return Copies(tuple(duplicates), tuple(leakage), tuple(labels_differ))


def _named(data: Dataset, name: PartName, i: int) -> tuple[str, str]:
    """What an image is called, and its class."""
    part = part_of(data, name)
    return part.name(i), data.class_names[part.labels[i]]
