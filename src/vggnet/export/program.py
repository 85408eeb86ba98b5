"""PyTorch's exported program, a .pt2: the net without this package's code."""

import io
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggnet.export.layers import Form
from vggnet.export.libraries import quiet
from vggnet.model import VGG


class _Halved(nn.Module):
    """A net whose weights lie as float16 and are float32 when it computes."""

    def __init__(self, model: VGG) -> None:
        super().__init__()
        self.net = deepcopy(model)
        self.halves = []
        for name, parameter in self.net.named_parameters():
            if parameter.dim() > 1:
                parameter.data = parameter.data.half()
                self.halves.append(name)

    def forward(self, images: Tensor) -> Tensor:
        wide = {name: self.net.get_parameter(name).float() for name in self.halves}
        scores: Tensor = torch.func.functional_call(self.net, wide, (images,))
        return scores


def write(model: VGG, path: Path, form: Form, described: dict[str, str], *, half: bool) -> None:
    """Writes the program to `path`: `images`, uint8, N×3×H×W, to scores, N×K.

    Args:
        model: on the CPU, in evaluation mode.
        path: ….pt2; `torch.export.load(path).module()` is what runs.
        form: dense: N, H and W are free, H and W from the crop on. crop: N is free.
        described: goes into the file as `extra_files`, by its keys.
        half: store weights, not biases, as float16.
    """
    crop = model.config.crop
    dim: Any = torch.export.Dim
    free = {0: dim("n", min=1)}
    # An example that is not square and not of the smallest sizes, lest these be taken for fixed.
    sides = (crop, crop)
    if form == "dense":
        free |= {2: dim("h", min=crop), 3: dim("w", min=crop)}
        sides = (crop + 32, crop + 64)
    example = torch.zeros(2, model.config.in_channels, *sides, dtype=torch.uint8)
    net = _Halved(model).eval() if half else model
    settings: Any = torch.fx.experimental._config
    # Without it, PyTorch takes a map of one cell, as the crop's, for a case of its own.
    with quiet(), settings.patch(backed_size_oblivious=True):
        found = torch.export.export(net, (example,), dynamic_shapes={"images": free})
        packed = io.BytesIO()  # PyTorch's own writer ends the process on a full disk
        torch.export.save(found, packed, extra_files=described)
        path.write_bytes(packed.getbuffer())
