"""Draws what `peers.py` measured: milliseconds an image, the lines at the bars' ends its quartiles.

.venv/bin/python benchmarks/peers_chart.py RESULTS.json CHART.png
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {
    "forward_b1": "Forward, one image",
    "forward_b8": "Forward, batch of 8",
    "dense_384": "Dense evaluation, one image of 384×384",
    "train_b8": "Training step, batch of 8",
}
NAMES = {
    "torch_eager": "PyTorch",
    "torch_compile": "torch.compile",
    "torch_channels_last": "PyTorch, channels_last",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
_OURS, _OTHERS, _INK, _FAINT = "#d55e00", "#a9b4bf", "#24292f", "#6e7781"
_WIDTH, _DPI = 10.0, 200
"""Inches and dots an inch: 2000 pixels, for a page that shows 1000."""


def draw(result: dict[str, Any], path: Path) -> None:
    """Writes the chart, in the format that the file's name ends in.

    Args:
        result: the JSON of `peers.py`.
        path: of the chart.
    """
    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [name for name in PANELS if result.get(name)]
    if not panels:
        raise SystemExit("the results hold nothing to draw")
    rows = [panels[i : i + 2] for i in range(0, len(panels), 2)]
    bars = [max(len(result[name]) for name in row) for row in rows]
    size = (_WIDTH, 0.27 * sum(bars) + 0.5 * len(bars) + 0.35)
    layout = ConstrainedLayoutEngine(
        rect=(0.005, 0.3 / size[1], 0.99, 1 - 0.35 / size[1]), wspace=0.04, h_pad=0.06
    )
    with pyplot.rc_context({"font.size": 9, "font.family": "sans-serif", "text.color": _INK}):
        figure, grid = pyplot.subplots(
            len(rows),
            min(2, len(panels)),
            figsize=size,
            squeeze=False,
            layout=layout,
            gridspec_kw={"height_ratios": bars},
        )
        for row, places, most in zip(rows, grid, bars, strict=True):
            for name, axes in zip(row, places, strict=False):
                each = result["ratios"].get(name, {}).get("each", {})
                _panel(axes, PANELS[name], result[name], result["spread"][name], each)
                axes.set_ylim(most - 0.5, -0.5)
            for axes in places[len(row) :]:
                axes.axis("off")
        figure.text(0.01, 0.09 / size[1], caption(result), fontsize=7.5, color=_FAINT)
        figure.savefig(path, dpi=_DPI, facecolor="white")
        pyplot.close(figure)


def _panel(
    axes: "Axes",
    title: str,
    times: dict[str, float | str],
    spread: dict[str, list[float]],
    each: dict[str, dict[str, Any]],
) -> None:
    """Bars, the fastest first; who has none has its note's beginning."""
    known = {name: time for name, time in times.items() if not isinstance(time, str)}
    order = sorted(known, key=lambda name: known[name])
    notes = {name: note for name, note in times.items() if isinstance(note, str)}
    names = [*order, *notes]
    longest = max((max(known[name], spread[name][1]) for name in order), default=1.0)
    for place, name in enumerate(order):
        time, (low, high) = known[name], spread[name]
        is_ours = name == "vggnet"
        axes.barh(place, time, height=0.68, color=_OURS if is_ours else _OTHERS)
        axes.plot([low, high], [place, place], color=_INK, linewidth=0.9, solid_capstyle="butt")
        label = f"{time:.3g}" if time < 100 else f"{time:.0f}"
        if name in each:
            label += f"  ({each[name]['ratio']:.2f}×)"
        axes.text(
            max(time, high) + 0.015 * longest,
            place,
            label,
            va="center",
            fontsize=8.5,
            fontweight="bold" if is_ours else "normal",
        )
    for place, note in enumerate(notes.values(), len(order)):
        words = note if len(note) <= 40 else note[:39] + "…"
        axes.text(0.015 * longest, place, words, va="center", fontsize=8, color=_FAINT)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=5)
    axes.set_yticks(range(len(names)), [NAMES.get(name, name) for name in names], fontsize=9)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        if name == "vggnet":
            tick.set_color(_OURS)
            tick.set_fontweight("bold")
    axes.set_xlim(0, 1.2 * longest)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[["left", "top", "right", "bottom"]].set_visible(False)


def caption(result: dict[str, Any]) -> str:
    """What was measured where and when."""
    net = f"Net {result['net']}" + (f" at width {result['width']:g}" * (result["width"] != 1))
    parts = [
        "Milliseconds an image, and times vggnet's; less is faster",
        f"{net}, float32, 224×224",
        f"medians and quartiles of {result['rounds']} rounds",
        f"{result['machine']}, {result['threads']} threads",
        result["date"],
    ]
    return "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="the JSON of peers.py")
    parser.add_argument("chart", type=Path, help="ends in .png or .svg")
    args = parser.parse_args()
    draw(json.loads(args.results.read_text()), args.chart)


if __name__ == "__main__":
    main()
