"""Imports point up the list in CONTRIBUTING.md."""

import ast
import re
from pathlib import Path

import vggnet

SOURCE = Path(vggnet.__file__).parent

EXCEPTIONS = {
    # VGG.from_pretrained, save_pretrained and push_to_hub are methods because everybody looks for
    # them on the class; what they do needs nearly everything below it.
    "model": {"hub"},
}


def order() -> list[str]:
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
    listed = text[text.index("imports point up it:") : text.index("`tests/test_layout.py`")]
    return re.findall(r"`(\w+)`", listed)


def imported(path: Path) -> set[str]:
    """Modules of vggnet that a file imports, also inside functions; not those for types alone."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in typing_only:
            package, _, module = node.module.partition(".")
            if package == "vggnet":
                found |= {module} if module else {alias.name for alias in node.names}
    return {name.partition(".")[0] for name in found} & files().keys()


def files() -> dict[str, list[Path]]:
    """Every module of the list with its file, or a package's files."""
    found = {path.stem: [path] for path in SOURCE.glob("*.py") if not path.stem.startswith("__")}
    packages = {
        path.parent.name: sorted(path.parent.glob("*.py")) for path in SOURCE.glob("*/__init__.py")
    }
    return found | packages


def test_imports_point_up() -> None:
    modules = order()
    found = files()
    assert set(modules) == set(found)
    for module in modules:
        above = set(modules[: modules.index(module)])
        for path in found[module]:
            # A package's files may import each other.
            own = {module} if len(found[module]) > 1 else set()
            assert imported(path) <= above | own | EXCEPTIONS.get(module, set()), path


def test_exceptions_are_needed() -> None:
    for module, below in EXCEPTIONS.items():
        assert below <= set().union(*(imported(path) for path in files()[module]))
