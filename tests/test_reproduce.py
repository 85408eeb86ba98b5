"""The reproduction: its files' contract, and that a kill at any moment changes nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vggnet import Config, InputError, account, load, report
from vggnet.cli import main
from vggnet.datasets import digits
from vggnet.images import rescale
from vggnet.reproduce import read_metrics

ARGUMENTS = ["reproduce", "digits", "--width", "0.0625", "--epochs", "2"]
KILLS = int(os.environ.get("VGGNET_KILLS", "3"))


# As `python -m vggnet`, but heeding Ctrl-C also where the tests run in the background of a shell,
# whose children are born deaf to it.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from vggnet.cli import main
sys.exit(main())
"""


def start(out: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *ARGUMENTS, "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A reproduction never stopped, and how long it took."""
    out = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    process = start(out)
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()
    return out, time.monotonic() - began


def files(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_results_keep_their_contract(whole: tuple[Path, float]) -> None:
    results = json.loads((whole[0] / "results.json").read_text())
    rows: list[dict[str, Any]] = results["rows"]
    assert [row["net"] for row in rows] == ["A", "A-LRN", "B", "C", "D", "E"]
    for row in rows:
        assert (row["table"], row["S"], row["Q"]) == (3, 37, [37])
        assert (row["method"], row["averaging"], row["flips"]) == ("dense", "scores", False)
        assert row["n"] == 500
        low, high = row["top1_interval"]
        assert 0 <= low <= row["top1"] <= high <= 100
        assert row["top5"] <= row["top1"]
    assert rows[4]["paper"] == {"S": 256, "Q": [256], "top1": 27.0, "top5": 8.8}
    sizes = {row["net"]: row for row in results["parameters"]}
    assert (sizes["D"]["paper_millions"], sizes["D"]["counted"]) == (138, 138_357_544)
    small = Config("D", num_classes=10, crop=32, width=0.0625)
    assert sizes["D"]["here"] == account(small).parameters


def test_errors_are_those_of_the_saved_nets(whole: tuple[Path, float]) -> None:
    results = json.loads((whole[0] / "results.json").read_text())
    data = digits()
    for row, crop in list(zip(results["rows"], results["centre_crop"], strict=True))[::4]:
        model = load(whole[0] / "runs" / f"{row['net']}-S37" / "weights.safetensors")
        images = [rescale(image, 37) for image in data.test.images]
        # One view at a time, by the forward alone.
        for found, views in ((row, images), (crop, [i[2:34, 2:34] for i in images])):
            pixels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
            with torch.no_grad():
                wrong = model(pixels).argmax(dim=1).numpy() != data.test.labels
            assert found["top1"] == pytest.approx(100 * wrong.mean())
    assert [crop["protocol"]["method"] for crop in results["centre_crop"]] == ["centre-crop"] * 6
    recipes = {run["name"]: (run["parent"], run["recipe"]) for run in results["runs"]}
    assert recipes["A-S37"][0] is None
    assert recipes["E-S37"][0] == "A-S37"
    assert recipes["E-S37"][1]["model"]["net"] == "E"
    assert not recipes["E-S37"][1]["flip"]


def test_curves_are_those_of_the_metrics(
    whole: tuple[Path, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(report, "_chart", lambda series, title: drawn.setdefault(title, series))
    records = read_metrics(whole[0] / "runs" / "A-S37")
    report._curves({"A": records})
    losses = [r["loss"] for r in records if r["kind"] == "train" and r["epoch"] == 1]
    errors = [r["error"] for r in records if r["kind"] == "validation"]
    assert drawn["Training loss (mean of an epoch)"]["A"][1] == pytest.approx(np.mean(losses))
    assert drawn["Validation error, top-1, %"]["A"] == errors


def test_damaged_metrics_are_refused(tmp_path: Path) -> None:
    for text in ("", "no json\n"):
        (tmp_path / "metrics.jsonl").write_text(text)
        with pytest.raises(InputError, match=r"metrics\.jsonl.*train anew"):
            read_metrics(tmp_path)


def test_deeper_nets_are_staged_from_a(whole: tuple[Path, float]) -> None:
    from vggnet.checkpoint import sha256

    runs = whole[0] / "runs"
    net_a = sha256(runs / "A-S37" / "weights.safetensors")
    for net in ("A", "A-LRN", "B", "C", "D", "E"):
        known = load(runs / f"{net}-S37" / "weights.safetensors", net=net).provenance
        assert known.parent == (None if net == "A" else net_a)


def test_the_report_shows_the_three_tables_and_the_curves(whole: tuple[Path, float]) -> None:
    page = (whole[0] / "report.html").read_text()
    results = json.loads((whole[0] / "results.json").read_text())
    for heading in ("Table 1", "Table 2", "Table 3", "Training curves", "paper", "measured here"):
        assert heading in page
    for row in results["rows"]:
        assert f"{row['top1']:.1f} <span" in page
        assert f"<td>{row['paper']['top1']}</td>" in page
    for row in results["parameters"]:
        assert f"{row['counted']:,}" in page
    assert page.count("<svg") == 2
    assert "conv1-512" in page
    # Self-contained: nothing is fetched.
    assert not any(word in page for word in ("src=", "<link", "@import", "<script"))


def test_finished_runs_are_used_again(
    whole: tuple[Path, float], capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(whole[0])
    assert main([*ARGUMENTS, "--out", str(whole[0])]) == 0
    text = capsys.readouterr().out
    assert "Table 3 on digits (500 test images)" in text
    assert f"report: {whole[0] / 'report.html'}" in text
    assert files(whole[0]) == before
    # But never for another recipe.
    assert main([*ARGUMENTS, "--seed", "1", "--out", str(whole[0])]) == 2
    assert "seed 0 instead of 1" in capsys.readouterr().err
    assert files(whole[0]) == before


@pytest.mark.soak
def test_a_killed_reproduction_ends_as_one_never_killed(
    whole: tuple[Path, float], tmp_path: Path
) -> None:
    out, seconds = whole
    moments = random.Random(os.environ.get("VGGNET_KILL_SEED", "0"))
    kills, attempt = 0, 0
    while True:
        process = start(tmp_path / str(attempt))
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
            break
        attempt += 1  # done before its time: kill the next one


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert "the same command goes on" in err.decode()
    assert "Traceback" not in err.decode()
