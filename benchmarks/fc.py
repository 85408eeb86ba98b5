"""What it brings to keep the fully connected weights of `vggnet.fast` in fewer bytes (`fc=`).

- `speed`: net D at width 1 with random weights, 224, batch 1, PyTorch's threads: milliseconds of a
  forward with float32, bfloat16 and int8 in turns, round by round; a ratio is float32's time over
  the other's in each round, median and quartiles (above 1, fewer bytes are faster).
- `difference`: the largest difference of a score from float32's over the largest score, of noise.
- `digits`: top-1 error of a net that has learned (`--digits WEIGHTS`) on the 500 test images, dense
  at the scale of its training, and how many images are decided otherwise than with float32.
- `memory`: of float32, megabytes of the transformed convolutions, of all of them and of those up to
  relu3_3, and of the buffers at batch 8; seconds that the first call takes beyond the second, in
  which weights are transformed and buffers made.

    .venv/bin/python benchmarks/fc.py [--digits WEIGHTS] [--json] [--out FILE] [--rounds 15]
        [--quick]
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

import vggnet
from origin import give, load, origin, parser_of
from turns import in_turns, ratio
from vggnet.datasets import open_dataset
from vggnet.images import rescale
from vggnet.inference import Fast
from vggnet.inference.cpu import OnCPU, Stored
from vggnet.parts import Part
from vggnet.protocols import single_scale

KINDS: tuple[Stored, ...] = get_args(Stored)


def way(net: Fast, images: torch.Tensor) -> Callable[[], float]:
    def once() -> float:
        start = time.perf_counter()
        net(images)
        return len(images) / (time.perf_counter() - start)

    return once


def speed(width: float, rounds: int) -> dict[str, Any]:
    model = vggnet.build("D", width=width)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8, generator=generator)
    begun = vggnet.fast(model)
    begun.activations(images, ["relu3_3"])
    nets = {fc: vggnet.fast(model, fc=fc) for fc in KINDS}
    start = time.perf_counter()
    scores = {"float32": nets["float32"](images)}
    first = time.perf_counter() - start
    start = time.perf_counter()
    nets["float32"](images)
    second = time.perf_counter() - start
    weights = nets["float32"].bytes - buffers(nets["float32"])
    scores |= {fc: net(images) for fc, net in nets.items()}
    largest = scores["float32"].abs().max()
    speeds = in_turns({fc: way(net, images) for fc, net in nets.items()}, rounds)
    return {
        "speed": {
            fc: {"ms": round(1e3 / statistics.median(found), 2)} | ratio(speeds, fc, "float32")
            for fc, found in speeds.items()
        },
        "difference": {
            fc: float(f"{float((found - scores['float32']).abs().max() / largest):.2g}")
            for fc, found in scores.items()
        },
        "memory": {
            "weights_mb": round(weights / 1e6, 1),
            "weights_to_relu3_3_mb": round((begun.bytes - buffers(begun)) / 1e6, 1),
            "buffers_at_batch_8_mb": round(buffers_of_eight(model) / 1e6, 1),
            "seconds_to_transform": round(first - second, 2),
        },
    }


def buffers(net: Fast) -> int:
    """Bytes of what is kept between calls besides weights."""
    if not isinstance(net, OnCPU):
        raise SystemExit("there is no C++ compiler, so PyTorch computes: nothing to measure")
    return net._scratch.bytes


def buffers_of_eight(model: vggnet.VGG) -> int:
    net = vggnet.fast(model)
    net(torch.zeros(8, 3, 224, 224, dtype=torch.uint8))
    return buffers(net)


def digits(weights: Path) -> dict[str, Any]:
    """Errors and decisions of a net on the digits' test images."""
    model, part = vggnet.load(weights), open_dataset("digits").test
    scale = model.provenance.S
    assert scale is not None
    side = single_scale(scale)
    found = {fc: decisions(vggnet.fast(model, fc=fc), part, side) for fc in KINDS}
    return {
        fc: {
            "top1": round(100 * float((chosen != part.labels).mean()), 2),
            "decided_otherwise": int((chosen != found["float32"]).sum()),
            "n": len(part),
        }
        for fc, chosen in found.items()
    }


def decisions(net: Fast, part: Part, side: int) -> NDArray[np.int64]:
    """The class of each image: that of the highest posterior of the dense map, without flips."""
    pictures = [rescale(image, side) for image in part.images]
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    chosen: NDArray[np.int64] = net(batch).argmax(dim=1).numpy()
    return chosen


def main() -> None:
    parser = parser_of(__doc__, "narrow, two rounds")
    parser.add_argument("--digits", type=Path, metavar="WEIGHTS", help="of a net trained on them")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    before = load()
    result: dict[str, Any] = speed(1 / 16, 2) if args.quick else speed(1.0, args.rounds)
    if args.digits is not None:
        result["digits"] = digits(args.digits)
    lines = [
        f"{fc:10} {row['ms']:7.2f} ms, {row['ratio']} {row['quartiles']} times as fast as "
        f"float32, scores within {result['difference'][fc]:.1e}"
        for fc, row in result["speed"].items()
    ]
    lines += [
        f"{fc:10} digits {row['top1']} %, {row['decided_otherwise']} decided otherwise"
        for fc, row in result.get("digits", {}).items()
    ]
    lines.append(str(result["memory"]))
    give(result | {"rounds": args.rounds} | origin(before), args, lines)


if __name__ == "__main__":
    main()
