"""A net's layers as a GPU computes them fastest: fewer passes over the maps, for `torch.compile`.

The products are cuDNN's and cuBLAS's; of a step of net D they are three quarters. What is left is
reading and writing maps, and here are the rearrangements that save it. None changes more than
rounding:

- a ReLU is part of the convolution before it, in cuDNN's own kernel;
- a map that is pooled is pooled before its bias is added and the ReLU taken, on a quarter of it;
- pooling keeps for its gradient which of the four was the largest, a byte, and not the map;
- images have eight channels, five of zeros: tensor cores take no fewer.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.layers import Layer
from vggnet.model import VGG

_CHANNELS = 8
"""Tensor cores take channels in multiples of this."""

Layers = Sequence[tuple[Layer, Any]]


def layers_of(model: VGG) -> Layers:
    """The net's layers with their modules."""
    return [(layer, model.get_submodule(layer.name)) for layer in model.config.layers()]


def run(layers: Layers, x: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """Named outputs of one forward, which ends at the last of them.

    Weights of convolutions are cast to the images' dtype; fully connected layers are as they are
    or as autocast makes them. Hooks of convolutions, ReLUs and poolings are not called.

    Args:
        layers: of a net.
        x: N×C×H×W, images less the mean, bfloat16, float16 or float32.
        names: of layers.
    """
    kept: dict[str, Tensor] = {}
    late: Tensor | None = None  # the bias of a convolution whose map is pooled first
    done = False  # whether the next ReLU is
    for i, (layer, module) in enumerate(layers):
        if layer.kind == "conv":
            follow = [after.kind for after, _ in layers[i + 1 : i + 3]]
            done = follow[:1] == ["relu"] and layer.name not in names
            weight, bias = module.weight.to(x.dtype), module.bias.to(x.dtype)
            if done and follow[1:] == ["pool"] and layers[i + 1][0].name not in names:
                x, late = _convolution(x, weight, None, relu=False), bias
            else:
                x = _convolution(x, weight, bias, relu=done)
        elif layer.kind == "relu" and done:
            done = False
        elif layer.kind == "pool":
            x = max_pool(x)
            if late is not None:
                x, late = F.relu(x + late.view(1, -1, 1, 1)), None
        elif layer.kind == "fc" and x.shape[2:] == (layer.kernel, layer.kernel):
            # One window, the whole map.
            x = F.linear(x.flatten(1), module.weight, module.bias)[:, :, None, None]
        else:
            x = module(x)
        if layer.name in names:
            kept[layer.name] = x
            if len(kept) == len(names):
                break
    return kept


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool) -> Tensor:
    """With padding that keeps the size; N×C×H×W, best in channels_last, which the result is in."""
    out, channels, k, _ = weight.shape
    if channels < _CHANNELS:
        more = (0, 0, 0, 0, 0, _CHANNELS - channels)
        x, weight, channels = F.pad(x, more), F.pad(weight, more), _CHANNELS
    if relu and channels % _CHANNELS == 0 and out % _CHANNELS == 0:
        fused: Tensor = conv_relu(x, weight, bias)
        return fused
    x = F.conv2d(x, weight, bias, padding=k // 2)
    return F.relu(x) if relu else x


def max_pool(x: Tensor) -> Tensor:
    """2×2 maxima, as `F.max_pool2d(x, 2)`; of equals the first gets the gradient.

    PyTorch's own gradient, compiled, looks in each place for windows that may reach it; these do
    not overlap.
    """
    y: Tensor = _Pool.apply(x)  # type: ignore[no-untyped-call]
    return y


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = h, w = x.shape[2:]
        x = x[:, :, : h // 2 * 2, : w // 2 * 2].permute(0, 2, 3, 1)
        largest = x[:, ::2, ::2]
        which = torch.zeros_like(largest, dtype=torch.uint8)
        for i, other in enumerate((x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]), start=1):
            better = (other > largest) | other.isnan()
            largest, which = torch.where(better, other, largest), which.masked_fill(better, i)
        ctx.save_for_backward(which)
        return largest.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (which,) = ctx.saved_tensors
        n, h, w, c = which.shape
        code = torch.arange(4, dtype=torch.uint8, device=which.device).view(1, 1, 2, 1, 2, 1)
        # N×h×2×w×2×C
        spread = gradient.permute(0, 2, 3, 1)[:, :, None, :, None]
        x = torch.where(which[:, :, None, :, None] == code, spread, 0)
        x = x.reshape(n, 2 * h, 2 * w, c).permute(0, 3, 1, 2)
        more = ctx.size[1] - 2 * w, ctx.size[0] - 2 * h
        return F.pad(x, (0, more[0], 0, more[1])) if any(more) else x


@torch.library.custom_op("vggnet::conv_relu", mutates_args=())
def conv_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """ReLU(x * weight + bias) of a k×k convolution that keeps the size, in one pass with cuDNN.

    Args:
        x: N×C×H×W.
        weight: K×C×k×k, k odd.
        bias: K.

    Returns:
        N×K×H×W in channels_last.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    padding = [weight.shape[-1] // 2] * 2
    fused = x.is_cuda and torch.version.hip is None and torch.backends.cudnn.enabled
    if fused and x.dtype != torch.float64:
        y = torch.cudnn_convolution_relu(x, weight, bias, (1, 1), padding, (1, 1), 1)
    else:
        y = F.relu(F.conv2d(x, weight, bias, padding=padding))
    return y.contiguous(memory_format=torch.channels_last)


@conv_relu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = x.new_empty((x.shape[0], weight.shape[0], *x.shape[2:]))
    return y.contiguous(memory_format=torch.channels_last)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, y = ctx.saved_tensors
    gradient = torch.where(y <= 0, 0, gradient)
    padding = [weight.shape[-1] // 2] * 2
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, (1, 1), padding, (1, 1), False, (0, 0), 1,
        (*ctx.needs_input_grad[:2], False),
    )  # fmt: skip
    return of_x, of_weight, gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output)


conv_relu.register_autograd(_gradients, setup_context=_keep)


@contextmanager
def searching() -> Iterator[None]:
    """Lets cuDNN measure its kernels the first time that a size comes."""
    was = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = was
