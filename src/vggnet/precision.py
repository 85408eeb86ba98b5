"""What Appendix B reports of a classifier's scores: average precision and mean class recall."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.scoring import wilson

Rule = Literal["11-point", "area"]
Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.int8]
"""1 for an image of the class, -1 for any other, 0 for a difficult one, which is left out."""

_DRAWS = 1000


def average_precision(scores: Scores, labels: Labels, rule: Rule = "area") -> float:
    """Of one class, 0 to 1; NaN where no image is of the class.

    The precision at a recall is the highest at this recall or above: a monotone envelope.
    `11-point`, VOC's up to 2009, is its mean at the recalls 0, 0.1, …, 1, which are compared
    exactly. `area`, VOC's from 2010, is the area under it.

    Of equal scores the images of other classes come first, in whatever order they are given: a
    classifier that says the same of all images gains nothing by it.

    Source: Everingham et al. 2010, IJCV 88, §4.2; the development kits' `VOCevalcls.m`.

    Args:
        scores: n; the higher, the more of the class.
        labels: n.
        rule: which of the two.

    Raises:
        InputError: for another rule.
    """
    if rule not in get_args(Rule):
        raise InputError(f"average precision {rule!r}: take {' or '.join(get_args(Rule))}")
    return _of_ranked(labels[_ranking(scores, labels)], rule)


def _ranking(scores: Scores, labels: Labels) -> NDArray[np.int64]:
    """The images from the first to the last, difficult ones left out."""
    order = np.lexsort((labels, -scores))
    known: NDArray[np.int64] = order[labels[order] != 0]
    return known


def _of_ranked(ranked: Labels, rule: Rule) -> float:
    """From labels in the order of their scores."""
    places = np.flatnonzero(ranked > 0)
    n = len(places)
    if not n:
        return float("nan")
    # Precision is highest just where an image of the class is found: the others need no look.
    precisions = np.arange(1, n + 1) / (places + 1)
    envelope = np.maximum.accumulate(precisions[::-1])[::-1]
    if rule == "11-point":
        found = -(-np.arange(11) * n // 10)  # images of the class that a recall of i/10 takes
        envelope = envelope[np.maximum(found, 1) - 1]
    return float(envelope.mean())


def precisions(scores: Scores, labels: Labels, rule: Rule) -> NDArray[np.float64]:
    """Each class's average precision; scores and labels n×K."""
    columns = zip(scores.T, labels.T, strict=True)
    return np.array([average_precision(*column, rule) for column in columns])


def precision_interval(
    scores: Scores, labels: Labels, rule: Rule, images: NDArray[np.int64] | None = None
) -> tuple[float, float]:
    """The 95 % interval of the mean average precision, 0 to 1, by the bootstrap's percentiles.

    The images are drawn anew, with replacement, 1,000 times by a fixed seed; a class of which none
    is drawn is left out of that mean.

    Args:
        scores, labels: n×K.
        rule: as for `average_precision`.
        images: n, the image of each row where several rows are of one, which is drawn with all of
            them: they are not independent. None: each row is an image.
    """
    own = np.arange(len(scores)) if images is None else np.unique(images, return_inverse=True)[1]
    rng, n = np.random.Generator(np.random.PCG64(0)), own.max() + 1
    drawn = [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(_DRAWS)]
    counts = np.stack(drawn)[:, own]
    found = np.empty((_DRAWS, scores.shape[1]))
    for k in range(scores.shape[1]):
        order = _ranking(scores[:, k], labels[:, k])
        ranked = labels[order, k]
        for i in range(_DRAWS):
            found[i, k] = _of_ranked(np.repeat(ranked, counts[i, order]), rule)
    of_draws = np.nanmean(found[~np.isnan(found).all(axis=1)], axis=1)
    low, high = np.percentile(of_draws, [2.5, 97.5])
    return float(low), float(high)


def recalls(scores: Scores, labels: Labels) -> NDArray[np.float64]:
    """Of each class the share of its images whose highest score is its own, 0 to 1.

    NaN for a class without images. Of equal scores the class of the lower index counts as highest.

    Args:
        scores: n×K.
        labels: n×K; one 1 in each row.
    """
    right, n = _right(scores, labels)
    return np.where(n > 0, right / np.maximum(n, 1), np.nan)


def recall_interval(scores: Scores, labels: Labels) -> tuple[float, float]:
    """The 95 % interval of the mean class recall, 0 to 1; arguments as for `recalls`.

    From every class's Wilson interval, whose distances from the recalls add up as independent
    errors do (MOVER: Zou & Donner 2008, Statistics in Medicine 27).
    """
    right, n = _right(scores, labels)
    right, n = right[n > 0], n[n > 0]
    own = right / n
    bounds = [wilson(*pair) for pair in zip(right.tolist(), n.tolist(), strict=True)]
    off = (np.array(bounds) / 100 - own[:, None]) / len(own)
    low, high = own.mean() + np.array([-1, 1]) * np.sqrt((off**2).sum(axis=0))
    return float(low), float(high)


def _right(scores: Scores, labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each class how many of its images are found, and how many there are."""
    own = labels.argmax(axis=1)
    classes = labels.shape[1]
    right = np.bincount(own[scores.argmax(axis=1) == own], minlength=classes)
    return right, np.bincount(own, minlength=classes)
