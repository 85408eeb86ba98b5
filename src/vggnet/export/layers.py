"""A net's layers as every runtime has them: batch normalisation folded, dropout left out."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vggnet import __version__
from vggnet.errors import InputError
from vggnet.layers import LRN
from vggnet.model import VGG
from vggnet.modules import FullyConnected, LocalResponseNorm

Form = Literal["dense", "crop"]
"""dense: images of any size from the crop's on, scores averaged over the map. crop: only the
crop's size."""
Precision = Literal["float32", "float16", "int8"]
"""Of the weights in the file."""

Array = NDArray[np.float32]

_LARGEST_FLOAT16 = 65504.0


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One layer. Its name is the net's."""

    name: str
    kind: Literal["conv", "fc", "relu", "lrn", "pool"]
    weight: Array | None = None
    """Of conv and fc: out×in×k×k. An fc is a convolution without padding."""
    bias: Array | None = None
    """Of conv and fc: out."""
    lrn: LRN | None = None
    """Of lrn, with alpha as ONNX, OpenVINO, ncnn and Caffe have it: they divide it by `size`."""

    @property
    def kernel(self) -> int:
        assert self.weight is not None
        return int(self.weight.shape[-1])


def steps(model: VGG) -> list[Step]:
    """The net's layers from conv1_1 to fc8; what comes before them is the subtraction of the mean.

    Convolutions have the batch normalisation after them folded in, computed in float64. The
    weights are not copied where nothing is folded.
    """
    found: list[Step] = []
    for layer in model.config.layers():
        module = getattr(model, layer.name)
        match layer.kind:
            case "conv":
                found.append(Step(layer.name, "conv", _array(module.weight), _array(module.bias)))
            case "fc":
                assert isinstance(module, FullyConnected)
                shape = layer.out_channels, layer.in_channels, layer.kernel, layer.kernel
                weight = _array(module.weight).reshape(shape)
                found.append(Step(layer.name, "fc", weight, _array(module.bias)))
            case "bn":
                found[-1] = _folded(found[-1], module)
            case "lrn":
                assert isinstance(module, LocalResponseNorm)
                lrn = replace(module.lrn, alpha=module.alpha * module.lrn.size)
                found.append(Step(layer.name, "lrn", lrn=lrn))
            case "relu":
                found.append(Step(layer.name, "relu"))
            case "pool":
                found.append(Step(layer.name, "pool"))
    return found


def _array(value: torch.Tensor) -> Array:
    return value.detach().float().cpu().contiguous().numpy()


def _folded(conv: Step, bn: torch.nn.BatchNorm2d) -> Step:
    assert conv.weight is not None
    assert conv.bias is not None
    assert bn.running_mean is not None
    assert bn.running_var is not None
    gain = (bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()).detach().cpu().numpy()
    shift = bn.bias.detach().double().cpu().numpy()
    mean = bn.running_mean.double().cpu().numpy()
    weight = (conv.weight * gain[:, None, None, None]).astype(np.float32)
    bias = ((conv.bias - mean) * gain + shift).astype(np.float32)
    return replace(conv, weight=weight, bias=bias)


def check_float16(model: VGG) -> None:
    """Raises InputError for a net whose weights are beyond float16's range."""
    for step in steps(model):
        if step.weight is not None and not np.abs(step.weight).max() <= _LARGEST_FLOAT16:
            raise InputError(
                f"{step.name} has weights beyond float16's largest, {_LARGEST_FLOAT16:g}: export "
                "without --fp16"
            )


def description(model: VGG, form: Form, precision: Precision) -> dict[str, str]:
    """What travels with an exported file, where its format takes it.

    Lists and `provenance` are JSON; `class_names` and the fields of the provenance are left out
    where they are not known.
    """
    config, known = model.config, asdict(model.provenance)
    names = known.pop("class_names")
    found = {
        "net": config.title,
        "images": f"RGB 0-255, uint8, N x {config.in_channels} x H x W",
        "crop": str(config.crop),
        "form": form,
        "mean": json.dumps(model.mean.tolist()),
        "mean_is_subtracted": "inside",
        "weights": precision,
        "vggnet": __version__,
        "provenance": json.dumps({key: value for key, value in known.items() if value is not None}),
    }
    if names is not None:
        found["class_names"] = json.dumps(names, ensure_ascii=False)
    return found
