"""Boxes: how they overlap, and the four numbers by which a net gives one (Appendix A).

A box is its left, top, right and bottom in pixels of an image. A net gives it as it lies in the
net's window: the centre, counted from the window's, to the right and down, then width and height.
The paper names these four and not their unit; here it is the window's side.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.images import Window

CORRECT = 0.5
"""A box is right when its IoU with the true one is above this."""


def in_window(
    box: NDArray[np.float64], shape: tuple[int, int], scaled: tuple[int, int], window: Window
) -> NDArray[np.float32]:
    """The four numbers of a box, also of one that the window does not hold or holds in part.

    Args:
        box: in the whole image.
        shape: height and width of that image.
        scaled: of the rescaled image, of which the window is a square part.
        window: top, left and sides.
    """
    top, left, side, _ = window
    across, down = scaled[1] / shape[1], scaled[0] / shape[0]
    x0, y0, x1, y1 = box * (across, down, across, down) - (left, top, left, top)
    numbers = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2, x1 - x0, y1 - y0
    return np.array(numbers, np.float32) / np.float32(side)


def mirrored(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of the window mirrored, left to right."""
    return numbers * np.array([-1, 1, 1, 1], np.float32)


def in_image(
    numbers: Tensor, corners: Tensor, side: int, shape: tuple[int, int], scaled: tuple[int, int]
) -> Tensor:
    """`in_window`'s inverse: …×4 boxes in the whole image, cut off at its borders.

    Args:
        numbers: …×4.
        corners: …×2, the windows' top and left in the rescaled image.
        side: of the windows.
        shape, scaled: as for `in_window`.
    """
    x, y, width, height = (numbers.double() * side).unbind(-1)
    top, left = corners.double().unbind(-1)
    x, y = x + left + side / 2, y + top + side / 2
    across, down = shape[1] / scaled[1], shape[0] / scaled[0]
    horizontal = torch.stack([x - width / 2, x + width / 2], -1) * across
    vertical = torch.stack([y - height / 2, y + height / 2], -1) * down
    horizontal, vertical = horizontal.clamp(0, shape[1]), vertical.clamp(0, shape[0])
    return torch.stack([horizontal, vertical], -1).flatten(-2)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """The area that boxes share over the area that they cover: 0 to 1.

    Args:
        boxes, others: …×4, of shapes that broadcast. A box of no area shares nothing.
    """
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    covered = _area(boxes) + _area(others) - shared
    return torch.where(shared > 0, shared / covered, 0.0)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def of_class(outputs: Tensor, labels: Tensor) -> Tensor:
    """The box of each image's class: N×4.

    Args:
        outputs: N×4, one box for all classes (scr), or N×4K, one for each (pcr).
        labels: N.
    """
    boxes = outputs.reshape(len(outputs), outputs.shape[1] // 4, 4)
    own = labels.clamp(max=boxes.shape[1] - 1)
    found: Tensor = boxes[torch.arange(len(boxes), device=boxes.device), own]
    return found


def loss(outputs: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The Euclidean loss of each image, and whether its box is wrong.

    Half the squared distance of the four numbers, as Caffe has it; of the boxes for each class
    (pcr), the one of the image's class alone counts.

    Args:
        outputs: N×4 or N×4K.
        labels: N.
        targets: N×4.
    """
    own = of_class(outputs, labels)
    losses = (own - targets).square().sum(1) / 2
    overlap = iou(_corners(own.detach()), _corners(targets))
    return losses, overlap <= CORRECT


def _corners(numbers: Tensor) -> Tensor:
    centre, size = numbers[..., :2], numbers[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def merged(boxes: Tensor, ratings: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes that lie close made one, greedily (Appendix A, after OverFeat, Sermanet et al. 2014).

    The two of the highest IoU become one, whose coordinates are the mean of all boxes in it and
    whose rating is their sum; again and again, until no two reach the threshold. Of pairs that
    overlap alike the first goes first.

    Args:
        boxes: G×n×4; the G sets are merged each for itself.
        ratings: G×n.
        threshold: IoU, above 0 and up to 1, from which two boxes lie close.

    Returns:
        Boxes and ratings of the same shapes, and G×n bools: which of them are left.
    """
    sets, n = ratings.shape
    boxes, ratings, count = boxes.clone(), ratings.clone(), torch.ones_like(ratings)
    left = torch.ones_like(ratings, dtype=torch.bool)
    overlap = iou(boxes[:, :, None], boxes[:, None])
    overlap.diagonal(dim1=1, dim2=2).fill_(-1)
    while sets:
        highest, pair = overlap.flatten(1).max(1)
        s = (highest >= threshold).nonzero()[:, 0]
        if not len(s):
            break
        i, j = pair[s] // n, pair[s] % n  # i < j: max takes the first of equals
        both = count[s, i] + count[s, j]
        share = (count[s, j] / both)[:, None]
        boxes[s, i] = torch.lerp(boxes[s, i], boxes[s, j], share)
        ratings[s, i] += ratings[s, j]
        count[s, i], left[s, j] = both, False
        row = iou(boxes[s, i][:, None], boxes[s]).masked_fill(~left[s], -1)
        row[torch.arange(len(s)), i] = -1
        overlap[s, i], overlap[s, :, i] = row, row
        overlap[s, j], overlap[s, :, j] = -1, -1
    return boxes, ratings, left
