"""`vggnet plan`: what training on several GPUs will take."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from vggnet.configs import NETS, Config
from vggnet.errors import InputError
from vggnet.info import align
from vggnet.recipes import PAPER_CROP
from vggnet.scaling import Cluster, Step, modes


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--net", default="D", help=f"{', '.join(NETS)} (default D)")
    parser.add_argument("--gpus", type=int, required=True, help="of all hosts together")
    parser.add_argument("--gpus-per-host", type=int, default=8, help="default: 8")
    parser.add_argument(
        "--network", type=float, default=100.0, help="Gb/s of a host's interface (default 100)"
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=256,
        help="images a step of all GPUs together (default 256, the paper's)",
    )
    parser.add_argument(
        "--images-per-second",
        type=float,
        metavar="X",
        help="of one GPU in training, at the batch that it will have (default: an H200's)",
    )
    parser.add_argument(
        "--loading", type=float, metavar="X", help="images a second that a host reads"
    )
    parser.add_argument(
        "--crop",
        type=int,
        default=PAPER_CROP,
        help=f"side in pixels, a multiple of 32 (default {PAPER_CROP})",
    )
    parser.add_argument(
        "--images", type=int, default=1_281_167, help="of an epoch (default: ILSVRC-2012's)"
    )
    parser.add_argument("--epochs", type=int, default=74, help="default: 74 (§3.1)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    for name in ("images", "epochs"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)} is not 1 or more")
    cluster = Cluster(args.gpus, args.gpus_per_host, args.network)
    config = Config(args.net, crop=args.crop)
    steps = modes(
        config,
        args.batch,
        cluster,
        images_per_second=args.images_per_second,
        loading=args.loading,
    )
    seen = args.images * args.epochs
    best = min(steps, key=lambda step: step.seconds)
    if args.json:
        rows = [{"mode": step.mode, "hours": _hours(step, seen), **asdict(step)} for step in steps]
        head = {"net": args.net, "crop": args.crop, "batch": args.batch}
        print(json.dumps({**head, **asdict(cluster), "rows": rows, "best": best.mode}, indent=1))
        return
    hosts = f"{cluster.hosts} host{'s' * (cluster.hosts > 1)}"
    print(
        f"Net {args.net}, crop {args.crop}, batch {args.batch}; GPUs: {cluster.gpus} in {hosts}, "
        f"{args.network:g} Gb/s a host. Predicted, not measured (docs/scaling.md).\n"
    )
    print(_table(steps, seen, args.epochs))
    gain = best.images_per_second / steps[0].images_per_second
    note = f", {gain:.2f} times plain" * (best is not steps[0])
    if best.seconds == best.reading:
        note += ", limited by reading"
    per_host = best.images_per_second / cluster.hosts
    print(f"\nBest: {best.mode}{note}. Each host then reads {per_host:,.0f} images a second.")


def _hours(step: Step, seen: int) -> float:
    return seen / step.images_per_second / 3600


def _table(steps: Sequence[Step], seen: int, epochs: int) -> str:
    """A row a mode: megabytes a step, milliseconds by part, images a second, hours."""
    rows = [
        ["", "MB sent", "MB out of", "ms", "ms gradients", "ms", "ms", "", "effi-", "hours,"],
        [
            *("", "by a GPU", "a host", "compute", "(exposed)", "exchange", "a step"),
            *("images/s", "ciency", f"{epochs} epochs"),
        ],
    ]
    for step in steps:
        total = step.traffic.total
        rows.append(
            [
                step.mode,
                f"{total.sent / 1e6:.1f}",
                f"{total.crossing / 1e6:.1f}",
                f"{1000 * step.compute:.2f}",
                f"{1000 * step.gradients:.2f} ({1000 * step.exposed:.2f})",
                f"{1000 * step.exchange:.2f}",
                f"{1000 * step.seconds:.2f}",
                f"{step.images_per_second:,.0f}",
                f"{100 * step.efficiency:.1f} %",
                f"{_hours(step, seen):.3g}",
            ]
        )
    return align(rows)
