"""Where the kernels come from: compiler, cache, and what is said when there are none."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from vggnet.kernels import library as building
from vggnet.kernels.library import UnavailableError, library


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    building._opened.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def _afterwards() -> object:
    yield
    building._opened.cache_clear()


def fake_compiler(folder: Path, text: str) -> None:
    path = folder / "c++"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit\n{text}\n')
    path.chmod(0o755)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"no C\+\+ compiler.*install g\+\+ or clang"):
        library()
    assert not building.available()


def test_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_compiler(tmp_path, 'echo "x.cpp:1: error: no such thing" >&2; exit 1')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UnavailableError, match=r"cannot compile the kernels: .*no such thing"):
        library()
    assert not list((tmp_path / "cache" / "kernels").glob("*.so"))


def test_what_was_compiled_for_another_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that cannot be opened is no traceback, and no silent wrong answer."""
    fake_compiler(tmp_path, 'for last; do :; done; echo nonsense > "$last"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UnavailableError, match="cannot be opened"):
        library()


def test_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(building.OFF, "0")
    with pytest.raises(UnavailableError, match="VGGNET_FAST=0"):
        library()


def test_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Named by sources, compiler, flags and processor; a second process finds it."""
    calls = []

    def compile_to(path: Path, *_: object) -> None:
        calls.append(path)
        path.write_bytes(b"")

    monkeypatch.setattr(building, "compile_to", compile_to)
    first = building._built()
    assert building._built() == first
    assert len(calls) == 1
    assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700
    monkeypatch.setattr(building, "processor", lambda: "another")
    assert building._built() != first


def test_a_folder_that_others_may_write_is_not_trusted(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    other = building._private(folder)
    try:
        assert other != folder
        assert stat.S_IMODE(other.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(other)
