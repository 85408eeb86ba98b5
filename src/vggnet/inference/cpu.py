"""Inference on a CPU by the kernels of `vggnet.kernels`."""

from dataclasses import dataclass
from itertools import takewhile
from math import ceil, prod
from typing import Literal

import torch
from torch import Tensor, nn

from vggnet.errors import InputError
from vggnet.inference.base import Fast, Plain
from vggnet.kernels import layers as on
from vggnet.kernels.layers import Connected, Direct, Scratch, Winograd
from vggnet.kernels.library import library
from vggnet.layers import Layer
from vggnet.model import VGG
from vggnet.modules import FullyConnected, LocalResponseNorm
from vggnet.pages import in_large_pages

Stored = Literal["float32", "bfloat16", "int8"]

# Maps larger than this are computed image by image, so that what one layer writes is still in the
# cache when the next reads it; smaller ones for so many images together, since their layers'
# weights are large.
_LARGE_MAP, _MAPS_TOGETHER = 4 << 20, 32 << 20
_ROWS_TOGETHER = 48
"""Rows of windows that go through the fully connected layers together."""


class OnCPU(Fast):
    """The kernels of `vggnet.kernels`."""

    def __init__(self, model: VGG, fc: Stored, threads: int) -> None:
        lib = library()
        super().__init__(
            model,
            f"Winograd kernels, {lib.lanes} floats a register, {threads} threads"
            + f", fully connected weights in {fc}" * (fc != "float32"),
        )
        self._threads, self._scratch = threads, Scratch()
        self._blocks = _blocks(model)
        self._kernels: dict[str, Winograd | Direct] = {}
        self._head = {
            layer.name: _connected(getattr(model, layer.name), fc)
            for layer in model.config.layers()
            if layer.kind == "fc"
        }

    @property
    def bytes(self) -> int:
        # A copy made at once: another thread's call may add to it.
        weights = [kernel.weights for kernel in list(self._kernels.values())]
        weights += [fc.weights for fc in self._head.values() if fc.weights.dtype != torch.float32]
        return self._scratch.bytes + sum(t.numel() * t.element_size() for t in weights)

    def _run(self, images: Tensor, names: list[str]) -> dict[str, Tensor]:
        self._model.check_device(images)  # kernels would read whatever lies at its address
        if any(block.bn and block.conv.name in names for block in self._blocks):
            # Batch normalisation has become part of these layers' weights.
            return Plain(self._model, "")._run(images, names)
        if images.dtype not in (torch.uint8, torch.float32):
            images = images.float()
        sizes = self._sizes(images)
        maps = {
            name: torch.empty(len(images), *sizes[name])
            for name in dict.fromkeys(names)
            if name in sizes
        }
        blocks, end = self._blocks, self._blocks[-1].output
        if len(maps) < len(set(names)):  # the head is asked for
            maps.setdefault(end, self._scratch.take(end, len(images), *sizes[end]))
        else:
            last = max(i for i, block in enumerate(blocks) if block.names & maps.keys())
            blocks = blocks[: last + 1]
        self._convolve(images, blocks, sizes, maps)
        channels = {name: block.channels for block in blocks for name in block.names}
        found = {
            name: value[..., : channels[name]].permute(0, 3, 1, 2) for name, value in maps.items()
        }
        if head := set(names) - maps.keys():
            found |= self._connect(maps[end], head)
        return found

    def _sizes(self, images: Tensor) -> dict[str, tuple[int, int, int]]:
        """Height, width and padded channels of every map."""
        height, width = images.shape[2:]
        found: dict[str, tuple[int, int, int]] = {}
        for block in self._blocks:
            size = height, width, on.padded(block.channels)
            found |= dict.fromkeys(block.names - {block.pool}, size)
            if block.pool:
                height, width = height // 2, width // 2
                found[block.pool] = height, width, size[2]
        return found

    def _convolve(
        self,
        images: Tensor,
        blocks: "list[_Block]",
        sizes: dict[str, tuple[int, int, int]],
        maps: dict[str, Tensor],
    ) -> None:
        """Computes the maps that are in `maps`; all others are scratch."""
        bytes_of = [4 * prod(sizes[block.relu]) for block in blocks]
        front = next((i for i, size in enumerate(bytes_of) if size <= _LARGE_MAP), len(blocks))
        most = max(1, _MAPS_TOGETHER // max(bytes_of[front:], default=_MAPS_TOGETHER))
        chunks = ceil(len(images) / most)
        for chunk in range(chunks):
            first, end = len(images) * chunk // chunks, len(images) * (chunk + 1) // chunks
            if front == 0:
                x = self._prepared(images[first:end])
            else:
                between = blocks[front - 1].output
                x = (
                    maps[between][first:end]
                    if between in maps
                    else self._scratch.take("between", end - first, *sizes[between])
                )
                for i in range(first, end):
                    y = self._prepared(images[i : i + 1])
                    own = {name: value[i : i + 1] for name, value in maps.items()}
                    own[between] = x[i - first : i - first + 1]
                    for block in blocks[:front]:
                        y = self._block(block, y, sizes, own)
            own = {name: value[first:end] for name, value in maps.items()}
            for block in blocks[front:]:
                x = self._block(block, x, sizes, own)

    def _prepared(self, images: Tensor) -> Tensor:
        n, channels, height, width = images.shape
        border = self.config.layers()[0].kernel // 2
        out = self._scratch.take("images", n, height + 2 * border, width + 2 * border, channels)
        on.prepare(images, self.mean, out, self._threads)
        return out

    def _block(
        self,
        block: "_Block",
        x: Tensor,
        sizes: dict[str, tuple[int, int, int]],
        own: dict[str, Tensor],
    ) -> Tensor:
        """The block's last map; each map goes where `own` says, or else into scratch."""

        def place(name: str) -> Tensor:
            if name in own:
                return own[name]
            # Another buffer than the one that is read.
            buffer = "even" if x.data_ptr() != self._scratch.take("even", 1).data_ptr() else "odd"
            return self._scratch.take(buffer, len(x), *sizes[name])

        before = (block.bn or block.conv).name
        if before in own:  # somebody wants to see it before the ReLU
            self._convolution(block, x, own[before], relu=False)
            x = own[before]
            y = place(block.relu)
            on.relu(x, y, self._threads)
        elif block.pool and not block.lrn and block.relu not in own and block.tile:
            y = place(block.pool)
            self._convolution(block, x, y, pool=True)
            return y
        else:
            y = place(block.relu)
            self._convolution(block, x, y)
        if block.lrn:
            x = y  # read now: `place` gives another
            y = place(block.lrn.name)
            self._normalise(block, x, y)
        if block.pool:
            x = y
            y = place(block.pool)
            on.pool(x, y, self._threads)
        return y

    def _convolution(
        self, block: "_Block", x: Tensor, out: Tensor, *, relu: bool = True, pool: bool = False
    ) -> None:
        kernel = self._kernels.get(block.conv.name)
        if kernel is None:  # under the lock of the call; a net that ends before never needs it
            weight, bias = folded(self._model, block.conv, block.bn)
            if block.tile:
                kernel = Winograd.of(weight, bias, block.tile, self._threads)
            else:
                # The images have no padding of channels.
                first = block is self._blocks[0]
                channels = block.conv.in_channels
                kernel = Direct.of(weight, bias, channels if first else on.padded(channels))
            self._kernels[block.conv.name] = kernel
        if isinstance(kernel, Winograd):
            kernel(x, out, self._scratch, self._threads, relu=relu, pool=pool)
        else:
            kernel(x, out, self._threads, relu=relu)

    def _normalise(self, block: "_Block", x: Tensor, out: Tensor) -> None:
        assert block.lrn is not None
        module = getattr(self._model, block.lrn.name)
        assert isinstance(module, LocalResponseNorm)
        on.normalise(
            x,
            out,
            self._threads,
            channels=block.channels,
            size=module.lrn.size,
            alpha=module.alpha,
            beta=module.lrn.beta,
            k=module.lrn.k,
        )

    def _connect(self, x: Tensor, names: set[str]) -> dict[str, Tensor]:
        """The fully connected layers on every window of the last map; maps N×K×h×w, scores N×K."""
        config, threads = self.config, self._threads
        fc6, fc7, fc8 = self._head.values()
        kernel = config.crop // 32
        n, height, width = len(x), x.shape[1] - kernel + 1, x.shape[2] - kernel + 1
        made = {"fc6": fc6, "relu6": fc6, "drop6": fc6, "fc7": fc7, "relu7": fc7, "drop7": fc7}
        maps = {
            name: torch.empty(n, height, width, len(made.get(name, fc8).bias))
            for name in names | {"fc8"}
            if name != "scores"
        }
        few = max(1, _ROWS_TOGETHER // (height * width))
        for first in range(0, n, few):
            some = x[first : first + few]
            rows = len(some) * height * width
            y = self._scratch.take("windows", rows, fc6.weights.shape[1])
            channels = self._blocks[-1].channels
            on.windows(some, y, threads, channels=channels, kernel=kernel)

            def keep(name: str, y: Tensor, first: int = first) -> None:
                if name in maps:
                    into = maps[name][first : first + few]
                    into.copy_(y.view(into.shape))

            for number, layer in ((6, fc6), (7, fc7)):
                out = self._scratch.take(f"fc{number}", rows, len(layer.bias))
                layer(y, out, threads, relu=f"fc{number}" not in maps)
                keep(f"fc{number}", out)
                y = out.relu_() if f"fc{number}" in maps else out
                keep(f"relu{number}", y)
                keep(f"drop{number}", y)
            fc8(y, maps["fc8"][first : first + few].view(rows, -1), threads)
        found = {name: value.permute(0, 3, 1, 2) for name, value in maps.items()}
        return found | {"scores": found["fc8"].mean(dim=(2, 3))}


@dataclass(frozen=True, slots=True)
class _Block:
    """A convolution and what follows it up to the next; names are the layers'."""

    tile: int | None
    """Winograd's; None for a convolution as it is written down."""
    conv: Layer
    bn: Layer | None
    relu: str
    lrn: Layer | None
    pool: str | None

    @property
    def channels(self) -> int:
        return self.conv.out_channels

    @property
    def names(self) -> set[str]:
        layers = {layer.name for layer in (self.conv, self.bn, self.lrn) if layer}
        return layers | {name for name in (self.relu, self.pool) if name}

    @property
    def output(self) -> str:
        return self.pool or (self.lrn.name if self.lrn else self.relu)


def _blocks(model: VGG) -> list[_Block]:
    """The net up to pool5."""
    blocks: list[_Block] = []
    layers = list(takewhile(lambda layer: layer.kind != "fc", model.config.layers()))
    starts = [i for i, layer in enumerate(layers) if layer.kind == "conv"]
    side = model.config.crop
    for start, end in zip(starts, [*starts[1:], len(layers)], strict=True):
        conv, *rest = layers[start:end]
        of = {layer.kind: layer for layer in rest}
        blocks.append(
            _Block(
                on.tile_for(conv.kernel, side) if blocks and conv.kernel > 1 else None,
                conv,
                of.get("bn"),
                of["relu"].name,
                of.get("lrn"),
                of["pool"].name if "pool" in of else None,
            )
        )
        side //= 2 if "pool" in of else 1
    return blocks


def folded(model: VGG, conv: Layer, bn: Layer | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution, of which the batch normalisation after it is a part."""
    module = getattr(model, conv.name)
    assert isinstance(module, nn.Conv2d)
    assert module.bias is not None
    weight, bias = module.weight.detach(), module.bias.detach()
    if bn is None:
        return weight, bias
    norm = getattr(model, bn.name)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = (bias.double() - norm.running_mean.double()) * scale + norm.bias.detach().double()
    return (weight.double() * scale.view(-1, 1, 1, 1)).float(), shift.float()


def _connected(module: FullyConnected, fc: Stored) -> Connected:
    weight, bias = module.weight.detach().contiguous(), module.bias.detach()
    if fc == "float32":
        return Connected(weight, None, bias)
    if not weight.isfinite().all():
        raise InputError(f"fc {fc}: the weights are not finite")
    kept = torch.empty(weight.shape, dtype=torch.bfloat16 if fc == "bfloat16" else torch.int8)
    in_large_pages(kept)
    if fc == "bfloat16":
        return Connected(kept.copy_(weight), None, bias)
    scales = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return Connected(kept.copy_((weight / scales[:, None]).round_()), scales, bias)
