"""What a reproduction will cost, before it starts: from accounting and a short measurement."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vggnet.accounting import account
from vggnet.checkpoint import read_header
from vggnet.errors import InputError
from vggnet.graph import Grid, Run
from vggnet.images import scaled_size
from vggnet.machines import BACKWARD, Machine
from vggnet.parts import Dataset
from vggnet.protocols import single_scale
from vggnet.recipes import PAPER_CROP
from vggnet.runs import SHARDED, STATE, WEIGHTS

READ_BY_A_WORKER = 1043
"""Images a second that one process decodes and crops: JPEGs of 500×375, S = 256, one core of an
AMD EPYC (benchmarks/results/2026-11-23-data-cpu.json)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan needs to know of a data set; it can be had without the images."""

    name: str
    num_classes: int
    train: int
    validation: int
    test: int
    flip: bool
    image: tuple[int, int]
    """Height and width of a typical test image in pixels."""

    @classmethod
    def of(cls, data: Dataset) -> "Facts":
        """Of a data set; its typical image is the median of ten."""
        chosen = np.linspace(0, len(data.test) - 1, min(10, len(data.test))).round().astype(int)
        shapes = np.array([data.test.images[int(i)].shape[:2] for i in chosen])
        height, width = np.median(shapes, axis=0).astype(int).tolist()
        counts = len(data.train), len(data.validation), len(data.test)
        return cls(data.name, len(data.class_names), *counts, data.flip, (height, width))


ILSVRC_2012 = Facts("imagenet", 1000, 1_281_167, 50_000, 50_000, True, (375, 500))
"""For a plan of the paper's own data, which need not be there."""


@dataclass(frozen=True, slots=True)
class Step:
    """A run of the plan: its training, its tests, and what they take."""

    name: str
    parent: str | None
    start: str
    status: str
    """finished, started or to do."""
    epochs: int
    """At most; a plateau may end it sooner."""
    training_multiply_adds: float
    """With validation."""
    test_multiply_adds: float
    images_per_second: float
    """In training, of all GPUs together."""
    measured: bool
    """Whether the images a second were measured for this net, or follow from another's."""
    training_seconds: float
    """Estimated, of all epochs with their validation; 0 for a finished run."""
    test_seconds: float
    """Estimated; 0 for a finished run, whose tests are not counted either."""
    disk_bytes: int
    """Weights and posteriors."""

    @property
    def seconds(self) -> float:
        """Of training and tests together."""
        return self.training_seconds + self.test_seconds


def plan(whole: Grid, facts: Facts, out: Path, machine: Machine) -> list[Step]:
    """Every run with its costs. Nothing is written.

    Args:
        whole: the grid, or a part of it.
        facts: of the data set.
        out: folder of the reproduction, where finished runs are looked for.
        machine: where it will run.

    Raises:
        InputError: when the folder holds weights of another recipe.
    """
    steps = []
    # Where the machine is this one, each net is timed on it.
    for run in tqdm(whole.runs, desc="planning", unit="run", disable=None, leave=False):
        config = run.config
        speed = machine.speed(config)
        costs = account(config.model)
        per_image = costs.multiply_adds + sum(layer.multiply_adds for layer in costs.sides)
        factor = 1.0 + BACKWARD
        if config.tune == "fc":  # the convolutions go forward only
            fc = sum(layer.multiply_adds for layer in costs.layers if layer.kind == "fc")
            factor = 1 + BACKWARD * fc / per_image
        training = config.epochs * facts.train * per_image * factor
        validation_size = scaled_size(*facts.image, single_scale(config.S))
        validation = config.epochs * facts.validation * _multiply_adds(run, validation_size)
        tests = facts.test * sum(
            _multiply_adds(run, (height, width)) * (1 + term.flips)
            for term in whole.terms(run)
            for _, _, height, width in term.windows(
                *scaled_size(*facts.image, term.Q), config.model.crop
            )
        )
        folder = out / "runs" / run.name
        finished = _is_finished(folder, run)
        started = any((folder / name).exists() for name in (STATE, SHARDED))
        seconds = training / speed.training + validation / speed.testing
        parameters = costs.parameters + sum(layer.parameters for layer in costs.sides)
        posteriors = len(whole.terms(run)) * facts.test * facts.num_classes * 4
        steps.append(
            Step(
                name=run.name,
                parent=run.parent.name if run.parent else None,
                start=run.start,
                status="finished" if finished else "started" if started else "to do",
                epochs=config.epochs,
                training_multiply_adds=training + validation,
                test_multiply_adds=tests,
                images_per_second=speed.training / (per_image * factor),
                measured=speed.measured,
                training_seconds=0.0 if finished else seconds,
                test_seconds=0.0 if finished else tests / speed.testing,
                disk_bytes=4 * parameters + posteriors,
            )
        )
    return steps


def to_json(steps: list[Step]) -> list[dict[str, Any]]:
    """As `vggnet reproduce --plan --json` prints it."""
    return [asdict(step) | {"seconds": step.seconds} for step in steps]


def text(steps: list[Step], facts: Facts, machine: Machine) -> str:
    """The plan as a table for a terminal."""
    # "Krizhevsky-S74-149" is longer than VGG's names.
    longest = max([15, *(len(step.name) for step in steps)])
    starts = max([26, *(len(step.start) for step in steps)])
    lines = [
        f"{len(steps)} runs on {facts.name}: {facts.train:,} training, {facts.validation:,} "
        f"validation, {facts.test:,} test images of about {facts.image[0]}×{facts.image[1]} "
        f"pixels, {facts.num_classes} classes; on {machine.words}.",
        *machine.notes,
        "Training with validation, one run after the other. Epochs are at most so many: a plateau "
        "ends a run sooner.",
        "A run under way takes twice the disk.",
        "",
        f"{'':<{longest}} {'':<{starts}} {'':>6} {'multiply-adds':>16} {'images/s':>9} "
        f"{'time':>15}",
        f"{'run':<{longest}} {'start':<{starts}} epochs {'training':>8} {'tests':>7} "
        f"{'training':>9} {'training':>8} {'tests':>6} {'disk':>9}  status",
    ]
    for step in steps:
        rate = "~" * (not step.measured) + f"{step.images_per_second:,.0f}"
        lines.append(
            f"{step.name:<{longest}} {step.start:<{starts}} {step.epochs:>6} "
            f"{_short(step.training_multiply_adds):>8} {_short(step.test_multiply_adds):>7} "
            f"{rate:>9} {_time(step.training_seconds):>8} {_time(step.test_seconds):>6} "
            f"{_bytes(step.disk_bytes):>9}  {step.status}"
        )
    training = sum(step.training_multiply_adds for step in steps)
    tests = sum(step.test_multiply_adds for step in steps)
    lines += [
        f"{'together':<{longest}} {'':<{starts}} {sum(step.epochs for step in steps):>6} "
        f"{_short(training):>8} {_short(tests):>7} {'':>9} "
        f"{_time(sum(step.training_seconds for step in steps)):>8} "
        f"{_time(sum(step.test_seconds for step in steps)):>6} "
        f"{_bytes(sum(step.disk_bytes for step in steps)):>9}",
        "",
        f"All of it: {_time(sum(step.seconds for step in steps))}. {_longest_chain(steps)}",
    ]
    if min(facts.image) >= PAPER_CROP:  # of smaller ones decoding is nothing
        lines.append(_reading(steps))
    if facts.name == ILSVRC_2012.name:
        lines.append("The paper took 2 to 3 weeks a net on four Titan Blacks (§3.3).")
    return "\n".join(lines)


def _longest_chain(steps: list[Step]) -> str:
    """What the runs take side by side, each on a machine of its own."""
    by_name = {step.name: step for step in steps}

    def chain(step: Step) -> list[Step]:
        parent = by_name.get(step.parent or "")
        return [*(chain(parent) if parent else []), step]

    def seconds(steps: list[Step]) -> float:
        """A run's children need its weights, not its tests."""
        return sum(step.training_seconds for step in steps) + steps[-1].test_seconds

    longest = max((chain(step) for step in steps), key=seconds)
    names = " → ".join(step.name for step in longest)
    return f"Side by side: {_time(seconds(longest))} ({names})."


def _reading(steps: list[Step]) -> str:
    rate = max(step.images_per_second for step in steps)
    count = math.ceil(rate / READ_BY_A_WORKER)
    workers = "1 worker process" if count == 1 else f"{count} worker processes"
    return (
        f"Reading: up to {rate:,.0f} images a second, {workers} at {READ_BY_A_WORKER:,} JPEGs of "
        "500×375 each."
    )


def _is_finished(folder: Path, run: Run) -> bool:
    """Whether the run's weights are there.

    Raises:
        InputError: when they are of another recipe.
    """
    path = folder / WEIGHTS
    if not path.exists():
        return False
    if read_header(path).provenance.recipe != json.loads(json.dumps(run.config.to_json())):
        raise InputError(
            f"{path}: is of another recipe: choose another --out, or delete that run's files in "
            f"{path.parent}"
        )
    return True


def _multiply_adds(run: Run, size: tuple[int, int]) -> int:
    return account(run.config.model, size).multiply_adds


def _short(number: float) -> str:
    if number == 0:
        return "–"
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e6:.1f} M"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 72 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 2**10:.1f} KiB"
