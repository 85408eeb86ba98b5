"""The README's commands and code run, and its figures are those of the committed results."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vggnet.cli import COMMANDS, main
from vggnet.recipes import DIGITS_WIDTH
from vggnet.report import table_3

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


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
    lines = [line for block in blocks("console") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("vggnet")]
    assert {command[1] for command in commands} == set(COMMANDS)
    for command in commands:
        assert main(command[1:]) == 0, command


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_code_runs(number: int, tmp_path: Path) -> None:
    code = blocks("python")[number]
    code += "\nassert scores.shape == (2, 10) and score_map.shape == (2, 10, 2, 3)"
    code += "\nassert posteriors.shape == (1, 10)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)


def test_links_lead_somewhere() -> None:
    for file in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", file.read_text()):
            assert (file.parent / target).exists(), f"{file}: {target}"


def test_the_table_is_that_of_the_committed_results() -> None:
    results = json.loads((ROOT / "docs" / "results" / "digits.json").read_text())
    expected = "\n".join(line.rstrip() for line in table_3(results).splitlines())
    assert expected in README
    text = (ROOT / "docs" / "results.md").read_text()
    for dense, centre in zip(results["rows"], results["centre_crop"], strict=True):
        cells = [
            f"{result['top1']:.1f} [{result['top1_interval'][0]:.1f}, "
            f"{result['top1_interval'][1]:.1f}]"
            for result in (dense, centre)
        ]
        assert f"| {dense['net']} | {cells[0]} | {cells[1]} |" in text
    recipe = results["runs"][0]["recipe"]
    assert (recipe["model"]["width"], recipe["seed"]) == (DIGITS_WIDTH, 0)


def test_the_forward_figures_are_those_of_the_committed_results() -> None:
    (file,) = (ROOT / "benchmarks" / "results").glob("*-forward-cpu.json")
    found = json.loads(file.read_text())
    text = (ROOT / "docs" / "results.md").read_text()
    for batch in ("b1", "b8"):
        assert f"{found[batch]['ratio']:.3f}" in text
        assert found[batch]["ratio"] <= 1.03
