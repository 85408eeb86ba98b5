"""The committed results: of benchmarks/results and docs/results."""

import json
from typing import Any

from documentation import ROOT


def committed(name: str) -> Any:
    """The one file of benchmarks/results of this name, whatever its date."""
    (file,) = (ROOT / "benchmarks" / "results").glob(f"????-??-??-{name}.json")
    return json.loads(file.read_text())


def ratio(found: dict[str, Any]) -> list[float]:
    """With its quartiles."""
    return [found["ratio"], *found["quartiles"]]


def results_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / "results" / name).read_text())
    return found


def error(row: dict[str, Any]) -> list[float]:
    """With its interval."""
    return [row["top1"], *row["top1_interval"]]


def is_measured(row: dict[str, Any]) -> bool:
    return row["top1"] is not None


FULL_WIDTH = [
    *filter(is_measured, results_of("fashion-mnist/results.json")["rows"]),
    *results_of("fashion-mnist/beside.json")["departures"],
]


def of_full_width(nets: str, q: list[int], method: str) -> list[float]:
    """The error of one or several nets at these Q, as a page names them."""
    (row,) = (
        row
        for row in FULL_WIDTH
        if nets
        in (row.get("net"), " & ".join(run.partition("-S")[0] for run in row.get("runs", [])))
        and q in ((protocol := row.get("protocol", row))["Q"], protocol["Q"][0])
        and protocol["method"] == method
    )
    return error(row)
