"""The README's and the guides' commands and code run, and figures are the committed results'."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vggnet
from vggnet import box_tables
from vggnet.cli import COMMANDS, main
from vggnet.formats import torchvision
from vggnet.recipes import adaptation
from vggnet.report import table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FEATURES = (ROOT / "docs" / "features.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_first_screen_shows_the_two_commands() -> None:
    first = "\n".join(README.splitlines()[:20])
    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in first
        assert f"\n{command}: " in makefile
    ci = (ROOT / ".ci" / "run").read_text()
    assert ci.index("make test") < ci.index("make demo")


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "path" / "to" / "images" / name
        folder.mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (40, 40 + i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.jpg")
    lines = [f"{name}/{i},5,5,30,35" for name in ("cat", "dog") for i in range(10)]
    (tmp_path / "boxes.csv").write_text("\n".join(["image,xmin,ymin,xmax,ymax", *lines]))
    torch.save(torchvision.state_dict(vggnet.build("D", crop=32, width=1 / 16)), "vgg16.pth")
    small = ["--crop", "32", "--width", "0.0625", "--epochs", "1", "--batch-size", "8"]
    lines = [line for block in blocks("console") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("vggnet")]
    assert {command[1] for command in commands} == set(COMMANDS)
    for command in commands:
        # On a user's images the defaults are the paper's sizes: not for a test.
        own = "path/to/images" in command and command[1] in ("reproduce", "train")
        more = small if own else []
        if command[1] == "train-boxes":
            more = ["--epochs", "1", "--batch-size", "8"]
        if command[1] == "localize":  # at a crop of 32, the paper's 256 is 37
            command = [word.replace("A-256", "A-37") for word in command]
        if command[1] == "serve":
            served([*command[1:], "--port", "0"])
            continue
        if command[1] == "bench":
            more = ["--quick", "--only", "forward"]  # of net D at full width it takes minutes
        assert main([*command[1:], *more]) == 0, command


def served(command: list[str]) -> None:
    """The server starts, and ends in order."""
    with subprocess.Popen(
        [sys.executable, "-m", "vggnet", *command], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any("answers" in line for line in lines)
        process.terminate()
    assert process.returncode == 0


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_code_runs(number: int, tmp_path: Path) -> None:
    code = blocks("python")[number]
    code += "\nassert scores.shape == (2, 10) and score_map.shape == (2, 10, 2, 3)"
    code += "\nassert posteriors.shape == (2, 10)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)


def test_the_code_and_commands_about_features_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a net of 1/16 of the width."""
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision.state_dict(vggnet.build("D", crop=32, width=1 / 16)), "vgg16.pth")
    linear = tmp_path / "lpips" / "weights" / "v0.1"
    linear.mkdir(parents=True)
    channels = (4, 8, 16, 32, 32)
    weights = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(channels)}
    torch.save(weights, linear / "vgg.pth")
    code = "\n".join(blocks("python", FEATURES))
    code += "\nassert list(found) == ['relu3_3'] and distance(picture, target).shape == (2,)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)

    images = tmp_path / "path" / "to" / "images"
    images.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 44, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / "one.png")
    lines = [line for block in blocks("console", FEATURES) for line in block.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("vggnet")]
    assert [command[1] for command in commands] == ["convert", "features", "features"]
    for command in commands:
        assert main(command[1:]) == 0, command
    assert np.load("features.npy").shape == (1, 256)


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


def test_links_lead_somewhere() -> None:
    for file in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", file.read_text()):
            assert (file.parent / target).exists(), f"{file}: {target}"


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
