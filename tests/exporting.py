"""Nets to export, each option of a net at least once, and what they say of images."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reference import randomise
from vggnet import VGG
from vggnet.model import build

NETS: dict[str, dict[str, Any]] = {
    "A": {"num_classes": 1, "in_channels": 1},
    "A-LRN": {},
    "A-LRN-caffe": {"lrn": "caffe", "batch_norm": True},
    "B": {"num_classes": 1000},
    "C": {"crop": 64},
    "D": {},
    "D-BN": {"batch_norm": True, "crop": 64},
    "E": {"width": 1 / 11},
    "B-5x5": {},
}
SIZES = [(1, 0, 0), (3, 13, 13), (2, 70, 35)]
"""Batch, and by how much height and width are above the crop."""


def net(name: str) -> VGG:
    title = name.removesuffix("-caffe").removesuffix("-BN")
    options = {"num_classes": 10, "crop": 32, "width": 1 / 16} | NETS[name]
    # LRN does next to nothing to small activations.
    model = randomise(build(title, mean=[99.5] * options.get("in_channels", 3), **options))
    if "LRN" in name:
        with torch.no_grad():
            model.conv1_1.weight *= 20  # type: ignore[operator,union-attr]
    return model


def images(model: VGG, n: int, height: int, width: int, seed: int = 1) -> NDArray[np.uint8]:
    shape = n, model.config.in_channels, model.config.crop + height, model.config.crop + width
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def scores(model: VGG, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = model(torch.from_numpy(pixels)).numpy()
    return found


def apart(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """The largest difference over the largest value."""
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
