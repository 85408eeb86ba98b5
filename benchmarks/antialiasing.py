"""Ways from a JPEG file to a crop of 224 of it at S = 256, their speeds and their errors."""

import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from turns import in_turns, ratio, speed
from vggnet.images import EncodedImage, Pixels, scaled_size

S, CROP = 256, 224


def triangle(length: int, size: int, start: int) -> np.ndarray:
    """CROP×length: the share of each source pixel in each of the window's, antialiased bilinear."""
    scale = length / size
    centres = (np.arange(start, start + CROP) + 0.5) * scale
    away = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(1.0, scale)
    weights = np.clip(1 - away, 0, None)
    shares: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return shares


def centre(size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] - CROP) // 2, (size[1] - CROP) // 2


def exact(path: Path) -> np.ndarray:
    """The centre window in float64, of the image that Pillow decodes in full."""
    with Image.open(path) as image:
        whole = np.asarray(image.convert("RGB")).astype(np.float64)
    size = scaled_size(whole.shape[0], whole.shape[1], S)
    rows, columns = (triangle(whole.shape[i], size[i], centre(size)[i]) for i in range(2))
    found: np.ndarray = np.einsum("yh,hwc,xw->yxc", rows, whole, columns, optimize=True)
    return found


def by_vggnet(path: Path) -> Pixels:
    image = EncodedImage(path.read_bytes(), path.name)
    return image.window(S, (*centre(scaled_size(*image.shape, S)), CROP, CROP))


def by_pillow(path: Path) -> Pixels:
    image = Image.open(path).convert("RGB")
    size = scaled_size(image.height, image.width, S)
    top, left = centre(size)
    image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + CROP, top + CROP)))


def cropping_ways() -> tuple[dict[str, Callable[[Path], Pixels]], dict[str, str]]:
    """What is installed, and how to install what is not."""
    ways: dict[str, Callable[[Path], Pixels]] = {"vggnet": by_vggnet, "Pillow": by_pillow}
    missing: dict[str, str] = {}
    try:
        import cv2
    except ImportError:
        line = "not installed: pip install opencv-python-headless"
        return ways, {"OpenCV INTER_LINEAR": line, "OpenCV INTER_AREA": line}
    cv2.setNumThreads(1)

    def read(path: Path) -> Pixels:
        image = cv2.imread(str(path))
        assert image is not None
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    def by_opencv(path: Path, filter: int) -> Pixels:
        image = read(path)
        size = scaled_size(image.shape[0], image.shape[1], S)
        top, left = centre(size)
        scaled = cv2.resize(image, size[::-1], interpolation=filter)
        return np.ascontiguousarray(scaled[top : top + CROP, left : left + CROP]).astype(
            np.uint8, copy=False
        )

    ways["OpenCV INTER_LINEAR"] = lambda path: by_opencv(path, cv2.INTER_LINEAR)
    ways["OpenCV INTER_AREA"] = lambda path: by_opencv(path, cv2.INTER_AREA)
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        import albumentations
    except ImportError:
        missing["albumentations"] = "not installed: pip install albumentations"
        return ways, missing
    smallest, flip = albumentations.SmallestMaxSize(S), albumentations.HorizontalFlip(p=0.5)
    usual = albumentations.Compose([smallest, albumentations.RandomCrop(CROP, CROP), flip])
    central = albumentations.Compose([smallest, albumentations.CenterCrop(CROP, CROP)])

    def by_albumentations(path: Path, pipeline: Any) -> Pixels:
        image = read(path)
        found: Pixels = pipeline(image=image)["image"]
        return found

    ways["albumentations"] = lambda path: by_albumentations(path, usual)
    ways["albumentations, centre"] = lambda path: by_albumentations(path, central)
    return ways, missing


def antialiasing(root: Path, count: int, rounds: int) -> dict[str, Any]:
    paths = sorted((root / "train").rglob("*-0000.jpg"))[:count]
    ways, missing = cropping_ways()
    for way in ways.values():
        way(paths[0])

    def timed(way: Callable[[Path], Pixels]) -> Callable[[], float]:
        return lambda: speed(len(way(path)[:1]) for path in paths)

    speeds = in_turns({name: timed(way) for name, way in ways.items()}, rounds)
    expected = [exact(path) for path in paths]
    found: dict[str, Any] = {}
    for name in ways:
        # The flips and places of a random pipeline are not to be compared; its centre's are.
        way = ways.get(f"{name}, centre", ways[name])
        errors = np.stack(
            [way(path) - window for path, window in zip(paths, expected, strict=True)]
        )
        found[name] = {
            "images_per_second": round(statistics.median(speeds[name]), 1),
            "vs_pillow": ratio(speeds, name, "Pillow"),
            "error_rms": round(float(np.sqrt((errors**2).mean())), 3),
            "error_max": round(float(np.abs(errors).max()), 1),
        }
    found.pop("albumentations, centre", None)
    return found | missing
