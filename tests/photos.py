"""Folders of small JPEGs for tests: smooth colours, so that a shift or another crop shows."""

import csv
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


def write_annotated(root: Path) -> tuple[Path, Path]:
    """Photographs whose left half is said to be the object: their folder, and a table of boxes."""
    folder = write_photos(root / "data", {"train": 8, "val": 4, "test": 4})
    with (root / "boxes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "xmin", "ymin", "xmax", "ymax"])
        for path in sorted(folder.rglob("*.jpg")):
            with Image.open(path) as image:
                width, height = image.size
            rows.writerow([path.relative_to(folder).as_posix(), 0, 0, width // 2, height])
    return folder, root / "boxes.csv"
