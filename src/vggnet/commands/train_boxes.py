"""`vggnet train-boxes`: nets that say where the object is, and Tables 8 to 10 (Appendix A)."""

import argparse
from dataclasses import replace
from pathlib import Path

from vggnet.adaptations import adaptation
from vggnet.commands.arguments import (
    DATA,
    choose_engine,
    device_flag,
    device_of,
    fast_flag,
    opened,
    parts_of,
    readable,
    reading_flags,
    say,
    workers_of,
)


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "classifiers",
        metavar="CLASSIFIER",
        type=Path,
        nargs="+",
        help="weight files of nets trained on this data, each at a fixed S of its own; of the "
        "first one, three kinds of boxes are compared",
    )
    parser.add_argument("data", metavar="DATA", help=f"the data set: digits-on-photos, {DATA}")
    parser.add_argument(
        "--boxes",
        type=Path,
        metavar="SOURCE",
        help="where the objects are: a folder of XML files as ImageNet's, or a CSV file with the "
        "columns image,xmin,ymin,xmax,ymax; digits-on-photos knows by itself",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="for the nets and localisation.json. The same command goes on where it stopped",
    )
    parser.add_argument(
        "--merge",
        type=float,
        default=0.5,
        help="IoU from which dense boxes are merged (default 0.5; the paper gives no number)",
    )
    parser.add_argument("--epochs", type=int, help="at most so many")
    parser.add_argument("--batch-size", type=int, help="images a step")
    parser.add_argument("--learning-rate", type=float, help="at the start")
    parser.add_argument(
        "--patience",
        type=int,
        help="epochs without a lower validation error before the rate is divided by 10",
    )
    reading_flags(parser, "leave out and list those that go bad while it trains")
    device_flag(parser)
    fast_flag(parser)


def run(args: argparse.Namespace) -> None:
    from vggnet import appendix_a, box_tables
    from vggnet.annotations import with_boxes
    from vggnet.distributed import joined

    names = ("epochs", "batch_size", "learning_rate", "patience")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    fitted = adaptation(args.data)
    appendix_a.runs_of(args.classifiers)  # before images are looked at
    device = device_of(args)
    data_set = opened(args.data)
    whole = data_set if args.boxes is None else with_boxes(data_set, args.boxes)
    if whole.note != data_set.note:
        say(f"{whole.name}: {whole.note.removeprefix(data_set.note).removeprefix('; ')}")
    with joined(device) as world:
        with world.one_first():
            data = readable(whole, parts_of(args.out), args, args.out)
        choose_engine(args, device)
        results = appendix_a.reproduce(
            args.classifiers,
            data,
            args.out,
            fit=lambda recipe: replace(fitted.fit(recipe), **given),
            merge=args.merge,
            device=device,
            workers=workers_of(args, data.train.images, device),
            on_bad_image=args.on_bad_image or "skip",
            log=say,
            progress=True,
            world=world,
        )
    say(f"\n{box_tables.text(results)}\n\n{args.out / appendix_a.RESULTS}")
