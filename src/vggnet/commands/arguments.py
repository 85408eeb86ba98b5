"""Arguments that several commands take, and how they are read."""

import argparse
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from vggnet.errors import InputError

if TYPE_CHECKING:
    from vggnet.datasets import Dataset

DATA = "digits, fashion-mnist, fashion-mnist:DIR, or a folder of images by class or of ImageNet"


def numbers(name: str, text: str, wanted: str) -> list[int]:
    """Whole numbers separated by commas; an InputError says what is wanted."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name} {text!r}: give {wanted}") from None


def opened(name: str) -> "Dataset":
    """The data set of this name; how it was split goes to standard error."""
    from vggnet.datasets import open_dataset

    data = open_dataset(name)
    if data.note:
        print(f"{data.name}: {data.note}", file=sys.stderr)
    return data


def net_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--crop",
        type=int,
        help="side in pixels, a multiple of 32 (default 224, the paper's; less for digits and "
        "fashion-mnist)",
    )
    parser.add_argument(
        "--width",
        type=float,
        help="multiplies the channels (default 1, the paper's; less for digits and fashion-mnist)",
    )


def device_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")


def device_of(args: argparse.Namespace) -> str:
    """The device that is asked for, if this machine has it."""
    import torch

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
    return device


def say(line: str) -> None:
    """Prints a line above a progress bar, if there is one."""
    from tqdm import tqdm

    if sys.stdout:
        # A run goes on when nobody reads it any more.
        with suppress(BrokenPipeError):
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
