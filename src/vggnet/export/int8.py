"""Eight-bit weights and activations, their ranges taken from training images."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.evaluate import check_scales
from vggnet.export.layers import Form
from vggnet.export.libraries import library, quiet
from vggnet.export.onnx import describe
from vggnet.images import Pixels
from vggnet.model import VGG
from vggnet.protocols import Term, single_scale
from vggnet.readers import TestImages
from vggnet.recipes import in_proportion

Batches = list[NDArray[np.uint8]]
"""1×3×H×W each: images in their own shapes."""


def scale_for(model: VGG) -> int:
    """Q for a net: that of its S (§4.1), the paper's 256 in proportion where S is not known."""
    S, crop = model.provenance.S, model.config.crop  # noqa: N806, the paper's name
    return in_proportion(256, crop) if S is None else single_scale(S)


def views(model: VGG, images: Sequence[Pixels], form: Form) -> Batches:
    """Images as the net sees them in testing: rescaled to Q, whole or their centre crop.

    One that cannot be read is an error: the images are few.

    Args:
        model: gives S and the crop.
        images: H×W×3, uint8, RGB, of any sizes.
        form: dense: the whole image. crop: the crop in its middle.

    Raises:
        InputError: where there are none, one cannot be read, or Q is below the crop.
    """
    method, crop = ("dense" if form == "dense" else "centre-crop"), model.config.crop
    term = Term(scale_for(model), method, "scores", flips=False)  # type: ignore[arg-type]
    found: Batches = []
    check_scales(model.config, [term.Q])
    for rescaled in TestImages(images, [term.Q]):
        if isinstance(rescaled, InputError):
            raise InputError(f"int8 cannot be calibrated: {rescaled}")
        (image,) = rescaled
        ((top, left, height, width),) = term.windows(image.shape[0], image.shape[1], crop)
        view = image[top : top + height, left : left + width]
        found.append(np.ascontiguousarray(view.transpose(2, 0, 1))[None])
    if not found:
        raise InputError("int8 needs images to calibrate with: there are none")
    return found


def quantize_onnx(graph: Any, path: Path, batches: Batches, described: dict[str, str]) -> None:
    """Quantises an ONNX graph with ONNX Runtime, statically, and writes it to `path`.

    Weights are int8 with a scale for each output channel, activations int8 with a range for each
    tensor: the smallest and the largest value met (percentiles and entropy were no nearer to the
    net, docs/LOG.md). QuantizeLinear and DequantizeLinear stand around the layers (QDQ), which
    runtimes fuse. The scores stay float: 256 steps from the smallest to the largest were most of
    the error.

    Args:
        graph: an `onnx.ModelProto`, which is used up.
        path: ….onnx.
        batches: as `views` gives them.
        described: the file's metadata.
    """
    onnx, tools = library("onnx", "onnx"), library("onnxruntime.quantization", "onnx")
    kind = tools.QuantType.QInt8
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        tools.quantize_static(
            graph,
            str(path),
            _reader(tools, batches),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "Relu", "MaxPool"],
            per_channel=True,
            # Weights of 7 bits: processors without VNNI add two products in 16 bits, which 8 fill.
            reduce_range=True,
            activation_type=kind,
            weight_type=kind,
            calibrate_method=tools.CalibrationMethod.MinMax,
        )
    made = onnx.load(str(path))
    _float_scores(made.graph)
    describe(made, described)
    onnx.checker.check_model(made, full_check=True)
    path.write_bytes(made.SerializeToString())


def _float_scores(graph: Any) -> None:
    """Takes the quantisation behind fc8 away."""
    fc8 = next(node for node in graph.node if node.name == "fc8")
    down = next(node for node in graph.node if fc8.output[0] in node.input)
    up = next(node for node in graph.node if down.output[0] in node.input)
    assert (down.op_type, up.op_type) == ("QuantizeLinear", "DequantizeLinear")
    fc8.output[0] = up.output[0]
    for node in (down, up):
        graph.node.remove(node)
    for value in [value for value in graph.initializer if value.name in down.input]:
        graph.initializer.remove(value)


def _reader(tools: Any, batches: Batches) -> Any:
    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            batch = next(self.left, None)
            return None if batch is None else {"images": batch}

    return Reader()


def quantize_openvino(model: Any, batches: Batches) -> Any:
    """The `openvino.Model` quantised by NNCF, with its preset for convolutional nets.

    Ranges are the smallest and the largest value met, as above: NNCF's own choice, the mean over
    images of each one's largest, cuts off what is beyond, and errs eight times as much.
    """
    nncf = library("nncf", "openvino")
    ranges = library("nncf.quantization.range_estimator", "openvino").RangeEstimatorParametersSet
    nncf.set_log_level("ERROR")
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(
            model,
            nncf.Dataset(batches),
            subset_size=len(batches),
            # Else the scores that it averages were quantised. A crop form has none.
            ignored_scope=nncf.IgnoredScope(names=["average"], validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=ranges.MINMAX
            ),
        )
