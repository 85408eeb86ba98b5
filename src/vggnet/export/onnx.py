"""The ONNX graph of a net, made from its layers: no tracing, every node and tensor named."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.export.layers import Array, Form, Precision, Step, description, steps
from vggnet.export.libraries import library
from vggnet.model import VGG

OPSET, IR_VERSION = 13, 7
"""ONNX 1.8's, of 2020: the first operators that quantise by channel, so that most runtimes read
the files."""
_LARGEST = 2_000_000_000
"""Bytes of weights. A protobuf message ends at 2^31."""


def graph(model: VGG, form: Form, precision: Precision) -> Any:
    """The net as an `onnx.ModelProto`: `images`, uint8, N×3×H×W, to `scores`, float32, N×K.

    The nodes bear the layers' names and so do their outputs: `conv1_1`, `relu1_1`, …, `fc8`; the
    weights are `conv1_1.weight` and so on. The scores are those of `VGG.forward`. What the net is
    stands in the model's metadata (`layers.description`).

    Args:
        model: on any device.
        form: dense: N, H and W are free, fc6 to fc8 are convolutions, the score map is averaged.
            crop: N is free, H and W are the crop, fc6 to fc8 are matrix products (Gemm).
        precision: float16 stores weights, not biases, as float16 with a Cast behind each: runtimes
            convert them when they load the file, and compute in float32.

    Raises:
        InputError: for more weights than an ONNX file can hold.
    """
    onnx = library("onnx", "onnx")
    layers = steps(model)
    _check_size(layers, precision)
    helper, kinds = onnx.helper, onnx.TensorProto
    config = model.config
    side: list[int | str] = ["h", "w"] if form == "dense" else [config.crop, config.crop]
    parts = _Parts(onnx, half=precision == "float16")
    mean = model.mean.detach().float().cpu().numpy().reshape(1, -1, 1, 1)
    parts.node("Cast", "to_float", ["images"], to=kinds.FLOAT)
    parts.node("Sub", "subtract_mean", ["to_float", parts.constant("mean", mean)])
    last = "subtract_mean"
    for step in layers:
        if step.name == "fc6" and form == "crop":
            last = parts.node("Flatten", "flatten", [last])
        last = _add(parts, step, last, form)
    if form == "dense":
        last = parts.node("GlobalAveragePool", "average", [last])
        last = parts.node("Flatten", "flatten", [last])
    parts.nodes[-1].output[0] = "scores"
    made = helper.make_graph(
        parts.nodes,
        f"VGG-{config.title}",
        [helper.make_tensor_value_info("images", kinds.UINT8, ["n", config.in_channels, *side])],
        [helper.make_tensor_value_info("scores", kinds.FLOAT, ["n", config.num_classes])],
        parts.constants,
    )
    opset = [helper.make_opsetid("", OPSET)]
    found = helper.make_model(made, opset_imports=opset, ir_version=IR_VERSION)
    found.producer_name = "vggnet"
    describe(found, description(model, form, precision))
    onnx.checker.check_model(found, full_check=True)
    return found


def describe(model: Any, values: dict[str, str]) -> None:
    """Puts values into the metadata of a ModelProto, in place of what is there."""
    del model.metadata_props[:]
    library("onnx", "onnx").helper.set_model_props(model, values)


class _Parts:
    """Nodes and constants as they are added."""

    def __init__(self, onnx: Any, *, half: bool) -> None:
        self.onnx, self.half = onnx, half
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, name: str, inputs: list[str], **attributes: Any) -> str:
        """Adds a node whose one output is named as itself."""
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(value, name))
        return name

    def weight(self, name: str, value: Array) -> str:
        if not self.half:
            return self.constant(name, value)
        stored = self.constant(f"{name}.float16", value.astype(np.float16))
        return self.node("Cast", name, [stored], to=self.onnx.TensorProto.FLOAT)


def _add(parts: _Parts, step: Step, last: str, form: Form) -> str:
    match step.kind:
        case "relu":
            return parts.node("Relu", step.name, [last])
        case "pool":
            return parts.node("MaxPool", step.name, [last], kernel_shape=[2, 2], strides=[2, 2])
        case "lrn":
            assert step.lrn is not None
            lrn = step.lrn
            values = {"size": lrn.size, "alpha": lrn.alpha, "beta": lrn.beta, "bias": lrn.k}
            return parts.node("LRN", step.name, [last], **values)
    assert step.weight is not None
    assert step.bias is not None
    matrix = step.kind == "fc" and form == "crop"
    value = step.weight.reshape(len(step.weight), -1) if matrix else step.weight
    weight = parts.weight(f"{step.name}.weight", value)
    inputs = [last, weight, parts.constant(f"{step.name}.bias", step.bias)]
    if matrix:
        return parts.node("Gemm", step.name, inputs, transB=1)
    padding = step.kernel // 2 if step.kind == "conv" else 0
    shape = [step.kernel] * 2
    return parts.node("Conv", step.name, inputs, kernel_shape=shape, pads=[padding] * 4)


def _check_size(layers: list[Step], precision: Precision) -> None:
    values = sum(step.weight.size for step in layers if step.weight is not None)
    size = values * (2 if precision == "float16" else 4)
    if size > _LARGEST:
        remedy = "" if precision == "float16" else "--fp16, "
        raise InputError(
            f"{size / 1e9:.1f} GB of weights are more than an ONNX graph holds, "
            f"{_LARGEST / 1e9:.0f} GB: take {remedy}--format torch or --format ncnn"
        )
