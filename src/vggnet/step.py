"""One step of §3.1's SGD, by one process or by several that share its batch."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vggnet import gpu_layers
from vggnet.boxes import loss as box_loss
from vggnet.distributed import World, synchronise_batch_norm
from vggnet.errors import InputError
from vggnet.gpu_step import CompiledStep, compiled_forward, compiled_scores
from vggnet.kernels.training import accelerated
from vggnet.loading import Batch
from vggnet.model import VGG, empty
from vggnet.recipes import TrainConfig
from vggnet.rivals import SIDE_WEIGHT
from vggnet.sgd import SGD

if TYPE_CHECKING:
    from vggnet.fc_parallel import ParallelHead

_ALONE = World()
_Function = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Parallel:
    """How a step is shared out. What is learnt does not depend on it but for rounding."""

    fc: int = 1
    """Ranks over which the fully connected layers are divided (`fc_parallel`); a divisor of all."""
    accumulate: int = 1
    """Parts that a rank computes its images in, one after the other, where memory is short. Batch
    normalisation and dropout see the parts."""
    compress: bool = False
    """Whether gradients travel in bfloat16, which rounds them."""

    def check(self, world: World) -> None:
        """Raises InputError for values that cannot be with so many ranks."""
        if self.fc < 1 or world.ranks % self.fc:
            raise InputError(
                f"fc-parallel {self.fc} does not divide the run's {world.ranks} processes, which "
                "torchrun starts: take a divisor, at best the number of GPUs of a machine"
            )
        if self.accumulate < 1:
            raise InputError(f"accumulate {self.accumulate} is not 1 or more")


class Step:
    """A net, its optimiser, and what they learn from a batch.

    The gradient is that of the mean loss over all ranks' images, however many each has.

    Args:
        model: on its device, the same on every rank; it becomes part of the step.
        config: precision, rates and the batch's size.
    """

    def __init__(
        self,
        model: VGG,
        config: TrainConfig,
        world: World = _ALONE,
        parallel: Parallel | None = None,
    ) -> None:
        self.world, self.parallel = world, parallel or Parallel()
        self.parallel.check(world)
        self.model: VGG = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head: ParallelHead | None = None
        self._compiled: CompiledStep | None = None
        self._bfloat16 = config.precision == "bfloat16"
        if self.parallel.fc > 1:
            config.model.check_vgg("fc-parallel")
        self._net: _Function
        options: dict[str, Any] = {
            "momentum": config.momentum,
            "weight_decay": config.weight_decay,
        }
        alone = world.ranks == self.parallel.accumulate == 1
        if alone and self._bfloat16:
            self._compiled = CompiledStep(
                model,
                batch_size=config.batch_size,
                learning_rate=config.learning_rate,
                **options,
            )
            self.optimizer: SGD | torch.optim.Optimizer = self._compiled.optimizer
            return
        if world.ranks > 1 and config.tune == "all":
            synchronise_batch_norm(model)
        if self.parallel.fc > 1:
            self.head = _divided_head(model, self.parallel.fc)
        self._net = self._shared(self._function(config))
        self.optimizer = SGD(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            config.learning_rate,
            **options,
        )

    def __call__(self, batch: Batch, counts: list[int]) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            batch: this rank's images, on its device; possibly none.
            counts: images of every rank.

        Returns:
            This rank's summand of the batch's mean loss before the step, and its number of wrong
            answers (of boxes, those with an IoU of 1/2 or less); both on the device.
        """
        if self._compiled is not None:
            return self._compiled(batch.images, batch.shifts, batch.labels)
        with gpu_layers.searching() if self._bfloat16 else nullcontext():
            return self._learn(batch, counts)

    def _learn(self, batch: Batch, counts: list[int]) -> tuple[Tensor, Tensor]:
        ranks, total = len(counts), sum(counts)
        parts = self.parallel.accumulate
        rows = -(-max(counts) // parts)
        self.optimizer.zero_grad()
        loss = torch.zeros((), dtype=torch.float64, device=batch.labels.device)
        wrong = torch.zeros((), dtype=torch.int64, device=batch.labels.device)
        tensors = batch.images, batch.shifts, batch.labels, batch.boxes
        of_parts = (x.tensor_split(parts) for x in tensors)
        for i, (images, shifts, labels, targets) in enumerate(zip(*of_parts, strict=True)):
            # Gradients are exchanged in the last backward pass, for all parts.
            later = isinstance(self._net, DistributedDataParallel) and i < parts - 1
            with self._net.no_sync() if later else nullcontext():  # type: ignore[attr-defined]
                scores, *sides = self._net(images, shifts)
                if self.head is not None:
                    scores = self.head.scores(scores, rows)
                wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
                if self.model.config.boxes is not None:
                    losses, bad = box_loss(wide, labels, targets)
                    mean = losses.sum() / total
                else:
                    bad = scores.detach().argmax(dim=1) != labels
                    mean = self._mean_loss(wide, labels, total)
                    for side in sides:
                        mean = mean + SIDE_WEIGHT * self._mean_loss(side.float(), labels, total)
                # DistributedDataParallel takes the mean over the ranks, which have summands.
                (mean * ranks if ranks > 1 else mean).backward()  # type: ignore[no-untyped-call]
            loss += mean.detach()
            wrong += bad.sum()
        if self.head is not None:
            self.head.average_gradients(ranks, compress=self.parallel.compress)
        self.optimizer.step()
        return loss, wrong

    def _mean_loss(self, scores: Tensor, labels: Tensor, total: int) -> Tensor:
        """This part's summand of the mean loss over a batch of `total` images."""
        if self.world.ranks == self.parallel.accumulate == 1:
            return F.cross_entropy(scores, labels)
        return F.cross_entropy(scores, labels, reduction="sum") / total

    def state(self) -> dict[str, Tensor]:
        """Weights as `net.NAME` and momentum as `momentum.NAME`; divided ones as DTensors."""
        momentum = {
            f"momentum.{name}": self._as_whole(name, buffer)
            for name, parameter in self.model.named_parameters()
            # None before the first step, without momentum, and for layers that do not learn
            if (buffer := self.optimizer.state.get(parameter, {}).get("momentum_buffer"))
            is not None
        }
        net = {
            f"net.{name}": self._as_whole(name, value)
            for name, value in self.model.state_dict().items()
        }
        return net | momentum

    def blank(self, names: list[str]) -> dict[str, Tensor]:
        """Room for a state of these names, divided as this step's is."""
        tensors = self.model.state_dict()
        kinds = {name: name.partition(".")[2] for name in names}
        return {
            name: self._as_whole(kind, torch.empty_like(tensors[kind]))
            for name, kind in kinds.items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Sets weights and momentum, of whole tensors or of such as `blank` gave.

        Raises:
            KeyError: for a tensor that is missing.
        """
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                value.copy_(self._as_part(name, state[f"net.{name}"]))
            for name, parameter in self.model.named_parameters():
                if (buffer := state.get(f"momentum.{name}")) is not None:
                    # In the parameter's memory format, as SGD makes it.
                    own = torch.empty_like(parameter).copy_(self._as_part(name, buffer))
                    self.optimizer.state[parameter]["momentum_buffer"] = own

    def whole(self) -> VGG:
        """The net with all of its weights: the model itself, or a copy where it is divided.

        All ranks call it together.
        """
        if self.head is None:
            return self.model
        head = self.head
        copy = empty(self.model.config).to(self.model.mean)
        copy.load_state_dict(
            {name: head.whole(name, part) for name, part in self.model.state_dict().items()}
        )
        copy.provenance = self.model.provenance
        return copy

    def _function(self, config: TrainConfig) -> _Function:
        """From images and shifts to scores, or to pool5 where the head is divided; scores of
        classifiers at the net's side follow."""
        model, divided = self.model, self.head is not None
        if self._bfloat16:
            share = config.batch_size // (self.world.ranks * self.parallel.accumulate)
            if not config.model.is_vgg:
                return compiled_scores(model, share)
            compiled = compiled_forward(model, "pool5" if divided else "fc8", share)
            return lambda images, shifts: (compiled(images, shifts),)
        forward, has_sides = accelerated(model), bool(config.model.sides())

        def function(images: Tensor, shifts: Tensor) -> tuple[Tensor, ...]:
            shifted = images.float()
            shifted += shifts
            if divided:
                return (model.run(shifted, ("pool5",))["pool5"],)
            if has_sides:
                return model.training_scores(shifted)
            # The kernels take at least one image.
            return (forward(shifted) if len(shifted) else model(shifted),)

        return function

    def _shared(self, function: _Function) -> _Function:
        """With gradients averaged over the ranks, but those of a divided head."""
        if self.world.ranks == 1:
            return function
        own = [
            layer
            for name, layer in self.model.named_children()
            if self.head is None or not name.startswith("fc")
        ]
        part = _Part(own, function)
        if not any(parameter.requires_grad for parameter in part.parameters()):
            return function
        shared = DistributedDataParallel(part, gradient_as_bucket_view=True)
        if self.parallel.compress:
            _in_bfloat16(shared)
        return shared

    def _as_whole(self, name: str, part: Tensor) -> Tensor:
        return part if self.head is None else self.head.divided(name, part)

    def _as_part(self, name: str, whole: Tensor) -> Tensor:
        return whole if self.head is None else self.head.part_of(name, whole)


def _in_bfloat16(shared: DistributedDataParallel) -> None:
    """Lets gradients travel in bfloat16 by PyTorch's hook."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

    # Under its own name it is refused on CPUs, where it works too.
    def hook(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
        return bf16_compress_hook(state, bucket)

    shared.register_comm_hook(None, hook)


def _divided_head(model: VGG, size: int) -> "ParallelHead":
    from vggnet.fc_parallel import ParallelHead

    return ParallelHead(model, size)


class _Part(nn.Module):
    """Layers and a function that uses them, as DistributedDataParallel wants it."""

    def __init__(self, layers: list[nn.Module], function: _Function) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = function

    def forward(self, images: Tensor, shifts: Tensor) -> tuple[Tensor, ...]:
        return self.function(images, shifts)
