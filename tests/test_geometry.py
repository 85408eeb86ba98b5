"""Views of random sizes against Pillow's resize of the whole image, and one by definition."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from encoding import encoded, jpeg, orientation, picture, stored, with_exif
from triangle import Window, resized
from vggnet.images import EncodedImage, Pixels, scaled_size

some = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


@dataclass(frozen=True)
class Case:
    """An image that is seen upright as `height`×`width`, and a window of it at S."""

    height: int
    width: int
    smallest_side: int
    window: Window
    kind: str
    turned: int

    @property
    def size(self) -> tuple[int, int]:
        return scaled_size(self.height, self.width, self.smallest_side)

    def encode(self, upright: Pixels) -> bytes:
        content = stored(upright, self.turned)
        if self.kind == "PNG":
            exif = Image.Exif()
            exif[0x0112] = self.turned
            return encoded(content, "PNG", compress_level=1, exif=exif)
        return with_exif(jpeg(content, subsampling=self.kind), orientation(self.turned))


def windows(draw: st.DrawFn, size: tuple[int, int]) -> Window:
    rows, columns = (draw(st.integers(1, side)) for side in size)
    top, left = draw(st.integers(0, size[0] - rows)), draw(st.integers(0, size[1] - columns))
    return top, left, rows, columns


@st.composite
def in_full(draw: st.DrawFn) -> Case:
    """Where libjpeg reduces nothing: not to a half of either side, or no JPEG."""
    height, width = draw(st.integers(1, 900)), draw(st.integers(1, 900))
    kind = draw(st.sampled_from(("PNG", *SUBSAMPLINGS)))
    smallest = min(height, width)
    least = 1 if kind == "PNG" else smallest // 2 + 1
    # What a lean image grows to is bounded: the reference is of all of it.
    most = max(least, min(900, smallest * 1200 // max(height, width)))
    smallest_side = draw(st.integers(least, most))
    window = windows(draw, scaled_size(height, width, smallest_side))
    return Case(height, width, smallest_side, window, kind, draw(st.integers(1, 8)))


@st.composite
def reduced(draw: st.DrawFn) -> Case:
    """Where libjpeg reduces, and a quarter of the result's pixel is a level.

    S is from 16 to 40 and the longer side at most half as long again.
    """
    smallest_side = draw(st.integers(16, 40))
    shorter = draw(st.integers(2 * smallest_side + 2, 600))  # else a side may round up
    longer = draw(st.integers(shorter, shorter * 3 // 2))
    height, width = draw(st.permutations((shorter, longer)))
    kind = draw(st.sampled_from(SUBSAMPLINGS))
    window = windows(draw, scaled_size(height, width, smallest_side))
    return Case(height, width, smallest_side, window, kind, draw(st.integers(1, 8)))


def rough(height: int, width: int) -> Pixels:
    """A picture with grain, to which every pixel's weight matters."""
    grain = np.random.default_rng(height * 1000 + width).integers(-20, 21, (height, width, 3))
    return (picture(height, width) + grain).clip(0, 255).astype(np.uint8)


@some
@given(in_full())
def test_a_window_is_a_part_of_pillows_full_resize(case: Case) -> None:
    content = case.encode(rough(case.height, case.width))
    image = EncodedImage(content, "a")
    assert image.shape == (case.height, case.width)
    height, width = case.size
    whole = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    full = whole.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    expected = cut(np.asarray(full).astype(int), case.window)
    found = image.window(case.smallest_side, case.window)
    assert found.shape == (*case.window[2:], 3)
    assert np.abs(found - expected).max() <= 2
    height, width = case.size
    held = found.size / 3 * case.height * case.width / (height * width)
    if held >= 1000:  # pixels of the source: the mean of few is chance
        assert np.abs(found - expected).mean() < 0.3
    assert (image.rescaled(case.smallest_side) == np.asarray(full)).all()


@some
@given(reduced())
def test_where_libjpeg_reduces_nothing_is_shifted(case: Case) -> None:
    """Grey ramps of 4 levels or more a pixel of the result; grey, as chroma has a resolution of
    its own.

    Half a pixel of what libjpeg gives is a quarter of the result's at least: a level or more, all
    over the result. At a border the definition's triangle is cut off, which moves that pixel's
    centre of mass inwards by 2/21 of a pixel, which libjpeg's averages do not; and its last pixel,
    of which the image may fill a part, can do as much again.
    """
    for axis in (0, 1):
        slope = 240 / case.size[axis]
        image = EncodedImage(case.encode(ramp(case.height, case.width, axis)), "a")
        whole = EncodedImage(image._content, "a").pixels()
        assert max(image.reduced(case.smallest_side).shape[:2]) <= max(whole.shape) / 2 + 1
        found = image.rescaled(case.smallest_side)
        error = found - resized(whole, case.size)
        for border in (error[0], error[-1], error[:, 0], error[:, -1]):
            assert abs(border.mean()) <= 0.5 + slope * 4 / 21
        assert abs(error[1:-1, 1:-1].mean()) <= 0.75
        part = image.window(case.smallest_side, case.window).astype(int)
        assert np.abs(part - cut(found, case.window)).max() <= 2


@some
@given(reduced())
def test_where_libjpeg_reduces_the_colours_are_the_full_resizes(case: Case) -> None:
    """Rounding twice makes a third of a level in the mean; what else there is comes from chroma.

    Of 4:2:2, libjpeg reduces chroma across as far as luma, though it has half its pixels there: a
    colour is then that of two pixels, whose half difference is the bound.
    """
    image = EncodedImage(case.encode(picture(case.height, case.width)), "a")
    whole = EncodedImage(image._content, "a").pixels()
    error = np.abs(image.rescaled(case.smallest_side) - resized(whole, case.size))
    across = 200 / min(case.size)
    assert error.mean() <= (1 + across / 2 if case.kind == "4:2:2" else 1)
    part = image.window(case.smallest_side, case.window)
    error = np.abs(part - cut(image.rescaled(case.smallest_side).astype(int), case.window))
    assert error.max() <= 2


def ramp(height: int, width: int, axis: int) -> Pixels:
    """From 8 to 248, constant along the other axis."""
    values = 8 + 240 * (np.arange((height, width)[axis]) + 0.5) / (height, width)[axis]
    rows = values[:, None] if axis == 0 else values[None]
    grey = np.broadcast_to(np.rint(rows).astype(np.uint8), (height, width))
    return np.repeat(grey[..., None], 3, axis=2)


def cut(image: NDArray[Any], window: Window) -> NDArray[Any]:
    top, left, rows, columns = window
    return image[top : top + rows, left : left + columns]
