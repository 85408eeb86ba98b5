"""benchmarks/gpu/table7.py: Table 7's nets beside VGG's, in pieces."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from vggnet.rivals import RIVALS
from vggnet.scoring import mcnemar

BENCHMARKS = Path(__file__).parent.parent / "benchmarks" / "gpu"


@pytest.fixture
def table7(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("table7")


def test_every_net_at_its_own_crop(table7: Any) -> None:
    data, settings, whole = table7.setting("digits", small=False)
    assert len(data.train) == 1000
    crops = {run.config.model.net: run.config.model.crop for run in whole.runs}
    assert crops == dict.fromkeys("ADE", 224) | {name: net.crop for name, net in RIVALS.items()}
    for run in whole.runs:
        config = run.config
        assert (config.model.width, config.precision, config.epochs) == (1, "bfloat16", 12)
        assert config.S == round(256 / 224 * config.model.crop)
        assert (run.parent is not None) == (config.model.net in ("D", "E"))
    rows = {row.published.name: row for row in whole.rows if row.section == "table 7"}
    measured = {name: row.nets for name, row in rows.items() if row.members}
    assert measured == {net.system: {name} for name, net in RIVALS.items()} | {
        "VGG (1 net, multi-crop & dense eval.)": {"E"}
    }
    assert rows["Clarifai (1 net)"].published.top5_test == 12.5
    assert {row.method for row in rows.values() if row.members} == {"multi-crop+dense"}
    assert settings.rivals


def test_pieces_become_one_table(
    table7: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--data", "digits", "--small", "--device", "cpu", "--jobs", "1", "--workers", "0"]

    def call(out: str, nets: str, *more: str) -> Any:
        runs = ["--runs", str(tmp_path / f"runs-{out}"), "--nets", nets]
        table7.main([str(tmp_path / out), *common, *runs, *more])
        return json.loads((tmp_path / out / "progress.json").read_text())

    table7.main([str(tmp_path / "x"), *common, "--nets", "D,OverFeat,SPP", "--plan"])
    planned = capsys.readouterr().out
    names = {line.split()[0] for line in planned.splitlines()[:-1]}
    assert names == {"A-S73", "D-S73", "SPP-S73", "OverFeat-S75"}
    assert "estimated, not measured" in planned
    assert not call("one", "D,ZF", "--minutes", "0")["done"]
    assert sorted(call("one", "D,ZF")["done"]) == ["A-S73", "D-S73", "ZF-S73"]
    assert call("two", "GoogLeNet")["done"] == ["GoogLeNet-S73"]
    outs = [str(tmp_path / name) for name in ("one", "two")]
    table7.main([str(tmp_path / "all"), *common, "--merge", *outs])

    rows = json.loads((tmp_path / "all" / "table-7.json").read_text())
    nets = ["A", "D", "ZF", "GoogLeNet"]
    assert [(row["net"], row["crop"]) for row in rows[::2]] == [(net, 64) for net in nets]
    results = json.loads((tmp_path / "all" / "results.json").read_text())
    of_table = {row["system"]: row for row in results["rows"]}
    assert of_table["Clarifai (1 net)"]["paper"]["top5_test"] == 12.5
    assert "OverFeat (1 net)" not in of_table  # not trained
    for row in rows:
        assert row["net"] in row["row"]
        if row["system"] and "multi-crop" in row["row"]:
            assert of_table[row["system"]]["top1"] == row["top1"]
            assert row["paper_top1"] == of_table[row["system"]]["paper"]["top1"]
        if row["net"] == "D":
            assert "against_D" not in row
            continue
        test = row["against_D"]
        assert test["p"] == mcnemar(test["only_better_wrong"], test["only_worse_wrong"])
        assert test["better_top1"] == row["top1"]
    text = (tmp_path / "all" / "table-7.md").read_text()
    assert text.count("\n| ") == 1 + len(rows)
    assert "| ZF | 64 |" in text
    assert "here its Fig. 3" in text
    assert "Clarifai (1 net): not measured: the net was never published; the paper's" in text
