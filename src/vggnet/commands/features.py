"""`vggnet features`: a descriptor for each image, as in Appendix B."""

import argparse
import sys
from pathlib import Path

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
from vggnet.protocols import single_scale


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        type=Path,
        nargs="+",
        help="weight files of one net, or of several, whose descriptors are stacked",
    )
    parser.add_argument(
        "images",
        metavar="IMAGES",
        help="a folder: all images in it and in its folders; or with --part a data set",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help=".npy, which numpy.load maps into memory, .npz or .parquet; how it was made and the "
        "images' names go beside it. The same command goes on where it stopped",
    )
    parser.add_argument("--part", help="of a data set: train, validation or test")
    parser.add_argument("--layer", default="relu7", help="default: relu7, fc7 after its ReLU")
    parser.add_argument(
        "--scales",
        help="test scales Q in pixels, separated by commas (default: the nets' S, the middle of "
        "its range where it is jittered)",
    )
    parser.add_argument("--over-scales", default="average", help="average (default) or stack them")
    parser.add_argument("--no-flips", action="store_true", help="without mirrored images")
    parser.add_argument("--no-normalise", action="store_true", help="not to length 1")
    workers_flag(parser)
    device_flag(parser)
    fast_flag(parser)


def run(args: argparse.Namespace) -> None:
    if args.part not in (None, "train", "validation", "test"):
        raise InputError(f"part {args.part!r} is not known: take train, validation or test")
    scales = None
    if args.scales is not None:
        scales = numbers("scales", args.scales, "whole numbers of pixels, such as 256,384,512")

    from vggnet import descriptorfile, descriptors
    from vggnet.distributed import is_first, joined

    descriptorfile.check(args.out)
    if scales is None:
        scales = [_common_scale(args.weights)]
    recipe = descriptors.Recipe(
        tuple(scales), args.layer, args.over_scales, not args.no_flips, not args.no_normalise
    )
    device = device_of(args)
    part = descriptors.images_of(args.images, args.part)
    choose_engine(args, device)
    workers = workers_of(args, part.images, device)
    with joined(device) as world:
        bad = descriptorfile.describe_files(
            args.weights,
            part,
            recipe,
            args.out,
            device=device,
            workers=workers,
            world=world,
            progress=True,
        )
        unread = [one for of_rank in world.gathered(bad) for one in of_rank]
    if is_first():
        for _, reason in unread[:20]:
            print(f"left out: {reason}", file=sys.stderr)
    rest = f"; {len(unread):,} could not be read and have rows of NaN" * bool(unread)
    say(f"descriptors of {len(part):,} images: {args.out}{rest}")


def _common_scale(weights: list[Path]) -> int:
    from vggnet import checkpoint

    scales: dict[int, Path] = {}
    for path in weights:
        known = checkpoint.read_header(path).provenance.S
        if known is None:
            raise InputError(f"{path}: does not say its S: give --scales")
        scales.setdefault(single_scale(known), path)
    if len(scales) > 1:
        each = ", ".join(f"{scale} of {path}" for scale, path in scales.items())
        raise InputError(f"the nets' own scales differ, {each}: give --scales")
    return next(iter(scales))
