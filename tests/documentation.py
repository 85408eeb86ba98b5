"""What the documentation's pages hold: commands, code, links and headings."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
HISTORY = ("CHANGELOG.md", "docs/LOG.md")
"""Of things as they were: their flags may be gone."""
PAGES = tuple(
    str(file.relative_to(ROOT))
    for pattern in (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/**/*.md",
        "benchmarks/**/*.md",
    )
    for file in sorted(ROOT.glob(pattern))
    if "_site" not in file.parts  # what `make docs` builds
)
_FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, language: str) -> list[str]:
    return [body for found, body in _FENCED.findall(text(page)) if found == language]


def prose(page: str) -> str:
    """The page without its blocks."""
    return _FENCED.sub("", text(page))


@dataclass(frozen=True)
class Line:
    """A command of a page: its words, without comments and variables in front of it."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        without = re.sub(r"^(\w+=(\$\([^)]*\)|\S+) +)+", "", self.text)
        return shlex.split(without, comments=True)


def lines(page: str) -> list[Line]:
    """The commands of a page's console blocks."""
    found = (Line(page, line) for block in blocks(page, "console") for line in block.splitlines())
    return [line for line in found if line.words]


def spans(page: str) -> list[str]:
    """What stands between backticks in a line or over two of them."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: str) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        twins = (f"{name}-{i}" for i in range(1, 100))
        found.add(name if name not in found else next(x for x in twins if x not in found))
    return found
