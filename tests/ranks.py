"""What processes that torchrun starts do for test_distributed.py: `ranks.py FOLDER CHECK...`.

Each check leaves what it found in FOLDER/CHECK-RANKS.pt, written by the first rank.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vggnet import sharded
from vggnet.configs import Config
from vggnet.datasets import Dataset, digits
from vggnet.distributed import World, joined
from vggnet.evaluate import measure
from vggnet.loading import TrainingImages
from vggnet.model import build
from vggnet.protocols import Term
from vggnet.recipes import TrainConfig, a_256, on_digits
from vggnet.step import Parallel, Step

FOLDER = Path()
STEPS = 50


def recipe(net: str, **options: Any) -> TrainConfig:
    """Digits at the recipe's rate, in batches of which an epoch's last one has 5 images of 22."""
    model = Config(net, num_classes=10, crop=32, width=0.125, dropout=0.0, **options)
    return replace(on_digits(a_256(model)), batch_size=22)


def data() -> Dataset:
    whole = digits()
    part = replace(whole.train, images=whole.train.images[:313], labels=whole.train.labels[:313])
    return replace(whole, train=part)


def learn(
    world: World, parallel: Parallel, net: str, dtype: torch.dtype, rate: float, **options: Any
) -> tuple[Step, list[list[float]]]:
    """The loss and the number of wrong answers of every step."""
    config = replace(recipe(net, **options), learning_rate=rate)
    model = build(net, num_classes=10, crop=32, width=0.125, dropout=0.0, **options)
    step = Step(model.to(dtype).train(), config, world, parallel)
    images = TrainingImages(
        data(), S=37, crop=32, batch_size=config.batch_size, flip=False, colour_shift=0.1,
        seed=0, rank=world.rank, ranks=world.ranks,
    )  # fmt: skip
    found: list[list[float]] = []
    for epoch in range(1 + STEPS // images.steps):
        for batch in images.epoch(epoch):
            counts = [row[0] for row in world.table([len(batch.labels)])]
            loss, wrong = step(batch, counts)
            found.append(world.sum(torch.stack([loss.double(), wrong.double()])).tolist())
    return step, found[:STEPS]


def modes(ranks: int) -> dict[str, tuple[Parallel, str, bool]]:
    wanted = {
        "plain": (Parallel(), "D", False),
        "accumulated": (Parallel(accumulate=3), "A-LRN", False),
        "batch norm": (Parallel(), "A", True),
    }
    for size in (2, 4):
        if ranks % size == 0:
            wanted[f"fc {size}"] = Parallel(fc=size), "D", False
            wanted[f"fc {size} accumulated"] = Parallel(fc=size, accumulate=3), "A-LRN", False
    return wanted


def steps(world: World) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (parallel, net, batch_norm) in modes(world.ranks).items():
        step, losses = learn(
            world, parallel, net, torch.float64, 5e-3, batch_norm=batch_norm
        )  # fmt: skip
        weights = step.whole().state_dict()
        found[name] = {"losses": losses, "weights": weights}
    return found


def steps_in_float32(world: World) -> dict[str, Any]:
    return {
        name: learn(world, parallel, "D", torch.float32, 1e-4)[1]
        for name, (parallel, net, _) in modes(world.ranks).items()
        if net == "D"
    }


def compressed(world: World) -> dict[str, Any]:
    sizes = [1, 2] if world.ranks == 4 else [1]
    return {
        f"fc {size}": learn(world, Parallel(fc=size, compress=True), "A", torch.float32, 1e-4)[1]
        for size in sizes
    }


def states(world: World) -> dict[str, Any]:
    """A state that is written in parts, and what is read of those that others wrote."""
    found = {}
    for ranks, size in ((2, 2), (4, 2), (4, 4)):
        folder = FOLDER / f"state-{ranks}-{size}"
        if world.ranks == ranks:
            step, _ = learn(world, Parallel(fc=size), "A", torch.float32, 1e-3)
            state = step.state()
            (FOLDER / f"{folder.name}.names").write_text("\n".join(state))
            sharded.save(folder, state)
            found[folder.name] = step.whole().state_dict() | {
                f"momentum {name}": step.head.whole(name, step.optimizer.state[p]["momentum_buffer"])
                for name, p in step.model.named_parameters()
                if step.head is not None
            }
        elif folder.exists():
            parallel = Parallel(fc=world.ranks)
            model = build("A", num_classes=10, crop=32, width=0.125, seed=1)
            step = Step(model, recipe("A"), world, parallel)
            state = step.blank((FOLDER / f"{folder.name}.names").read_text().splitlines())
            sharded.load(folder, state)
            step.load(state)
            whole = step.head.whole if step.head is not None else lambda _, part: part
            found[folder.name] = step.whole().state_dict() | {
                f"momentum {name}": whole(name, step.optimizer.state[p]["momentum_buffer"])
                for name, p in step.model.named_parameters()
            }
    return found


def evaluation(world: World) -> dict[str, Any]:
    """Posteriors of an odd number of images, two of which cannot be read, by all protocols."""
    images = digits().test.images[:101]
    methods: list[tuple[int, Any]] = [(40, "dense"), (36, "multi-crop"), (36, "ten-crop")]
    terms = [Term(scale, method, "scores", True) for scale, method in methods]
    model = build("B", num_classes=10, crop=32, width=0.25)
    (found,) = measure([model], images, [terms], world=world)
    return {
        term.method: (torch.from_numpy(part.posteriors), part.forwards, part.multiply_adds)
        for term, part in found.items()
    } | {"few": measure([model], images[:2], [terms[:1]], world=world)[0][terms[0]].posteriors}


def dropout(world: World) -> dict[str, Any]:
    """Which values the ranks drop, by the seeds of a run."""
    from vggnet.train import seed_of

    masks = []
    for step in (0, 0, 1):
        torch.manual_seed(seed_of(3, step, world.rank))
        masks.append(torch.nn.functional.dropout(torch.ones(4096), 0.5))
    return {"masks": world.gathered(masks)}


def main() -> None:
    global FOLDER
    FOLDER = Path(sys.argv[1])
    torch.set_num_threads(1)
    np.random.seed(0)
    with joined("cpu") as world:
        for name in sys.argv[2:]:
            found = globals()[name](world)
            if world.is_first:
                torch.save(found, FOLDER / f"{name}-{world.ranks}.pt")
            world.wait()


if __name__ == "__main__":
    main()
