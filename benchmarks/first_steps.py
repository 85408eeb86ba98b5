"""How long the first commands of the README take, each from nothing, in an empty folder.

Net A and net D on digits, D staged from A, and the whole grid of `make demo`; as commands, one
after the other, imports and the reading of data included. The compiled kernels are there already
(some ten seconds, once on a machine).

    .venv/bin/python benchmarks/first_steps.py [--json] [--out FILE] [--quick]
"""

import subprocess
import sys
import tempfile
import time

from origin import give, load, origin, parser_of

COMMANDS = {
    "train A": "train digits --net A --out a",
    "train D": "train digits --net D --out d --init-from a/weights.safetensors",
    "make demo": "reproduce digits --out digits --jobs 2",
}


def main() -> None:
    args = parser_of(__doc__, "an epoch a net").parse_args()
    before = load()
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
    commands = {name: f"vggnet {words}" for name, words in COMMANDS.items()}
    lines = (f"{name}: {found} s" for name, found in seconds.items())
    give({"seconds": seconds, "commands": commands} | origin(before), args, lines)


if __name__ == "__main__":
    main()
