"""A net's layers on the kernels: weights in the kernels' order, and calls on PyTorch's tensors.

Maps are N×H×W×S, float32: the channels of a pixel lie together, S is their number rounded up to
`Library.columns`, and what is beyond the layer's channels is 0.
"""

from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor

from vggnet.kernels.library import Library, library
from vggnet.pages import in_large_pages

# From here on a Winograd layer's weights do not fit a processor's cache: each is read once for many
# tiles.
_MANY_WEIGHTS = 16 << 20
_TOGETHER, _BAND, _LONG_BAND = 400, 36, 200
"""Tiles whose data are transformed together; tiles in a band of the data's, and of a group's
(docs/LOG.md: why so many)."""
_GRADIENTS, _FEW_WEIGHTS = 48, 128 * 256
"""Tiles whose gradients are transformed together, for layers of few weights."""
_PRODUCTS = {43: 36, 23: 16, 25: 36}
_OUTPUTS = {43: 4, 23: 2, 25: 2}


class Scratch:
    """Memory for a net's work that is kept from call to call; it grows to what was needed most."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A float32 tensor of this shape, its values whatever they were."""
        count = prod(shape)
        kept = self._kept.get(name)
        if kept is None or kept.numel() < count:
            self._kept.pop(name, None)  # before the larger one is there
            kept = self._kept[name] = fresh(count)
        return kept[:count].view(shape)

    @property
    def bytes(self) -> int:
        return sum(4 * kept.numel() for kept in self._kept.values())


def fresh(floats: int) -> Tensor:
    """Unwritten memory, in large pages where the system has them."""
    return in_large_pages(torch.empty(floats))


def padded(channels: int) -> int:
    """S of a map with so many channels."""
    columns = library().columns
    return ceil(channels / columns) * columns


def tile_for(kernel: int, side: int) -> int:
    """The Winograd tile of fewest products for a 3×3 or 5×5 layer whose map is `side` pixels wide.

    43 computes 4×4 outputs of a 3×3 convolution from 36 products, 23 2×2 from 16, and 25 2×2 of a
    5×5 convolution from 36.
    """
    if kernel == 5:
        return 25
    return min((43, 23), key=lambda tile: ceil(side / _OUTPUTS[tile]) ** 2 * _PRODUCTS[tile])


@dataclass(frozen=True, slots=True)
class Winograd:
    """A 3×3 or 5×5 convolution of stride 1, zero-padded, by Winograd's minimal filtering."""

    tile: int
    in_channels: int
    out_channels: int
    weights: Tensor
    bias: Tensor | None

    @classmethod
    def of(
        cls,
        weight: Tensor,
        bias: Tensor | None,
        tile: int,
        threads: int,
        *,
        turned: bool = False,
        scratch: Scratch | None = None,
    ) -> "Winograd":
        """From a weight out×in×k×k, of any strides.

        Args:
            turned: the convolution that gives the gradient of the input: the kernel turned by 180°,
                in and out exchanged.
            scratch: where the transformed weights are for the moment; by default in memory of their
            own.
        """
        out_channels, in_channels, kernel, _ = weight.shape
        steps = list(weight.stride())
        start = weight.data_ptr()
        if turned:
            out_channels, in_channels = in_channels, out_channels
            start += weight.element_size() * (kernel - 1) * (steps[2] + steps[3])
            steps = [steps[1], steps[0], -steps[2], -steps[3]]
        functions = library().functions
        floats = functions.vggnet_winograd_weights(tile, in_channels, out_channels)
        values = scratch.take("weights", floats) if scratch else fresh(floats)
        functions.vggnet_transform_weights(
            threads, tile, start, *steps, in_channels, out_channels, values.data_ptr()
        )
        return cls(tile, in_channels, out_channels, values, _padded_bias(bias))

    def __call__(
        self,
        x: Tensor,
        out: Tensor,
        scratch: Scratch,
        threads: int,
        *,
        relu: bool = False,
        pool: bool = False,
    ) -> None:
        n, height, width, stride = x.shape
        functions, lib = library().functions, library()
        side = _OUTPUTS[self.tile]
        tiles = n * ceil(height / side) * ceil(width / side)
        together, band = shares(lib, 4 * self.weights.numel(), out.shape[3], tiles, threads)
        floats = functions.vggnet_winograd_memory(
            threads, self.tile, self.in_channels, together, band
        )
        functions.vggnet_winograd(
            threads,
            self.tile,
            x.data_ptr(),
            n,
            height,
            width,
            self.in_channels,
            stride,
            self.weights.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            out.data_ptr(),
            self.out_channels,
            out.shape[3],
            relu,
            pool,
            together,
            band,
            scratch.take("work", floats).data_ptr(),
        )


def shares(
    lib: Library, weight_bytes: int, out_stride: int, tiles: int, threads: int
) -> tuple[int, int]:
    """How a layer's work is shared: tiles whose data are transformed together (0: each thread goes
    through bands of its own), and tiles in a band."""
    if weight_bytes < _MANY_WEIGHTS and tiles >= 12 * threads:
        return 0, min(_BAND, ceil(tiles / threads))
    together = min(tiles, _TOGETHER)
    groups = ceil(out_stride / lib.group)
    bands = max(ceil(together / _LONG_BAND), ceil(threads / groups))
    return together, max(1, ceil(together / bands))


def weight_gradient(
    tile: int, x: Tensor, gradient: Tensor, into: Tensor, scratch: Scratch, threads: int
) -> None:
    """The gradient of a convolution's weight, out×in×k×k of any strides.

    Args:
        tile: the forward's.
        x: the layer's input, N×H×W×in.
        gradient: of its output, N×H×W×out; both channels are multiples of `Library.columns`.
        into: is written.
    """
    n, height, width, channels = x.shape
    out_channels = gradient.shape[3]
    functions = library().functions
    most = _GRADIENTS if channels * out_channels <= _FEW_WEIGHTS else _TOGETHER
    most = min(most, n * ceil(height / _OUTPUTS[tile]) * ceil(width / _OUTPUTS[tile]))
    floats = functions.vggnet_weight_gradient_memory(tile, channels, out_channels, most)
    functions.vggnet_weight_gradient(
        threads,
        tile,
        x.data_ptr(),
        n,
        height,
        width,
        channels,
        channels,
        gradient.data_ptr(),
        out_channels,
        out_channels,
        into.data_ptr(),
        *into.stride(),
        most,
        scratch.take("work", floats).data_ptr(),
    )


@dataclass(frozen=True, slots=True)
class Direct:
    """A convolution as it is written down, of a map that has its border of zeros already."""

    kernel: int
    weights: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, stride: int) -> "Direct":
        """From a weight out×in×k×k, for maps of `stride` floats a pixel."""
        out_channels, in_channels, kernel, _ = weight.shape
        columns = library().columns
        whole = weight.new_zeros(padded(out_channels), kernel, kernel, stride)
        whole[:out_channels, :, :, :in_channels] = weight.permute(0, 2, 3, 1)
        panels = whole.view(-1, columns, kernel * kernel * stride).transpose(1, 2).contiguous()
        shift = _padded_bias(bias)
        assert shift is not None
        return cls(kernel, panels, shift)

    def __call__(self, x: Tensor, out: Tensor, threads: int, *, relu: bool = False) -> None:
        n, height, width, stride = x.shape
        library().functions.vggnet_direct(
            threads,
            x.data_ptr(),
            n,
            height,
            width,
            stride,
            self.weights.data_ptr(),
            self.bias.data_ptr(),
            out.data_ptr(),
            out.shape[3],
            self.kernel,
            relu,
        )


@dataclass(frozen=True, slots=True)
class Connected:
    """A fully connected layer on rows; `weights` is out×in of float32, bfloat16 or int8."""

    weights: Tensor
    scales: Tensor | None
    bias: Tensor

    def __call__(self, x: Tensor, out: Tensor, threads: int, *, relu: bool = False) -> None:
        library().functions.vggnet_connected(
            threads,
            self.weights.data_ptr(),
            self.weights.element_size(),
            None if self.scales is None else self.scales.data_ptr(),
            self.bias.data_ptr(),
            x.data_ptr(),
            x.shape[1],
            x.shape[0],
            x.shape[1],
            self.weights.shape[0],
            out.data_ptr(),
            out.shape[1],
            relu,
        )


def prepare(images: Tensor, mean: Tensor, out: Tensor, threads: int) -> None:
    """Images N×C×H×W, uint8 or float32, less their mean, to N×(H+2b)×(W+2b)×C, b zeros around."""
    n, channels, height, width = images.shape
    library().functions.vggnet_prepare(
        threads,
        images.data_ptr(),
        images.element_size(),
        *images.stride(),
        n,
        channels,
        height,
        width,
        mean.data_ptr(),
        (out.shape[1] - height) // 2,
        out.data_ptr(),
    )


def relu(x: Tensor, out: Tensor, threads: int) -> None:
    n = x.shape[0]
    library().functions.vggnet_relu(threads, x.data_ptr(), out.data_ptr(), n, x.numel() // n)


def pool(x: Tensor, out: Tensor, threads: int) -> None:
    """2×2 max-pooling of stride 2."""
    library().functions.vggnet_pool(threads, x.data_ptr(), *x.shape, out.data_ptr())


def normalise(
    x: Tensor,
    out: Tensor,
    threads: int,
    *,
    channels: int,
    size: int,
    alpha: float,
    beta: float,
    k: float,
) -> None:
    """Local response normalisation over `size` neighbouring channels."""
    n, height, width, stride = x.shape
    library().functions.vggnet_lrn(
        threads,
        x.data_ptr(),
        n * height,
        width,
        channels,
        stride,
        size,
        alpha,
        beta,
        k,
        out.data_ptr(),
    )


def windows(x: Tensor, out: Tensor, threads: int, *, channels: int, kernel: int) -> None:
    """Every k×k window of a map as a row: channel, row, column."""
    n, height, width, stride = x.shape
    library().functions.vggnet_windows(
        threads, x.data_ptr(), n, height, width, channels, stride, kernel, out.data_ptr()
    )


def rectified(y: Tensor, gradient: Tensor, into: Tensor, threads: int, *, pool: bool) -> None:
    """The gradient before a ReLU, or a ReLU and its pooling, from the ReLU's output `y`."""
    library().functions.vggnet_rectified(
        threads, y.data_ptr(), *y.shape, gradient.data_ptr(), pool, into.data_ptr()
    )


def connected_gradients(
    weight: Tensor,
    x: Tensor,
    gradient: Tensor,
    of_x: Tensor | None,
    of_weight: Tensor | None,
    threads: int,
) -> None:
    """Of a fully connected layer on few rows; what is None is not computed."""
    library().functions.vggnet_connected_gradients(
        threads,
        weight.data_ptr(),
        x.data_ptr(),
        gradient.data_ptr(),
        x.shape[0],
        x.shape[1],
        weight.shape[0],
        None if of_x is None else of_x.data_ptr(),
        None if of_weight is None else of_weight.data_ptr(),
    )


def _padded_bias(bias: Tensor | None) -> Tensor | None:
    if bias is None:
        return None
    whole = bias.new_zeros(padded(bias.shape[0]))
    whole[: bias.shape[0]] = bias.detach()
    return whole
