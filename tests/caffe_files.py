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


OLD = {"name": 4, "type": 5, "blobs": 6, "convolution": 10, "layers": 2}
NEW = {"name": 1, "type": 2, "blobs": 7, "convolution": 106, "layers": 100}


def layer(
    form: dict[str, int], name: str, kind: int | str, blobs: Iterable[bytes] = (), more: bytes = b""
) -> bytes:
    """A layer in its net."""
    content = field(form["name"], name) + field(form["type"], kind)
    content += b"".join(field(form["blobs"], data) for data in blobs) + more
    return field(form["layers"], content)


def caffemodel(
    weights: Weights,
    form: dict[str, int],
    write: Callable[[NDArray[Any]], bytes] | None = None,
    rename: dict[str, str] | None = None,
) -> bytes:
    """A net with its pooling and ReLUs, the authors' order: name of the net first."""
    write = write or (old_blob if form is OLD else blob)
    kinds: dict[str, int | str] = (
        {"conv": 4, "fc": 14, "relu": 18, "pool": 17}
        if form is OLD
        else {"conv": "Convolution", "fc": "InnerProduct", "relu": "ReLU", "pool": "Pooling"}
    )
    data = field(1, "VGG_ILSVRC_16_layers") + field(3, "data")
    data += b"".join(field(4, size) for size in (10, 3, 224, 224))
    for name, (weight, bias) in weights.items():
        settings = b""
        if name.startswith("conv"):
            kernel = weight.shape[-1]
            settings = field(1, len(bias)) + field(3, kernel // 2) + field(4, kernel)
            settings = field(form["convolution"], settings)
        kind = kinds[name.rstrip("0123456789_")]
        written = (rename or {}).get(name, name)
        data += layer(form, written, kind, [write(weight), write(bias)], settings)
        data += layer(form, f"relu{name[-3:]}", kinds["relu"])
    return data + layer(form, "pool5", kinds["pool"])
