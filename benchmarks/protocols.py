"""The test protocols of §3.2: what each costs an image, and Table 5 in one pass against row by row.

Generated photographs are written as JPEG files and read through `ImageFiles`, which decodes on
access: an image is decoded and rescaled once in one pass, and once a row where rows are computed
one by one. What is compared takes turns, round by round, in one process; a ratio is the median of
the rounds' own ratios. Reported as JSON:

- `by_protocol`: views, forwards and multiply-adds an image, seconds an image with reading.
- `table_5`: seconds of its six rows with a call of `evaluate.posteriors` each over those of one
  pass (`evaluate.measure`); above 1 the pass is faster, and 2 is the requirement. The pass halves
  the multiply-adds, since a row of multi-crop & dense repeats the two others.
- `coinciding_crops`: forwards of multi-crop where the grid has little room, at Q = crop.

    .venv/bin/python benchmarks/protocols.py [--out FILE] [--crop 224] [--width 0.125] [--images 3]
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

import vggnet
from forward import processor
from vggnet import paper
from vggnet.configs import NETS
from vggnet.evaluate import mean, measure, posteriors
from vggnet.folders import ImageFiles
from vggnet.images import Pixels, rescale
from vggnet.model import VGG
from vggnet.passes import Posteriors
from vggnet.protocols import Method, Protocol
from vggnet.recipes import in_proportion

SHAPES = ((375, 500), (500, 375), (333, 500))
"""Height and width in pixels, as of many of ILSVRC-2012's photographs."""
SQUARE = (400, 400)
SCALES = (256, 384, 512)
"""Table 5's, for a crop of 224."""


def photograph(height: int, width: int, rng: np.random.Generator) -> Image.Image:
    """Noise that is the weaker the finer it is, and grain: 2 to 3 bits a pixel as JPEG."""
    total = rng.normal(0, 10, (height, width, 1)) + np.zeros(3)
    for octave in range(1, 9):
        rows, columns = 2**octave, 2**octave * width // height + 1
        coarse = Image.fromarray(rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
        fine = coarse.resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(fine) - 127.5) * 0.6**octave
    return Image.fromarray((127.5 + total).clip(0, 255).astype(np.uint8))


def photographs(
    folder: Path, count: int, seed: int, shapes: Sequence[tuple[int, int]] = SHAPES
) -> ImageFiles:
    """JPEG files in a folder, of the shapes in turn."""
    rng = np.random.default_rng(seed)
    names = []
    for i in range(count):
        height, width = shapes[i % len(shapes)]
        names.append(f"{i}-{height}x{width}.jpg")
        photograph(height, width, rng).save(folder / names[-1], quality=90)
    return ImageFiles(folder, tuple(names))


def seconds(work: Callable[[], object]) -> float:
    """Every posterior ends on the CPU, so a GPU has nothing left to do when `work` returns."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def reading(images: ImageFiles, scales: Sequence[int]) -> dict[str, float]:
    """What a pass spends on an image before any net sees it; the faster of two turns."""
    decode = min(seconds(lambda: list(images)) for _ in range(2))
    pixels = list(images)
    scale = min(seconds(lambda: [rescale(x, Q) for x in pixels for Q in scales]) for _ in range(2))
    size = sum(size for _, size, _ in images.stamps())
    n = len(images)
    return {
        "kilobytes": round(size / n / 1e3, 1),
        "decode_ms": round(1e3 * decode / n, 2),
        "rescale_ms": round(1e3 * scale / n, 2),
    }


def by_protocol(
    model: VGG, images: Sequence[Pixels], scales: Sequence[int], rounds: int
) -> list[dict[str, Any]]:
    """Every method of §3.2 at the smallest scale and at all, each computed alone."""
    title = model.config.title
    protocols = [
        Protocol(title, None, tuple(Q), method)
        for Q in (scales[:1], scales)
        for method in get_args(Method)
    ]
    times: dict[Protocol, list[float]] = {protocol: [] for protocol in protocols}
    cost = {}
    measure([model], images[:1], [protocols[-1].terms])
    for turn in range(rounds):
        first = turn % len(protocols)
        for protocol in protocols[first:] + protocols[:first]:
            start = time.perf_counter()
            (found,) = measure([model], images, [protocol.terms])
            mean([found[term].posteriors for term in protocol.terms])
            times[protocol].append(time.perf_counter() - start)
            cost[protocol] = found
    n = len(images)
    return [
        {
            "method": protocol.method,
            "Q": protocol.Q,
            "views": protocol.views,
            "forwards": round(sum(x.forwards for x in cost[protocol].values()) / n, 2),
            "giga_multiply_adds": round(
                sum(x.multiply_adds for x in cost[protocol].values()) / n / 1e9, 4
            ),
            "seconds": round(statistics.median(times[protocol]) / n, 4),
        }
        for protocol in protocols
    ]


def table_5(
    models: dict[str, VGG], images: Sequence[Pixels], scales: Sequence[int], rounds: int
) -> dict[str, Any]:
    """The six rows from one pass, and with a call each; `models` has nets D and E."""
    rows = [(row.net, Protocol(row.net, row.S, tuple(scales), row.method)) for row in paper.TABLE_5]
    terms = {
        net: list(dict.fromkeys(term for other, row in rows if other == net for term in row.terms))
        for net in models
    }
    multiply_adds: dict[str, int] = {}

    def together() -> list[Posteriors]:
        nets = measure(list(models.values()), images, list(terms.values()))
        found = dict(zip(models, nets, strict=True))
        one_pass = [value.multiply_adds for net in nets for value in net.values()]
        each = [found[net][term].multiply_adds for net, row in rows for term in row.terms]
        multiply_adds.update(together=sum(one_pass), one_by_one=sum(each))
        return [mean([found[net][term].posteriors for term in row.terms]) for net, row in rows]

    def one_by_one() -> list[Posteriors]:
        return [
            posteriors(models[net], images, scales=scales, method=row.method) for net, row in rows
        ]

    times: dict[str, list[float]] = {"together": [], "one_by_one": []}
    busy: dict[str, list[float]] = {"together": [], "one_by_one": []}
    ways = {"together": together, "one_by_one": one_by_one}
    results: dict[str, list[Posteriors]] = {}
    for model in models.values():
        posteriors(model, images[:1], scales=scales[:1])
    for turn in range(rounds):
        # Who goes first changes, so that neither always finds the other's cache.
        for name in sorted(ways, reverse=bool(turn % 2)):
            start, processor_start = time.perf_counter(), time.process_time()
            results[name] = ways[name]()
            times[name].append(time.perf_counter() - start)
            busy[name].append(time.process_time() - processor_start)
    pairs = zip(results["together"], results["one_by_one"], strict=True)
    n = len(images)
    return {
        **ratio("ratio", times),
        # What other work on the machine hardly disturbs; on a GPU it says nothing.
        **ratio("processor_time_ratio", busy),
        "multiply_adds_ratio": multiply_adds["one_by_one"] / multiply_adds["together"],
        "together_seconds": round(statistics.median(times["together"]) / n, 4),
        "one_by_one_seconds": round(statistics.median(times["one_by_one"]) / n, 4),
        "largest_posterior_difference": max(float(np.abs(a - b).max()) for a, b in pairs),
    }


def ratio(name: str, times: dict[str, list[float]]) -> dict[str, Any]:
    """Of each round, one by one over together: all, median and quartiles."""
    found = [b / a for a, b in zip(times["together"], times["one_by_one"], strict=True)]
    low, middle, high = statistics.quantiles(found, n=4) if len(found) > 1 else found * 3
    return {
        name: round(middle, 4),
        f"{name}_quartiles": [round(low, 4), round(high, 4)],
        f"{name}s": [round(value, 4) for value in found],
    }


def coinciding(model: VGG, seed: int) -> dict[str, dict[str, int]]:
    """Multi-crop at Q = crop, where crops can only move along an image's longer side."""
    protocol = Protocol(model.config.title, None, (model.config.crop,), "multi-crop")
    rng = np.random.default_rng(seed)
    found = {}
    for height, width in (*SHAPES, SQUARE):
        image = np.asarray(photograph(height, width, rng))
        ((value,),) = (net.values() for net in measure([model], [image], [protocol.terms]))
        found[f"{height}x{width}"] = {"views": protocol.views, "forwards": value.forwards}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    parser.add_argument("--net", default="D", choices=NETS, help="for by_protocol")
    parser.add_argument("--crop", type=int, default=224, help="pixels; Q is in proportion")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the CPU; PyTorch's choice by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0, help="of images and weights")
    args = parser.parse_args()
    load = [round(value, 2) for value in os.getloadavg()]  # of other work, before ours
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def build(net: str) -> VGG:
        model = vggnet.build(net, crop=args.crop, width=args.width, seed=args.seed)
        return model.to(args.device)

    scales = [in_proportion(Q, args.crop) for Q in SCALES]
    with tempfile.TemporaryDirectory() as folder:
        images = photographs(Path(folder), args.images, args.seed)
        found = {
            "reading": reading(images, scales),
            "by_protocol": by_protocol(build(args.net), images, scales, args.rounds),
            "table_5": table_5({net: build(net) for net in "DE"}, images, scales, args.rounds),
            "coinciding_crops": coinciding(build(args.net), args.seed),
        }
    machine = torch.cuda.get_device_name() if args.device.startswith("cuda") else processor()
    versions = {"vggnet": vggnet.__version__, "torch": torch.__version__}
    versions["python"] = platform.python_version()
    result = {
        "net": args.net,
        "crop": args.crop,
        "width": args.width,
        "images": args.images,
        "shapes": ["{}x{}".format(*shape) for shape in SHAPES],
        "rounds": args.rounds,
        **found,
        "machine": machine,
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "load_average_before": load,
        "threads": torch.get_num_threads(),
        "versions": versions,
    }
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
