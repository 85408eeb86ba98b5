"""The report's tables in words: the paper's with what was measured, and those beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vggnet import paper
from vggnet.charts import METHODS, Record
from vggnet.configs import NETS, TABLE_1, Config
from vggnet.layers import LRN
from vggnet.protocols import scale_text

Results = Mapping[str, Any]
"""What `results.json` holds. Lists may be empty or missing: their tables are None."""

TABLES = {
    3: "one test scale",
    4: "several test scales",
    5: "methods of evaluation",
    6: "fusion of nets",
    7: "the state of the art of 2014",
}
MARKS = {"confirmed": "✓", "contradicted": "✗", "undecided": "○"}
"""What stands before a verdict, so that it is not told by its colour alone."""
HERE = "measured here"
PAPER = "paper"

_NONE = "–"
_SMALL = 5000
"""Below so many test images, a table says how wide its intervals are."""
_BOTH = ("top-1", "top-5")
_WORDS = {"claim", "evidence", "method", "nets", "run", "parent", "start", "system"}
_WORDS |= {"true", "predicted", "image", "better in the paper", "worse in the paper", "verdict"}
"""Columns of words: to the left; they wrap where the width does not do."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    group: str = ""
    """The heading above this and its neighbours of the same group."""

    @property
    def words(self) -> bool:
        return self.name in _WORDS


@dataclass(frozen=True, slots=True)
class Table:
    """A table in words, ready for any of the three forms of the report."""

    columns: tuple[Column, ...]
    rows: Sequence[tuple[str, ...]]
    label: str = ""
    """Table 3, …; the sections' headings are in the templates."""
    title: str = ""
    note: str = ""
    """Data set, n, unit, interval and protocol: goes on after the label."""


def _columns(*given: str | tuple[str, Sequence[str]]) -> tuple[Column, ...]:
    """Columns by their names, or a group's heading with the names below it."""
    groups = (("", (item,)) if isinstance(item, str) else item for item in given)
    return tuple(Column(name, group) for group, names in groups for name in names)


# Words for values.


def error(row: Record, top: str) -> str:
    """An error, top1 or top5, in percent with its interval: 3.0 [1.8, 4.9]."""
    if row[top] is None:
        return _NONE
    low, high = row[f"{top}_interval"]
    return f"{row[top]:.1f} [{low:.1f}, {high:.1f}]"


def _errors(row: Record) -> tuple[str, str]:
    return error(row, "top1"), error(row, "top5")


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"


def _theirs(row: Record, *more: str) -> tuple[str, ...]:
    """The paper's errors."""
    return tuple(_number(row["paper"][key]) for key in ("top1", "top5", *more))


def _p(value: float | None) -> str:
    if value is None:
        return _NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def scales_text(scales: Sequence[int]) -> str:
    """Q as the paper prints it: 224, 256, 288."""
    return ", ".join(map(str, scales))


def _scales(row: Record) -> tuple[str, str]:
    """S and Q."""
    return scale_text(row["S"]), scales_text(row["Q"])


def _nets(row: Record) -> str:
    """The nets of a fusion as the paper writes them: (D/[256;512]/256,384,512), …"""
    named = ", ".join(
        f"({net}/{scale_text(S)}/{','.join(map(str, Q))})"
        for (net, S), Q in zip(row["nets"], row["Q"], strict=True)
    )
    return f"{named}; {row['note']}" if row.get("note") else named


def _system(row: Record) -> str:
    """A row of Table 7, and what was measured where that is not the very system."""
    return f"{row['system']}; {row['here']}" if row.get("here") else str(row["system"])


def methods_text(words: str) -> str:
    """A description of a protocol with its methods in the paper's words."""
    for method, name in METHODS.items():
        words = words.replace(method, name) if method != name else words
    return words


def evidence(claim: Record) -> str:
    """In a few words what a claim's verdict rests on."""
    found = claim["comparisons"]
    if len(found) == 1 and found[0].get("gain_interval"):
        low, high = (_signed(bound) for bound in found[0]["gain_interval"])
        return f"gain {low} to {high} points, margin {found[0]['margin']:g}"
    if len(found) == 1:
        p = _p(found[0].get("p"))
        return f"p {p}" if p.startswith("<") else f"p = {p}"
    verdicts = [comparison["verdict"] for comparison in found]
    counts = [f"{verdicts.count(v)} {v}" for v in MARKS if v in verdicts]
    return f"of {len(found)} comparisons {', '.join(counts)}" if found else "no comparison"


def _note(results: Results, rows: Sequence[Record], protocol: str, beside: str = "") -> str:
    """What a table says of its numbers: data set, n, unit, interval, protocol."""
    rows = [row for row in rows if row["top1"] is not None]
    if not rows:
        return f"on {results['dataset']['name']}: {protocol}; nothing of it was measured."
    n = rows[0]["n"]
    orders = {
        "scores": "scores averaged over the dense map before the soft-max",
        "posteriors": "posteriors averaged over the dense map after the soft-max",
    }
    averaged = dict.fromkeys(row["averaging"] for row in rows if "dense" in row["method"])
    protocol += "".join(f", {orders[order]}" for order in averaged)
    flips = dict.fromkeys("with" if row["flips"] else "without" for row in rows)
    note = (
        f"on {results['dataset']['name']} ({n:,} test images): error in percent, "
        f"[95 % Wilson interval]; {protocol}, {' or '.join(flips)} flips{beside}."
    )
    if n < _SMALL:
        bounds = [row[f"{top}_interval"] for row in rows for top in ("top1", "top5")]
        widest = max(high - low for low, high in bounds)
        note += f" With n = {n:,} the intervals are up to {widest:.1f} points wide."
    return note


# The paper's tables.


def rows_of(results: Results, number: int) -> list[Record]:
    """The rows of Table 3, 4, 5, 6 or 7."""
    return [row for row in results.get("rows") or [] if row["table"] == number]


def published(results: Results, number: int) -> Table | None:
    """Table 3, 4, 5, 6 or 7 as far as it was measured; None where nothing of it was."""
    rows = rows_of(results, number)
    if not rows:
        return None
    cells: list[tuple[str, ...]]
    if number in (3, 4):
        protocol = "dense, one test scale" if number == 3 else "dense, mean over the test scales"
        columns = _columns("net", *((group, ("S", "Q", *_BOTH)) for group in (HERE, PAPER)))
        cells = [
            (row["net"], *_scales(row), *_errors(row), *_scales(row["paper"]), *_theirs(row))
            for row in rows
        ]
    elif number == 5:
        protocol = "mean over the test scales"
        columns = _columns("net", "method", (HERE, ("S", "Q", *_BOTH)), (PAPER, _BOTH))
        cells = [
            (row["net"], METHODS[row["method"]], *_scales(row), *_errors(row), *_theirs(row))
            for row in rows
        ]
    else:
        protocol = "posteriors averaged over the test scales and the nets"
        if number == 6:
            protocol = f"nets as (net/S/Q), {protocol}"
        names = ("nets", "method") if number == 6 else ("system",)
        val = ("top-1 val", "top-5 val", "top-5 test")
        columns = _columns(*names, (HERE, _BOTH), (PAPER, val))
        cells = [
            (
                *((_nets(row), METHODS[row["method"]]) if number == 6 else (_system(row),)),
                *(*_errors(row), *_theirs(row, "top5_test")),
            )
            for row in rows
        ]
    note = _note(results, rows, protocol, "; paper: ILSVRC-2012")
    return Table(columns, cells, f"Table {number}", TABLES[number], note)


def table_1() -> dict[str, Any]:
    """Table 1 as the paper prints it: a column a net, a block a stage."""
    return {
        "nets": TABLE_1,
        "paper": [paper.WEIGHT_LAYERS[net] for net in TABLE_1],
        "here": [Config(net).weight_layers for net in TABLE_1],
        "stages": [
            [
                [
                    "LRN" if isinstance(item, LRN) else f"conv{item.kernel}-{item.channels}"
                    for item in NETS[net][stage]
                ]
                for net in TABLE_1
            ]
            for stage in range(5)
        ],
    }


def table_2(results: Results) -> Table | None:
    """Parameters: the paper's, counted for its nets, and for those of this run."""
    rows = results.get("parameters") or []
    columns = _columns(
        "net", "paper, millions", "counted, the paper’s net", "counted, this run’s net"
    )
    cells = [
        (row["net"], str(row["paper_millions"]), f"{row['counted']:,}", f"{row['here']:,}")
        for row in rows
    ]
    return Table(columns, cells) if cells else None


# The tables beside the paper's.


def claims(results: Results) -> Table | None:
    """The paper's claims and their verdicts."""
    cells = [
        (f"{claim['claim']} ({claim['section']})", claim["verdict"], evidence(claim))
        for claim in results.get("claims") or []
    ]
    return Table(_columns("claim", "verdict", "evidence"), cells) if cells else None


def comparisons(results: Results) -> Table | None:
    """Every paired test; a claim is named in the first row of its own."""
    cells = [
        (
            claim["claim"] if number == 0 else "",
            *(methods_text(one["better"]), _number(one["better_top1"])),
            *(methods_text(one["worse"]), _number(one["worse_top1"])),
            *(str(one["only_better_wrong"]), str(one["only_worse_wrong"])),
            *(_p(one.get("p")), one["verdict"]),
        )
        for claim in results.get("claims") or []
        for number, one in enumerate(claim["comparisons"])
    ]
    names = ["claim", "better in the paper", "error", "worse in the paper", "error"]
    names += ["first alone wrong", "second alone wrong", "p", "verdict"]
    return Table(_columns(*names), cells) if cells else None


def by_scale(results: Results) -> Table | None:
    """Top-1 error at each Q."""
    cells = []
    for entry in results.get("by_scale") or []:
        errors = zip(entry["Q"], entry["top1"], strict=True)
        line = " · ".join(f"{Q}: {_number(top1)}" for Q, top1 in errors)
        cells.append((entry["net"], scale_text(entry["S"]), line))
    return Table(_columns("net", "S", "Q: top-1 error"), cells) if cells else None


def confusion(results: Results) -> Table | None:
    """Images by true class, a row each, and predicted class; None of many classes."""
    matrix = (results.get("confusion") or {}).get("matrix") or []
    names = results["dataset"]["class_names"] if matrix else []
    cells = [(name, *map(str, counts)) for name, counts in zip(names, matrix, strict=True)]
    return Table(_columns("true class", *names), cells) if cells else None


def pairs(results: Results) -> Table | None:
    """The most frequent confusions of two classes."""
    found = (results.get("confusion") or {}).get("pairs") or []
    cells = [(pair["true"], pair["predicted"], str(pair["count"])) for pair in found]
    return Table(_columns("true", "predicted", "count"), cells) if cells else None


def mistakes(results: Results) -> Table | None:
    """The images that were wrong with the highest posterior."""
    cells = [
        (
            *(one["name"], one["true"], one["predicted"]),
            *(f"{one['posterior']:.2f}", f"{one['true_posterior']:.2f}"),
        )
        for one in results.get("mistakes") or []
    ]
    columns = _columns("image", "true", "predicted", "posterior", "posterior of the true class")
    return Table(columns, cells) if cells else None


def averaging(results: Results) -> Table | None:
    """The dense map averaged before and after the soft-max."""
    cells = []
    for entry in results.get("averaging") or []:
        orders = (entry["scores"], entry["posteriors"])
        errors = (_number(order[top]) for order in orders for top in ("top1", "top5"))
        cells.append((entry["net"], *_scales(entry), *errors, _p((entry["test"] or {}).get("p"))))
    groups = (("before the soft-max", _BOTH), ("after the soft-max", _BOTH))
    return Table(_columns("net", "S", "Q", *groups, "p"), cells) if cells else None


def others_protocols(results: Results) -> Table | None:
    """Centre crop and ten-crop, which the paper does not use."""
    rows = results.get("others_protocols") or []
    cells = [
        (
            *(row["net"], *_scales(row)),
            METHODS[row["method"]] + (" with flips" if row["flips"] else ", no flips"),
            *_errors(row),
            _NONE if row["forwards_per_image"] is None else f"{row['forwards_per_image']:g}",
        )
        for row in rows
    ]
    columns = _columns("net", "S", "Q", "method", *_BOTH, "forwards an image")
    title = "What others report: centre crop and ten-crop"
    note = _note(results, rows, "one test scale")
    return Table(columns, cells, title=title, note=note) if cells else None


def ablation(results: Results) -> Table | None:
    """§4.1's net of 5×5 convolutions beside B; the difference is relative to B's error."""
    rows = results.get("ablation") or []
    base = next((row["top1"] for row in rows if row["net"] == "B"), None)
    cells = []
    for row in rows:
        relative = _NONE
        if row["net"] != "B" and base and row["top1"] is not None:
            relative = f"{_signed(100 * (row['top1'] / base - 1))} %"
        theirs = _NONE if row["net"] == "B" else f"+{paper.ABLATION_PERCENT} %"
        cells.append((row["net"], *_scales(row), *_errors(row), relative, theirs))
    relative_to = "top-1 relative to B"
    columns = _columns("net", "S", "Q", (HERE, (*_BOTH, relative_to)), (PAPER, (relative_to,)))
    title = "One 5×5 instead of two 3×3 (§4.1)"
    note = _note(results, rows, "centre crop")
    return Table(columns, cells, title=title, note=note) if cells else None


def runs(results: Results) -> Table | None:
    """The training runs; the note has what all recipes have in common."""
    found = results.get("runs") or []
    cells = [
        (
            *(run["name"], run["parent"] or _NONE, run["start"]),
            {"all": "all", "fc": "FC alone"}[run["tune"]],
            *(str(run["epochs"]), f"{run['recipe']['learning_rate']:g}", scale_text(run["S"])),
        )
        for run in found
    ]
    names = ("run", "parent", "start", "layers trained", "epochs", "rate at the start", "S")
    shown = {"epochs", "learning_rate", "model", "S", "seed", "tune"}
    same = [
        f"{key.replace('_', ' ')} {value}"
        for key, value in (found[0]["recipe"] if found else {}).items()
        if key not in shown and all(run["recipe"].get(key) == value for run in found)
    ]
    note = f"The same in all runs: {', '.join(same)}." if same else ""
    return Table(_columns(*names), cells, note=note) if cells else None
