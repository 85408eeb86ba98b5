"""fc6 to fc8 divided over ranks, so that the gradients of their weights never travel.

Nine tenths of net D's parameters are theirs, and of its arithmetic under one percent: their inputs
and outputs are a tenth of what the gradients would be. In a group of ranks fc6 is divided by its
outputs, fc7 by its inputs, fc8 by its outputs (the classes); each layer sees the images of the
whole group. The convolutions stay whole on every rank.
"""

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
        n, dtype = len(maps), maps.dtype
        x = F.pad(maps.flatten(1), (0, 0, 0, rows - n))
        # Of all images of the group this rank's part of the values, and then the other way round.
        x = self._linear("fc6", self._of_all(x)).to_local()
        x = self._after("6", x)
        values = self._whole["fc7.weight"][1]
        x = F.linear(
            self._divided(x, _BY_INPUT, (rows * self.size, values)),
            self._part("fc7.weight", dtype),
            self._part("fc7.bias", dtype),
        )
        x = self._after("7", x.redistribute(placements=[_BY_OUTPUT]).to_local())  # type: ignore[attr-defined]
        scores = self._linear("fc8", self._of_all(x)).redistribute(placements=[_WHOLE])
        first = rows * self.mesh.get_local_rank()
        # Each rank has a gradient for its own images only: together they are the whole.
        return scores.to_local(grad_placements=[dist.tensor.Partial()])[first : first + n]

    def average_gradients(self, ranks: int, *, compress: bool) -> None:
        """After the backward pass of `ranks` losses whose mean is the batch's: sums become means.

        Where there are several groups, theirs are added up first.
        """
        for name in PLACEMENTS:
            gradient = self.model.get_parameter(name).grad
            if gradient is None:
                continue
            if self._groups > 1:
                travelling = gradient.bfloat16() if compress else gradient
                dist.all_reduce(travelling, group=self._data)
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

    def _linear(self, layer: str, x: DTensor) -> DTensor:
        dtype = x.dtype
        weight, bias = (self._part(f"{layer}.{kind}", dtype) for kind in ("weight", "bias"))
        y: DTensor = F.linear(x, weight, bias)  # type: ignore[assignment]
        return y

    def _part(self, name: str, dtype: torch.dtype) -> DTensor:
        own = self.model.get_parameter(name).to(dtype)
        return self._divided(own, PLACEMENTS[name], tuple(self._whole[name]))

    def _of_all(self, x: Tensor) -> DTensor:
        """Every rank's rows, one rank's after the other's."""
        shape = len(x) * self.size, x.shape[1]
        return self._divided(x, Shard(0), shape).redistribute(placements=[_WHOLE])

    def _divided(self, x: Tensor, placement: Placement, shape: tuple[int, ...]) -> DTensor:
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(
            x, self.mesh, [placement], run_check=False, shape=torch.Size(shape), stride=stride
        )

    def _after(self, number: str, x: Tensor) -> Tensor:
        """Dropout draws on each rank for itself."""
        dropped: Tensor = self.model.get_submodule(f"drop{number}")(F.relu(x))
        return dropped
