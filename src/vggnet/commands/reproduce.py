"""`vggnet reproduce`: the paper's grid, or its plan."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vggnet.commands.arguments import (
    DATA,
    choose_engine,
    device_flag,
    device_of,
    fast_flag,
    net_flags,
    opened,
    parallel_flags,
    parallel_of,
    parts_of,
    readable,
    reading_flags,
    say,
    workers_of,
)
from vggnet.errors import InputError
from vggnet.graph import TABLES, Settings
from vggnet.rivals import RIVALS

if TYPE_CHECKING:
    from vggnet.parts import Dataset


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", metavar="DATA", help=f"the data set: {DATA}; imagenet with --plan needs no images"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for results and report")
    parser.add_argument(
        "--only",
        help=f'part of the grid, such as "table 3, D": of {", ".join(TABLES)} and of the nets; '
        "results and report are then of this part",
    )
    parser.add_argument(
        "--rivals",
        action="store_true",
        help=f"train and test the nets that Table 7 compares with too: {', '.join(RIVALS)}",
    )
    parser.add_argument(
        "--plan", action="store_true", help="print every run and its estimated cost, start nothing"
    )
    parser.add_argument(
        "--on",
        metavar="MACHINE",
        help="with --plan: another machine's times: h200, or the file that benchmarks/gpu/grid.py "
        "wrote on one (default: this machine's, timed for a moment)",
    )
    parser.add_argument("--gpus", type=int, help="with --on: so many GPUs train a net (default 1)")
    net_flags(parser)
    parser.add_argument("--epochs", type=int, help="at most so many a net")
    parser.add_argument("--batch-size", type=int, help="images a step")
    parser.add_argument("--seed", type=int, default=0, help="of all runs (default 0)")
    parser.add_argument(
        "--precision",
        default="float32",
        help="of training: float32 (default), or bfloat16 on a GPU",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time, each a process (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    reading_flags(parser, "leave out and list those that go bad while a net trains")
    parallel_flags(parser)
    device_flag(parser)
    fast_flag(parser)


def run(args: argparse.Namespace) -> None:
    if args.jobs < 1:
        raise InputError(f"jobs {args.jobs} is not 1 or more")
    settings = Settings(
        crop=args.crop,
        width=args.width,
        epochs=args.epochs,
        batch_size=args.batch_size,
        precision=args.precision,
        seed=args.seed,
        only=args.only,
        rivals=args.rivals,
    )
    if args.gpus is not None and args.on is None:
        raise InputError("--gpus is for a plan of another machine: give --on h200 too")
    if args.on is not None and not args.plan:
        raise InputError("--on is for a plan: give --plan too")
    if args.plan:
        _plan(args, settings)
        return

    from vggnet import report
    from vggnet.distributed import joined
    from vggnet.files import check_writable
    from vggnet.reproduce import reproduce

    log = None if args.json else say
    device = device_of(args)
    check_writable(args.out / "results.json")
    whole = opened(args.data)
    with joined(device) as world:
        parallel = parallel_of(args, world)
        with world.one_first():
            data = readable(whole, parts_of(args.out), args, args.out)
        choose_engine(args, device)
        results = reproduce(
            data,
            args.out,
            settings,
            device=device,
            jobs=args.jobs,
            workers=workers_of(args, data.train.images, device, args.jobs),
            on_bad_image=args.on_bad_image or "skip",
            log=log,
            world=world,
            parallel=parallel,
        )
        if not world.is_first:
            return
    if args.json:
        print(json.dumps(results, indent=1, ensure_ascii=False))
    else:
        print(f"\n{report.text(results)}\n\nreport: {args.out / 'report.html'}")
        if missing := _size(whole) - _size(data):
            print(f"left out: {missing:,} of {_size(whole):,} images, which cannot be read")


def _size(data: "Dataset") -> int:
    return len(data.train) + len(data.validation) + len(data.test)


def _plan(args: argparse.Namespace, settings: Settings) -> None:
    from vggnet import plan
    from vggnet.graph import grid
    from vggnet.machines import AtHand, Machine, elsewhere

    machine: Machine
    if args.on is None:
        machine = AtHand(device_of(args), args.precision)
    else:
        machine = elsewhere(args.on, 1 if args.gpus is None else args.gpus, args.precision)
    without = args.data == plan.ILSVRC_2012.name and not Path(args.data).exists()
    facts = plan.ILSVRC_2012 if without else plan.Facts.of(opened(args.data))
    steps = plan.plan(
        grid(facts.name, facts.num_classes, facts.flip, settings), facts, args.out, machine
    )
    if args.json:
        print(json.dumps(plan.to_json(steps), indent=1))
    else:
        print(plan.text(steps, facts, machine))
