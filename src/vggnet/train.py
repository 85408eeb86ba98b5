"""§3.1's training: SGD with momentum, a rate that falls on plateaus, a run that resumes."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from vggnet import checkpoint, initialize
from vggnet.datasets import Dataset
from vggnet.errors import InputError, RunError
from vggnet.evaluate import evaluate
from vggnet.loading import Batch, TrainingImages
from vggnet.model import VGG, Provenance, empty
from vggnet.recipes import TrainConfig

WEIGHTS, METRICS, STATE = "weights.safetensors", "metrics.jsonl", "state.safetensors"

_CHECKPOINT_SECONDS = 600.0
_STEPS_PER_READ = 20
"""Losses stay on a GPU for so many steps, so that it is not stopped for each one."""


@dataclass(slots=True)
class Plateau:
    """Divides the learning rate by 10 when the validation error stops improving (§3.1)."""

    patience: int
    allowed: int
    best: float = math.inf
    waited: int = 0
    divisions: int = 0

    def update(self, error: float) -> bool:
        """Takes an epoch's validation error; True when training is over.

        `patience` epochs without a new lowest error are a plateau. The first `allowed` ones divide
        the rate; the next one is the end.
        """
        if error < self.best:
            self.best, self.waited = error, 0
            return False
        self.waited += 1
        if self.waited < self.patience:
            return False
        if self.divisions == self.allowed:
            return True
        self.waited = 0
        self.divisions += 1
        return False


def train(
    config: TrainConfig,
    data: Dataset,
    out: str | Path,
    *,
    parent: str | Path | None = None,
    device: str | torch.device | None = None,
    log: Callable[[str], None] | None = None,
    label: str | None = None,
) -> Path:
    """Trains a net and writes `weights.safetensors` and `metrics.jsonl` into a folder.

    A run that was stopped goes on from its last checkpoint (every epoch, and every ten minutes in
    a long one) and ends with the weights and metrics of a run that was never stopped. A run that
    is finished is left as it is.

    Args:
        config: every value of the run.
        data: its training part is trained on; its validation part decides when the rate falls.
        out: the run's folder.
        parent: weight file to start from: of net A for a deeper net (staged), or of the same net.
        device: cuda where there is one, by default; else the CPU.
        log: gets a line an epoch.
        label: shown before the progress bar; the net's name by default.

    Returns:
        The path of the weight file.

    Raises:
        InputError: when data and net do not fit, or `out` holds a run of another recipe.
        RunError: when the loss is not finite.
    """
    config = replace(config, flip=config.flip and data.flip)  # the header tells what was done
    place = torch.device(device or best_device())
    # Dropout draws from PyTorch's global generators; the caller gets them back as they were.
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        run = _Run(config, data, Path(out), parent, place)
        return run.weights if run.finished else run.go(log, label or config.model.title)


def build_for(config: TrainConfig, data: Dataset, parent: VGG | None) -> VGG:
    """The net at the start of a run: drawn by its seed, then staged or copied from `parent`.

    Raises:
        InputError: when `parent` fits neither way, or the classes are not the data set's.
    """
    classes = len(data.class_names)
    if config.model.num_classes != classes:
        raise InputError(
            f"the net has {config.model.num_classes} classes, {data.name} has {classes}"
        )
    if config.model.in_channels != 3:
        raise InputError(f"{data.name} has RGB images; the net takes {config.model.in_channels}")
    model = empty(config.model, data.mean_rgb)
    generator = torch.Generator().manual_seed(config.seed)
    initialize.initialize_(model, config.init, generator)
    if parent is not None:
        copy = initialize.whole_ if parent.config.net == config.model.net else initialize.staged_
        copy(model, parent)
    return model


class _Run:
    """One folder, its net and optimiser, and how far it has come."""

    def __init__(
        self,
        config: TrainConfig,
        data: Dataset,
        out: Path,
        parent: str | Path | None,
        device: torch.device,
    ) -> None:
        self.config, self.data, self.out, self.device = config, data, out, device
        self.weights, self.metrics, self.state = out / WEIGHTS, out / METRICS, out / STATE
        parent_net = None if parent is None else checkpoint.load(parent)
        self.provenance = Provenance(
            class_names=data.class_names,
            dataset=data.name,
            S=config.S,
            seed=config.seed,
            # Through JSON, as it comes back from a file.
            recipe=json.loads(json.dumps(config.to_json())),
            parent=None if parent is None else checkpoint.sha256(Path(parent)),
        )
        self.epoch = self.step = 0
        self.plateau = Plateau(config.patience, config.divisions)
        self.finished = self._is_finished()
        if self.finished:
            return
        self.model = build_for(config, data, parent_net)
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self._start_or_resume()

    def _is_finished(self) -> bool:
        if not self.weights.exists():
            return False
        self._same_recipe(self.weights, checkpoint.read_header(self.weights).provenance)
        self.state.unlink(missing_ok=True)  # left when a run is killed in its very last moment
        return True

    def _same_recipe(self, file: Path, found: Provenance) -> None:
        """Never goes on with, or hands out, a run of another recipe."""
        ours, theirs = _flat(asdict(self.provenance)), _flat(asdict(found))
        differing = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
        if differing:
            key = differing[0]
            raise InputError(
                f"{file}: is of another run, {key} {theirs.get(key)!r} instead of "
                f"{ours.get(key)!r}: choose another --out, or delete the old results"
            )

    def go(self, log: Callable[[str], None] | None, label: str) -> Path:
        config = self.config
        images = TrainingImages(
            self.data,
            S=config.S,
            crop=config.model.crop,
            batch_size=config.batch_size,
            flip=config.flip,
            colour_shift=config.colour_shift,
            seed=config.seed,
        )
        per_epoch = len(self.data.train)
        bar = tqdm(
            total=config.epochs * per_epoch,
            initial=self.epoch * per_epoch + min(self.step * config.batch_size, per_epoch),
            desc=label,
            unit=" images",
            leave=False,
            disable=None,  # where standard error is no terminal
        )
        with bar, self.metrics.open("r+") as metrics:
            metrics.seek(0, 2)
            over = self.epoch >= config.epochs
            while not over:
                self._train_epoch(images, metrics, bar)
                over = self._end_epoch(metrics, log)
        return self._finish()

    def _train_epoch(self, images: TrainingImages, metrics: Any, bar: Any) -> None:
        rate = self.config.learning_rate / 10**self.plateau.divisions
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        pending: list[tuple[int, Tensor, Tensor, int]] = []
        wait = 1 if self.device.type == "cpu" else _STEPS_PER_READ
        saved = time.monotonic()
        for step, batch in enumerate(images.epoch(self.epoch, self.step), start=self.step):
            total_step = self.epoch * images.steps + step
            # Dropout's draw depends on nothing but seed and step, so a resumed run repeats it.
            torch.manual_seed((self.config.seed << 32) + total_step)
            loss, wrong = self._step(batch)
            pending.append((total_step, loss, wrong, len(batch.labels)))
            self.step = step + 1
            due = time.monotonic() - saved > _CHECKPOINT_SECONDS
            if len(pending) == wait or self.step == images.steps or due:
                self._write_losses(pending, rate, metrics, bar)
                pending.clear()
            if due:
                self._checkpoint(metrics)
                saved = time.monotonic()

    def _step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One step of SGD; the loss and the number of wrong answers, still on the device."""
        images = batch.images.to(self.device, non_blocking=True).float()
        images += batch.shifts.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True)
        scores = self.model(images)
        loss = F.cross_entropy(scores, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach(), (scores.detach().argmax(dim=1) != labels).sum()

    def _write_losses(
        self, pending: list[tuple[int, Tensor, Tensor, int]], rate: float, metrics: Any, bar: Any
    ) -> None:
        losses = torch.stack([loss for _, loss, _, _ in pending]).tolist()
        wrongs = torch.stack([wrong for _, _, wrong, _ in pending]).tolist()
        for (step, _, _, n), loss, wrong in zip(pending, losses, wrongs, strict=True):
            if not math.isfinite(loss):
                raise RunError(
                    f"the loss is {loss} at step {step} (epoch {self.epoch}), learning rate "
                    f"{rate:g}: lower --learning-rate"
                    + ", or draw the weights with --init glorot"
                    * (self.config.init != "glorot")
                )
            error = round(100 * wrong / n, 4)
            record = {"kind": "train", "epoch": self.epoch, "step": step, "loss": loss}
            metrics.write(json.dumps(record | {"error": error, "learning_rate": rate}) + "\n")
            bar.update(n)
        bar.set_postfix(epoch=self.epoch, loss=f"{losses[-1]:.3f}", error=f"{error:.1f}%")

    def _end_epoch(self, metrics: Any, log: Callable[[str], None] | None) -> bool:
        """Validates, moves the schedule, saves; True when training is over."""
        result = evaluate(self.model, self.data.validation, scales=[self.config.S], flips=False)
        record = {"kind": "validation", "epoch": self.epoch, "error": result.top1}
        metrics.write(json.dumps(record) + "\n")
        divided = self.plateau.divisions
        over = self.plateau.update(result.top1)
        note = " (learning rate divided by 10)" * (self.plateau.divisions > divided)
        line = f"epoch {self.epoch}: validation error {result.top1:.2f} %{note}"
        self.epoch, self.step = self.epoch + 1, 0
        over = over or self.epoch >= self.config.epochs
        if over:
            self.epoch = self.config.epochs
        self._checkpoint(metrics)
        if log:
            log(line)
        return over

    def _checkpoint(self, metrics: Any) -> None:
        metrics.flush()
        os.fsync(metrics.fileno())  # before the state, which tells how long it is
        momentum = {
            f"momentum.{name}": buffer
            for name, parameter in self.model.named_parameters()
            # None before the first step, and without momentum
            if (buffer := self.optimizer.state[parameter].get("momentum_buffer")) is not None
        }
        net = {f"net.{name}": value for name, value in self.model.state_dict().items()}
        header = {
            "epoch": self.epoch,
            "step": self.step,
            "plateau": [self.plateau.best, self.plateau.waited, self.plateau.divisions],
            "metrics_bytes": self.metrics.stat().st_size,
            "provenance": asdict(self.provenance),
        }
        checkpoint.write_tensors(self.state, net | momentum, header)

    def _start_or_resume(self) -> None:
        for file in (self.state, self.weights):
            for leftover in self.out.glob(f".{file.name}.*"):  # of writes that were killed
                leftover.unlink()
        if not self.state.exists():
            # Every run has its state from the start, so metrics without one are another's.
            if self.metrics.exists() and self.metrics.stat().st_size:
                raise InputError(
                    f"{self.metrics}: exists, without the run it is from: choose another --out"
                )
            try:
                self.out.mkdir(parents=True, exist_ok=True)
                with self.metrics.open("w") as metrics:
                    self._checkpoint(metrics)
            except OSError as error:
                raise InputError(f"{self.out}: cannot be written ({error.strerror})") from None
            return
        try:
            self._resume()
        except KeyError as error:
            raise InputError(f"{self.state}: is not the state of a run (no {error})") from None

    def _resume(self) -> None:
        try:
            tensors, metadata = checkpoint.read_tensors(self.state)
        except InputError as error:
            raise InputError(f"{error}; to start the run anew, delete {self.out}") from None
        header = checkpoint.parse_header(self.state, metadata)
        found = header["provenance"]
        self._same_recipe(
            self.state, Provenance(**{**found, "class_names": tuple(found["class_names"])})
        )
        length = header["metrics_bytes"]
        if not self.metrics.exists() or self.metrics.stat().st_size < length:
            raise InputError(
                f"{self.metrics}: is shorter than when the run stopped: put it back, or delete "
                f"{self.out} to start anew"
            )
        self.epoch, self.step = header["epoch"], header["step"]
        self.plateau.best, self.plateau.waited, self.plateau.divisions = header["plateau"]
        net = {key: value for key, value in tensors.items() if key.startswith("net.")}
        self.model.load_state_dict({key.removeprefix("net."): net[key] for key in net})
        for name, parameter in self.model.named_parameters():
            if (buffer := tensors.get(f"momentum.{name}")) is not None:
                # In the parameter's memory format, as SGD makes it.
                own = torch.empty_like(parameter).copy_(buffer)
                self.optimizer.state[parameter]["momentum_buffer"] = own
        # What was written after the checkpoint is written again.
        with self.metrics.open("r+b") as file:
            file.truncate(length)

    def _finish(self) -> Path:
        self.model.provenance = self.provenance
        checkpoint.save(self.model, self.weights)
        self.state.unlink(missing_ok=True)
        return self.weights


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"recipe": {"S": 37}} as {"recipe.S": 37}, to name the value in which two runs differ."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def best_device() -> str:
    """cuda where PyTorch sees one, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"
