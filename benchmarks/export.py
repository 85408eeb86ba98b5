"""Exported nets beside the net: how near, how large, how fast, and what int8 costs in error.

- `full_size`: net D at width 1 with random weights, crop 224, dense form. The largest difference
  from the net's scores over the largest score, at 224, 256 and 384×512, and the files' sizes.
  Images a second at 224, batch 1 and 8, of PyTorch (eager, channels_last), ONNX Runtime and
  OpenVINO in float32 and int8, all with PyTorch's number of threads and in turns, round by round;
  a ratio is the median of the rounds' own ratios. int8 is calibrated on four images of noise,
  which decides its scores but not its speed.
- `memory_mb`, with `--memory`: the largest resident memory (10^6 bytes) of a process that exports
  D, one for each format and precision; int8 of OpenVINO and ONNX.
- `errors`: of nets that have learned, top-1 and top-5 error on all test images in float32 and
  int8, calibrated on 128 training images, in both forms; all in one pass over the images.

    .venv/bin/python benchmarks/export.py [--digits WEIGHTS…] [--fashion WEIGHTS…] [--memory]
        [--json] [--out FILE] [--rounds 9] [--quick]
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

import vggnet
from forward import processor
from peers import ask_once, peak_memory
from turns import in_turns, ratio
from vggnet.datasets import open_dataset
from vggnet.export import Exported, Form, Format, Precision, compare, export, runtimes
from vggnet.export.runtimes import Session
from vggnet.images import Pixels
from vggnet.model import VGG, build

KINDS: dict[str, tuple[Format, Precision]] = {
    "onnx float32": ("onnx", "float32"),
    "onnx int8": ("onnx", "int8"),
    "openvino float32": ("openvino", "float32"),
    "openvino int8": ("openvino", "int8"),
}


def written(
    model: VGG, folder: Path, form: Form, calibration: list[Pixels]
) -> dict[str, tuple[Exported, float]]:
    """Each kind's files, and the seconds it took to write and try them."""
    found = {}
    for name, (format, precision) in KINDS.items():
        start = time.perf_counter()
        one = export(
            model,
            folder / f"{form}-{precision}{runtimes.SUFFIXES[format]}",
            format=format,
            form=form,
            precision=precision,
            calibration=calibration if precision == "int8" else None,
        )
        found[name] = one, time.perf_counter() - start
    return found


def full_size(folder: Path, rounds: int, width: float) -> dict[str, Any]:
    model = build("D", width=width)
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (256, 341, 3), np.uint8) for _ in range(4)]
    files = written(model, folder, "dense", noise)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sessions = {"pytorch": compare.of_model(model)}
    sessions |= {name: runtimes.load(one.path) for name, (one, _) in files.items()}
    found: dict[str, Any] = {
        name: {
            "difference": {size: float(f"{value:.2g}") for size, value in one.differences.items()},
            "megabytes": round(one.bytes / 1e6, 1),
            "seconds_to_export": round(seconds, 1),
        }
        for name, (one, seconds) in files.items()
    }
    for batch in (1, 8):
        pixels = rng.integers(0, 256, (batch, 3, 224, 224), np.uint8)
        for session in sessions.values():
            session(pixels)
        ways = {name: _way(session, pixels) for name, session in sessions.items()}
        speeds = in_turns(ways, rounds)
        found[f"batch_{batch}"] = {
            "images_per_second": {
                name: round(float(np.median(values)), 2) for name, values in speeds.items()
            },
            "onnx_int8_vs_float32": ratio(speeds, "onnx int8", "onnx float32"),
            "openvino_int8_vs_float32": ratio(speeds, "openvino int8", "openvino float32"),
            "onnx_float32_vs_pytorch": ratio(speeds, "onnx float32", "pytorch"),
            "openvino_float32_vs_pytorch": ratio(speeds, "openvino float32", "pytorch"),
        }
    return found


def _way(session: Session, pixels: compare.Batch) -> Callable[[], float]:
    def once() -> float:
        start = time.perf_counter()
        session(pixels)
        return len(pixels) / (time.perf_counter() - start)

    return once


def memory(folder: Path, width: float) -> dict[str, float]:
    """Of each format and precision, the most memory of a process of its own, in MB."""
    kinds = KINDS | {f"{one} float32": (one, "float32") for one in get_args(Format)}
    found = {}
    for name, (format, precision) in kinds.items():
        answer = ask_once(_exported, format, precision, folder, width, log=folder / "log")
        found[name] = round(answer["peak"] / 1e6, 1)
    return found


def _exported(
    format: Format, precision: Precision, folder: Path, width: float, log: Path, parent: Connection
) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (256, 341, 3), np.uint8) for _ in range(4)]
    export(
        build("D", width=width),
        folder / f"{format}-{precision}{runtimes.SUFFIXES[format]}",
        format=format,
        precision=precision,
        calibration=noise if precision == "int8" else None,
    )
    parent.send({"peak": peak_memory()})


def errors(weights: Path, spec: str, folder: Path, n: int) -> dict[str, Any]:
    model, data = vggnet.load(weights), open_dataset(spec)
    if wrong := compare.check_data(model, data):
        raise SystemExit(f"{weights}: {wrong}")
    calibration = list(compare.evenly(data.train, 128).images)
    part = compare.evenly(data.test, n)
    found: dict[str, Any] = {"net": model.config.title}
    for form in get_args(Form):
        files = written(model, folder, form, calibration)
        sessions = [runtimes.load(one.path) for one, _ in files.values()]
        rows = compare.side_by_side(model, sessions, part, form, progress=True)
        found[form] = {"protocol": str(rows[0].result.protocol), "n": rows[0].result.n}
        sizes = [None, *(one.bytes for one, _ in files.values())]
        for name, row, size in zip(["pytorch", *files], rows, sizes, strict=True):
            low, high = row.result.top1_interval
            found[form][name] = {
                "top1": round(row.result.top1, 2),
                "top1_interval": [round(low, 2), round(high, 2)],
                "top5": round(row.result.top5, 2),
                "points_from_pytorch": round(row.result.top1 - rows[0].result.top1, 2),
                "kilobytes": size and round(size / 1e3),
            }
    return found


def table(result: dict[str, Any]) -> str:
    full = result["full_size"]
    lines = [f"{'D at 224':20} {'MB':>7}  difference"]
    for name in KINDS:
        apart = ", ".join(f"{size} {value}" for size, value in full[name]["difference"].items())
        lines.append(f"{name:20} {full[name]['megabytes']:7}  {apart}")
    for batch in ("batch_1", "batch_8"):
        lines.append(f"{batch}, images/s")
        for name, value in full[batch].items():
            if name == "images_per_second":
                lines += [f"  {way:28} {speed:8}" for way, speed in value.items()]
            else:
                lines.append(f"  {name:28} {value['ratio']:8} {value['quartiles']}")
    for title, found in result["errors"].items():
        for form in get_args(Form):
            lines.append(f"{title}: {found[form]['protocol']}, n={found[form]['n']}")
            for name in ("pytorch", *KINDS):
                row = found[form][name]
                lines.append(
                    f"  {name:20} top-1 {row['top1']:6.2f} % {row['top1_interval']} "
                    f"({row['points_from_pytorch']:+.2f}), top-5 {row['top5']:5.2f} %"
                )
    for name, most in result.get("memory_mb", {}).items():
        lines.append(f"exporting to {name}: {most} MB at most")
    return "\n".join([*lines, f"{result['machine']}, load before {result['load_average_before']}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--digits", type=Path, nargs="*", default=[], metavar="WEIGHTS")
    parser.add_argument("--fashion", type=Path, nargs="*", default=[], metavar="WEIGHTS")
    parser.add_argument("--memory", action="store_true", help="of exporting D; some minutes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    parser.add_argument("--quick", action="store_true", help="narrow, few images: does it run?")
    args = parser.parse_args()
    load = [round(value, 2) for value in os.getloadavg()]  # of other work, before ours
    nets = [(path, "digits") for path in args.digits]
    nets += [(path, "fashion-mnist") for path in args.fashion]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        width = 1 / 16 if args.quick else 1.0
        found = full_size(folder, 2 if args.quick else args.rounds, width)
        peaks = {"memory_mb": memory(folder, width)} if args.memory else {}
        counted = {
            f"{spec} {number}": errors(path, spec, folder, 200 if args.quick else 1 << 30)
            for number, (path, spec) in enumerate(nets)
        }
    names = "torch", "onnx", "onnxruntime", "openvino", "nncf"
    result = {
        "full_size": found,
        "errors": counted,
        **peaks,
        "rounds": args.rounds,
        "machine": processor(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "load_average_before": load,
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "vggnet": vggnet.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in names},
        },
    }
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text if args.json else table(result))


if __name__ == "__main__":
    main()
