"""What the documentation's pages hold: commands, code, links and headings."""

import re
import shlex
from collections.abc import Sequence
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


_NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e-\d+)?"


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#+ |\Z)", text(page), re.M | re.S)
    assert found, f"{page} has no heading {heading!r}"
    return found[1]


def tables(shown: str) -> list[list[list[str]]]:
    """The rows of each table, without its head: their cells."""
    found = re.findall(r"^\|[-|: ]+\|\n((?:\|.*\n)*)", shown, re.MULTILINE)
    return [
        [[cell.strip() for cell in row[1:-1].split("|")] for row in rows]
        for rows in map(str.splitlines, found)
    ]


def is_rounded(shown: str, value: float) -> bool:
    """Whether the text is this value to as many places as it has; a five may go either way."""
    mantissa, _, exponent = shown.replace(",", "").partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(f"{mantissa}e{exponent or 0}") - value) <= unit * (0.5 + 1e-6)


def check_numbers(shown: str, values: Sequence[float]) -> None:
    """The numbers in a text are these, rounded as they are there."""
    _check(shown, re.findall(_NUMBER, shown), values)


def check_sentence(page: str, sentence: str, values: Sequence[float]) -> None:
    """A sentence with {} for each of its numbers stands in a page, and they are these."""
    parts = (re.escape(part) for part in sentence.split("{}"))
    pattern = r"(?<![\w.,])" + f"({_NUMBER})".join(parts)
    found = re.findall(pattern, " ".join(text(page).split()))
    assert len(found) == 1, f"{page} does not say once: {sentence}"
    _check(sentence, [found[0]] if isinstance(found[0], str) else found[0], values)


def _check(where: str, found: Sequence[str], values: Sequence[float]) -> None:
    assert len(found) == len(values), f"{where}: {found}, but measured: {values}"
    for shown, value in zip(found, values, strict=True):
        assert is_rounded(shown, value), f"{where}: {shown}, but measured: {value}"
