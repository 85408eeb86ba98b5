"""MatConvNet's weights, `imagenet-vgg-verydeep-16.mat` and `-19.mat`: the authors' D and E.

They are Caffe's, with conv1_1 turned to RGB and every layer a convolution: filters are
height×width×in×out, those of fc6 7×7×512×4096. MatConvNet convolves as PyTorch does, without
turning the kernel. Files of before 2015 name some things otherwise; both kinds are read.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vggnet.errors import InputError
from vggnet.formats import matfile
from vggnet.formats.foreign import Foreign, Preprocessing
from vggnet.formats.layers import check_convolution, check_pooling, check_sequence, our_name
from vggnet.imagenet import class_names, synset_names

_VARIABLES = ("layers", "meta", "normalization", "classes", "net")
_ENDS = ("softmax", "softmaxloss", "loss")
_HARMLESS = ("cudnn", "nocudnn", "cudnnworkspacelimit", "verbose")
"""Among a layer's `opts`: what changes the speed and not the result."""


def read(path: Path) -> Foreign:
    """The weights of a SimpleNN, its mean and its class names; conv1_1 takes RGB 0–255.

    A last layer that was renamed for fine-tuning, such as fc8_flickr, is fc8.

    Raises:
        InputError: for a file that is damaged, of MATLAB's version 7.3 or of a DagNN; for layers
            that are not a VGG net's, in its order.
    """
    net = matfile.read(path, _VARIABLES)
    if isinstance(net.get("net"), dict) and "layers" not in net:
        net = net["net"]  # as MatConvNet's training saves it
    if "params" in net:
        raise InputError(
            f"{path}: holds a DagNN, and only SimpleNN files are read: the authors' are "
            "imagenet-vgg-verydeep-16.mat and -19.mat"
        )
    layers = net.get("layers")
    if not isinstance(layers, list) or not layers:
        raise InputError(
            f"{path}: has no cell array `layers`, as MatConvNet's nets have: its variables are "
            f"{', '.join(repr(name[:60]) for name in list(net)[:8]) or 'none'}"
        )
    tensors: dict[str, Tensor] = {}
    sequence: list[tuple[str, str]] = []
    for number, layer in enumerate(layers, start=1):
        if not isinstance(layer, dict):
            raise InputError(f"{path}: layer {number} is no struct")
        kind, name = map(_text, map(layer.get, ("type", "name")))
        what = _what(path, number, kind, name, layer)
        if kind == "conv":
            if f"{what}.weight" in tensors:
                raise InputError(f"{path}: has two layers {what}")
            tensors |= _convolution(path, what, layer)
        sequence.append((what, name or f"{kind} {number}"))
        layer.clear()  # a net is half a gigabyte: no layer is held twice for long
    if not tensors:
        raise InputError(f"{path}: none of its {len(layers)} layers has weights")
    check_sequence(path, sequence)
    meta = net["meta"] if isinstance(net.get("meta"), dict) else net
    fc8 = tensors.get("fc8.bias")
    names = None if fc8 is None else _class_names(meta.get("classes"), len(fc8))
    return Foreign("MatConvNet", tensors, _preprocessing(meta.get("normalization")), names)


def _what(path: Path, number: int, kind: str, name: str, layer: dict[str, Any]) -> str:
    """What a layer is to `check_sequence`; refuses the kinds and settings that no VGG net has."""
    options = layer.get("opts")
    for option in map(_text, options if isinstance(options, list) else []):
        if option and option.lower() not in _HARMLESS:
            raise InputError(
                f"{path}: layer {number} ({name[:60]!r}) has the option {option[:60]!r}, which may "
                "change its result: it is another net"
            )
    if kind == "conv" and name:
        return our_name(path, name)
    if kind == "conv":
        raise InputError(f"{path}: layer {number} is a convolution without a name")
    if kind == "relu":
        if any(_integers(layer.get("leak", _ZERO))):
            raise InputError(
                f"{path}: layer {number} ({name[:60]!r}) is a leaky ReLU: it is another net"
            )
    elif kind == "pool":
        if layer.get("method", "max") != "max":
            raise InputError(
                f"{path}: layer {number} ({name[:60]!r}) does not pool by the maximum, as a VGG "
                "net does: it is another net"
            )
        check_pooling(
            path,
            name or f"layer {number}",
            kernel=_integers(layer.get("pool")),
            stride=_integers(layer.get("stride", _ZERO + 1)),
            pad=_integers(layer.get("pad", _ZERO)),
        )
    elif kind in _ENDS:
        return "end"
    elif kind != "dropout":
        raise InputError(
            f"{path}: layer {number} ({name[:60]!r}) is of type {kind[:60]!r}, which no "
            "VGG net that is read here has"
        )
    return kind


def _convolution(path: Path, ours: str, layer: dict[str, Any]) -> dict[str, Tensor]:
    weights = layer.get("weights", [layer.get("filters"), layer.get("biases")])
    if not isinstance(weights, list) or len(weights) != 2 or not all(map(_is_numbers, weights)):
        raise InputError(
            f"{path}: {ours} has no filters and biases in plain arrays: of a net on the GPU, save "
            "vl_simplenn_move(net, 'cpu')"
        )
    filters, biases = weights
    if filters.ndim > 4:
        raise InputError(f"{path}: {ours} has filters of {filters.ndim} dimensions")
    filters = filters.reshape(filters.shape + (1,) * (4 - filters.ndim))  # MATLAB drops last ones
    check_convolution(
        path,
        ours,
        filters.shape[0],
        pad=_integers(layer.get("pad", _ZERO)),
        stride=_integers(layer.get("stride", _ZERO + 1)),
        dilation=_integers(layer.get("dilate", _ZERO + 1)),
    )
    with np.errstate(all="ignore"):  # what is no float32 becomes an infinity, which is refused
        weight = np.array(filters.transpose(3, 2, 0, 1), np.float32, order="C")
        bias = np.array(biases.reshape(-1, order="F"), np.float32)
    if ours.startswith("fc"):
        weight = weight.reshape(weight.shape[0], int(np.prod(weight.shape[1:])))
    return {f"{ours}.weight": torch.from_numpy(weight), f"{ours}.bias": torch.from_numpy(bias)}


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.size > 0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


_ZERO = np.zeros((1, 1))


def _integers(value: Any) -> list[int]:
    """A setting's values: one for all sides, or one for each; -1 for what is no whole number."""
    numbers = value.reshape(-1)[:16].tolist() if isinstance(value, np.ndarray) else [-1]
    return [int(number) if number == number // 1 else -1 for number in numbers]


def _preprocessing(normalization: Any) -> Preprocessing | str:
    """From `averageImage`: a value a channel, or an image in which every pixel is the same.

    Else why there is none.
    """
    image = normalization.get("averageImage") if isinstance(normalization, dict) else None
    if not isinstance(image, np.ndarray) or not (
        image.size in (1, 3) or (image.size and image.ndim == 3 and image.shape[2] < 100)
    ):
        return "has no mean RGB (net.meta.normalization.averageImage)"
    # A vector's place is that of its values; an image's last dimension that of its channels.
    colours = image.reshape(1, -1) if image.size in (1, 3) else image.reshape(-1, image.shape[2])
    colours = colours.astype(np.float64)
    if not np.isfinite(colours).all():
        return "its averageImage has values that are not finite"
    if np.ptp(colours, axis=0).max() > 1e-3:
        return (
            f"subtracts a mean image ({'×'.join(map(str, image.shape))}) whose pixels differ, "
            "where VGG subtracts one colour, the mean RGB"
        )
    mean = tuple(colours[0].tolist())
    return Preprocessing("RGB", 1.0, mean, (1.0,) * len(mean))


def _class_names(classes: Any, count: int) -> tuple[str, ...] | None:
    """In the order of the scores; readable ones of ImageNet's synsets; None where there are none.

    A net that was fine-tuned may still have the names of the net before it: another number of them
    is none.
    """
    if not isinstance(classes, dict):
        return None
    labels, described = (_texts(classes.get(key), count) for key in ("name", "description"))
    known = synset_names()
    if labels and known.keys() >= set(labels):
        return class_names(labels)
    if described:
        first = [text.split(",")[0].strip() for text in described]
        if all(first) and len(set(first)) == count:
            return tuple(first)
        return tuple(described)
    if labels and not all(re.fullmatch(r"n[0-9]{8}", label) for label in labels):
        return tuple(labels)
    return None


def _texts(value: Any, count: int) -> list[str] | None:
    if not isinstance(value, list) or len(value) != count:
        return None
    return value if all(isinstance(text, str) and text.strip() for text in value) else None
