"""torchvision's and timm's own nets through files, in and out: are they provably the same nets?

    PYTHONPATH=src python3 benchmarks/gpu/weights.py OUT.json [--device cuda]

Needs torchvision and timm; says so where one is missing. Their nets are drawn at random (nothing
is downloaded), their state_dicts written as files, read by `vggnet.load`, and fed the same images,
ours RGB 0–255, theirs through torchvision's normalisation. The exit status is 1 when scores
differ.
"""

import argparse
import importlib
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import vggnet
from vggnet.weights import convert

sys.path.insert(0, str(Path(__file__).parent.parent))
forward = importlib.import_module("forward")

NAMES = ("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn")
SIZES = ((224, 224), (256, 256), (384, 512))
AGREE = 1e-4
"""Largest difference of scores over the largest score, float32 without TF32."""


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def randomise(net: nn.Module) -> nn.Module:
    """Biases and running statistics that are not 0 and 1, as after training."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.normal_(
                0, (2 / module.weight[0].numel()) ** 0.5, generator=generator
            )
            if module.bias is not None:
                module.bias.data.normal_(0, 0.1, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return net.eval()


def normalised(images: Tensor) -> Tensor:
    mean = images.new_tensor([0.485, 0.456, 0.406], dtype=torch.float32)[:, None, None]
    std = images.new_tensor([0.229, 0.224, 0.225], dtype=torch.float32)[:, None, None]
    return (images.float() / 255 - mean) / std


def compare(library: Any, name: str, device: str, folder: Path) -> dict[str, Any]:
    """One net of theirs: file in, scores, and for torchvision's the file out and in again."""
    timm = library.__name__ == "timm"
    make = library.create_model if timm else library.models.get_model
    theirs = randomise(make(name))
    source = folder / ("model.safetensors" if timm else "net.pth")
    if timm:
        save_file({key: value.contiguous() for key, value in theirs.state_dict().items()}, source)
    else:
        torch.save(theirs.state_dict(), source)
    start = time.perf_counter()
    model = vggnet.load(source)
    found: dict[str, Any] = {"net": model.config.title, "load_s": time.perf_counter() - start}
    theirs, model = theirs.to(device), model.to(device)
    for height, width in SIZES if timm else SIZES[:1]:
        images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, device=device)
        found[f"{height}x{width}"] = relative(model(images), theirs(normalised(images)))
    if not timm:
        convert(source, folder / "back.pth")
        again = make(name).eval()
        again.load_state_dict(torch.load(folder / "back.pth", weights_only=True))
        images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, device=device)
        x = normalised(images)
        found["back"] = relative(again.to(device)(x), theirs(x))
    return found


def differences(found: Any) -> Iterator[float]:
    for key, value in found.items():
        if isinstance(value, dict):
            yield from differences(value)
        elif key == "back" or "x" in key:
            yield value


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--nets", nargs="+", default=NAMES)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    result: dict[str, Any] = {"libraries": {}}
    for name in ("torchvision", "timm"):
        try:
            library = importlib.import_module(name)
        except ImportError as error:
            result["libraries"][name] = f"not measured: {error}"
            continue
        nets: dict[str, Any] = {}
        result["libraries"][name] = {"version": library.__version__, "nets": nets}
        for net in args.nets:
            with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
                nets[net] = compare(library, net, args.device, Path(folder))
            print(name, net, nets[net], flush=True)
    measured = [x for x in result["libraries"].values() if isinstance(x, dict)]
    largest = [found for library in measured for found in differences(library["nets"])]
    result["largest"] = max(largest, default=None)
    cuda = args.device.startswith("cuda")
    result["machine"] = torch.cuda.get_device_name() if cuda else forward.processor()
    result["versions"] = {
        "vggnet": vggnet.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(not largest or max(largest) > AGREE)


if __name__ == "__main__":
    main()
