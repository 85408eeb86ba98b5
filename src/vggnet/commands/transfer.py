"""`vggnet transfer`: a linear SVM on a frozen net's descriptors (Appendix B)."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggnet import paper
from vggnet.commands.arguments import (
    choose_engine,
    device_flag,
    device_of,
    fast_flag,
    numbers,
    say,
    workers_flag,
    workers_of,
)
from vggnet.errors import InputError
from vggnet.info import align

if TYPE_CHECKING:
    from vggnet.splits import Splits
    from vggnet.transfer import Results

_DATA_SETS = ["VOC-2007", "VOC-2012", "Caltech-101", "Caltech-256"]
"""Of Table 11."""


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        type=Path,
        nargs="+",
        help="weight files of one net; of several each is taken alone, and all stacked",
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="digits, fashion-mnist, fashion-mnist:DIR, cifar-10:DIR, cifar-100:DIR, a folder with "
        "train/ and val/ or test/, one with a folder for each class, or a VOC root (ImageSets and "
        "JPEGImages)",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="for descriptors and transfer.json. The same command goes on where it stopped",
    )
    parser.add_argument(
        "--protocol",
        help="own (the data set's split), voc, voc-action (of persons in boxes), caltech-101 (30 "
        "training and up to 50 test images of each class, 3 splits) or caltech-256 (60, the rest, "
        "3) (default: own, or voc's for a VOC root)",
    )
    parser.add_argument(
        "--train-per-class",
        type=int,
        metavar="N",
        help="draw so many training images of each class (default: all)",
    )
    parser.add_argument(
        "--test-per-class",
        type=int,
        metavar="M",
        help="and at most so many test images (default: all; without a test part, all the others)",
    )
    parser.add_argument("--splits", type=int, metavar="K", help="draw K times (default 1)")
    parser.add_argument("--seed", type=int, help="of all draws (default 0)")
    parser.add_argument(
        "--layer",
        default="relu7",
        help="whose map is averaged: relu7 (default), fc7 after its ReLU, or another, pool5 say",
    )
    parser.add_argument(
        "--scales",
        help="test scales Q in pixels, separated by commas (default: 256,384,512 and for VOC "
        "256,384,512,640,768, in proportion to the crop)",
    )
    parser.add_argument(
        "--over-scales", help="average or stack them (default: stack, and for VOC average)"
    )
    parser.add_argument("--no-flips", action="store_true", help="without mirrored images")
    parser.add_argument(
        "--C",
        metavar="GRID",
        help="values of the SVM's C to choose from, on a fifth of the training images (default "
        "0.01,0.1,1,10,100)",
    )
    workers_flag(parser)
    device_flag(parser)
    fast_flag(parser)


def run(args: argparse.Namespace) -> None:
    scales = None
    if args.scales is not None:
        scales = numbers("scales", args.scales, "whole numbers of pixels, such as 256,384,512")

    from vggnet import svm, transfer
    from vggnet.tasks import task_of

    svm.sklearn()
    grid = svm.GRID if args.C is None else _grid(args.C)
    task = task_of(args.data, args.protocol, _draw(args))
    recipe = transfer.recipe_of(
        args.weights,
        task,
        scales=scales,
        layer=args.layer,
        over_scales=args.over_scales,
        flips=not args.no_flips,
    )
    device = device_of(args)
    choose_engine(args, device)
    results = transfer.transfer(
        args.weights,
        task,
        recipe,
        args.out,
        grid=grid,
        device=device,
        workers=workers_of(args, next(iter(task.parts.values())).images, device),
        progress=True,
        log=say,
    )
    say(text(results))
    say(f"\nevery number: {args.out / 'transfer.json'}")


def _draw(args: argparse.Namespace) -> "Splits":
    """How images are drawn: as the protocol has it, but for what is said."""
    from vggnet.splits import DRAWS, Splits

    given = {
        "train_per_class": args.train_per_class,
        "test_per_class": args.test_per_class,
        "repetitions": args.splits,
        "seed": args.seed,
    }
    given = {key: value for key, value in given.items() if value is not None}
    return replace(DRAWS.get(args.protocol, Splits()), **given)


def _grid(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"C {text!r}: give numbers above 0, such as 0.1,1,10") from None


def text(results: "Results") -> str:
    """What was measured, in the layout of the paper's Table 11 or 12 and beside it."""
    protocol, recipe = results["protocol"], results["descriptors"]
    rows = results["rows"]
    splits = rows[0]["splits"]
    data, draw = results["data"], protocol["draw"]
    actions = protocol["name"] == "voc-action"
    how = f"{splits[0]['train']:,} training and {splits[0]['test']:,} test "
    how += "persons" if actions else "images"
    if draw["train_per_class"] or draw["test_per_class"]:
        times = f"{len(splits)} times" if len(splits) > 1 else "once"
        how += f", drawn {times} by seed {draw['seed']}"
    nets = [
        f"{net['net']}: crop {net['crop']}, width {net['width']:g}, trained on "
        f"{net['trained_on'] or 'unknown images'}"
        for net in results["nets"]
    ]
    measure = protocol["measure"]
    if protocol["average_precision"]:
        measure = f"{measure}, {protocol['average_precision']}"
    spread = "± standard deviation over the splits" if len(splits) > 1 else "95 % interval"
    lines = [
        f"{data['name']}, {len(data['classes'])} classes: {how}",
        *nets,
        f"{recipe['layer']} at Q={', '.join(map(str, recipe['scales']))}, "
        f"{'stacked' if recipe['over_scales'] == 'stack' else 'averaged'}, "
        f"{'with' if recipe['flips'] else 'without'} flips; linear SVM",
        f"{measure}, percent, {spread}",
        "to the right the paper's Table 12, of D & E trained on ILSVRC-2012"
        if actions
        else "to the right the paper's Table 11, of nets trained on ILSVRC-2012",
        "",
    ]
    head = ["", "length", "C", measure]
    other = {"11-point": "area", "area": "11-point"}.get(protocol["average_precision"])
    if other:
        head.append(f"mAP, {other}")
    data_sets = ["VOC-2012 action"] if actions else _DATA_SETS
    cells = [[*head, *data_sets]]
    for row in rows:
        chosen = ", ".join(f"{C:g}" for C in sorted({fit["C"] for fit in row["splits"]}))
        own = [row["name"], f"{row['length']:,}", chosen, _value(row)]
        if other:
            own.append(f"{row['splits'][0][other]:.1f}")
        cells.append([*own, *(_of_actions(row) if actions else _theirs(row["nets"]))])
    lines.append(align(cells))
    if len(protocol["C"]) > 1:
        ends = {protocol["C"][0], protocol["C"][-1]}
        for row in rows:
            if found := sorted(ends & {fit["C"] for fit in row["splits"]}):
                chosen = " and ".join(f"{C:g}" for C in found)
                lines.append(f"{row['name']}: C={chosen} is an end of the grid: widen it with --C")
    return "\n".join(lines)


def _value(row: dict[str, Any]) -> str:
    if row["sd"] is not None:
        return f"{row['value']:.1f}±{row['sd']:.1f}"
    low, high = row["splits"][0]["interval"]
    return f"{row['value']:.1f} [{low:.1f}, {high:.1f}]"


def _of_actions(row: dict[str, Any]) -> list[str]:
    """Table 12's number of a setting, which is of D & E stacked, beside every net."""
    return [str(paper.TABLE_12[row["setting"]]) if row["nets"] else "–"]


def _theirs(nets: list[str]) -> list[str]:
    for row in paper.TABLE_11:
        if list(row.nets) == nets:
            caltech = (f"{mean}±{sd}" for mean, sd in (row.caltech_101, row.caltech_256))
            return [str(row.voc_2007), str(row.voc_2012), *caltech]
    return ["–"] * 4
