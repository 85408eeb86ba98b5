"""Figures in the README and the guides are those of the committed results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import vggnet
from vggnet import box_tables
from vggnet.recipes import adaptation
from vggnet.report import table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FEATURES = (ROOT / "docs" / "features.md").read_text()


def test_the_table_of_layers_is_net_ds() -> None:
    known = {layer.name: layer for layer in vggnet.account(vggnet.Config("D")).layers}
    found = re.findall(
        r"^\| `(\w+)`.* \| (\d+) \| (\d+)×(\d+) \| (\d+) \| (\d+) \|$", FEATURES, re.MULTILINE
    )
    assert len(found) == 21  # 13 convolutions, 5 poolings, 3 fully connected layers
    for name, *numbers in found:
        channels, height, width, stride, sees = (int(number) for number in numbers)
        assert known[name].output == (channels, height, width), name
        assert (known[name].stride, known[name].receptive_field) == (stride, sees), name


def test_the_figures_about_features_are_those_of_the_committed_results() -> None:
    (file,) = (ROOT / "benchmarks" / "results").glob("*-features-cpu.json")
    found = json.loads(file.read_text())
    assert file.name in FEATURES
    for case in ("b1_224", "b8_224", "b1_256", "b8_256"):
        for way in ("vggnet", "hook", "cut", "cut_channels_last"):
            assert f" {found[case][way]:.1f} |" in FEATURES, (case, way)
        for way in ("hook", "best_cut"):
            assert f" {found['ratios'][case][way]['ratio']:.2f} (" in FEATURES, (case, way)


def results_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / "results" / name).read_text())
    return found


@pytest.mark.parametrize("number", [3, 5])
def test_the_tables_are_those_of_the_committed_results(number: int) -> None:
    results = results_of("digits.json")
    expected = [line.rstrip() for line in table(results, number).splitlines()]
    # The note above a table stands in the README's own words.
    rows = expected[expected.index("") + 1 :]
    assert "\n".join(rows) in README
    fitted = adaptation("digits")
    assert (results["crop"], results["width"]) == (fitted.grid_crop, fitted.grid_width)
    assert (results["seed"], results["only"]) == (0, None)


@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "table-7", "table-7-fashion-mnist"])
def test_the_results_pages_figures_are_committed(name: str) -> None:
    """Every error with its interval in the page's table of a data set is one of the JSON's."""
    results = results_of(f"{name}.json")
    text = (ROOT / "docs" / "results" / f"{name}.md").read_text()
    for row in results["rows"]:
        if row["top1"] is not None:
            low, high = row["top1_interval"]
            assert f"{row['top1']:.1f} [{low:.1f}, {high:.1f}]" in text
    for claim in results["claims"]:
        assert claim["verdict"] in text


def test_the_figures_of_the_full_width_are_those_of_the_committed_results() -> None:
    text = (ROOT / "docs" / "results.md").read_text()
    rows = results_of("fashion-mnist/results.json")["rows"]
    departures = results_of("fashion-mnist/beside.json")["departures"]
    measured = [row for row in rows + departures if row["top1"] is not None]
    assert len(measured) == 14
    for row in measured:
        low, high = row["top1_interval"]
        assert f"| {row['top1']:.2f} [{low:.2f}, {high:.2f}] |" in text


def test_the_figures_of_serving_are_those_of_the_committed_results() -> None:
    (file,) = (ROOT / "benchmarks" / "results").glob("*-serve-cpu.json")
    found = json.loads(file.read_text())
    text = (ROOT / "docs" / "results.md").read_text()
    for one in found["clients"]:
        times = one["answer_ms"]
        assert f"| {one['answers_a_second']} | {times['median']} | {times['p99']} |" in text
        assert one["other_statuses"] == []
    assert f"{found['batching']['ratio']} times" in text
    guide = (ROOT / "docs" / "serving.md").read_text()
    assert f"{found['batching']['ratio']:.2f} times what they get unbatched" in guide
    assert f"{found['p99_over_that_at_capacity'][0]} times that of 12 clients" in guide


@pytest.mark.parametrize(("name", "measured"), [("table-7", 8), ("table-7-fashion-mnist", 13)])
def test_the_figures_of_table_7s_other_nets_are_committed(name: str, measured: int) -> None:
    text = (ROOT / "docs" / "results.md").read_text()
    rows = [row for row in results_of(f"{name}.json")["rows"] if row["top1"] is not None]
    assert len(rows) == measured
    for row in rows:
        if name == "table-7" and "2 nets" in row["system"]:
            continue
        low, high = row["top1_interval"]
        line = f"| {row['top1']:.1f} [{low:.1f}, {high:.1f}] | {row['paper']['top1'] or '–'} |"
        assert line in text, row


def test_the_forward_figures_are_those_of_the_committed_results() -> None:
    (file,) = (ROOT / "benchmarks" / "results").glob("*-forward-cpu.json")
    found = json.loads(file.read_text())
    text = (ROOT / "docs" / "results.md").read_text()
    for batch in ("b1", "b8"):
        assert f"{found[batch]['ratio']:.3f}" in text
        assert found[batch]["ratio"] <= 1.03


def test_the_figures_of_localisation_are_those_of_the_committed_results() -> None:
    page = (ROOT / "docs" / "localisation.md").read_text()
    assert box_tables.text(results_of("localisation.json")) in page
