"""ncnn's files: a .param, text with a line a layer, and a .bin, the weights one after the other.

The format is ncnn's own documentation's (docs/developer-guide: "param and model file structure").
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vggnet.export.layers import Array, Form, Step, steps
from vggnet.model import VGG

_MAGIC = 7767517
_FLOAT32, _FLOAT16 = 0, 0x01306B47
"""The word before a layer's weights. Biases have none, and are float32."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A layer of one input and one output: its type, its name, its parameters by number."""

    kind: str
    name: str
    values: dict[int, int | float]


def write(model: VGG, path: Path, form: Form, *, half: bool) -> None:
    """Writes `path`, ….param, and the .bin beside it.

    The input `images` is one image, float, RGB 0–255, channels first: ncnn has no batches and no
    bytes. The output `scores` is K values. The layers bear the net's names.

    Args:
        model: the net.
        path: of the .param.
        form: dense: fc6 to fc8 are convolutions, and the map is averaged. crop: they are inner
            products.
        half: store weights as float16; ncnn reads both.
    """
    side = model.config.crop if form == "crop" else 0
    channels = model.config.in_channels
    lines = [_Line("Input", "images", {0: side, 1: side, 2: channels} if side else {})]
    lines.append(_Line("Bias", "subtract_mean", {0: channels}))
    with path.with_suffix(".bin").open("wb") as file:
        file.write((-model.mean.detach().float().cpu().numpy()).tobytes())
        for step in steps(model):
            lines.append(_line(step, form))
            if step.weight is not None and step.bias is not None:
                _put(file, step.weight, half=half)
                file.write(step.bias.tobytes())
    if form == "dense":
        lines.append(_Line("Pooling", "average", {0: 1, 4: 1}))
    path.write_text(_text(lines), encoding="ascii")


def _line(step: Step, form: Form) -> _Line:
    match step.kind:
        case "relu":
            return _Line("ReLU", step.name, {})
        case "pool":  # max, 2×2, stride 2; pad_mode 1 leaves out what is over at odd sizes
            return _Line("Pooling", step.name, {0: 0, 1: 2, 2: 2, 5: 1})
        case "lrn":
            assert step.lrn is not None
            lrn = step.lrn
            values = {0: 0, 1: lrn.size, 2: lrn.alpha, 3: lrn.beta, 4: lrn.k}
            return _Line("LRN", step.name, values)
    assert step.weight is not None
    out, size = len(step.weight), step.weight.size
    if step.kind == "fc" and form == "crop":
        return _Line("InnerProduct", step.name, {0: out, 1: 1, 2: size})
    padding = step.kernel // 2 if step.kind == "conv" else 0
    # Channels, kernel, padding, whether there is a bias, number of weights.
    return _Line("Convolution", step.name, {0: out, 1: step.kernel, 4: padding, 5: 1, 6: size})


def _text(lines: list[_Line]) -> str:
    """Magic number; numbers of layers and of blobs; a line for each layer: its type, its name, how
    many blobs it takes and gives, their names, its parameters."""
    text = [str(_MAGIC), f"{len(lines)} {len(lines)}"]
    blob = ""
    for line in lines:
        out = "scores" if line is lines[-1] else line.name
        blobs = f"1 1 {blob} {out}" if blob else f"0 1 {out}"
        values = "".join(f" {key}={_number(value)}" for key, value in line.values.items())
        text.append(f"{line.kind:16} {line.name:16} {blobs}{values}")
        blob = out
    return "\n".join(text) + "\n"


def _number(value: int | float) -> str:
    """A point makes a number a float for ncnn."""
    return str(value) if isinstance(value, int) else f"{value:e}"


def _put(file: BinaryIO, weight: Array, *, half: bool) -> None:
    file.write((_FLOAT16 if half else _FLOAT32).to_bytes(4, "little"))
    stored = (weight.astype("<f2") if half else weight).tobytes()
    file.write(stored + bytes(-len(stored) % 4))  # the next begins at a multiple of 4
