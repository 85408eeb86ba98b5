"""Bytes that processes of a training step send each other on this machine, beside the model's.

Each mode runs under torchrun on the loopback interface, whose counter (Linux) is read before and
after some steps; protocol headers are in it. The interface must be otherwise idle. Net D at its
full width; `--batch 256` takes some minutes a step on two cores, in parts of two images.

    .venv/bin/python benchmarks/traffic.py OUT.json [--batch 256] [--ranks 2 4] [--groups 1 2 4]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import vggnet
from vggnet.configs import Config
from vggnet.distributed import joined
from vggnet.loading import Batch
from vggnet.recipes import a_256
from vggnet.scaling import bytes_per_step
from vggnet.step import Parallel, Step

AT_A_TIME = 2
"""Images that a rank computes together: memory."""
_WARM_UP = 2
"""Steps in which DistributedDataParallel arranges its buckets."""


def sent() -> int:
    """Bytes that went out over the loopback interface so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[8])
    raise SystemExit("no loopback interface in /proc/net/dev: this needs Linux")


def rank(batch: int, steps: int, fc: int, compress: bool) -> None:
    """What one process does; the first one prints."""
    torch.set_num_threads(1)
    with joined("cpu") as world:
        config = replace(a_256(Config("D")), batch_size=batch, learning_rate=1e-6)
        share = batch // world.ranks
        parallel = Parallel(fc, max(1, share // AT_A_TIME), compress)
        step = Step(vggnet.build("D").train(), config, world, parallel)
        pixels = torch.zeros(share, 3, 224, 224, dtype=torch.uint8)
        labels = torch.zeros(share, dtype=torch.int64)
        own = Batch(pixels, torch.zeros(share, 3, 1, 1), labels, torch.empty(share, 0))
        before = after = 0
        seconds = 0.0
        for i in range(_WARM_UP + steps):
            world.wait()
            if i == _WARM_UP:
                before, seconds = sent(), time.perf_counter()
            world.wait()
            step(own, [share] * world.ranks)
            world.wait()
            after = sent()
            world.wait()
        if world.is_first:
            took = (time.perf_counter() - seconds) / steps
            print(json.dumps({"sent": (after - before) / steps / world.ranks, "seconds": took}))


def measured(ranks: int, batch: int, steps: int, fc: int, compress: bool) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}",
        __file__, "-", "--rank", "--batch", str(batch), "--steps", str(steps), "--fc", str(fc),
        *["--compress"] * compress,
    ]  # fmt: skip
    settings = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | settings
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    model = bytes_per_step(Config("D"), batch, ranks, fc_parallel=fc, compress=compress)
    return {
        "ranks": ranks,
        "batch": batch,
        "fc_parallel": fc,
        "compress": compress,
        "mb_sent_by_a_rank": round(found["sent"] / 1e6, 2),
        "mb_of_the_model": round(model.total.sent / 1e6, 2),
        "of_it_exchange": round(model.fc_exchange.sent / 1e6, 2),
        "ratio": round(found["sent"] / model.total.sent, 4),
        "seconds_a_step": round(found["seconds"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 2, 4], help="--fc-parallel")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--fc", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--compress", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        rank(args.batch, args.steps, args.fc, args.compress)
        return
    rows = []
    for ranks in args.ranks:
        for fc in [n for n in args.groups if n <= ranks]:
            for compress in (False, True):
                rows.append(measured(ranks, args.batch, args.steps, fc, compress))
                print(rows[-1], flush=True)
    result = {"backend": "gloo", "rows": rows, "torch": torch.__version__}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
