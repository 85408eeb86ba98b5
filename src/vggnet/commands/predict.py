"""`vggnet predict`: what is in pictures."""

import argparse
import csv
import io
import json
import sys
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

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
from vggnet.errors import InputError, RunError
from vggnet.info import align
from vggnet.protocols import Method

if TYPE_CHECKING:
    from vggnet.images import EncodedImage
    from vggnet.predict import Answer, Pictures, Predictor

FORMATS = ("table", "jsonl", "csv")


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        type=Path,
        help="of a net with classes; any that vggnet.load reads",
    )
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="files, folders, patterns, URLs, or - for standard input",
    )
    parser.add_argument("--top", type=int, default=5, help="classes for each picture (default 5)")
    parser.add_argument(
        "--method", default="dense", help=f"{', '.join(get_args(Method))} (default dense)"
    )
    parser.add_argument(
        "--scales",
        help="test scales Q in pixels, separated by commas; posteriors are averaged over them "
        "(default: the net's S, the middle of its range where it is jittered)",
    )
    parser.add_argument(
        "--averaging", default="scores", help="over the dense map: scores (default) or posteriors"
    )
    parser.add_argument(
        "--no-flips",
        action="store_true",
        help="without mirrored pictures (default: as the net was trained)",
    )
    parser.add_argument(
        "--format",
        help="table, jsonl (a line of JSON a picture) or csv (default: by --out's name, or table)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write .jsonl or .csv; the same command goes on where it stopped, and lists pictures "
        "that cannot be read in bad-images.jsonl beside it",
    )
    parser.add_argument(
        "--heatmap",
        type=Path,
        metavar="FOLDER",
        help="for each picture and class, where the net saw it, laid over the picture",
    )
    parser.add_argument(
        "--heatmap-scale", type=int, help="Q of heat maps in pixels (default: twice the crop)"
    )
    workers_flag(parser)
    device_flag(parser)
    fast_flag(parser)


def run(args: argparse.Namespace) -> None:
    form = _format(args)
    scales = None
    if args.scales is not None:
        scales = numbers("scales", args.scales, "whole numbers of pixels, such as 256,384")
    if args.top < 1:
        raise InputError(f"top {args.top} is not 1 or more")

    from vggnet.files import check_writable, sha256
    from vggnet.pictures import pictures_of
    from vggnet.predict import Predictor
    from vggnet.weights import load

    if args.out is not None:
        check_writable(args.out)
    if args.heatmap is not None:
        check_writable(args.heatmap / "heatmap.png")
    pictures = pictures_of(args.images)
    device = device_of(args)
    choose_engine(args, device)
    model = load(args.weights).to(device)
    try:
        predictor = Predictor(
            model,
            method=args.method,
            scales=scales,
            averaging=args.averaging,
            flips=False if args.no_flips else None,
        )
        if args.heatmap is not None or args.heatmap_scale is not None:
            predictor.heat_map_scale(args.heatmap_scale)
    except InputError as error:
        raise InputError(f"{args.weights}: {error}") from None
    how: dict[str, str | int] = {
        "protocol": str(predictor.protocol),
        "top": min(args.top, model.config.num_classes),
        "weights_sha256": sha256(args.weights),
    }
    _answer(args, predictor, pictures, _Sink(args.out, form, how), device)


def _format(args: argparse.Namespace) -> str:
    form: str = args.format or (args.out.suffix[1:] if args.out else "table")
    if form not in FORMATS:
        given = f"format {args.format!r}" if args.format else str(args.out)
        raise InputError(f"{given}: take {', '.join(FORMATS)}; a file ends in .jsonl or .csv")
    if args.out is not None and (form == "table" or args.out.suffix != f".{form}"):
        raise InputError(f"{args.out}: give a name that ends in .jsonl or .csv, as the format does")
    return form


def _answer(
    args: argparse.Namespace,
    predictor: "Predictor",
    pictures: "Pictures",
    sink: "_Sink",
    device: str,
) -> None:
    import numpy as np
    from tqdm import tqdm

    from vggnet.bad_images import BadImages

    names = list(pictures.names)
    known, lacks_maps = frozenset(sink.known), _without_maps(args.heatmap, sink.how["top"])
    todo = [i for i, name in enumerate(names) if name not in known or lacks_maps(name)]
    rest = pictures.subset(np.array(todo, np.int64))
    folder = args.out.parent if args.out else None
    bad = BadImages(folder / "bad-images.jsonl") if folder is not None else None
    unread = 0
    workers = workers_of(args, rest, device) if len(rest) > 8 else 0
    answers = predictor(rest, top=args.top, workers=workers)
    several = len(names) > 1
    bar = tqdm(
        total=len(names), initial=len(names) - len(todo), unit="image", leave=False,
        disable=None if several else True,
    )  # fmt: skip
    with bar, sink:
        for i, answer in enumerate(answers):
            bar.update()
            name = rest.names[i]
            if isinstance(answer, InputError):
                if not several:
                    raise answer
                unread += 1
                if bad is None:
                    tqdm.write(f"left out: {answer}", file=sys.stderr)
                else:
                    bad.add(name, str(answer).removeprefix(f"{name}: "))
                continue
            if args.heatmap is not None:  # first: what is written counts as done
                _draw(args, predictor, rest.open(i), name, answer)
            if name not in known:
                sink.write(name, answer)
    if unread == len(names):
        raise InputError(f"none of {unread:,} pictures can be read")
    where = f", listed in {bad.path}" if bad is not None and unread else ""
    if args.out is not None:
        say(f"{len(names) - unread:,} pictures: {args.out}")
    if unread:
        print(f"{unread:,} of {len(names):,} pictures could not be read{where}", file=sys.stderr)


def _without_maps(folder: Path | None, top: str | int) -> Callable[[str], bool]:
    """Whether a picture's last map is to be in a folder, and is not."""
    drawn = sorted(path.name for path in folder.iterdir()) if folder and folder.is_dir() else []

    def lacks(name: str) -> bool:
        if folder is None:
            return False
        wanted = f"{_stem(name)}-{top}-"
        at = bisect_left(drawn, wanted)
        return at == len(drawn) or not drawn[at].startswith(wanted)

    return lacks


def _stem(name: str) -> str:
    """No two pictures have one name: folders become part of it."""
    return name.replace("://", "/").strip("/").replace("/", "-")


def _draw(
    args: argparse.Namespace,
    predictor: "Predictor",
    image: "EncodedImage",
    name: str,
    answer: "Answer",
) -> None:
    from vggnet import drawing

    view = image.rescaled(predictor.heat_map_scale(args.heatmap_scale))
    maps = predictor.heat_maps(view, answer.labels, image.shape)
    for place, (label, values) in enumerate(zip(answer.names, maps, strict=True), 1):
        safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in label)[:40]
        out = args.heatmap / f"{_stem(name)}-{place}-{safe}.png"
        drawing.save_picture(drawing.overlaid(image.pixels(), values), out)


class _Sink:
    """Where answers go: to standard output, or to a file that may be begun already."""

    def __init__(self, out: Path | None, form: str, how: dict[str, str | int]) -> None:
        self.out, self.form, self.how = out, form, how
        self.known: set[str] = set()
        """Pictures that are answered already."""
        self.file: Any = sys.stdout
        if out is not None and out.exists():
            self._read(out)

    def _read(self, out: Path) -> None:
        """What is done already; a line that a crash has cut off is taken away."""
        try:
            text = out.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{out}: cannot be read ({error}): choose another --out") from None
        whole = text[: text.rfind("\n") + 1]
        try:
            rows: list[dict[str, Any]] = (
                [json.loads(line) for line in whole.splitlines()]
                if self.form == "jsonl"
                else list(csv.DictReader(io.StringIO(whole)))
            )
            found = {row["image"]: [str(row[key]) for key in self.how] for row in rows}
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{out}: exists and is not vggnet's: choose another --out") from None
        for how in found.values():
            if how != list(map(str, self.how.values())):
                raise InputError(
                    f"{out}: was begun with other weights or in another way ({how[0]}, top "
                    f"{how[1]}): choose another --out"
                )
        self.known = set(found)
        if whole != text:
            out.write_text(whole, "utf-8")

    def __enter__(self) -> "_Sink":
        if self.out is not None:
            try:
                self.out.parent.mkdir(parents=True, exist_ok=True)
                self.file = self.out.open("a", encoding="utf-8", newline="")
            except OSError as error:
                raise InputError(f"{self.out}: cannot be written ({error.strerror})") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self.out is not None:
            self.file.close()

    def write(self, name: str, answer: "Answer") -> None:
        pairs = list(zip(answer.names, answer.labels, answer.posteriors, strict=True))
        if not self.known:
            self._begin(len(pairs))
        self.known.add(name)
        if self.form == "jsonl":
            found = [{"class": k, "label": label, "posterior": p} for k, label, p in pairs]
            row = {"image": name, "predictions": found, **self.how}
            self._put(json.dumps(row, ensure_ascii=False) + "\n")
        elif self.form == "csv":
            values = [value for k, _, p in pairs for value in (k, p)]
            self._put(_row([name, *values, *self.how.values()]))
        else:
            cells = [(f"  {k}", f"{100 * p:.1f} %") for k, _, p in pairs]
            self._put(f"{name}\n{align(cells)}\n")

    def _begin(self, top: int) -> None:
        """What comes before the first answer."""
        if self.form == "table":
            self._put(f"protocol: {self.how['protocol']}\n")
        elif self.form == "csv":
            columns = [f"{k}_{i}" for i in range(1, top + 1) for k in ("class", "posterior")]
            self._put(_row(["image", *columns, *self.how]))

    def _put(self, text: str) -> None:
        from tqdm import tqdm

        if self.out is None:
            tqdm.write(text, file=self.file, end="")
            return
        try:
            self.file.write(text)
            self.file.flush()
        except OSError as error:
            raise RunError(f"{self.out}: {error.strerror}; the same command goes on") from None


def _row(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
