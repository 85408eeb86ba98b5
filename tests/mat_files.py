"""Writes MAT-files byte by byte, and MatConvNet's nets; and computes what MatConvNet would."""

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from caffe_files import Weights

MEAN = (123.68, 116.779, 103.939)
TYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 9}
CLASSES = {"f8": 6, "f4": 7, "i1": 8, "u1": 9, "i2": 10, "u2": 11, "i4": 12, "u4": 13}


class Mat:
    """Elements of a MAT-file in one order of bytes: "<" or ">"."""

    def __init__(self, order: str = "<") -> None:
        self.order = order

    def header(self, text: str = "MATLAB 5.0 MAT-file", version: int = 0x100) -> bytes:
        start = text.encode().ljust(116) + bytes(8)
        mark = int.from_bytes(b"MI", "big")
        return start + struct.pack(f"{self.order}HH", version, mark)

    def element(self, kind: int, data: bytes, size: int | None = None) -> bytes:
        tag = struct.pack(f"{self.order}II", kind, len(data) if size is None else size)
        return tag + data + bytes(-len(data) % 8)

    def small(self, kind: int, data: bytes) -> bytes:
        return struct.pack(f"{self.order}I", len(data) << 16 | kind) + data.ljust(4, b"\0")

    def integers(self, values: Iterable[int]) -> bytes:
        values = list(values)
        return self.element(5, struct.pack(f"{self.order}{len(values)}i", *values))

    def unsigned(self, values: Iterable[int]) -> bytes:
        """Sizes as some other software writes them."""
        values = list(values)
        return self.element(6, struct.pack(f"{self.order}{len(values)}I", *values))

    def array(self, cls: int, sizes: Iterable[int], *content: bytes, name: str = "") -> bytes:
        """An array of this class; the flags stand above the class in `cls`."""
        flags = self.element(6, struct.pack(f"{self.order}II", cls, 0))
        named = (
            self.small(1, name.encode()) if 0 < len(name) < 5 else self.element(1, name.encode())
        )
        return self.element(14, flags + self.integers(sizes) + named + b"".join(content))

    def numbers(self, values: NDArray[Any], stored: str = "", name: str = "") -> bytes:
        """`stored` is a narrower type than the array's own, as MATLAB stores whole numbers."""
        own = values.dtype.str[1:]
        kind = stored or own
        data = values.astype(self.order + kind).tobytes("F")
        write = self.small if 0 < len(data) < 5 else self.element
        return self.array(CLASSES[own], values.shape, write(TYPES[kind], data), name=name)

    def text(self, text: str, name: str = "", kind: int = 4) -> bytes:
        """`kind` 17 says that it is UTF-16; 4, 16-bit integers, is what MATLAB writes."""
        data = text.encode("utf-16-be" if self.order == ">" else "utf-16-le")
        return self.array(4, (1, len(text)), self.element(kind, data), name=name)

    def cell(self, *arrays: bytes, name: str = "") -> bytes:
        return self.array(1, (1, len(arrays)), *arrays, name=name)

    def struct(self, fields: dict[str, bytes], name: str = "") -> bytes:
        names = b"".join(field.encode().ljust(32, b"\0") for field in fields)
        length = self.small(5, struct.pack(f"{self.order}i", 32))
        return self.array(2, (1, 1), length, self.element(1, names), *fields.values(), name=name)

    def compressed(self, array: bytes, level: int = 6) -> bytes:
        packed = zlib.compress(array, level)
        return struct.pack(f"{self.order}II", 15, len(packed)) + packed


def cell(values: Iterable[Any]) -> NDArray[Any]:
    """For savemat, a cell array 1×n."""
    values = list(values)
    found = np.empty((1, len(values)), dtype=object)
    for number, value in enumerate(values):
        found[0, number] = value
    return found


def filters(name: str, weight: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """MatConvNet's height×width×in×out of a convolution or a matrix."""
    if name.startswith("fc"):
        side = round((weight.shape[1] // channels) ** 0.5)
        weight = weight.reshape(len(weight), channels, side, side)
    return np.asfortranarray(weight.transpose(2, 3, 1, 0))


def layers(weights: Weights, old: bool = False, rename: dict[str, str] | None = None) -> list[Any]:
    """Structs as in the authors' files, with ReLUs, pooling and soft-max; conv1_1 takes RGB."""
    found: list[Any] = []
    channels = 3
    names = list(weights)
    for name, following in zip(names, [*names[1:], ""], strict=False):
        weight, bias = weights[name]
        pair = filters(name, weight, channels), bias[None]
        channels = len(bias)
        layer: dict[str, Any] = {"type": "conv", "name": (rename or {}).get(name, name)}
        layer |= {"stride": 1.0, "pad": float(weight.shape[-1] // 2 * name.startswith("conv"))}
        layer |= {"filters": pair[0], "biases": pair[1]} if old else {"weights": cell(pair)}
        found.append(layer)
        if name != "fc8":
            found.append({"type": "relu", "name": f"relu{name.lstrip('convf')}"})
        if name.startswith("conv") and following[:5] != name[:5]:
            pool = {"type": "pool", "name": f"pool{name[4]}", "method": "max", "pad": 0.0}
            found.append(pool | {"pool": np.array([[2.0, 2.0]]), "stride": 2.0})
    return [*found, {"type": "softmax", "name": "prob"}]


def matconvnet(
    path: Path,
    weights: Weights,
    *,
    old: bool = False,
    compressed: bool = False,
    mean: Any = None,
    classes: Any = None,
    rename: dict[str, str] | None = None,
    **more: Any,
) -> Path:
    """Writes a net with SciPy; `more` are further variables, or others instead."""
    image = np.array(MEAN, np.float32).reshape(1, 1, 3) if mean is None else mean
    meta: dict[str, Any] = {
        "normalization": {"averageImage": image, "imageSize": np.array([[224.0, 224.0, 3.0]])}
    }
    if classes is not None:
        meta["classes"] = classes
    content: dict[str, Any] = {"layers": cell(layers(weights, old, rename))}
    content |= meta if old else {"meta": meta}
    savemat(path, content | more, do_compression=compressed)
    return path


def matconvnet_scores(weights: list[Any], image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of an image H×W×RGB and the conv structs in order, as vl_nnconv's manual has it:

    y(i, j, k) = bias(k) + the sum over i', j', d of filters(i', j', d, k) · x(i + i', j + j', d).
    """
    x = image.astype(np.float64) - np.array(MEAN)
    stage = 1
    convs = [layer for layer in weights if layer["type"] == "conv"]
    for layer in convs:
        name = layer["name"]
        new = int(name[4]) if name.startswith("conv") else 6
        if new != stage and name not in ("fc7", "fc8"):
            h, w, c = x.shape
            x, stage = x.reshape(h // 2, 2, w // 2, 2, c).max(axis=(1, 3)), new
        kernel, bias = layer["weights"][0] if "weights" in layer else _pair(layer)
        pad = int(layer["pad"])
        padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], (0, 1))
        x = np.einsum("ijdab,abdk->ijk", windows, kernel.astype(np.float64)) + bias[0]
        if layer is not convs[-1]:
            x = np.maximum(x, 0)
    scores: NDArray[np.float64] = x.reshape(-1)
    return scores


def _pair(layer: dict[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return layer["filters"], layer["biases"]
