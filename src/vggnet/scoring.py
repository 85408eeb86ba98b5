"""From posteriors to errors: top-1 and top-5, their intervals, paired tests, confusions."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.protocols import Fusion, Protocol

Z = 1.959963984540054
"""The normal distribution's 97.5 % point."""


@dataclass(frozen=True, slots=True)
class Result:
    """Errors in percent with 95 % Wilson intervals, and the protocol that they come from."""

    protocol: Protocol | Fusion
    n: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float
    top5_interval: tuple[float, float]
    forwards_per_image: float | None = None
    """Views that went through a net, coinciding crops of a scale counted once."""
    multiply_adds_per_image: float | None = None
    unread: int = 0
    """Images that could not be read; they are not among the n."""

    def __str__(self) -> str:
        def one(error: float, bounds: tuple[float, float]) -> str:
            return f"{error:.2f} % [{bounds[0]:.2f}, {bounds[1]:.2f}]"

        return (
            f"top-1 error {one(self.top1, self.top1_interval)}, "
            f"top-5 error {one(self.top5, self.top5_interval)} (95 % intervals), n={self.n}\n"
            f"protocol: {self.protocol}"
            + f"\nnot counted: {self.unread:,} images that cannot be read"
            * bool(self.unread)
        )

    def to_json(self) -> dict[str, Any]:
        """As `vggnet evaluate --json` prints it; `unread` only where there are any."""
        found = {**asdict(self), "protocol": self.protocol.to_json()}
        if not self.unread:
            del found["unread"]
        return found


def errors(
    posteriors: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    protocol: Protocol | Fusion,
    forwards: float | None = None,
    multiply_adds: float | None = None,
) -> Result:
    """Counts errors: an image is right in top-k when its class is among the k highest (§4).

    Args:
        posteriors: n×K; a row of NaN is an image that could not be read.
        labels: n, each 0 to K - 1.
        protocol: what the posteriors come from.
        forwards: of a net, an image, if known.
        multiply_adds: an image, if known.

    Raises:
        InputError: when no image could be read.
    """
    read = ~np.isnan(posteriors[:, 0])
    rank = ranks(posteriors[read], labels[read])
    n = int(read.sum())
    if not n:
        raise InputError("no images to evaluate on: there are none, or none that can be read")
    wrong1, wrong5 = int((rank >= 1).sum()), int((rank >= 5).sum())
    return Result(
        protocol=protocol,
        n=n,
        top1=100 * wrong1 / n,
        top1_interval=wilson(wrong1, n),
        top5=100 * wrong5 / n,
        top5_interval=wilson(wrong5, n),
        forwards_per_image=forwards,
        multiply_adds_per_image=multiply_adds,
        unread=len(read) - n,
    )


def ranks(posteriors: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each image, how many classes come before its own; 0 is a right answer."""
    own = np.take_along_axis(posteriors, labels[:, None], axis=1)
    # Of equal posteriors the class of the lower index ranks higher, as in argmax: a net that says
    # the same of every class does not come out right.
    before = np.arange(posteriors.shape[1]) < labels[:, None]
    rank: NDArray[np.int64] = ((posteriors > own) | ((posteriors == own) & before)).sum(axis=1)
    return rank


def wilson(wrong: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of an error rate, in percent.

    Args:
        wrong: number of errors, 0 to n.
        n: number of images, 1 or more.
    """
    p = wrong / n
    centre = p + Z * Z / (2 * n)
    half = Z * (p * (1 - p) / n + Z * Z / (4 * n * n)) ** 0.5
    low, high = (centre - half) / (1 + Z * Z / n), (centre + half) / (1 + Z * Z / n)
    # At 0 and n the bound is exactly 0 or 1; rounding may leave it a hair off.
    return (0.0 if wrong == 0 else 100 * low), (100.0 if wrong == n else 100 * high)


def mcnemar(only_first: int, only_second: int) -> float:
    """p of McNemar's exact test, two-sided: do two classifiers err equally often?

    Of the images that one of the two alone gets wrong, each is as likely the first's as the
    second's if they are equally good: a binomial distribution with p = 1/2.

    Args:
        only_first: images that the first alone gets wrong.
        only_second: images that the second alone gets wrong.
    """
    n, k = only_first + only_second, min(only_first, only_second)
    # In whole numbers, so that nothing under- or overflows.
    tail = term = 1
    for i in range(k):
        term = term * (n - i) // (i + 1)  # n over i + 1
        tail += term
    return min(1.0, float(2 * tail / 2**n))


def gain_interval(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """The 95 % interval of the second's gain over the first, in points of top-1 error.

    Of the difference of two paired rates by its normal approximation, with half an image added to
    each count (Agresti & Min 2005), so that few or no differing images do not pretend certainty.
    """
    a, b, m = only_first + 0.5, only_second + 0.5, n + 2
    gain = (a - b) / m
    half = Z * (((a + b) - (a - b) ** 2 / m) ** 0.5) / m
    return 100 * (gain - half), 100 * (gain + half)


def confused_pairs(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], most: int
) -> list[tuple[int, int, int]]:
    """(class, what it was taken for, how often), the most frequent first; ties by class."""
    wrong = predicted != labels
    pairs = Counter(zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    order = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return [(true, other, count) for (true, other), count in order[:most]]
