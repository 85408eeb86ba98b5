"""Named features on the CPU: relu3_3 of net D beside the ways that users of PyTorch take.

Random weights at width 1 (`--width`), the same for everybody; float32; images of 224×224 and
256×256, one and eight at a time; PyTorch's threads.

- `vggnet`: `vggnet.fast(model).activations(images, ["relu3_3"])`, of uint8; the mean is subtracted
  within the time. The map lies channels last.
- `hook`: the whole VGG-16 of plain layers, as torchvision has it, with a forward hook on relu3_3.
- `cut`: a Sequential of the layers up to relu3_3 and nothing behind them, as torchvision's
  `features[:16]` and timm's `features_only` are.
- `cut_channels_last`: the same, its weights and images in channels_last.

The plain layers work under inference_mode, their ReLUs in place, on floats without their mean,
which are made before. Every map is compared with `hook`'s before anything is timed.

The ways take turns in one process, round by round, and who comes first rotates. A turn is a pause
of 150 ms, one call untimed, and the median of three timed ones. Milliseconds are an image's,
medians of the rounds with quartiles in `spread`; a ratio is of each round the other's time over
vggnet's, median and quartiles (above 1, vggnet is faster); `best_cut` is the cut of the lower
median. Nothing else should run meanwhile: PyTorch's threads spin while they wait for one that has
lost its processor, and take 30 times as long. So a turn waits for a pause in which other processes
took no more than 5 % of the processors' time, and is taken again if they took more meanwhile
(Linux), both for a minute at most; `disturbed_turns` counts those that were then taken all the
same. With `--threads 1` nobody waits for anybody: a turn is measured in the process's own time on
the processor (`clock`), whatever else runs.

`peak_memory_mb` is the largest resident memory (10^6 bytes, Linux' VmHWM) of a process of its own
that reads the weights from a file and computes one batch of eight at 224:

- `vggnet`: `vggnet.load(file, head=False)`, the file vggnet's own, of the whole net.
- `hook`: what torchvision does: the net is built, then
  `load_state_dict(torch.load(file, weights_only=True))`, the file the whole state dict.
- `cut`, `cut_channels_last`: only the layers of the cut are built; the same file is read whole by
  `torch.load(file, weights_only=True)`, the cut takes its weights, the rest is let go.
  (`vgg16(weights=…).features[:16]` takes as much as `hook` at that moment.)
- `torch`: Python with PyTorch imported, which is in all of them.

    .venv/bin/python benchmarks/features.py [--json] [--out FILE] [--rounds 9] [--threads N]
        [--width 1] [--quick]
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vggnet
from forward import processor
from peers import PAUSE, ask_once, milliseconds, peak_memory
from turns import Ways, in_turns, ratio
from vggnet.model import IMAGENET_MEAN

LAYER = "relu3_3"
CASES = {f"b{batch}_{side}": (batch, side) for side in (224, 256) for batch in (1, 8)}
WAYS = ("vggnet", "hook", "cut", "cut_channels_last")
CUT = 16
"""Plain layers up to relu3_3: seven convolutions with their ReLUs and two poolings."""
BOUND = 1e-5
"""Largest difference of a value from `hook`'s, over its largest."""
TIMED = 3
"""Calls in a turn."""
QUIET, PATIENCE = 0.05, 60.0
"""Share of the processors' time that others may take; seconds to wait for such a turn."""


class Plain(nn.Module):
    """VGG-16 as PyTorch's users have it. N×3×H×W floats without their mean to N×1000."""

    def __init__(self, width: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for stage in ("64 64", "128 128", "256 256 256", "512 512 512", "512 512 512"):
            for channels in (round(width * int(number)) for number in stage.split()):
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU(inplace=True)]
                before = channels
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        hidden = round(width * 4096)
        self.classifier = nn.Sequential(
            nn.Linear(before * 7 * 7, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, 1000),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        scores: Tensor = self.classifier(torch.flatten(x, 1))
        return scores


def hooked(net: Plain) -> Callable[[Tensor], Tensor]:
    """What gives relu3_3 while the whole net computes."""
    kept: dict[str, Tensor] = {}
    net.features[CUT - 1].register_forward_hook(lambda _, __, out: kept.update({LAYER: out}))

    def once(x: Tensor) -> Tensor:
        net(x)
        return kept.pop(LAYER)

    return once


def pixels(batch: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)


def busy() -> tuple[float, float]:
    """Seconds since some time: of the clock, and of other processes' work on all processors (Linux;
    elsewhere it is not known, and 0)."""
    now, own = time.monotonic(), time.process_time()
    try:
        fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    except OSError:
        return now, 0.0
    # user, nice, system, irq, softirq and steal
    ticks = sum(fields[i] for i in (0, 1, 2, 5, 6, 7))
    return now, ticks / os.sysconf("SC_CLK_TCK") - own


def is_quiet(before: tuple[float, float]) -> bool:
    """Whether others did little since then; a tick of the system's clock is not yet work."""
    seconds, others = (now - then for now, then in zip(busy(), before, strict=True))
    return others <= QUIET * seconds * (os.cpu_count() or 1) + 1 / os.sysconf("SC_CLK_TCK")


def speeds(
    width: float, rounds: int
) -> tuple[dict[str, dict[str, list[float]]], dict[str, Any], int]:
    """Images a second by case, way and round; the differences from `hook`'s values; how many turns
    were disturbed."""
    model = vggnet.build("D", width=width)
    net = Plain(width).eval()
    weights = [value for key, value in model.state_dict().items() if key != "mean"]
    net.load_state_dict(dict(zip(net.state_dict(), weights, strict=True)), assign=True)
    cut = net.features[:CUT]
    last = deepcopy(cut).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fast, hook = vggnet.fast(model), hooked(net)
    found: dict[str, dict[str, list[float]]] = {}
    differences: dict[str, Any] = {}
    disturbed: list[bool] = []
    for case, (batch, side) in CASES.items():
        images = pixels(batch, side)
        floats = images - model.mean.view(1, 3, 1, 1)
        floats_last = floats.contiguous(memory_format=torch.channels_last)
        calls: dict[str, Callable[[], Tensor]] = {
            "vggnet": lambda: fast.activations(images, [LAYER])[LAYER],  # noqa: B023
            "hook": lambda: hook(floats),  # noqa: B023
            "cut": lambda: cut(floats),  # noqa: B023
            "cut_channels_last": lambda: last(floats_last),  # noqa: B023
        }

        def turn(call: Callable[[], Tensor], batch: int = batch) -> float:
            alone = torch.get_num_threads() == 1
            clock = time.process_time if alone else time.perf_counter
            end = time.monotonic() + PATIENCE
            while True:
                before = busy()
                time.sleep(PAUSE)
                late = time.monotonic() > end
                if not (is_quiet(before) or alone or late):
                    continue
                before = busy()
                call()
                times = []
                for _ in range(TIMED):
                    start = clock()
                    call()
                    times.append(clock() - start)
                if is_quiet(before) or alone or late:
                    disturbed.append(late)
                    return batch / statistics.median(times)

        with torch.inference_mode():
            wanted = calls["hook"]()
            differences[case] = {}
            for way in WAYS:
                error = float((calls[way]() - wanted).abs().max() / wanted.abs().max())
                if not error <= BOUND:
                    raise SystemExit(
                        f"{case}: {way}'s values are off by {error:.1e} of the largest"
                    )
                differences[case][way] = float(f"{error:.1e}")
            if sys.stderr.isatty():
                print(f"{case}: {rounds} rounds", file=sys.stderr)
            ways: Ways = {way: partial(turn, calls[way]) for way in WAYS}
            found[case] = in_turns(ways, rounds)
    return found, differences, sum(disturbed)


def peaks(width: float) -> dict[str, float]:
    """Megabytes of each way, in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = vggnet.build("D", width=width)
        vggnet.save(model, folder / "net.safetensors")
        net = Plain(width)
        weights = [value for key, value in model.state_dict().items() if key != "mean"]
        torch.save(dict(zip(net.state_dict(), weights, strict=True)), folder / "net.pth")
        log = folder / "log"
        return {
            way: round(ask_once(_once, way, folder, width, log=log)["peak"] / 1e6, 1)
            for way in (*WAYS, "torch")
        }


def _once(way: str, folder: Path, width: float, log: Path, parent: Connection) -> None:
    """In a process of its own: reads the weights and computes one batch."""
    images = pixels(8, 224)
    if way == "vggnet":
        model = vggnet.load(folder / "net.safetensors", head=False)
        vggnet.fast(model).activations(images, [LAYER])
    elif way != "torch":
        memory = torch.channels_last if way == "cut_channels_last" else torch.contiguous_format
        with torch.inference_mode():
            floats = (images - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)).to(
                memory_format=memory
            )
            if way == "hook":
                net = Plain(width).eval()
                net.load_state_dict(torch.load(folder / "net.pth", weights_only=True))
                hooked(net)(floats)
            else:
                with torch.device("meta"):
                    cut = Plain(width).features[:CUT]
                cut.to_empty(device="cpu")
                state = torch.load(folder / "net.pth", weights_only=True)
                cut.load_state_dict({key: state[f"features.{key}"] for key in cut.state_dict()})
                del state
                cut.to(memory_format=memory)  # type: ignore[call-overload]
                cut(floats)
    parent.send({"peak": peak_memory()})


def ratios(ways: dict[str, list[float]]) -> dict[str, Any]:
    """The others' time over vggnet's, round by round."""
    best = max(WAYS[2:], key=lambda way: statistics.median(ways[way]))
    found: dict[str, Any] = {way: ratio(ways, "vggnet", way) for way in WAYS[1:]}
    return found | {"best_cut": ratio(ways, "vggnet", best) | {"best": best}}


def table(result: dict[str, Any]) -> str:
    lines = [f"{'ms an image':20}" + "".join(f"{case:>10}" for case in CASES) + f"{'peak, MB':>10}"]
    for way in WAYS:
        cells = "".join(f"{result[case][way]:>10.1f}" for case in CASES)
        lines.append(f"{way:20}{cells}{result['peak_memory_mb'][way]:>10.0f}")
    lines.append(f"{'torch imported':60}{result['peak_memory_mb']['torch']:>10.0f}")
    for case in CASES:
        of = result["ratios"][case]
        lines.append(
            f"{case}: over vggnet's time hook {of['hook']['ratio']} {of['hook']['quartiles']}, "
            f"{of['best_cut']['best']} {of['best_cut']['ratio']} {of['best_cut']['quartiles']}"
        )
    worst = max(value for ways in result["difference"].values() for value in ways.values())
    lines.append(f"values differ by {worst:.1e} of the largest at most (bound {BOUND:.0e})")
    lines.append(f"{result['machine']}, {result['threads']} threads, {result['date']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, help="of each case; 9 by default")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    parser.add_argument("--threads", type=int, help="PyTorch's number by default")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the channels")
    parser.add_argument("--quick", action="store_true", help="narrow, few rounds: does it run?")
    args = parser.parse_args()
    rounds = args.rounds or (2 if args.quick else 9)
    if rounds < 1:
        parser.error(f"--rounds {args.rounds}: take 1 or more")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    width = 1 / 8 if args.quick else args.width
    load = [round(value, 2) for value in os.getloadavg()]  # of other work, before ours
    memory = peaks(width)
    found, differences, disturbed = speeds(width, rounds)
    medians, spread = {}, {}
    for case, ways in found.items():
        medians[case], spread[case] = milliseconds(ways)
    result: dict[str, Any] = medians | {
        "ratios": {case: ratios(ways) for case, ways in found.items()},
        "spread": spread,
        "peak_memory_mb": memory,
        "difference": differences,
        "net": "D",
        "layer": LAYER,
        "width": width,
        "rounds": rounds,
        "command": " ".join(["benchmarks/features.py", *sys.argv[1:]]),
        "machine": processor(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": "wall" if torch.get_num_threads() > 1 else "processor",
        "load_average_before": load,
        "disturbed_turns": disturbed,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "vggnet": vggnet.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    text = json.dumps(result, indent=1, ensure_ascii=False)
    if args.out:
        args.out.write_text(text + "\n")
    print(text if args.json else table(result))


if __name__ == "__main__":
    main()
