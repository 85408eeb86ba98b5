"""How long it takes to list a folder of a million images by class, and what the list takes.

Empty files with ImageNet's names, in 1,000 folders, listed and split `--rounds` times; the disk's
cache is warm. No file is opened. `memory_mb` is what the process has more after the first time than
before it.

    .venv/bin/python benchmarks/listing.py [--json] [--out FILE] [--rounds 5] [--quick]
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from origin import give, load, origin, parser_of
from vggnet.folders import read_folder


def resident() -> int:
    """Bytes of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def make(root: Path, classes: int, each: int) -> None:
    for label in range(classes):
        folder = root / f"n{label:08}"
        folder.mkdir()
        for i in range(each):
            (folder / f"n{label:08}_{i}.JPEG").touch()


def measured(root: Path, rounds: int) -> dict[str, Any]:
    before, memory = resident(), 0
    seconds: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        folder = read_folder(root)
        seconds.append(time.perf_counter() - start)
        memory = memory or resident() - before
    return {
        "files": sum(len(part.labels) for part in (folder.train, folder.validation, folder.test)),
        "seconds": round(statistics.median(seconds), 2),
        "fastest_and_slowest": [round(min(seconds), 2), round(max(seconds), 2)],
        "memory_mb": round(memory / 1e6, 1),
    }


def main() -> None:
    parser = parser_of(__doc__, "a thousand files")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    before = load()
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), 10 if args.quick else 1000, 100 if args.quick else 1000)
        found = measured(Path(name), args.rounds)
    low, high = found["fastest_and_slowest"]
    line = f"{found['files']:,} files: {found['seconds']} s ({low}–{high}), {found['memory_mb']} MB"
    give(found | {"rounds": args.rounds} | origin(before), args, [line])


if __name__ == "__main__":
    main()
