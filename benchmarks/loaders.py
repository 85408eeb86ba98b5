"""Training batches by vggnet, and by Pillow and PyTorch: speed, memory, waiting."""

import os
import random
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import vggnet
from turns import Ways, in_turns, ratio, speed
from vggnet import indexfile
from vggnet.augment import ColourPCA
from vggnet.datasets import open_dataset
from vggnet.folders import ImageFiles
from vggnet.images import scaled_size
from vggnet.index import Index
from vggnet.loading import TrainingImages
from vggnet.parts import Dataset
from vggnet.readers import default_workers
from vggnet.storage import Names

S, CROP, BATCH = 256, 224, 32
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
        return lambda: speed(len(images) for images, _ in loader)

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


def million() -> dict[str, Any]:
    """Megabytes of a million files' names and of their index, as Python and NumPy count them."""
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


def waiting(root: Path, steps: int) -> dict[str, Any]:
    """Seconds of a step of net D, and the share of them in which it waits for images."""
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
