"""Training on a CPU by the kernels: Winograd's minimal filtering forward, and in both gradients."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vggnet.kernels import layers as on
from vggnet.kernels.layers import Connected, Scratch, Winograd
from vggnet.kernels.library import UnavailableError, library
from vggnet.model import VGG
from vggnet.modules import FullyConnected

Forward = Callable[[Tensor], Tensor]
_FEW_ROWS = 32
"""Of fewer, a fully connected layer costs its weights' way through memory."""


def accelerated(model: VGG, *, threads: int | None = None) -> Forward:
    """The model's forward for training on this machine: images to scores, with gradients.

    On a CPU in float32, with a compiler, for nets whose 3×3 and 5×5 layers after the first all have
    multiples of `Library.columns` channels (16 with AVX2, 32 with AVX-512; from a width of 1/4 or
    1/2 up): these layers with their ReLU and pooling, and the fully connected ones of small
    batches, compute by the kernels. Scores and gradients differ from PyTorch's by rounding, do not
    depend on the number of threads, and are differentiable once. Every other net, and a net whose
    layers have hooks, is computed by its own modules. The parameters are the model's: what an
    optimiser does to them is seen by the next call.

    Args:
        model: its mode (train or eval) at the time of a call decides about dropout.
        threads: PyTorch's number by default.
    """
    if not uses_kernels(model):
        return model
    parts, scratch = _parts(model), Scratch()

    def forward(images: Tensor) -> Tensor:
        if any(map(_is_hooked, model.modules())):
            return model(images)  # type: ignore[no-any-return]
        model.config.check_head()
        model.check_images(images)
        now = threads or torch.get_num_threads()
        x = model.subtract_mean(images)
        for part in parts:
            if isinstance(part, _Block):
                weight, bias = part.conv.weight, part.conv.bias
                x = _Convolution.apply(x, weight, bias, part.relu, part.pool, scratch, now)  # type: ignore[no-untyped-call]
            elif isinstance(part, FullyConnected):
                x = _connected(part, x, now)
            else:
                x = part(x)
        return x.mean(dim=(2, 3))

    return forward


def uses_kernels(model: VGG) -> bool:
    """Whether `accelerated` computes this net by the kernels, on this machine."""
    if not model.config.is_vgg or model.mean.device.type != "cpu":
        return False
    if model.mean.dtype != torch.float32:
        return False
    try:
        columns = library().columns
    except UnavailableError:
        return False
    convolutions = [layer for layer in model.config.layers() if layer.kind == "conv"][1:]
    return all(
        layer.in_channels % columns == layer.out_channels % columns == 0
        for layer in convolutions
        if layer.kernel > 1
    )


@dataclass(frozen=True, slots=True)
class _Block:
    """A convolution, and what of its ReLU and the pooling after that is computed with it."""

    conv: nn.Conv2d
    relu: bool
    pool: bool


def _parts(model: VGG) -> list[_Block | nn.Module]:
    """The net's layers in order; those that the kernels compute together are one."""
    first, *layers = model.config.layers()
    found: list[_Block | nn.Module] = [getattr(model, first.name)]
    while layers:
        layer, *layers = layers
        module = getattr(model, layer.name)
        if layer.kind == "conv" and layer.kernel > 1:
            relu = layers[0].kind == "relu"
            pool = relu and layers[1].kind == "pool"
            layers = layers[relu + pool :]
            found.append(_Block(module, relu, pool))
        else:
            found.append(module)
    return found


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


class _Convolution(torch.autograd.Function):
    """Convolution, bias, perhaps ReLU and pooling, of maps N×C×H×W whose memory is N×H×W×C."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        relu: bool,
        pool: bool,
        scratch: Scratch,
        threads: int,
    ) -> Tensor:
        maps = _maps(x)
        n, height, width, _ = maps.shape
        tile = on.tile_for(weight.shape[2], width)
        layer = Winograd.of(weight, bias, tile, threads, scratch=scratch)
        y = _fresh(n, height, width, weight.shape[0])
        layer(maps, y, scratch, threads, relu=relu)
        ctx.save_for_backward(maps, weight, y if relu else None)
        ctx.pool, ctx.tile, ctx.scratch, ctx.threads = pool, tile, scratch, threads
        if not pool:
            return y.permute(0, 3, 1, 2)
        pooled = _fresh(n, height // 2, width // 2, weight.shape[0])
        on.pool(y, pooled, threads)
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, y = ctx.saved_tensors
        tile, scratch, threads = ctx.tile, ctx.scratch, ctx.threads
        before = _maps(gradient)
        if y is not None:
            after, before = before, scratch.take("gradient", *y.shape)
            on.rectified(y, after, before, threads, pool=ctx.pool)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            turned = Winograd.of(weight, None, tile, threads, turned=True, scratch=scratch)
            of_x = _fresh(*maps.shape)
            turned(before, of_x, scratch, threads)
            of_x = of_x.permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(weight)
            on.weight_gradient(tile, maps, before, of_weight, scratch, threads)
        if ctx.needs_input_grad[2]:
            of_bias = before.flatten(0, 2).sum(dim=0)
        return of_x, of_weight, of_bias, None, None, None, None


def _connected(layer: FullyConnected, x: Tensor, threads: int) -> Tensor:
    """`FullyConnected.forward`, its products by the kernels where rows are few."""
    n, _, height, width = x.shape
    k = layer.kernel
    rows = n * (height - k + 1) * (width - k + 1)
    if rows > _FEW_ROWS or not torch.is_grad_enabled():
        return layer(x)  # type: ignore[no-any-return]
    windows = x.unfold(2, k, 1).unfold(3, k, 1).permute(0, 2, 3, 1, 4, 5).reshape(rows, -1)
    y: Tensor = _Connected.apply(windows, layer.weight, layer.bias, threads)  # type: ignore[no-untyped-call]
    return y.view(n, height - k + 1, width - k + 1, -1).permute(0, 3, 1, 2)


class _Connected(torch.autograd.Function):
    """Rows × inputs to rows × outputs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, threads: int) -> Tensor:
        x, kept = x.contiguous(), weight.contiguous()
        y = torch.empty(len(x), len(weight))
        Connected(kept, None, bias)(x, y, threads)
        ctx.save_for_backward(x, kept)
        ctx.threads = threads
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        of_weight = _fresh(*weight.shape) if ctx.needs_input_grad[1] else None
        on.connected_gradients(weight, x, gradient, of_x, of_weight, ctx.threads)
        of_bias = gradient.sum(dim=0) if ctx.needs_input_grad[2] else None
        return of_x, of_weight, of_bias, None


def _maps(x: Tensor) -> Tensor:
    """N×H×W×C in that order of memory."""
    return x.permute(0, 2, 3, 1).contiguous()


def _fresh(*shape: int) -> Tensor:
    return on.fresh(prod(shape)).view(shape)
