"""fc6 to fc8 divided over ranks, so that the gradients of their weights never travel.

Nine tenths of net D's parameters are theirs, and of its arithmetic under one percent: their inputs
and outputs are a tenth of what the gradients would be. In a group of ranks fc6 is divided by its
outputs, fc7 by its inputs, fc8 by its outputs (the classes); each layer sees the images of the
whole group. The convolutions stay whole on every rank.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import Placement

from vggnet.model import VGG

_BY_OUTPUT, _BY_INPUT, _WHOLE = Shard(0), Shard(1), Replicate()
PLACEMENTS: dict[str, Placement] = {
    "fc6.weight": _BY_OUTPUT,
    "fc6.bias": _BY_OUTPUT,
    "fc7.weight": _BY_INPUT,
    "fc7.bias": _WHOLE,
    "fc8.weight": _BY_OUTPUT,
    "fc8.bias": _BY_OUTPUT,
}

# By their names since PyTorch 2.13, and by those before.
_ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_REDUCE_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class ParallelHead:
    """The head of a net on a group of `size` ranks; its parameters become this rank's parts.

    Args:
        model: the same on every rank.
        size: ranks of a group: a divisor of their number. The groups take neighbours, which should
            be on one machine.
    """

    def __init__(self, model: VGG, size: int) -> None:
        ranks = dist.get_world_size()
        device = model.mean.device.type
        mesh = DeviceMesh(device, torch.arange(ranks).view(-1, size), mesh_dim_names=("data", "fc"))
        self.model, self.size = model, size
        self.mesh, self._data = mesh["fc"], mesh["data"].get_group()
        self._groups = ranks // size
        self._whole = {name: model.get_parameter(name).shape for name in PLACEMENTS}
        for name in PLACEMENTS:
            whole = model.get_parameter(name)
            layer, kind = name.split(".")
            own = nn.Parameter(self.part_of(name, whole.detach()), whole.requires_grad)
            setattr(model.get_submodule(layer), kind, own)

    def scores(self, maps: Tensor, rows: int) -> Tensor:
        """Class scores of this rank's images.

        Args:
            maps: of pool5 at the crop's size, n×C×h×w.
            rows: the largest n in any rank; the others fill up with zeros.
        """
        n = len(maps)
        x = F.pad(maps.flatten(1), (0, 0, 0, rows - n))
        # Of all images of the group this rank's part of the values, and then the other way round.
        x = self._linear("fc6", self._gathered(x))
        x = self._scattered(self._linear("fc7", self._after("6", x), bias=False))
        x = self._after("7", x + self._parameter("fc7.bias", x.dtype))
        # rows of all × this rank's classes, which may be fewer than others'
        own = self._linear("fc8", self._gathered(x))
        classes = self._whole["fc8.weight"][0]
        most = -(-classes // self.size)
        columns = self._gathered(F.pad(own, (0, most - own.shape[1])).t().contiguous())
        first = rows * self.mesh.get_local_rank()
        # Classes are divided as `torch.chunk` does: only what is after the last one is filling.
        return columns[:classes, first : first + n].t()

    def average_gradients(self, ranks: int, *, compress: bool) -> None:
        """After the backward pass of `ranks` losses whose mean is the batch's: sums become means.

        Parts of other groups are added up first; of fc7's bias, which is whole, all ranks'.
        """
        for name, placement in PLACEMENTS.items():
            gradient = self.model.get_parameter(name).grad
            if gradient is None:
                continue
            if self._groups > 1 or placement == _WHOLE:
                travelling = gradient.bfloat16() if compress else gradient
                group = dist.group.WORLD if placement == _WHOLE else self._data
                dist.all_reduce(travelling, group=group)
                gradient.copy_(travelling)
            gradient.div_(ranks)

    def part_of(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of a parameter, or of what is shaped like it; all of others."""
        if name not in PLACEMENTS:
            return whole
        if not isinstance(whole, DTensor):
            whole = distribute_tensor(whole, self.mesh, [PLACEMENTS[name]], src_data_rank=None)
        return whole.to_local().clone()

    def divided(self, name: str, part: Tensor) -> Tensor:
        """The other way round: the whole, divided over the ranks."""
        if name not in PLACEMENTS:
            return part
        return self._divided(part, PLACEMENTS[name], tuple(self._whole[name]))

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The whole on every rank; all of a group call it together."""
        divided = self.divided(name, part)
        return divided.full_tensor() if isinstance(divided, DTensor) else divided

    def _linear(self, layer: str, x: Tensor, *, bias: bool = True) -> Tensor:
        weight = self._parameter(f"{layer}.weight", x.dtype)
        return F.linear(x, weight, self._parameter(f"{layer}.bias", x.dtype) if bias else None)

    def _parameter(self, name: str, dtype: torch.dtype) -> Tensor:
        return self.model.get_parameter(name).to(dtype)

    def _gathered(self, x: Tensor) -> Tensor:
        """Every rank's rows, one rank's after the other's; backwards their gradients' sums."""
        rows: Tensor = _Gather.apply(x, self.mesh.get_group())  # type: ignore[no-untyped-call]
        return rows

    def _scattered(self, x: Tensor) -> Tensor:
        """Of the sum over the ranks this one's rows."""
        rows: Tensor = _Scatter.apply(x, self.mesh.get_group())  # type: ignore[no-untyped-call]
        return rows

    def _divided(self, x: Tensor, placement: Placement, shape: tuple[int, ...]) -> DTensor:
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(
            x, self.mesh, [placement], run_check=False, shape=torch.Size(shape), stride=stride
        )

    def _after(self, number: str, x: Tensor) -> Tensor:
        """Dropout draws on each rank for itself."""
        dropped: Tensor = self.model.get_submodule(f"drop{number}")(F.relu(x))
        return dropped


def _all_rows(x: Tensor, group: Any) -> Tensor:
    rows = x.new_empty((len(x) * dist.get_world_size(group), *x.shape[1:]))
    _ALL_GATHER(rows, x.contiguous(), group=group)
    return rows


def _own_rows(x: Tensor, group: Any) -> Tensor:
    """Of the sum over a group's ranks."""
    size = dist.get_world_size(group)
    if x.is_cuda:
        rows = x.new_empty((len(x) // size, *x.shape[1:]))
        _REDUCE_SCATTER(rows, x.contiguous(), group=group)
        return rows
    # gloo would make an all-reduce of it, which sends twice as much.
    parts = torch.empty_like(x, memory_format=torch.contiguous_format)
    dist.all_to_all_single(parts, x.contiguous(), group=group)
    return parts.view(size, -1, *x.shape[1:]).sum(0)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _all_rows(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _own_rows(gradient, ctx.group), None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _own_rows(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _all_rows(gradient, ctx.group), None
