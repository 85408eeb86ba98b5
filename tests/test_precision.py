"""Average precision against VOC's own words, recall and average precision against scikit-learn."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, recall_score

from vggnet import InputError
from vggnet.precision import (
    average_precision,
    precision_interval,
    precisions,
    recall_interval,
    recalls,
)
from vggnet.scoring import wilson
from vggnet.splits import one_of


def literally(scores: NDArray[np.float64], labels: NDArray[np.int8], rule: str) -> float:
    """As the development kits' VOCevalcls.m and VOCap.m have it, without ties."""
    ranked = [label for _, label in sorted(zip(-scores, labels, strict=True)) if label]
    n = sum(label > 0 for label in ranked)
    curve = []
    for end in range(1, len(ranked) + 1):
        right = sum(label > 0 for label in ranked[:end])
        curve.append((right, right / end))  # recall in images: n of them are all
    if rule == "11-point":
        best = [max(p for found, p in curve if 10 * found >= tenth * n) for tenth in range(11)]
        return float(sum(best)) / 11
    area, before = 0.0, 0
    for found, _ in curve:
        if found > before:
            area += (found - before) / n * max(p for other, p in curve if other >= found)
            before = found
    return float(area)


@pytest.mark.parametrize("rule", ["11-point", "area"])
@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_average_precision_is_vocs(rule: str, n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(40):
        scores = rng.permutation(n).astype(float)
        labels = rng.choice([-1, -1, 1, 0], n).astype(np.int8)
        labels[rng.integers(n)] = 1
        found = average_precision(scores, labels, rule)  # type: ignore[arg-type]
        assert found == pytest.approx(literally(scores, labels, rule), abs=1e-12)


def test_a_curve_computed_by_hand() -> None:
    """Of the class at places 1, 3 and 6: precisions 1, 2/3, 1/2."""
    labels = np.array([1, -1, 1, 0, -1, -1, 1], np.int8)
    scores = -np.arange(7.0)
    assert average_precision(scores, labels) == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    eleven = (4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11  # to 0.3, to 0.6, to 1
    assert average_precision(scores, labels, "11-point") == pytest.approx(eleven)


def test_the_area_is_scikit_learns_and_the_envelope() -> None:
    """scikit-learn's is without the envelope: never above, and equal where precision falls."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores, labels = rng.random(40), rng.choice([-1, 1], 40).astype(np.int8)
        assert average_precision(scores, labels) >= average_precision_score(labels > 0, scores)
    falling = np.array([1, 1, -1, 1, -1, -1, 1, -1, -1, -1, -1], np.int8)
    scores = -np.arange(11.0)
    expected = average_precision_score(falling > 0, scores)
    assert average_precision(scores, falling) == pytest.approx(expected)


def test_ties_and_difficult_images() -> None:
    labels = np.array([1, 1, -1, -1, -1, 1], np.int8)
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 4, 0, 2]):  # no order helps a constant
        assert average_precision(np.zeros(6), labels[order]) == pytest.approx(1 / 2)
    more = np.concatenate([labels, np.zeros(4, np.int8)])
    scores = np.arange(10.0) % 6
    assert average_precision(scores, more) == average_precision(scores[:6], labels)
    assert np.isnan(average_precision(np.zeros(2), -np.ones(2, np.int8)))
    with pytest.raises(InputError, match="'mean'"):
        average_precision(np.zeros(6), labels, "mean")  # type: ignore[arg-type]


def test_mean_class_recall_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    own = rng.choice(6, 300, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    scores = rng.random((300, 6)) + 0.5 * (own[:, None] == np.arange(6))
    expected = recall_score(own, scores.argmax(1), average="macro")
    labels = one_of(own, 6)
    assert recalls(scores, labels).mean() == pytest.approx(expected)
    assert np.isnan(recalls(np.c_[scores, scores[:, 0]], one_of(own, 7))[6])


def test_intervals() -> None:
    rng = np.random.default_rng(0)
    own = np.repeat([0, 1], 100)
    scores = one_of(np.where(rng.random(200) < 0.2, 1 - own, own), 2).astype(float)
    one_class = own == 0
    low, high = wilson(int((scores[one_class].argmax(1) == 0).sum()), 100)
    found = recall_interval(scores[one_class], one_of(own[one_class], 2))
    assert found == pytest.approx((low / 100, high / 100))  # of one class it is Wilson's
    # Of classes of one size about the Wilson interval of all images.
    low, high = wilson(int((scores.argmax(1) == own).sum()), 200)
    assert recall_interval(scores, one_of(own, 2)) == pytest.approx(
        (low / 100, high / 100), abs=0.01
    )
    noisy = one_of(own, 2) + rng.normal(0, 1.5, (200, 2))
    for rule in ("area", "11-point"):
        each = precisions(noisy, one_of(own, 2), rule)
        low, high = precision_interval(noisy, one_of(own, 2), rule)
        assert 0 < low < each.mean() < high < 1
        assert high - low < 0.2


def test_rows_of_one_image_are_drawn_together() -> None:
    """All rows twice have the same average precision: so have all draws of images."""
    rng = np.random.default_rng(0)
    labels = one_of(np.repeat([0, 1], 40), 2)
    scores = labels + rng.normal(0, 1.5, labels.shape)
    images = np.tile(rng.permutation(80), 2)
    twice, both = np.tile(scores, (2, 1)), np.tile(labels, (2, 1))
    found = precision_interval(twice, both, "area", images)
    order = np.argsort(images[:80])
    assert found == pytest.approx(precision_interval(scores[order], labels[order], "area"))
    assert np.ptp(precision_interval(twice, both, "area")) < 0.85 * np.ptp(found)


def test_the_bootstraps_spread_is_that_of_new_images() -> None:
    """Against the standard deviation over data sets that are drawn anew."""
    rng = np.random.default_rng(1)
    own = np.repeat([0, 1], 150)

    def drawn() -> NDArray[np.float64]:
        noisy: NDArray[np.float64] = one_of(own, 2) + rng.normal(0, 1.5, (300, 2))
        return noisy

    spread = np.std([precisions(drawn(), one_of(own, 2), "area").mean() for _ in range(300)])
    widths = [np.ptp(precision_interval(drawn(), one_of(own, 2), "area")) for _ in range(3)]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * spread, rel=0.25)
