"""Writes Caffe's files byte by byte, after caffe.proto, and computes what Caffe would of a net."""

import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vggnet import build

Weights = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Of a net by the name of the layer: weight (matrices out×in, convolutions out×in×h×w) and bias."""

BGR_MEAN = (103.939, 116.779, 123.68)


def random_weights(net: str, crop: int, classes: int, seed: int = 0) -> Weights:
    """Of a net of a sixteenth of the width; they keep the activations at about their size."""
    shapes = build(net, num_classes=classes, crop=crop, width=1 / 16).state_dict()
    random = np.random.default_rng(seed)
    weights: Weights = {}
    for key, value in shapes.items():
        name, _, part = key.partition(".")
        if part == "weight":
            shape = tuple(value.shape)
            scale = (2 / np.prod(shape[1:])) ** 0.5
            weight = random.normal(0, scale, shape).astype(np.float32)
            weights[name] = weight, random.normal(0, 1, shape[:1]).astype(np.float32)
    return weights


def caffe_scores(
    weights: Weights,
    image: NDArray[np.uint8],
    mean: tuple[float, ...] = BGR_MEAN,
    scale: float = 1,
) -> NDArray[np.float64]:
    """Of an image H×W×RGB: BGR minus the mean, times the scale; convolutions, pooling after each
    stage, matrices."""
    bgr = (image[:, :, ::-1].astype(np.float64) - np.array(mean)) * scale
    x = torch.from_numpy(np.ascontiguousarray(bgr.transpose(2, 0, 1)))[None]
    stage = 1
    for name, (weight, bias) in weights.items():
        w, b = torch.from_numpy(weight).double(), torch.from_numpy(bias).double()
        if name.startswith("conv"):
            if int(name[4]) != stage:
                x, stage = F.max_pool2d(x, 2, 2), int(name[4])
            x = F.relu(F.conv2d(x, w, b, padding=weight.shape[-1] // 2))
            continue
        if name == "fc6":
            x = F.max_pool2d(x, 2, 2).reshape(1, -1)
        x = x @ w.T + b
        x = x if name == "fc8" else F.relu(x)
    return x[0].numpy()


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def field(number: int, value: int | bytes | str | float) -> bytes:
    """An integer, a float of 32 bits, or what has a length: text, bytes, a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def shape(sizes: Iterable[int]) -> bytes:
    """A blob's shape as Caffe writes it: packed."""
    return field(7, field(1, b"".join(map(varint, sizes))))


def old_sizes(sizes: tuple[int, ...]) -> bytes:
    """num, channels, height, width."""
    four = (1,) * (4 - len(sizes)) + sizes
    return b"".join(field(number, size) for number, size in enumerate(four, start=1))


def floats(values: NDArray[Any]) -> bytes:
    return field(5, values.astype("<f4").tobytes())


def doubles(values: NDArray[Any]) -> bytes:
    return field(8, values.astype("<f8").tobytes())


def blob(values: NDArray[Any], sizes: bytes | None = None, data: bytes | None = None) -> bytes:
    return (shape(values.shape) if sizes is None else sizes) + (
        floats(values) if data is None else data
    )


def old_blob(values: NDArray[Any]) -> bytes:
    return blob(values, old_sizes(values.shape))


OLD = {
    "name": 4,
    "type": 5,
    "bottom": 2,
    "top": 3,
    "blobs": 6,
    "convolution": 10,
    "dropout": 12,
    "pooling": 19,
    "relu": 30,
    "layers": 2,
}
NEW = {
    "name": 1,
    "type": 2,
    "bottom": 3,
    "top": 4,
    "blobs": 7,
    "convolution": 106,
    "dropout": 108,
    "pooling": 121,
    "relu": 123,
    "layers": 100,
}
KINDS: dict[str, tuple[int, str]] = {
    "conv": (4, "Convolution"),
    "data": (5, "Data"),
    "drop": (6, "Dropout"),
    "fc": (14, "InnerProduct"),
    "pool": (17, "Pooling"),
    "prob": (20, "Softmax"),
    "relu": (18, "ReLU"),
    "sigmoid": (19, "Sigmoid"),
    "split": (22, "Split"),
}
"""Numbers and names of types, by what the names of layers begin with."""


def layer(
    form: dict[str, int], name: str, kind: int | str, blobs: Iterable[bytes] = (), more: bytes = b""
) -> bytes:
    """A layer in its net."""
    content = field(form["name"], name) + field(form["type"], kind)
    content += b"".join(field(form["blobs"], data) for data in blobs) + more
    return field(form["layers"], content)


def kind_of(form: dict[str, int], name: str) -> int | str:
    return KINDS[name.split("_")[0].rstrip("0123456789")][form is NEW]


def pooling(form: dict[str, int], method: int = 0, kernel: int = 2, stride: int = 2) -> bytes:
    settings = field(1, method) + field(2, kernel) + field(3, stride)
    return field(form["pooling"], settings)


def plain(form: dict[str, int], name: str, bottom: str, top: str, more: bytes = b"") -> bytes:
    """A layer without weights, of the type that its name says."""
    ends = field(form["bottom"], bottom) + field(form["top"], top)
    return layer(form, name, kind_of(form, name), more=ends + more)


def caffemodel(
    weights: Weights,
    form: dict[str, int],
    write: Callable[[NDArray[Any]], bytes] | None = None,
    rename: dict[str, str] | None = None,
) -> bytes:
    """A net with all of its layers, the authors' order: name of the net first."""
    data = field(1, "VGG_ILSVRC_16_layers") + field(3, "data")
    data += b"".join(field(4, size) for size in (10, 3, 224, 224))
    return data + b"".join(net_layers(weights, form, write, rename).values())


def net_layers(
    weights: Weights,
    form: dict[str, int],
    write: Callable[[NDArray[Any]], bytes] | None = None,
    rename: dict[str, str] | None = None,
) -> dict[str, bytes]:
    """By their names: ReLUs and dropout in place, as in the authors' files."""
    write = write or (old_blob if form is OLD else blob)
    found: dict[str, bytes] = {}
    names, before = list(weights), "data"
    for name, following in zip(names, [*names[1:], ""], strict=True):
        weight, bias = weights[name]
        more = field(form["bottom"], before) + field(form["top"], name)
        if name.startswith("conv"):
            kernel = weight.shape[-1]
            settings = field(1, len(bias)) + field(3, kernel // 2) + field(4, kernel)
            more += field(form["convolution"], settings)
        written = (rename or {}).get(name, name)
        blobs = [write(weight), write(bias)]
        found[name] = layer(form, written, kind_of(form, name), blobs, more)
        before, number = name, name.removeprefix("conv").removeprefix("fc")
        if name != "fc8":
            found[f"relu{number}"] = plain(form, f"relu{number}", name, name)
        if name in ("fc6", "fc7"):
            found[f"drop{number}"] = plain(form, f"drop{number}", name, name)
        if name.startswith("conv") and following[:5] != name[:5]:
            before = f"pool{name[4]}"
            found[before] = plain(form, before, name, before, pooling(form))
    found["prob"] = plain(form, "prob", before, "prob")
    return found
