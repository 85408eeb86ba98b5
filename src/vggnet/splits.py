"""What a frozen net is transferred to (Appendix B): images, their classes, how both are split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.parts import Part
from vggnet.precision import Labels, Rule

Kind = Literal["own", "caltech-101", "caltech-256", "voc", "voc-action"]


@dataclass(frozen=True, slots=True)
class Splits:
    """How training and test images are drawn."""

    train_per_class: int | None = None
    """None: all of a data set's own training images, once."""
    test_per_class: int | None = None
    """At most; None: the rest of the class, or all of a data set's own test images."""
    repetitions: int = 1
    seed: int = 0
    """One seed gives the same draws."""

    def __post_init__(self) -> None:
        for name in ("train_per_class", "test_per_class", "repetitions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name.replace('_', ' ')} {value} is not 1 or more")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed {self.seed} is not a whole number from 0 to 2147483647")
        if self.train_per_class is None and self.repetitions > 1:
            raise InputError(
                f"{self.repetitions} splits of all training images would be the same: give "
                "--train-per-class"
            )


DRAWS: dict[Kind, Splits] = {
    "own": Splits(),
    "voc": Splits(),
    "caltech-101": Splits(30, 50, 3),
    "caltech-256": Splits(60, None, 3),
    "voc-action": Splits(),
}
"""The protocols' (Appendix B)."""


@dataclass(frozen=True, slots=True)
class Split:
    """Indices of a task's images, in order."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """Images of several classes, and what is learnt from and tested on."""

    name: str
    kind: Kind
    class_names: tuple[str, ...]
    parts: Mapping[str, Part]
    """By name; the task's images are those of all parts, one part after the other."""
    labels: Labels
    """n×K: 1, -1, or 0 for a difficult one."""
    splits: Sequence[Split]
    flip: bool
    """Whether an image's mirror image is an image of its class."""
    rule: Rule | None = None
    """Of the average precision that is reported; None: the mean class recall is."""
    draw: Splits = DRAWS["own"]
    """How the splits were drawn."""
    images: NDArray[np.int64] | None = None
    """n: of several persons in one image the same number; None: each is an image of its own."""

    def used(self) -> "Task":
        """The same task without the images that are in none of its splits."""
        chosen = np.unique(np.concatenate([x for s in self.splits for x in (s.train, s.test)]))
        parts, start = {}, 0
        for name, part in self.parts.items():
            own = chosen[(chosen >= start) & (chosen < start + len(part))] - start
            start += len(part)
            if len(own):
                parts[name] = _subset(part, own)
        splits = [
            Split(np.searchsorted(chosen, s.train), np.searchsorted(chosen, s.test))
            for s in self.splits
        ]
        images = None if self.images is None else self.images[chosen]
        return replace(self, parts=parts, labels=self.labels[chosen], splits=splits, images=images)


def _subset(part: Part, chosen: NDArray[np.int64]) -> Part:
    # An image in memory is still called by its index in the whole part.
    return replace(part.subset(chosen), names=[part.name(i) for i in chosen.tolist()])


def one_of(labels: NDArray[np.int64], classes: int) -> Labels:
    """From an image's one class to n×K of 1 and -1."""
    return np.where(labels[:, None] == np.arange(classes), 1, -1).astype(np.int8)


def drawn(
    labels: NDArray[np.int64],
    test_labels: NDArray[np.int64] | None,
    class_names: Sequence[str],
    draw: Splits,
    repetition: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and test images of one repetition.

    Args:
        labels: the classes of the images that the training images are drawn from.
        test_labels: of those that the test images are drawn from; None: they are the same images,
            and what is learnt from is not tested on.
        class_names: for messages.
        draw: how many.
        repetition: from 0 on; each has its own draw.

    Returns:
        Indices, each in order.

    Raises:
        InputError: for a class that has too few images.
    """
    rng = np.random.Generator(np.random.PCG64([draw.seed, repetition]))
    train, test = [], []
    for k, name in enumerate(class_names):
        members = rng.permutation(np.flatnonzero(labels == k))
        count = len(members) if draw.train_per_class is None else draw.train_per_class
        needed = count + (test_labels is None)
        if len(members) < needed:
            raise InputError(
                f"class {name!r} has {len(members)} images: {count} are to be learnt from"
                + " and at least one to be tested on" * (test_labels is None)
                + ": lower --train-per-class, or move the class away"
            )
        train.append(members[:count])
        rest = members[count:]
        if test_labels is not None:
            rest = rng.permutation(np.flatnonzero(test_labels == k))
        test.append(rest[: draw.test_per_class])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))
