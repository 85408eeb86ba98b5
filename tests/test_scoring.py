"""Counts, intervals and paired tests against others' code and closed forms."""

import numpy as np
import pytest
from scipy.stats import binomtest

from vggnet.protocols import Protocol
from vggnet.scoring import confused_pairs, errors, gain_interval, mcnemar, ranks, wilson


def test_errors_are_counted_as_argmax_and_topk_do() -> None:
    rng = np.random.default_rng(0)
    found = np.round(rng.random((500, 12)), 1)  # many ties
    labels = rng.integers(0, 12, 500)
    result = errors(found, labels, Protocol("A", 37, (37,)))
    assert result.top1 == pytest.approx(100 * (found.argmax(axis=1) != labels).mean())
    assert ((ranks(found, labels) > 0) == (found.argmax(axis=1) != labels)).all()
    best = np.argsort(-found, axis=1, kind="stable")[:, :5]
    assert result.top5 == pytest.approx(100 * (best != labels[:, None]).all(axis=1).mean())
    same = errors(np.full((10, 12), 1 / 12), np.arange(10), Protocol("A", 37, (37,)))
    assert (same.top1, same.top5) == (90, 50)


@pytest.mark.parametrize(
    ("wrong", "n"), [(0, 1), (1, 1), (0, 500), (13, 500), (499, 500), (500, 500), (3, 7)]
)
def test_the_interval_is_scipys_wilson(wrong: int, n: int) -> None:
    expected = binomtest(wrong, n).proportion_ci(0.95, method="wilson")
    assert wilson(wrong, n) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)
    low, high = wilson(wrong, n)
    assert 0 <= low <= 100 * wrong / n <= high <= 100


@pytest.mark.parametrize(
    ("first", "second"),
    [(0, 0), (1, 0), (0, 6), (5, 5), (5, 6), (2, 14), (30, 11), (700, 811), (4000, 3000), (0, 300)],
)
def test_mcnemar_is_scipys_exact_binomial_test(first: int, second: int) -> None:
    n = first + second
    expected = binomtest(first, n).pvalue if n else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(first, second) == mcnemar(second, first)


def test_the_gains_interval_covers_the_truth() -> None:
    """Paired errors drawn with a known gain of 2 points: 95 % of the intervals hold it."""
    rng = np.random.default_rng(0)
    n, trials, inside = 400, 2000, 0
    for only_first, only_second, _ in rng.multinomial(n, [0.05, 0.03, 0.92], size=trials):
        low, high = gain_interval(int(only_first), int(only_second), n)
        inside += low <= 2 <= high
    assert 0.93 < inside / trials < 0.975
    low, high = gain_interval(0, 0, 500)  # no difference seen is no certainty
    assert low < 0 < high
    assert (low, high) == pytest.approx((-high, high))


def test_confused_pairs_are_counted_and_ordered() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    predicted = np.array([0, 1, 1, 0, 1, 1, 1, 2])
    assert confused_pairs(predicted, labels, 9) == [(0, 1, 2), (2, 1, 2), (1, 0, 1)]
    assert confused_pairs(predicted, labels, 1) == [(0, 1, 2)]
    assert confused_pairs(labels, labels, 5) == []
