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
from vggnet.formats.foreign import Foreign, Preprocessing, check_convolution, our_name
from vggnet.imagenet import class_names, synset_names

_VARIABLES = ("layers", "meta", "normalization", "classes", "net")
_WITHOUT_WEIGHTS = ("relu", "pool", "softmax", "softmaxloss", "dropout", "loss")


def read(path: Path) -> Foreign:
    """The weights of a SimpleNN, its mean and its class names; conv1_1 takes RGB 0–255.

    A last layer that was renamed for fine-tuning, such as fc8_flickr, is fc8.

    Raises:
        InputError: for a file that is damaged, of MATLAB's version 7.3 or of a DagNN; for layers
            that are none of a VGG net's; for a mean image that is not one colour.
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
            f"{', '.join(list(net)[:8]) or 'none'}"
        )
    tensors: dict[str, Tensor] = {}
    for number, layer in enumerate(layers, start=1):
        if not isinstance(layer, dict):
            raise InputError(f"{path}: layer {number} is no struct")
        tensors |= _layer(path, number, layer, tensors)
        layer.clear()  # a net is half a gigabyte: no layer is held twice for long
    if not tensors:
        raise InputError(f"{path}: none of its {len(layers)} layers has weights")
    meta = net["meta"] if isinstance(net.get("meta"), dict) else net
    fc8 = tensors.get("fc8.bias")
    names = None if fc8 is None else _class_names(meta.get("classes"), len(fc8))
    return Foreign("MatConvNet", tensors, _preprocessing(path, meta.get("normalization")), names)


def _layer(
    path: Path, number: int, layer: dict[str, Any], known: dict[str, Tensor]
) -> dict[str, Tensor]:
    kind, name = (
        value if isinstance(value, str) else None for value in map(layer.get, ("type", "name"))
    )
    if kind in _WITHOUT_WEIGHTS:
        return {}
    if kind != "conv":
        raise InputError(
            f"{path}: layer {number} ({str(name)[:60]!r}) is of type {str(kind)[:60]!r}, which no "
            "VGG net that is read here has"
        )
    if not name:
        raise InputError(f"{path}: layer {number} is a convolution without a name")
    ours = our_name(path, name)
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
        **{
            what: _integers(layer[key])
            for what, key in (("pad", "pad"), ("stride", "stride"), ("dilation", "dilate"))
            if key in layer
        },
    )
    if f"{ours}.weight" in known:
        raise InputError(f"{path}: has two layers {ours}")
    with np.errstate(all="ignore"):  # what is no float32 becomes an infinity, which is refused
        weight = np.array(filters.transpose(3, 2, 0, 1), np.float32, order="C")
        bias = np.array(biases.reshape(-1, order="F"), np.float32)
    if ours.startswith("fc"):
        weight = weight.reshape(weight.shape[0], int(np.prod(weight.shape[1:])))
    return {f"{ours}.weight": torch.from_numpy(weight), f"{ours}.bias": torch.from_numpy(bias)}


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.size > 0


def _integers(value: Any) -> list[int]:
    """A setting's values: one for all sides, or one for each; none where it is empty."""
    numbers = value.reshape(-1)[:16].tolist() if isinstance(value, np.ndarray) else []
    return [int(number) if number == number // 1 else -1 for number in numbers]


def _preprocessing(path: Path, normalization: Any) -> Preprocessing:
    """From `averageImage`: a value a channel, or an image in which every pixel is the same."""
    image = normalization.get("averageImage") if isinstance(normalization, dict) else None
    if not isinstance(image, np.ndarray) or (image.size not in (1, 3) and image.ndim != 3):
        raise InputError(
            f"{path}: has no mean RGB: set net.meta.normalization.averageImage in MATLAB, and save "
            "the net again"
        )
    # A vector's place is that of its values; an image's last dimension that of its channels.
    colours = image.reshape(1, -1) if image.size in (1, 3) else image.reshape(-1, image.shape[2])
    colours = colours.astype(np.float64)
    if not np.isfinite(colours).all():
        raise InputError(f"{path}: its averageImage has values that are not finite")
    if colours.size and np.ptp(colours, axis=0).max() > 1e-3:
        raise InputError(
            f"{path}: subtracts a mean image ({'×'.join(map(str, image.shape))}) whose pixels "
            "differ, where VGG subtracts one colour, the mean RGB: it is another net"
        )
    return Preprocessing("RGB", 1.0, tuple(colours[0].tolist()) if colours.size else ())


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
