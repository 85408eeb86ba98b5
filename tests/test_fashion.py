"""benchmarks/gpu/fashion.py: pieces of the grid that go on, travel without weights, and merge."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks" / "gpu"


def test_pieces_become_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    fashion: Any = importlib.import_module("fashion")
    common = ["--data", "digits", "--small", "--device", "cpu", "--jobs", "1", "--workers", "0"]
    runs = tmp_path / "runs-1" / "runs"

    def call(out: str, *more: str) -> dict[str, Any]:
        fashion.main([str(tmp_path / out), *common, *more])
        found: dict[str, Any] = json.loads((tmp_path / out / "progress.json").read_text())
        return found

    piece = "--runs", str(runs.parent), "--nets", "D"
    found = call("out-1", *piece, "--minutes", "0")
    assert not found["done"]
    assert "time is up" in found["lines"][-2][2]
    names = ["A-S73", "D-S73", "D-S110", "D-S73-146", "D-S73-146-fc"]
    assert sorted(call("out-1", *piece, "--minutes", "3")["done"]) == sorted(names)
    # As if time had been up before the last two were there.
    for name in names[3:]:
        shutil.rmtree(runs / name)
    kept = (runs / "D-S110" / "weights.safetensors").stat().st_mtime_ns
    found = call("out-1", *piece, "--minutes", "3")
    assert sorted(found["done"]) == sorted(names)
    assert {name.removesuffix(" tests") for _, name, _ in found["lines"]} == {*names[3:], "all"}
    assert (runs / "D-S110" / "weights.safetensors").stat().st_mtime_ns == kept

    # Departures of one net and S by two schedules are two runs.
    more = "--runs", str(tmp_path / "runs-2"), "--nets", "B,D-BN,D-BN-cosine", "--minutes", "3"
    call("out-2", *more)
    outs = [str(tmp_path / name) for name in ("out-1", "out-2")]
    fashion.main([str(tmp_path / "merged"), *common, "--merge", *outs])
    results = json.loads((tmp_path / "merged" / "results.json").read_text())
    departures = ["D-BN-S64-82", "D-BN-S64-82-cosine"]
    assert {run["name"] for run in results["runs"]} == {*names, "B-S73", *departures}
    beside = json.loads((tmp_path / "merged" / "beside.json").read_text())
    rows = [row["runs"] for row in beside["departures"]]
    assert rows == [[name] for name in departures for _ in range(3)]
    pairs = [pair["runs"] for pair in beside["compared"]]
    assert pairs.count([departures[1:], departures[:1]]) == 3
    assert not list((tmp_path / "merged").glob("runs/*/weights.safetensors"))
    rows = [row for row in results["rows"] if row["table"] in (3, 4, 5) and row["net"] == "D"]
    assert len(rows) == 3 + 3 + 3
    # What travelled without weights, in half precision, gives what the package gives with them.
    fashion.main([str(tmp_path / "alone"), *common, "--merge", outs[0]])
    alone = json.loads((tmp_path / "alone" / "results.json").read_text())
    data, settings, whole = fashion.setting("digits", small=True)
    fashion.report(whole, data, settings, runs.parent)
    exact = json.loads((runs.parent / "results.json").read_text())
    mistakes = alone.pop("mistakes"), exact.pop("mistakes")
    assert alone == exact
    for half, single in zip(*mistakes, strict=True):
        assert half.pop("posterior") == pytest.approx(single.pop("posterior"), abs=2**-12)
        assert half.pop("true_posterior") == pytest.approx(single.pop("true_posterior"), abs=2**-12)
        assert half == single
