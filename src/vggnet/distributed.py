"""The processes of one run, which torchrun starts: who they are, and what they tell each other."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vggnet.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """This process among those of its run; alone by default.

    What they tell each other goes through memory of the processors, also beside GPUs.
    """

    rank: int = 0
    """Counted from 0, which is the one that writes."""
    ranks: int = 1
    local_rank: int = 0
    """On this machine."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def table(self, row: list[int]) -> list[list[int]]:
        """Every rank's row, all of one length."""
        if self.ranks == 1:
            return [row]
        rows = [torch.empty(len(row), dtype=torch.int64) for _ in range(self.ranks)]
        dist.all_gather(rows, torch.tensor(row, dtype=torch.int64))
        return [found.tolist() for found in rows]

    def sum(self, values: Tensor) -> Tensor:
        """Every rank's values added up; float64 or whole numbers, so that nothing is lost."""
        if self.ranks == 1:
            return values
        total = values.cpu().clone()
        dist.all_reduce(total)
        return total

    def gathered(self, value: T) -> list[T]:
        """Every rank's value, in their order."""
        if self.ranks == 1:
            return [value]
        found: list[Any] = [None] * self.ranks
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until all ranks are here."""
        self.table([0])

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """Work of which the first rank of a machine leaves a result that the others find."""
        if self.local_rank:
            self.wait()
        yield
        if not self.local_rank:
            self.wait()


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def joined(device: str) -> Iterator[World]:
    """The world of the processes that torchrun started with this one.

    Args:
        device: this process's, cpu, cuda or cuda:N.
    """
    if not launched():
        yield World()
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    store, rank, ranks = next(iter(dist.rendezvous("env://")))  # type: ignore[attr-defined]
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo",
        store=dist.PrefixStore(_session(store, rank, ranks), store),  # type: ignore[attr-defined]
        rank=rank,
        world_size=ranks,
    )
    yield World(rank, ranks, int(os.environ["LOCAL_RANK"]))
    # Not after an error: the others may never come to it, and torchrun ends them.
    dist.destroy_process_group()


def _session(store: Any, rank: int, ranks: int) -> str:
    """A name that all ranks of this start have agreed on, and no earlier start.

    torchrun keeps its store when it starts the processes anew, and what it holds of the killed ones
    would be taken for the new ones': their addresses, where nobody listens. So the first rank names
    a session, and every other one takes the name that the first one confirms to it.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("vggnet", own)
        for other in range(1, ranks):
            store.set(f"{own}/welcome/{other}", store.get(f"{own}/hello/{other}"))
        return own
    while True:
        name: str = store.get("vggnet").decode()
        store.set(f"{name}/hello/{rank}", own)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            answer = f"{name}/welcome/{rank}"
            if store.check([answer]) and store.get(answer).decode() == own:
                return name
            time.sleep(0.01)


def own_device(kind: str) -> str:
    """The device of this process where every one has its own: cpu, or cuda:N for local rank N.

    Raises:
        InputError: where torchrun started more processes than there are GPUs.
    """
    if kind != "cuda" or not launched():
        return kind
    local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= count:
        raise InputError(
            f"torchrun started {os.environ['LOCAL_WORLD_SIZE']} processes on this machine, which "
            f"has {count} GPUs: give --nproc-per-node {count}"
        )
    return f"cuda:{local}"


def is_first() -> bool:
    """Whether this process is the one that writes and prints, of those that torchrun started."""
    return not launched() or os.environ["RANK"] == "0"


def on_this_machine() -> int:
    """How many processes torchrun started on this machine; 1 without it."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if launched() else 1


def synchronise_batch_norm(model: nn.Module) -> None:
    """Lets every batch normalisation see the images of all ranks."""
    for name, layer in model.named_children():
        if isinstance(layer, nn.BatchNorm2d):
            on_gpu = layer.weight.is_cuda
            kind: Any = nn.SyncBatchNorm if on_gpu else _BatchNormOnCPU
            whole = kind(layer.num_features, layer.eps, layer.momentum).to(layer.weight)
            whole.load_state_dict(layer.state_dict())
            setattr(model, name, whole)


class _BatchNormOnCPU(nn.BatchNorm2d):
    """What `nn.SyncBatchNorm` does on GPUs alone."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = x.new_tensor([x.numel() // self.num_features])
        sums = _total(torch.cat([x.sum((0, 2, 3)), count]))
        n, mean = sums[-1], (sums[:-1] / sums[-1]).to(x.dtype)
        centred = x - mean[:, None, None]
        variance = (_total(centred.square().sum((0, 2, 3))) / n).to(x.dtype)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (n / (n - 1)).to(x.dtype), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


class _Total(torch.autograd.Function):
    """The sum over all ranks, in float64; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.dtype, total = x.dtype, x.double()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total.to(ctx.dtype)


def _total(sums: Tensor) -> Tensor:
    total: Tensor = _Total.apply(sums)  # type: ignore[no-untyped-call]
    return total
