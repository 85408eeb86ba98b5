"""Where D's time goes on a GPU, layer by layer: what the products alone take, and what is around.

- `machine`: the product of 8192³ in bfloat16, and a copy (bytes read and written).
- `layers`: each convolution of D at 224 in bfloat16 and channels_last, by cuDNN with its fastest
  kernel: forward, forward with bias and ReLU, input gradient (by cuDNN's own, and as a forward of
  turned weights), weight gradient; milliseconds and TFLOP/s.
- `inference`, `training`: the kernels of `vggnet.fast` and of `CompiledStep` by time, from a
  profile, beside the sum of the layers' products: what is left is passes over the maps.

    PYTHONPATH=src python3 benchmarks/gpu/layers.py OUT.json [--batch 256]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import vggnet
from vggnet.gpu_step import CompiledStep
from vggnet.inference.gpu import OnGPU

_ROUNDS, _CALLS = 5, 10


def milliseconds(call: Callable[[], object]) -> float:
    """Median of some rounds of some calls."""
    for _ in range(3):
        call()
    times = []
    for _ in range(_ROUNDS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(_CALLS):
            call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / _CALLS)
    return 1e3 * statistics.median(times)


def machine() -> dict[str, float]:
    a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    product = milliseconds(lambda: torch.mm(a, b))
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copy = milliseconds(lambda: target.copy_(source))
    return {
        "tflops": round(2 * 8192**3 / product / 1e9, 1),
        "copy_gb_per_s": round(2 * source.numel() / copy / 1e6),
    }


def convolution(c: int, k: int, side: int, batch: int) -> dict[str, Any]:
    """What a 3×3 convolution's parts take."""

    def maps(channels: int) -> Tensor:
        x = torch.randn(batch, side, side, channels, device="cuda", dtype=torch.bfloat16)
        return x.permute(0, 3, 1, 2)

    x, g = maps(c), maps(k)
    w = (torch.randn(k, c, 3, 3, device="cuda") / (9 * c) ** 0.5).bfloat16()
    w = w.contiguous(memory_format=torch.channels_last)
    turned = w.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
    bias = torch.randn(k, device="cuda").bfloat16()
    one = (1, 1)

    def gradient(mask: tuple[bool, bool, bool]) -> Callable[[], object]:
        return lambda: torch.ops.aten.convolution_backward(
            g, x, w, None, one, one, one, False, (0, 0), 1, mask
        )

    parts: dict[str, Callable[[], object]] = {
        "forward": lambda: F.conv2d(x, w, padding=1),
        "forward_bias_relu": lambda: torch.cudnn_convolution_relu(x, w, bias, one, one, one, 1),
        "weight_gradient": gradient((False, True, False)),
    }
    if c >= 64:
        parts |= {
            "input_gradient": gradient((True, False, False)),
            "input_gradient_turned": lambda: F.conv2d(g, turned, padding=1),
        }
    operations = 2 * batch * side * side * k * c * 9
    found: dict[str, Any] = {}
    for name, call in parts.items():
        try:
            ms = milliseconds(call)
        except RuntimeError as error:
            found[name] = f"failed: {error}".splitlines()[0]
        else:
            found[name] = {"ms": round(ms, 3), "tflops": round(operations / ms / 1e9, 1)}
    try:  # does the fused form give the right numbers, into memory of any content?
        torch.full((batch, side, side, k), torch.nan, device="cuda", dtype=torch.bfloat16)
        fused = torch.cudnn_convolution_relu(x, w, bias, one, one, one, 1)
        plain = F.relu(F.conv2d(x, w, bias, padding=1))
        found["fused_apart"] = float((fused - plain).abs().max() / plain.abs().max())
        found["fused_channels_last"] = fused.is_contiguous(memory_format=torch.channels_last)
    except RuntimeError as error:
        found["fused_apart"] = f"failed: {error}".splitlines()[0]
    return found


def layers(batch: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    side, c, known = 224, 8, {}
    for layer in vggnet.Config("D").layers():
        if layer.kind == "pool":
            side //= 2
        elif layer.kind == "conv":
            key = c, layer.out_channels, side
            if key not in known:
                known[key] = convolution(*key, batch)
                torch.cuda.empty_cache()
            found[layer.name] = known[key]
            print(layer.name, known[key], flush=True)
            c = layer.out_channels
    return found


def profile(call: Callable[[], object], calls: int = 5) -> dict[str, Any]:
    """Milliseconds a call, in all and by kernel."""
    ms = milliseconds(call)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
    rows = sorted(found.key_averages(), key=lambda row: -row.device_time_total)
    kernels = [
        {"ms": round(row.device_time_total / 1e3 / calls, 3), "n": row.count, "name": row.key[:150]}
        for row in rows
        if row.device_time_total / 1e3 / calls > 0.02
    ]
    for kernel in kernels:
        print(kernel, flush=True)
    return {"ms": round(ms, 3), "kernels": kernels}


def inference(batch: int) -> dict[str, Any]:
    fast = OnGPU(vggnet.build("D").cuda())
    pixels = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, device="cuda")
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return profile(lambda: fast(pixels))


def training(batch: int) -> dict[str, Any]:
    step = CompiledStep(
        vggnet.build("D").cuda().train(),
        batch_size=batch, learning_rate=1e-4, momentum=0.9, weight_decay=5e-4,
    )  # fmt: skip
    pixels = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, device="cuda")
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    shifts = torch.zeros(batch, 3, 1, 1, device="cuda")
    labels = torch.arange(batch, device="cuda")
    return profile(lambda: step(pixels, shifts, labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    result: dict[str, Any] = {"batch": args.batch, "machine": machine()}
    result["gpu"] = torch.cuda.get_device_name()
    result["versions"] = {
        "vggnet": vggnet.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }
    print(result, flush=True)
    for part in (inference, training, layers):
        try:
            result[part.__name__] = part(args.batch)
        except Exception as error:
            result[part.__name__] = f"failed: {type(error).__name__}: {error}"
            print(result[part.__name__], flush=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
