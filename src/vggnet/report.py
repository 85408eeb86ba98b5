"""Results as a page and as text: the paper's tables with what was measured beside them."""

import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from vggnet import paper
from vggnet.configs import LRN, NETS, TABLE_1, Config

Metrics = Mapping[str, Sequence[Mapping[str, Any]]]
"""For each net, the records of its `metrics.jsonl`."""


def html(results: Mapping[str, Any], metrics: Metrics) -> str:
    """One self-contained page with Tables 1–3 and the training curves.

    Args:
        results: as `results.json` holds them.
        metrics: the nets' training records.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vggnet", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["interval"] = _interval
    return environment.get_template("report.html.jinja").render(
        results=results,
        table1=_table_1(),
        curves=[Markup(svg) for svg in _curves(metrics)],
    )


def table_3(results: Mapping[str, Any]) -> str:
    """Table 3 as text for a terminal."""
    data, rows = results["dataset"], results["rows"]
    centre = [result["top1"] for result in results["centre_crop"]]
    lines = [
        f"Table 3 on {data['name']} ({data['test']} test images), error in percent, "
        "[95 % interval]; dense, one scale; centre: top-1 of one centre crop",
        "",
        f"{'':8}{'measured here':<45}paper (ILSVRC-2012 val)",
        f"{'net':<8}{'S':<5}{'Q':<5}{'top-1':<20}{'top-5':<7}{'centre':<8}{'S':<5}{'Q':<5}{'top-1':<7}top-5",
    ]
    for row, other in zip(rows, centre, strict=True):
        theirs = row["paper"]
        top1 = f"{row['top1']:.1f} {_interval(row['top1_interval'])}"
        lines.append(
            f"{row['net']:<8}{row['S']:<5}{row['Q'][0]:<5}{top1:<20}{row['top5']:<7.1f}{other:<8.1f}"
            f"{theirs['S']:<5}{theirs['Q'][0]:<5}{theirs['top1']:<7}{theirs['top5']}"
        )
    return "\n".join(lines)


def _interval(bounds: Sequence[float]) -> str:
    return f"[{bounds[0]:.1f}, {bounds[1]:.1f}]"


def _table_1() -> dict[str, Any]:
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


_INK = "#7f7f7e"
"""Text and axes of the charts; in the page it becomes the page's own text colour."""
_STYLES = ("-", "--", "-", "--", "-", "--")
_COLOURS = ("#0072b2", "#56a3d9", "#009e73", "#cc8400", "#d55e00", "#b0649a")


def _curves(metrics: Metrics) -> list[str]:
    """Two charts as SVG: training loss and validation error against epochs."""
    loss: dict[str, list[float]] = {}
    error: dict[str, list[float]] = {}
    for net, records in metrics.items():
        by_epoch: dict[int, list[float]] = defaultdict(list)
        for record in records:
            if record["kind"] == "train":
                by_epoch[record["epoch"]].append(record["loss"])
        loss[net] = [sum(values) / len(values) for _, values in sorted(by_epoch.items())]
        error[net] = [record["error"] for record in records if record["kind"] == "validation"]
    return [
        _chart(loss, "Training loss (mean of an epoch)"),
        _chart(error, "Validation error, top-1, %"),
    ]


def _chart(series: Mapping[str, Sequence[float]], title: str) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A fixed salt and no date: the same results give the same page, byte for byte.
    settings: dict[Any, Any] = {
        "text.color": _INK,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "svg.fonttype": "none",
        "svg.hashsalt": "vggnet",
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        for (net, values), colour, style in zip(series.items(), _COLOURS, _STYLES, strict=False):
            epochs = range(1, len(values) + 1)
            marker = "o" if len(values) == 1 else None
            axes.plot(epochs, values, style, color=colour, label=net, lw=1.6, marker=marker)
        # Logarithmic: what matters happens in the last percent. Zeros sit on the lower edge.
        axes.set_yscale("log", nonpositive="clip")
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, ncols=2)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # Several charts stand in one page: each gets its own ids.
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{title.split()[0].lower()}-", svg)
