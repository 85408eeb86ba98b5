"""Digits on photographs: images of `datasets.digits_on_photos`."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggnet.images import Pixels, decode

HEIGHT, WIDTH = 96, 128
"""Of a canvas, in pixels."""
SIDES = 32, 80
"""A digit's 8×8 values are scaled to a square between these sides, both in."""
COPIES = 3
"""Canvases of each digit, each with its own place, size, colour and background."""
_SEED = 14091556
_ZOOM = 1.35
"""A background is a part of a photograph, up to so many canvases wide and high."""
_INK = 0.5
"""The box is tight around values above this share of the darkest."""
_BRIGHT = 200, 255
"""Red, green and blue of the ink."""
_DARKER = 0.5
"""Backgrounds are dimmed by this, so that the ink is brighter than what is behind it."""


def drawn(
    digits: Sequence[Pixels], side: Literal["left", "right"], stream: int
) -> tuple[list[Pixels], list[NDArray[np.float64]]]:
    """`COPIES` canvases of each digit, and each one's box: 1×4, left, top, right, bottom.

    Args:
        digits: H×W×3, grey; 0 is no ink.
        side: half of the photographs that backgrounds are cut from.
        stream: of random numbers; other digits take another.
    """
    with (files("vggnet") / "data" / "photos.png").open("rb") as file:
        photos = np.split(decode(file.read()), 2)
    half = photos[0].shape[1] // 2
    halves = [photo[:, :half] if side == "left" else photo[:, half:] for photo in photos]
    rng = np.random.Generator(np.random.PCG64([_SEED, stream]))
    found = [_canvas(digit[:, :, 0], halves, rng) for digit in digits for _ in range(COPIES)]
    return [canvas for canvas, _ in found], [box for _, box in found]


def _canvas(
    digit: NDArray[np.uint8], photos: list[Pixels], rng: np.random.Generator
) -> tuple[Pixels, NDArray[np.float64]]:
    """A canvas and its digit's box, 1×4."""
    photo = photos[rng.integers(len(photos))]
    zoom = rng.uniform(1, _ZOOM)
    height, width = round(HEIGHT * zoom), round(WIDTH * zoom)
    top = int(rng.integers(photo.shape[0] - height + 1))
    left = int(rng.integers(photo.shape[1] - width + 1))
    part = Image.fromarray(np.ascontiguousarray(photo[top : top + height, left : left + width]))
    ground = (
        np.asarray(part.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), np.float64) * _DARKER
    )
    ground = ground[:, ::-1] if rng.integers(2) else ground
    side = int(rng.integers(*SIDES, endpoint=True))
    scaled = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    ink = np.asarray(scaled, np.float64) / 255
    row, column = (int(rng.integers(free - side + 1)) for free in (HEIGHT, WIDTH))
    place = np.s_[row : row + side, column : column + side]
    colour = rng.uniform(*_BRIGHT, 3)
    whole = ground.copy()
    whole[place] += ink[:, :, None] * (colour - ground[place])
    rows, columns = (np.flatnonzero((ink > _INK).any(axis)) for axis in (1, 0))
    box = column + columns[0], row + rows[0], column + columns[-1] + 1, row + rows[-1] + 1
    return np.rint(whole).clip(0, 255).astype(np.uint8), np.array([box], np.float64)
