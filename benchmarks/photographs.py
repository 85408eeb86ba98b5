"""Generated photographs: JPEG files of the sizes and bits a pixel of real ones, for benchmarks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Kind:
    """How photographs of a set are made."""

    height: int
    width: int
    steep: float
    """Amplitudes fall with the frequency to this power."""
    grain: float
    """Standard deviation of white noise in levels, equal in R, G and B."""
    quality: int
    """As Pillow's JPEG writer counts; chroma is 4:2:0, its default."""

    @property
    def title(self) -> str:
        return f"{self.width}x{self.height}"


def photograph(kind: Kind, rng: np.random.Generator) -> Image.Image:
    """Noise whose amplitude falls with its frequency; colours vary a third as much as light."""
    shape = kind.height, kind.width
    light = _noise(shape, kind.steep, rng) * 50 + rng.normal(0, kind.grain, shape)
    planes = [127.5 + light + _noise(shape, kind.steep, rng) * 16 for _ in range(3)]
    return Image.fromarray(np.stack(planes, axis=2).clip(0, 255).astype(np.uint8))


def _noise(shape: tuple[int, int], steep: float, rng: np.random.Generator) -> np.ndarray:
    """Of standard deviation 1."""
    height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(shape, dtype=np.float32)) / frequency**steep
    found: np.ndarray = np.fft.irfft2(spectrum, s=shape)
    found /= found.std()
    return found


def write_folder(root: Path, kind: Kind, distinct: int, copies: int, seed: int = 0) -> float:
    """A data set of two classes: train/CLASS with `distinct` × `copies` files, val/CLASS with two.

    A copy differs from its original in bytes behind the end of the image.

    Returns:
        Bits a pixel in the mean, of files without these bytes.
    """
    rng, pixels = np.random.default_rng(seed), kind.height * kind.width
    for part in ("train", "val"):
        for label in ("a", "b"):
            (root / part / label).mkdir(parents=True)
    size = 0
    original = root / "original.jpg"
    for i in range(distinct):
        photograph(kind, rng).save(original, quality=kind.quality)
        content = original.read_bytes()
        size += len(content)
        for copy in range(copies):
            # Not a, b, a, b of the originals: each class has all of them, where there are copies.
            path = root / "train" / "ab"[(i + copy) % 2] / f"{i:04}-{copy:04}.jpg"
            path.write_bytes(content + copy.to_bytes(4))
        if i < 4:
            (root / "val" / "ab"[i % 2] / f"{i}.jpg").write_bytes(content + b"val")
    original.unlink()
    return round(8 * size / distinct / pixels, 2)
