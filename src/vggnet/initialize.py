"""How the weights start: at random in four ways, or from a shallower net (§3.1)."""

import math
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Generator, nn

from vggnet.errors import InputError

if TYPE_CHECKING:
    from vggnet.model import VGG

LRNConvention = Literal["krizhevsky", "caffe"]
Init = Literal["glorot", "he", "paper-variance", "paper-std"]

# §3.1: "the first four convolutional layers and the last three fully-connected layers". By name,
# not by order: A's second convolution, 64 to 128 channels, is conv2_1, and fits B's conv2_1 only.
STAGED_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")


def check(init: str) -> None:
    """Raises InputError for an unknown way."""
    if init not in get_args(Init):
        raise InputError(f"unknown init {init!r}: take one of {', '.join(get_args(Init))}")


@torch.no_grad()
def initialize_(model: nn.Module, init: Init, generator: Generator | None = None) -> None:
    """Draws every weight anew, in place, and sets every bias to 0.

    Args:
        model: its convolutions and linear layers are drawn in the order of execution; batch
            normalisations are reset to the identity.
        init:
            glorot: uniform, variance 2 / (fan in + fan out) (Glorot & Bengio 2010). The paper's
                footnote in §3.1 says that it needs no pre-training. The default.
            he: normal, variance 2 / fan in (He et al. 2015). It keeps the scale of its input,
                which is that of pixels here, 0–255 and not divided: with the paper's rate of 1e-2
                the loss overflows. Take a rate of 1e-5 or so, or batch normalisation.
            paper-variance: normal, variance 1e-2 as §3.1 prints it, so a standard deviation of
                0.1. The scores of a deep net then overflow.
            paper-std: normal, standard deviation 1e-2, as the field reads §3.1. B to E hardly
                start from it, which is why the paper stages them.
        generator: of the random numbers; PyTorch's own when None.
    """
    check(init)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight
            receptive = weight[0, 0].numel()  # k² for a convolution, 1 for a linear layer
            fan_in, fan_out = weight.shape[1] * receptive, weight.shape[0] * receptive
            match init:
                case "glorot":
                    bound = math.sqrt(6 / (fan_in + fan_out))
                    weight.uniform_(-bound, bound, generator=generator)
                case "he":
                    weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
                case "paper-variance":
                    weight.normal_(0, math.sqrt(1e-2), generator=generator)
                case "paper-std":
                    weight.normal_(0, 1e-2, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


@torch.no_grad()
def staged_(model: "VGG", net_a: "VGG") -> list[str]:
    """Copies net A's first four convolutions and its three FC layers into a deeper net (§3.1).

    The other layers keep what they have. Batch normalisations go with their convolutions. Of a
    source of other classes fc8 stays, of one without a classifier fc6 to fc8.

    Args:
        model: the net to set, in place; made with A's crop, width and channels.
        net_a: a trained net A.

    Returns:
        The names of the copied layers.

    Raises:
        InputError: when the source is not net A, or a layer's shape differs.
    """
    if net_a.config.net != "A":
        raise InputError(f"staged initialisation copies from net A, not from {net_a.config.net}")
    if net_a.config.batch_norm != model.config.batch_norm:
        raise InputError("staged initialisation: one of the nets is batch-normalised, one is not")
    names = [name for name in STAGED_LAYERS if name not in _without(model, net_a)]
    if model.config.batch_norm:
        names += [name.replace("conv", "bn") for name in STAGED_LAYERS if name.startswith("conv")]
    _copy(model, net_a, names)
    return names


@torch.no_grad()
def whole_(model: "VGG", source: "VGG") -> None:
    """Copies every layer of a source to a model of the same net, as for S = 384 from 256 (§3.1).

    From a source without its classifier, only the convolutions; fc6 to fc8 keep what they have.
    From one with other classes, or of another kind of output, all but fc8 and, of GoogLeNet, the
    last layers at its sides.

    Raises:
        InputError: when the nets differ.
    """
    if source.config.net != model.config.net:
        raise InputError(
            f"net {model.config.net} cannot start from weights of net {source.config.net}: "
            f"give weights of net {model.config.net}, or of net A for staged initialisation"
        )
    if source.config.batch_norm != model.config.batch_norm:
        raise InputError("one of the nets is batch-normalised, the other is not")
    left_out = _without(model, source)
    _copy(model, source, [name for name, _ in source.named_children() if name not in left_out])


def _without(model: "VGG", source: "VGG") -> tuple[str, ...]:
    """What cannot be copied: layers of other classes, or fc6 to fc8 where the source has none."""
    if not source.config.head:
        return "fc6", "fc7", "fc8"
    old, new = source.config, model.config
    if (old.num_classes, old.boxes) == (new.num_classes, new.boxes):
        return ()
    return ("fc8", *(layers[-1].name for layers in new.sides().values()))


def _copy(model: "VGG", source: "VGG", names: list[str]) -> None:
    target_state, source_state = model.state_dict(), source.state_dict()
    keys = [key for key in target_state if key.partition(".")[0] in names]
    for key in keys:
        new, old = tuple(target_state[key].shape), source_state.get(key)
        if old is None or tuple(old.shape) != new:
            had = "nothing" if old is None else f"shape {tuple(old.shape)}"
            raise InputError(
                f"cannot copy {key} from net {source.config.net}: it has {had}, net "
                f"{model.config.net} wants {new}; use the same width, crop, channels and classes"
            )
    for key in keys:
        target_state[key].copy_(source_state[key])
