"""A data set as a value: images and their classes in three parts, their mean and colours."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vggnet.augment import ColourPCA
from vggnet.images import Pixels
from vggnet.storage import EncodedImages

T = TypeVar("T")

STATISTICS_IMAGES = 10_000
"""Of a larger training set, the mean and the colours are those of so many of its images."""
STATISTICS_SIDE = 256
"""Images in files are decoded for them as small as they can be without a side below it."""
_ROWS = 256  # of four pixels: 256 · 255² is below 2^24, up to which float32 is exact
_BLOCK = 1 << 16  # pixels that are held as float32 at a time: they stay in the cache


@dataclass(frozen=True)
class Part:
    """Images, H×W×3 RGB 0–255 each, and their classes."""

    images: Sequence[Pixels]
    """In memory, or in files that are decoded on access."""
    labels: NDArray[np.int64]
    """n, each an index into the data set's class names."""
    names: Sequence[str] | None = None
    """Of images in files: the paths relative to the data set's folder, with forward slashes."""
    left_out: int = 0
    """How many more there would be, could they be read."""
    boxes: Sequence[NDArray[np.float64]] | None = None
    """Where the object of an image's class is: for each image k×4, left, top, right and bottom in
    pixels of the whole image, one row an instance. None where that is not known."""

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, kept: NDArray[np.int64]) -> "Part":
        """Some of its images, by their indices, in the order given."""
        images, names = self.images, self.names
        chosen = kept.tolist()
        some: Sequence[Pixels]
        if isinstance(images, EncodedImages):
            some = files = images.subset(kept)
            own = files.names if names is images.names else _chosen(names, chosen)
        else:
            some, own = [images[i] for i in chosen], _chosen(names, chosen)
        return Part(some, self.labels[kept], own, self.left_out, _chosen(self.boxes, chosen))

    def name(self, i: int) -> str:
        """What to call image `i`: its file, or its index in this part."""
        return str(i) if self.names is None else self.names[i]

    def where(self, i: int) -> str:
        """The whole path or URL of image `i`, or its index in this part."""
        images = self.images
        return images.where(i) if isinstance(images, EncodedImages) else str(i)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, over what the posteriors of this part depend on.

        Of images in memory: their shapes, pixels and labels. Of images in files: the files' names
        relative to the data set's folder, their sizes and times of change, and the labels; the
        files are not read.

        Raises:
            InputError: for a file that is gone.
        """
        return self._digest(with_times=True)

    @cached_property
    def identity(self) -> str:
        """As `fingerprint`, but without the files' times of change: a copy is the same part."""
        return self._digest(with_times=False)

    def _digest(self, *, with_times: bool) -> str:
        digest = hashlib.sha256(f"{len(self)} images\n".encode())
        digest.update(self.labels.astype("<i8").tobytes())
        for boxes in self.boxes or ():
            digest.update(boxes.astype("<f8").tobytes() + b";")
        if isinstance(self.images, EncodedImages):
            for name, size, changed in self.images.stamps():
                digest.update(f"{name}\0{size}\0{changed if with_times else ''}\0".encode())
        else:
            for image in self.images:
                digest.update(f"{image.shape} {image.dtype}\n".encode())
                digest.update(image.tobytes())
        return digest.hexdigest()


def _chosen(items: Sequence[T] | None, indices: list[int]) -> list[T] | None:
    return None if items is None else [items[i] for i in indices]


def other_classes(names: Sequence[str], data: "Dataset") -> str:
    """What to say of a net whose classes are not those of the data set."""
    own, theirs = (
        f"{', '.join(some[:3])}{', …' * (len(some) > 3)}" for some in (names, data.class_names)
    )
    return f"its classes, {own}, are not those of {data.name}, {theirs}"


@dataclass(frozen=True)
class Dataset:
    """A classification data set.

    The learning-rate schedule looks at `validation`; reported errors are those of `test`.

    The mean and the colours are `statistics`; without them those of the training images, one image
    in memory at a time; of more than 10,000 (`STATISTICS_IMAGES`), those of 10,000 that are evenly
    spaced in their order.
    """

    name: str
    """As runs, files and reports call it."""
    class_names: tuple[str, ...]
    """In the order of the labels."""
    train: Part
    validation: Part
    test: Part
    """Of ImageNet the same images as `validation` (§4)."""
    flip: bool
    """Whether an image's mirror image is an image of its class."""
    note: str = ""
    """How the images were split, where the data set did not bring a split; for the user."""
    statistics: tuple[tuple[float, float, float], NDArray[np.float64]] | None = None
    """`mean_rgb`, and the 3×3 covariance of R, G, B whose components are `colour_pca`; of all
    training images, where `index.checked` has found them."""

    @cached_property
    def trained_on(self) -> str:
        """SHA-256 over the training and validation images, by which a run knows its data again."""
        both = f"{self.train.identity} {self.validation.identity}"
        return hashlib.sha256(both.encode()).hexdigest()

    @property
    def mean_rgb(self) -> tuple[float, float, float]:
        """Mean R, G, B of the training images, each image weighing the same (§2.1)."""
        return self._colours[0]

    @property
    def colour_pca(self) -> ColourPCA:
        """Principal components of the training images' RGB values, each pixel weighing the same.

        §3.1, after Krizhevsky et al. 2012.
        """
        return self._colours[1]

    @cached_property
    def _colours(self) -> tuple[tuple[float, float, float], ColourPCA]:
        """Both from one pass over the images."""
        if self.statistics is not None:
            return self.statistics[0], ColourPCA.of_covariance(self.statistics[1])
        images, total = self.train.images, len(self.train)
        used = min(total, STATISTICS_IMAGES)
        means = np.empty((used, 3))
        pixels, sums, products = 0, np.zeros(3), np.zeros((3, 3))
        for i in range(used):
            index = i * total // used
            if isinstance(images, EncodedImages):
                opened = images.open(index)
                image, size = opened.reduced(STATISTICS_SIDE), math.prod(opened.shape)
            else:
                image = images[index]
                size = math.prod(image.shape[:2])
            own, squares = colour_sums(image)
            decoded = math.prod(image.shape[:2])
            means[i] = own / decoded
            pixels += size
            sums += own * (size / decoded)
            products += squares * (size / decoded)
        r, g, b = means.mean(axis=0)
        mean = sums / pixels
        covariance = products / pixels - np.outer(mean, mean)
        return (float(r), float(g), float(b)), ColourPCA.of_covariance(covariance)


def colour_sums(image: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Over an image's pixels the sums of R, G and B, and of their products with each other, 3×3.

    They are exact, up to 2^53: more than 10^11 pixels.
    """
    flat = image.reshape(-1)
    sums, products = np.zeros(12), np.zeros((12, 12))
    for start in range(0, len(flat), 3 * _BLOCK):
        block = flat[start : start + 3 * _BLOCK]
        rows = np.zeros((-(-len(block) // (_ROWS * 12)), _ROWS, 12), np.float32)
        rows.reshape(-1)[: len(block)] = block
        sums += (np.ones((1, _ROWS), np.float32) @ rows).sum(axis=(0, 1), dtype=np.float64)
        products += (rows.transpose(0, 2, 1) @ rows).sum(axis=0, dtype=np.float64)
    # Of a row's four pixels, the products of each with itself.
    own = np.einsum("iaib->ab", products.reshape(4, 3, 4, 3))
    return sums.reshape(4, 3).sum(axis=0), own
