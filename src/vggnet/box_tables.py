"""Tables 8 to 10 as text: what `appendix_a.reproduce` found beside the paper's."""

from typing import Any

from vggnet import paper
from vggnet.info import align


def text(results: dict[str, Any]) -> str:
    """The tables as text, the paper's numbers beside those measured."""
    rows = results["rows"]
    tuned = {"fc": "1st and 2nd FC", "all": "all"}
    first = [
        (tuned[row["tune"]], row["boxes"].upper(), _cell(row, "top1"), _paper(row, "error"))
        for row in rows
        if row["table"] == 8
    ]
    dense = [row for row in rows if row["table"] == 9]
    second = [
        (
            " & ".join(f"{net}/{S}" for net, S in zip(row["nets"], row["S"], strict=True)),
            " & ".join(",".join(map(str, Q)) for Q in row["Q"]),
            _cell(row, "top5"),
            _cell(row, "top1"),
            _paper(row, "val"),
            _paper(row, "test"),
        )
        for row in dense
    ]
    best = min(dense, key=lambda row: float(row["top5"]))
    third = [
        (name, _cell(best, "top5") if name == "VGG" else "–", *map(_number, theirs))
        for name, *theirs in paper.TABLE_10
    ]
    others = [(row["title"], _cell(row, "top1")) for row in rows if row["table"] is None]
    tests = [
        (
            f"{one['worse']} → {one['better']}",
            f"{one['gain']:+.1f} [{one['gain_interval'][0]:+.1f}, {one['gain_interval'][1]:+.1f}]",
            f"{one['p']:.2g}",
        )
        for one in results["comparisons"]
    ]
    n, name = rows[0]["n"], results["dataset"]["name"]
    blocks = [
        f"{name}, {n:,} test images. Error in percent with its 95 % Wilson interval: a box is "
        "wrong at an IoU of 1/2 or less. Paper: net D on ILSVRC-2012 and 2014.",
        "Table 8: one centre crop, the class being known\n"
        + align([("tuned layers", "regression", "here", "paper"), *first]),
        "Dense boxes, and those of the same windows as crops, the class being known\n"
        + align([("nets", "here"), *others]),
        "Table 9: dense, five guesses\n"
        + align([("S", "Q", "top-5 here", "top-1 here", "paper val", "paper test"), *second]),
        "Table 10: five guesses\n" + align([("system", "here", "paper val", "paper test"), *third]),
        "Gain in points, on the same images, with its 95 % interval; p by McNemar's exact test\n"
        + align([("from → to", "gain", "p"), *tests]),
    ]
    return "\n\n".join(blocks)


def _cell(row: dict[str, Any], top: str) -> str:
    low, high = row[f"{top}_interval"]
    return f"{row[top]:.1f} [{low:.1f}, {high:.1f}]"


def _paper(row: dict[str, Any], name: str) -> str:
    return _number(row["paper"] and row["paper"][name])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
