"""Imports point up the list in CONTRIBUTING.md."""

import ast
import re
from pathlib import Path

import vggnet

SOURCE = Path(vggnet.__file__).parent


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
    return {name for name in found if (SOURCE / f"{name}.py").exists()}


def test_imports_point_up() -> None:
    modules = order()
    files = {path.stem for path in SOURCE.glob("*.py") if not path.stem.startswith("__")}
    assert set(modules) == files
    for module in modules:
        above = set(modules[: modules.index(module)])
        assert imported(SOURCE / f"{module}.py") <= above, module
