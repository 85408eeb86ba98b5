"""What processes that torchrun starts do for test_distributed.py: `ranks.py FOLDER CHECK...`.

Each check leaves what it found in FOLDER/CHECK-RANKS.pt, written by the first rank.
"""

import sys
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from vggnet import loop, sharded
from vggnet.adaptations import on_digits
from vggnet.configs import Config
from vggnet.datasets import digits
from vggnet.distributed import World, joined
from vggnet.evaluate import measure
from vggnet.loading import TrainingImages
from vggnet.loop import seed_of
from vggnet.model import build
from vggnet.parts import Dataset
from vggnet.protocols import Term
from vggnet.readers import DiedError
from vggnet.recipes import TrainConfig, a_256
from vggnet.step import Parallel, Step
from vggnet.train import train

FOLDER = Path()
STEPS, WIDTH = 50, 0.0625


def recipe(net: str, **options: Any) -> TrainConfig:
    """Digits at the recipe's rate, in batches of which an epoch's last one has 5 images of 22."""
    model = Config(net, num_classes=10, crop=32, width=WIDTH, dropout=0.0, **options)
    return replace(on_digits(a_256(model)), batch_size=22)


def data() -> Dataset:
    whole = digits()
    part = replace(whole.train, images=whole.train.images[:313], labels=whole.train.labels[:313])
    return replace(whole, train=part)


def learn(
    world: World,
    parallel: Parallel,
    net: str,
    dtype: torch.dtype,
    rate: float,
    count: int = STEPS,
    **options: Any,
) -> tuple[Step, list[list[float]]]:
    """The loss and the number of wrong answers of every step."""
    config = replace(recipe(net, **options), learning_rate=rate)
    model = build(net, num_classes=10, crop=32, width=WIDTH, dropout=0.0, **options)
    step = Step(model.to(dtype).train(), config, world, parallel)
    images = TrainingImages(
        data(), S=37, crop=32, batch_size=config.batch_size, flip=False, colour_shift=0.1,
        seed=0, rank=world.rank, ranks=world.ranks,
    )  # fmt: skip
    found: list[list[float]] = []
    epochs = (images.epoch(epoch) for epoch in range(1 + count // images.steps))
    for batch in islice(chain.from_iterable(epochs), count):
        counts = [row[0] for row in world.table([len(batch.labels)])]
        loss, wrong = step(batch, counts)
        found.append(world.sum(torch.stack([loss.double(), wrong.double()])).tolist())
    return step, found


MODES = {
    "plain": (Parallel(), "D", False),
    "accumulated": (Parallel(accumulate=3), "A-LRN", False),
    "batch norm": (Parallel(), "A", True),
    "fc 2": (Parallel(fc=2), "D", False),
    "fc 2 accumulated": (Parallel(fc=2, accumulate=3), "A-LRN", False),
    "fc 4": (Parallel(fc=4), "D", False),
}
"""By name: how the work is shared, net, batch normalisation."""
OF = {
    1: ["plain", "accumulated", "batch norm"],
    2: ["plain", "batch norm", "fc 2", "fc 2 accumulated"],
    3: ["plain"],
    4: ["plain", "fc 2 accumulated", "fc 4"],
}
"""By the number of ranks."""


def steps(world: World) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in OF[world.ranks]:
        parallel, net, batch_norm = MODES[name]
        step, losses = learn(world, parallel, net, torch.float64, 5e-3, batch_norm=batch_norm)
        found[name] = {"losses": losses, "weights": step.whole().state_dict()}
    return found


def steps_in_float32(world: World) -> dict[str, Any]:
    return {
        name: learn(world, MODES[name][0], "D", torch.float32, 1e-4)[1]
        for name in OF[world.ranks]
        if MODES[name][1] == "D"
    }


def compressed(world: World) -> dict[str, Any]:
    """On two ranks all gradients travel, on four those of two pairs' halves of the head."""
    parallel = Parallel(fc=max(1, world.ranks // 2), compress=True)
    return {"losses": learn(world, parallel, "A", torch.float32, 1e-4, 15)[1]}


def states(world: World) -> dict[str, Any]:
    """A state that is written in parts, and what is read of those that others wrote."""
    found = {}
    for ranks, size in ((2, 2), (4, 2), (4, 4)):
        folder = FOLDER / f"state-{ranks}-{size}"
        names = folder.with_suffix(".names")
        if world.ranks == ranks:
            step, _ = learn(world, Parallel(fc=size), "A", torch.float32, 1e-3, 3)
            state = step.state()
            names.write_text("\n".join(state))
            sharded.save(folder, state)
        elif folder.exists():
            model = build("A", num_classes=10, crop=32, width=WIDTH, seed=1)
            step = Step(model, recipe("A"), world, Parallel(fc=world.ranks))
            state = step.blank(names.read_text().splitlines())
            sharded.load(folder, state)
            step.load(state)
        else:
            continue
        found[folder.name] = {name: whole(value) for name, value in step.state().items()}
    return found


def whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value.clone()


def evaluation(world: World) -> dict[str, Any]:
    """Posteriors of 101 images, and of fewer images than ranks."""
    images = list(digits().test.images[:101])
    methods: list[tuple[int, Any]] = [(40, "dense"), (36, "multi-crop"), (36, "ten-crop")]
    terms = [Term(scale, method, "scores", True) for scale, method in methods]
    model = build("B", num_classes=10, crop=32, width=0.25)
    (found,) = measure([model], images, [terms], world=world)
    return {
        term.method: (torch.from_numpy(part.posteriors), part.forwards, part.multiply_adds)
        for term, part in found.items()
    } | {"few": measure([model], images[:2], [terms[:1]], world=world)[0][terms[0]].posteriors}


def many(world: World) -> dict[str, Any]:
    """Posteriors of 10,007 images of different sizes."""
    rng = np.random.default_rng(0)
    small = digits().test.images
    images = [
        np.pad(image, ((0, height), (0, width), (0, 0)))
        for image, height, width in zip(
            (small[i % len(small)] for i in range(10_007)),
            rng.integers(0, 4, 10_007).tolist(),
            rng.integers(0, 4, 10_007).tolist(),
            strict=True,
        )
    ]
    model = build("A", num_classes=10, crop=32, width=WIDTH)
    terms = [Term(36, "dense", "scores", True)]
    (found,) = measure([model], images, [terms], world=world)
    return {"posteriors": found[terms[0]].posteriors}


def dropout(world: World) -> dict[str, Any]:
    """Which values the ranks drop, by the seeds of a run."""
    masks = []
    for step in (0, 0, 1):
        torch.manual_seed(seed_of(3, step, world.rank))
        masks.append(torch.nn.functional.dropout(torch.ones(4096), 0.5))
    return {"masks": world.gathered(masks)}


def died(world: World) -> dict[str, Any]:
    """A training of which the last rank loses a reader while all of them validate."""

    def lost(*_: Any, **__: Any) -> Any:
        raise DiedError("a reader is gone: lower --workers")

    if world.rank == world.ranks - 1:
        vars(loop)["evaluate"] = lost
    train(replace(recipe("A"), epochs=1), data(), FOLDER / "died", world=world, progress=False)
    return {}


def main() -> None:
    global FOLDER
    FOLDER = Path(sys.argv[1])
    torch.set_num_threads(1)
    with joined("cpu") as world:
        for name in sys.argv[2:]:
            found = globals()[name](world)
            if world.is_first:
                torch.save(found, FOLDER / f"{name}-{world.ranks}.pt")
            world.wait()


if __name__ == "__main__":
    main()
