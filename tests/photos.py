"""Folders of small JPEGs for tests: smooth colours, so that a shift or another crop shows."""

from pathlib import Path

import numpy as np
from PIL import Image


def photo(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def write_photos(root: Path, parts: dict[str, int], classes: int = 2, seed: int = 0) -> Path:
    """`parts`: for each, images a class. Sizes differ from image to image, and are above 40."""
    rng = np.random.default_rng(seed)
    for part, count in parts.items():
        for label in range(classes):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(41, 120, 2).tolist()
                photo(rng, height, width).save(folder / f"{i:03}.jpg", quality=90)
    return root
