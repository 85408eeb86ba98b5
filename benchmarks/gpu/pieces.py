"""Pieces of a grid that was trained on several machines: packed, unpacked, and reported on.

For fashion.py and table7.py. Weights do not travel: at the paper's width those of a net are 160 MB
and more.
"""

import json
import tarfile
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vggnet
from vggnet import checkpoint, claims
from vggnet.cache import PosteriorCache
from vggnet.evaluate import combined, mean
from vggnet.files import write_atomically
from vggnet.graph import Grid, Row, Run, Settings
from vggnet.parts import Dataset, Part
from vggnet.passes import Measured
from vggnet.reproduce import write_results
from vggnet.results import weights_of
from vggnet.runs import METRICS
from vggnet.scoring import ranks

TESTED = "tested.json"
"""In the folder of a run that is trained and whose posteriors are all there."""


def is_done(run: Run, out: Path) -> bool:
    return (out / "runs" / run.name / TESTED).exists()


def pack(run: Run, out: Path, to: Path) -> None:
    """An archive of what the report needs of a run that is done, small enough to be committed:
    posteriors in half precision, which moves them by 1/4096 at most."""
    folder = out / "runs" / run.name
    weights = json.loads((folder / TESTED).read_text())["weights"]

    def write(temporary: Path) -> None:
        with tempfile.TemporaryDirectory() as name, tarfile.open(temporary, "w:xz") as archive:
            for file in (METRICS, TESTED, f"{weights_of(out, run).name}.sha256"):
                archive.add(folder / file, f"runs/{run.name}/{file}")
            for path in sorted((out / "posteriors").glob(f"{weights[:8]}-*.safetensors")):
                tensors, metadata = checkpoint.read_tensors(path)
                half = Path(name) / path.name
                halved = {key: value.half() for key, value in tensors.items()}
                checkpoint.write_tensors(half, halved, checkpoint.parse_header(path, metadata))
                archive.add(half, f"posteriors/{path.name}")

    write_atomically(to / f"{run.name}.tar.xz", write)


def unpack(folders: Sequence[Path], out: Path) -> None:
    """The archives of several pieces into one folder; a run that is there already stays."""
    for folder in folders:
        archives = sorted(folder.glob("*.tar.xz"))
        if not archives:
            raise vggnet.InputError(f"{folder}: no *.tar.xz there: give OUT of an earlier call")
        for path in archives:
            if not (out / "runs" / path.name.removesuffix(".tar.xz")).exists():
                with tarfile.open(path) as archive:
                    archive.extractall(out, filter="data")


class Rows:
    """Rows measured on a part of the data; all posteriors are kept."""

    def __init__(self, part: Part, out: Path) -> None:
        self.part, self.out = part, out
        self.cache = PosteriorCache(out / "posteriors")

    def measured(self, row: Row) -> Measured:
        nets = []
        for member in row.members:
            terms = row.protocol_of(member).terms
            (found,) = self.cache.measure([weights_of(self.out, member.run)], self.part, [terms])
            nets.append(combined(found, terms))
        forwards, adds = (sum(n.forwards for n in nets), sum(n.multiply_adds for n in nets))
        return Measured(mean([net.posteriors for net in nets]), forwards, adds)

    def wrong(self, row: Row) -> NDArray[np.bool_]:
        return ranks(self.measured(row).posteriors, self.part.labels) > 0

    def json(self, row: Row) -> dict[str, Any]:
        found = self.measured(row).errors(self.part, row.protocol)
        told = {"section": row.section, "row": str(row.protocol), "runs": _runs(row)}
        return told | found.to_json()


def _runs(row: Row) -> list[str]:
    return [member.run.name for member in row.members]


def _nets(row: Row) -> list[str]:
    return [member.run.config.model.net for member in row.members]


def report(whole: Grid, data: Dataset, settings: Settings, out: Path) -> None:
    """The package's report of all runs that are done, and `beside.json`: departures, validation."""
    done = tuple(run for run in whole.runs if is_done(run, out))
    if not done:
        raise vggnet.InputError(f"{out}: no run is finished there: train some first")
    rows = tuple(row for row in whole.rows if all(m.run in done for m in row.members))
    write_results(Grid(done, rows), data, settings, out)
    test, validation = Rows(data.test, out), Rows(data.validation, out)
    departures = [row for row in rows if row.section == "departure"]
    faithful = [row for row in rows if row.section in ("table 5", "table 6")]
    # Against the paper's rows of the same nets by the same method, and earlier departures of them.
    pairs = [
        (row, other)
        for number, row in enumerate(departures)
        for other in (*faithful, *departures[:number])
        if (_nets(row), row.method) == (_nets(other), other.method)
    ]
    pairs += [(a, b) for b, a in pairwise(departures) if a.members == b.members]
    tables = ("table 3", "table 4", "table 5", "table 6", "departure")
    beside = {
        "departures": [test.json(row) for row in departures],
        "compared": [
            claims.compare(*pair, test.wrong) | {"runs": [_runs(row) for row in pair]}
            for pair in pairs
        ],
        "validation": [
            validation.json(row)
            for row in rows
            if row.section in tables and row.members and row.method == "dense"
        ],
        "runs": {
            run.name: json.loads((out / "runs" / run.name / TESTED).read_text()) for run in done
        },
    }
    (out / "beside.json").write_text(json.dumps(beside, indent=1) + "\n")
