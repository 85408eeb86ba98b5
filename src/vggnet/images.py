"""Files to pixels, and the geometry of images: pure functions on H×W×3 arrays of uint8, RGB."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vggnet.errors import InputError

Pixels = NDArray[np.uint8]
"""An image, H×W×3, RGB, 0–255."""


def decode(path: str | Path) -> Pixels:
    """The image in a file, upright: turned as its EXIF orientation says.

    Grey, palette and CMYK become RGB as Pillow converts them, without colour profiles; what is
    transparent lies on white; of an animation it is the first frame. Grey values of 16 bits are
    divided by 257, so that 65,535 becomes 255, and rounded; beyond 65,535 they are white.

    Raises:
        InputError: for a file that is missing, truncated, damaged, too large (Pillow refuses more
            than 179 million pixels), of floating-point values, or no image.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns of half the size that it refuses, and of oddities that it reads anyway.
            warnings.filterwarnings("ignore", module=r"PIL\b")
            with Image.open(path) as image:
                return _rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: not an image in a format that Pillow reads: convert or remove it"
        ) from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: too large ({error}): scale it down or remove it") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # on damaged files its decoders raise nearly anything
        why = getattr(error, "strerror", None) or error or type(error).__name__
        raise InputError(
            f"{path}: cannot be read as an image ({why}): copy it again or remove it"
        ) from None


def _rgb(image: Image.Image) -> Pixels:
    if image.mode == "F":
        raise InputError("its values are floating-point, of no known range: convert it to 8 bits")
    if image.mode.startswith("I"):  # I;16 in either byte order; some formats give 16 bits as I
        grey = np.rint(np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


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
