"""The loop of a training run: epochs, losses, the schedule, checkpoints, images that are bad."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vggnet import roll
from vggnet.bad_images import BadImages
from vggnet.distributed import World
from vggnet.errors import InputError, RunError
from vggnet.evaluate import evaluate
from vggnet.loading import Batch, TrainingImages
from vggnet.located import Located, of_known_class
from vggnet.model import VGG
from vggnet.parts import Dataset, Part
from vggnet.protocols import single_scale
from vggnet.readers import DiedError, default_workers
from vggnet.recipes import Plateau, TrainConfig
from vggnet.runs import Progress, RunFolder
from vggnet.scoring import Result
from vggnet.step import Parallel, Step
from vggnet.stopping import Stop, Stopped

_CHECKPOINT_SECONDS = 600.0
_STEPS_PER_READ = 20
"""Losses stay on a GPU for so many steps, so that it is not stopped for each one."""
_BAD_IN_A_ROW = 100
"""So many images that cannot be read, in whole batches: the data set has gone, not some files."""
_WAITED_TOO_LONG, _STEPS_TO_JUDGE = 0.05, 50
_RANKS_APART = 0x9E3779B97F4A7C15
"""Between the seeds of ranks, which draw dropout each for itself."""

OnBadImage = Literal["skip", "stop"]


class _UnreadableError(RunError):
    """Images cannot be read, and the run does not go on without them; its state is saved."""


class Loop:
    """A net and its optimiser, and how far they have come."""

    def __init__(
        self,
        config: TrainConfig,
        data: Dataset,
        folder: RunFolder,
        model: VGG,
        device: torch.device,
        stop: Stop,
        workers: int,
        on_bad_image: OnBadImage,
        world: World,
        parallel: Parallel,
    ) -> None:
        self.config, self.data, self.folder, self.device = config, data, folder, device
        self.stop, self.workers, self.on_bad_image = stop, workers, on_bad_image
        self.world = world
        self.bad = BadImages(folder.out / "bad-images.jsonl")
        self.model = model.to(device)
        self.learner = Step(self.model, config, world, parallel)
        self.progress = Progress(Plateau(config.patience, config.divisions))
        self.pending: list[tuple[int, Tensor, Tensor, int]] = []
        self.bad_in_a_row, self.waited = 0, 0.0
        self.saved, self.save_is_due = time.monotonic(), False
        folder.start_or_resume(self.learner, self.progress)

    def go(self, log: Callable[[str], None], label: str, show: bool) -> None:
        config, progress = self.config, self.progress
        images = TrainingImages(
            self.data,
            S=config.S,
            crop=config.model.crop,
            batch_size=config.batch_size,
            flip=config.flip,
            colour_shift=config.colour_shift,
            erase=config.erase,
            seed=config.seed,
            workers=self.workers,
            pin=self.device.type == "cuda",
            rank=self.world.rank,
            ranks=self.world.ranks,
        )
        per_epoch = len(self.data.train)
        bar = tqdm(
            total=config.epochs * per_epoch,
            initial=progress.epoch * per_epoch + min(progress.step * config.batch_size, per_epoch),
            desc=label,
            unit=" images",
            leave=False,
            disable=None if show else True,  # None: where standard error is no terminal
        )
        try:
            with bar, self.folder.open_metrics() as metrics:
                over = progress.epoch >= config.epochs
                while not over:
                    self._train_epoch(images, metrics, bar)
                    over = self._end_epoch(metrics, bar, log)
            self.folder.finish(self.learner.whole())
        except OSError as error:  # of metrics.jsonl, or in starting workers
            raise RunError(
                f"{self.folder.out}: {error.strerror or error}; the last checkpoint is intact: "
                "with that mended, the same command goes on"
            ) from None
        finally:
            images.close()
        if self.bad.total:
            many = "image" if self.bad.total == 1 else "images"
            log(f"{self.bad.total:,} {many} could not be read, left out: {self.bad.path}")

    def _train_epoch(self, images: TrainingImages, metrics: Any, bar: Any) -> None:
        progress, rank = self.progress, self.world.rank
        rate = self.config.rate(progress.epoch, progress.plateau.divisions)
        for group in self.learner.optimizer.param_groups:
            group["lr"] = rate
        self._train_mode()
        write_every = 1 if self.device.type == "cpu" else _STEPS_PER_READ
        self.saved = began = time.monotonic()
        waited = images.waited
        batches = images.epoch(progress.epoch, progress.step)
        try:
            while (found := self._next(batches)) is not None:
                batch, counts = found
                total_step = progress.epoch * images.steps + progress.step
                if sum(counts):
                    torch.manual_seed(seed_of(self.config.seed, total_step, rank))
                    own = self.learner(batch.to(self.device), counts)
                    self.pending.append((total_step, *own, sum(counts)))
                progress.step += 1
                if len(self.pending) >= write_every:
                    self._write_losses(metrics, bar)
                if self.save_is_due:
                    self._save(metrics, bar)
                    self.saved = time.monotonic()
            self._write_losses(metrics, bar)
        except (Stopped, DiedError, _UnreadableError):
            self._save(metrics, bar)
            raise
        # Of few steps most is the start of the workers.
        self.waited = (images.waited - waited) / (time.monotonic() - began)
        if images.steps < _STEPS_TO_JUDGE:
            self.waited = 0.0

    def _next(self, batches: Iterator[Batch]) -> tuple[Batch, list[int]] | None:
        """The next batch, and how many images every rank has of it.

        A signal, in the step before or in waiting now, raises Stopped. What ends the run on one
        rank ends it on all of them, before the same step.
        """
        alone = self.world.ranks == 1
        died: DiedError | None = None
        try:
            with self.stop.at_once() if alone else nullcontext():
                batch = next(batches, None)
        except DiedError as error:
            if alone:
                raise
            batch, died = None, error
        due = time.monotonic() - self.saved > _CHECKPOINT_SECONDS
        count, bad = (0, 0) if batch is None else (len(batch.labels), len(batch.bad))
        row = [count, bad, self.stop.requested or 0, died is not None, due]
        counts, bads, signals, deaths, dues = zip(*self.world.table(row), strict=True)
        self.save_is_due = bool(dues[0])
        if died is not None:
            raise died
        if any(deaths):
            raise DiedError(f"rank {deaths.index(1)} cannot go on, and says why")
        if any(signals) and not alone:
            raise Stopped(max(signals))
        if batch is None:
            return None
        found = batch.bad
        if any(bads):
            found = tuple(one for of_rank in self.world.gathered(batch.bad) for one in of_rank)
        self._note_bad(found, sum(counts))
        return batch, list(counts)

    def _note_bad(self, bad: tuple[tuple[int, str], ...], good: int) -> None:
        for index, reason in bad:
            self._bad_image(self.data.train, index, reason)
        self.bad_in_a_row = 0 if good else self.bad_in_a_row + len(bad)
        if self.bad_in_a_row >= _BAD_IN_A_ROW:
            raise _UnreadableError(
                f"the last {self.bad_in_a_row} images could not be read, at last "
                f"{bad[-1][1]}: is the data set still there? The same command goes on"
            )

    def _bad_image(self, part: Part, index: int, reason: str) -> None:
        if self.on_bad_image == "stop":
            raise _UnreadableError(f"{reason}; --on-bad-image skip leaves such images out")
        path = part.where(index)
        where = {"epoch": self.progress.epoch, "step": self.progress.step}
        if not self.world.is_first:
            return
        if not self.bad.count:
            # What cannot be written is needed only when the run is stopped.
            with suppress(InputError, RunError):
                roll.write(self.folder.out / roll.NAME, self.data)
        self.bad.add(path, reason.removeprefix(f"{path}: "), **where)

    def _train_mode(self) -> None:
        self.model.train()
        for layer in self.model.children():
            # Statistics of layers that do not learn stay as they are, too.
            if isinstance(layer, nn.BatchNorm2d) and self.config.tune == "fc":
                layer.eval()

    def _write_losses(self, metrics: Any, bar: Any) -> None:
        pending, epoch = self.pending, self.progress.epoch
        if not pending:
            return
        rate = self.learner.optimizer.param_groups[0]["lr"]
        losses = self.world.sum(torch.stack([loss for _, loss, _, _ in pending]).double()).tolist()
        wrongs = self.world.sum(torch.stack([wrong for _, _, wrong, _ in pending])).tolist()
        for (step, _, _, n), loss, wrong in zip(pending, losses, wrongs, strict=True):
            if not math.isfinite(loss):
                raise RunError(
                    f"the loss is {loss} at step {step} (epoch {epoch}), learning rate "
                    f"{rate:g}: lower --learning-rate, with another --out"
                    + ", or draw the weights with --init glorot"
                    * (self.config.init != "glorot")
                )
            error = round(100 * wrong / n, 4)
            record = {"kind": "train", "epoch": epoch, "step": step, "loss": loss}
            metrics.write(json.dumps(record | {"error": error, "learning_rate": rate}) + "\n")
            bar.update(n)
        pending.clear()
        bar.set_postfix(epoch=epoch, loss=f"{losses[-1]:.3f}", error=f"{error:.1f}%")

    def _end_epoch(self, metrics: Any, bar: Any, log: Callable[[str], None]) -> bool:
        """Validates, moves the schedule, saves; True when training is over."""
        progress = self.progress
        part = self.data.validation
        alone = self.world.ranks == 1
        if not alone:  # which one rank cannot leave without the others
            self._save(metrics, bar)
        try:
            with self.stop.at_once() if alone else nullcontext():
                result = self._validated(part)
        except (Stopped, DiedError, _UnreadableError):
            if alone:  # else it is saved, and the other ranks may not be here
                self._save(metrics, bar)
            raise
        except InputError as error:  # none can be read, or one is not what it was
            if alone:
                self._save(metrics, bar)
            raise RunError(
                f"validation: {error}; is {self.data.name} still there? The same command goes on"
            ) from None
        record = {"kind": "validation", "epoch": progress.epoch, "error": result.top1}
        if result.unread:
            record |= {"n": result.n, "unread": result.unread}
        metrics.write(json.dumps(record) + "\n")
        divided, over = progress.plateau.divisions, False
        if self.config.schedule == "plateau":
            over = progress.plateau.update(result.top1)
        line = f"epoch {progress.epoch}: validation error {result.top1:.2f} %"
        line += f" of {result.n:,} images, {result.unread} not readable" * bool(result.unread)
        line += " (learning rate divided by 10)" * (progress.plateau.divisions > divided)
        if self.workers and self.waited > _WAITED_TOO_LONG:
            line += f", {self.waited:.0%} of the time waiting for images: more --workers may help"
        progress.epoch, progress.step = progress.epoch + 1, 0
        over = over or progress.epoch >= self.config.epochs
        if over:
            progress.epoch = self.config.epochs
        self._save(metrics, bar)
        log(line)
        return over

    def _validated(self, part: Part) -> Result | Located:
        model, bad = self.learner.whole(), partial(self._bad_image, part)
        # Images in memory are rescaled sooner than processes are started.
        workers = default_workers(part.images, self.device.type) and self.workers
        options: dict[str, Any] = {"workers": workers, "on_bad": bad, "world": self.world}
        scale = single_scale(self.config.S)
        if self.config.model.boxes is not None:
            return of_known_class(model, part, scale, **options)
        return evaluate(model, part, scales=[scale], flips=False, **options)

    def _save(self, metrics: Any, bar: Any) -> None:
        self._write_losses(metrics, bar)  # first: a loss that is not finite is not to be saved
        self.folder.save(self.learner, self.progress, metrics)


def seed_of(seed: int, step: int, rank: int) -> int:
    """What a rank's dropout draws from in a step, so that a resumed run repeats it."""
    return ((seed << 32) + step + rank * _RANKS_APART) % (1 << 63)
