"""What is the README's own; tests/test_docs.py has what holds for every page."""

from documentation import ROOT, text


def test_the_first_screen_shows_the_two_commands() -> None:
    first = "\n".join(text("README.md").splitlines()[:20])
    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in first
        assert f"\n{command}: " in makefile
    ci = (ROOT / ".ci" / "run").read_text()
    assert ci.index("make test") < ci.index("make demo")
