"""`vggnet convert`: weights of other software to vggnet's, and back."""

import argparse
from pathlib import Path

from vggnet.errors import InputError


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SRC",
        type=Path,
        help="weights of vggnet, torchvision, timm, Keras, Caffe or MatConvNet; told by content",
    )
    parser.add_argument(
        "target",
        metavar="DST",
        type=Path,
        help="….safetensors (vggnet's), ….pth (torchvision's names) or ….h5 (Keras')",
    )
    parser.add_argument(
        "--preprocessing",
        metavar="NAME",
        help="what SRC's weights expect, where they were not trained as their format's own "
        "software does: torchvision (RGB 0–1, its mean and std), torchvision-features (of its "
        "features-only file), caffe (BGR 0–255 minus the mean), rgb-mean, rgb-255, rgb-1",
    )
    parser.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="a text file, a class a line, in the order of the scores (default: those in SRC; of "
        "1,000 classes ImageNet's)",
    )


def run(args: argparse.Namespace) -> None:
    from vggnet import weights
    from vggnet.formats.foreign import NAMED
    from vggnet.runs import METRICS, WEIGHTS

    if args.preprocessing is not None and args.preprocessing not in NAMED:
        raise InputError(f"preprocessing {args.preprocessing!r}: take one of {', '.join(NAMED)}")
    if args.target.name == WEIGHTS and args.target.with_name(METRICS).exists():
        raise InputError(f"{args.target}: are the weights of a run: give another name")
    model, written = weights.convert(
        args.source,
        args.target,
        preprocessing=NAMED.get(args.preprocessing),
        class_names=_names(args.class_names),
    )
    config, known = model.config, model.provenance
    head = f"{config.num_classes:,} classes" if config.head else "no classifier"
    names = known.class_names
    some = ", ".join(names[:3]) + ", …" * (len(names) > 3) if names else "without names"
    print(f"{args.source}: net {config.title}, {head}" + f" ({some})" * config.head)
    if known.source is not None:
        print(f"{args.source}: {known.source.rpartition(', sha256')[0]}")
    print(f"{args.target}: {written}")


def _names(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        names = tuple(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({why})") from None
    if not names or not all(map(str.strip, names)) or len(set(names)) < len(names):
        raise InputError(f"{path}: give a class a line, none empty, none twice")
    return names
