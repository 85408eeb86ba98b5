"""Generated JPEG files that are read like photographs."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PHOTOGRAPH = (375, 500)
"""Height and width in pixels of the files that the loader reads."""
_FIELDS = 6


def write_photographs(folder: Path, count: int, seed: int = 0) -> list[str]:
    """JPEG files of 500×375 with about the bits a pixel of photographs: noise whose amplitude falls
    with its frequency, colours varying a third as much as light.

    A photograph takes its light and its colours from a few fields of noise, shifted at random: they
    have no borders.

    Returns:
        The files' names.
    """
    rng = np.random.default_rng(seed)
    fields = [_noise(PHOTOGRAPH, rng) for _ in range(_FIELDS)]

    def shifted(field: int) -> NDArray[np.float64]:
        found: NDArray[np.float64]
        found = np.roll(fields[field], rng.integers(PHOTOGRAPH).tolist(), axis=(0, 1))
        return found

    names = [f"{i:04}.jpg" for i in range(count)]
    for name in names:
        light, *colours = (shifted(field) for field in rng.permutation(_FIELDS)[:4])
        planes = [127.5 + 50 * light + 16 * colour for colour in colours]
        pixels = np.stack(planes, axis=2).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name, quality=80)
    return names


def _noise(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Of standard deviation 1, periodic."""
    height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) / frequency**1.6
    found: NDArray[np.float64] = np.fft.irfft2(spectrum, s=shape)
    found /= found.std()
    return found
