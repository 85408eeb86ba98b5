"""Encoded files to pixels, and the geometry of images: arrays of H×W×3, uint8, RGB, upright."""

import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from vggnet.errors import InputError

try:
    import simplejpeg
except ImportError:  # the extra `fast`
    simplejpeg = None

Pixels = NDArray[np.uint8]
"""An image, H×W×3, RGB, 0–255."""
Window = tuple[int, int, int, int]
"""A part of an image: its top, left, height and width in pixels."""

_WHOLE_IS_FASTER = 4
"""PyTorch's resize is vectorised and takes whole images; Pillow's computes a window alone, and is
faster where the rescaled image has more than so many times the window's pixels (docs/LOG.md)."""
Image.init()
FORMATS = tuple(name for name in (
    "JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "AVIF", "JPEG2000"
) if name in Image.OPEN)  # fmt: skip
"""What is read, whatever a name says. Not what Pillow leaves to other programs, such as EPS."""
_REDUCTIONS = (8, 4, 2)
"""By which libjpeg divides both sides while it decodes, for less than a full decoding costs."""


def decode(source: str | Path | bytes) -> Pixels:
    """The image in a file, upright: turned as its EXIF orientation says.

    What it is tells the content, not the name. Grey, palette, CMYK and YCCK become RGB as Pillow
    converts them, without colour profiles; what is transparent lies on white; of an animation it is
    the first frame. Grey values of 16 bits are divided by 257, so that 65,535 becomes 255, and
    rounded; beyond 65,535 they are white; of colours of 16 bits Pillow takes the upper 8. A JPEG
    that is damaged in its midst has grey in place of the rest, as everywhere: see
    `EncodedImage.damaged`.

    Args:
        source: a path, or what the file holds.

    Raises:
        InputError: for a file that is missing, truncated, damaged, too large (Pillow refuses more
            than 179 million pixels), of floating-point values, or no image.
    """
    if isinstance(source, bytes):
        return EncodedImage(source, "image").pixels()
    return EncodedImage(read_file(source), str(source)).pixels()


def read_file(path: str | Path) -> bytes:
    """What a file holds.

    Raises:
        InputError: for a file that is missing or cannot be read.
    """
    with _explained(str(path)):
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a pipe might never end
            raise InputError("is a pipe, a socket or a device, not a file: remove it")
        return Path(path).read_bytes()


def finds_damage() -> bool:
    """Whether JPEGs of which a part is lost are known from others: with the extra `fast`."""
    return simplejpeg is not None


class EncodedImage:
    """An image as its file holds it. Its size is known; no more is decoded than a view needs.

    A JPEG that is to shrink is decoded at a half, a quarter or an eighth of its size by libjpeg,
    the smallest that is no smaller than the rescaled image, and rescaled from there (Pillow's
    `draft`). simplejpeg decodes the usual JPEGs where it is installed, to the same pixels.

    Args:
        content: the file's bytes.
        name: for messages.
        formats: what is taken, as Pillow calls it.
        most_pixels: an image of more is refused before it is decoded; Pillow refuses more than 179
            million.

    Raises:
        InputError: as `decode`, also where pixels are asked for.
    """

    def __init__(
        self,
        content: bytes,
        name: str,
        *,
        formats: tuple[str, ...] = FORMATS,
        most_pixels: int | None = None,
    ) -> None:
        self.name = name
        self._content = content
        self._all: Pixels | None = None
        with _explained(name):
            if not content:
                raise InputError("is empty: copy it again or remove it")
            image = Image.open(io.BytesIO(content), formats=formats)
            width, height = image.size
            if most_pixels is not None and width * height > most_pixels:
                raise InputError(
                    f"has {width}×{height} pixels; at most {most_pixels:,} are taken: scale it down"
                )
            self.format: str = image.format or "unknown"
            """As Pillow calls it: JPEG, PNG, …; by the content."""
            self.damaged: bool | None = None
            """Of a JPEG that was decoded: whether a part of it is lost, which libjpeg fills with
            grey. None where nothing tells: see `finds_damage`."""
            if self.format not in ("JPEG", "MPO"):  # all or nothing
                self._all = _upright(image)
                self.shape: tuple[int, int] = self._all.shape[:2]
                """Height and width in pixels, upright."""
                return
            self._image = image
            self._turned = image.getexif().get(ExifTags.Base.Orientation, 1)
            self.shape = (width, height) if self._turned in (5, 6, 7, 8) else (height, width)

    def pixels(self) -> Pixels:
        """The whole image in its own size."""
        if self._all is None:
            self._all = self._decoded(1)
        return self._all

    def rescaled(self, smallest_side: int) -> Pixels:
        """The image as `rescale` gives it, for testing."""
        size = scaled_size(*self.shape, smallest_side)
        image, extent = self._at_least(size)
        if image.shape[:2] == size == extent[2:]:
            return image
        top, left, height, width = extent
        return _resized(image, size, (left, top, left + width, top + height))

    def window(self, smallest_side: int, window: Window) -> Pixels:
        """A part of the rescaled image, for training, without the rest of it.

        It differs from the same part of `rescaled` by two levels at most, mostly by none: two
        resizes that round in other places.

        Args:
            smallest_side: S in pixels.
            window: of the rescaled image, whose size is `scaled_size(*shape, smallest_side)`.
        """
        height, width = size = scaled_size(*self.shape, smallest_side)
        image, extent = self._at_least(size)
        top, left, rows, columns = window
        if image.shape[:2] == size == extent[2:]:
            return image[top : top + rows, left : left + columns]
        if image.shape[:2] == extent[2:] and height * width <= _WHOLE_IS_FASTER * rows * columns:
            return _resized_whole(image, size)[top : top + rows, left : left + columns]
        first_row, first_column, content_height, content_width = extent
        down, across = content_height / height, content_width / width
        box = (
            first_column + left * across,
            first_row + top * down,
            first_column + (left + columns) * across,
            first_row + (top + rows) * down,
        )
        return _resized(image, (rows, columns), box)

    def reduced(self, smallest_side: int) -> Pixels:
        """The image decoded as small as it can be without a side below `smallest_side`.

        A file that is damaged is found so as well as by `pixels`.
        """
        return self._at_least(scaled_size(*self.shape, smallest_side))[0]

    def _at_least(self, size: tuple[int, int]) -> tuple[Pixels, tuple[float, float, float, float]]:
        """The image no smaller than a size, and its content's top, left, height and width there.

        The content is less than the array where a side is no multiple of the reduction; what is
        beyond it lies at the stored image's bottom and right, wherever these are seen.
        """
        if self._all is None:
            height, width = self.shape
            for reduction in _REDUCTIONS:
                if height >= reduction * size[0] and width >= reduction * size[1]:
                    image = self._decoded(reduction)
                    rows, columns = height / reduction, width / reduction
                    top = image.shape[0] - rows if self._turned in (3, 4, 7, 8) else 0.0
                    left = image.shape[1] - columns if self._turned in (2, 3, 6, 7) else 0.0
                    return image, (top, left, rows, columns)
        image = self.pixels()
        return image, (0.0, 0.0, *self.shape)

    def _decoded(self, reduction: int) -> Pixels:
        """The JPEG at 1/reduction of its size, upright."""
        with _explained(self.name):
            image = self._by_simplejpeg(reduction)
            if image is None:
                image = self._by_pillow(reduction)
            return _turn(image, self._turned)

    def _by_simplejpeg(self, reduction: int) -> Pixels | None:
        """None for what it does not take: four colours, and damage, on which Pillow has its say."""
        if simplejpeg is None or self._image.mode not in ("RGB", "L"):
            return None
        width, height = self._image.size
        wanted = -(-height // reduction), -(-width // reduction)
        try:
            image: Pixels = simplejpeg.decode_jpeg(
                self._content,
                "RGB",
                fastdct=False,
                fastupsample=False,
                min_height=0 if reduction == 1 else wanted[0],
                min_width=0 if reduction == 1 else wanted[1],
            )
        except ValueError:
            self.damaged = True
            return None
        self.damaged = False
        return image if image.shape[:2] == wanted else None

    def _by_pillow(self, reduction: int) -> Pixels:
        # Opened anew: Pillow's draft cannot be taken back, and another view may need more.
        with Image.open(io.BytesIO(self._content), formats=FORMATS) as image:
            assert isinstance(image, Image.Image)
            if reduction > 1:
                width, height = image.size
                image.draft(None, (width // reduction, height // reduction))
            return _rgb(image)


def _upright(image: Image.Image) -> Pixels:
    """All of an image that is no JPEG."""
    with image:
        image.load()  # after which a TIFF is upright already, and says so
        turned = image.getexif().get(ExifTags.Base.Orientation, 1)
        return _turn(_rgb(image), turned)


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
    return np.array(image.convert("RGB"))


def _turn(stored: Pixels, orientation: int) -> Pixels:
    """The stored image as it is to be seen, by EXIF 2.3's orientations."""
    if orientation in (5, 6, 7, 8):
        stored = stored.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What goes wrong with a file as one InputError that names it."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of half the size that it refuses, and of oddities that it reads anyway.
            warnings.filterwarnings("ignore", module=r"PIL\b")
            yield
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: not an image in a format that Pillow reads: convert or remove it"
        ) from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: too large ({error}): scale it down or remove it") from None
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # on damaged files its decoders raise nearly anything
        why = getattr(error, "strerror", None) or error or type(error).__name__
        raise InputError(
            f"{name}: cannot be read as an image ({why}): copy it again or remove it"
        ) from None


def scaled_size(height: int, width: int, smallest_side: int) -> tuple[int, int]:
    """Height and width after isotropic rescaling to a smallest side in pixels (§3.1).

    Raises:
        InputError: for a smallest side below 1.
    """
    if smallest_side < 1:
        raise InputError(f"smallest side {smallest_side} is not 1 or more")
    if height <= width:
        return smallest_side, max(smallest_side, round(width * smallest_side / height))
    return max(smallest_side, round(height * smallest_side / width)), smallest_side


def rescale(image: Pixels, smallest_side: int) -> Pixels:
    """The image rescaled isotropically to a `smallest_side` in pixels: S in training, Q in testing.

    Bilinear, antialiased when it shrinks. The paper does not name its filter.
    """
    size = scaled_size(image.shape[0], image.shape[1], smallest_side)
    if size == image.shape[:2]:
        return image
    return _resized(image, size, (0.0, 0.0, image.shape[1], image.shape[0]))


def _resized(
    image: Pixels, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Pixels:
    """A box of an image (left, top, right, bottom) as Pillow resizes it, to height and width."""
    filter = Image.Resampling.BILINEAR
    return np.array(Image.fromarray(image).resize((size[1], size[0]), filter, box=box))


def _resized_whole(image: Pixels, size: tuple[int, int]) -> Pixels:
    """As PyTorch resizes an image: by Pillow's filter, in integers of 16 bits."""
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    found = F.interpolate(planes, size, mode="bilinear", antialias=True, align_corners=False)
    return found[0].permute(1, 2, 0).numpy()
