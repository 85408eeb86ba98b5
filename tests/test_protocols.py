"""Crop positions by hand, the paper's rules for Q, and what a protocol says of itself."""

import pytest

from vggnet import InputError
from vggnet.protocols import Fusion, Protocol, Term, multi_scale, single_scale


def corners(method: str, height: int, width: int, crop: int = 224) -> dict[tuple[int, int], float]:
    term = Term(height, method, "scores", True)  # type: ignore[arg-type]
    found = term.windows(height, width, crop)
    assert all(window[2:] == (crop, crop) for window in found)
    assert sum(found.values()) == pytest.approx(1)
    return {window[:2]: weight for window, weight in found.items()}


# Worked out by hand: the five rows or columns are at 0, a quarter, half, three quarters and all of
# what is free, halves going to the even number as Python rounds.
@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (256, 256, [0, 8, 16, 24, 32], [0, 8, 16, 24, 32]),
        (256, 341, [0, 8, 16, 24, 32], [0, 29, 58, 88, 117]),  # 117/4 = 29.25, 58.5, 87.75
        (343, 256, [0, 30, 60, 89, 119], [0, 8, 16, 24, 32]),  # 119/4 = 29.75, 59.5, 89.25
        (384, 512, [0, 40, 80, 120, 160], [0, 72, 144, 216, 288]),
        (229, 230, [0, 1, 2, 4, 5], [0, 2, 3, 4, 6]),  # 1.25, 2.5, 3.75 and 1.5, 3, 4.5
    ],
)
def test_the_grid_by_hand(height: int, width: int, rows: list[int], columns: list[int]) -> None:
    found = corners("multi-crop", height, width)
    assert found == {(row, column): pytest.approx(1 / 25) for row in rows for column in columns}


def test_crops_that_coincide_are_weighted() -> None:
    assert corners("multi-crop", 224, 224) == {(0, 0): pytest.approx(1)}
    # One pixel free: 0, 0.25, 0.5 round to 0 and 0.75, 1 to 1, so three fifths and two fifths.
    found = corners("multi-crop", 225, 225)
    weights = {0: 3 / 5, 1: 2 / 5}
    expected = {
        (row, c): pytest.approx(weights[row] * weights[c]) for row in (0, 1) for c in (0, 1)
    }
    assert found == expected
    assert corners("multi-crop", 224, 225) == {
        (0, 0): pytest.approx(3 / 5),
        (0, 1): pytest.approx(2 / 5),
    }
    assert corners("ten-crop", 224, 224) == {(0, 0): pytest.approx(1)}


@pytest.mark.parametrize(
    ("height", "width", "side", "top", "left"),
    [(256, 341, 224, 16, 58), (37, 37, 32, 2, 2), (343, 256, 224, 60, 16), (32, 32, 32, 0, 0)],
)
def test_the_centre_crop_is_torchvisions(
    height: int, width: int, side: int, top: int, left: int
) -> None:
    assert corners("centre-crop", height, width, side) == {(top, left): 1}


def test_ten_and_centre_crops_by_hand() -> None:
    places = [(0, 0), (0, 117), (32, 0), (32, 117), (16, 58)]
    assert corners("ten-crop", 256, 341) == {place: pytest.approx(1 / 5) for place in places}
    assert corners("centre-crop", 256, 341) == {(16, 58): 1}
    assert Term(256, "dense", "scores", True).windows(256, 341, 224) == {(0, 0, 256, 341): 1}


def test_the_papers_rules_for_test_scales() -> None:
    assert single_scale(256) == 256
    assert single_scale((256, 512)) == 384
    assert multi_scale(256, 224) == (224, 256, 288)
    assert multi_scale(384, 224) == (352, 384, 416)
    assert multi_scale((256, 512), 224) == (256, 384, 512)
    assert multi_scale(37, 32) == (32, 37, 42)
    assert multi_scale((37, 73), 32) == (37, 55, 73)


@pytest.mark.parametrize("crop", range(32, 640, 32))
def test_no_test_scale_is_below_the_crop(crop: int) -> None:
    """S - 32 at S = 256 is the crop itself, at any crop."""
    assert multi_scale(round(256 * crop / 224), crop)[0] == crop


@pytest.mark.parametrize(
    ("method", "views"),
    [
        ("dense", 2 * 3),
        ("multi-crop", 150),  # §3.2: 50 crops a scale, 150 over three
        ("multi-crop+dense", 156),
        ("centre-crop", 6),
        ("ten-crop", 30),
    ],
)
def test_views(method: str, views: int) -> None:
    protocol = Protocol("D", (256, 512), (256, 384, 512), method)  # type: ignore[arg-type]
    assert protocol.views == views
    assert Fusion((protocol, protocol)).views == 2 * views


def test_averaging_is_no_matter_of_crops() -> None:
    """So that neither is computed twice for the two orders."""
    scores, posteriors = (
        Protocol("D", 37, (37,), "multi-crop+dense", averaging).terms
        for averaging in ("scores", "posteriors")
    )
    assert [term.method for term in scores] == ["multi-crop", "dense"]
    assert scores[0] == posteriors[0]
    assert scores[1] != posteriors[1]


def test_words() -> None:
    one = Protocol("D", (37, 73), (37, 55), "multi-crop", flips=False)
    assert str(one) == "net D, S=[37;73], Q=37, 55, multi-crop, without flips"
    two = Fusion((one, Protocol("E", 37, (37,), "multi-crop", flips=False)))
    assert str(two) == ("2 nets (D, S=[37;73], Q=37, 55; E, S=37, Q=37), multi-crop, without flips")
    assert two.to_json() == {
        "nets": [["D", (37, 73)], ["E", 37]],
        "Q": [(37, 55), (37,)],
        "method": "multi-crop",
        "averaging": "scores",
        "flips": False,
    }
    with pytest.raises(InputError, match="no test scale"):
        Protocol("D", 37, ())
