"""D on a GPU: inference and training step beside torchvision's and timm's, and the machine's peak.

- `inference`: images a second at 224 from uint8 pixels on the GPU, batch 1, 8, 64 and 256, of
  `vggnet.fast` (bfloat16, CUDA graphs) and of torchvision's and timm's vgg16 with the same weights,
  eager, channels_last, under bfloat16 autocast, from normalised floats.
- `scores`: the largest difference from float64 on a CPU over the largest score, and on how many of
  the images the same class is first, and the same five are.
- `training`: images a second of a step of SGD at batch 256, of `gpu_step.CompiledStep`, and of
  torchvision's net in the usual loop (autocast, channels_last); the share of the machine's product
  of 8192³ in bfloat16, a step counted as 3 forwards and a multiply-add as 2.
- `bars`: what is asked for, and what was measured.

What is compared takes turns, round by round; a ratio is the median of the rounds' own. An error in
a part becomes a note in its place. On one GPU it takes some minutes, most of them compiling.

    PYTHONPATH=src python3 benchmarks/gpu/fast.py OUT.json [--device cuda] [--quick]
"""

import argparse
import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vggnet
from vggnet.accounting import account
from vggnet.gpu_step import CompiledStep
from vggnet.inference.gpu import OnGPU
from vggnet.model import VGG

sys.path.insert(0, str(Path(__file__).parent.parent))
forward = importlib.import_module("forward")
turns = importlib.import_module("turns")

_WARM_UP, _MINUTES = 5, 7.0


class Bench:
    """A device, and how long each thing is measured."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.end = time.monotonic() + 60 * _MINUTES
        self.rounds = 3 if quick else 7
        self.options: dict[str, Any] = (
            {"width": 1 / 8, "num_classes": 100, "crop": 64} if quick else {}
        )
        self.model = vggnet.build("D", **self.options).to(device)
        self.crop = self.model.config.crop
        self.multiply_adds = account(self.model.config, (self.crop, self.crop)).multiply_adds

    def pixels(self, n: int) -> Tensor:
        shape = n, 3, self.crop, self.crop
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device)
        return pixels.contiguous(memory_format=torch.channels_last)

    def wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def timed(self, call: Callable[[], object], images: int) -> Callable[[], float]:
        """What gives images a second over a tenth of a second's calls; warm when it is given."""
        for _ in range(_WARM_UP):
            call()
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        calls = max(1, min(100, round(0.1 / (time.perf_counter() - start))))

        def once() -> float:
            self.wait()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            self.wait()
            return calls * images / (time.perf_counter() - start)

        return once

    def compared(self, ways: dict[str, Callable[[], float]], ours: str) -> dict[str, Any]:
        speeds = turns.in_turns(ways, self.rounds)
        found: dict[str, Any] = {
            name: round(statistics.median(values), 2) for name, values in speeds.items()
        }
        others = [name for name in ways if name != ours]
        return found | {f"over_{name}": turns.ratio(speeds, ours, name) for name in others}

    def theirs(self, library: str) -> nn.Module:
        """Their vgg16 with the model's weights; in a quick run, which is narrow, the model."""
        if library == "plain":
            net: nn.Module = deepcopy(self.model)
        else:
            module = importlib.import_module(library)
            net = (
                module.models.vgg16() if library == "torchvision" else module.create_model("vgg16")
            )
            shapes = [value.shape for value in net.state_dict().values()]
            values = [value for name, value in self.model.state_dict().items() if name != "mean"]
            reshaped = [value.reshape(shape) for value, shape in zip(values, shapes, strict=True)]
            net.load_state_dict(dict(zip(net.state_dict(), reshaped, strict=True)))
        return net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.split(":")[0], torch.bfloat16)


def inference(bench: Bench) -> dict[str, Any]:
    fast = OnGPU(bench.model)
    found: dict[str, Any] = {"engine": fast.engine}
    nets: dict[str, nn.Module] = {}
    for library in ("plain",) if bench.quick else ("torchvision", "timm"):
        try:
            nets[library] = bench.theirs(library).eval()
        except ImportError as error:
            found[library] = f"not measured: {error}"
    for batch in (1, 2) if bench.quick else (1, 8, 64, 256):
        pixels = bench.pixels(batch)
        floats = (pixels.float() - bench.model.mean.view(1, 3, 1, 1)).contiguous(
            memory_format=torch.channels_last
        )

        def of(net: nn.Module, floats: Tensor = floats) -> Callable[[], object]:
            def call() -> object:
                with torch.inference_mode(), bench.autocast():
                    return net(floats)

            return call

        def ours(pixels: Tensor = pixels) -> object:
            return fast(pixels)

        ways = {"vggnet": bench.timed(ours, batch)}
        ways |= {name: bench.timed(of(net), batch) for name, net in nets.items()}
        found[f"batch_{batch}"] = bench.compared(ways, "vggnet")
    return found


def scores(bench: Bench) -> dict[str, Any]:
    pixels = bench.pixels(4 if bench.quick else 16)
    exact = vggnet.build("D", **bench.options).double()
    with torch.inference_mode():
        expected = exact(pixels.cpu())
    found: dict[str, Any] = {"images": len(pixels)}
    for dtype in (torch.bfloat16, torch.float32):
        given = OnGPU(bench.model, dtype)(pixels).double().cpu()
        fives = [x.topk(5).indices.sort().values for x in (given, expected)]
        found[str(dtype).removeprefix("torch.")] = {
            "difference": float((given - expected).abs().max() / expected.abs().max()),
            "same_first": int((given.argmax(1) == expected.argmax(1)).sum()),
            "same_five": int((fives[0] == fives[1]).all(dim=1).sum()),
        }
    return found


def training(bench: Bench) -> dict[str, Any]:
    batch = 4 if bench.quick else 256
    pixels, labels = bench.pixels(batch), torch.arange(batch, device=bench.device) % 100
    shifts = torch.zeros(batch, 3, 1, 1, device=bench.device)
    net: VGG = vggnet.build("D", **bench.options).to(bench.device).train()
    options: dict[str, Any] = {"momentum": 0.9, "weight_decay": 5e-4}
    step = CompiledStep(net, batch_size=batch, learning_rate=1e-4, **options)
    ways = {"vggnet": bench.timed(lambda: step(pixels, shifts, labels), batch)}
    library = "plain" if bench.quick else "torchvision"
    found: dict[str, Any] = {"batch": batch}
    try:
        theirs = bench.theirs(library).train()
    except ImportError as error:
        found[library] = f"not measured: {error}"
    else:
        optimizer = torch.optim.SGD(theirs.parameters(), 1e-4, **options)
        floats = (pixels.float() - bench.model.mean.view(1, 3, 1, 1)).contiguous(
            memory_format=torch.channels_last
        )

        def usual() -> None:
            with bench.autocast():
                loss = F.cross_entropy(theirs(floats), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        ways[library] = bench.timed(usual, batch)
    found |= bench.compared(ways, "vggnet")
    side = 256 if bench.quick else 8192
    a, b = (torch.randn(side, side, device=bench.device).bfloat16() for _ in range(2))
    products = bench.timed(lambda: torch.mm(a, b), 1)
    peak = max(products() for _ in range(bench.rounds)) * 2 * side**3
    found["peak_tflops"] = round(peak / 1e12, 2)
    found["share_of_peak"] = round(found["vggnet"] * 3 * 2 * bench.multiply_adds / peak, 4)
    if bench.device.startswith("cuda"):
        found["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return found


def bars(result: dict[str, Any]) -> dict[str, Any]:
    """What is asked for of an H200, and what was measured; None where it was not."""

    def at(*keys: str) -> Any:
        value: Any = result
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    return {
        "inference, batch 256, over torchvision": {
            "asked": 1.5,
            "found": at("inference", "batch_256", "over_torchvision", "ratio"),
        },
        "training step over torchvision": {
            "asked": 1.3,
            "found": at("training", "over_torchvision", "ratio"),
        },
        "training step, share of the peak": {
            "asked": 0.6,
            "found": at("training", "share_of_peak"),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="a narrow net: does it run?")
    args = parser.parse_args()
    bench = Bench(args.device, args.quick)
    result: dict[str, Any] = {}
    for part in (inference, training, scores):
        if time.monotonic() > bench.end:
            result[part.__name__] = "not measured: no time left"
            continue
        try:
            result[part.__name__] = part(bench)
        except Exception as error:
            result[part.__name__] = f"failed: {type(error).__name__}: {error}"
    on_gpu = args.device.startswith("cuda")
    result |= {
        "bars": bars(result),
        "machine": torch.cuda.get_device_name() if on_gpu else forward.processor(),
        "versions": {
            "vggnet": vggnet.__version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
        },
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
