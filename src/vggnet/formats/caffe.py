"""Caffe's weights, `….caffemodel`: the authors' own of nets D and E, and nets fine-tuned from them.

Caffe convolves as PyTorch does, without turning the kernel, and flattens in the order C, row,
column. Its pooling rounds odd sizes up where ours drops the last row or column: of images whose
sides are multiples of 32, such as the crop, there is no difference.
"""

from collections.abc import Collection
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.errors import InputError
from vggnet.formats import caffemodel
from vggnet.formats.foreign import CAFFE, Foreign, Preprocessing, check_convolution, our_name

_V1_LRN = 15
"""The number of local response normalisation among V1LayerParameter's types."""


def read(path: Path) -> Foreign:
    """The weights of a `.caffemodel`; conv1_1 takes BGR 0–255 minus the authors' mean.

    Where a layer of data says so (`transform_param`), as in a snapshot of training, it takes the
    mean and the scale that stand there; a `mean_file` is not in the file, and passed over. Other
    layers without weights are taken for the net's own. A last layer that was renamed for
    fine-tuning, such as fc8_flickr, is fc8.

    Raises:
        InputError: for a file that is damaged or of Caffe's first form (V0), or layers that are
            none of a VGG net's; or without protobuf.
    """
    tensors: dict[str, Tensor] = {}
    transforms: list[Any] = []
    for net in caffemodel.layers(path):
        # fc6 has 411 MB as bytes, message, arrays and tensors; two at a time are held.
        arrays, found = _layer(path, net, tensors.keys())
        del net
        tensors |= {name: _tensor(arrays.pop(name)) for name in list(arrays)}
        transforms += found
    if not tensors:
        raise InputError(
            f"{path}: has no layers with weights: not a .caffemodel, or damaged: copy or download "
            "it again"
        )
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


def _layer(
    path: Path, net: Any, known: Collection[str]
) -> tuple[dict[str, NDArray[np.floating[Any]]], list[Any]]:
    """The weight and bias of the one layer of a net, if it has them, and its `transform_param`."""
    layer: Any = [*net.layers, *net.layer][0]
    if net.layers and layer.HasField("layer"):
        raise InputError(
            f"{path}: is in Caffe's first form (V0): upgrade it with Caffe's own "
            "upgrade_net_proto_binary"
        )
    name = layer.name[:99].decode(errors="replace")  # which may claim to be of any length
    if layer.type in (_V1_LRN, b"LRN"):
        raise InputError(
            f"{path}: its layer {name[:60]!r} is a local response normalisation, which of VGG nets "
            "only A-LRN has, and Caffe's files of it are not read: build it with vggnet"
        )
    transforms = [layer.transform_param] if layer.HasField("transform_param") else []
    if not layer.blobs:
        return {}, transforms
    ours = our_name(path, name)
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
    return {f"{ours}.weight": weight, f"{ours}.bias": bias.reshape(-1)}, transforms


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
