"""What a reproduction will cost, before it starts: from accounting and a short measurement."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vggnet.accounting import account
from vggnet.checkpoint import read_header
from vggnet.configs import Config
from vggnet.datasets import Dataset
from vggnet.errors import InputError
from vggnet.graph import Grid, Run
from vggnet.images import scaled_size
from vggnet.initialize import initialize_
from vggnet.model import empty
from vggnet.protocols import single_scale
from vggnet.runs import STATE, WEIGHTS

_STEP_MULTIPLY_ADDS = {"cpu": 2e10, "cuda": 1e12}
"""A measured step takes so many images that a forward has about these multiply-adds."""
_BACKWARD = 2
"""A backward pass costs two forwards: gradients of the inputs and of the weights."""


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
    test_multiply_adds: float
    seconds: float
    """Estimated, of training and tests together, with all epochs; 0 for a finished run, whose
    tests are not counted either."""
    disk_bytes: int
    """Weights and posteriors."""


def plan(whole: Grid, facts: Facts, out: Path, device: str) -> list[Step]:
    """Every run with its costs. Nothing is written; every net's step is timed for a moment.

    Args:
        whole: the grid, or a part of it.
        facts: of the data set.
        out: folder of the reproduction, where finished runs are looked for.
        device: where it will run, cpu or cuda.

    Raises:
        InputError: when the folder holds weights of another recipe.
    """
    speeds: dict[Config, tuple[float, float]] = {}
    steps = []
    for run in whole.runs:
        config = run.config
        if config.model not in speeds:
            speeds[config.model] = _speeds(config.model, device)
        train_speed, test_speed = speeds[config.model]
        costs = account(config.model)
        per_image = costs.multiply_adds + sum(layer.multiply_adds for layer in costs.sides)
        factor = 1.0 + _BACKWARD
        if config.tune == "fc":  # the convolutions go forward only
            fc = sum(layer.multiply_adds for layer in costs.layers if layer.kind == "fc")
            factor = 1 + _BACKWARD * fc / per_image
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
        finished, started = _is_finished(folder, run), (folder / STATE).exists()
        seconds = training / train_speed + (validation + tests) / test_speed
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
                seconds=0.0 if finished else seconds,
                disk_bytes=4 * parameters + posteriors,
            )
        )
    return steps


def to_json(steps: list[Step]) -> list[dict[str, Any]]:
    """As `vggnet reproduce --plan --json` prints it."""
    return [asdict(step) for step in steps]


def text(steps: list[Step], facts: Facts, device: str) -> str:
    """The plan as a table for a terminal."""
    # "Krizhevsky-S74-149" is longer than VGG's names.
    longest = max([15, *(len(step.name) for step in steps)])
    starts = max([26, *(len(step.start) for step in steps)])
    lines = [
        f"{len(steps)} runs on {facts.name}: {facts.train:,} training, {facts.validation:,} "
        f"validation, {facts.test:,} test images of about {facts.image[0]}×{facts.image[1]} "
        f"pixels, {facts.num_classes} classes; on {device}.",
        "Training (with validation) and tests in multiply-adds. Times are estimates from a few "
        "measured steps a net, one run",
        "after the other, reading images not counted. Epochs are at most so many: a plateau ends a "
        "run sooner. A run under way",
        "takes twice the disk.",
        "",
        f"{'run':<{longest}} {'start':<{starts}} epochs {'training':>8} {'tests':>8} "
        f"{'time':>9} {'disk':>9}  status",
    ]
    for step in steps:
        lines.append(
            f"{step.name:<{longest}} {step.start:<{starts}} {step.epochs:>6} "
            f"{_short(step.training_multiply_adds):>8} {_short(step.test_multiply_adds):>8} "
            f"{_time(step.seconds):>9} {_bytes(step.disk_bytes):>9}  {step.status}"
        )
    training = sum(step.training_multiply_adds for step in steps)
    tests = sum(step.test_multiply_adds for step in steps)
    seconds = sum(step.seconds for step in steps)
    disk = sum(step.disk_bytes for step in steps)
    lines.append(
        f"{'together':<{longest}} {'':<{starts}} {sum(step.epochs for step in steps):>6} "
        f"{_short(training):>8} {_short(tests):>8} {_time(seconds):>9} {_bytes(disk):>9}"
    )
    return "\n".join(lines)


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
            f"{path}: is of another recipe: choose another --out, or delete the old results"
        )
    return True


def _multiply_adds(run: Run, size: tuple[int, int]) -> int:
    return account(run.config.model, size).multiply_adds


def _speeds(config: Config, device: str) -> tuple[float, float]:
    """Multiply-adds a second in training (forward and backward) and in testing."""
    costs = account(config)
    per_image = costs.multiply_adds
    in_training = per_image + sum(layer.multiply_adds for layer in costs.sides)
    batch = max(1, min(64, round(_STEP_MULTIPLY_ADDS[torch.device(device).type] / per_image)))
    model = empty(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    initialize_(model, "glorot", torch.Generator(device).manual_seed(0))
    images = torch.zeros(batch, 3, config.crop, config.crop, dtype=torch.uint8, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)

    def train() -> None:
        model.train()
        losses = [F.cross_entropy(scores, labels) for scores in model.training_scores(images)]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]

    def test() -> None:
        model.eval()
        with torch.inference_mode():
            model(images)

    return (
        batch * in_training * (1 + _BACKWARD) / _seconds(train, device),
        batch * per_image / _seconds(test, device),
    )


def _seconds(step: Any, device: str) -> float:
    """The faster of two, after one to warm up."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


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
