"""What a benchmark's JSON says of where it comes from, and how a result is given out."""

import json
import os
import platform
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import vggnet
from forward import processor


def parser_of(doc: str | None, quick: str) -> ArgumentParser:
    """With the options that every script has; `quick` says what its `--quick` leaves of it."""
    parser = ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    parser.add_argument("--quick", action="store_true", help=f"{quick}: does it run?")
    return parser


def load() -> list[float]:
    """Of other work on the machine, where it is asked for before one's own."""
    return [round(value, 2) for value in os.getloadavg()]


def origin(load_before: list[float], *packages: str) -> dict[str, Any]:
    """The command, machine, date and versions, of `packages` too."""
    return {
        "command": " ".join(["benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "machine": processor(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_before": load_before,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "vggnet": vggnet.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
    }


def give(result: dict[str, Any], args: Namespace, lines: Iterable[str]) -> None:
    """Writes the JSON where it is asked for, and prints it or the lines."""
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text if args.json else "\n".join(lines))
