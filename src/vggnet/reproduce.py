"""The paper's runs on the user's data, in order, each from the weights it starts from."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vggnet import __version__, checkpoint, paper, recipes, report
from vggnet.accounting import account
from vggnet.configs import TABLE_1, Config
from vggnet.datasets import Dataset
from vggnet.errors import InputError
from vggnet.evaluate import Result, evaluate
from vggnet.recipes import TrainConfig, in_proportion
from vggnet.train import METRICS, best_device, train


@dataclass(frozen=True, slots=True)
class Run:
    """A node of the graph: a training run and the run whose weights it starts from."""

    config: TrainConfig
    parent: "Run | None" = None

    @property
    def name(self) -> str:
        """The run's folder: net and S."""
        return f"{self.config.model.title}-S{self.config.S}"


def graph(
    data: Dataset,
    *,
    crop: int = recipes.DIGITS_CROP,
    width: float = recipes.DIGITS_WIDTH,
    epochs: int | None = None,
    seed: int = 0,
) -> list[Run]:
    """Table 3's runs at S = 256, parents first: A from random weights, the others staged from A.

    Raises:
        InputError: on a value that makes no net or no run.
    """
    options = Config("A", num_classes=len(data.class_names), crop=crop, width=width)

    def finish(recipe: TrainConfig) -> TrainConfig:
        recipe = recipes.on_digits(recipe)
        recipe = replace(recipe, seed=seed, flip=recipe.flip and data.flip)
        return recipe if epochs is None else replace(recipe, epochs=epochs)

    a = Run(finish(recipes.a_256(options)))
    deeper = [finish(recipes.deeper_256(replace(options, net=net))) for net in TABLE_1[1:]]
    return [a, *(Run(config, parent=a) for config in deeper)]


def reproduce(
    data: Dataset,
    out: str | Path,
    *,
    crop: int = recipes.DIGITS_CROP,
    width: float = recipes.DIGITS_WIDTH,
    epochs: int | None = None,
    seed: int = 0,
    device: str | None = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Trains and tests the six nets as in Table 3, and writes `results.json` and `report.html`.

    Stopped and called again, it goes on where it was, and its results are those of a run that was
    never stopped. Finished runs with the same recipe are used as they are.

    Args:
        data: the data set.
        out: folder for the results, the report, and a folder a run under `runs/`.
        crop: side of the crop in pixels, a multiple of 32; S and Q are in proportion.
        width: multiplies the nets' channels.
        epochs: at most so many a net, instead of the recipe's.
        seed: of all runs.
        device: where to train, as in `train`.
        log: gets a line a finished net.

    Returns:
        What `results.json` holds.

    Raises:
        InputError: for values that make no run, or a folder that holds runs of another recipe.
        RunError: when a loss is not finite.
    """
    out = Path(out)
    runs = graph(data, crop=crop, width=width, epochs=epochs, seed=seed)
    say = log or (lambda _: None)
    weights: dict[str, Path] = {}
    dense: list[Result] = []
    centre: list[Result] = []
    for number, run in enumerate(runs, start=1):
        parent = weights[run.parent.name] if run.parent else None
        label = f"{number}/{len(runs)} {run.config.model.net}"
        folder = out / "runs" / run.name
        weights[run.name] = train(
            run.config, data, folder, parent=parent, device=device, label=label
        )
        model = checkpoint.load(weights[run.name]).to(device or best_device())
        scales = [in_proportion(256, crop)]
        dense.append(evaluate(model, data.test, scales=scales, flips=data.flip))
        centre.append(evaluate(model, data.test, scales=scales, method="centre-crop", flips=False))
        start = (
            f"staged from {run.parent.config.model.net}" if run.parent else "from random weights"
        )
        say(f"{label}, {start}: top-1 error {dense[-1].top1:.1f} %")
    results = {
        "versions": {"vggnet": __version__, "torch": torch.__version__},
        "dataset": {
            "name": data.name,
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
        },
        "runs": [
            {
                "name": run.name,
                "parent": run.parent.name if run.parent else None,
                "recipe": run.config.to_json(),
            }
            for run in runs
        ],
        "parameters": [_parameters(run.config.model) for run in runs],
        "rows": [_table_3(result) for result in dense],
        "centre_crop": [result.to_json() for result in centre],
    }
    curves = {run.config.model.net: read_metrics(out / "runs" / run.name) for run in runs}
    page = report.html(results, curves)
    _write(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    _write(out / "report.html", page)
    return results


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


def _parameters(model: Config) -> dict[str, Any]:
    """Table 2's row: the paper's millions, our count of the paper's net, and of this run's."""
    return {
        "table": 2,
        "net": model.net,
        "paper_millions": paper.PARAMETERS_MILLIONS[model.net],
        "counted": account(Config(model.net)).parameters,
        "here": account(model).parameters,
    }


def _table_3(result: Result) -> dict[str, Any]:
    protocol = asdict(result.protocol)
    row = next(r for r in paper.TABLE_3 if r.net == protocol["net"] and r.S == 256)
    return {
        "table": 3,
        **protocol,
        "n": result.n,
        "top1": result.top1,
        "top1_interval": result.top1_interval,
        "top5": result.top5,
        "top5_interval": result.top5_interval,
        "paper": {"S": row.S, "Q": row.Q, "top1": row.top1, "top5": row.top5},
    }


def _write(path: Path, text: str) -> None:
    checkpoint.write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
