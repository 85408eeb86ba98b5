"""Geometry of images: pure functions on H×W×3 arrays of uint8, RGB."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggnet.errors import InputError

Pixels = NDArray[np.uint8]
"""An image, H×W×3, RGB, 0–255."""


def scaled_size(height: int, width: int, smallest_side: int) -> tuple[int, int]:
    """Height and width after isotropic rescaling to a smallest side in pixels (§3.1)."""
    if height <= width:
        return smallest_side, max(smallest_side, round(width * smallest_side / height))
    return max(smallest_side, round(height * smallest_side / width)), smallest_side


def rescale(image: Pixels, smallest_side: int) -> Pixels:
    """The image rescaled isotropically to a smallest side in pixels: S in training, Q in testing.

    Bilinear, antialiased when it shrinks. The paper does not name its filter.
    """
    if smallest_side < 1:
        raise InputError(f"smallest side {smallest_side} is not 1 or more")
    height, width = scaled_size(image.shape[0], image.shape[1], smallest_side)
    if (height, width) == image.shape[:2]:
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def crop_at(image: Pixels, top: int, left: int, side: int) -> Pixels:
    """The square crop with its corner at (top, left)."""
    return image[top : top + side, left : left + side]


def centre_crop(image: Pixels, side: int) -> Pixels:
    """The centre crop as torchvision and timm cut it: odd margins by Python's rounding."""
    height, width = image.shape[:2]
    return crop_at(image, round((height - side) / 2), round((width - side) / 2), side)
