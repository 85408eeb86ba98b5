"""Reading images beside a GPU: how many workers keep net D busy.

    PYTHONPATH=src python3 benchmarks/gpu/loading.py OUT.json [--device cuda]

Generated JPEGs of 500×375 pixels. `alone`: images a second of the loader by workers, into pinned
memory, and of Pillow's plain way in PyTorch's DataLoader. `step`: seconds of a training step of D
at 224 under bfloat16 autocast with images that are there, and, with images read by 1, 4 and all
workers, seconds a step and the share of them that the loop waits for images.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import vggnet
from vggnet.loading import Batch, TrainingImages
from vggnet.parts import Dataset
from vggnet.readers import processors

sys.path.insert(0, str(Path(__file__).parent.parent))
from data import KINDS, versions
from loaders import CROP, PillowFolder, S, opened
from photographs import write_folder


def images_of(data: Dataset, workers: int, batch_size: int, device: str) -> TrainingImages:
    return TrainingImages(
        data, S=S, crop=CROP, batch_size=batch_size, flip=True, colour_shift=0.1, seed=0,
        workers=workers, pin=device == "cuda",
    )  # fmt: skip


def batches_of(images: TrainingImages) -> Iterator[Batch]:
    """Epoch after epoch."""
    return chain.from_iterable(images.epoch(epoch) for epoch in range(1 << 30))


def alone(root: Path, workers: int, batch_size: int, device: str) -> dict[str, float]:
    data = opened(root)
    images = images_of(data, workers, batch_size, device)
    paths = [root / name for name in data.train.names or ()]
    plain = torch.utils.data.DataLoader(
        PillowFolder(paths, normalised=False), batch_size=batch_size, shuffle=True,
        num_workers=workers, persistent_workers=True, pin_memory=device == "cuda",
    )  # fmt: skip
    found = {}
    for name, epoch in (("vggnet", lambda: images.epoch(1)), ("pillow", lambda: iter(plain))):
        for _ in range(2):  # the second counts
            start = time.perf_counter()
            for _ in epoch():
                pass
            found[name] = round(len(data.train) / (time.perf_counter() - start), 1)
    images.close()
    return found


class Step:
    """A training step of net D."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.model = vggnet.build("D", num_classes=2, seed=0).to(
            device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)

    def __call__(self, batch: Batch) -> None:
        images = batch.images.to(self.device, non_blocking=True).float()
        images += batch.shifts.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True)
        with torch.autocast(self.device, torch.bfloat16):
            loss = F.cross_entropy(self.model(images).float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()  # so that waiting for images is seen as such


def seconds_of(step: Step, batches: Iterator[Batch], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step(next(batches))
    return (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--files", type=int, default=8192, help="a multiple of 64")
    args = parser.parse_args()
    counts = sorted({1, 2, 4, 8, processors()} & set(range(1, processors() + 1)))
    found: dict[str, Any] = {"alone": {}, "step": {}}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "photographs"
        found["bits_per_pixel"] = write_folder(root, KINDS["usual"][0], 64, args.files // 64)
        for workers in counts:
            found["alone"][workers] = alone(root, workers, args.batch, args.device)
        step, data = Step(args.device), opened(root)
        images = images_of(data, counts[-1], args.batch, args.device)
        batch = next(batches_of(images))
        images.close()
        seconds_of(step, iter([batch] * 3), 3)
        again = seconds_of(step, iter([batch] * args.steps), args.steps)
        found["step"]["images there"] = {"seconds": round(again, 4)}
        for workers in sorted({1, 4, counts[-1]} & set(counts)):
            images = images_of(data, workers, args.batch, args.device)
            batches = batches_of(images)
            seconds_of(step, batches, 3)
            waited = images.waited
            seconds = seconds_of(step, batches, args.steps)
            share = (images.waited - waited) / args.steps / seconds
            found["step"][workers] = {"seconds": round(seconds, 4), "waited": round(share, 4)}
            images.close()
    found |= {
        "batch": args.batch,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else args.device,
        "processors": processors(),
        "versions": versions(),
    }
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
