"""The documentation's commands and code run, its flags exist, its links lead somewhere.

A page is found by itself. What it needs beyond the files of `folder` goes into `BEFORE`; a command
that is too much for a test at its defaults goes into `SMALLER`, one that a test cannot run at all
into `PARSED`.
"""

import argparse
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributed.run import get_args_parser

import vggnet
from documentation import HISTORY, PAGES, ROOT, Line, anchors, blocks, lines, links, prose, spans
from vggnet.cli import COMMANDS, main, parser
from vggnet.formats import torchvision

PARSED = {
    r"\bimagenet:|\bimagenet\b(?!.* --plan)": "ImageNet",
    r"\bVOCdevkit\b": "PASCAL VOC",
    r"\b101_ObjectCategories\b": "Caltech-101",
    r"\bfashion-mnist\b": "Fashion-MNIST",
    r"\bdigits-on-photos\b": "5,400 canvases; tests/test_localize.py runs it small",
    r"--rivals\b": "six nets; tests/test_rivals.py runs some",
    r"--boxes boxes/runs/": "boxes learnt from one of these",
    r"--host 0\.0\.0\.0": "all the network would be served",
    r"^torchrun\b": "many processes; tests/test_distributed.py starts some",
    r"^(make|pip|python)\b": "installs, builds or measures",
    r"…": "an ellipsis",
}
"""Commands, as patterns, that are parsed but not run, each with the reason."""

TINY = ["--crop", "32", "--width", "0.0625", "--epochs", "1"]
SMALLER = {
    r"^(train|reproduce) (?!.* --plan).*\bpath/to/images\b": [*TINY, "--batch-size", "8"],
    r"^(train|reproduce) (?!.* --plan).*\bdigits\b": TINY,
    r"^reproduce\b.* --jobs 2$": ["--only", "table 3, A"],
    r"^train-boxes\b": ["--epochs", "1", "--batch-size", "8"],
    r"^bench\b": ["--quick", "--only", "forward"],
}
"""What is appended to a command of vggnet, by a pattern."""
RENAMED = {"A-256": "A-37"}
"""Names that hold S, which at a crop of 32 is another."""

BEFORE = {
    "docs/speed.md": "model = vggnet.build('D', num_classes=10, crop=32, width=0.0625)\n"
    "images = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)",
    "docs/localisation.md": "images = [np.zeros((40, 50, 3), np.uint8)]\n"
    "vggnet.save(vggnet.build('D', num_classes=2, crop=32, width=0.0625), 'd.safetensors')",
}
"""Code that a page's code takes for granted."""
AFTER = {
    "README.md": "assert scores.shape == (2, 10) and score_map.shape == (2, 10, 2, 3)\n"
    "assert posteriors.shape == (2, 10)",
    "docs/features.md": "assert list(found) == ['relu3_3']\n"
    "assert distance(picture, target).shape == (2,)",
}
"""What holds after it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has: pictures, boxes, weights; everything is small."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        images = folder / "path" / "to" / "images" / name
        images.mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (40, 40 + i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{i}.jpg")
        Image.fromarray(pixels).save(folder / f"{name}.jpg")
    Image.fromarray(pixels).save(folder / "dog.png")
    boxes = [f"{name}/{i},5,5,30,35" for name in ("cat", "dog") for i in range(10)]
    (folder / "boxes.csv").write_text("\n".join(["image,xmin,ymin,xmax,ymax", *boxes]))
    for net, name in (("D", "vgg16.pth"), ("E", "vgg19.pth")):
        model = vggnet.build(net, crop=32, width=1 / 16)
        torch.save(torchvision.state_dict(model), folder / name)
    vggnet.save(model, folder / "net.safetensors")
    boxes_net = vggnet.VGG(vggnet.Config("D", 2, crop=32, width=1 / 16, boxes="pcr"))
    vggnet.save(boxes_net, folder / "boxes.safetensors")
    linear = folder / "lpips" / "weights" / "v0.1"
    linear.mkdir(parents=True)
    channels = enumerate((4, 8, 16, 32, 32))
    weights = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in channels}
    torch.save(weights, linear / "vgg.pth")
    return folder


@pytest.fixture
def inside(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it for one page, as the working directory."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def why_parsed(line: Line) -> str | None:
    return next((why for pattern, why in PARSED.items() if re.search(pattern, line.text)), None)


@pytest.mark.parametrize("page", [page for page in PAGES if lines(page)])
def test_commands_run(page: str, inside: Path) -> None:
    """In the page's order, so that one has what those before it wrote."""
    with ExitStack() as servers:
        port = ""
        for line in lines(page):
            if why_parsed(line):
                continue
            name, *words = (renamed(word) for word in line.words)
            if name == "curl":
                url = words.pop().replace(":8000", f":{port}")
                if shutil.which("curl"):
                    subprocess.run(["curl", "-fsS", *words, url], check=True, timeout=20)
                continue
            assert name == "vggnet", f"{line}: how is this tested?"
            if words[0] == "serve":
                port = servers.enter_context(serving(words))
                continue
            more = [SMALLER[p] for p in SMALLER if re.search(p, " ".join(words))]
            assert main([*words, *(flag for flags in more for flag in flags)]) == 0, line


def renamed(word: str) -> str:
    for old, new in RENAMED.items():
        word = word.replace(old, new)
    return word


@contextmanager
def serving(words: list[str]) -> Iterator[str]:
    """The server starts on the port that is given, and ends in order."""
    command = [sys.executable, "-m", "vggnet", *words, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = (re.search(r":(\d+) answers", line) for line in process.stdout)
        found = next(filter(None, started))
        try:
            yield found[1]
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_code_runs(page: str, inside: Path) -> None:
    """A page's blocks one after another, as a reader would type them."""
    code = "\n".join([BEFORE.get(page, ""), *blocks(page, "python"), AFTER.get(page, "")])
    exec(compile(code, page, "exec"), {"vggnet": vggnet, "torch": torch, "np": np})


def test_every_exception_is_needed() -> None:
    every = [line for page in PAGES for line in lines(page)]
    for pattern, why in PARSED.items():
        assert any(re.search(pattern, line.text) for line in every), (pattern, why)
    words = [" ".join(line.words[1:]) for line in every if line.words[0] == "vggnet"]
    for pattern in SMALLER:
        assert any(re.search(pattern, line) for line in words), pattern
    assert {*BEFORE, *AFTER} <= {page for page in PAGES if blocks(page, "python")}


@pytest.mark.parametrize("page", [page for page in PAGES if lines(page)])
def test_commands_are_understood(page: str) -> None:
    """Also those that are not run: by the real parsers."""
    for line in lines(page):
        try:
            understand(line.words)
        except SystemExit:
            pytest.fail(f"{line}: not understood")


def understand(words: list[str]) -> None:
    """Raises where a command, script, target, extra or flag does not exist."""
    name, *more = words
    if name == "torchrun":
        more, inner = more[: more.index("-m")], more[more.index("-m") + 1 :]
        get_args_parser().parse_args([*more, "script"])
        understand(inner)
    elif name == "vggnet":
        parser().parse_args(more)
        flags = {word.partition("=")[0] for word in more if word.startswith("--")}
        assert flags <= options(subparsers(parser())[more[0]]), words  # no abbreviations
    elif name == "python":
        script_parser(more[0]).parse_args(more[1:])
    elif name == "make":
        assert f"\n{more[0]}: " in (ROOT / "Makefile").read_text(), words
    elif name == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for asked in re.findall(r"^(?:\.|vggnet)\[(.+)\]$", more[-1]):
            assert set(asked.split(",")) <= set(extras["optional-dependencies"]), words
    else:
        assert name in ("curl", "pytest"), f"{words}: how is this tested?"


@cache
def script_parser(script: str) -> argparse.ArgumentParser:
    """The parser that a script makes, caught before it parses and measures."""
    found: list[argparse.ArgumentParser] = []

    def catch(made: argparse.ArgumentParser, *_: object) -> NoReturn:
        found.append(made)
        raise KeyboardInterrupt

    path = ROOT / script
    with (
        patch.object(argparse.ArgumentParser, "parse_args", catch),
        patch.dict(os.environ),
        patch.object(sys, "path", [str(path.parent), *sys.path]),
        pytest.raises(KeyboardInterrupt),
    ):
        runpy.run_path(str(path), run_name="__main__")
    return found[0]


def options(of: argparse.ArgumentParser) -> set[str]:
    own = {word for action in of._actions for word in action.option_strings}
    return own.union(*(options(each) for each in subparsers(of).values()))


def subparsers(of: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Of its commands."""
    found = (a.choices for a in of._actions if isinstance(a, argparse._SubParsersAction))
    return dict(next(found, {}))


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_flags_in_the_text_exist(page: str) -> None:
    """Of `vggnet train --flag` those of train, of `benchmarks/x.py --flag` the script's; of a
    lone `--flag` any."""
    commands = subparsers(parser())
    scripts = {word for span in spans(page) for word in span.split() if word.endswith(".py")}
    scripts |= {f"{Path(page).parent}/{name}" for name in links(page) if name.endswith(".py")}
    known = [script for script in sorted(scripts) if is_script(script)]
    anybodys = options(parser()) | options(get_args_parser())
    anybodys = anybodys.union(*(options(script_parser(script)) for script in known))
    for span in spans(page):
        words = span.removeprefix("python ").split()
        flags = {word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
        if words[0] == "vggnet" and len(words) > 1 and words[1] in commands:
            assert flags <= options(commands[words[1]]), span
        elif is_script(words[0]):
            assert flags <= options(script_parser(words[0])), span
        elif words[0].startswith("--"):
            assert flags <= anybodys, span
        elif words[0] in ("make", "pip") and len(words) > 1:
            understand([word.strip("'") for word in words])


def is_script(name: str) -> bool:
    file = ROOT / name
    return file.is_file() and bool(re.search("^if __name__ ==", file.read_text(), re.MULTILINE))


def test_every_command_is_shown() -> None:
    shown = [line.words for page in ("README.md", "docs/guide.md") for line in lines(page)]
    assert {words[1] for words in shown if words[0] == "vggnet"} == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(str(target.resolve().relative_to(ROOT))), link


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_console_blocks(page: str) -> None:
    """An indented one would not be run."""
    assert not re.findall(r"^ {4}(?:vggnet|python|pip|make|torchrun) .*$", prose(page), re.M)
