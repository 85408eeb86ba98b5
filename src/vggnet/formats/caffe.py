"""Caffe's weights, `….caffemodel`: the authors' own of nets D and E, and nets fine-tuned from them.

Caffe convolves as PyTorch does, without turning the kernel, and flattens in the order C, row,
column. Its pooling rounds odd sizes up where ours drops the last row or column: of images whose
sides are multiples of 32, such as the crop, there is no difference.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.errors import InputError
from vggnet.formats import caffemodel
from vggnet.formats.foreign import CAFFE, Foreign, Preprocessing
from vggnet.formats.layers import check_convolution, check_pooling, check_sequence, our_name

_V1_TYPES = (
    " Accuracy BNLL Concat Convolution Data Dropout EuclideanLoss Flatten HDF5Data HDF5Output "
    "Im2col ImageData InfogainLoss InnerProduct LRN MultinomialLogisticLoss Pooling ReLU Sigmoid "
    "Softmax SoftmaxWithLoss Split TanH WindowData Eltwise Power SigmoidCrossEntropyLoss HingeLoss "
    "MemoryData ArgMax Threshold DummyData Slice MVN AbsVal Silence ContrastiveLoss Exp "
    "Deconvolution"
)
"""Those of V1LayerParameter, numbers from 0, which is none, under their later names."""
_DATA = ("Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData")
_ENDS = (
    "Accuracy",
    "ArgMax",
    "EuclideanLoss",
    "HingeLoss",
    "InfogainLoss",
    "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss",
    "Silence",
    "Softmax",
    "SoftmaxWithLoss",
)


@dataclass(frozen=True, slots=True)
class _Step:
    """What a layer is to `check_sequence`, or `data` or `split`; and what it takes and puts out."""

    what: str
    name: str
    bottoms: frozenset[bytes]
    tops: frozenset[bytes]


def read(path: Path) -> Foreign:
    """The weights of a `.caffemodel`; conv1_1 takes BGR 0–255 minus the authors' mean.

    Where a layer of data says so (`transform_param`), as in a snapshot of training, it takes the
    mean and the scale that stand there; a `mean_file` is not in the file, and passed over. A last
    layer that was renamed for fine-tuning, such as fc8_flickr, is fc8. Of a file that has only the
    layers with weights, as converters write them, the others are taken for VGG's.

    Raises:
        InputError: for a file that is damaged or of Caffe's first form (V0), or layers that are
            not a VGG net's, in its order; or without protobuf.
    """
    tensors: dict[str, Tensor] = {}
    transforms: list[Any] = []
    steps: list[_Step] = []
    for net in caffemodel.layers(path):
        # fc6 has 411 MB as bytes, message, arrays and tensors; two at a time are held.
        step, arrays, found = _layer(path, net, tensors.keys())
        del net
        steps.append(step)
        tensors |= {name: _tensor(arrays.pop(name)) for name in list(arrays)}
        transforms += found
    if not tensors:
        raise InputError(
            f"{path}: has no layers with weights: not a .caffemodel, or damaged: copy or download "
            "it again"
        )
    _check_order(path, [step for step in steps if step.what != "data"])
    channels = tensors["conv1_1.weight"].shape[1:2] if "conv1_1.weight" in tensors else (3,)
    return Foreign("Caffe", tensors, _preprocessing(path, transforms, *channels))


def _preprocessing(path: Path, transforms: list[Any], channels: int = 3) -> Preprocessing:
    """Of the first layer of data that has a mean or a scale: (BGR - mean) · scale."""
    for transform in transforms:
        means = list(transform.mean_value)
        scale = transform.scale if transform.HasField("scale") else 1.0
        if not means and scale == 1:
            continue
        if not means and transform.HasField("mean_file"):
            means = list(reversed(CAFFE.mean))
        means = means or [0.0]
        if len(means) == 1:
            means *= channels
        if len(means) != channels or not np.isfinite([1 / (scale or np.nan), *means]).all():
            raise InputError(
                f"{path}: its layer of data subtracts {means[:4]} of {channels} channels and "
                f"multiplies by {scale}: it is damaged, or another net's"
            )
        std = (1 / scale,) * channels
        if channels == 3:
            return Preprocessing("BGR", 1.0, tuple(reversed(means)), std)
        return Preprocessing("RGB", 1.0, tuple(means), std)
    return CAFFE


def _check_order(path: Path, steps: list[_Step]) -> None:
    """Refuses layers that do not follow, or do not feed, each other as a VGG net's do."""
    if all(step.what.startswith(("conv", "fc")) for step in steps):
        return
    check_sequence(path, [(step.what, step.name) for step in steps if step.what != "split"])
    known: frozenset[bytes] = frozenset()  # the names of what the last layer put out
    for step in steps:
        follows = step.bottoms <= known
        if step.what == "split":  # copies; perhaps of the labels
            known |= step.tops if known and follows else frozenset()
        elif step.what != "end":
            if known and not follows:
                raise InputError(
                    f"{path}: its layer {step.name[:60]!r} does not take what the layer before it "
                    "puts out: it is another net"
                )
            known = step.tops


def _layer(
    path: Path, net: Any, known: Collection[str]
) -> tuple[_Step, dict[str, NDArray[np.floating[Any]]], list[Any]]:
    """The one layer of a net: its weight and bias, if it has them, and its `transform_param`."""
    layer: Any = [*net.layers, *net.layer][0]
    if net.layers and layer.HasField("layer"):
        raise InputError(
            f"{path}: is in Caffe's first form (V0): upgrade it with Caffe's own "
            "upgrade_net_proto_binary"
        )
    name = _start(layer.name).decode(errors="replace")
    what = _what(path, layer, name)
    arrays = _weights(path, layer, what, known) if layer.blobs else {}
    bottoms, tops = (frozenset(map(_start, names)) for names in (layer.bottom, layer.top))
    transforms = [layer.transform_param] if layer.HasField("transform_param") else []
    return _Step(what, name, bottoms, tops), arrays, transforms


def _start(name: bytes) -> bytes:
    """Of a name, which may claim to be of any length."""
    return name[:99]


def _what(path: Path, layer: Any, name: str) -> str:
    """What a layer is (`_Step.what`); refuses the types and settings that no VGG net has."""
    kind = _kind(layer.type)
    if kind == "LRN":
        raise InputError(
            f"{path}: its layer {name[:60]!r} is a local response normalisation, which of VGG nets "
            "only A-LRN has, and Caffe's files of it are not read: build it with vggnet"
        )
    if layer.blobs:
        ours = our_name(path, name)
        if kind not in ("", "Convolution", *["InnerProduct"] * ours.startswith("fc")):
            raise _of_another_type(path, name, kind)
        return ours
    if kind in ("Convolution", "InnerProduct"):
        raise InputError(
            f"{path}: {name[:60]!r} has 0 blobs, expected a weight and a bias: save it with Caffe "
            "itself"
        )
    if kind == "ReLU" and any(layer.relu_param.negative_slope):
        raise InputError(f"{path}: its layer {name[:60]!r} is a leaky ReLU: it is another net")
    if kind == "Pooling":
        _check_pooling(path, name, layer.pooling_param)
    if kind == "Dropout" and not all(layer.dropout_param.scale_train):
        raise InputError(
            f"{path}: its layer {name[:60]!r} scales in evaluation (scale_train): it is another net"
        )
    if kind in _DATA:
        return "data"
    if kind in _ENDS:
        return "end"
    names = {"ReLU": "relu", "Pooling": "pool", "Dropout": "dropout", "Split": "split"}
    if kind not in names:
        raise _of_another_type(path, name, kind)
    return names[kind]


def _kind(kind: int | bytes) -> str:
    if isinstance(kind, bytes):
        return _start(kind).decode(errors="replace")
    names = _V1_TYPES.split(" ")
    return names[kind] if 0 <= kind < len(names) else str(kind)


def _of_another_type(path: Path, name: str, kind: str) -> InputError:
    return InputError(
        f"{path}: its layer {name[:60]!r} is of type {kind[:60]!r}, which it is in no VGG net that "
        "is read here"
    )


def _check_pooling(path: Path, name: str, settings: Any) -> None:
    if any(settings.pool) or any(settings.global_pooling):
        raise InputError(
            f"{path}: {name[:60]!r} does not pool by the maximum of 2×2, as a VGG net does: it is "
            "another net"
        )
    check_pooling(
        path,
        name,
        kernel=[*settings.kernel_size, *settings.kernel_h, *settings.kernel_w],
        stride=[*settings.stride, *settings.stride_h, *settings.stride_w] or [1],
        pad=[max([0, *settings.pad, *settings.pad_h, *settings.pad_w])],
    )


def _weights(
    path: Path, layer: Any, ours: str, known: Collection[str]
) -> dict[str, NDArray[np.floating[Any]]]:
    if len(layer.blobs) != 2:
        raise InputError(
            f"{path}: {ours} has {len(layer.blobs)} blobs, expected a weight and a bias"
        )
    weight = _blob(path, f"{ours}.weight", layer.blobs[0])
    bias = _blob(path, f"{ours}.bias", layer.blobs[1])
    if layer.HasField("convolution_param"):
        settings = layer.convolution_param
        check_convolution(
            path,
            ours,
            weight.shape[-1] if weight.ndim else 1,
            pad=[*settings.pad, *settings.pad_h, *settings.pad_w] or [0],
            stride=[*settings.stride, *settings.stride_h, *settings.stride_w],
            dilation=list(settings.dilation),
            group=list(settings.group),
        )
    if layer.inner_product_param.transpose:
        raise InputError(f"{path}: {ours} is stored transposed: save it as Caffe's default is")
    if f"{ours}.weight" in known:
        raise InputError(f"{path}: has two layers {ours}")
    if ours.startswith("fc"):
        # Before blobs had shapes, matrices were 1×1×out×in. fc6 as a convolution is out×C×h×w.
        matrix = weight.shape[2:] if weight.shape[:2] == (1, 1) else (*weight.shape[:1], -1)
        weight = weight.reshape(matrix)
    return {f"{ours}.weight": weight, f"{ours}.bias": bias.reshape(-1)}


def _blob(path: Path, name: str, blob: Any) -> NDArray[np.floating[Any]]:
    """Its values as they are stored; read-only."""
    if blob.HasField("shape"):
        sizes = list(blob.shape.dim)
    else:
        sizes = [blob.num, blob.channels, blob.height, blob.width]
    if not blob.data and not blob.double_data:
        raise InputError(f"{path}: {name} has no data: save it with Caffe itself")
    values = b"".join(blob.data or blob.double_data)
    dtype = np.dtype("<f4" if blob.data else "<f8")
    claimed = prod(sizes) * dtype.itemsize
    if not values or len(sizes) > 4 or min(sizes, default=1) < 1 or claimed != len(values):
        shown = "×".join(map(str, sizes[:4])) + "×…" * (len(sizes) > 4)
        raise InputError(
            f"{path}: {name} is said to be {shown} and has {len(values):,} bytes: copy or "
            "download it again"
        )
    return np.frombuffer(values, dtype).reshape(sizes)


def _tensor(values: NDArray[np.floating[Any]]) -> Tensor:
    with np.errstate(all="ignore"):  # what is no float32 becomes an infinity, which is refused
        return torch.from_numpy(values.astype(np.float32))
