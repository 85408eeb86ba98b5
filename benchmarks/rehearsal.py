"""ImageNet rehearsed: generated files in its layout, and the whole grid of the paper on them.

    python benchmarks/rehearsal.py OUT.json
    python benchmarks/rehearsal.py OUT.json --width 1 --device cuda --precision bfloat16

Makes train/SYNSET/*.JPEG, a flat val/ and the devkit's two files, sizes and oddities as ImageNet
has them; then calls what one would call on the day: `vggnet check-data`, `vggnet reproduce --plan`
and `vggnet reproduce` over all runs and tables at a crop of 224, one epoch a run. It kills that
with SIGKILL once in a training and once in a test, and goes on by the same command. Checked is that
every row of Tables 3 to 6 has its numbers, what the files hold, and that a further call changes
nothing; the exit status is 1 when a check failed. Errors mean nothing here: the images are noise.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file
from scipy.io import savemat

import vggnet
from vggnet import paper
from vggnet.imagenet import synset_names
from vggnet.photographs import write_photographs
from vggnet.speed import machine

SIZES = ((375, 500), (500, 375), (333, 500), (500, 500), (96, 128), (1200, 1600))
"""Height and width in pixels: ImageNet's usual ones, a tiny one and a large one."""
_FEW = 6
"""So few runs are not killed."""
TABLES = {3: paper.TABLE_3, 4: paper.TABLE_4, 5: paper.TABLE_5, 6: paper.TABLE_6}


def write_imagenet(root: Path, classes: int, train: int, val: int) -> None:
    """So many images in ImageNet's layout; each file's content is another.

    Among the training images are, as in ImageNet, a grey one, one in CMYK, a PNG that is called
    JPEG, and one that lies on its side by EXIF.
    """
    synsets = list(synset_names())[:classes]
    with tempfile.TemporaryDirectory() as name:
        originals = [Path(name) / file for file in write_photographs(Path(name), 24)]
        pictures = [Image.open(path).convert("RGB") for path in originals]
    contents = []
    for number, picture in enumerate(pictures):
        height, width = SIZES[number % len(SIZES)]
        contents.append(_encoded(picture.resize((width, height))))
    turned = Image.Exif()
    turned[0x0112] = 6
    odd = [
        _encoded(pictures[0].convert("L")),
        _encoded(pictures[1].convert("CMYK")),
        _encoded(pictures[2], "PNG"),
        _encoded(pictures[3], exif=turned),
    ]

    def content(number: int) -> bytes:
        if number < len(odd):
            return odd[number]
        # What stands behind an image's end makes it another file, as duplicates go.
        return contents[number % len(contents)] + number.to_bytes(8)

    for number in range(train):
        synset = synsets[number % classes]
        path = root / "train" / synset / f"{synset}_{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))
    (root / "val").mkdir()
    for number in range(1, val + 1):
        path = root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG"
        path.write_bytes(content(train + number))
    # The devkit counts classes in another order than that of their synsets.
    ids = {synset: number for number, synset in enumerate(reversed(synsets), start=1)}
    rows = np.empty((classes, 1), dtype=[(f, object) for f in ("ILSVRC2012_ID", "WNID", "words")])
    for row, synset in enumerate(reversed(synsets)):
        rows[row, 0] = (float(ids[synset]), synset, "words")
    devkit = root / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    savemat(devkit / "meta.mat", {"synsets": rows})
    truth = "".join(f"{ids[synsets[number % classes]]}\n" for number in range(val))
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)


def _encoded(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    with tempfile.TemporaryFile() as file:
        picture.save(file, kind, **options)
        file.seek(0)
        return file.read()


class Rehearsal:
    """The calls on one folder of images, and what is noted of them."""

    def __init__(self, data: Path, out: Path, options: list[str]) -> None:
        self.data, self.out, self.options = data, out, options
        self.seconds: dict[str, float] = {}
        self.checks: dict[str, bool] = {}

    @property
    def reproduce(self) -> list[str]:
        return ["reproduce", str(self.data), "--out", str(self.out), *self.options]

    def call(self, what: str, arguments: list[str]) -> str:
        """One command to its end; what it printed."""
        began = time.monotonic()
        done = subprocess.run(_command(arguments), capture_output=True, text=True, check=False)
        self.seconds[what] = round(time.monotonic() - began, 1)
        print(f"{what}: {self.seconds[what]} s, exit code {done.returncode}", flush=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        return done.stdout

    def killed(self, what: str, when: Callable[[], bool]) -> None:
        """The grid, killed as soon as this is so."""
        began = time.monotonic()
        with subprocess.Popen(
            _command(self.reproduce),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            while process.poll() is None and not when():
                time.sleep(0.02)
            self.checks[f"{what}: killed in its midst"] = process.poll() is None
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        self.seconds[what] = round(time.monotonic() - began, 1)
        print(f"{what}: {self.seconds[what]} s", flush=True)

    def trained(self) -> int:
        return len(list(self.out.glob("runs/*/weights.safetensors")))

    def training(self) -> bool:
        """Whether the third run, or a later one, has made a step."""
        begun = list(self.out.glob("runs/*/metrics.jsonl"))
        unfinished = [x for x in begun if not (x.parent / "weights.safetensors").exists()]
        return self.trained() >= 2 and any(x.stat().st_size for x in unfinished)

    def testing(self) -> bool:
        """Whether a run is trained of which nothing is measured yet."""
        return self.trained() > len(self.measured()) >= 3

    def measured(self) -> set[str]:
        """Weights, by the beginning of their hash, of which there are posteriors."""
        return {path.name[:8] for path in self.out.glob("posteriors/*.safetensors")}


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "vggnet", *arguments]


def check(rehearsal: Rehearsal, results: dict[str, Any], classes: int, val: int) -> dict[str, int]:
    """What must be so of the results; the rows of each table that have numbers."""
    filled: dict[str, int] = {}
    for table in TABLES:
        rows = [row for row in results["rows"] if row["table"] == table]
        whole = [row for row in rows if row["top1"] is not None and row["n"] == val]
        filled[f"table {table}"] = len(whole)
        if rows:  # a part of the grid leaves some out
            same = len(whole) == len(rows)
            rehearsal.checks[f"table {table}: every row has a number of {val} images"] = same
    files = sorted(rehearsal.out.glob("posteriors/*.safetensors"))
    shapes, sums = set(), []
    for file in files:
        posteriors = load_file(file)["posteriors"]
        shapes.add(posteriors.shape)
        sums.append(bool((np.abs(posteriors.sum(axis=1) - 1) < 1e-4).all()))  # False of a NaN
    rehearsal.checks[f"posteriors are {val}×{classes}"] = shapes == {(val, classes)}
    rehearsal.checks["posteriors are finite and sum to 1"] = bool(sums) and all(sums)
    headers = [
        vggnet.read_header(path) for path in rehearsal.out.glob("runs/*/weights.safetensors")
    ]
    rehearsal.checks["every run's weights know their classes"] = len(headers) == len(
        results["runs"]
    ) and all(len(set(x.provenance.class_names or ())) == classes for x in headers)
    for name in ("report.html", "report.md"):
        rehearsal.checks[f"{name} is there"] = (rehearsal.out / name).stat().st_size > 1000
    return filled


def rehearse(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    data, out = folder / "imagenet", folder / "runs"
    began = time.monotonic()
    write_imagenet(data, args.classes, args.train, args.val)
    options = ["--crop", str(args.crop), "--width", str(args.width), "--epochs", "1"]
    options += ["--batch-size", str(args.batch_size), "--device", args.device]
    options += ["--precision", args.precision]
    if args.only:
        options += ["--only", args.only]
    one = Rehearsal(data, out, options)
    one.seconds["files"] = round(time.monotonic() - began, 1)
    told = one.call("check-data", ["check-data", str(data), "--crop", str(args.crop)])
    one.checks["check-data finds nothing that cannot be read"] = "cannot be read" not in told
    planned = json.loads(one.call("plan", [*one.reproduce, "--plan", "--json"]))
    if len(planned) > _FEW:
        one.killed("killed in training", one.training)
        one.killed("killed in testing", one.testing)
    one.call("the rest", one.reproduce)
    content = (out / "results.json").read_bytes()
    rows = check(one, json.loads(content), args.classes, args.val)
    if len(planned) > _FEW:
        every = {f"table {table}": len(expected) for table, expected in TABLES.items()}
        one.checks["every row of the paper's tables is there"] = rows == every
    one.call("once more", one.reproduce)
    one.checks["once more: the same results"] = (out / "results.json").read_bytes() == content
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "runs": len(planned),
        "rows": rows,
        "planned_seconds": round(sum(step["seconds"] for step in planned), 1),
        "seconds": one.seconds,
        "peak_memory_mb": round(children.ru_maxrss * 1024 / 1e6),  # of the largest process; KiB
        "checks": one.checks,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--train", type=int, default=2000, help="training images")
    parser.add_argument("--val", type=int, default=1000, help="validation images")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--width", type=float, default=0.0625)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--only", help="a part of the grid, as of vggnet reproduce")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    args = parser.parse_args(arguments)
    if min(args.train, args.val) < args.classes:
        parser.error(f"--train and --val are at least --classes, {args.classes}")
    with tempfile.TemporaryDirectory() as name:
        result = rehearse(args, Path(name))
    result |= {
        "options": {key: value for key, value in vars(args).items() if key != "out"},
        "machine": machine(torch.device(args.device)),
        "processors": os.cpu_count(),
        "versions": {
            "vggnet": vggnet.__version__,
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        },
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    failed = [what for what, holds in result["checks"].items() if not holds]
    print("\n".join(f"FAILED: {what}" for what in failed) or "every check holds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
