"""Whether the model that a Keras file describes in JSON is a VGG: its layers, one after another."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from vggnet.configs import Config
from vggnet.errors import InputError

_NETS = ("A", "B", "C", "D", "E")
_CLASSES = {"conv": "Conv2D", "pool": "MaxPooling2D", "fc": "Dense"}
_WITHOUT_EFFECT = ("InputLayer", "Dropout")
_AFTER_POOL5 = ("Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D")
"""May follow the convolutions where no fully connected layers do."""

_Settings = dict[str, tuple[object, ...]]
_CHANNELS_LAST: _Settings = {"data_format": ("channels_last",)}
_SETTINGS: dict[str, _Settings] = {
    "Conv2D": {
        "activation": ("relu",),
        "padding": ("same",),
        "strides": ([1, 1],),
        "dilation_rate": ([1, 1],),
        "groups": (1,),
        "use_bias": (True,),
        **_CHANNELS_LAST,
    },
    "MaxPooling2D": {
        "pool_size": ([2, 2],),
        "strides": ([2, 2],),
        "padding": ("valid",),
        **_CHANNELS_LAST,
    },
    "Flatten": _CHANNELS_LAST,
    "Dense": {"activation": ("relu",), "use_bias": (True,)},
}
_YOUNGER = ("groups", "data_format")
"""Settings that older versions of Keras do not write for every class."""


def layers(path: Path, text: str) -> list[tuple[str, str, str]]:
    """Class, name and our name of each layer with weights, in order.

    Args:
        path: named in errors.
        text: the JSON of the model.

    Raises:
        InputError: for JSON that is damaged, or a model that is not a VGG's stack of layers with
            ReLUs, with or without its fully connected ones.
    """
    try:
        config = json.loads(text)["config"]
        found = config["layers"] if isinstance(config, dict) else config
        described = [(layer["class_name"], layer["config"]["name"], layer) for layer in found]
        for kind, name, _ in described:
            if not (isinstance(kind, str) and isinstance(name, str)):
                raise TypeError("a class or name that is no text")
        stack = [layer for layer in described if layer[0] not in _WITHOUT_EFFECT]
        ours = _compared(path, stack)
        _check_settings(path, stack)
        _check_chain(path, described)
    except InputError:
        raise
    except Exception as error:  # lists for dictionaries, depths beyond recursion, …
        raise InputError(
            f"{path}: what it says of its model is damaged ({type(error).__name__}): save it again "
            "in Keras"
        ) from None
    weighted = [layer for layer in stack if layer[0] in ("Conv2D", "Dense")]
    return [(kind, name, our) for (kind, name, _), our in zip(weighted, ours, strict=True)]


def _compared(path: Path, stack: list[tuple[str, str, Any]]) -> list[str]:
    """Our names of the layers with weights, where the classes follow each other as in a VGG."""
    kinds = [kind for kind, _, _ in stack]
    for net in _NETS:
        steps = [layer for layer in Config(net).layers() if layer.kind in _CLASSES]
        for head in (True, False):
            kept = [step for step in steps if head or step.kind != "fc"]
            expected = [_CLASSES[step.kind] for step in kept]
            if head:
                expected.insert(expected.index("Dense"), "Flatten")
            end = kinds[len(expected) :]
            if kinds[: len(expected)] == expected and (
                not end or (not head and len(end) == 1 and end[0] in _AFTER_POOL5)
            ):
                return [step.name for step in kept if step.kind != "pool"]
    for kind, name, _ in stack:
        if kind not in (*_SETTINGS, *_AFTER_POOL5):
            raise InputError(f"{path}: its layer {name[:60]!r} is a {kind[:60]!r}: {NOT_VGG}")
    dense = [name[:60] for kind, name, _ in stack if kind == "Dense"]
    raise InputError(
        f"{path}: its {kinds.count('Conv2D')} Conv2D, {kinds.count('MaxPooling2D')} MaxPooling2D "
        f"and {len(dense)} Dense layers ({', '.join(map(repr, dense[:3]))}) do not follow each "
        f"other as in VGG: {NOT_VGG}"
    )


NOT_VGG = (
    "vggnet reads VGG's own layers only: save the convolutions alone, keras.Model(vgg.input, "
    "vgg.get_layer('block5_pool').output).save_weights('NAME.weights.h5')"
)


def _check_settings(path: Path, stack: list[tuple[str, str, Any]]) -> None:
    last = stack[-1]
    for kind, name, layer in stack:
        for setting, values in _SETTINGS.get(kind, {}).items():
            if setting in _YOUNGER and setting not in layer["config"]:
                continue
            if kind == "Dense" and layer is last[2] and setting == "activation":
                values = ("softmax", "linear")
            value = layer["config"].get(setting)
            if value not in values:
                raise InputError(
                    f"{path}: layer {name[:60]!r} has {setting} {str(value)[:60]!r}, where VGG has "
                    f"{' or '.join(map(str, values))}"
                )


def _check_chain(path: Path, described: list[tuple[str, str, Any]]) -> None:
    """Each layer of a graph takes what the one before it gives; a Sequential names no inputs."""
    names = {name for _, name, _ in described}
    for (_, before, _), (_, name, layer) in pairwise(described):
        if layer.get("inbound_nodes") and _texts(layer["inbound_nodes"]) & names != {before}:
            raise InputError(
                f"{path}: layer {name[:60]!r} does not take the output of {before[:60]!r} alone"
            )


def _texts(value: Any) -> set[str]:
    """Every text in a piece of JSON."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        value = list(value.values())
    return set().union(*map(_texts, value)) if isinstance(value, list) else set()
