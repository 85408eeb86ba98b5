"""Boxes and heat maps drawn into pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vggnet.errors import InputError
from vggnet.files import check_writable, write_atomically
from vggnet.images import Pixels

_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4")
_SMALLEST = 400
"""A smaller picture is enlarged, so that words fit in it."""


def check(out: Path) -> None:
    """Raises InputError for a name that a picture cannot be written to."""
    check_writable(out)
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"{out}: give a name that ends in .png or .jpg")


def drawn(
    image: Pixels, boxes: Sequence[tuple[float, float, float, float]], words: Sequence[str]
) -> Pixels:
    """The picture with its boxes, the first on top, and a word at each.

    Args:
        image: H×W×3; one below 400 pixels is enlarged by a whole number.
        boxes: left, top, right and bottom in pixels of the image.
        words: as many.
    """
    times = max(1, -(-_SMALLEST // max(image.shape[:2])))
    height, width = (side * times for side in image.shape[:2])
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    line = max(2, min(height, width) // 150)
    font = ImageFont.load_default(size=max(12, min(height, width) // 25))
    for i, (box, word) in reversed(list(enumerate(zip(boxes, words, strict=True)))):
        colour = _COLOURS[i % len(_COLOURS)]
        left, top, right, bottom = (round(side * times) for side in box)
        right, bottom = max(left, right - 1), max(top, bottom - 1)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        x1, y1 = (round(side) for side in font.getbbox(word)[2:])
        x = min(left, max(0, width - x1 - 2 * line))
        y = top - y1 - 2 * line if top >= y1 + 2 * line else top
        draw.rectangle((x, y, x + x1 + 2 * line, y + y1 + 2 * line), fill=colour)
        draw.text((x + line, y + line), word, fill="white", font=font)
    return np.asarray(picture)


def overlaid(image: Pixels, values: NDArray[np.float32]) -> Pixels:
    """The picture with values over it in colours, the stronger the more.

    Args:
        image: H×W×3.
        values: H×W, 0 to 1.
    """
    import matplotlib

    colours = matplotlib.colormaps["inferno"](values)[..., :3] * 255
    share = 0.25 + 0.5 * values[..., None].clip(0, 1)
    return np.rint(image * (1 - share) + colours * share).astype(np.uint8)


def save_picture(picture: Pixels, out: Path) -> None:
    """Writes a picture, as PNG or JPEG by the name's ending.

    Raises:
        InputError, RunError: as `write_atomically`.
    """
    kind = "PNG" if out.suffix.lower() == ".png" else "JPEG"
    write_atomically(out, lambda path: Image.fromarray(picture).save(path, kind))
