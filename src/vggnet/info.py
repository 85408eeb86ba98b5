"""What `vggnet info` prints: the accounting as text."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vggnet import paper
from vggnet.accounting import (
    Account,
    KernelRow,
    first_layer_arithmetic,
    kernel_arithmetic,
)
from vggnet.layers import LRN
from vggnet.recipes import PAPER_CROP
from vggnet.rivals import RIVALS


def side_by_side(accounts: Sequence[Account]) -> str:
    """The nets of Table 1, a column each, with their costs."""
    config = accounts[0].config
    rows: list[list[str]] = [["", *(net.config.net for net in accounts)]]
    rows.append(["weight layers", *(str(net.config.weight_layers) for net in accounts)])
    for stage in range(5):
        cells = [
            [
                "LRN"
                if isinstance(item, LRN)
                else f"conv{item.kernel}-{config.channels(item.channels)}"
                for item in net.config.stages[stage]
            ]
            for net in accounts
        ]
        for line in range(max(map(len, cells))):
            label = f"stage {stage + 1}" if line == 0 else ""
            rows.append([label, *(cell[line] if line < len(cell) else "" for cell in cells)])
        rows.append(["", *["maxpool"] * len(accounts)])
    for fc in ("fc6", "fc7", "fc8"):
        widths = [next(x for x in net.layers if x.name == fc).output[0] for net in accounts]
        rows.append([fc, *(f"FC-{width}" for width in widths)])
    rows.append(["parameters", *(f"{net.parameters:,}" for net in accounts)])
    rows.append(["weights", *(f"{net.weights:,}" for net in accounts)])
    same = config.width, config.num_classes, config.crop, config.batch_norm
    if same == (1, 1000, PAPER_CROP, False):
        millions = (paper.PARAMETERS_MILLIONS[net.config.net] for net in accounts)
        rows.append(["Table 2, millions", *map(str, millions)])
    rows.append(["multiply-adds, G", *(f"{net.multiply_adds / 1e9:.3f}" for net in accounts)])
    for name in ("pool5", "fc6"):
        rows.append([f"sees at {name}, px", *(str(net.receptive_field(name)) for net in accounts)])
    head = f"Crop {config.crop}, width {config.width:g}, {config.num_classes} classes."
    return f"{head}\n\n{align(rows)}"


def rivals(accounts: Sequence[Account]) -> str:
    """The nets that Table 7 compares with, a line each."""
    rows = [["", "crop", "weight layers", "parameters", "published", "multiply-adds, G", "Table 7"]]
    for net in accounts:
        of_paper = RIVALS[net.config.net]
        rows.append(
            [
                net.config.net,
                str(net.config.crop),
                str(net.config.weight_layers),
                f"{net.parameters:,}",
                of_paper.published or "–",
                f"{net.multiply_adds / 1e9:.3f}",
                of_paper.system,
            ]
        )
    left_out = RIVALS.keys() - {net.config.net for net in accounts}
    few = [name for name in RIVALS if name in left_out]
    note = (
        f"\n\nLeft out, since so small a crop leaves nothing of their last map: {', '.join(few)}."
    )
    return (
        "The nets that Table 7 compares with. Published: parameters at width 1, 1,000 classes and "
        f"the paper's crop.\n\n{align(rows)}{note * bool(few)}"
    )


def walk(net: Account, batch: int) -> str:
    """A net layer by layer, as the lecture slides walk through D, and its training memory."""
    config = net.config
    rows = [
        ["layer", "output", "activations", "weights", "parameters", "multiply-adds", "sees, px"],
        [
            "input",
            _shape((config.in_channels, *net.size)),
            f"{config.in_channels * net.size[0] * net.size[1]:,}",
            "0",
            "0",
            "0",
            "1",
        ],
    ]
    for layer in net.layers:
        counts = (layer.activations, layer.weights, layer.parameters, layer.multiply_adds)
        numbers = [f"{count:,}" for count in counts]
        rows.append([layer.name, _shape(layer.output), *numbers, str(layer.receptive_field)])
    totals = (net.activations, net.weights, net.parameters, net.multiply_adds)
    rows.append(["total", "", *(f"{count:,}" for count in totals), ""])
    memory = {name: f"{count / 2**30:.2f}" for name, count in net.training_memory(batch).items()}
    return (
        f"Net {config.net}: {config.weight_layers} weight layers, crop {config.crop}, width "
        f"{config.width:g}, {config.num_classes} classes. One image; weights without biases.\n\n"
        f"{align(rows)}\n\n"
        f"{_sides(net)}"
        f"Training memory at batch {batch}, float32, GiB: parameters {memory['parameters']}, "
        f"gradients {memory['gradients']}, momentum {memory['momentum']}, kept for the backward "
        f"pass {memory['kept']}, passing gradients {memory['passing']}, "
        f"together {memory['total']}."
    )


def _sides(net: Account) -> str:
    """GoogLeNet's classifiers, which training alone has."""
    if not net.sides:
        return ""
    parameters = sum(layer.parameters for layer in net.sides)
    return (
        f"Beside it in training: classifiers at {' and '.join(net.config.sides())}, with "
        f"{parameters:,} parameters more.\n\n"
    )


def kernels() -> str:
    """§2.3's arithmetic and the lecture slides' count of a first layer."""

    def line(row: KernelRow, unit: str) -> str:
        return (
            f"  {row.stack}: {row.stack_weights:,}{unit}; one {row.single}: "
            f"{row.single_weights:,}{unit}, {row.excess_percent:.0f} % more"
        )

    return "\n".join(
        [
            "Small kernels, weights without biases (§2.3), C channels in and out:",
            *(line(row, "C²") for row in kernel_arithmetic()),
            "First layer, 3 channels in and 64 out, each stacked layer counted at 3×3×3×64:",
            *(line(row, "") for row in first_layer_arithmetic()),
        ]
    )


def kernels_json() -> dict[str, Any]:
    """The same as data; `channels` rows are in units of C²."""

    def rows(found: Sequence[KernelRow]) -> list[dict[str, Any]]:
        return [asdict(row) | {"excess_percent": row.excess_percent} for row in found]

    return {"channels": rows(kernel_arithmetic()), "first_layer": rows(first_layer_arithmetic())}


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def align(rows: Sequence[Sequence[str]]) -> str:
    """A table as text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
