"""The report's charts, as SVG that takes the page's text colour."""

import io
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vggnet.protocols import scale_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, Any]

METHODS = {
    "dense": "dense",
    "multi-crop": "multi-crop",
    "multi-crop+dense": "multi-crop & dense",
    "centre-crop": "centre crop",
    "ten-crop": "ten-crop",
}
"""The methods of evaluation in the paper's words."""

_INK = "#7f7f7e"
"""Text and axes of the charts; in the page it becomes the page's own text colour."""
# After Okabe and Ito: told apart with any colour vision. A variant has its net's colour.
_COLOURS = {"A": "#0072b2", "B": "#009e73", "C": "#c9a100", "D": "#d55e00", "E": "#cc79a7"}
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLES = ("-", "--", ":", "-.")


def training(runs: Sequence[Record], metrics: Mapping[str, Sequence[Record]]) -> list[str]:
    """Training loss and validation error against epochs: the smallest fixed S, then the others.

    Args:
        runs: as `results.json` holds them.
        metrics: for each run's name the records of its `metrics.jsonl`; a run may be missing.
    """
    from matplotlib.ticker import LogLocator

    known = [run for run in runs if metrics.get(run["name"])]
    smallest = min((run["S"] for run in known if isinstance(run["S"], int)), default=None)
    first = [run for run in known if run["S"] == smallest]
    others = [run for run in known if run["S"] != smallest]
    charts = []
    for key, group in (("first", first), ("others", others)):
        if not group:
            continue
        loss, error = {}, {}
        for run in group:
            label = run["net"]
            if key == "others":
                label += f" {scale_text(run['S'])}" + (", FC only" if run["tune"] == "fc" else "")
            loss[label] = _mean_loss(metrics[run["name"]])
            error[label] = [
                (record["epoch"] + 1, record["error"])
                for record in metrics[run["name"]]
                if record["kind"] == "validation"
            ]
        which = "S=" + ", ".join(dict.fromkeys(scale_text(run["S"]) for run in group))
        for name, title, unit, series in (
            ("loss", "Training loss", "loss (mean of an epoch)", loss),
            ("error", "Validation error", "top-1 error, %", error),
        ):
            figure, axes = _figure(f"{title}, {which}", "epoch", unit)
            # Logarithmic: what matters happens in the last percent. Zeros sit on the lower edge.
            if any(y > 0 for points in series.values() for _, y in points):
                axes.set_yscale("log", nonpositive="clip")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter("")
            _lines(figure, axes, series)
            charts.append(_svg(figure, f"{name}-{key}", f"{title}, {which}"))
    return charts


def error_by_scale(entries: Sequence[Record]) -> list[str]:
    """Top-1 error against Q: a chart for each net with several S, one for all the others.

    Args:
        entries: `by_scale` of `results.json`.
    """
    by_net: dict[str, list[Record]] = defaultdict(list)
    for entry in entries:
        by_net[entry["net"]].append(entry)
    single = [found[0] for found in by_net.values() if len(found) == 1]
    groups = [single] if single else []
    groups += [found for found in by_net.values() if len(found) > 1]
    top = 1.1 * max((error for entry in entries for error in entry["top1"]), default=0) or 1
    charts = []
    for number, group in enumerate(groups):
        nets = ", ".join(dict.fromkeys(entry["net"] for entry in group))
        title = f"Error against Q: {nets}"
        figure, axes = _figure(title, "Q, smallest side in testing", "top-1 error, %")
        series = {
            f"{entry['net']}, S={scale_text(entry['S'])}": list(
                zip(entry["Q"], entry["top1"], strict=True)
            )
            for entry in group
        }
        _lines(figure, axes, series, marker="o")
        axes.set_ylim(0, top)  # the same in all charts
        charts.append(_svg(figure, f"scale-{number}", title))
    return charts


def cost(rows: Sequence[Record]) -> list[str]:
    """Top-1 error against multiply-adds an image, with 95 % intervals: a chart a net.

    Of those of Table 5; without it, of those with the most ways of testing. The last two at most.

    Args:
        rows: of single nets, as `results.json` holds them.
    """
    found: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
    for row in rows:
        if row["top1"] is None or row["multiply_adds_per_image"] is None:
            continue
        label = METHODS[row["method"]]
        if row["method"] in ("dense", "multi-crop", "multi-crop+dense"):
            label += f", {len(row['Q'])} scale{'s' if len(row['Q']) > 1 else ''}"
        found[row["net"], scale_text(row["S"])].setdefault(label, row)
    fifth = {(row["net"], scale_text(row["S"])) for row in rows if row.get("table") == 5}
    most = max((len(points) for points in found.values()), default=0)
    chosen = [key for key, points in found.items() if key in fifth or len(points) == most]
    if fifth:
        chosen = [key for key in chosen if key in fifth]
    charts: list[str] = []
    for net, scale in chosen[-2:]:
        points = found[net, scale]
        if len(points) < 2:
            continue
        title = f"Cost and error: {net}, S={scale}"
        figure, axes = _figure(title, "multiply-adds an image", "top-1 error, %")
        axes.set_xscale("log")
        cheapest = sorted(points.items(), key=lambda item: item[1]["multiply_adds_per_image"])
        for (label, row), marker in zip(cheapest, itertools.cycle(_MARKERS), strict=False):
            x, (low, high) = row["multiply_adds_per_image"], row["top1_interval"]
            axes.plot([x, x], [low, high], color=_colour(net), lw=1.2, alpha=0.4)
            axes.plot([x], [row["top1"]], marker, color=_colour(net), ms=7, label=label)
        axes.margins(x=0.1)
        axes.set_ylim(bottom=0)
        _legend(figure, columns=2)
        charts.append(_svg(figure, f"cost-{len(charts)}", title))
    return charts


def _mean_loss(records: Iterable[Record]) -> list[tuple[int, float]]:
    """For each epoch, counted from 1, the mean of its training losses."""
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for record in records:
        if record["kind"] == "train":
            by_epoch[record["epoch"]].append(record["loss"])
    return [(epoch + 1, sum(loss) / len(loss)) for epoch, loss in sorted(by_epoch.items())]


def _colour(label: str) -> str:
    """Of a net, a variant of it (A-LRN), or a label that begins with either."""
    return _COLOURS.get(label[:1], _INK)


def _figure(title: str, x: str, y: str) -> "tuple[Figure, Axes]":
    """An empty chart, wide as a phone: larger screens enlarge it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "text.color": _INK,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "font.size": 9,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.4, 3.5), layout="constrained")
        axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left", color=_INK)
    axes.set_xlabel(x, fontsize=9, color=_INK)
    axes.set_ylabel(y, fontsize=9, color=_INK)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _lines(
    figure: "Figure",
    axes: "Axes",
    series: Mapping[str, Sequence[tuple[float, float]]],
    marker: str | None = None,
) -> None:
    """A line a series with a legend below; lines of one colour differ in style."""
    drawn: dict[str, int] = defaultdict(int)
    for label, points in series.items():
        colour = _colour(label)
        style = _STYLES[drawn[colour] % len(_STYLES)]
        drawn[colour] += 1
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            style,
            color=colour,
            label=label,
            lw=1.7,
            marker=marker or ("o" if len(points) == 1 else None),
            ms=4,
        )
    _legend(figure, columns=3)


def _legend(figure: "Figure", columns: int) -> None:
    figure.legend(
        loc="outside lower center",
        frameon=False,
        fontsize=9,
        ncols=columns,
        labelcolor=_INK,
        handlelength=2.6,
        columnspacing=1.4,
    )


def _svg(figure: "Figure", key: str, title: str) -> str:
    """The figure as an SVG element whose ids begin with `key`: several stand in one page."""
    import matplotlib as mpl

    # A fixed salt and no date: the same results give the same page, byte for byte.
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vggnet"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{key}-", svg)
