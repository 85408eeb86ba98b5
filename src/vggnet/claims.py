"""What the paper claims, each put to a paired test on the same images."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vggnet.graph import Row
from vggnet.protocols import Method
from vggnet.recipes import Scale
from vggnet.scoring import gain_interval, mcnemar

Verdict = Literal["confirmed", "contradicted", "undecided"]
Wrong = Callable[[Row], NDArray[np.bool_]]
"""Which images a row gets wrong (top-1)."""

SIGNIFICANT = 0.05
MARGIN = 0.5
"""Points of top-1 error: a gain that is below it with 95 % certainty is no help."""

Key = tuple[str, tuple[str, ...], Scale, Method]
"""A row by its section, nets, S at a crop of 224, and method."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of the paper, as pairs of rows: the first has fewer errors than the second.

    With a margin: the second gains less than so many points over the first, if anything.
    """

    text: str
    section: str
    pairs: tuple[tuple[Key, Key], ...]
    margin: float | None = None


def _at_256(net: str) -> Key:
    return "table 3", (net,), 256, "dense"


_JITTER = (256, 512)


def _both(table: str, nets: str, method: Method = "multi-crop+dense") -> Key:
    return table, tuple(nets), _JITTER, method


CLAIMS = (
    Claim("LRN does not help", "§4.1", ((_at_256("A"), _at_256("A-LRN")),), margin=MARGIN),
    Claim(
        "Depth helps",
        "§4.1",
        tuple((_at_256(deep), _at_256(less)) for deep, less in ("BA", "DB", "EB")),
    ),
    Claim(
        "C lies between B and D",
        "§4.1",
        tuple((_at_256(better), _at_256(worse)) for better, worse in ("CB", "DC")),
    ),
    Claim(
        "Two 3×3 convolutions beat one 5×5",
        "§4.1",
        ((("ablation", ("B",), 256, "centre-crop"), ("ablation", ("B-5x5",), 256, "centre-crop")),),
    ),
    Claim(
        "Scale jittering in training helps",
        "§4.1",
        tuple(
            (("table 3", (net,), _JITTER, "dense"), ("table 3", (net,), 384, "dense"))
            for net in "CDE"
        ),
    ),
    Claim(
        "Several test scales help",
        "§4.2",
        tuple(
            (("table 4", (net,), _JITTER, "dense"), ("table 3", (net,), _JITTER, "dense"))
            for net in "CDE"
        ),
    ),
    Claim(
        "Multi-crop & dense beats each of the two",
        "§4.3",
        tuple(
            (_both("table 5", net), _both("table 5", net, method))
            for net in "DE"
            for method in ("multi-crop", "dense")
        ),
    ),
    Claim(
        "Fusion of D and E helps",
        "§4.4",
        tuple((_both("table 6", "DE"), _both("table 5", net)) for net in "DE"),
    ),
)


def judged(rows: Iterable[Row], wrong: Wrong) -> list[dict[str, Any]]:
    """Every claim whose rows were all measured, with its comparisons and a verdict.

    A comparison is confirmed when McNemar's exact test is significant in the paper's direction,
    contradicted when it is significant against it. A claim is confirmed when all its comparisons
    are, contradicted when any is, else undecided with this many images.

    Args:
        rows: that were measured.
        wrong: gives the images that a row gets wrong.
    """
    known: Mapping[Key, Row] = {key(row): row for row in reversed(list(rows)) if row.members}
    found = []
    for claim in CLAIMS:
        if not all(row in known for pair in claim.pairs for row in pair):
            continue
        comparisons = [
            _compare(known[better], known[worse], wrong, claim.margin)
            for better, worse in claim.pairs
        ]
        verdicts = {comparison["verdict"] for comparison in comparisons}
        verdict: Verdict = "undecided"
        if "contradicted" in verdicts:
            verdict = "contradicted"
        elif verdicts == {"confirmed"}:
            verdict = "confirmed"
        found.append(
            {
                "claim": claim.text,
                "section": claim.section,
                "verdict": verdict,
                "comparisons": comparisons,
            }
        )
    return found


def key(row: Row) -> Key:
    """What a claim finds a row by. The fusion of seven nets has the S of its first."""
    nets = tuple(member.run.config.model.net for member in row.members)
    return row.section, nets, row.members[0].run.paper_S, row.method


def compare(first: Row, second: Row, wrong: Wrong) -> dict[str, Any]:
    """Two rows on the same images: errors in percent, who alone is wrong how often, and p."""
    a, b = wrong(first), wrong(second)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return {
        "better": _words(first),
        "worse": _words(second),
        "better_top1": 100 * float(a.mean()),
        "worse_top1": 100 * float(b.mean()),
        "only_better_wrong": only_a,
        "only_worse_wrong": only_b,
        "p": mcnemar(only_a, only_b),
    }


def _compare(better: Row, worse: Row, wrong: Wrong, margin: float | None) -> dict[str, Any]:
    found = compare(better, worse, wrong)
    a, b = found["only_better_wrong"], found["only_worse_wrong"]
    verdict: Verdict = "undecided"
    if margin is None:
        if found["p"] < SIGNIFICANT:
            verdict = "confirmed" if a < b else "contradicted"
    else:
        low, high = gain_interval(a, b, len(wrong(better)))
        found |= {"margin": margin, "gain_interval": [low, high]}
        if low > 0:
            verdict = "contradicted"
        elif high < margin:
            verdict = "confirmed"
    return found | {"verdict": verdict}


def _words(row: Row) -> str:
    nets = " & ".join(member.run.config.model.title for member in row.members)
    first = row.protocol_of(row.members[0])
    return f"{nets}, {first.scales}, {row.method}"
