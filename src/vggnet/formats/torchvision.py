"""torchvision's vgg11, vgg13, vgg16 and vgg19, each with and without batch normalisation."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vggnet.configs import Config
from vggnet.errors import InputError
from vggnet.formats.foreign import FEATURES, TORCHVISION, Foreign, Preprocessing
from vggnet.model import VGG

NETS = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}

_HEAD = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
_PARTS = {"conv": ("weight", "bias"), "fc": ("weight", "bias")}
_BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def names(config: Config, head: dict[str, str] = _HEAD) -> Iterator[tuple[str, str]]:
    """Our key and torchvision's, of every tensor in the order of its file.

    `features` numbers every layer, pooling and ReLU too; `head` has the names of fc6, fc7, fc8.
    """
    number = 0
    for layer in config.layers():
        if layer.kind == "fc":
            theirs = head[layer.name]
        elif layer.name in ("relu6", "drop6", "relu7", "drop7"):
            continue
        else:
            theirs = f"features.{number}"
            number += 1
        parts = _BN if layer.kind == "bn" else _PARTS.get(layer.kind, ())
        for part in parts:
            yield f"{layer.name}.{part}", f"{theirs}.{part}"


def read(path: Path, tensors: dict[str, Tensor]) -> Foreign:
    """A state_dict of torchvision's names.

    The fully connected layers have our layout: out×(C·h·w). A classifier of nothing but NaN, as in
    torchvision's features-only file, is left out.

    Raises:
        InputError: for keys that are not those of one of its nets.
    """
    config = match(path, tensors, "torchvision", _HEAD)
    found = renamed(tensors, config, _HEAD)
    classifier = [value for key, value in found.items() if key.startswith("fc")]
    classifier.sort(key=Tensor.numel)  # a small one tells as much as fc6's 411 MB
    if classifier and all(
        value.is_floating_point() and value.isnan().all() for value in classifier
    ):
        found = {key: value for key, value in found.items() if not key.startswith("fc")}
        return Foreign("torchvision", found, FEATURES if config.title == "D" else TORCHVISION)
    return Foreign("torchvision", found, TORCHVISION)


def match(path: Path, tensors: dict[str, Tensor], whose: str, head: dict[str, str]) -> Config:
    """The config whose names of this kind are the file's, with the nearest one in the error."""
    had = {key for key in tensors if not key.endswith("num_batches_tracked")}
    nearest: tuple[int, int, str] | None = None
    for net in NETS:
        for batch_norm in (False, True):
            for with_head in (True, False):
                config = Config(net, batch_norm=batch_norm, head=with_head)
                theirs = {key for _, key in names(config, head)}
                wanted = {key for key in theirs if not key.endswith("num_batches_tracked")}
                if wanted == had:
                    return config
                missing, more = sorted(wanted - had), sorted(had - wanted)
                text = f"lacks {missing[0]}" if missing else f"has {more[0][:60]!r} too"
                common = len(wanted) - len(missing)
                found = len(missing) + len(more), common, f"{title(config)}, but {text}"
                nearest = min(nearest or found, found)
    assert nearest is not None
    _, common, text = nearest
    if 2 * common >= len(had):
        raise InputError(f"{path}: names like those of {whose}'s {text}")
    some = ", ".join(repr(key[:60]) for key in list(tensors)[:3]) + ", …" * (len(tensors) > 3)
    raise InputError(
        f"{path}: its names, {some}, are not those of a VGG net of {whose}'s, features.0.weight, "
        "features.0.bias, …"
    )


def renamed(tensors: dict[str, Tensor], config: Config, head: dict[str, str]) -> dict[str, Tensor]:
    """Under our names; the fully connected layers as matrices."""
    found = {ours: tensors[key] for ours, key in names(config, head) if key in tensors}
    return {
        key: value.flatten(1) if key.startswith("fc") and value.dim() > 1 else value
        for key, value in found.items()
    }


def title(config: Config) -> str:
    """torchvision's name of a net; its own class has neither other widths nor other crops."""
    name = NETS[config.net] + "_bn" * config.batch_norm
    if config.width != 1:
        name += f" of {config.width:g} times the channels"
    if config.crop != 224 and config.head:
        name += f" for crops of {config.crop}"
    return name


def state_dict(model: VGG) -> dict[str, Tensor]:
    """The weights under torchvision's names, for images that its transforms divided by their std.

    The pre-processing that goes with them is `preprocessing(model)`.

    Raises:
        InputError: for a net that torchvision does not have.
    """
    config = model.config
    if config.net not in NETS:
        raise InputError(
            f"torchvision has no net {config.net}: it has {', '.join(NETS)}; save it as safetensors"
        )
    if config.in_channels != 3:
        raise InputError(f"torchvision's nets take 3 channels; this one takes {config.in_channels}")
    ours = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    ours["conv1_1.weight"] = TORCHVISION.unfolded(ours["conv1_1.weight"])
    return {
        theirs: ours[key].float() if ours[key].is_floating_point() else ours[key].clone()
        for key, theirs in names(config)
    }


def preprocessing(model: VGG) -> Preprocessing:
    """What images for `state_dict(model)` must go through: torchvision's own where it can be.

    A mean other than torchvision's is the net's own and cannot be folded into weights.
    """
    mean = tuple(value / 255 for value in model.mean.tolist())
    own = torch.tensor([255 * value for value in TORCHVISION.mean])
    if torch.equal(own, model.mean.detach().cpu().float()):
        return TORCHVISION
    return Preprocessing("RGB", 255.0, mean, TORCHVISION.std)
