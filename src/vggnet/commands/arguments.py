"""Arguments that several commands take, and how they are read."""

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vggnet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vggnet.distributed import World
    from vggnet.images import Pixels
    from vggnet.index import PartName
    from vggnet.parts import Dataset
    from vggnet.step import Parallel

DATA = (
    "digits, fashion-mnist, fashion-mnist:DIR, cifar-10:DIR, cifar-100:DIR, imagenet:DIR, or the "
    "path or URL of a folder of images by class, of ImageNet, or of tar shards"
)


def numbers(name: str, text: str, wanted: str) -> list[int]:
    """Whole numbers separated by commas; an InputError says what is wanted."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name} {text!r}: give {wanted}") from None


def opened(name: str) -> "Dataset":
    """The data set of this name; how it was split goes to standard error."""
    from vggnet.datasets import open_dataset
    from vggnet.distributed import is_first

    data = open_dataset(name)
    if data.note and is_first():
        print(f"{data.name}: {data.note}", file=sys.stderr)
    return data


def workers_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that read images (default: as many as there is use for)",
    )


def reading_flags(parser: argparse.ArgumentParser, during: str) -> None:
    """How images in files are read; `during` says what happens to bad ones in the course of it."""
    workers_flag(parser)
    parser.add_argument(
        "--on-bad-image",
        choices=("skip", "stop"),
        help="what to do about images that cannot be read: leave them out and say so, or stop "
        f"(default: stop when they are there before; {during})",
    )


def parts_of(out: Path) -> "tuple[PartName, ...]":
    """The parts that a run's images are to be looked at in before it: once it has left some out,
    it goes on with those that it began with."""
    from vggnet import roll
    from vggnet.index import PARTS

    return PARTS if roll.find(out) is None else ("test",)


def readable(
    data: "Dataset",
    parts: "Sequence[PartName]",
    args: argparse.Namespace,
    out: Path | None = None,
) -> "Dataset":
    """The data set after a look at every image that was not looked at before.

    What is bad is listed in the folder of the run that goes on without it, or else in this one.
    """
    from vggnet.distributed import is_first
    from vggnet.index import checked
    from vggnet.readers import processors

    folder = out if out is not None and args.on_bad_image == "skip" else Path()
    return checked(
        data,
        parts,
        on_bad=args.on_bad_image or "stop",
        listed=folder / "bad-images.jsonl",
        workers=processors()
        if args.workers is None
        else workers_of(args, data.train.images, "cpu"),
        progress=is_first(),
        log=lambda line: print(line, file=sys.stderr) if is_first() else None,
    )


def workers_of(
    args: argparse.Namespace, images: "Sequence[Pixels]", device: str, jobs: int = 1
) -> int:
    """How many processes read images; by default what suits the machine."""
    from vggnet.distributed import on_this_machine
    from vggnet.readers import default_workers

    if args.workers is None:
        return default_workers(images, device, jobs * on_this_machine())
    if args.workers < 0:
        raise InputError(f"workers {args.workers} is not 0 or more")
    workers: int = args.workers
    return workers


def net_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--crop",
        type=int,
        help="side in pixels, a multiple of 32 (default 224, the paper's; less for digits, "
        "fashion-mnist and cifar)",
    )
    parser.add_argument(
        "--width",
        type=float,
        help="multiplies the channels (default 1, the paper's; less for digits, fashion-mnist and "
        "cifar)",
    )


def device_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")


def device_of(args: argparse.Namespace) -> str:
    """The device that is asked for, if this machine has it."""
    import torch

    from vggnet.distributed import own_device
    from vggnet.train import best_device

    device: str = args.device or best_device()
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = None
    if kind not in ("cpu", "cuda"):
        raise InputError(f"device {device!r} is not known: take cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: this PyTorch sees no CUDA device; take cpu")
    if kind == "cuda" and (torch.device(device).index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError(f"device {device!r}: there are {count}, counted from cuda:0")
    return own_device(device)


def parallel_flags(parser: argparse.ArgumentParser) -> None:
    """How several processes, which torchrun starts, share the work of a step."""
    parser.add_argument(
        "--fc-parallel",
        type=int,
        default=1,
        metavar="N",
        help="divide the fully connected layers over N of the processes that torchrun started: "
        "their gradients then stay where they are (default 1: every process has them all)",
    )
    parser.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="K",
        help="compute a batch in K parts, one after the other, where memory is short (default 1)",
    )
    parser.add_argument(
        "--compress",
        action="store_true",
        help="send gradients in bfloat16, which rounds them: half the bytes",
    )


def parallel_of(args: argparse.Namespace, world: "World") -> "Parallel":
    """How a step is shared out, if it can be among so many."""
    from vggnet.step import Parallel

    parallel = Parallel(args.fc_parallel, args.accumulate, args.compress)
    parallel.check(world)
    return parallel


def fast_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-fast",
        action="store_true",
        help="on a CPU, compute by PyTorch alone instead of the kernels that are compiled for it",
    )


def choose_engine(args: argparse.Namespace, device: str) -> None:
    """Gets the kernels ready, or says why PyTorch computes. Where they are not wanted they are
    turned off, in the processes that this one starts too. Compiling takes some ten seconds, so it
    comes after the look at the input."""
    from vggnet.distributed import is_first
    from vggnet.kernels.library import OFF, UnavailableError, library

    if args.no_fast:
        os.environ[OFF] = "0"
    elif device == "cpu":
        try:
            library()
        except UnavailableError as error:
            if is_first():
                print(error, file=sys.stderr)


def say(line: str) -> None:
    """Prints a line above a progress bar, if there is one; of several processes the first does."""
    from tqdm import tqdm

    from vggnet.distributed import is_first

    if sys.stdout and is_first():
        # A run goes on when nobody reads it any more.
        with suppress(BrokenPipeError):
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
