"""The model's forward against plain layers: what the one class with its convolutional head costs.

The reference is the usual VGG-16 of plain layers (in-place ReLUs, linear head) with the same
weights, both in eager channels_last. The two take turns, round by round, in one process; a ratio
is the median of the rounds' own ratios. Reported as JSON: milliseconds an image, and ratios (ours
over the reference's; below 1 is faster).

    .venv/bin/python benchmarks/forward.py [--rounds 15] [--device cpu] [--net D]
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vggnet

STAGES = {
    "A": [(64, 1), (128, 1), (256, 2), (512, 2), (512, 2)],
    "B": [(64, 2), (128, 2), (256, 2), (512, 2), (512, 2)],
    "D": [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)],
    "E": [(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)],
}


def reference(model: vggnet.VGG) -> nn.Module:
    """Plain layers holding the model's weights; takes what the model takes after its mean."""
    layers: list[nn.Module] = []
    channels = 3
    for out, count in STAGES[model.config.net]:
        for _ in range(count):
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(inplace=True)]
            channels = out
        layers.append(nn.MaxPool2d(2))
    head = [
        nn.Flatten(),
        nn.Linear(512 * 7 * 7, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 1000),
    ]
    net = nn.Sequential(*layers, *head)
    ours = [value for key, value in model.state_dict().items() if key != "mean"]
    net.load_state_dict(dict(zip(net.state_dict(), ours, strict=True)))
    return net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def seconds(net: nn.Module, images: Tensor) -> float:
    if images.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    net(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(net: str, batch: int, rounds: int, device: str) -> dict[str, Any]:
    model = vggnet.build(net).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = reference(model).to(device)
    pixels = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, device=device)
    # The reference gets its images as floats with the mean gone: the subtraction counts for ours.
    floats = (pixels.float() - model.mean.view(1, 3, 1, 1)).contiguous(
        memory_format=torch.channels_last
    )
    difference = (model(pixels) - plain(floats)).abs().max().item()
    for _ in range(2):
        seconds(model, pixels), seconds(plain, floats)
    ours, theirs = [], []
    for turn in range(rounds):
        # Who goes first changes, so that neither always finds the other's cache.
        if turn % 2:
            ours.append(seconds(model, pixels))
            theirs.append(seconds(plain, floats))
        else:
            theirs.append(seconds(plain, floats))
            ours.append(seconds(model, pixels))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "ratio": round(middle, 4),
        "ratio_quartiles": [round(low, 4), round(high, 4)],
        "vggnet_ms": round(1e3 * statistics.median(ours) / batch, 2),
        "reference_ms": round(1e3 * statistics.median(theirs) / batch, 2),
        "largest_score_difference": difference,
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--net", default="D", choices=STAGES)
    args = parser.parse_args()
    with torch.inference_mode():
        found = {
            f"b{batch}": measure(args.net, batch, args.rounds, args.device) for batch in (1, 8)
        }
    machine = torch.cuda.get_device_name() if args.device.startswith("cuda") else processor()
    versions = {"vggnet": vggnet.__version__, "torch": torch.__version__}
    versions["python"] = platform.python_version()
    result = {
        "net": args.net,
        "rounds": args.rounds,
        **found,
        "machine": machine,
        "threads": torch.get_num_threads(),
        "versions": versions,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
