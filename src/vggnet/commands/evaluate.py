"""`vggnet evaluate`: the error of one net, or of several fused."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from vggnet.commands.arguments import (
    DATA,
    choose_engine,
    device_flag,
    device_of,
    fast_flag,
    numbers,
    opened,
    readable,
    reading_flags,
    workers_of,
)
from vggnet.protocols import Method

if TYPE_CHECKING:
    from vggnet.parts import Dataset
    from vggnet.passes import Posteriors
    from vggnet.scoring import Result


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        type=Path,
        nargs="+",
        help="files that training wrote; the posteriors of several are averaged (fusion)",
    )
    parser.add_argument("data", metavar="DATA", help=f"the data set: {DATA}")
    parser.add_argument(
        "--method",
        default="dense",
        help=f"{', '.join(get_args(Method))} (default dense)",
    )
    parser.add_argument(
        "--scales",
        help="test scales Q in pixels, separated by commas; posteriors are averaged over them "
        "(default: each net's S, the middle of its range where it is jittered)",
    )
    parser.add_argument(
        "--averaging", default="scores", help="over the dense map: scores (default) or posteriors"
    )
    parser.add_argument(
        "--no-flips", action="store_true", help="without mirrored images; a centre crop has none"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="save posteriors and what every image was taken for: .npz, or .parquet",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep posteriors in this folder, and use them"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    reading_flags(parser, "and when they go bad in the course of it")
    device_flag(parser)
    fast_flag(parser)


def run(args: argparse.Namespace) -> None:
    from vggnet import checkpoint, predictions
    from vggnet.distributed import joined
    from vggnet.files import check_writable

    scales = None if args.scales is None else _scales(args.scales)
    if args.out is not None:
        predictions.check(args.out)
    if args.cache is not None:
        check_writable(args.cache / "posteriors")
    for path in args.weights:
        checkpoint.read_header(path)
    device = device_of(args)
    whole = opened(args.data)
    with joined(device) as world:
        with world.one_first():
            data = readable(whole, ("test",), args)
        choose_engine(args, device)
        found, posteriors, seconds = predictions.evaluate_files(
            args.weights,
            data,
            scales=scales,
            method=args.method,
            averaging=args.averaging,
            flips=data.flip and not args.no_flips and args.method != "centre-crop",
            device=device,
            cache=args.cache,
            workers=workers_of(args, data.train.images, device),
            on_bad=_say if args.on_bad_image == "skip" else None,
            progress=True,
            world=world,
        )
        if world.is_first:
            _print(args, found, posteriors, data, seconds)


def _print(
    args: argparse.Namespace,
    found: "Result",
    posteriors: "Posteriors",
    data: "Dataset",
    seconds: float | None,
) -> None:
    from vggnet import predictions

    if args.out is not None:
        predictions.save(args.out, posteriors, data, found.protocol)
    if args.json:
        more = {"views_per_image": found.protocol.views, "data": data.name, "part": "test"}
        print(json.dumps(found.to_json() | more, indent=1))
        return
    print(f"test part of {data.name}:")
    print(found)
    print(_cost(found, seconds))
    if text := predictions.confusions(posteriors, data):
        print(text)
    if args.out is not None:
        print(f"posteriors and predictions: {args.out}")


def _say(_: int, reason: str) -> None:
    from vggnet.distributed import is_first

    if is_first():
        print(f"left out: {reason}", file=sys.stderr)


def _cost(result: "Result", seconds: float | None) -> str:
    views = result.protocol.views
    speed = "" if seconds is None else f", {result.n / seconds:.1f} images/s"
    giga = (result.multiply_adds_per_image or 0) / 1e9
    return (
        f"cost: {_count(result.forwards_per_image or 0, 'forward')} an image for "
        f"{_count(views, 'view')}, {giga:.3g} billion multiply-adds{speed}"
    )


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}{'s' * (number != 1)}"


def _scales(text: str) -> list[int]:
    return numbers("scales", text, "whole numbers of pixels, such as 32,36")
