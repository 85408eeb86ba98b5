"""The reference: it builds without a warning, has every public name, and says what each takes."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from sphinx.util.inventory import InventoryFile

import vggnet
from vggnet.cli import COMMANDS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` builds it."""
    out = tmp_path_factory.mktemp("site")
    flags = ["-b", "html", "-W", "--keep-going", "-q"]
    command = [sys.executable, "-m", "sphinx", *flags, str(ROOT / "docs"), str(out)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return out


@pytest.fixture(scope="module")
def named(site: Path) -> dict[str, str]:
    """Everything of Python's that the reference has, and its kind."""
    content = (site / "objects.inv").read_bytes()
    inventory = InventoryFile.loads(content, uri="").data
    return {
        name: kind for kind, names in inventory.items() if kind.startswith("py:") for name in names
    }


def test_every_public_name_is_there(named: dict[str, str]) -> None:
    assert {f"vggnet.{name}" for name in vggnet.__all__} - named.keys() == {"vggnet.__version__"}


def test_every_page_is_reached(site: Path) -> None:
    pages = (page for page in (ROOT / "docs").rglob("*.md") if "_site" not in page.parts)
    for page in pages:
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").exists(), page


def test_every_command_is_there_with_its_flags(site: Path) -> None:
    text = (site / "commands.html").read_text()
    for name in COMMANDS:
        assert f'<section id="{name}">' in text
    assert "--fc-parallel" in text


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(r'(?:src|rel="stylesheet" href)="(https?:[^"]*)"', page.read_text())
        assert not fetched, page


def found(name: str) -> Any:
    """The object of this dotted name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            place: Any = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            get = inspect.getattr_static if isinstance(place, type) else getattr
            place = get(place, part)
        return place
    raise AssertionError(name)


def test_every_function_says_what_it_takes(named: dict[str, str]) -> None:
    """Each of several parameters, by its name."""
    short = []
    for name, kind in named.items():
        if kind not in ("py:function", "py:method"):
            continue
        function = inspect.unwrap(found(name))
        function = getattr(function, "__func__", function)
        text = inspect.getdoc(function) or ""
        taken = [
            word for word in inspect.signature(function).parameters if word not in ("self", "cls")
        ]
        if len(taken) == 1:  # its type and the sentence say it
            taken = []
        lost = [word for word in taken if not re.search(rf"\b{re.escape(word)}\b", text)]
        if lost or not text:
            short.append(f"{name}: {', '.join(lost)}")
    assert not short, "\n".join(short)
