"""The paper's grid on Fashion-MNIST at the paper's width, in pieces of some minutes of a GPU.

    PYTHONPATH=src python3 benchmarks/gpu/fashion.py OUT --nets A,D,E --minutes 7
    PYTHONPATH=src python3 benchmarks/gpu/fashion.py OUT --merge FOLDER ...

The first trains and tests the runs of these nets, and those that they start from, several at a time
on one GPU, in `--runs`; called again there it goes on where time was up. OUT gets `progress.json`
and, of each run that is done, an archive of what the report needs, without the weights. Archives
are kept with the results: the second, on any machine, unpacks those of several pieces and writes
the report into OUT; of a run that two pieces have, the first counts. `--plan` says what a piece
takes.

The runs are `adaptations.on_fashion_mnist_in_full`'s; with `--data cifar-10:DIR`,
`adaptations.on_cifar_10_in_full`'s (another data set, another `--runs`). D-BN and E-BN are
departures, beside the grid: see `with_departures`. Validation images decide alone; of the tests
none goes back into training.

`--small --device cpu` runs the same code on little: its times and errors say nothing.
"""

import argparse
import json
import platform
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pieces import TESTED, is_done, pack, report, unpack

import vggnet
from vggnet.accounting import account
from vggnet.cache import PosteriorCache, note_sha256
from vggnet.datasets import open_dataset
from vggnet.files import sha256
from vggnet.graph import Grid, Member, Row, Run, Settings, grid
from vggnet.parts import Dataset, Part
from vggnet.protocols import Method, multi_scale
from vggnet.recipes import in_proportion
from vggnet.results import weights_of
from vggnet.train import train
from vggnet.workers import Task, run_all

SMALL = 16
"""Images of each part with --small."""
_TO_BEGIN = 60.0
"""Seconds that must be left for a training to begin: compiling takes most of them."""
_FLOPS, _START, _EPOCH = 2.5e14, 45.0, 1.0
"""For --plan, estimates: operations a second, seconds to compile, and to validate and save."""
_SLOWER = 4
"""Table 7's other nets have large strides and few channels: more memory for each operation."""


class TimeIsUpError(Exception):
    pass


def with_departures(whole: Grid, settings: Settings) -> Grid:
    """The grid, and D and E as a VGG net is trained today where that needs no other code.

    Departures: batch normalisation; random weights to begin with, so no net A; S from [224;288]
    instead of [256;512], whose crops miss most of a garment; half of the crops have a rectangle
    erased. Two schedules: §3.1's plateaus, with a rate of 2e-2, 60 epochs at most, 4 without a gain
    being a plateau; and a cosine from a rate of 5e-2 over 90 epochs. Tested at {224, 256, 288},
    alone and D and E together.
    """
    base = whole.runs[0].config
    crop = base.model.crop
    plateau = replace(
        base,
        S=(crop, in_proportion(288, crop)),
        learning_rate=2e-2,
        erase=0.5,
        epochs=60,
        patience=4,
    )
    cosine = replace(plateau, learning_rate=5e-2, epochs=90, schedule="cosine")
    runs: list[Run] = []
    rows: list[Row] = []
    methods: tuple[Method, ...] = ("dense", "multi-crop", "multi-crop+dense")
    for recipe in (plateau, cosine):
        members: list[Member] = []
        for net in "DE":
            config = replace(recipe, model=replace(base.model, net=net, batch_norm=True))
            if settings.epochs is not None:
                config = replace(config, epochs=settings.epochs)
            members.append(Member(Run(config, (224, 288)), multi_scale(config.S, crop)))
        runs += [member.run for member in members]
        rows += [
            Row("departure", nets, method, whole.rows[0].flips)
            for nets in (*((member,) for member in members), tuple(members))
            for method in methods
        ]
    return Grid((*whole.runs, *runs), (*whole.rows, *rows))


@dataclass(frozen=True, slots=True)
class Training:
    run: Run
    out: Path
    workers: int
    until: float
    """By `time.time()`, which all processes share."""

    def __call__(self, data: Dataset, device: str, say: Callable[[str], None]) -> None:
        run = self.run
        parent = None if run.parent is None else weights_of(self.out, run.parent)
        if parent is not None and not parent.exists():
            say(f"not begun: {parent} is not there")
            return
        if self.until - time.time() < _TO_BEGIN and not weights_of(self.out, run).exists():
            say("not begun: time is nearly up")
            return
        start = time.monotonic()
        try:
            train(
                run.config,
                data,
                self.out / "runs" / run.name,
                parent=parent,
                device=device,
                log=say,
                progress=False,
                workers=self.workers,
            )
        except Exception as error:  # the other runs go on
            say(f"failed: {type(error).__name__}: {error}")
        else:
            say(f"trained, {time.monotonic() - start:.1f} s in this call")


@dataclass(frozen=True, slots=True)
class Testing:
    run: Run
    whole: Grid
    out: Path

    def __call__(self, data: Dataset, device: str, say: Callable[[str], None]) -> None:
        run, weights = self.run, weights_of(self.out, self.run)
        if not weights.exists():
            return
        start = time.monotonic()
        terms = self.whole.terms(run)
        cache = PosteriorCache(self.out / "posteriors")
        try:
            # Crops of validation images are left out: they take as long as all else together.
            few = [term for term in terms if term.method != "multi-crop"]
            # One at a time: what is measured when time is up is kept.
            for part, wanted in ((data.validation, few), (data.test, terms)):
                for term in wanted:
                    cache.measure([weights], part, [[term]], device=device)
        except Exception as error:
            say(f"tests failed: {type(error).__name__}: {error}")
            return
        seconds = round(time.monotonic() - start, 1)
        parent = None if run.parent is None else sha256(weights_of(self.out, run.parent))
        told = {
            "weights": note_sha256(weights),
            "parent": parent,
            "test_seconds": seconds,
            "machine": machine(device),
            "torch": torch.__version__,
        }
        (weights.parent / TESTED).write_text(json.dumps(told, indent=1) + "\n")
        say(f"tested, {seconds} s")


def machine(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()


def chosen(whole: Grid, nets: str | None) -> list[Run]:
    """The runs of these nets and those that they start from; the longest chains first."""
    known = dict.fromkeys(_called(run) for run in whole.runs)
    wanted = set(known) if nets is None else {net.strip() for net in nets.split(",")}
    if unknown := wanted - known.keys():
        raise vggnet.InputError(f"nets {', '.join(sorted(unknown))}: take of {', '.join(known)}")
    needed = {other for run in whole.runs if _called(run) in wanted for other in run.lineage()}

    def urgency(run: Run) -> float:
        after = [urgency(other) for other in whole.runs if other.parent == run and other in needed]
        return seconds_of(run, 1) + max(after, default=0.0)

    runs = [run for run in whole.runs if run in needed]
    # Departures last: the paper's own rows come first.
    return sorted(runs, key=lambda run: (run.config.model.batch_norm, -urgency(run)))


def _called(run: Run) -> str:
    """By what `--nets` asks for it: the net, and of a departure's schedule."""
    return run.config.model.title + "-cosine" * (run.config.schedule == "cosine")


def seconds_of(run: Run, images: int) -> float:
    """What a training takes at most, alone on the GPU: an estimate for --plan."""
    step = 6 * account(run.config.model).multiply_adds  # forward and twice that backward
    if not run.config.model.is_vgg:
        step *= _SLOWER
    return _START + run.config.epochs * (_EPOCH + images * step / _FLOPS)


def tests_of(run: Run, whole: Grid, images: int) -> float:
    model = run.config.model
    total = 0
    for term in whole.terms(run):
        windows = term.windows(term.Q, term.Q, model.crop)
        shape = next(iter(windows))[2:]
        total += (1 + term.flips) * len(windows) * account(model, shape).multiply_adds
    return 2 * total * images / (_FLOPS / 3)  # TF32, not compiled


def plan(runs: Sequence[Run], whole: Grid, data: Dataset) -> str:
    lines = []
    total = 0.0
    for run in runs:
        training = seconds_of(run, len(data.train))
        tests = tests_of(run, whole, len(data.test))
        total += training + tests
        lines.append(
            f"{run.name:14} {run.start:32} {run.config.epochs:3} epochs at most: "
            f"{training:4.0f} s, tests {tests:3.0f} s"
        )
    lines.append(f"one after the other {total:.0f} s; estimated, not measured")
    return "\n".join(lines)


def setting(data: str, *, small: bool) -> tuple[Dataset, Settings, Grid]:
    """The data set, how it is learnt, and everything that may be asked for."""
    found = open_dataset(data)
    settings = Settings(width=1.0, precision="bfloat16")
    if small:
        train, validation, test = (
            Part(part.images[:SMALL], part.labels[:SMALL])
            for part in (found.train, found.validation, found.test)
        )
        found = replace(found, train=train, validation=validation, test=test)
        settings = Settings(width=1 / 32, epochs=1)
    whole = grid(found.name, len(found.class_names), found.flip, settings)
    return found, settings, with_departures(whole, settings)


def work(args: argparse.Namespace, whole: Grid, data: Dataset, end: float) -> None:
    """Trains and tests until all is done or time is up."""
    runs = chosen(whole, args.nets)
    lines: list[tuple[float, str, str]] = []
    began = time.time()

    def log(name: str, text: str) -> None:
        lines.append((round(time.time() - began, 1), name, text))
        print(*lines[-1], flush=True)
        progress = {
            "machine": machine(args.device),
            "torch": torch.__version__,
            "vggnet": vggnet.__version__,
            "jobs": args.jobs,
            "done": [run.name for run in runs if is_done(run, args.runs)],
            "lines": lines,
        }
        (args.out / "progress.json").write_text(json.dumps(progress, indent=1) + "\n")

    def keep(run: Run) -> None:
        if is_done(run, args.runs):
            pack(run, args.runs, args.out)

    def done(name: str) -> None:
        if name.endswith(" tests"):
            keep(next(run for run in runs if f"{run.name} tests" == name))

    left = [run for run in runs if not is_done(run, args.runs)]
    # A run that is done stays a parent; tests first, for what is tested is not lost.
    tests = [Task(f"{run.name} tests", Testing(run, whole, args.runs), (run.name,)) for run in left]
    trainings = [
        Task(
            run.name,
            Training(run, args.runs, args.workers, time.time() + end - time.monotonic()),
            (run.parent.name,) if run.parent in left else (),
        )
        for run in left
    ]

    def over(*_: object) -> None:
        raise TimeIsUpError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, end - time.monotonic()))
    try:
        if left:
            run_all(
                [*tests, *trainings],
                data,
                workers=args.jobs,
                device=args.device,
                log=log,
                done=done,
            )
    except TimeIsUpError:
        log("all", "time is up: the same command goes on")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for run in runs:
        if not (args.out / f"{run.name}.tar.xz").exists():  # of an earlier call
            keep(run)
    log("all", "end")


def main(
    arguments: Sequence[str] | None = None,
    *,
    title: str = (__doc__ or "").splitlines()[0],
    runs: Path = Path("runs/fashion"),
    made: Callable[..., tuple[Dataset, Settings, Grid]] = setting,
    told: Callable[[Grid, Dataset, Settings, Path], None] = report,
) -> None:
    """The command line, of this script and of table7.py.

    Args:
        arguments: those of the process by default.
        title: what it is for.
        runs: default of --runs.
        made: as `setting`.
        told: as `pieces.report`.
    """
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="fashion-mnist", help="as of `vggnet train`")
    parser.add_argument("--runs", type=Path, default=runs, help="weights, states")
    parser.add_argument("--nets", help="such as A,D,E,D-BN-cosine; all of them by default")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--jobs", type=int, default=3, help="runs at a time")
    parser.add_argument("--workers", type=int, default=4, help="processes that crop, a run")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args(arguments)
    data, settings, whole = made(args.data, small=args.small)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.plan:
        print(plan(chosen(whole, args.nets), whole, data))
    elif args.merge:
        unpack(args.merge, args.out)
        told(whole, data, settings, args.out)
    else:
        work(args, whole, data, start + 60 * args.minutes)


if __name__ == "__main__":
    main()
