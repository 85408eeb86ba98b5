"""How long the first commands of the README take, each from nothing, in an empty folder.

Net A and net D on digits, D staged from A, and the whole grid of `make demo`; as commands, one
after the other, imports and the reading of data included. The compiled kernels are there already
(some ten seconds, once on a machine).

    .venv/bin/python benchmarks/first_steps.py [--json] [--out FILE] [--quick]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

import vggnet
from forward import processor

COMMANDS = {
    "train A": "train digits --net A --out a",
    "train D": "train digits --net D --out d --init-from a/weights.safetensors",
    "make demo": "reproduce digits --out digits --jobs 2",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    parser.add_argument("--quick", action="store_true", help="an epoch a net: does it run?")
    args = parser.parse_args()
    load = [round(value, 2) for value in os.getloadavg()]  # of other work, before ours
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, words in COMMANDS.items():
            command = [sys.executable, "-m", "vggnet", *words.split()]
            if args.quick:
                command += ["--epochs", "1"]
                command += ["--only", "table 3, A"] if name == "make demo" else []
            start = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            seconds[name] = round(time.perf_counter() - start, 1)
    result = {
        "seconds": seconds,
        "commands": {name: f"vggnet {words}" for name, words in COMMANDS.items()},
        "machine": processor(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_before": load,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "vggnet": vggnet.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text if args.json else "\n".join(f"{name}: {s} s" for name, s in seconds.items()))


if __name__ == "__main__":
    main()
