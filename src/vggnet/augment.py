"""§3.1's augmentation: one random crop an image, a flip, a shift of its colour; and erasing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vggnet.images import Pixels, Window


@dataclass(frozen=True, slots=True)
class ColourPCA:
    """Principal components of the RGB values of a training set (Krizhevsky et al. 2012)."""

    components: NDArray[np.float64]
    """3×3, one column a component, of unit length, each times the standard deviation along it.

    In pixel units, 0–255. Krizhevsky's text multiplies with the eigenvalues of the covariance,
    whose unit is the square of the pixels' and whose effect therefore depends on their range; the
    standard deviations, the square roots, do not.
    """

    @classmethod
    def of_covariance(cls, covariance: NDArray[np.float64]) -> "ColourPCA":
        """From the 3×3 covariance of RGB values in 0–255."""
        values, vectors = np.linalg.eigh(covariance)
        # eigh leaves each vector's sign open: fix it, so that one seed gives one shift anywhere.
        signs = np.where(vectors.sum(axis=0) < 0, -1.0, 1.0)
        return cls(vectors * signs * np.sqrt(np.clip(values, 0, None)))

    def shift(self, rng: np.random.Generator, sigma: float) -> NDArray[np.float32]:
        """What to add to R, G and B of one image: a normal draw of `sigma` a component."""
        return (self.components @ rng.normal(0.0, sigma, 3)).astype(np.float32)


def jittered_side(sides: tuple[int, int], rng: np.random.Generator) -> int:
    """S for one image: uniform among the whole numbers from the first to the second, both in."""
    return int(rng.integers(sides[0], sides[1], endpoint=True))


def random_window(height: int, width: int, side: int, rng: np.random.Generator) -> Window:
    """A square of an image of this size, at a place drawn uniformly among all that fit."""
    top = int(rng.integers(height - side + 1))
    left = int(rng.integers(width - side + 1))
    return top, left, side, side


def random_flip(image: Tensor, rng: np.random.Generator) -> tuple[Tensor, bool]:
    """The image, H×W×3, or its mirror image, left to right, with equal chance; and which it is."""
    # PyTorch's flip is vectorised: a sixteenth of what a copy of NumPy's reversed view takes.
    return (image.flip(1), True) if rng.integers(2) else (image, False)


def erased(image: Pixels, rng: np.random.Generator, chance: float) -> Pixels:
    """The image, or with this chance a copy with a rectangle of random values in it.

    A departure, not in the paper: random erasing (Zhong et al. 2017, arXiv:1708.04896) with their
    numbers, an area of 2 to 40 %, height to width from 0.3 to 1/0.3, both uniform.
    """
    if rng.random() >= chance:
        return image
    rows, columns = image.shape[:2]
    while True:
        area = rng.uniform(0.02, 0.4) * rows * columns
        ratio = rng.uniform(0.3, 1 / 0.3)
        height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < height < rows and 0 < width < columns:
            break
    top, left = (int(rng.integers(free)) for free in (rows - height + 1, columns - width + 1))
    image = image.copy()
    noise = rng.integers(0, 256, (height, width, 3), np.uint8)
    image[top : top + height, left : left + width] = noise
    return image
