"""What a weight file of other software holds, in our names and layouts, and the net made of it."""

from dataclasses import dataclass, replace
from math import isfinite, isqrt
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vggnet import checkpoint
from vggnet.configs import FC_CHANNELS, NETS, Config
from vggnet.errors import InputError
from vggnet.files import sha256
from vggnet.imagenet import synset_names
from vggnet.model import IMAGENET_MEAN, VGG, Provenance

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What images, RGB 0–255, go through before a net's first layer: ((x / scale) - mean) / std.

    `mean` and `std` are of R, G and B whatever the order; one value for each channel of the image.
    """

    order: Literal["RGB", "BGR"] = "RGB"
    """In which conv1_1 has its input channels."""
    scale: float = 1.0
    """What the pixels are divided by first: 255 where the net was trained on 0–1."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.order not in ("RGB", "BGR"):
            raise InputError(f"order {self.order!r} of the channels: take RGB or BGR")
        divisors = (self.scale, *self.std)
        if not all(map(isfinite, (*divisors, *self.mean))) or not all(divisors):
            raise InputError(
                f"pre-processing: scale {self.scale} and std {self.std} must not be 0, and these "
                f"and the mean {self.mean} must be finite"
            )
        if len(self.mean) != len(self.std):
            raise InputError(f"pre-processing ({self}): give a mean and a std for each channel")

    def folded(self, conv1_1: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """conv1_1's weight and the mean for images RGB 0–255 from which only a mean is subtracted.

        A change of order and a division are linear and keep zero at zero, so they are exact in the
        weight, zero padding included. A mean in the bias would not be: the padding is zero after
        the subtraction. It stays a subtraction.

        Args:
            conv1_1: out×channels×k×k.
        """
        weight = conv1_1.double()
        if self.order == "BGR":
            weight = weight.flip(1)
        weight = weight / (self.scale * torch.tensor(self.std).double()).view(1, -1, 1, 1)
        return weight.float(), tuple(self.scale * value for value in self.mean)

    def unfolded(self, conv1_1: Tensor) -> Tensor:
        """The inverse of `folded` for the weight: what a file with this pre-processing holds."""
        weight = conv1_1.double()
        weight = weight * (self.scale * torch.tensor(self.std).double()).view(1, -1, 1, 1)
        return (weight.flip(1) if self.order == "BGR" else weight).float()

    def __str__(self) -> str:
        ends = (
            "0–1"
            if self.scale == 255
            else "0–255"
            if self.scale == 1
            else f"0–{255 / self.scale:g}"
        )
        text = f"{self.order} {ends}"
        if any(self.mean):
            text += f", minus {', '.join(f'{value:g}' for value in self.mean)} of R, G, B"
        if any(value != 1 for value in self.std):
            text += f", divided by {', '.join(f'{value:g}' for value in self.std)}"
        return text


TORCHVISION = Preprocessing("RGB", 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""torchvision's and timm's own weights."""
FEATURES = Preprocessing("RGB", 255.0, (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255))
"""Of `VGG16_Weights.IMAGENET1K_FEATURES`: the authors' convolutions, turned to RGB, and a
classifier of NaN."""
CAFFE = Preprocessing("BGR", 1.0, IMAGENET_MEAN)
"""The authors' weights, and those of Keras, which are the same (`preprocess_input`)."""
RGB_MEAN = Preprocessing("RGB", 1.0, IMAGENET_MEAN)
"""The authors' weights with conv1_1 turned to RGB, as MatConvNet has them."""
NAMED = {
    "torchvision": TORCHVISION,
    "torchvision-features": FEATURES,
    "caffe": CAFFE,
    "rgb-mean": RGB_MEAN,
    "rgb-255": Preprocessing(),
    "rgb-1": Preprocessing("RGB", 255.0),
}
"""What `--preprocessing` takes: for files whose weights were trained otherwise than their format's
own software does."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A file's content under our names, in our layouts: conv out×in×k×k, fc6 out×(C·k·k)."""

    format: str
    """Whose: torchvision, timm, Keras, Caffe, MatConvNet."""
    tensors: dict[str, Tensor]
    """`conv1_1.weight`, …, `fc8.bias`; without those of fc6 to fc8 the net has no classifier."""
    preprocessing: Preprocessing | str
    """Or why the file tells none that a net here can have: one must be given then."""
    class_names: tuple[str, ...] | None = None
    """In the order of the scores, where the file has them."""


def assemble(
    path: Path,
    foreign: Foreign,
    *,
    preprocessing: Preprocessing | None = None,
    class_names: tuple[str, ...] | None = None,
    head: bool = True,
) -> VGG:
    """The net that a file holds, its pre-processing made part of it: RGB 0–255 in.

    Args:
        path: named in errors and in the provenance.
        foreign: what was read.
        preprocessing: instead of the format's own.
        class_names: in the order of the scores. Without them those of the file; else, of 1,000
            classes, ImageNet's in the order of their synsets, as all these formats have them.
        head: without it fc6 to fc8 are not looked at, nor is the file's checksum taken, which would
            read them.

    Returns:
        In evaluation mode, float32.

    Raises:
        InputError: for tensors that are missing, too many, of a wrong shape or type, or not
            finite; for class names that do not fit; or without a pre-processing.
    """
    tensors = {
        key: value for key, value in foreign.tensors.items() if head or not key.startswith("fc")
    }
    for key, value in tensors.items():
        if value.is_floating_point() and value.dtype not in _DTYPES:
            raise InputError(f"{path}: {key} is of {value.dtype}: convert it to float32")
        if not value.is_floating_point() and not key.endswith("num_batches_tracked"):
            raise InputError(f"{path}: {key} is of {value.dtype}, not of floating-point numbers")
    for key in [key for key in tensors if key.endswith(".running_mean")]:
        # Batch normalisations of before PyTorch 0.4 do not count.
        tensors.setdefault(key.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    config = _config(path, tensors)
    given = preprocessing or foreign.preprocessing
    if isinstance(given, str):
        raise InputError(f"{path}: {given}: give the pre-processing (--preprocessing)")
    if config.in_channels != len(given.mean):
        raise InputError(
            f"{path}: conv1_1 takes {config.in_channels} channels, its pre-processing is of "
            f"{len(given.mean)} ({given}): give the one that it was trained with"
        )
    tensors["mean"] = torch.zeros(config.in_channels)
    if difference := checkpoint.difference(config, tensors):
        raise InputError(f"{path}: is not net {config.title}, which it resembles: {difference}")
    tensors["conv1_1.weight"], mean = given.folded(tensors["conv1_1.weight"])
    tensors["mean"] = torch.tensor(mean)
    for key, value in tensors.items():
        if value.is_floating_point():
            tensors[key] = value.float().contiguous()
            # Its extremes are NaN where anything is; `isfinite` would take as much memory again.
            if not torch.stack(tensors[key].aminmax()).isfinite().all():
                raise InputError(
                    f"{path}: {key} has values that are not finite (NaN or infinity): the file is "
                    "damaged, or the net diverged"
                )
    with torch.device("meta"):
        model = VGG(config, mean)
    model.load_state_dict(tensors, assign=True)
    names = foreign.class_names if class_names is None else tuple(class_names)
    if not config.head:
        names = None
    elif names is None and config.num_classes == 1000:
        names = tuple(synset_names().values())
    if names is not None and len(names) != config.num_classes:
        raise InputError(f"{path}: {len(names)} class names for {config.num_classes} classes")
    if names is not None and len(set(names)) < len(names):
        raise InputError(f"{path}: its class names are not all different: give others")
    model.provenance = Provenance(
        class_names=names,
        source=f"{foreign.format}, images {given}, "
        + (f"sha256 {sha256(path)}" if head else "without its classifier"),
    )
    return model.eval()


def _config(path: Path, tensors: dict[str, Tensor]) -> Config:
    """The net whose convolutions these are, by their names and kernels; sizes by their shapes."""
    kernels = {
        key.removesuffix(".weight"): value.shape[-1]
        for key, value in tensors.items()
        if key.startswith("conv") and key.endswith(".weight") and value.dim() == 4
    }
    head = any(key.startswith("fc") for key in tensors)
    batch_norm = any(key.startswith("bn") for key in tensors)
    nets = [net for net in NETS if _kernels(net) == kernels]
    if not nets:
        raise InputError(
            f"{path}: its {len(kernels)} convolutions are those of no VGG net: "
            f"{', '.join(f'{name} {k}×{k}' for name, k in kernels.items()) or 'there are none'}"
        )
    try:
        first, last = tensors["conv1_1.weight"], tensors[f"{list(_kernels(nets[0]))[-1]}.weight"]
        config = Config(
            nets[0], in_channels=first.shape[1], width=last.shape[0] / 512, batch_norm=batch_norm
        )
        if not head:
            return replace(config, head=False)
        fc6, fc8 = tensors["fc6.weight"], tensors["fc8.weight"]
        return replace(
            config,
            num_classes=fc8.shape[0],
            crop=32 * isqrt(fc6.shape[1] // last.shape[0]),
            width=fc6.shape[0] / FC_CHANNELS,
        )
    except KeyError as error:
        raise InputError(f"{path}: has no {error.args[0]}") from None
    except (IndexError, ZeroDivisionError):
        raise InputError(f"{path}: fc6 or fc8 is no matrix") from None
    except InputError as error:
        raise InputError(f"{path}: is no net that vggnet can make: {error}") from None


def _kernels(net: str) -> dict[str, int]:
    return {layer.name: layer.kernel for layer in Config(net).layers() if layer.kind == "conv"}
