"""`vggnet check-data`: what a data set holds, and what is wrong with it."""

import argparse
import json
from pathlib import Path

from vggnet.adaptations import adaptation
from vggnet.commands.arguments import DATA
from vggnet.errors import InputError, RunError


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help=f"the data set: {DATA}")
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that read images, 0 for none but this one (default: one a processor, 16 "
        "at most)",
    )
    parser.add_argument(
        "--bad-images",
        type=Path,
        metavar="FILE",
        default=Path("bad-images.jsonl"),
        help="list the images that cannot be read there, if there are any "
        "(default bad-images.jsonl)",
    )
    parser.add_argument(
        "--crop", type=int, help="side of the training crop in pixels (default: that of train)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    from vggnet.bad_images import BadImages
    from vggnet.checks import report
    from vggnet.datasets import open_dataset
    from vggnet.files import check_writable
    from vggnet.index import PARTS, Index, files_of, list_bad
    from vggnet.readers import default_workers

    if args.crop is not None and args.crop < 1:
        raise InputError(f"crop {args.crop}: give 1 or more")
    if args.workers is not None and args.workers < 0:
        raise InputError(f"workers {args.workers}: give 0 or more")
    check_writable(args.bad_images)
    if args.bad_images.is_dir():
        raise InputError(f"{args.bad_images}: is a folder: give a file to list bad images in")
    data = open_dataset(args.data)
    # As beside a GPU: no training on the processors takes its share of them.
    workers = default_workers(data.train.images, "cuda") if args.workers is None else args.workers
    files = files_of(data, PARTS)
    index = Index.of(data) if files else None
    if index is not None:
        index.check(list(files.values()), workers=workers, progress=True)
    crop = adaptation(args.data).crop if args.crop is None else args.crop
    found = report(data, index, crop=crop, workers=workers)
    print(json.dumps(found.to_json(), indent=1) if args.json else found.text())
    if index is not None and found.bad:
        bad = {name: index.bad(images) for name, images in files.items()}
        listed = list_bad(data, bad, BadImages(args.bad_images, anew=True))
        raise RunError(
            f"{listed.count:,} of {index.count(files.values()):,} images cannot be read; all are "
            f"listed in {listed.path}: mend or remove them, or leave them out of a run with "
            "--on-bad-image skip"
        )
