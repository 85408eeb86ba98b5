"""What nets are made of, where PyTorch's own layers are not enough."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.configs import LRN, Config, Layer


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


def module(layer: Layer, config: Config) -> nn.Module:
    """A layer of a net, its weights not set."""
    match layer.kind:
        case "conv":
            padding = layer.kernel // 2
            return nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel, padding=padding)
        case "bn":
            return nn.BatchNorm2d(layer.out_channels)
        case "relu":
            return ReLU()
        case "lrn":
            assert layer.lrn is not None
            return LocalResponseNorm(layer.lrn, config.lrn)
        case "pool":
            return nn.MaxPool2d(2)
        case "fc":
            return FullyConnected(layer.in_channels, layer.out_channels, layer.kernel)
        case "dropout":
            return nn.Dropout(config.dropout)
