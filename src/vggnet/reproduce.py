"""The paper's grid on the user's data: runs its graph and writes the results."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vggnet import report, roll
from vggnet.accounting import account
from vggnet.cache import PosteriorCache
from vggnet.distributed import World
from vggnet.errors import InputError
from vggnet.evaluate import check_scales
from vggnet.files import write_atomically
from vggnet.graph import Grid, Run, Settings, grid
from vggnet.loop import OnBadImage
from vggnet.parts import Dataset
from vggnet.protocols import Term
from vggnet.readers import default_workers
from vggnet.results import results_of, weights_of
from vggnet.runs import read_metrics
from vggnet.step import Parallel
from vggnet.train import best_device, train
from vggnet.workers import Task, run_all

_ALONE = World()


def reproduce(
    data: Dataset,
    out: str | Path,
    settings: Settings | None = None,
    *,
    device: str | None = None,
    jobs: int = 1,
    workers: int | None = None,
    on_bad_image: OnBadImage = "skip",
    log: Callable[[str], None] | None = None,
    world: World = _ALONE,
    parallel: Parallel | None = None,
) -> dict[str, Any]:
    """Trains and tests the paper's grid, and writes results.json, report.html and report.md.

    Stopped and called again, it goes on where it was, and its results are those of a reproduction
    that was never stopped. Finished runs with the same recipe are used as they are, and so are
    posteriors that were computed before (`PosteriorCache`).

    Args:
        data: the data set.
        out: folder for the results, a folder a run under `runs/`, and posteriors under
            `posteriors/`.
        settings: sizes, seed, and which part of the grid.
        device: where to compute, as in `train`.
        jobs: nodes at a time, each in a process of its own that has its share of the CPU's
            threads (sums then differ in their last bits from those of one job). A script that
            asks for more than one needs `if __name__ == "__main__":`.
        workers: processes that read images, for each job; by default `readers.default_workers`.
        on_bad_image: as in `train`; an image that cannot be read in the tests is an error.
        log: gets a line a finished run.
        world, parallel: processes that train and test each net together, as in `train`; one job
            at a time.

    Returns:
        What `results.json` holds; the first rank writes it.

    Raises:
        InputError: for values that make no run, or a folder that holds runs of another recipe.
        RunError: when a loss is not finite.
    """
    if world.ranks > 1 and jobs > 1:
        raise InputError(
            f"jobs {jobs}: the processes that torchrun started work on one net together; leave "
            "--jobs out, or torchrun"
        )
    out = Path(out)
    settings = settings or Settings()
    data = roll.restored(roll.find(out), data)
    whole = grid(data.name, len(data.class_names), data.flip, settings)
    for run in whole.runs:  # before any work
        check_scales(run.config.model, [term.Q for term in whole.terms(run)])
        if parallel is not None and parallel.fc > 1:
            run.config.model.check_vgg("fc-parallel")
    device = device or best_device()
    if workers is None:
        workers = default_workers(data.train.images, device, jobs)
    nodes = {
        run.name: _Node(
            run, tuple(whole.terms(run)), out, workers, on_bad_image, world, parallel or Parallel()
        )
        for run in whole.runs
    }
    _run(whole, nodes, data, out, device, jobs, log or (lambda _: None))
    if not world.is_first:
        return results_of(whole, data, settings, out)
    return write_results(whole, data, settings, out)


def write_results(whole: Grid, data: Dataset, settings: Settings, out: Path) -> dict[str, Any]:
    """Writes results.json, report.html and report.md of a grid whose runs are measured.

    Weights need not be there where their hashes are noted (`cache.note_sha256`).

    Args:
        whole: the grid, or a part of it.
        data: the data set.
        settings: that the grid was made from.
        out: the reproduction's folder.

    Returns:
        What `results.json` holds.
    """
    results = results_of(whole, data, settings, out)
    metrics = {run.name: read_metrics(out / "runs" / run.name) for run in whole.runs}
    _write(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    _write(out / "report.md", report.markdown(results))
    # Its pictures last: one of them may not be there any more.
    mistakes = [data.test.images[mistake["index"]] for mistake in results["mistakes"]]
    _write(out / "report.html", report.html(results, metrics, mistakes))
    return results


@dataclass(frozen=True, slots=True)
class _Node:
    """A run to be trained where it is not, and measured where it was not."""

    run: Run
    terms: tuple[Term, ...]
    out: Path
    workers: int
    on_bad_image: OnBadImage
    world: World
    parallel: Parallel

    def __call__(
        self,
        data: Dataset,
        device: str,
        say: Callable[[str], None],
        label: str | None = None,
        progress: bool = False,
    ) -> None:
        run = self.run
        parent = None if run.parent is None else weights_of(self.out, run.parent)
        weights = train(
            run.config,
            data,
            self.out / "runs" / run.name,
            parent=parent,
            device=device,
            log=say,
            label=label,
            progress=progress,
            workers=self.workers,
            on_bad_image=self.on_bad_image,
            world=self.world,
            parallel=self.parallel,
        )
        cache = PosteriorCache(self.out / "posteriors")
        cache.measure(
            [weights],
            data.test,
            [self.terms],
            device=device,
            workers=self.workers,
            label=f"{label} tests",
            progress=progress,
            world=self.world,
        )


def _run(
    whole: Grid,
    nodes: dict[str, _Node],
    data: Dataset,
    out: Path,
    device: str,
    jobs: int,
    log: Callable[[str], None],
) -> None:
    """Every run of the grid, trained and measured."""
    runs = {run.name: run for run in whole.runs}

    def finished(name: str) -> None:
        run = runs[name]
        folder = out / "runs" / name
        epochs = [record for record in read_metrics(folder) if record["kind"] == "validation"]
        if not epochs:
            raise InputError(f"{folder}: its metrics hold no epoch; delete it to train anew")
        last = epochs[-1]
        number = f"{list(runs).index(name) + 1}/{len(runs)}"
        count = last["epoch"] + 1
        log(
            f"{number} {name}, {run.start}: {count} {'epoch' if count == 1 else 'epochs'}, "
            f"validation error {last['error']:.1f} %"
        )

    if jobs == 1:
        for number, (name, node) in enumerate(nodes.items(), start=1):
            label = f"{number}/{len(nodes)} {name}"
            node(data, device, lambda _: None, label=label, progress=True)
            finished(name)
        return
    order = sorted(nodes, key=partial(_urgency, whole), reverse=True)
    tasks = [
        Task(name, nodes[name], (parent.name,) if (parent := runs[name].parent) else ())
        for name in order
    ]
    epochs = {name: run.config.epochs for name, run in runs.items()}
    bar = tqdm(total=sum(epochs.values()), unit="epoch", desc="grid", leave=False, disable=None)

    def line(name: str, text: str) -> None:
        epochs[name] -= 1
        bar.update()
        bar.set_postfix_str(f"{name} {text}")

    def done(name: str) -> None:
        bar.update(epochs[name])  # those that a plateau spared, or that an earlier call did
        finished(name)

    with bar:
        run_all(tasks, data, workers=jobs, device=device, log=line, done=done)


def _urgency(whole: Grid, name: str) -> float:
    """Multiply-adds from the start of a run to the end of the longest chain that hangs on it."""
    run = next(run for run in whole.runs if run.name == name)
    children = [_urgency(whole, other.name) for other in whole.runs if other.parent == run]
    return account(run.config.model).multiply_adds * run.config.epochs + max(children, default=0)


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
