"""The nets on a GPU: right scores, equal to torchvision's and timm's, and what a forward costs.

    PYTHONPATH=src python3 benchmarks/gpu/spine.py OUT.json [--device cuda]

Parts that need torchvision or timm say so when those are missing.
"""

import argparse
import importlib
import json
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vggnet
from vggnet.adaptations import on_digits
from vggnet.configs import NETS, Config
from vggnet.datasets import digits
from vggnet.recipes import a_256
from vggnet.train import train

sys.path.insert(0, str(Path(__file__).parent.parent))
forward = importlib.import_module("forward")


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    expected = expected.double().cpu()
    return float((found.double().cpu() - expected).abs().max() / expected.abs().max())


def scores(device: str) -> dict[str, Any]:
    """Every net at a quarter of its width against its own float64 scores on the CPU."""
    found = {}
    for net in NETS:
        model = vggnet.build(net, width=0.25, seed=1)
        images = torch.randint(0, 256, (2, 3, 256, 320), dtype=torch.uint8)
        expected = model.double()(images)
        model = model.float().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.to(device)
        with torch.autocast(device, torch.bfloat16):
            half = model(images)
        found[net] = {
            "float32": relative(model(images), expected),
            "bfloat16": relative(half, expected),
        }
    return found


def others(device: str) -> dict[str, Any]:
    """D with the weights of torchvision's and timm's vgg16, drawn at random."""
    found: dict[str, Any] = {}
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, device=device)
    wide = torch.randint(0, 256, (2, 3, 256, 384), dtype=torch.uint8, device=device)
    model = vggnet.build("D").to(device)
    for name in ("torchvision", "timm"):
        try:
            library = importlib.import_module(name)
        except ImportError as error:
            found[name] = f"not measured: {error}"
            continue
        net = library.models.vgg16() if name == "torchvision" else library.create_model("vgg16")
        net = net.eval().to(device)
        theirs = list(net.state_dict().values())
        ours = [key for key in model.state_dict() if key != "mean"]
        shapes = model.state_dict()
        model.load_state_dict(
            {
                "mean": model.mean,
                **{k: v.reshape(shapes[k].shape) for k, v in zip(ours, theirs, strict=True)},
            }
        )
        mean = model.mean.view(1, 3, 1, 1)
        found[name] = {
            "version": library.__version__,
            "crop_224": relative(model(pixels), net(pixels - mean)),
        }
        if name == "timm":  # dense: it averages fc7's map before its last layer, which is linear
            found[name]["dense_256x384"] = relative(model(wide), net(wide - mean))
    return found


def epoch(device: str) -> dict[str, Any]:
    """An epoch of net A on digits, and how far its losses are from the CPU's."""
    config = on_digits(a_256(Config("A", num_classes=10, crop=32, width=0.1875, dropout=0.0)))
    config = replace(config, epochs=1)
    losses, seconds = {}, {}
    for place in ("cpu", device):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            train(config, digits(), folder, device=place)
            seconds[place] = round(time.perf_counter() - start, 2)
            lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        losses[place] = [record["loss"] for record in records if record["kind"] == "train"]
    largest = max(abs(a - b) for a, b in zip(losses["cpu"], losses[device], strict=True))
    return {"seconds": seconds, "largest_loss_difference": largest, "steps": len(losses["cpu"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode():
        result: dict[str, Any] = {
            "scores_against_float64": scores(args.device),
            "same_weights_as": others(args.device),
            "forward": {
                f"b{batch}": forward.measure("D", batch, args.rounds, args.device)
                for batch in (1, 8, 64)
            },
        }
    result["epoch"] = epoch(args.device)
    cuda = args.device.startswith("cuda")
    result["machine"] = torch.cuda.get_device_name() if cuda else forward.processor()
    result["versions"] = {
        "vggnet": vggnet.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
