"""`vggnet bench`: the speed of this machine."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vggnet.commands.arguments import device_flag, device_of, numbers
from vggnet.configs import NETS, Config
from vggnet.errors import InputError

if TYPE_CHECKING:
    from vggnet.model import VGG

_QUICK_SECONDS, _QUICK_WIDTH = 0.3, 1 / 8


def flags(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "GFLOP/s count 2 a multiply-add of the net, and a training step as 3 forwards. The peak is "
        "that of a matrix multiplication, measured in the same run; Winograd's convolutions need "
        "fewer multiplications than they are counted for, so that their share can exceed 100 %. "
        "Memory on a CPU is the most that the process has had so far."
    )
    parser.add_argument(
        "net",
        metavar="WEIGHTS|NET",
        nargs="?",
        default="D",
        help=f"a weight file, or one of {', '.join(NETS)} with random weights (default D)",
    )
    parser.add_argument(
        "--batch-sizes",
        default="1,8",
        metavar="N,…",
        help="images a forward at the crop (default 1,8)",
    )
    parser.add_argument(
        "--only",
        metavar="WHAT,…",
        help="some of forward, dense (at 256, 384 and 512 for a crop of 224), train (a step of 8 "
        "images on a CPU, of 64 on a GPU), loader (reading JPEG files of 500×375)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a tenth of the time, and random weights at an eighth of the width: does it run?",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="on the CPU (default: PyTorch's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    device_flag(parser)


def run(args: argparse.Namespace) -> None:
    from vggnet import rates, speed
    from vggnet.files import check_writable, write_atomically

    batch_sizes = numbers("batch-sizes", args.batch_sizes, "whole numbers, such as 1,8")
    only = rates.KINDS if args.only is None else args.only.split(",")
    speed.check(batch_sizes=batch_sizes, only=only, threads=args.threads)
    device = device_of(args)
    if args.out is not None:
        check_writable(args.out)
    found = speed.measure(
        _net(args.net, args.quick),
        device=device,
        batch_sizes=batch_sizes,
        only=only,
        seconds=_QUICK_SECONDS if args.quick else speed.SECONDS,
        threads=args.threads,
        progress=True,
    )
    text = json.dumps(found.to_json(), indent=1)
    if args.out is not None:
        write_atomically(args.out, lambda path: path.write_text(f"{text}\n", encoding="utf-8"))
    print(text if args.json else found.text())
    if args.out is not None and not args.json:
        print(f"\nas JSON: {args.out}")


def _net(name: str, quick: bool) -> "VGG":
    """A net of that name, or what is in the file."""
    from vggnet import weights
    from vggnet.model import build

    if name in NETS:
        return build(name, width=_QUICK_WIDTH if quick else 1.0)
    path = Path(name)
    if path.exists() or path.suffix or path.name != name:
        return weights.load(path)
    try:
        Config(name)
    except InputError as error:
        raise InputError(f"{error}; there is no file of that name either") from None
    raise AssertionError(name)
