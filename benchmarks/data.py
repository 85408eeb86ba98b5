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

    .venv/bin/python benchmarks/data.py [--json] [--out FILE] [--memory] [--index] [--train]
"""

import argparse
import json
import os
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import vggnet
from antialiasing import antialiasing
from forward import processor
from loaders import BATCH, CROP, S, loaders, memory, million, waiting
from photographs import Kind, write_folder

KINDS = {
    "usual": (Kind(375, 500, 1.6, 0, 80), Kind(1536, 2048, 1.65, 0, 80)),
    "heavy": (Kind(375, 500, 1.4, 4, 90), Kind(1536, 2048, 1.4, 5, 90)),
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
        "500x375": (64, 24), "2048x1536": (12, 12)
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
