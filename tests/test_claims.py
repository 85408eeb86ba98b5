"""Verdicts on made-up rows whose wrong images are known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from vggnet.claims import CLAIMS, compare, judged, key
from vggnet.graph import Grid, Row, Settings, grid


@pytest.fixture(scope="module")
def whole() -> Grid:
    return grid("digits", 10, False, Settings(crop=32))


def wrong(*images: range) -> NDArray[np.bool_]:
    found = np.zeros(500, dtype=bool)
    for chosen in images:
        found[list(chosen)] = True
    return found


def verdicts(whole: Grid, errors: dict[str, NDArray[np.bool_]]) -> dict[str, str]:
    """Errors by net at S = 37 in table 3; every other row is wrong on the same ten images."""

    def of(row: Row) -> NDArray[np.bool_]:
        name = row.members[0].run.name
        return errors.get(name, wrong(range(10)))

    return {claim["claim"]: claim["verdict"] for claim in judged(whole.rows, of)}


def test_every_claim_finds_its_rows(whole: Grid) -> None:
    found = judged(whole.rows, lambda _: wrong())
    assert [claim["claim"] for claim in found] == [claim.text for claim in CLAIMS]
    counts = [len(claim["comparisons"]) for claim in found]
    assert counts == [1, 3, 2, 1, 3, 3, 4, 2]
    multi = found[5]["comparisons"][1]
    assert multi["better"] == "D, S=[37;73], Q=37, 55, 73, dense"
    assert multi["worse"] == "D, S=[37;73], Q=55, dense"
    fusion = found[7]["comparisons"][1]
    assert fusion["better"] == "D & E, S=[37;73], Q=37, 55, 73, multi-crop+dense"
    assert fusion["worse"] == "E, S=[37;73], Q=37, 55, 73, multi-crop+dense"


def test_verdicts(whole: Grid) -> None:
    nothing = verdicts(whole, {})
    # The same mistakes everywhere: no gain, and none of half a point within the interval.
    assert nothing.pop("LRN does not help") == "confirmed"
    assert set(nothing.values()) == {"undecided"}
    # Every deeper net is right where the shallower one was wrong, twenty images each time.
    deeper = {
        "A-S37": wrong(range(100)),
        "B-S37": wrong(range(80)),
        "C-S37": wrong(range(60)),
        "D-S37": wrong(range(40)),
        "E-S37": wrong(range(20)),
    }
    found = verdicts(whole, deeper)
    assert found["Depth helps"] == "confirmed"
    assert found["C lies between B and D"] == "confirmed"
    # One comparison that does not tell leaves the claim open.
    found = verdicts(whole, deeper | {"B-S37": wrong(range(97))})
    assert found["Depth helps"] == "undecided"
    # One that is against it decides.
    found = verdicts(whole, deeper | {"D-S37": wrong(range(100))})
    assert found["Depth helps"] == "contradicted"
    assert found["C lies between B and D"] == "contradicted"


def test_no_help_is_shown_by_a_small_gain_for_certain(whole: Grid) -> None:
    text = "LRN does not help"
    a = wrong(range(40))
    assert verdicts(whole, {"A-S37": a, "A-LRN-S37": wrong(range(20))})[text] == "contradicted"
    assert verdicts(whole, {"A-S37": a, "A-LRN-S37": wrong(range(60))})[text] == "confirmed"
    # The same errors on 500 images leave room for a gain of half a point.
    shifted = wrong(range(20), range(100, 120))
    assert verdicts(whole, {"A-S37": a, "A-LRN-S37": shifted})[text] == "undecided"


def test_a_comparison_counts_the_images(whole: Grid) -> None:
    rows = {key(row): row for row in whole.rows if row.members}
    a, b = (rows["table 3", (net,), 256, "dense"] for net in "AB")
    found = compare(
        b, a, lambda row: wrong(range(30)) if row is a else wrong(range(20), range(90, 93))
    )
    assert (found["better_top1"], found["worse_top1"]) == (pytest.approx(4.6), pytest.approx(6))
    assert (found["only_better_wrong"], found["only_worse_wrong"]) == (3, 10)
    # Of 13 images that one alone gets wrong, 3 or fewer, or 10 or more: 2 · 378 / 8192.
    assert found["p"] == pytest.approx(2 * 378 / 8192)


def test_without_its_rows_a_claim_is_left_out() -> None:
    part = grid("digits", 10, False, Settings(crop=32, only="table 3, A, A-LRN, B, D"))
    found = judged(part.rows, lambda _: wrong())
    assert [claim["claim"] for claim in found] == ["LRN does not help"]
