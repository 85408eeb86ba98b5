"""`vggnet export`: a net for other runtimes, compared with itself."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vggnet.commands.arguments import DATA, opened
from vggnet.errors import InputError

if TYPE_CHECKING:
    from vggnet.export import Exported
    from vggnet.export.compare import Row
    from vggnet.export.layers import Precision
    from vggnet.model import VGG
    from vggnet.parts import Dataset, Part


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights", metavar="WEIGHTS", type=Path, help="a weight file that vggnet reads"
    )
    parser.add_argument("--format", required=True, help="onnx, openvino, torch or ncnn")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="….onnx, ….xml (OpenVINO), ….pt2 (torch) or ….param (ncnn)",
    )
    parser.add_argument(
        "--form",
        default="dense",
        help="dense (default): images of any size from the crop's on; crop: of the crop's size",
    )
    parser.add_argument(
        "--fp16", action="store_true", help="weights as float16: half the size, computed in float32"
    )
    parser.add_argument(
        "--int8", action="store_true", help="weights and activations as int8 (onnx, openvino)"
    )
    parser.add_argument(
        "--calibrate", metavar="DATA", help=f"whose training images --int8 measures: {DATA}"
    )
    parser.add_argument(
        "--calibrate-images",
        type=int,
        default=128,
        metavar="N",
        help="how many, evenly spaced (default 128)",
    )
    parser.add_argument(
        "--test",
        metavar="DATA",
        help="whose test images both nets' errors are counted on (default: those of --calibrate)",
    )
    parser.add_argument(
        "--test-images",
        type=int,
        default=1000,
        metavar="N",
        help="how many, evenly spaced (default 1000)",
    )


def run(args: argparse.Namespace) -> None:
    from vggnet import weights
    from vggnet.export import check, compare, export, runtimes

    if args.fp16 and args.int8:
        raise InputError("--fp16 and --int8: give one of them")
    precision: Precision = "int8" if args.int8 else "float16" if args.fp16 else "float32"
    calibrated = args.calibrate is not None
    check(args.out, format=args.format, form=args.form, precision=precision, calibrated=calibrated)
    for name in ("calibrate_images", "test_images"):
        if getattr(args, name) < 1:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} {getattr(args, name)} is not 1 or more")
    model = weights.load(args.weights)
    for file in runtimes.files(args.out, args.format):
        if file.exists() and file.samefile(args.weights):
            raise InputError(f"{file}: would overwrite the weights: choose another --out")
    try:
        model.config.check_head()
    except InputError as error:
        raise InputError(f"{args.weights}: {error}") from None
    calibration = opened(args.calibrate) if calibrated else None
    test = _tested(model, args, calibration)
    written = export(
        model,
        args.out,
        format=args.format,
        form=args.form,
        precision=precision,
        calibration=(
            None
            if calibration is None
            else compare.evenly(calibration.train, args.calibrate_images).images
        ),
    )
    named = "" if model.provenance.class_names else ", no class names"
    print(f"{args.weights}: net {model.config.title}, {model.config.num_classes:,} classes{named}")
    print(
        f"{', '.join(map(str, written.files))}: {args.format}, {args.form} form, {precision}, "
        f"{written.bytes / 1e6:.1f} MB"
    )
    sizes = ", ".join(f"{size} {value:.1e}" for size, value in written.differences.items())
    print(f"largest difference from the net's scores, over the largest of them: {sizes}")
    if test is not None:
        print(_compared(model, written, test, args.form, f"{args.format} {precision}"))


def _tested(model: "VGG", args: argparse.Namespace, calibration: "Dataset | None") -> "Part | None":
    """The images to count errors on, if there are any for this net."""
    from vggnet.export import compare

    data = calibration if args.test in (None, args.calibrate) else opened(args.test)
    if data is None:
        return None
    if wrong := compare.check_data(model, data):
        if args.test is not None:
            raise InputError(f"{args.weights}: {wrong}: no errors can be counted")
        print(f"no errors are counted: {wrong}", file=sys.stderr)
        return None
    return compare.evenly(data.test, args.test_images)


def _compared(model: "VGG", written: "Exported", part: "Part", form: str, kind: str) -> str:
    from vggnet.export import compare, runtimes
    from vggnet.readers import default_workers

    rows = compare.side_by_side(
        model,
        [runtimes.load(written.path)],
        part,
        form,  # type: ignore[arg-type]
        workers=default_workers(part.images, "cpu"),
        on_bad=lambda _, reason: print(f"left out: {reason}", file=sys.stderr),
        progress=True,
    )
    own = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    found = rows[0].result
    return "\n".join(
        [
            f"{'':16} {'MB':>8}  {'top-1 error':24} {'top-5 error':24} images/s",
            _row("net float32", own, rows[0]),
            _row(kind, written.bytes, rows[1]),
            f"n={found.n:,}, 95 % intervals; protocol: {found.protocol}",
        ]
    )


def _row(name: str, size: int, row: "Row") -> str:
    def error(value: float, interval: tuple[float, float]) -> str:
        return f"{value:.2f} % [{interval[0]:.2f}, {interval[1]:.2f}]"

    result = row.result
    return (
        f"{name:16} {size / 1e6:8.1f}  {error(result.top1, result.top1_interval):24} "
        f"{error(result.top5, result.top5_interval):24} {row.images_per_second:8.1f}"
    )
