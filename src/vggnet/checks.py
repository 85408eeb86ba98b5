"""Looks at every image of a data set for `vggnet check-data`."""

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggnet.duplicates import find_copies
from vggnet.errors import InputError
from vggnet.findings import SIDES, Bad, Mislabelled, Reading, Report, Sizes
from vggnet.images import finds_damage, scaled_size
from vggnet.index import PARTS, Index, PartName, part_of
from vggnet.parts import Dataset
from vggnet.recipes import in_proportion
from vggnet.storage import EncodedImages

_SPEED_IMAGES, _SPEED_SECONDS = 200, 2.0
_FORMATS = {
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".png": ("PNG",),
    ".bmp": ("BMP", "DIB"),
    ".gif": ("GIF",),
    ".webp": ("WEBP",),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
    ".ppm": ("PPM",),
    ".pgm": ("PPM",),
}
"""What Pillow calls the formats that a suffix promises."""


def report(data: Dataset, index: Index | None, *, crop: int, workers: int) -> Report:
    """Looks at every image of a data set, or at what is known of it.

    Args:
        data: the data set.
        index: where its images are in files; it has been brought up to date for all its parts.
        crop: side of the crop in training, in pixels; speed is measured at the paper's S = 256 in
            proportion to it.
        workers: processes that the time for an epoch is estimated for; 0 counts as 1.
    """
    parts = {name: _facts(data, name, index) for name in PARTS}
    classes = len(data.class_names)
    mean, covariance = _statistics(data, index)
    return Report(
        dataset=data.name,
        note=data.note,
        class_names=data.class_names,
        total=sum(len(part.good) for part in _once(data, parts).values()),
        counts={
            name: np.bincount(part_of(data, name).labels, minlength=classes).tolist()
            for name in PARTS
        },
        bytes=sum(part.bytes for part in _once(data, parts).values()),
        crop=crop,
        sizes=_sizes([part.shapes[part.good] for part in _once(data, parts).values()], crop),
        formats=_counted(part.formats for part in _once(data, parts).values()),
        mislabelled=tuple(
            found for part in _once(data, parts).values() for found in part.mislabelled
        ),
        damaged=tuple(found for part in _once(data, parts).values() for found in part.damaged),
        finds_damage=finds_damage(),
        bad=tuple(found for part in _once(data, parts).values() for found in part.bad),
        copies=find_copies(
            data, {name: (part.digests, part.good) for name, part in _once(data, parts).items()}
        ),
        mean_rgb=mean,
        rgb_covariance=None if covariance is None else covariance.tolist(),
        reading=_reading(data, parts["train"].good, crop, workers),
    )


@dataclass(frozen=True, slots=True)
class _Facts:
    """Of a part's n images."""

    shapes: NDArray[np.int64]
    """n×2: height and width."""
    digests: NDArray[np.bytes_]
    """n, of 16 bytes, alike for files with the same bytes, or images with the same pixels."""
    good: NDArray[np.bool_]
    """n: whether it can be read."""
    bytes: int
    formats: dict[str, int]
    mislabelled: list[Mislabelled]
    damaged: list[str]
    bad: list[Bad]


def _facts(data: Dataset, name: PartName, index: Index | None) -> _Facts:
    images = part_of(data, name).images
    if index is None or not isinstance(images, EncodedImages):
        pixels = [hashlib.blake2b(f"{x.shape}".encode() + x.tobytes()) for x in images]
        return _Facts(
            np.array([image.shape[:2] for image in images], np.int64).reshape(-1, 2),
            np.array([found.digest()[:16] for found in pixels], "S16"),
            np.ones(len(images), np.bool_),
            sum(image.nbytes for image in images),
            {},
            [],
            [],
            [],
        )
    good, called = index.column(images, "reason") == 0, index.formats
    formats = index.column(images, "format")
    codes, counts = np.unique(formats[good], return_counts=True)
    return _Facts(
        np.stack([index.column(images, "height"), index.column(images, "width")], axis=1),
        index.column(images, "digest"),
        good,
        int(index.column(images, "size").clip(min=0).sum()),
        {called[code]: int(n) for code, n in zip(codes, counts, strict=True)},
        _mislabelled(images, formats, good, called),
        [images.where(i) for i in np.flatnonzero(index.column(images, "damaged") == 1).tolist()],
        [Bad(name, images.where(i), reason) for i, reason in index.bad(images)],
    )


def _once(data: Dataset, parts: dict[PartName, _Facts]) -> dict[PartName, _Facts]:
    """The parts; ImageNet's validation images, which are its test images too, once."""
    same = data.validation.names is not None and data.validation.names == data.test.names
    return {name: part for name, part in parts.items() if not (same and name == "validation")}


def _mislabelled(
    images: EncodedImages, formats: NDArray[Any], good: NDArray[np.bool_], called: Sequence[str]
) -> list[Mislabelled]:
    found = []
    for i, (name, code, fine) in enumerate(zip(images.names, formats, good, strict=True)):
        expected = _FORMATS.get(PurePosixPath(name).suffix.lower()) if fine else None
        if expected is not None and called[code] not in expected:
            found.append(Mislabelled(images.where(i), called[code]))
    return found


def _counted(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sums, the largest first."""
    total: dict[str, int] = {}
    for found in counts:
        for name, n in found.items():
            total[name] = total.get(name, 0) + n
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def _sizes(parts: Sequence[NDArray[np.int64]], crop: int) -> Sizes | None:
    shapes = np.concatenate(parts)
    if not len(shapes):
        return None
    order = np.argsort(shapes.prod(axis=1, dtype=np.int64), kind="stable")
    smallest, median, largest = (
        (int(shapes[i, 0]), int(shapes[i, 1])) for i in order[[0, (len(order) - 1) // 2, -1]]
    )
    sides = shapes.min(axis=1)
    names = [f"<{SIDES[0]}", *(f"{a}-{b - 1}" for a, b in pairwise(SIDES))]
    counts = np.bincount(np.searchsorted(SIDES, sides, side="right"), minlength=len(SIDES) + 1)
    ranges = dict(zip([*names, f">={SIDES[-1]}"], counts.tolist(), strict=True))
    return Sizes(smallest, median, largest, ranges, int((sides < crop).sum()))


def _statistics(
    data: Dataset, index: Index | None
) -> tuple[tuple[float, float, float] | None, NDArray[np.float64] | None]:
    if index is not None and isinstance(data.train.images, EncodedImages):
        try:
            return index.statistics(data.train.images)
        except InputError:  # none can be read
            return None, None
    components = data.colour_pca.components
    return data.mean_rgb, components @ components.T


def _reading(data: Dataset, good: NDArray[np.bool_], crop: int, workers: int) -> Reading | None:
    """Of at most 200 evenly spaced training images, for 2 s at most, in this process."""
    images, readable = data.train.images, np.flatnonzero(good)
    if not isinstance(images, EncodedImages) or not len(readable):
        return None
    side, rng, done = in_proportion(256, crop), np.random.default_rng(0), 0
    used = min(len(readable), _SPEED_IMAGES)
    start = time.perf_counter()
    for i in range(used):
        try:
            opened = images.open(int(readable[i * len(readable) // used]))
            height, width = scaled_size(*opened.shape, side)
            top, left = rng.integers(height - crop + 1), rng.integers(width - crop + 1)
            opened.window(side, (int(top), int(left), crop, crop))
            done += 1
        except InputError:  # gone since it was checked
            continue
        if time.perf_counter() - start > _SPEED_SECONDS:
            break
    if not done:
        return None
    speed = done / (time.perf_counter() - start)
    return Reading(speed, workers, len(images) / speed / max(1, workers))
