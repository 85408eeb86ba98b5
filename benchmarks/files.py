"""Seconds and memory of `vggnet.load` for net D, by the software that the file is of.

Net D with random weights, written in each layout: by `vggnet.save`, by PyTorch (torchvision's
names; zip, and the form of before PyTorch 1.6), by `vggnet convert` (Keras' .h5), byte by byte
after caffe.proto, and by SciPy (MatConvNet's .mat, plain and compressed). Each is read `--rounds`
times, in a process of its own, the files in the page cache; PyTorch's import is left out of both
numbers.

    .venv/bin/python benchmarks/files.py [--json] [--out FILE] [--rounds 3] [--quick]
"""

import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import vggnet
from origin import give, load, origin, parser_of
from peers import ask_once, peak_memory
from vggnet import cli

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from caffe_files import NEW, caffemodel
from mat_files import matconvnet

KINDS = {
    "vggnet": ".safetensors",
    "torchvision": ".pth",
    "torchvision, before PyTorch 1.6": ".pth",
    "Keras": ".h5",
    "Caffe": ".caffemodel",
    "MatConvNet": ".mat",
    "MatConvNet, compressed": ".mat",
}


def write(kind: str, own: Path, path: Path) -> None:
    """The net of a file of vggnet's, in another layout."""
    if kind in ("torchvision", "Keras"):
        with redirect_stdout(sys.stderr):
            status = cli.main(["convert", str(own), str(path)])
        if status != 0:
            raise SystemExit(f"{path}: not written")
        return
    state = vggnet.load(own).state_dict()
    if kind.startswith("torchvision"):
        torchvisions = own.with_name("torchvision.pth")
        old = torch.load(torchvisions, weights_only=True)
        torch.save(old, path, _use_new_zipfile_serialization=False)
        return
    names = [key.removesuffix(".weight") for key in state if key.endswith(".weight")]
    weights = {
        name: (state[f"{name}.weight"].numpy(), state[f"{name}.bias"].numpy()) for name in names
    }
    if kind == "Caffe":
        path.write_bytes(caffemodel(weights, NEW))
    else:
        matconvnet(path, weights, compressed="compressed" in kind)


def read(path: Path, log: Path, parent: Connection) -> None:
    """In a process of its own."""
    before, start = peak_memory(), time.perf_counter()
    model = vggnet.load(path)
    seconds = time.perf_counter() - start
    parent.send({"seconds": seconds, "memory": peak_memory() - before, "net": model.config.net})


def measured(folder: Path, width: float, rounds: int) -> dict[str, Any]:
    own = folder / "vggnet.safetensors"
    vggnet.save(vggnet.build("D", width=width, crop=224), own)
    found: dict[str, Any] = {}
    for kind, suffix in KINDS.items():
        path = folder / f"{kind.replace(', ', '-').replace(' ', '-')}{suffix}"
        if path != own:
            write(kind, own, path)
        answers = [ask_once(read, path, log=folder / "log") for _ in range(rounds)]
        seconds = sorted(answer["seconds"] for answer in answers)
        found[kind] = {
            "suffix": suffix,
            "megabytes": round(path.stat().st_size / 1e6, 1),
            "seconds": round(statistics.median(seconds), 2),
            "fastest_and_slowest": [round(seconds[0], 2), round(seconds[-1], 2)],
            "memory_mb": round(max(answer["memory"] for answer in answers) / 1e6, 1),
        }
        if path not in (own, folder / "torchvision.pth"):
            path.unlink()
    return found


def main() -> None:
    parser = parser_of(__doc__, "narrow, once")
    parser.add_argument("--rounds", type=int, default=3, help="how often each file is read")
    args = parser.parse_args()
    before = load()
    width, rounds = (1 / 16, 1) if args.quick else (1.0, args.rounds)
    with tempfile.TemporaryDirectory() as name:
        files = measured(Path(name), width, rounds)
    lines = (
        f"{kind:32} {row['megabytes']:7.1f} MB  {row['seconds']:6.2f} s  "
        f"{row['memory_mb']:7.1f} MB above the import"
        for kind, row in files.items()
    )
    give({"files": files, "rounds": rounds} | origin(before), args, lines)


if __name__ == "__main__":
    main()
