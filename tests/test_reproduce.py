"""The reproduction: its files' contract, and that a kill at any moment changes nothing."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vggnet import Config, InputError, account, load, posteriors
from vggnet.cli import main
from vggnet.datasets import digits
from vggnet.images import rescale
from vggnet.runs import read_metrics

ARGUMENTS = ["reproduce", "digits", "--crop", "32", "--width", "0.0625", "--epochs", "1"]
ARGUMENTS += ["--jobs", "2"]
KILLS = int(os.environ.get("VGGNET_KILLS", "3"))
# With few kills, of a part: seven runs of the fourteen, and crops.
PART = [] if KILLS > 3 else ["--only", "table 5, D, E"]


# As `python -m vggnet`, but heeding Ctrl-C also where the tests run in the background of a shell,
# whose children are born deaf to it.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from vggnet.cli import main
sys.exit(main())
"""


def start(out: Path, *more: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *ARGUMENTS, *more, "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a process group of its own, as a terminal gives it
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A reproduction never stopped, and how long it took."""
    return undisturbed(tmp_path_factory.mktemp("whole"))


def undisturbed(out: Path, *more: str) -> tuple[Path, float]:
    began = time.monotonic()
    process = start(out, *more)
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()
    return out, time.monotonic() - began


def files(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def results_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def test_results_keep_their_contract(whole: tuple[Path, float]) -> None:
    results = results_of(whole[0])
    tables: dict[int, list[dict[str, Any]]] = {}
    for row in results["rows"]:
        tables.setdefault(row["table"], []).append(row)
    assert {table: len(rows) for table, rows in tables.items()} == {3: 12, 4: 10, 5: 6, 6: 4, 7: 15}
    for row in results["rows"]:
        if row["top1"] is None:
            assert (row["table"], row["nets"]) == (7, [])
            continue
        assert (row["averaging"], row["flips"], row["n"]) == ("scores", False, 500)
        for top in ("top1", "top5"):
            low, high = row[f"{top}_interval"]
            assert 0 <= low <= row[top] <= high <= 100
        assert row["top5"] <= row["top1"]
    three = [(row["net"], row["S"], row["Q"]) for row in tables[3]]
    assert three[:4] == [("A", 37, [37]), ("A-LRN", 37, [37]), ("B", 37, [37]), ("C", 37, [37])]
    assert three[-1] == ("E", [37, 73], [55])
    assert tables[3][6]["paper"] == {
        "S": 256, "Q": [256], "method": "dense", "top1": 27.0, "top5": 8.8
    }  # fmt: skip
    assert [row["Q"] for row in tables[4][:3]] == [[32, 37, 42], [32, 37, 42], [50, 55, 60]]
    methods = ["dense", "multi-crop", "multi-crop+dense"]
    assert [row["method"] for row in tables[5]] == methods * 2
    submission, *fused = tables[6]
    assert submission["nets"] == [
        ["D", 37], ["D", 55], ["D", [37, 73]], ["C", 37], ["C", 55], ["E", 37], ["E", 55]
    ]  # fmt: skip
    assert submission["Q"][:3] == [[32, 37, 42], [50, 55, 60], [37, 55, 73]]
    assert "FC layers alone" in submission["note"]
    assert [row["nets"] for row in fused] == [[["D", [37, 73]], ["E", [37, 73]]]] * 3
    assert [row["method"] for row in fused] == methods
    assert [row["nets"] for row in tables[7][:2]] == [
        [["D", [37, 73]], ["E", [37, 73]]],
        [["E", [37, 73]]],
    ]
    # Table 7's rows of VGG are those of the other tables.
    for name in ("top1", "top5", "forwards_per_image"):
        assert tables[7][0][name] == tables[6][3][name]
        assert tables[7][1][name] == tables[5][5][name]
        assert tables[7][2][name] == tables[6][0][name]
    assert tables[5][0]["top1"] == tables[4][6]["top1"]
    sizes = {row["net"]: row for row in results["parameters"]}
    assert (sizes["D"]["paper_millions"], sizes["D"]["counted"]) == (138, 138_357_544)
    small = Config("D", num_classes=10, crop=32, width=0.0625)
    assert sizes["D"]["here"] == account(small).parameters
    assert [row["net"] for row in results["ablation"]] == ["B", "B-5x5"]
    assert len(results["claims"]) == 8
    assert [len(line["Q"]) for line in results["by_scale"]] == [7] * 12
    assert [row["net"] for row in results["averaging"]] == ["D", "E"]


def test_errors_are_those_of_the_saved_nets(whole: tuple[Path, float]) -> None:
    """Rows of each table against the public functions on the files that the runs left."""
    results, runs, data = results_of(whole[0]), whole[0] / "runs", digits()
    names = {"A-S37": 0, "D-S37-73": 8, "E-S55": 10}
    for name, number in names.items():
        row, model = results["rows"][number], load(runs / name / "weights.safetensors")
        images = [rescale(image, row["Q"][0]) for image in data.test.images]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        with torch.no_grad():
            wrong = model(pixels).argmax(dim=1).numpy() != data.test.labels
        assert row["top1"] == pytest.approx(100 * wrong.mean())
    nets = [load(runs / f"{net}-S37-73" / "weights.safetensors") for net in "DE"]
    each = [
        posteriors(
            net, data.test.images, scales=[37, 55, 73], method="multi-crop+dense", flips=False
        )
        for net in nets
    ]
    for found, row in ((each[1], results["rows"][27]), (sum(each), results["rows"][31])):
        wrong = found.argmax(axis=1) != data.test.labels  # type: ignore[union-attr]
        assert row["method"] == "multi-crop+dense"
        assert row["top1"] == pytest.approx(100 * wrong.mean())
    confusion = np.array(results["confusion"]["matrix"])
    assert confusion.sum() == 500
    assert confusion.sum(axis=1).tolist() == np.bincount(data.test.labels).tolist()
    assert 100 * (1 - np.trace(confusion) / 500) == pytest.approx(results["rows"][31]["top1"])
    mistake = results["mistakes"][0]
    assert data.class_names[data.test.labels[mistake["index"]]] == mistake["true"]
    assert mistake["posterior"] == pytest.approx((each[0] + each[1])[mistake["index"]].max() / 2)
    assert mistake["posterior"] > mistake["true_posterior"]


def test_runs_start_where_the_paper_says(whole: tuple[Path, float]) -> None:
    from vggnet.files import sha256

    runs, results = whole[0] / "runs", results_of(whole[0])
    assert {path.name for path in runs.iterdir()} == {run["name"] for run in results["runs"]}
    parents = {run["name"]: run["parent"] for run in results["runs"]}
    assert len(parents) == 14
    assert (parents["A-S37"], parents["B-5x5-S37"]) == (None, None)
    assert parents["E-S37"] == "A-S37"
    assert parents["E-S55"] == "E-S37"
    assert parents["E-S37-73"] == "E-S55"
    assert parents["D-S37-73-fc"] == "D-S55"
    for name, parent in parents.items():
        known = load(runs / name / "weights.safetensors").provenance
        expected = parent and sha256(runs / parent / "weights.safetensors")
        assert known.parent == expected
    before = load(runs / "D-S55" / "weights.safetensors").state_dict()
    after = load(runs / "D-S37-73-fc" / "weights.safetensors").state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert {key.split(".")[0] for key in moved} == {"fc6", "fc7", "fc8"}


def test_damaged_metrics_are_refused(tmp_path: Path) -> None:
    for text in ("", "no json\n"):
        (tmp_path / "metrics.jsonl").write_text(text)
        with pytest.raises(InputError, match=r"metrics\.jsonl.*train anew"):
            read_metrics(tmp_path)


def test_the_reports_show_the_tables(whole: tuple[Path, float]) -> None:
    page = (whole[0] / "report.html").read_text()
    text = (whole[0] / "report.md").read_text()
    results = results_of(whole[0])
    for number in range(1, 8):
        assert f"Table {number}" in page
        assert f"Table {number}" in text
    for claim in results["claims"]:
        assert escape(claim["claim"]) in page
    for row in results["rows"]:
        if row["top1"] is not None:
            assert f"{row['top1']:.1f}" in page
    assert page.count("data:image/png;base64,") == len(results["mistakes"]) == 24
    # Self-contained: nothing is fetched.
    assert not re.search(r'src="(?!data:)|<link|@import|<script', page)


def test_a_part_uses_what_the_whole_has(
    whole: tuple[Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table 3 of A and B alone: two runs, with the results they have in the whole grid."""
    arguments = [*ARGUMENTS[:-2], "--only", "table 3, A, B"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    results = results_of(tmp_path)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"A-S37", "B-S37"}
    assert results["rows"] == [results_of(whole[0])["rows"][i] for i in (0, 2)]
    assert results["only"] == "table 3, A, B"
    text = capsys.readouterr().out
    assert "Table 3" in text
    assert "Table 4" not in text
    assert main([*arguments[:-1], "table 9", "--out", str(tmp_path)]) == 2
    assert "'table 9' is neither" in capsys.readouterr().err


def test_posteriors_are_computed_once(
    whole: tuple[Path, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all runs and posteriors there, a second call looks at no image."""
    kept = sorted((whole[0] / "posteriors").iterdir())
    before = {path: path.stat().st_mtime_ns for path in kept}

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("vggnet.cache.measure", never)
    assert main([*ARGUMENTS[:-2], "--out", str(whole[0])]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    # One file for each term of each net, none for what two tables share.
    names = [path.name.rsplit("-", 1)[0] for path in kept]
    posteriors_averaged = 2 * 3  # D and E, three scales, the other order of averaging
    assert len(names) == len(set(names)) + posteriors_averaged


def test_finished_runs_are_used_again(
    whole: tuple[Path, float], capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(whole[0])
    assert main([*ARGUMENTS, "--out", str(whole[0])]) == 0
    text = capsys.readouterr().out
    assert "Table 3 on digits (500 test images)" in text
    assert "multi-crop & dense" in text
    assert f"report: {whole[0] / 'report.html'}" in text
    assert files(whole[0]) == before
    # But never for another recipe.
    assert main([*ARGUMENTS, "--seed", "1", "--out", str(whole[0])]) == 2
    assert "seed 0 instead of 1" in capsys.readouterr().err
    assert files(whole[0]) == before


@pytest.mark.soak
def test_a_killed_reproduction_ends_as_one_never_killed(
    whole: tuple[Path, float], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    out, seconds = undisturbed(tmp_path / "part", *PART) if PART else whole
    moments = random.Random(os.environ.get("VGGNET_KILL_SEED", "0"))
    kills, attempt = 0, 0
    while True:
        process = start(tmp_path / str(attempt), *PART)
        # After the last kill there is no limit.
        limit = moments.uniform(0, 0.7 * seconds) if kills < KILLS else None
        try:
            _, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, err.decode()
        # Temporary files of a killed write may stay, under hidden names.
        found = files(tmp_path / str(attempt))
        assert {n: data for n, data in found.items() if "/." not in f"/{n}"} == files(out)
        if kills == KILLS:
            record_property("kills", kills)
            break
        attempt += 1  # done before its time: kill the next one


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # the workers get it too
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert "the same command goes on" in err.decode()
    assert "Traceback" not in err.decode()
