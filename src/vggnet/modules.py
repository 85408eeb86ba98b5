"""What nets are made of, where PyTorch's own layers are not enough."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.configs import Config
from vggnet.layers import LRN, Inception, Layer


class ReLU(nn.Module):
    """max(x, 0); writes over `x` when told that nobody else reads it."""

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        return F.relu_(x) if overwrite else F.relu(x)


class FullyConnected(nn.Linear):
    """A fully connected layer at every k×k window of a map: a convolution without padding.

    The weight is out × (C·k·k), flattened in the order C, row, column. On a k×k map there is one
    window, and the product is that of a plain linear layer on the flattened map: the weight is
    never copied or reordered, only the windows are, which are a thousandth of its size.

    Shape: N×C×H×W to N×out×(H-k+1)×(W-k+1).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(in_channels * kernel * kernel, out_channels)
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        k = self.kernel
        windows = x.unfold(2, k, 1).unfold(3, k, 1)  # N×C×h×w×k×k
        # An explicit copy: `flatten` would ask whether it needs one, and that question ties an
        # exported program to maps larger than one cell.
        rows = windows.permute(0, 2, 3, 1, 4, 5).clone(memory_format=torch.contiguous_format)
        # N×h×w×(C·k·k) to N×out×h×w
        return super().forward(rows.flatten(3)).permute(0, 3, 1, 2)


class LocalResponseNorm(nn.Module):
    """x / (k + alpha · sum of squares over `size` neighbouring channels)^beta.

    Krizhevsky's formula multiplies alpha with the sum, Caffe's and PyTorch's with the sum over
    `size` (at the borders too, where fewer channels are summed).

    The sum over neighbours is a 1×1 convolution with a band matrix: 2–3 times as fast on a CPU
    as `F.local_response_norm` (docs/LOG.md).
    """

    def __init__(self, lrn: LRN, convention: str) -> None:
        super().__init__()
        self.lrn = lrn
        self.alpha = lrn.alpha / lrn.size if convention == "caffe" else lrn.alpha

    def forward(self, x: Tensor) -> Tensor:
        channels, reach = x.shape[1], self.lrn.size // 2
        # In float32 at least: squares of activations overflow in float16.
        wide = torch.promote_types(x.dtype, torch.float32)
        band = torch.full((channels, channels), self.alpha, dtype=wide, device=x.device)
        band = band.tril(reach).triu(-reach)[:, :, None, None]
        bias = torch.full((channels,), self.lrn.k, dtype=wide, device=x.device)
        with torch.autocast(x.device.type, enabled=False):
            scale = F.conv2d(x.to(wide).square(), band, bias) ** -self.lrn.beta
        return x * scale.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.lrn.size}, alpha={self.alpha}, beta={self.lrn.beta}, k={self.lrn.k}"


class InceptionModule(nn.Module):
    """GoogLeNet's four branches side by side, each keeping the size (`layers.Inception`).

    Shape: N×C×H×W to N×(channels of the four)×H×W.
    """

    one: nn.Module
    three_reduce: nn.Module
    three: nn.Module
    five_reduce: nn.Module
    five: nn.Module
    projection: nn.Module

    def __init__(self, in_channels: int, widths: Inception) -> None:
        super().__init__()
        for name, (inputs, outputs, kernel) in widths.convolutions(in_channels).items():
            self.add_module(name, nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2))

    def forward(self, x: Tensor) -> Tensor:
        three = self.three(F.relu(self.three_reduce(x)))
        five = self.five(F.relu(self.five_reduce(x)))
        pooled = self.projection(F.max_pool2d(x, 3, stride=1, padding=1))
        return F.relu(torch.cat([self.one(x), three, five, pooled], dim=1))


class SpatialPyramid(nn.Module):
    """Maximum in every bin of several grids over the whole map, whatever its size (He et al. 2014).

    Bin i of n along a side s reaches from floor(i·s/n) to ceil((i+1)·s/n) (their Appendix A), so
    that bins of a map smaller than the grid overlap.

    Shape: N×C×H×W to N×(C·bins)×1×1, level by level, each flattened in the order C, row, column.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        pooled = [F.adaptive_max_pool2d(x, bins).flatten(1) for bins in self.levels]
        return torch.cat(pooled, dim=1)[:, :, None, None]

    def extra_repr(self) -> str:
        return str(self.levels)


def module(layer: Layer, config: Config) -> nn.Module:
    """A layer of a net, its weights not set."""
    kernel, stride = layer.kernel, layer.stride
    match layer.kind:
        case "conv":
            padding, groups = layer.padding, layer.groups
            channels = layer.in_channels, layer.out_channels
            return nn.Conv2d(*channels, kernel, stride, padding, groups=groups)
        case "bn":
            return nn.BatchNorm2d(layer.out_channels)
        case "relu":
            return ReLU()
        case "lrn":
            assert layer.lrn is not None
            return LocalResponseNorm(layer.lrn, config.lrn)
        case "pool":
            return nn.MaxPool2d(kernel, stride, ceil_mode=layer.ceil)
        case "mean":
            return nn.AvgPool2d(kernel, stride)
        case "inception":
            assert layer.inception is not None
            return InceptionModule(layer.in_channels, layer.inception)
        case "pyramid":
            return SpatialPyramid(layer.pyramid)
        case "fc":
            return FullyConnected(layer.in_channels, layer.out_channels, kernel)
        case "dropout":
            return nn.Dropout(config.dropout if layer.rate is None else layer.rate)
