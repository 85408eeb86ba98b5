"""benchmarks/rehearsal.py: a small ImageNet from its files to a report; and its checks check."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from vggnet.datasets import open_dataset

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def rehearsal(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("rehearsal")


def test_its_files_are_as_imagenets(rehearsal: Any, tmp_path: Path) -> None:
    rehearsal.write_imagenet(tmp_path / "imagenet", 10, 40, 20)
    data = open_dataset(f"imagenet:{tmp_path / 'imagenet'}")
    assert (len(data.train), len(data.validation), len(data.class_names)) == (40, 20, 10)
    # Class by class in turn, also where the devkit's numbers run the other way.
    assert [int(name[-6:-5]) for name in map(str, data.validation.names or ())] == [
        (label + 1) % 10 for label in data.validation.labels
    ]
    files = sorted((tmp_path / "imagenet" / "train").rglob("*.JPEG"))
    assert len({file.read_bytes() for file in files}) == 40
    kinds = set()
    for file in files:
        with Image.open(file) as image:
            kinds.add((image.format, image.mode))
    assert kinds == {("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB")}


def test_a_part_of_the_grid(rehearsal: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    sizes = ["--classes", "5", "--train", "20", "--val", "5", "--crop", "32", "--width", "0.03125"]
    options = [str(out), *sizes, "--batch-size", "16", "--only", "table 3, A"]
    assert rehearsal.main(options) == 0
    found = json.loads(out.read_text())
    assert found["rows"] == {"table 3": 1, "table 4": 0, "table 5": 0, "table 6": 0}
    assert all(found["checks"].values())
    assert found["runs"] == 1


def test_posteriors_that_are_no_numbers_are_found(rehearsal: Any, tmp_path: Path) -> None:
    (tmp_path / "posteriors").mkdir()
    for name, value in (("a", 0.2), ("b", float("nan"))):
        values = np.full((5, 5), value, np.float32)
        save_file({"posteriors": values}, tmp_path / "posteriors" / f"{name}.safetensors")
    for name in ("report.html", "report.md"):
        (tmp_path / name).write_text("x" * 1001)
    one = rehearsal.Rehearsal(tmp_path, tmp_path, [])
    rehearsal.check(one, {"rows": [], "runs": []}, 5, 5)
    lost = [what for what, holds in one.checks.items() if not holds]
    assert lost == ["posteriors are finite and sum to 1"]


def test_a_row_without_its_number_is_found(rehearsal: Any, tmp_path: Path) -> None:
    row = {"table": 3, "top1": None, "n": 5}
    results = {"rows": [row], "runs": [{"name": "A-S37"}]}
    for name in ("report.html", "report.md"):
        (tmp_path / name).write_text("x" * 1001)
    one = rehearsal.Rehearsal(tmp_path, tmp_path, [])
    assert rehearsal.check(one, results, 5, 5)["table 3"] == 0
    lost = [what for what, holds in one.checks.items() if not holds]
    assert lost == [
        "table 3: every row has a number of 5 images",
        "posteriors are 5×5",
        "posteriors are finite and sum to 1",
        "every run's weights know their classes",
    ]
