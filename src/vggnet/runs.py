"""A training run on disk: its folder, what it says of itself, and how it goes on after a stop."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from vggnet import checkpoint
from vggnet.errors import InputError
from vggnet.model import VGG, Provenance
from vggnet.recipes import Plateau

WEIGHTS, METRICS, STATE = "weights.safetensors", "metrics.jsonl", "state.safetensors"

_PATIENCE_SECONDS = 5.0
"""A killed reproduction's helpers need a moment to notice that they are alone."""


@dataclass(slots=True)
class Progress:
    """How far a run has come."""

    plateau: Plateau
    epoch: int = 0
    step: int = 0
    """Steps done in this epoch."""


class RunFolder:
    """The folder of one run: its weights when it is finished, its state until then, its metrics.

    Never goes on with, or hands out, a run of another recipe.

    Args:
        out: the folder; made when training starts.
        provenance: of the run that is wanted.
    """

    def __init__(self, out: Path, provenance: Provenance) -> None:
        self.out, self.provenance = out, provenance
        self.weights, self.metrics, self.state = out / WEIGHTS, out / METRICS, out / STATE

    def is_finished(self) -> bool:
        """Whether the run's weights are there.

        Raises:
            InputError: when they are another run's.
        """
        if not self.weights.exists():
            return False
        self._same_recipe(self.weights, checkpoint.read_header(self.weights).provenance)
        return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder and keeps other processes out of it.

        Raises:
            InputError: when another process trains in it, or it cannot be written.
        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise checkpoint.write_error(self.out, error) from None
        with _lock(self.out) as ours:
            if not ours:
                raise InputError(
                    f"{self.out}: another process is training in it: wait for it, or choose "
                    "another --out"
                )
            yield

    def start_or_resume(
        self, model: VGG, optimizer: torch.optim.Optimizer, progress: Progress
    ) -> None:
        """Writes a new run's first state, or sets all three as they were when a run stopped.

        Raises:
            InputError: for a state that is another run's or damaged.
        """
        for pattern in (f".{STATE}.*", f".{WEIGHTS}.*", ".tmp??????"):
            for leftover in self.out.glob(pattern):  # of writes that were killed; safetensors' last
                leftover.unlink()
        if not self.state.exists():
            # Every run has its state from the start, so metrics without one are another's.
            if self.metrics.exists() and self.metrics.stat().st_size:
                raise InputError(
                    f"{self.metrics}: exists, without the run it is from: choose another --out"
                )
            try:
                with self.metrics.open("w") as metrics:
                    self.save(model, optimizer, progress, metrics)
            except OSError as error:
                raise checkpoint.write_error(self.out, error) from None
            return
        try:
            self._resume(model, optimizer, progress)
        except KeyError as error:
            raise InputError(f"{self.state}: is not the state of a run (no {error})") from None

    def save(
        self,
        model: VGG,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        metrics: TextIO,
    ) -> None:
        """Writes the state that a stopped run goes on from; `metrics` is the open metrics file."""
        metrics.flush()
        os.fsync(metrics.fileno())  # before the state, which tells how long it is
        momentum = {
            f"momentum.{name}": buffer
            for name, parameter in model.named_parameters()
            # None before the first step, without momentum, and for layers that do not learn
            if (buffer := optimizer.state[parameter].get("momentum_buffer")) is not None
        }
        net = {f"net.{name}": value for name, value in model.state_dict().items()}
        plateau = progress.plateau
        header = {
            "epoch": progress.epoch,
            "step": progress.step,
            "plateau": [plateau.best, plateau.waited, plateau.divisions],
            "metrics_bytes": self.metrics.stat().st_size,
            "provenance": asdict(self.provenance),
        }
        checkpoint.write_tensors(self.state, net | momentum, header)

    def finish(self, model: VGG) -> None:
        """Writes the weights and removes the state."""
        model.provenance = self.provenance
        checkpoint.save(model, self.weights)
        self.clear()

    def clear(self) -> None:
        """Removes the state, which is left when a run is killed in its very last moment."""
        self.state.unlink(missing_ok=True)

    def _resume(self, model: VGG, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        try:
            tensors, metadata = checkpoint.read_tensors(self.state)
        except InputError as error:
            raise InputError(f"{error}; to start the run anew, delete {self.out}") from None
        header = checkpoint.parse_header(self.state, metadata)
        self._same_recipe(self.state, checkpoint.provenance_of(header["provenance"]))
        length = header["metrics_bytes"]
        if not self.metrics.exists() or self.metrics.stat().st_size < length:
            raise InputError(
                f"{self.metrics}: is shorter than when the run stopped: put it back, or delete "
                f"{self.out} to start anew"
            )
        progress.epoch, progress.step = header["epoch"], header["step"]
        plateau = progress.plateau
        plateau.best, plateau.waited, plateau.divisions = header["plateau"]
        net = {key: value for key, value in tensors.items() if key.startswith("net.")}
        model.load_state_dict({key.removeprefix("net."): net[key] for key in net})
        for name, parameter in model.named_parameters():
            if (buffer := tensors.get(f"momentum.{name}")) is not None:
                # In the parameter's memory format, as SGD makes it.
                own: Tensor = torch.empty_like(parameter).copy_(buffer)
                optimizer.state[parameter]["momentum_buffer"] = own
        # What was written after the checkpoint is written again.
        with self.metrics.open("r+b") as file:
            file.truncate(length)

    def _same_recipe(self, file: Path, found: Provenance) -> None:
        ours, theirs = _flat(asdict(self.provenance)), _flat(asdict(found))
        differing = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
        if differing:
            key = differing[0]
            if key == "data":
                raise InputError(
                    f"{file}: was trained on other images than {self.provenance.dataset} has now: "
                    "choose another --out, or delete the old results"
                )
            raise InputError(
                f"{file}: is of another run, {key} {theirs.get(key)!r} instead of "
                f"{ours.get(key)!r}: choose another --out, or delete the old results"
            )


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's `metrics.jsonl`.

    Raises:
        InputError: when the file is missing, empty or not what training wrote.
    """
    path = folder / METRICS
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); delete {folder} to train anew"
        ) from None
    if not records:
        raise InputError(f"{path}: is empty; delete {folder} to train anew")
    return records


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"recipe": {"S": 37}} as {"recipe.S": 37}, to name the value in which two runs differ."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


_HELD: set[int] = set()
"""Handles of locks. A process that is forked has them too, and would keep the lock of one that has
been killed."""


def _let_go() -> None:
    for handle in _HELD:
        os.close(handle)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Locks a folder; gives False when another process keeps it. It ends with the process."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    _HELD.add(handle)
    try:
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    yield False
                    return
                time.sleep(0.1)
            except OSError:  # a file system without locks
                break
            else:
                break
        yield True
    finally:
        _HELD.discard(handle)
        os.close(handle)
