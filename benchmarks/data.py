"""Reading images for training: vggnet's loader against Pillow's, OpenCV's and albumentations' ways.

JPEG files are generated, two sizes in two strengths of compression, and lie in the page cache. What
is compared takes turns, round by round; a ratio is the median of the rounds' own ratios.

- `loaders`: images a second of `TrainingImages` (S = 256, a random crop of 224, a flip, uint8), and
  of a plain dataset of Pillow's open, convert, resize, crop in PyTorch's DataLoader, to uint8
  tensors or, as most people have it, to normalised float32; with one and with two workers each.
- `antialiasing`: one process and no loader; beside the speed of each way its error, root mean
  square and largest, in levels of 0-255 against an antialiased resize in float64 of the whole.
- `--memory`: of the process and its workers, after 2 epochs and after 50.
- `--index`: of the names and the index of a million files.
- `--train`: the share of net D's step at 224 in which it waits for images, of 10,000 files.

    .venv/bin/python benchmarks/data.py [--json] [--out FILE] [--quick] [--memory] [--index] [--train]
"""

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import vggnet
from forward import processor
from photographs import Kind, write_folder
from vggnet.augment import ColourPCA
from vggnet.datasets import Dataset, open_dataset
from vggnet.images import EncodedImage, Pixels, scaled_size
from vggnet.loading import TrainingImages
from vggnet.readers import default_workers

S, CROP, BATCH = 256, 224, 32
KINDS = {
    "usual": (Kind(375, 500, 1.6, 0, 80), Kind(1536, 2048, 1.7, 0, 80)),
    "heavy": (Kind(375, 500, 1.4, 4, 90), Kind(1536, 2048, 1.4, 5, 90)),
}
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Ways = dict[str, Callable[[], float]]
"""By name, what measures a way once: images a second."""


class PillowFolder(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """What a tutorial writes; `normalised` as most do."""

    def __init__(self, paths: Sequence[Path], normalised: bool) -> None:
        self.paths, self.normalised = list(paths), normalised

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = Image.open(self.paths[i]).convert("RGB")
        height, width = scaled_size(image.height, image.width, S)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = random.randint(0, width - CROP), random.randint(0, height - CROP)
        image = image.crop((left, top, left + CROP, top + CROP))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if self.normalised:
            mean, deviation = (torch.tensor(x)[:, None, None] for x in (MEAN, DEVIATION))
            pixels = (pixels.float() / 255 - mean) / deviation
        return pixels, 0


def opened(root: Path) -> Dataset:
    data = open_dataset(str(root))
    # Known from an earlier run or from check-data; no part of what is measured.
    data.__dict__["_colours"] = ((127.5, 127.5, 127.5), ColourPCA(50 * np.eye(3)))
    return data


def ours(data: Dataset, workers: int, batch_size: int = BATCH) -> TrainingImages:
    return TrainingImages(
        data, S=S, crop=CROP, batch_size=batch_size, flip=True, colour_shift=0.1, seed=0,
        workers=workers,
    )  # fmt: skip


def loader_ways(root: Path) -> Ways:
    """Each with workers of its own, which are started and warm."""
    data = opened(root)
    paths = [root / name for name in data.train.names or ()]

    def plain(workers: int, normalised: bool) -> Callable[[], float]:
        loader = torch.utils.data.DataLoader(
            PillowFolder(paths, normalised), batch_size=BATCH, shuffle=True, num_workers=workers,
            persistent_workers=True,
        )  # fmt: skip
        return lambda: speed(sum(len(images) for images, _ in loader) for _ in range(1))

    def vggnets(workers: int) -> Callable[[], float]:
        images, epochs = ours(data, workers), iter(range(1 << 30))
        return lambda: speed(len(batch.labels) for batch in images.epoch(next(epochs)))

    ways: Ways = {}
    for workers in (1, 2):
        ways[f"vggnet, {workers}"] = vggnets(workers)
        ways[f"pillow, {workers}"] = plain(workers, normalised=False)
        ways[f"pillow float, {workers}"] = plain(workers, normalised=True)
    for way in ways.values():
        way()
    return ways


def speed(counts: Iterator[int]) -> float:
    """Images a second over what counts them while it works."""
    start = time.perf_counter()
    total = sum(counts)
    return total / (time.perf_counter() - start)


def in_turns(ways: Ways, rounds: int) -> dict[str, list[float]]:
    """Images a second of each way in each round; who comes first changes."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(ways[name]())
    return found


def ratio(speeds: dict[str, list[float]], one: str, other: str) -> dict[str, Any]:
    """Of each round, one way's speed over another's: median and quartiles."""
    found = [a / b for a, b in zip(speeds[one], speeds[other], strict=True)]
    low, middle, high = statistics.quantiles(found, n=4) if len(found) > 1 else found * 3
    return {"ratio": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}


def loaders(root: Path, rounds: int) -> dict[str, Any]:
    speeds = in_turns(loader_ways(root), rounds)
    pairs = {
        "vs_pillow": ("vggnet, 1", "pillow, 1"),
        "vs_pillow_2_workers": ("vggnet, 2", "pillow, 2"),
        "vs_pillow_float": ("vggnet, 1", "pillow float, 1"),
        "workers_2_vs_1": ("vggnet, 2", "vggnet, 1"),
        "pillow_workers_2_vs_1": ("pillow, 2", "pillow, 1"),
    }
    return {
        "images_per_second": {name: round(statistics.median(x)) for name, x in speeds.items()},
        **{name: ratio(speeds, *pair) for name, pair in pairs.items()},
    }


def triangle(length: int, size: int, start: int) -> np.ndarray:
    """CROP×length: the share of each source pixel in each of the window's, antialiased bilinear."""
    scale = length / size
    centres = (np.arange(start, start + CROP) + 0.5) * scale
    away = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(1.0, scale)
    weights = np.clip(1 - away, 0, None)
    shares: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return shares


def centre(size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] - CROP) // 2, (size[1] - CROP) // 2


def exact(path: Path) -> np.ndarray:
    """The centre window in float64, of the image that Pillow decodes in full."""
    with Image.open(path) as image:
        whole = np.asarray(image.convert("RGB")).astype(np.float64)
    size = scaled_size(whole.shape[0], whole.shape[1], S)
    rows, columns = (triangle(whole.shape[i], size[i], centre(size)[i]) for i in range(2))
    found: np.ndarray = np.einsum("yh,hwc,xw->yxc", rows, whole, columns, optimize=True)
    return found


def by_vggnet(path: Path) -> Pixels:
    image = EncodedImage(path.read_bytes(), path.name)
    return image.window(S, (*centre(scaled_size(*image.shape, S)), CROP, CROP))


def by_pillow(path: Path) -> Pixels:
    image = Image.open(path).convert("RGB")
    size = scaled_size(image.height, image.width, S)
    top, left = centre(size)
    image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + CROP, top + CROP)))


def cropping_ways() -> tuple[dict[str, Callable[[Path], Pixels]], dict[str, str]]:
    """What is installed, and how to install what is not."""
    ways: dict[str, Callable[[Path], Pixels]] = {"vggnet": by_vggnet, "Pillow": by_pillow}
    missing: dict[str, str] = {}
    try:
        import cv2
    except ImportError:
        line = "not installed: pip install opencv-python-headless"
        return ways, {"OpenCV INTER_LINEAR": line, "OpenCV INTER_AREA": line}
    cv2.setNumThreads(1)

    def by_opencv(path: Path, filter: int) -> Pixels:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        size = scaled_size(image.shape[0], image.shape[1], S)
        top, left = centre(size)
        image = cv2.resize(image, size[::-1], interpolation=filter)
        return np.ascontiguousarray(image[top : top + CROP, left : left + CROP]).astype(np.uint8)

    ways["OpenCV INTER_LINEAR"] = lambda path: by_opencv(path, cv2.INTER_LINEAR)
    ways["OpenCV INTER_AREA"] = lambda path: by_opencv(path, cv2.INTER_AREA)
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        import albumentations
    except ImportError:
        missing["albumentations"] = "not installed: pip install albumentations"
        return ways, missing
    smallest, flip = albumentations.SmallestMaxSize(S), albumentations.HorizontalFlip(p=0.5)
    usual = albumentations.Compose([smallest, albumentations.RandomCrop(CROP, CROP), flip])
    central = albumentations.Compose([smallest, albumentations.CenterCrop(CROP, CROP)])

    def by_albumentations(path: Path, pipeline: Any) -> Pixels:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        found: Pixels = pipeline(image=image)["image"]
        return found

    ways["albumentations"] = lambda path: by_albumentations(path, usual)
    ways["albumentations, centre"] = lambda path: by_albumentations(path, central)
    return ways, missing


def antialiasing(root: Path, count: int, rounds: int) -> dict[str, Any]:
    paths = sorted((root / "train").rglob("*-0000.jpg"))[:count]
    ways, missing = cropping_ways()
    for way in ways.values():
        way(paths[0])

    def timed(way: Callable[[Path], Pixels]) -> Callable[[], float]:
        return lambda: speed(len(way(path)[:1]) for path in paths)

    speeds = in_turns({name: timed(way) for name, way in ways.items()}, rounds)
    expected = [exact(path) for path in paths]
    found: dict[str, Any] = {}
    for name in ways:
        # The flips and places of a random pipeline are not to be compared; its centre's are.
        way = ways.get(f"{name}, centre", ways[name])
        errors = np.stack(
            [way(path) - window for path, window in zip(paths, expected, strict=True)]
        )
        found[name] = {
            "images_per_second": round(statistics.median(speeds[name]), 1),
            "vs_pillow": ratio(speeds, name, "Pillow"),
            "error_rms": round(float(np.sqrt((errors**2).mean())), 3),
            "error_max": round(float(np.abs(errors).max()), 1),
        }
    found.pop("albumentations, centre", None)
    return found | missing


def memory(root: Path, epochs: int) -> dict[str, Any]:
    """Resident megabytes of this process and its two workers; pages they share count in each."""
    images, sizes = ours(opened(root), 2), {}
    for epoch in range(epochs):
        for _ in images.epoch(epoch):
            pass
        if epoch + 1 in (2, epochs):
            sizes[f"after_{epoch + 1}_epochs_mb"] = resident(os.getpid())
    images.close()
    return sizes


def resident(process: int) -> float:
    own = Path(f"/proc/{process}")
    lines = dict(x.split(":", 1) for x in (own / "status").read_text().splitlines() if ":" in x)
    children = [x for task in own.glob("task/*/children") for x in task.read_text().split()]
    return round(int(lines["VmRSS"].split()[0]) / 1e3 + sum(resident(int(x)) for x in children), 1)


def waiting(root: Path, steps: int) -> dict[str, Any]:
    """Of the steps of net D: how long one takes, and the share of it in which images are waited for."""
    data = opened(root)
    model = vggnet.build("D", num_classes=len(data.class_names), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    workers = default_workers(data.train.images, "cpu")
    images = ours(data, workers, batch_size=8)
    batches = images.epoch(0)
    for step in range(-2, steps):
        if step == 0:  # the workers have started, and PyTorch has its memory
            start, waited = time.perf_counter(), images.waited
        batch = next(batches)
        loss = F.cross_entropy(model(batch.images.float() + batch.shifts), batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    seconds, waited = time.perf_counter() - start, images.waited - waited
    images.close()
    return {
        "files": len(data.train),
        "workers": workers,
        "steps": steps,
        "seconds_per_step": round(seconds / steps, 3),
        "waited_per_step": round(waited / steps, 5),
        "share_waited": round(waited / seconds, 5),
    }


def million() -> dict[str, Any]:
    """Megabytes of a million files' names and of their index, as Python and NumPy count them."""
    from vggnet import indexfile
    from vggnet.folders import ImageFiles
    from vggnet.index import Index
    from vggnet.storage import Names

    classes, each = 1000, 1000
    with tempfile.TemporaryDirectory() as folder:
        tracemalloc.start()
        listed = (
            Names.of([f"train/n{label:08}/n{label:08}_{i}.JPEG" for i in range(each)])
            for label in range(classes)
        )
        images = ImageFiles(Path(folder), Names.joined(list(listed)))
        names, names_most = tracemalloc.get_traced_memory()
        rows = np.zeros(len(images), indexfile.ROW)
        rows["key"] = np.sort(indexfile.keys(images.names))
        path = Path(folder) / "index.npz"
        indexfile.write(path, (rows, ["JPEG"], [""]))
        size = path.stat().st_size
        del rows
        tracemalloc.reset_peak()
        index = Index(path)
        bad = index.bad(images)
        both, both_most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return {
        "files": len(images),
        "bad": len(bad),
        "names_mb": round(names / 1e6, 1),
        "names_at_most_mb": round(names_most / 1e6, 1),
        "names_and_index_mb": round(both / 1e6, 1),
        "names_and_index_at_most_mb": round(both_most / 1e6, 1),
        "index_file_mb": round(size / 1e6, 1),
    }


def versions() -> dict[str, str]:
    found = {"vggnet": vggnet.__version__, "python": platform.python_version()}
    names = "torch", "numpy", "pillow", "simplejpeg", "opencv-python-headless", "albumentations"
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def measured(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    rounds = 2 if args.quick else 5
    # Distinct files and copies of each: an epoch takes a second or more.
    counts = {"500x375": (16, 4), "2048x1536": (6, 4)} if args.quick else {
        "500x375": (64, 6), "2048x1536": (12, 6)
    }  # fmt: skip
    by_bitrate: dict[str, Any] = {}
    for bitrate, kinds in KINDS.items():
        by_bitrate[bitrate] = {}
        for kind in kinds:
            root = folder / f"{bitrate}-{kind.title}"
            distinct, copies = counts[kind.title]
            bits = write_folder(root, kind, distinct, copies)
            by_bitrate[bitrate][kind.title] = {
                "quality": kind.quality,
                "bits_per_pixel": bits,
                "kilobytes": round(bits * kind.height * kind.width / 8e3),
                "files": distinct * copies,
                "loaders": loaders(root, rounds),
                "antialiasing": antialiasing(root, 6 if args.quick else 12, rounds),
            }
    usual = {title: found["loaders"] for title, found in by_bitrate["usual"].items()}
    ratios = {f"{title}_vs_pillow": found["vs_pillow"]["ratio"] for title, found in usual.items()}
    ratios["workers_2_vs_1"] = usual["500x375"]["workers_2_vs_1"]["ratio"]
    found = {"ratios": ratios, "rounds": rounds, "by_bitrate": by_bitrate}
    if args.memory:
        found["memory"] = memory(folder / "usual-500x375", 5 if args.quick else 50)
    if args.index:
        found["index_of_a_million"] = million()
    if args.train:
        root = folder / "train"
        write_folder(root, KINDS["usual"][0], 20 if args.quick else 200, 50)
        found["train"] = waiting(root, 2 if args.quick else 20)
    return found


def table(result: dict[str, Any]) -> str:
    lines = []
    for bitrate, sizes in result["by_bitrate"].items():
        for title, found in sizes.items():
            bits = f"{found['bits_per_pixel']} bits a pixel, {found['kilobytes']} kB"
            lines.append(f"{title}, {bitrate}: {bits}")
            for name, images in found["loaders"]["images_per_second"].items():
                workers = "worker" if name.endswith("1") else "workers"
                lines.append(f"  {name + ' ' + workers:28} {images:8} images/s")
            for name, value in found["loaders"].items():
                if "ratio" in value:
                    low, high = value["quartiles"]
                    lines.append(f"  {name:28} {value['ratio']:8.2f} ({low:.2f} to {high:.2f})")
            lines.append("  one process                  images/s   × Pillow  RMS error  largest")
            for name, value in found["antialiasing"].items():
                if isinstance(value, str):
                    lines.append(f"  {name:28} {value}")
                    continue
                lines.append(
                    f"  {name:28} {value['images_per_second']:8.0f} "
                    f"{value['vs_pillow']['ratio']:10.2f} {value['error_rms']:10.2f} "
                    f"{value['error_max']:8.1f}"
                )
            lines.append("")
    for name in ("ratios", "memory", "index_of_a_million", "train"):
        if name in result:
            values = ", ".join(f"{key} {value}" for key, value in result[name].items())
            lines.append(f"{name}: {values}")
    return "\n".join([*lines, f"{result['machine']}, {result['processors']} processors"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    parser.add_argument("--quick", action="store_true", help="few files and rounds: does it run?")
    parser.add_argument("--memory", action="store_true", help="50 epochs; a minute or two")
    parser.add_argument("--index", action="store_true", help="of a million files; half a minute")
    parser.add_argument("--train", action="store_true", help="net D at 224; some minutes")
    args = parser.parse_args()
    load = [round(value, 2) for value in os.getloadavg()]  # of other work, before ours
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), args)
    result = {
        **found,
        "S": S,
        "crop": CROP,
        "batch": BATCH,
        "machine": processor(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "load_average_before": load,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text if args.json else table(result))


if __name__ == "__main__":
    main()
