"""Keras' VGG16 and VGG19: weights of `keras.applications` in every layout, and whole models.

Keras' block3_conv2 is our conv3_2; its fc1, fc2 and predictions are our fc6, fc7 and fc8. Kernels
are H×W×in×out there, of fully connected layers in×out, and fc1 sees pool5 as row, column, channel.
"""

import io
import re
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vggnet.configs import Config
from vggnet.errors import InputError
from vggnet.files import write_atomically
from vggnet.formats import hdf5, kerasmodel
from vggnet.formats.foreign import CAFFE, Foreign
from vggnet.formats.hdf5 import Array, Contents
from vggnet.model import IMAGENET_MEAN, VGG

NETS = {"D": "VGG16", "E": "VGG19"}

_FC = {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8"}
_OURS = {f"block{s}_conv{i}": f"conv{s}_{i}" for s in range(1, 6) for i in range(1, 5)} | _FC
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_KERAS_3 = re.compile(r"((?:layers|_layer_checkpoint_dependencies)/(.+)/vars)/[^/]+")
"""Of .weights.h5 and .keras; the second name is that of Keras 2.13."""
_HARMLESS = re.compile("input|pool|flat|drop|^top_level_model_weights$|^$")
"""In the names that people give to layers without weights; another could change the images."""
_WITHOUT_WEIGHTS = re.compile(r"(input_layer|max_pooling2d|flatten|dropout)(_\d+)?")
_GLOBAL_POOLING = re.compile(r"global_(average|max)_pooling2d(_\d+)?")
_COUNTED = re.compile(r"(conv2d|dense)(?:_(\d{1,4}))?")
_WHOLE = "model_weights/"
"""Where `model.save("NAME.h5")` keeps the weights."""
_LARGEST_CONFIG = 4 << 20


@dataclass(slots=True)
class _Layer:
    """A layer that has arrays."""

    name: str
    arrays: dict[str, Array]
    """By path in the file."""
    ours: str | None = None
    """Our name, if VGG has such a layer."""


def read(path: Path) -> Foreign:
    """A file of weights, a whole model's .h5, or a .keras; without fc1 to predictions also.

    Layers are known by the names that `keras.applications` gives them. Where the file describes
    its whole model, this must be a VGG's, layer by layer, and any names will do.

    Raises:
        InputError: for a file that is damaged, holds anything but one VGG, or without pyfive.
    """
    with path.open("rb") as file:
        start, size, model = _part(path, file)
        found = hdf5.contents(path, file, start, size)
        if "theano" in [text for (_, name), text in found.texts.items() if name == "backend"]:
            raise InputError(
                f"{path}: Theano's Keras wrote it, whose kernels are turned by 180°: take the file "
                "of the TensorFlow backend (…_tf_kernels.h5)"
            )
        layers = _layers(path, found, model or found.texts.get(("", "model_config")))
        _check(path, layers)
        layers.sort(key=lambda layer: str(layer.ours))  # fc6 after the convolutions
        tensors: dict[str, Tensor] = {}
        for layer in layers:
            for part, (name, array) in zip(("weight", "bias"), _parts(path, layer), strict=True):
                values = torch.from_numpy(hdf5.read(path, file, start, size, name, array))
                fc6 = layer.ours == "fc6" and part == "weight"
                if fc6:
                    values = values.reshape(*_window(path, layer, values, tensors), -1)
                tensors[f"{layer.ours}.{part}"] = _as_ours(values, flat=fc6)
    return Foreign("Keras", tensors, CAFFE)


def _part(path: Path, file: BinaryIO) -> tuple[int, int, str | None]:
    """Where the HDF5 part of a file begins, its size, and what a .keras says of its model."""
    whole = path.stat().st_size
    if file.read(2) != b"PK":
        return 0, whole, None
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(member.compress_type or member.flag_bits & 1 for member in members):
                raise ValueError("packed, as Keras packs none")
            if sum(member.file_size for member in members) > whole:
                raise ValueError("its members claim more bytes than there are")
            if archive.getinfo("config.json").file_size > _LARGEST_CONFIG:
                raise ValueError("its config.json is larger than any VGG's")
            model = archive.read("config.json").decode()
            weights = archive.getinfo("model.weights.h5")
            with archive.open(weights) as member:
                while member.read(1 << 20):  # zipfile compares the check sum at the end
                    pass
            file.seek(weights.header_offset)
            lengths = struct.unpack("<26x2H", file.read(30))  # of the name and of what follows it
            return weights.header_offset + 30 + sum(lengths), weights.file_size, model
    except Exception as error:  # zipfile raises nearly anything on damaged files
        raise InputError(
            f"{path}: cannot be read as Keras' zip file ({hdf5.why(error)}): copy or download it "
            "again, or save it again in Keras"
        ) from None


def _layers(path: Path, found: Contents, model: str | None) -> list[_Layer]:
    """The layers that have arrays, under our names where these are known."""
    described = None if model is None else kerasmodel.layers(path, model)
    if not any(_KERAS_3.fullmatch(name) for name in found.arrays):
        layers = _by_name(path, found)
        ours = _OURS if described is None else {name: our for _, name, our in described}
        for layer in layers.values():
            layer.ours = ours.get(layer.name)
        return list(layers.values())
    layers = _by_number(path, found)
    if described is not None:
        _count(layers, [our for _, _, our in described])
    elif not all(_COUNTED.fullmatch(layer.name) for layer in layers.values()):
        for layer in layers.values():
            layer.ours = _OURS.get(layer.name)
    else:
        _count(layers, _guessed(layers))
    return list(layers.values())


def _by_name(path: Path, found: Contents) -> dict[str, _Layer]:
    """The layers of Keras' older layout: a group each, named as the layer."""
    layers: dict[str, _Layer] = {}
    # Beside a whole model's weights is what an optimizer keeps.
    inside = _WHOLE if any(name.startswith(_WHOLE) for name in found.arrays) else ""
    for name, array in found.arrays.items():
        if name.startswith(inside):
            key = name.removeprefix(inside).split("/")[0]
            layers.setdefault(key, _Layer(key, {})).arrays[name] = array
    for group in found.groups:
        key = group.removeprefix(inside).split("/")[0]
        if group.startswith(inside) and key not in layers and not _HARMLESS.search(key):
            raise _not_vgg(path, key)
    return layers


def _by_number(path: Path, found: Contents) -> dict[str, _Layer]:
    """The layers of Keras 3's layout by class and number, conv2d_3; younger files have the name.

    There layers without weights are seen too, one of which could change the images.
    """
    layers: dict[str, _Layer] = {}
    for name, array in found.arrays.items():
        match = _KERAS_3.fullmatch(name)
        if match or name.startswith("vars/"):  # elsewhere: what an optimizer or a metric keeps
            key = match[2] if match else "vars"
            title = key
            if match and "/" not in key:  # else a layer of a model inside the model
                title = found.texts.get((match[1], "name"), key)
            layers.setdefault(key, _Layer(title, {})).arrays[name] = array
    for group in found.groups:
        match = _KERAS_3.fullmatch(f"{group}/0")
        if match is None or match[2] in layers or _WITHOUT_WEIGHTS.fullmatch(match[2]):
            continue
        if "dense" in layers or not _GLOBAL_POOLING.fullmatch(match[2]):
            raise _not_vgg(path, match[2].split("/")[0])
    return layers


def _not_vgg(path: Path, name: str) -> InputError:
    return InputError(f"{path}: has a layer {name[:60]!r}, which VGG has not: {kerasmodel.NOT_VGG}")


def _count(layers: dict[str, _Layer], ours: list[str]) -> None:
    """Names layers by their numbers, which are those of the order in the model."""
    for prefix, kind in (("conv", "conv2d"), ("fc", "dense")):
        for number, our in enumerate(our for our in ours if our.startswith(prefix)):
            key = f"{kind}_{number}" if number else kind
            if key in layers:
                layers[key].ours = our


def _guessed(layers: dict[str, _Layer]) -> list[str]:
    """Our names in the order of the net with as many layers; none where there is none."""
    kinds = [match[1] for key in layers if (match := _COUNTED.fullmatch(key))]
    for net in ("A", "B", "D", "E"):
        for head in (True, False):
            config = Config(net, head=head)
            names = [layer.name for layer in config.layers() if layer.kind in ("conv", "fc")]
            dense = 3 * head
            if (kinds.count("conv2d"), kinds.count("dense")) == (len(names) - dense, dense):
                return names
    return []


def _check(path: Path, layers: list[_Layer]) -> None:
    if not layers:
        raise InputError(f"{path}: HDF5, but without weights of a Keras model")
    unknown = [layer for layer in layers if layer.ours is None]
    if unknown:
        named = [f"{layer.name[:60]!r} ({_shapes(layer.arrays.values())})" for layer in unknown]
        raise InputError(
            f"{path}: has layers that keras.applications' VGG has not: {', '.join(named[:3])}"
            f"{', …' if named[3:] else ''}: {kerasmodel.NOT_VGG}"
        )
    if len({layer.ours for layer in layers}) < len(layers):
        raise InputError(f"{path}: has a layer twice: save it again in Keras")
    arrays = [array for layer in layers for array in layer.arrays.values()]
    for one, after in pairwise(sorted(arrays, key=lambda array: array.start)):
        if one.plain and one.start + one.nbytes > after.start:
            raise InputError(
                f"{path}: two arrays of its layers share bytes: the file is damaged: copy or "
                "download it again"
            )


def _shapes(arrays: Iterable[Array]) -> str:
    shapes = sorted((array.shape for array in arrays), key=len, reverse=True)[:4]
    return " and ".join("×".join(map(str, shape)) or "a number" for shape in shapes)


def _parts(path: Path, layer: _Layer) -> list[tuple[str, Array]]:
    """The kernel and the bias, whatever they are called there."""
    rank = 2 if layer.ours in _FC.values() else 4
    parts = sorted(layer.arrays.items(), key=lambda item: -len(item[1].shape))
    if [len(array.shape) for _, array in parts] != [rank, 1]:
        wanted = "in×out" if rank == 2 else "H×W×in×out"
        raise InputError(
            f"{path}: layer {layer.name[:60]!r} has {_shapes(layer.arrays.values())}, "
            f"where VGG has a kernel {wanted} and a bias"
        )
    return parts


def _window(path: Path, layer: _Layer, kernel: Tensor, tensors: dict[str, Tensor]) -> list[int]:
    """The rows, columns and channels of pool5 that fc6 sees; the convolutions are in `tensors`."""
    channels = max([len(value) for key, value in tensors.items() if key.startswith("conv5")] or [0])
    side = isqrt(len(kernel) // channels) if channels else 0
    if not side or side * side * channels != len(kernel):
        raise InputError(
            f"{path}: layer {layer.name[:60]!r} takes {len(kernel)} values, no square of "
            f"{channels} channels: the nets here are for square images"
        )
    return [side, side, channels]


def _as_ours(values: Tensor, *, flat: bool = False) -> Tensor:
    """A kernel H×W×in×out as out×in×H×W, or as out×(in·H·W); in×out as out×in; a bias as it is."""
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[values.dim()]
    values = values.permute(order).contiguous()
    return values.flatten(1) if flat else values


def write(model: VGG, path: Path) -> str:
    """Writes a file that `keras.applications` loads: VGG16(weights=path, classes=K), or VGG19.

    It is the layout of Keras' own published weights. A net without a classifier is for
    include_top=False; one of another crop for that input_shape. One of another width is for the
    same layers with fewer channels, which `keras.applications` has not.

    Returns:
        The net's name in Keras, and what images go through there.

    Raises:
        InputError: for a net that Keras does not have, a name that Keras would take for another
            layout, a place that cannot be written, or without h5py.
        RunError: when writing fails.
    """
    config = model.config
    _check_writable(path, config)
    try:
        import h5py
    except ImportError:
        raise InputError(
            f"{path}: writing Keras' files needs h5py: pip install 'vggnet[keras]'"
        ) from None
    ours = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    ours["conv1_1.weight"] = CAFFE.unfolded(ours["conv1_1.weight"])

    image = io.BytesIO()  # in memory: HDF5's library crashes the process on a full disk
    with h5py.File(image, "w") as file:
        _fill(file, config, ours)
    write_atomically(path, lambda temporary: temporary.write_bytes(image.getbuffer()))
    return f"Keras' {_title(config)}, images {_images(ours['mean'])}"


def _check_writable(path: Path, config: Config) -> None:
    if path.name.endswith(".weights.h5"):
        other = path.name.removesuffix(".weights.h5") + ".h5"
        raise InputError(
            f"{path}: Keras 3 takes names in .weights.h5 for another layout: choose {other}"
        )
    if config.net not in NETS or config.batch_norm:
        raise InputError(
            f"{path}: Keras has no net {config.title}, only D (VGG16) and E (VGG19): save it as "
            "safetensors"
        )
    if config.in_channels != 3:
        raise InputError(
            f"{path}: Keras' nets take 3 channels; this one takes {config.in_channels}: save it "
            "as safetensors"
        )


def _fill(file: Any, config: Config, ours: dict[str, Tensor]) -> None:
    layers = [layer for layer in config.layers() if layer.kind in ("conv", "fc")]
    # Keras 2 turns kernels of other backends, and of files without a version, which are Keras 1's.
    file.attrs["backend"] = "tensorflow"
    file.attrs["keras_version"] = "2.0.0"
    file.attrs["layer_names"] = [_THEIRS[layer.name].encode() for layer in layers]
    for layer in layers:
        name = _THEIRS[layer.name]
        group = file.create_group(name)
        group.attrs["weight_names"] = [f"{name}/{part}:0".encode() for part in ("kernel", "bias")]
        weight = ours[f"{layer.name}.weight"].float()
        if layer.name == "fc6":
            weight = weight.reshape(-1, layer.in_channels, layer.kernel, layer.kernel)
        order = (2, 3, 1, 0) if weight.dim() == 4 else (1, 0)
        kernel = weight.permute(order).contiguous()
        if layer.name == "fc6":
            kernel = kernel.flatten(0, 2)
        group[f"{name}/kernel:0"] = kernel.numpy()
        group[f"{name}/bias:0"] = ours[f"{layer.name}.bias"].float().numpy()


def _title(config: Config) -> str:
    title = NETS[config.net]
    if not config.head:
        title += " without its top"
    return title if config.width == 1 else f"{title} of {config.width:g} times the channels"


def _images(mean: Tensor) -> str:
    if torch.equal(mean.float(), torch.tensor(IMAGENET_MEAN)):
        return "preprocess_input"
    values = ", ".join(f"{value:.7g}" for value in reversed(mean.tolist()))
    return f"BGR 0–255 minus {values} (B, G, R), which is not preprocess_input"
