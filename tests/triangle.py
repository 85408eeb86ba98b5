"""An antialiased bilinear resize as its definition says, in float64 and in full."""

import numpy as np
from numpy.typing import NDArray

from vggnet.images import Pixels

Window = tuple[int, int, int, int]


def triangle(length: int, size: int) -> NDArray[np.float64]:
    """size×length: what share each of `length` pixels has in each of `size`.

    Pixel i of the result has its centre at (i + ½)·length/size. A pixel of the source weighs the
    less the farther its centre is from there, down to none at one pixel of the result's when it
    shrinks, at one of the source's when it grows. Beyond the border there is nothing.
    """
    scale = length / size
    centres = (np.arange(size) + 0.5) * scale
    away = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(1.0, scale)
    weights = np.clip(1 - away, 0, None)
    shares: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return shares


def resized(
    image: Pixels, size: tuple[int, int], part: Window | None = None
) -> NDArray[np.float64]:
    """An image at a size of height and width, or a part (top, left, height, width) of that."""
    top, left, rows, columns = part or (0, 0, *size)
    down = triangle(image.shape[0], size[0])[top : top + rows]
    across = triangle(image.shape[1], size[1])[left : left + columns]
    found: NDArray[np.float64] = np.einsum("yh,hwc,xw->yxc", down, image, across, optimize=True)
    return found
