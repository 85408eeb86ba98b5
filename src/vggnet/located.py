"""Errors of boxes: who is wrong, by which of Appendix A's protocols."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vggnet.boxes import CORRECT, iou
from vggnet.distributed import World
from vggnet.errors import InputError
from vggnet.evaluate import OnBad
from vggnet.localize import MERGE, Localiser, Windows, known_class_boxes, localise
from vggnet.model import VGG
from vggnet.parts import Part
from vggnet.readers import shard
from vggnet.scoring import wilson

_ALONE = World()


@dataclass(frozen=True, slots=True)
class Located:
    """Errors in percent with 95 % Wilson intervals; an IoU of 1/2 or less is one."""

    n: int
    top1: float
    """Of the likeliest class's box, or of the known class's."""
    top1_interval: tuple[float, float]
    top5: float | None
    """Of the best of five guesses, each of another class; None where the class is known."""
    top5_interval: tuple[float, float] | None
    wrong: NDArray[np.float64]
    """Of each image 1 where its first guess is wrong, else 0, and the same of all five together:
    n×2, where the class is known n×1. NaN for an image that could not be read."""
    unread: int = 0

    @classmethod
    def of(cls, wrong: NDArray[np.float64]) -> "Located":
        """From what `wrong` holds.

        Raises:
            InputError: when no image could be read.
        """
        read = wrong[~np.isnan(wrong[:, 0])]
        n = len(read)
        if not n:
            raise InputError("no images to evaluate on: there are none, or none that can be read")
        errors = [100 * float(column.mean()) for column in read.T]
        bounds = [wilson(int(column.sum()), n) for column in read.T]
        both = len(errors) == 2
        return cls(
            n=n,
            top1=errors[0],
            top1_interval=bounds[0],
            top5=errors[1] if both else None,
            top5_interval=bounds[1] if both else None,
            wrong=wrong,
            unread=len(wrong) - n,
        )


def of_known_class(
    model: VGG,
    part: Part,
    scale: int,
    *,
    workers: int = 0,
    on_bad: OnBad | None = None,
    world: World = _ALONE,
    progress: str | None = None,
) -> Located:
    """The error of protocol 1; arguments as for `known_class_boxes` and `of_dense`."""

    def found(own: Part) -> Iterator[list[tuple[int, Tensor]] | InputError]:
        boxes = known_class_boxes(model, own.images, own.labels, scale, workers=workers)
        for label, box in zip(own.labels.tolist(), boxes, strict=True):
            yield box if isinstance(box, InputError) else [(label, box)]

    return _located(part, found, 1, on_bad, world, progress)


def of_dense(
    members: Sequence[Localiser],
    part: Part,
    *,
    known: bool = False,
    windows: Windows = "dense",
    merge: float = MERGE,
    flips: bool = True,
    workers: int = 0,
    on_bad: OnBad | None = None,
    world: World = _ALONE,
    progress: str | None = None,
) -> Located:
    """The error of protocol 2; a guess is right when class and box are, for any of the instances.

    Args:
        members, windows, merge, flips, workers: as for `localise`.
        part: images whose boxes are known.
        known: whether the class is known, as by protocol 1; then there is one guess.
        on_bad: gets the index of an image that cannot be read, and why; it is left out. Without it
            that is an InputError.
        world: processes that look at the images together, each at its share, and all make this
            call.
        progress: what to call a bar on a terminal; None for no bar.

    Raises:
        InputError: as `localise`, for a part without boxes, or when no image can be read.
    """

    def found(own: Part) -> Iterator[list[tuple[int, Tensor]] | InputError]:
        labels = own.labels if known else None
        for guesses in localise(
            members,
            own.images,
            labels=labels,
            windows=windows,
            merge=merge,
            flips=flips,
            workers=workers,
        ):
            if isinstance(guesses, InputError):
                yield guesses
            else:
                yield [(guess.label, torch.tensor(guess.box).double()) for guess in guesses]

    return _located(part, found, 1 if known else 2, on_bad, world, progress)


def _located(
    part: Part,
    found: Callable[[Part], Iterator[list[tuple[int, Tensor]] | InputError]],
    columns: int,
    on_bad: OnBad | None,
    world: World,
    progress: str | None,
) -> Located:
    if part.boxes is None:
        raise InputError("it is not known where the objects are: give their boxes")
    chosen = shard(len(part), world.rank, world.ranks)
    own = part.subset(chosen)
    assert own.boxes is not None
    wrong, bad = np.full((len(part), columns), np.nan), []
    bar = tqdm(
        total=len(own), desc=progress, unit="image", leave=False,
        disable=None if progress and world.is_first else True,
    )  # fmt: skip
    with bar:
        truths = zip(chosen.tolist(), own.labels.tolist(), own.boxes, strict=True)
        for (i, label, truth), guesses in zip(truths, found(own), strict=True):
            bar.update()
            if isinstance(guesses, InputError):
                if on_bad is None:
                    raise guesses
                bad.append((i, str(guesses)))
                continue
            right = [
                known == label and bool((iou(box, torch.from_numpy(truth)) > CORRECT).any())
                for known, box in guesses
            ]
            wrong[i] = (not right[0], not any(right))[:columns]
    for i, why in sorted(one for of_rank in world.gathered(bad) for one in of_rank):
        assert on_bad is not None
        on_bad(i, why)
    for rank, of_rank in enumerate(world.gathered(wrong)):
        wrong[rank :: world.ranks] = of_rank[rank :: world.ranks]
    return Located.of(wrong)
