"""Appendix B's classifier: a linear SVM for each class against the rest, on descriptors.

scikit-learn's `LinearSVC`: squared hinge loss, L2 penalty on weights and bias, liblinear's solver,
the dual one where there are fewer images than numbers in a descriptor. One C for all classes,
chosen on images that are held out of the training images; then all of them are learnt from.
"""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.precision import Labels, Scores
from vggnet.readers import processors

GRID = (0.01, 0.1, 1.0, 10.0, 100.0)
"""From which C is chosen."""
HELD_OUT = 0.2
"""Of the training images of each class, for choosing C (Appendix B)."""
_ITERATIONS = 1000
"""Of liblinear at most. Where the dual solver does not converge within them, as it may for a large
C, the primal one is asked, which has the same solution."""

Rows = NDArray[np.float32]
"""Descriptors, n×length."""
Step = Callable[[], object]
"""Called after each class."""


@dataclass(frozen=True)
class Classifier:
    """A score for each class: `rows @ weights.T + bias`."""

    weights: NDArray[np.float64]
    """K×length."""
    bias: NDArray[np.float64]
    """K."""
    converged: bool
    """Whether the solver did, for every class."""

    def scores(self, rows: Rows) -> NDArray[np.float64]:
        """n×K."""
        found: NDArray[np.float64] = rows @ self.weights.T + self.bias
        return found


def sklearn() -> Any:
    """scikit-learn; raises InputError where it is not installed."""
    try:
        import sklearn.svm
    except ImportError:
        raise InputError(
            "a linear SVM needs scikit-learn: pip install 'vggnet[transfer]'"
        ) from None
    return sklearn


def fit(rows: Rows, labels: Labels, C: float, step: Step = int) -> Classifier:  # noqa: N803
    """Learns from all the rows.

    Args:
        rows: n×length.
        labels: n×K: 1, -1, or 0 where a row counts neither for nor against a class. A class that
            has no 1, or no -1, gets a constant score.
        C: weighs the loss against the penalty, above 0.
        step: for a progress bar.
    """
    svm = sklearn().svm.LinearSVC
    dual = rows.shape[0] < rows.shape[1]
    wide = rows.astype(np.float64)  # once: liblinear computes in it

    def one(own: Labels) -> tuple[NDArray[np.float64], float, bool]:
        known = own != 0
        signs = np.unique(own[known])
        coefficients, bias, converged = np.zeros(rows.shape[1]), float(signs.sum()), True
        if len(signs) == 2:
            x, y = (wide, own) if known.all() else (wide[known], own[known])
            for solver in dict.fromkeys((dual, False)):
                found = svm(C=C, dual=solver, max_iter=_ITERATIONS, random_state=0).fit(x, y)
                if converged := bool(found.n_iter_ < _ITERATIONS):
                    break
            coefficients, bias = found.coef_[0], float(found.intercept_[0])
        step()
        return coefficients, bias, converged

    # The dual solver draws from a random generator that all threads share.
    threads = ThreadPoolExecutor(1 if dual else processors())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Liblinear failed to converge")
            found = list(threads.map(one, np.ascontiguousarray(labels.T)))
    finally:
        threads.shutdown(cancel_futures=True)
    weights, bias, converged = zip(*found, strict=True)
    return Classifier(np.stack(weights), np.array(bias), all(converged))


@dataclass(frozen=True, slots=True)
class Choice:
    """How C was chosen."""

    C: float
    held_out: list[float]
    """What was measured on the images held out, for each C of the grid."""
    converged: bool


def choose(
    rows: Rows,
    labels: Labels,
    grid: Sequence[float],
    measure: Callable[[Scores, Labels], float],
    seed: Sequence[int],
    step: Step = int,
) -> Choice:
    """The C of the grid with the highest measure on a fifth of the images; of equals the smallest.

    Args:
        rows, labels, step: as for `fit`.
        grid: values of C.
        measure: of the scores and labels of the images held out.
        seed: one or several numbers.
    """
    kept, held = hold_out(labels, seed)
    found, converged = [], True
    for C in sorted(grid):  # noqa: N806
        classifier = fit(rows[kept], labels[kept], C, step)
        found.append(measure(classifier.scores(rows[held]), labels[held]))
        converged &= classifier.converged
    return Choice(sorted(grid)[int(np.nanargmax(found))], found, converged)


def hold_out(labels: Labels, seed: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws a fifth of the images of each class, one at least of a class of two or more.

    An image of several classes counts as one of the rarest of them, one of none as of its own kind.

    Args:
        labels: n×K.
        seed: one or several numbers; the same give the same draw.

    Returns:
        The indices of the rest, and of those held out, in order.

    Raises:
        InputError: where no class has two images.
    """
    rng = np.random.Generator(np.random.PCG64([*seed, 1]))  # not the draw of the split
    positive = labels > 0
    rarity = np.where(positive, positive.sum(axis=0), len(labels) + 1)
    kind = np.where(positive.any(axis=1), rarity.argmin(axis=1), -1)
    held = np.zeros(len(labels), bool)
    for one in np.unique(kind):
        members = rng.permutation(np.flatnonzero(kind == one))
        if len(members) > 1:
            held[members[: max(1, round(HELD_OUT * len(members)))]] = True
    if not positive[held].any():
        raise InputError(
            "every class has a single training image, so that none can be held out to choose C: "
            "give two or more a class"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)
