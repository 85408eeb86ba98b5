"""A training run on disk: its folder, what it says of itself, and how it goes on after a stop."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from torch import Tensor

from vggnet import checkpoint
from vggnet.distributed import World
from vggnet.errors import InputError
from vggnet.files import write_atomically, write_error
from vggnet.model import VGG, Provenance
from vggnet.recipes import Plateau

WEIGHTS, METRICS, STATE = "weights.safetensors", "metrics.jsonl", "state.safetensors"
SHARDED, SHARDS = "state.json", ("state-a", "state-b")
"""The state that several ranks write together: what it says of itself, and one of two folders."""

_PATIENCE_SECONDS = 5.0
"""A killed reproduction's helpers need a moment to notice that they are alone."""


@dataclass(slots=True)
class Progress:
    """How far a run has come."""

    plateau: Plateau
    epoch: int = 0
    step: int = 0
    """Steps done in this epoch."""


class Learner(Protocol):
    """What is learning: see `step.Step`, whose methods these are."""

    def state(self) -> dict[str, Tensor]: ...
    def blank(self, names: list[str]) -> dict[str, Tensor]: ...
    def load(self, state: Mapping[str, Tensor]) -> None: ...


_ALONE = World()


class RunFolder:
    """The folder of one run: its weights when it is finished, its state until then, its metrics.

    Never goes on with, or hands out, a run of another recipe. Of several ranks the first one
    writes, but for the state, which they write together; all of them call everything.

    Args:
        out: the folder; made when training starts. All ranks' machines see it.
        provenance: of the run that is wanted.
        world: whose run it is.
    """

    def __init__(self, out: Path, provenance: Provenance, world: World = _ALONE) -> None:
        self.out, self.provenance, self.world = out, provenance, world
        self.weights, self.metrics, self.state = out / WEIGHTS, out / METRICS, out / STATE
        self.sharded = out / SHARDED

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
        if not self.world.is_first:
            self.world.wait()
            yield
            return
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(self.out, error) from None
        with _lock(self.out) as ours:
            if not ours:
                raise InputError(
                    f"{self.out}: another process is training in it: wait for it, or choose "
                    "another --out"
                )
            self.world.wait()
            yield

    def start_or_resume(self, learner: Learner, progress: Progress) -> None:
        """Writes a new run's first state, or sets both as they were when a run stopped.

        Raises:
            InputError: for a state that is another run's or damaged.
        """
        if self.world.is_first:
            # Of writes that were killed; safetensors' last.
            for pattern in (f".{STATE}.*", f".{SHARDED}.*", f".{WEIGHTS}.*", ".tmp??????"):
                for leftover in self.out.glob(pattern):
                    leftover.unlink()
        if not any(self.world.gathered(self.state.exists() or self.sharded.exists())):
            # Every run has its state from the start, so metrics without one are another's.
            if self.metrics.exists() and self.metrics.stat().st_size:
                raise InputError(
                    f"{self.metrics}: exists, without the run it is from: choose another --out"
                )
            self.world.wait()  # all have looked
            try:
                if self.world.is_first:
                    self.metrics.open("w").close()
                self.save(learner, progress, None)
            except OSError as error:
                raise write_error(self.out, error) from None
            return
        try:
            self._resume(learner, progress)
        except KeyError as error:
            raise InputError(f"{self.state}: is not the state of a run (no {error})") from None
        self.world.wait()

    def open_metrics(self) -> TextIO:
        """The metrics file, to write at its end; nowhere on ranks that do not write."""
        if not self.world.is_first:
            return Path(os.devnull).open("w")
        file = self.metrics.open("r+")
        file.seek(0, 2)
        return file

    def save(self, learner: Learner, progress: Progress, metrics: TextIO | None) -> None:
        """Writes the state that a stopped run goes on from; `metrics` is the open metrics file."""
        if metrics is not None and self.world.is_first:
            metrics.flush()
            os.fsync(metrics.fileno())  # before the state, which tells how long it is
        plateau, state = progress.plateau, learner.state()
        header = {
            "epoch": progress.epoch,
            "step": progress.step,
            "plateau": [plateau.best, plateau.waited, plateau.divisions],
            "metrics_bytes": self.metrics.stat().st_size if self.world.is_first else 0,
            "provenance": asdict(self.provenance),
        }
        if self.world.ranks == 1:
            checkpoint.write_tensors(self.state, state, header)
            self._forget_shards()
            return
        # As the first rank sees the disk.
        current = self.world.gathered((self._sharded_header() or {}).get("shards"))[0]
        folder = SHARDS[current == SHARDS[0]]
        if self.world.is_first:
            shutil.rmtree(self.out / folder, ignore_errors=True)
        self.world.wait()
        from vggnet import sharded

        sharded.save(self.out / folder, state)
        self.world.wait()
        if self.world.is_first:
            header |= {"shards": folder, "tensors": list(state)}
            write_atomically(
                self.sharded, lambda temporary: temporary.write_text(json.dumps(header))
            )
            self.state.unlink(missing_ok=True)
        self.world.wait()

    def finish(self, model: VGG) -> None:
        """Writes the weights and removes the state."""
        if self.world.is_first:
            model.provenance = self.provenance
            checkpoint.save(model, self.weights)
            self.clear()
        self.world.wait()

    def clear(self) -> None:
        """Removes the state, which is left when a run is killed in its very last moment."""
        if self.world.is_first:
            self.state.unlink(missing_ok=True)
            self._forget_shards()

    def _forget_shards(self) -> None:
        self.sharded.unlink(missing_ok=True)
        for name in SHARDS:
            shutil.rmtree(self.out / name, ignore_errors=True)

    def _resume(self, learner: Learner, progress: Progress) -> None:
        header, tensors = self._latest(learner)
        length = header["metrics_bytes"]
        if not self.metrics.exists() or self.metrics.stat().st_size < length:
            raise InputError(
                f"{self.metrics}: is shorter than when the run stopped: put it back, or delete "
                f"{self.out} to start anew"
            )
        progress.epoch, progress.step = header["epoch"], header["step"]
        plateau = progress.plateau
        plateau.best, plateau.waited, plateau.divisions = header["plateau"]
        learner.load(tensors)
        self.world.wait()  # all have looked at the metrics
        if self.world.is_first:
            # What was written after the checkpoint is written again.
            with self.metrics.open("r+b") as file:
                file.truncate(length)

    def _latest(self, learner: Learner) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The state, of one process or of several; where a stop left both, the later one."""
        header = self._sharded_header()
        if self.state.exists():
            try:
                tensors, metadata = checkpoint.read_tensors(self.state)
            except InputError as error:
                raise InputError(f"{error}; to start the run anew, delete {self.out}") from None
            own = checkpoint.parse_header(self.state, metadata)
            if header is None or own["metrics_bytes"] >= header["metrics_bytes"]:
                self._same_recipe(self.state, checkpoint.provenance_of(own["provenance"]))
                return own, tensors
        assert header is not None
        self._same_recipe(self.sharded, checkpoint.provenance_of(header["provenance"]))
        tensors = learner.blank(header["tensors"])
        from vggnet import sharded

        sharded.load(self.out / header["shards"], tensors)
        return header, tensors

    def _sharded_header(self) -> dict[str, Any] | None:
        try:
            header: dict[str, Any] = json.loads(self.sharded.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.sharded}: cannot be read ({error}); to start the run anew, delete "
                f"{self.out}"
            ) from None
        return header

    def _same_recipe(self, file: Path, found: Provenance) -> None:
        ours, theirs = _flat(asdict(self.provenance)), _flat(asdict(found))
        differing = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
        if differing:
            key = differing[0]
            if key == "data":
                raise InputError(
                    f"{file}: was trained on other images than {self.provenance.dataset} has now: "
                    f"choose another --out, or delete that run's files in {file.parent}"
                )
            raise InputError(
                f"{file}: is of another run, {key} {theirs.get(key)!r} instead of "
                f"{ours.get(key)!r}: choose another --out, or delete that run's files in "
                f"{file.parent}"
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
