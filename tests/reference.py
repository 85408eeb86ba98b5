"""An independent VGG from plain layers, for tests: built by hand, weights copied by name."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet import VGG

# Convolutions a stage, kernel sides in order.
KERNELS = {
    "A": [[3], [3], [3, 3], [3, 3], [3, 3]],
    "A-LRN": [[3], [3], [3, 3], [3, 3], [3, 3]],
    "B": [[3, 3], [3, 3], [3, 3], [3, 3], [3, 3]],
    "C": [[3, 3], [3, 3], [3, 3, 1], [3, 3, 1], [3, 3, 1]],
    "D": [[3, 3], [3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "E": [[3, 3], [3, 3], [3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 3, 3]],
    "B-5x5": [[5], [5], [5], [5], [5]],
}


def literal_lrn(x: Tensor, caffe: bool) -> Tensor:
    """Krizhevsky et al. 2012, §3.3, one channel at a time."""
    n, k, alpha, beta = 5, 2.0, 1e-4, 0.75
    if caffe:
        alpha /= n
    out = torch.empty_like(x)
    channels = x.shape[1]
    for i in range(channels):
        total = torch.zeros_like(x[:, 0])
        for j in range(max(0, i - n // 2), min(channels - 1, i + n // 2) + 1):
            total += x[:, j] ** 2
        out[:, i] = x[:, i] / (k + alpha * total) ** beta
    return out


def pool5(model: VGG, images: Tensor) -> Tensor:
    """The convolutional part, with functions of PyTorch and the model's weights."""
    weights = model.state_dict()
    x: Tensor = images.to(weights["mean"].dtype) - weights["mean"][None, :, None, None]
    net = model.config.net
    for s, stage in enumerate(KERNELS[net], start=1):
        for i, kernel in enumerate(stage, start=1):
            weight, bias = weights[f"conv{s}_{i}.weight"], weights[f"conv{s}_{i}.bias"]
            assert weight.shape[2:] == (kernel, kernel)
            x = F.conv2d(x, weight, bias, stride=1, padding=kernel // 2)
            if model.config.batch_norm:
                found = [
                    weights[f"bn{s}_{i}.{name}"]
                    for name in ("running_mean", "running_var", "weight", "bias")
                ]
                x = F.batch_norm(x, *found)
            x = torch.clamp(x, min=0)
            if net == "A-LRN" and s == i == 1:
                x = literal_lrn(x, caffe=model.config.lrn == "caffe")
        x = F.max_pool2d(x, kernel_size=2, stride=2)
    return x


def classifier(model: VGG, window: Tensor) -> Tensor:
    """The three FC layers on a flattened k×k window of pool5, as plain linear layers."""
    weights = model.state_dict()
    x = window.flatten(1)
    for name in ("fc6", "fc7", "fc8"):
        matrix = weights[f"{name}.weight"].reshape(weights[f"{name}.bias"].numel(), -1)
        x = x @ matrix.T + weights[f"{name}.bias"]
        if name != "fc8":
            x = torch.clamp(x, min=0)
    return x


def randomise(model: VGG, seed: int = 0) -> VGG:
    """Biases and normalisations too, so that nothing is tested at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            elif name.endswith(("bias", "running_mean")):
                value.normal_(0, 0.2, generator=generator)
            elif ".bn" in f".{name}" and name.endswith("weight"):
                value.uniform_(0.5, 1.5, generator=generator)
    return model
