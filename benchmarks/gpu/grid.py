"""The paper's grid on a GPU: what its parts take at full size, and the whole of it on digits.

    PYTHONPATH=src python3 benchmarks/gpu/grid.py OUT.json [--device cuda]

First the real `reproduce` on the embedded digits, with few epochs, and one of its nets on the GPU
against the CPU. Then, on generated photographs, training and evaluation at a crop of 224, and what
that makes of the grid on ILSVRC-2012. The JSON is written after every part, and no part starts or
goes on after `--minutes`. The exit status is 1 when a check failed.

`--small --device cpu` runs the same code on sizes for a laptop: its times say nothing.

    PYTHONPATH=src python3 benchmarks/gpu/grid.py OUT.json --data IMAGENET --runs FOLDER --only D

then goes on with the grid itself (days; `--only` as of `vggnet reproduce`). Stopped and called
again it goes on where it was.
"""

import argparse
import importlib
import json
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import vggnet
from vggnet import checkpoint, paper, plan
from vggnet.accounting import account
from vggnet.configs import NETS, Config
from vggnet.datasets import digits, open_dataset
from vggnet.evaluate import measure, posteriors
from vggnet.folders import ImageFiles
from vggnet.graph import Settings, grid
from vggnet.images import Pixels
from vggnet.loading import TrainingImages
from vggnet.machines import AtHand
from vggnet.model import VGG
from vggnet.parts import Dataset, Part
from vggnet.protocols import Method, Protocol, multi_scale
from vggnet.recipes import in_proportion
from vggnet.reproduce import reproduce
from vggnet.runs import WEIGHTS

sys.path.insert(0, str(Path(__file__).parent.parent))
forward = importlib.import_module("forward")
protocols = importlib.import_module("protocols")

AGREE = 1e-3
"""Largest difference of a posterior between the GPU, without TF32, and the CPU."""
MODES = ("float32", "tf32", "bfloat16")
"""float32 without TF32; PyTorch's default, which `train` takes, allows it in convolutions."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large everything is; the defaults are the full size."""

    crop: int = 224
    width: float = 1.0
    classes: int = 1000
    batches: tuple[int, ...] = (256, 128, 64)
    """Of a training step: the first that fits."""
    steps: int = 5
    images: int = 96
    """Of 375×500 pixels or so, for the dense evaluation; others take a part of them."""
    rounds: int = 3
    digits: int | None = None
    """Images of each part; all where None."""
    epochs: int = 3


SMALL = Sizes(
    crop=32, width=0.0625, classes=10, batches=(8,), steps=2, images=6, digits=40, epochs=1
)


class TimeIsUpError(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Place:
    """Where things run, and until when."""

    device: str
    end: float

    def check(self) -> None:
        if time.monotonic() > self.end:
            raise TimeIsUpError

    def seconds(self, work: Callable[[], object]) -> float:
        self.check()
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


def precision(mode: str) -> None:
    allow = mode != "float32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allow


def _first(part: Part, count: int) -> Part:
    return Part(part.images[:count], part.labels[:count])


def on_digits(sizes: Sizes, place: Place) -> dict[str, Any]:
    """`reproduce` itself, whole: are all tables there, and is a net the same on the CPU."""
    place.check()
    precision("float32")
    data = digits()
    if sizes.digits is not None:
        data = replace(
            data,
            train=_first(data.train, sizes.digits),
            validation=_first(data.validation, sizes.digits),
            test=_first(data.test, sizes.digits),
        )
    settings = Settings(crop=64, width=0.0625, epochs=sizes.epochs)
    whole = grid(data.name, len(data.class_names), data.flip, settings)
    (run,) = (
        run
        for run in whole.runs
        if run.name.startswith("D-") and run.paper_S == (256, 512) and run.config.tune == "all"
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        lines: list[str] = []
        start = time.perf_counter()
        reproduce(data, out, settings, device=place.device, jobs=1, log=lines.append)
        seconds = time.perf_counter() - start
        results = json.loads((out / "results.json").read_text())
        pages = all((out / name).stat().st_size > 0 for name in ("report.html", "report.md"))
        model = checkpoint.load(out / "runs" / run.name / WEIGHTS)
    expected = {
        str(table): len(rows)
        for table, rows in (
            (3, paper.TABLE_3),
            (4, paper.TABLE_4),
            (5, paper.TABLE_5),
            (6, paper.TABLE_6),
            (7, paper.TABLE_7),
        )
    }
    found = Counter(str(row["table"]) for row in results["rows"])
    # Of Table 7, the paper's own systems are measured.
    measured = sum(row["top1"] is not None for row in results["rows"])
    others = sum(not system.members for system in paper.TABLE_7)
    sections = ("parameters", "averaging", "others_protocols", "ablation", "claims", "by_scale")
    images = data.test.images[:100]
    scales = multi_scale(run.config.S, run.config.model.crop)
    both = [
        posteriors(model.to(device), images, scales=scales, method="multi-crop+dense", flips=False)
        for device in ("cpu", place.device)
    ]
    difference = float(np.abs(both[0] - both[1]).max())
    return {
        "seconds": round(seconds, 1),
        "runs": len(results["runs"]),
        "epochs": sizes.epochs,
        "rows_by_table": dict(found),
        "complete": dict(found) == expected
        and measured == sum(expected.values()) - others
        and len(results["runs"]) == len(whole.runs) == len(lines)
        and all(results[name] for name in sections)
        and pages,
        "net": run.name,
        "largest_posterior_difference_from_cpu": difference,
        "agrees": difference < AGREE,
    }


def training(sizes: Sizes, place: Place) -> dict[str, Any]:
    """Images a second of §3.1's step: forward, backward, SGD; reading not counted."""
    found: dict[str, Any] = {}
    for net in NETS:
        found[net] = {}
        for mode in MODES:
            found[net][mode] = "not measured: no batch fits"
            for batch in sizes.batches:
                _free(place)
                try:
                    rate = _training(net, mode, batch, sizes, place)
                except torch.OutOfMemoryError:
                    continue
                except TimeIsUpError:
                    found[net][mode] = "not measured: time is up"
                    break
                found[net][mode] = {"batch": batch, "images_per_second": round(rate, 1)}
                break
    return found


def _free(place: Place) -> None:
    """Gives back what the last net held, so that a larger batch finds room."""
    if place.device.startswith("cuda"):
        torch.cuda.empty_cache()


def _training(net: str, mode: str, batch: int, sizes: Sizes, place: Place) -> float:
    place.check()
    precision(mode)
    model = build(net, sizes, place).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 3, sizes.crop, sizes.crop)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    images = pixels.to(place.device, memory_format=torch.channels_last)
    labels = torch.randint(0, sizes.classes, (batch,), generator=generator).to(place.device)

    def step() -> None:
        half = mode == "bfloat16"
        kind = torch.device(place.device).type
        with torch.autocast(kind, torch.bfloat16) if half else nullcontext():
            loss = F.cross_entropy(model(images.float()), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    for _ in range(2):
        place.seconds(step)
    return batch / statistics.median(place.seconds(step) for _ in range(sizes.steps))


def build(net: str, sizes: Sizes, place: Place) -> VGG:
    model = vggnet.build(net, num_classes=sizes.classes, crop=sizes.crop, width=sizes.width)
    return model.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def testing(files: ImageFiles, sizes: Sizes, place: Place) -> dict[str, Any]:
    """Images a second by protocol, float32 with TF32 in convolutions as PyTorch has it.

    Images are decoded already; rescaling counts, as `measure` does it.
    """
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    images = list(files)
    scales = [in_proportion(Q, sizes.crop) for Q in protocols.SCALES]
    few = images[: max(1, len(images) // 6)]
    works: list[tuple[str, tuple[int, ...], Method, list[Pixels]]] = [
        *((f"dense, Q={Q}", (Q,), "dense", images) for Q in scales),
        *((f"multi-crop, Q={Q}", (Q,), "multi-crop", few) for Q in scales[:1]),
        ("multi-crop+dense, three scales", tuple(scales), "multi-crop+dense", few),
    ]
    found: dict[str, Any] = {}
    for net in "DE":
        model = build(net, sizes, place)
        found[net] = {}
        for name, Q, method, part in works:  # noqa: N806, the paper's name
            terms = Protocol(net, None, Q, method).terms
            try:
                place.check()
                measure([model], part[:3], [terms])
                start = time.perf_counter()
                (cost,) = measure([model], part, [terms])
                seconds = time.perf_counter() - start
            except TimeIsUpError:
                found[net][name] = "not measured: time is up"
                continue
            multiply_adds = sum(term.multiply_adds for term in cost.values())
            found[net][name] = {
                "images_per_second": round(len(part) / seconds, 2),
                "forwards_per_second": round(
                    sum(term.forwards for term in cost.values()) / seconds, 1
                ),
                "tera_multiply_adds_per_second": round(multiply_adds / seconds / 1e12, 4),
            }
    return found


def table_5(files: ImageFiles, sizes: Sizes, place: Place) -> dict[str, Any]:
    """As benchmarks/protocols.py, at this size: one pass against row by row, files decoded."""
    place.check()
    precision("float32")
    models = {net: build(net, sizes, place) for net in "DE"}
    scales = [in_proportion(Q, sizes.crop) for Q in protocols.SCALES]
    some = files[: max(3, len(files) // 8)]
    found: dict[str, Any] = protocols.table_5(models, some, scales, sizes.rounds)
    return {"images": len(some), **found, "reading": protocols.reading(some, scales)}


def reading(files: ImageFiles, sizes: Sizes, place: Place) -> dict[str, float]:
    """Images a second that `TrainingImages` hands over from files, for S = 256 and jittered S."""
    place.check()
    part = Part(files, np.arange(len(files), dtype=np.int64) % sizes.classes, files.names)
    names = tuple(map(str, range(sizes.classes)))
    data = Dataset("photographs", names, part, part, part, flip=True)
    found = {}
    low, high = in_proportion(256, sizes.crop), in_proportion(512, sizes.crop)
    for name, scale in (("S=256", low), ("S=[256;512]", (low, high))):
        source = TrainingImages(
            data,
            S=scale,
            crop=sizes.crop,
            batch_size=16,
            flip=data.flip,
            colour_shift=0.1,
            seed=0,
        )
        place.check()
        start = time.perf_counter()
        count = sum(len(batch.labels) for batch in source.epoch(0))
        found[name] = round(count / (time.perf_counter() - start), 1)
    return found


def estimate(result: dict[str, Any], sizes: Sizes, place: Place, out: Path) -> dict[str, Any]:
    """Hours of the grid on ILSVRC-2012, from its multiply-adds (`plan`) and the measured rates.

    Of all epochs, though a plateau may end a run sooner; the reading beside it in the same time
    where one process reads for one GPU.
    """
    place.check()
    facts = plan.ILSVRC_2012
    settings = Settings(crop=sizes.crop, width=sizes.width)
    whole = grid(facts.name, facts.num_classes, facts.flip, settings)
    steps = plan.plan(whole, facts, out, AtHand(place.device))
    tests = [
        value["tera_multiply_adds_per_second"] * 1e12
        for value in result["evaluation"]["D"].values()
        if isinstance(value, dict)
    ]
    test_speed = statistics.median(tests)
    hours: dict[str, Any] = {}
    for mode in MODES:
        total = 0.0
        for run, step in zip(whole.runs, steps, strict=True):
            net = run.config.model.net
            rate = result["training"][net][mode]
            if not isinstance(rate, dict):
                break
            model = Config(net, sizes.classes, crop=sizes.crop, width=sizes.width)
            # A step is a forward and a backward of two forwards' cost, as the plan counts.
            speed = rate["images_per_second"] * 3 * account(model).multiply_adds
            total += step.training_multiply_adds / speed + step.test_multiply_adds / test_speed
        else:
            hours[mode] = round(total / 3600, 1)
    read = sum(
        run.config.epochs
        * facts.train
        / result["reading"]["S=256" if isinstance(run.config.S, int) else "S=[256;512]"]
        for run in whole.runs
    )
    return {
        "runs": len(steps),
        "epochs": sum(step.epochs for step in steps),
        "exa_multiply_adds": {
            "training": round(sum(step.training_multiply_adds for step in steps) / 1e18, 3),
            "tests": round(sum(step.test_multiply_adds for step in steps) / 1e18, 4),
        },
        "hours": hours,
        "of_which_tests": round(
            sum(step.test_multiply_adds for step in steps) / test_speed / 3600, 1
        ),
        "hours_of_reading_in_one_process": round(read / 3600, 1),
        "hours_by_vggnet_plan": round(sum(step.seconds for step in steps) / 3600, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--minutes", type=float, default=7, help="no part starts after these")
    parser.add_argument("--data", help="then run the grid on this folder of images")
    parser.add_argument("--runs", type=Path, help="folder of that grid's runs and results")
    parser.add_argument("--only", help="of that grid: tables and nets, as of vggnet reproduce")
    args = parser.parse_args()
    if (args.data is None) != (args.runs is None):
        parser.error("--data and --runs go together")
    try:
        data = None if args.data is None else open_dataset(args.data)
    except vggnet.InputError as error:
        parser.error(str(error))
    sizes = SMALL if args.small else Sizes()
    place = Place(args.device, time.monotonic() + 60 * args.minutes)
    cuda = args.device.startswith("cuda")
    result: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if cuda else forward.processor(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "versions": {
            "vggnet": vggnet.__version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
        },
        "crop": sizes.crop,
        "width": sizes.width,
        "seconds": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        files = protocols.photographs(Path(folder), sizes.images, 0)
        parts: dict[str, Callable[[], Any]] = {
            "digits": lambda: on_digits(sizes, place),
            "reading": lambda: reading(files, sizes, place),
            "evaluation": lambda: testing(files, sizes, place),
            "training": lambda: training(sizes, place),
            "imagenet": lambda: estimate(result, sizes, place, Path(folder)),
            "table_5": lambda: table_5(files, sizes, place),
        }
        for name, part in parts.items():
            start = time.perf_counter()
            try:
                result[name] = part()
            except TimeIsUpError:
                result[name] = "not measured: time is up"
            result["seconds"][name] = round(time.perf_counter() - start, 1)
            args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if data is not None:
        settings = Settings(only=args.only)
        if args.small:
            settings = replace(settings, crop=sizes.crop, width=sizes.width, epochs=sizes.epochs)
        reproduce(data, args.runs, settings, device=args.device, log=print)
    on = result["digits"]
    sys.exit(not (isinstance(on, dict) and on["complete"] and on["agrees"]))


if __name__ == "__main__":
    main()
