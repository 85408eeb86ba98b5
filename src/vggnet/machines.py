"""How fast a machine trains and tests nets: the one at hand, timed; others, from measurements."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from vggnet.accounting import account
from vggnet.configs import Config
from vggnet.errors import InputError
from vggnet.inference import engine
from vggnet.initialize import initialize_
from vggnet.kernels.training import accelerated
from vggnet.model import empty
from vggnet.recipes import PAPER_CROP, Precision, TrainConfig
from vggnet.scaling import Cluster, step_seconds

BACKWARD = 2
"""A backward pass costs two forwards: gradients of the inputs and of the weights."""
_STEP_MULTIPLY_ADDS = {"cpu": 6e10, "cuda": 1e12}
"""A measured step takes so many images that a forward has about these multiply-adds."""
_PAPER_BATCH = 256


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one net on a machine, in multiply-adds a second of all its GPUs together."""

    training: float
    """Forward and backward."""
    testing: float
    measured: bool
    """Whether training was measured for this very net, crop, width, batch and number of GPUs, or
    follows from another measurement."""


class Machine(Protocol):
    """What a plan asks of one."""

    @property
    def words(self) -> str:
        """Its name, in a sentence."""

    @property
    def notes(self) -> list[str]:
        """Where its speeds come from, a line each."""

    def speed(self, config: TrainConfig) -> Speed:
        """Of a run's net."""


class AtHand:
    """This machine; every net's step is timed for a moment, in float32.

    Args:
        device: cpu or cuda.
        precision: of the runs.

    Raises:
        InputError: for bfloat16 on a CPU, where no run takes it.
    """

    def __init__(self, device: str, precision: Precision = "float32") -> None:
        self.words = device
        self.notes = ["Times are estimates from a few steps a net that were timed just now."]
        if precision == "bfloat16":
            if not device.startswith("cuda"):
                raise InputError(
                    "precision bfloat16 is for training on a GPU: take float32, or plan for a "
                    "machine that has one: --on h200"
                )
            self.notes.append(
                "They are timed in float32: compiled, in bfloat16, training is faster."
            )
        self._found: dict[Config, Speed] = {}

    def speed(self, config: TrainConfig) -> Speed:
        model = config.model
        if model not in self._found:
            self._found[model] = Speed(*timed(model, self.words), measured=True)
        return self._found[model]


class Elsewhere:
    """Machines that are not at hand.

    Args:
        name: of a GPU.
        gpus: how many train one net and share its tests; more than one are predicted (`scaling`).
        rates: by net, images a second of one GPU in training at a crop of 224, the paper's width
            and a batch of 256, in the precision that is asked for; for None, `scaling`'s own rate.
            Other nets' follow from D's by multiply-adds.
        testing: multiply-adds a second of one GPU in tests.
        notes: where the numbers come from.
    """

    def __init__(
        self,
        name: str,
        gpus: int,
        rates: Mapping[str, float | None],
        testing: float,
        notes: list[str],
    ) -> None:
        self.cluster = Cluster(gpus)
        self.words = f"one {name}" if gpus == 1 else f"{gpus} {name}s"
        self.rates, self.testing = rates, testing
        several = f"{gpus} GPUs: predicted, all-reduce and smaller batches counted (vggnet plan)."
        self.notes = notes + [several] * (gpus > 1)

    def speed(self, config: TrainConfig) -> Speed:
        model = config.model
        costs = account(model)
        in_training = costs.multiply_adds + sum(layer.multiply_adds for layer in costs.sides)
        net = model.net if model.net in self.rates else "D"
        known = self.rates[net]
        if known is not None:  # at another crop and width, and of another net
            known *= account(Config(net)).multiply_adds / in_training
        step = step_seconds(model, config.batch_size, self.cluster, images_per_second=known)
        exactly = (PAPER_CROP, 1.0, _PAPER_BATCH, 1, False)
        asked = (model.crop, model.width, config.batch_size, self.cluster.gpus, model.batch_norm)
        return Speed(
            step.images_per_second * in_training * (1 + BACKWARD),
            self.testing * self.cluster.gpus,
            model.net in self.rates and asked == exactly and config.tune == "all",
        )


def elsewhere(name: str, gpus: int, precision: str) -> Elsewhere:
    """A machine by its name, `h200`, or by the file that benchmarks/gpu/grid.py wrote there;
    with so many `gpus`, which train in this precision.

    Raises:
        InputError: for another name, a file that is not one of these, or a precision that was not
            measured.
    """
    if name.lower() == "h200":
        if precision != "bfloat16":
            raise InputError(
                f"precision {precision}: on h200 steps were measured in bfloat16 alone: "
                "give --precision bfloat16"
            )
        return Elsewhere(
            "H200",
            gpus,
            {"D": None},
            # Fashion-MNIST's E-BN of docs/results/fashion-mnist: 1.803e15 multiply-adds in 58.0 s.
            31.1e12,
            [
                "Training: D's 5,649 images a second of one H200 in bfloat16 are measured "
                "(2026-11-26, batch 256,",
                "reading not counted); other nets' (~) follow from them by multiply-adds.",
                "Tests: 31.1e12 multiply-adds a second, measured at a crop of 64 in float32 (TF32) "
                "with another net's",
                "tests on the same GPU.",
            ],
        )
    found = _read(Path(name))
    mode = "bfloat16" if precision == "bfloat16" else "tf32"
    try:
        rates = {
            net: float(modes[mode]["images_per_second"])
            for net, modes in found["training"].items()
            if isinstance(modes.get(mode), dict)
        }
        tests = [
            1e12 * value["tera_multiply_adds_per_second"]
            for value in found["evaluation"]["D"].values()
            if isinstance(value, dict)
        ]
        gpu, testing = str(found["machine"]), statistics.median_low(tests)
    except (KeyError, TypeError, AttributeError, ValueError):
        rates = {}
    if "D" not in rates:
        raise InputError(
            f"{name}: has no measurements of net D in {mode}: give h200, or what "
            "benchmarks/gpu/grid.py wrote on a GPU"
        )
    notes = [f"Training ({mode}) and tests: measured, {name}; other nets' (~) by multiply-adds."]
    return Elsewhere(gpu, gpus, rates, testing, notes)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"machine {str(path)!r} is not known: give h200, or the path of what "
            "benchmarks/gpu/grid.py wrote on a GPU"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    return found if isinstance(found, dict) else {}


def timed(config: Config, device: str) -> tuple[float, float]:
    """Multiply-adds a second in training (forward and backward; the update, which the images of a
    batch share, is left out) and in testing, by the kernels where they would compute."""
    costs = account(config)
    per_image = costs.multiply_adds
    in_training = per_image + sum(layer.multiply_adds for layer in costs.sides)
    batch = max(1, min(64, round(_STEP_MULTIPLY_ADDS[torch.device(device).type] / per_image)))
    model = empty(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    initialize_(model, "glorot", torch.Generator(device).manual_seed(0))
    images = torch.zeros(batch, 3, config.crop, config.crop, dtype=torch.uint8, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    forward = accelerated(model)

    def train() -> None:
        model.train()
        several = model.training_scores(images) if config.sides() else (forward(images),)
        losses = [F.cross_entropy(scores, labels) for scores in several]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]

    training = _seconds(train, device)
    net = engine(model.eval()) if model.mean.device.type == "cpu" else model.eval()

    def test() -> None:
        with torch.inference_mode():
            net.score_map(images)

    testing = _seconds(test, device)
    return batch * in_training * (1 + BACKWARD) / training, batch * per_image / testing


def _seconds(step: Callable[[], None], device: str) -> float:
    """The faster of two, after one to warm up."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])
