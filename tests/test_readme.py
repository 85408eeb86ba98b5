"""The README's and the guides' commands and code run, and their links lead somewhere.

A new page is taken as it is: its `vggnet` commands are parsed, its code is run. Its commands are
run where `RUN` has it.
"""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vggnet
from vggnet.cli import COMMANDS, main, parser
from vggnet.formats import torchvision

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in ROOT.glob("docs/**/*.md") if "_site" not in page.parts),
    *sorted(ROOT.glob("benchmarks/**/*.md")),
]
RUN = [README, ROOT / "docs" / "guide.md", ROOT / "docs" / "features.md"]
"""In this order, in one folder."""
NOT_RUN = {
    "reproduce digits --out runs/digits --jobs 2": "is `make demo`, which CI runs",
}
BEFORE = {
    "docs/speed.md": "import torch, vggnet\n"
    "model = vggnet.build('D', num_classes=10, crop=32, width=1 / 16)\n"
    "images = torch.randint(0, 256, (2, 3, 40, 48), dtype=torch.uint8)\n",
    "docs/localisation.md": "import numpy as np\nimages = [np.zeros((400, 500, 3), np.uint8)]\n",
}
"""What a page's code takes for granted."""


def blocks(language: str, page: Path) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def lines(page: Path) -> Iterator[list[str]]:
    """The words of each line of the page's console blocks, without comments."""
    for block in blocks("console", page):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def commands(page: Path) -> Iterator[list[str]]:
    """What follows `vggnet` in those of its lines that call it, through torchrun too."""
    for words in lines(page):
        if words[0] == "vggnet":
            yield words[1:]
        elif words[0] == "torchrun":
            yield words[words.index("vggnet") + 1 :]


def test_the_first_screen_shows_the_two_commands() -> None:
    first = "\n".join(README.read_text().splitlines()[:20])
    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in first
        assert f"\n{command}: " in makefile
    ci = (ROOT / ".ci" / "run").read_text()
    assert ci.index("make test") < ci.index("make demo")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_are_ones_that_there_are(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for command in commands(page):
        parser().parse_args(command)  # SystemExit on a flag that is not known
    for words in lines(page):
        match words:
            case ["make", target, *_]:
                assert f"\n{target}:" in makefile, words
            case [("python" | "python3"), script, *rest]:
                text = (ROOT / script).read_text()
                assert all(f'"{word}"' in text for word in rest if word.startswith("--")), words
            case ["pip", "install", *what]:
                for extra in re.findall(r"\[(.*?)\]", " ".join(what)):
                    assert {*extra.split(",")} <= {*extras}, words
            case _:
                assert words[0] in ("vggnet", "torchrun", "curl", "pip"), words


def test_every_command_is_in_the_readme_or_the_guide() -> None:
    assert {command[0] for page in RUN[:2] for command in commands(page)} == set(COMMANDS)


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace(tmp_path)
    small = ["--crop", "32", "--width", "0.0625", "--epochs", "1", "--batch-size", "8"]
    done: list[list[str]] = []
    for command in (command for page in RUN for command in commands(page)):
        if command in done or " ".join(command) in NOT_RUN:
            continue
        done.append(command)
        more: list[str] = []
        # On a user's images the defaults are the paper's sizes: not for a test.
        if "path/to/images" in command and command[0] in ("reproduce", "train"):
            more = small
        if command[:2] == ["train", "digits"]:
            more = ["--epochs", "2"]
        if command[0] == "train-boxes":
            more = ["--epochs", "1", "--batch-size", "8"]
        if command[0] == "localize":  # at a crop of 32, the paper's 256 is 37
            command = [word.replace("A-256", "A-37") for word in command]
        if command[0] == "serve":
            served([*command, "--port", "0"])
            continue
        if command[0] == "bench":
            more = ["--quick", "--only", "forward"]  # of net D at full width it takes minutes
        assert main([*command, *more]) == 0, command
    assert np.load("features.npy").shape == (20, 256)  # features.md's


def workspace(folder: Path) -> None:
    """What the pages' commands and code read: images, boxes, weights."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        images = folder / "path" / "to" / "images" / name
        images.mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (40, 40 + i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{i}.jpg")
    rows = [f"{name}/{i},5,5,30,35" for name in ("cat", "dog") for i in range(10)]
    (folder / "boxes.csv").write_text("\n".join(["image,xmin,ymin,xmax,ymax", *rows]))
    model = vggnet.build("D", crop=32, width=1 / 16)
    torch.save(torchvision.state_dict(model), folder / "vgg16.pth")
    vggnet.save(model, folder / "d.safetensors")
    boxes = vggnet.Config("D", crop=32, width=1 / 16, boxes="pcr")
    vggnet.save(vggnet.VGG(boxes), folder / "boxes.safetensors")
    # LPIPS' linear weights
    linear = folder / "lpips" / "weights" / "v0.1"
    linear.mkdir(parents=True)
    channels = (4, 8, 16, 32, 32)
    weights = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(channels)}
    torch.save(weights, linear / "vgg.pth")


def served(command: list[str]) -> None:
    """The server starts, and ends in order."""
    with subprocess.Popen(
        [sys.executable, "-m", "vggnet", *command], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        output = iter(process.stdout.readline, "")
        assert any("answers" in line for line in output)
        process.terminate()
    assert process.returncode == 0


CHECKS = {
    "README.md": "assert scores.shape == (2, 10) and score_map.shape == (2, 10, 2, 3)\n"
    "assert posteriors.shape == (2, 10)",
    "docs/features.md": "assert list(found) == ['relu3_3']\n"
    "assert distance(picture, target).shape == (2,)",
}


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks("python", page)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_code_runs(page: Path, tmp_path: Path) -> None:
    """A page's blocks, one after the other, in one program."""
    workspace(tmp_path)
    name = str(page.relative_to(ROOT))
    code = [BEFORE.get(name, ""), *blocks("python", page), CHECKS.get(name, "")]
    subprocess.run([sys.executable, "-W", "error", "-c", "\n".join(code)], cwd=tmp_path, check=True)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        other = page if not target else page.parent / target
        assert other.exists(), target
        if anchor:
            assert anchor in anchors(other), anchor
