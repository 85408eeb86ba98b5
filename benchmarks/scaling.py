"""Predicts training on several GPUs: docs/scaling.md's tables on standard output, and its chart.

Nothing is measured here; `vggnet.scaling` is the model.

    .venv/bin/python benchmarks/scaling.py docs/scaling.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from vggnet import Config
from vggnet.scaling import Cluster, Step, modes, step_seconds

CASES = ((8, 256), (64, 256), (64, 2048), (512, 16384))
"""GPUs and batch: the paper's batch as far as it goes, and 32 images a GPU."""
NETWORKS = (25, 100, 400)
"""Gb/s a host."""
PASCAL_GPUS, PASCAL_BATCH = 512, 64 * 512
PUBLISHED = 68
"""Scaling efficiency in percent that Horovod's documentation reports for VGG-16."""
P100 = 154
"""Images a second in training of VGG-16 on one P100 at batch 64, float32 (TensorFlow's
benchmarks, May 2017)."""
LINKS = {"PCIe 3.0, 12 GB/s": 12e9, "NVLink of four links, 72 GB/s": 72e9}
"""What may join the GPUs of a host, which is not published; NCCL's own figures."""

D = Config("D")


def predictions() -> str:
    """A Markdown row a case and mode: images a second, efficiency, at each network."""
    lines = [
        "| GPUs | batch | mode | " + " | ".join(f"{network} Gb/s" for network in NETWORKS) + " |",
        "|---|---|---|" + "---|" * len(NETWORKS),
    ]
    for gpus, batch in CASES:
        found = [modes(D, batch, Cluster(gpus, network=network)) for network in NETWORKS]
        for place, steps in enumerate(zip(*found, strict=True)):
            is_wider = place > 3
            name = steps[0].mode
            if is_wider:
                name = "larger groups" + ", `--compress`" * steps[0].compress
            elif place:
                name = f"`{name}`"
            cells = [_cell(step, is_wider) for step in steps]
            lines.append(f"| {gpus} | {batch:,} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def check() -> str:
    """A Markdown row a link inside the hosts: the prediction beside the published efficiency."""
    lines = [
        "| inside a host | predicted | of it with nothing hidden | published |",
        "|---|---|---|---|",
    ]
    for name, link in LINKS.items():
        cluster = Cluster(PASCAL_GPUS, gpus_per_host=4, network=25, nvlink=link)
        step = step_seconds(D, PASCAL_BATCH, cluster, images_per_second=P100)
        bare = step.compute / (step.compute + step.gradients)
        lines.append(
            f"| {name} | {100 * step.efficiency:.1f} % | {100 * bare:.1f} % | {PUBLISHED} % |"
        )
    return "\n".join(lines)


def _cell(step: Step, is_wider: bool) -> str:
    group = f", N = {step.fc_parallel}" * is_wider
    return f"{step.images_per_second:,.0f} ({100 * step.efficiency:.1f} %{group})"


def draw(path: Path) -> None:
    """Images a second against GPUs at 100 Gb/s: the paper's batch, and 32 images a GPU."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 9, "font.family": "sans-serif"}):
        figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
        counts = [2**i for i in range(10)]
        strong = [(gpus, 256) for gpus in counts if gpus <= 256]
        weak = [(gpus, 32 * gpus) for gpus in counts]
        for axes, cases, title in (
            (panels[0], strong, "The paper's batch of 256, shared out"),
            (panels[1], weak, "32 images a GPU"),
        ):
            _panel(axes, cases)
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        panels[0].set_ylabel("images a second, predicted")
        handles, labels = panels[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(path, dpi=130, facecolor="white", metadata={"Software": None})
        pyplot.close(figure)


def _panel(axes: "matplotlib.axes.Axes", cases: Sequence[tuple[int, int]]) -> None:
    found = {gpus: modes(D, batch, Cluster(gpus)) for gpus, batch in cases}
    styles = (
        ("plain", 0, "#0072b2", "o"),
        ("--compress", 1, "#009e73", "s"),
        ("groups of a host, --compress", 3, "#c9a100", "^"),
        ("larger groups, --compress", 5, "#d55e00", "D"),
    )
    one = found[1][0].images_per_second
    axes.plot(list(found), [one * n for n in found], ":", color="#6e7781", label="no loss")
    for label, place, colour, marker in styles:
        points = [
            (n, steps[place].images_per_second) for n, steps in found.items() if len(steps) > place
        ]
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, ms=4, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(found), [str(n) for n in found])
    axes.minorticks_off()
    axes.set_yticks([10**3, 10**4, 10**5, 10**6], ["1,000", "10,000", "100,000", "1,000,000"])
    axes.set_xlabel("GPUs, 8 a host, 100 Gb/s a host")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("chart", type=Path, help="ends in .png or .svg")
    args = parser.parse_args()
    draw(args.chart)
    print(f"{predictions()}\n\n{check()}")


if __name__ == "__main__":
    main()
