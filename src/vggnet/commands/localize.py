"""`vggnet localize`: what is in an image, and where (Appendix A)."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from vggnet.commands.arguments import choose_engine, device_flag, device_of, fast_flag, numbers
from vggnet.errors import InputError
from vggnet.protocols import single_scale


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", type=Path, help="a picture")
    parser.add_argument(
        "--boxes",
        required=True,
        type=Path,
        nargs="+",
        metavar="WEIGHTS",
        help="of nets that vggnet train-boxes made; of several, boxes are taken together",
    )
    parser.add_argument(
        "--classifier",
        required=True,
        type=Path,
        nargs="+",
        metavar="WEIGHTS",
        help="of the classifiers that they were made from, in the same order",
    )
    parser.add_argument(
        "--scales",
        help="test scales Q in pixels, separated by commas (default: each net's S)",
    )
    parser.add_argument("--guesses", type=int, default=1, help="classes that get a box (default 1)")
    parser.add_argument(
        "--windows",
        default="dense",
        help="dense: the nets look at the whole picture (default); crops: at each window alone, "
        "which is better where crops are small",
    )
    parser.add_argument(
        "--merge", type=float, default=0.5, help="IoU from which boxes are merged (default 0.5)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PICTURE",
        help="the picture with its boxes (default: IMAGE's name with -boxes.png, in this folder)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    device_flag(parser)
    fast_flag(parser)


def run(args: argparse.Namespace) -> None:
    if len(args.boxes) != len(args.classifier):
        raise InputError(
            f"{len(args.boxes)} nets of boxes, {len(args.classifier)} classifiers: give one each"
        )
    scales = None
    if args.scales is not None:
        scales = numbers("scales", args.scales, "whole numbers of pixels, such as 256,384")

    from vggnet import checkpoint, drawing
    from vggnet.images import decode
    from vggnet.localize import Localiser, localise

    out: Path = args.out or Path(f"{args.image.stem}-boxes.png")
    drawing.check(out)
    image = decode(args.image)
    device = device_of(args)
    choose_engine(args, device)
    members = []
    for paths in zip(args.boxes, args.classifier, strict=True):
        boxes, classifier = (checkpoint.load(path) for path in paths)
        own = scales
        if own is None:
            if boxes.provenance.S is None:
                raise InputError(f"{paths[0]}: does not say its S: give --scales")
            own = [single_scale(boxes.provenance.S)]
        member = Localiser(boxes.to(device), classifier.to(device), tuple(own))
        try:
            member.check()
        except InputError as error:
            raise InputError(f"{paths[0]} with {paths[1]}: {error}") from None
        members.append(member)
    # As `predict` has it: with mirrored pictures unless a net was trained without.
    recipes = [member.classifier.provenance.recipe or {} for member in members]
    (found,) = localise(
        members,
        [image],
        flips=all(recipe.get("flip", True) for recipe in recipes),
        guesses=args.guesses,
        windows=args.windows,
        merge=args.merge,
    )
    if isinstance(found, InputError):
        raise found
    names = members[0].classifier.provenance.class_names
    words = [str(guess.label) if names is None else names[guess.label] for guess in found]
    drawing.save_picture(drawing.drawn(image, [guess.box for guess in found], words), out)
    if args.json:
        rows = [{"class": word, **asdict(guess)} for word, guess in zip(words, found, strict=True)]
        print(
            json.dumps({"image": str(args.image), "guesses": rows, "picture": str(out)}, indent=1)
        )
        return
    for word, guess in zip(words, found, strict=True):
        corners = ", ".join(f"{side:.0f}" for side in guess.box)
        print(f"{word}: {guess.posterior:.1%}, left, top, right, bottom {corners}")
    print(f"picture: {out}")
