"""What `results.json` holds: every row of the grid from the posteriors of its runs' nets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vggnet import __version__, claims, paper
from vggnet.accounting import account
from vggnet.cache import PosteriorCache
from vggnet.configs import TABLE_1, Config
from vggnet.evaluate import combined, mean
from vggnet.graph import Grid, Row, Run, Settings, paper_numbers
from vggnet.parts import Dataset, Part
from vggnet.passes import Measured
from vggnet.protocols import Fusion
from vggnet.rivals import MEASURED_HERE
from vggnet.runs import WEIGHTS, read_metrics
from vggnet.scoring import Result, confused_pairs, ranks

LARGEST_MATRIX = 40
"""Classes beyond which a confusion matrix is not kept, only its most frequent pairs."""
_PAIRS, _MISTAKES = 20, 24


def weights_of(out: Path, run: Run) -> Path:
    """The weight file of a run in a reproduction's folder."""
    return out / "runs" / run.name / WEIGHTS


def _left_out(data: Dataset) -> dict[str, dict[str, int]]:
    """How many images of each part could not be read; nothing where all could."""
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    found = {name: part.left_out for name, part in parts.items() if part.left_out}
    return {"left_out": found} if found else {}


class _Measured:
    """Rows and their posteriors, all of which are in the cache."""

    def __init__(self, whole: Grid, part: Part, out: Path) -> None:
        self.grid, self.part, self.out = whole, part, out
        self.cache = PosteriorCache(out / "posteriors")
        self._known: dict[Row, tuple[Result, NDArray[np.bool_]]] = {}

    def posteriors(self, row: Row) -> NDArray[np.float64]:
        return self._measure(row)[0]

    def result(self, row: Row) -> Result:
        return self._once(row)[0]

    def wrong(self, row: Row) -> NDArray[np.bool_]:
        return self._once(row)[1]

    def _once(self, row: Row) -> tuple[Result, NDArray[np.bool_]]:
        if row not in self._known:
            found, forwards, multiply_adds = self._measure(row)
            whole = Measured(found, forwards, multiply_adds)
            result = whole.errors(self.part, row.protocol)
            self._known[row] = result, ranks(found, self.part.labels) > 0
        return self._known[row]

    def _measure(self, row: Row) -> tuple[NDArray[np.float64], int, int]:
        nets, forwards, multiply_adds = [], 0, 0
        for member in row.members:
            terms = row.protocol_of(member).terms
            (found,) = self.cache.measure([weights_of(self.out, member.run)], self.part, [terms])
            net = combined(found, terms)
            nets.append(net.posteriors)
            forwards += net.forwards
            multiply_adds += net.multiply_adds
        return mean(nets), forwards, multiply_adds


def results_of(whole: Grid, data: Dataset, settings: Settings, out: Path) -> dict[str, Any]:
    """The results of a grid whose runs are finished.

    Nothing in them depends on when or how often it was stopped: no times, no paths.

    Args:
        whole: the grid, or the part that was asked for.
        data: the data set.
        settings: that the grid was made from.
        out: the reproduction's folder.
    """
    measured = _Measured(whole, data.test, out)

    def of(*sections: str) -> list[Row]:
        return [row for row in whole.rows if row.section in sections]

    model = whole.runs[0].config.model
    vggs = [run.config.model for run in whole.runs if run.config.model.is_vgg]
    tables = of("table 3", "table 4", "table 5", "table 6", "table 7")
    best = _best(whole, measured)
    return {
        "versions": {"vggnet": __version__, "torch": torch.__version__},
        "dataset": {
            "name": data.name,
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
            "flip": data.flip,
            "class_names": list(data.class_names),
            **_left_out(data),
        },
        "crop": model.crop,
        "width": model.width,
        "seed": settings.seed,
        "only": settings.only,
        "runs": [_run_json(run, out) for run in whole.runs],
        "parameters": [_parameters(net, vgg) for vgg in vggs[:1] for net in TABLE_1],
        "rows": [_table_row(row, measured, settings.rivals) for row in tables],
        "averaging": _averaging(of("averaging"), measured),
        "others_protocols": [_row(row, measured.result(row)) for row in of("others")],
        "ablation": [_row(row, measured.result(row)) for row in of("ablation")],
        "claims": claims.judged(whole.rows, measured.wrong),
        "by_scale": _by_scale(of("by scale"), measured),
        **_mistakes(data, best, measured),
    }


def _run_json(run: Run, out: Path) -> dict[str, Any]:
    records = read_metrics(out / "runs" / run.name)
    return {
        "name": run.name,
        "net": run.config.model.title,
        "S": run.config.S,
        "parent": run.parent.name if run.parent else None,
        "start": run.start,
        "tune": run.config.tune,
        "epochs": records[-1]["epoch"] + 1,
        "recipe": run.config.to_json(),
    }


def _parameters(net: str, model: Config) -> dict[str, Any]:
    """Table 2's row: the paper's millions, our count of the paper's net, and of this run's."""
    here = Config(net, model.num_classes, model.in_channels, model.crop, model.width)
    return {
        "table": 2,
        "net": net,
        "paper_millions": paper.PARAMETERS_MILLIONS[net],
        "counted": account(Config(net)).parameters,
        "here": account(here).parameters,
    }


def _row(row: Row, result: Result) -> dict[str, Any]:
    """A measured row; of one net with `net` and `S`, of several with `nets`."""
    found = result.to_json()
    protocol: dict[str, Any] = found.pop("protocol")
    return protocol | found


def _table_row(row: Row, measured: _Measured, rivals: bool) -> dict[str, Any]:
    table = int(row.section.removeprefix("table "))
    head: dict[str, Any] = {"table": table}
    if isinstance(row.published, paper.System):
        head["system"] = row.published.name
        if rivals and (here := MEASURED_HERE.get(row.published.name)) is not None:
            head["here"] = here
    if not row.members:  # another system: its nets are not ours
        empty = dict.fromkeys(("top1", "top1_interval", "top5", "top5_interval"))
        return head | {"nets": []} | empty | {"paper": paper_numbers(row)}
    if table >= 6:
        # As a fusion, also where it is of one net.
        protocols = tuple(row.protocol_of(member) for member in row.members)
        head |= Fusion(protocols).to_json()
    found = _row(row, measured.result(row))
    if table >= 6:
        for name in ("net", "S", "nets", "Q"):
            found.pop(name, None)
        tuned = any(member.run.config.tune == "fc" for member in row.members)
        head["note"] = "jittered D: its FC layers alone are tuned (§4.4)" if tuned else None
    return head | found | {"paper": paper_numbers(row)}


def _averaging(rows: Sequence[Row], measured: _Measured) -> list[dict[str, Any]]:
    """Scores against posteriors averaged over the dense map, for each net."""
    found = []
    for scores, posteriors in zip(rows[::2], rows[1::2], strict=True):
        results = {row.averaging: measured.result(row) for row in (scores, posteriors)}
        first = _row(scores, results["scores"])
        test = claims.compare(scores, posteriors, measured.wrong)
        found.append(
            {name: first[name] for name in ("net", "S", "Q", "n")}
            | {name: {"top1": r.top1, "top5": r.top5} for name, r in results.items()}
            | {"test": test}
        )
    return found


def _by_scale(rows: Sequence[Row], measured: _Measured) -> list[dict[str, Any]]:
    found: dict[Run, dict[str, Any]] = {}
    for row in rows:
        (member,) = row.members
        config = member.run.config
        line = found.setdefault(
            member.run, {"net": config.model.title, "S": config.S, "Q": [], "top1": []}
        )
        line["Q"].append(member.Q[0])
        line["top1"].append(measured.result(row).top1)
    return list(found.values())


def _best(whole: Grid, measured: _Measured) -> Row:
    """The paper's best: Table 7's first row; where it is not asked for, the lowest error."""
    rows = [row for row in whole.rows if row.members]
    named = [row for row in rows if row.section == "table 7"]
    return named[0] if named else min(rows, key=lambda row: measured.result(row).top1)


def _mistakes(data: Dataset, best: Row, measured: _Measured) -> dict[str, Any]:
    """What the best row takes for what, and its most confident mistakes."""
    found, labels, names = measured.posteriors(best), data.test.labels, data.class_names
    predicted = found.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    sure = wrong[np.argsort(-found[wrong, predicted[wrong]], kind="stable")][:_MISTAKES]
    matrix = None
    if len(names) <= LARGEST_MATRIX:
        counts = np.zeros((len(names), len(names)), dtype=np.int64)
        np.add.at(counts, (labels, predicted), 1)
        matrix = counts.tolist()
    pairs = confused_pairs(predicted, labels, _PAIRS)
    return {
        "confusion": {
            "row": str(best.protocol),
            "matrix": matrix,
            "pairs": [
                {"true": names[true], "predicted": names[other], "count": count}
                for true, other, count in pairs
            ],
        },
        "mistakes": [
            {
                "index": int(i),
                "name": data.test.name(int(i)),
                "true": names[labels[i]],
                "predicted": names[predicted[i]],
                "posterior": float(found[i, predicted[i]]),
                "true_posterior": float(found[i, labels[i]]),
            }
            for i in sure
        ],
    }
