"""Tasks in other processes: their order, their errors, and that none outlives its caller."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from vggnet import InputError, RunError
from vggnet.workers import Task, run_all


@dataclass(frozen=True)
class Write:
    """Writes when it began and ended, and whose process it was."""

    name: str
    seconds: float = 0.0

    def __call__(self, folder: Path, device: str, say: Callable[[str], None]) -> None:
        began = time.time()
        say(f"{self.name} on {device}")
        time.sleep(self.seconds)
        (folder / self.name).write_text(f"{began} {time.time()} {os.getpid()}")


@dataclass(frozen=True)
class Fail:
    error: Exception | None

    def __call__(self, folder: Path, device: str, say: Callable[[str], None]) -> None:
        if self.error is None:
            os._exit(9)
        raise self.error


def go(tasks: list[Task], folder: Path, workers: int = 2) -> tuple[list[str], list[str]]:
    lines: list[str] = []
    names: list[str] = []
    run_all(
        tasks,
        folder,
        workers=workers,
        device="cpu",
        log=lambda name, line: lines.append(f"{name}: {line}"),
        done=names.append,
    )
    return lines, names


def test_tasks_wait_for_those_before_them(tmp_path: Path) -> None:
    tasks = [
        Task("last", Write("last"), ("slow", "quick")),
        Task("slow", Write("slow", 2.0), ("first",)),
        Task("quick", Write("quick", 2.0), ("first",)),
        Task("first", Write("first")),
    ]
    lines, names = go(tasks, tmp_path)
    assert names[0] == "first"
    assert names[-1] == "last"
    assert sorted(lines) == [f"{n}: {n} on cpu" for n in ("first", "last", "quick", "slow")]
    found = {name: (tmp_path / name).read_text().split() for name in names}
    began = {name: float(values[0]) for name, values in found.items()}
    ended = {name: float(values[1]) for name, values in found.items()}
    assert max(ended["slow"], ended["quick"]) <= began["last"]
    assert ended["first"] <= min(began["slow"], began["quick"])
    # The two in the middle ran beside each other, in two processes that are not this one.
    assert max(began["slow"], began["quick"]) < min(ended["slow"], ended["quick"])
    assert len({values[2] for values in found.values()} - {str(os.getpid())}) == 2


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (InputError("x: no such file"), InputError, "x: no such file"),
        (RunError("the loss is nan"), RunError, "the loss is nan"),
        (None, RunError, "the process of bad died"),
        (OSError(28, "No space left on device", "x"), RunError, "x: No space left"),
        (MemoryError(), RunError, "out of memory: lower"),
    ],
)
def test_errors_come_back(
    error: Exception | None, kind: type[Exception], words: str, tmp_path: Path
) -> None:
    tasks = [Task("bad", Fail(error)), Task("after", Write("after"), ("bad",))]
    with pytest.raises(kind, match=words):
        go(tasks, tmp_path)
    assert not (tmp_path / "after").exists()


CALLER = """
import sys
from pathlib import Path
from test_workers import Write, go
from vggnet.workers import Task

if __name__ == "__main__":
    go([Task("one", Write("one", 60)), Task("two", Write("two", 60))], Path(sys.argv[1]))
"""


def test_a_worker_that_dies_early_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it has taken what is sent to it, which is more than a pipe holds."""
    monkeypatch.setattr("vggnet.workers._work", os.abort)  # takes other arguments: it fails at once
    with pytest.raises(RunError, match="died"):
        run_all(
            [Task("one", Write("one"))],
            bytes(10_000_000),
            workers=1,
            device="cpu",
            log=lambda *_: None,
            done=lambda _: None,
        )


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_caller_leaves_no_process_behind(tmp_path: Path) -> None:
    script = tmp_path / "caller.py"
    script.write_text(CALLER)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env={**os.environ, "PYTHONPATH": path}
    )
    children: list[int] = []
    until = time.monotonic() + 60
    while len(children) < 2 and time.monotonic() < until:
        time.sleep(0.2)
        children = workers_of(process.pid)
    assert len(children) == 2
    process.kill()
    process.wait()
    while any(map(alive, children)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, children))


def workers_of(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = status.with_name("cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == pid and "spawn_main" in command:
            found.append(int(status.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        state = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
