"""Caffe's weights, `….caffemodel`: the authors' own of nets D and E, and nets fine-tuned from them.

A file is one protocol buffer (caffe.proto of BVLC/caffe), of which a dozen fields matter here. They
are read where they lie, without Google's library, which copies the half gigabyte once more, and
builds any number of parts that a message has.

Caffe convolves as PyTorch does, without turning the kernel, and flattens in the order C, row,
column. Its pooling rounds odd sizes up where ours drops the last row or column: of images whose
sides are multiples of 32, such as the crop, there is no difference.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.errors import InputError
from vggnet.formats.foreign import CAFFE, Foreign, Preprocessing

_LARGEST = 1 << 31
"""Bytes: no protocol buffer is larger."""
_MOST_FIELDS = 1000
"""In one message. The authors' E has 45 layers, and each of them a dozen fields."""

Fields = dict[int, list[int | memoryview]]
"""Of a message: by number, in the order of the file."""


@dataclass(frozen=True, slots=True)
class _Form:
    """The field numbers of a layer."""

    name: int
    type: int
    blobs: int
    convolution: int
    inner_product: int
    transform: int
    lrn: int | bytes
    """What `type` is for local response normalisation."""


_V0 = 1
"""In a V1 layer: the layer is of a still older form, inside."""
_FORMS = {2: _Form(4, 5, 6, 10, 17, 36, 15), 100: _Form(1, 2, 7, 106, 117, 100, b"LRN")}
"""By their number in the net: `layers` (V1LayerParameter) and `layer` (LayerParameter)."""
_SCALE, _MEAN_FILE, _MEAN_VALUE = 1, 4, 5
_SHAPE, _DATA, _DOUBLES = 7, 5, 8
_SIZES = (1, 2, 3, 4)
"""num, channels, height and width of a blob from before it had a shape."""


def read(path: Path) -> Foreign:
    """The weights of a `.caffemodel`; conv1_1 takes BGR 0–255 minus the authors' mean.

    Where a layer of data says so (`transform_param`), as in a snapshot of training, it takes the
    mean and the scale that stand there; a `mean_file` is not in the file, and passed over. Other
    layers without weights are taken for the net's own. A last layer that was renamed for
    fine-tuning, such as fc8_flickr, is fc8.

    Raises:
        InputError: for a file that is damaged or of Caffe's first form (V0), or layers that are
            none of a VGG net's.
    """
    try:
        if path.stat().st_size >= _LARGEST:
            raise InputError(f"{path}: is larger than 2 GiB, which no file of Caffe's is")
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    net = _message(path, data)
    tensors: dict[str, Tensor] = {}
    transforms: list[Fields] = []
    for number, form in _FORMS.items():
        for data in _bytes(net, number):
            layer = _message(path, data)
            tensors |= _layer(path, layer, form, tensors.keys())
            transforms += [_message(path, one) for one in _bytes(layer, form.transform)]
    if not tensors:
        raise InputError(
            f"{path}: has no layers with weights: not a .caffemodel, or damaged: copy or download "
            "it again"
        )
    channels = tensors["conv1_1.weight"].shape[1:2] if "conv1_1.weight" in tensors else (3,)
    return Foreign("Caffe", tensors, _preprocessing(path, transforms, *channels))


def our_name(path: Path, name: str) -> str:
    """The name of a layer with weights: ours are Caffe's, but fine-tuning renames the last.

    Raises:
        InputError: for a layer that no VGG net has.
    """
    if name.startswith("fc8"):
        return "fc8"
    if not re.fullmatch(r"conv[1-9]_[1-9]|fc[67]", name):
        raise InputError(
            f"{path}: its layer {name[:60]!r} has weights, and no VGG net of the paper has such a "
            "layer (they are conv1_1, …, fc8)"
        )
    return name


def check_convolution(path: Path, name: str, kernel: int, **settings: list[int]) -> None:
    """Refuses a convolution of other settings than VGG's, which give the same weights other scores.

    Args:
        path: named in the error.
        name: of the layer, ours.
        kernel: its side in pixels.
        settings: all values of `pad`, and of `stride`, `dilation`, `group` where there are any.
    """
    for what, values in settings.items():
        wanted = (kernel // 2 if name.startswith("conv") else 0) if what == "pad" else 1
        if any(value != wanted for value in values):
            raise InputError(
                f"{path}: {name} has {what} {' '.join(map(str, values[:4]))}, and a VGG net's has "
                f"{wanted}: it is another net"
            )


def _preprocessing(path: Path, transforms: list[Fields], channels: int = 3) -> Preprocessing:
    """Of the first layer of data that has a mean or a scale: (BGR - mean) · scale."""
    for transform in transforms:
        means, scales = (
            [float(value) for data in _bytes(transform, number) for value in _floats(data)]
            for number in (_MEAN_VALUE, _SCALE)
        )
        scale = scales[-1] if scales else 1.0
        if not means and scale == 1:
            continue
        if not means and _MEAN_FILE in transform:
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


def _floats(data: memoryview) -> NDArray[np.float32]:
    return np.frombuffer(data[: len(data) // 4 * 4], "<f4")[:_MOST_FIELDS]


def _layer(path: Path, layer: Fields, form: _Form, known: Collection[str]) -> dict[str, Tensor]:
    if form is _FORMS[2] and _V0 in layer:
        raise InputError(
            f"{path}: is in Caffe's first form (V0): upgrade it with Caffe's own "
            "upgrade_net_proto_binary"
        )
    name = "".join(str(text, "utf-8", "replace") for text in _bytes(layer, form.name)[-1:])
    if form.lrn in layer.get(form.type, []):
        raise InputError(
            f"{path}: its layer {name[:60]!r} is a local response normalisation, which of VGG nets "
            "only A-LRN has, and Caffe's files of it are not read: build it with vggnet"
        )
    blobs = _bytes(layer, form.blobs)
    if not blobs:
        return {}
    ours = our_name(path, name)
    if len(blobs) != 2:
        raise InputError(f"{path}: {ours} has {len(blobs)} blobs, expected a weight and a bias")
    weight, bias = _blob(path, f"{ours}.weight", blobs[0]), _blob(path, f"{ours}.bias", blobs[1])
    for message in _bytes(layer, form.convolution):
        fields = _message(path, message)
        check_convolution(
            path,
            ours,
            weight.shape[-1] if weight.ndim else 1,
            pad=_integers(path, fields, 3, 9, 10) or [0],
            stride=_integers(path, fields, 6, 13, 14),
            dilation=_integers(path, fields, 18),
            group=_integers(path, fields, 5),
        )
    for message in _bytes(layer, form.inner_product):
        if any(_integers(path, _message(path, message), 6)):
            raise InputError(f"{path}: {ours} is stored transposed: save it as Caffe's default is")
    if f"{ours}.weight" in known:
        raise InputError(f"{path}: has two layers {ours}")
    if ours.startswith("fc"):
        # Before blobs had shapes, matrices were 1×1×out×in. fc6 as a convolution is out×C×h×w.
        matrix = weight.shape[2:] if weight.shape[:2] == (1, 1) else (*weight.shape[:1], -1)
        weight = weight.reshape(matrix)
    return {
        f"{ours}.weight": torch.from_numpy(weight),
        f"{ours}.bias": torch.from_numpy(bias.reshape(-1)),
    }


def _blob(path: Path, name: str, data: memoryview) -> NDArray[np.float32]:
    blob = _message(path, data)
    shapes = _bytes(blob, _SHAPE)
    if shapes:
        sizes = _integers(path, _message(path, shapes[-1]), 1)
    else:
        sizes = [(_integers(path, blob, number) or [0])[-1] for number in _SIZES]
    dtype = np.dtype("<f4") if _DATA in blob else np.dtype("<f8")
    pieces = _bytes(blob, _DATA if _DATA in blob else _DOUBLES)
    if not pieces:
        raise InputError(f"{path}: {name} has no data: save it with Caffe itself")
    values = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if len(sizes) > 4 or prod(sizes) * dtype.itemsize != len(values) or not len(values):
        claimed = "×".join(map(str, sizes[:4])) + "×…" * (len(sizes) > 4)
        raise InputError(
            f"{path}: {name} is said to be {claimed} and has {len(values):,} bytes: copy or "
            "download it again"
        )
    with np.errstate(all="ignore"):  # what is no float32 becomes an infinity, which is refused
        return np.array(np.frombuffer(values, dtype), np.float32).reshape(sizes)


def _bytes(fields: Fields, number: int) -> list[memoryview]:
    return [value for value in fields.get(number, []) if isinstance(value, memoryview)]


def _integers(path: Path, fields: Fields, *numbers: int) -> list[int]:
    """The values of repeated integers, one by one or packed."""
    found: list[int] = []
    for number in numbers:
        for value in fields.get(number, []):
            if isinstance(value, int):
                found.append(value)
                continue
            position = 0
            while position < len(value) and len(found) <= _MOST_FIELDS:
                integer, position = _varint(path, value, position)
                found.append(integer)
    return found


def _message(path: Path, data: memoryview) -> Fields:
    """Splits a message into its fields: integers, and all others as their bytes."""
    fields: Fields = {}
    position = 0
    for _ in range(_MOST_FIELDS):
        if position == len(data):
            return fields
        key, position = _varint(path, data, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(path, data, position)
            fields.setdefault(number, []).append(value)
            continue
        if kind == 2:
            size, position = _varint(path, data, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _damaged(path)
        if position + size > len(data):
            raise _damaged(path)
        fields.setdefault(number, []).append(data[position : position + size])
        position += size
    if position == len(data):
        return fields
    raise InputError(
        f"{path}: has more than {_MOST_FIELDS:,} fields in one message: no weights of Caffe's"
    )


def _varint(path: Path, data: memoryview, position: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; and where the next field begins."""
    value = 0
    for shift, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position + shift + 1
    raise _damaged(path)


def _damaged(path: Path) -> InputError:
    return InputError(
        f"{path}: cannot be read as Caffe's weights (truncated or damaged, or another format): "
        "copy or download it again"
    )
