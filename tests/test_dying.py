"""Runs that are killed, stopped, or find no room: what they leave, and how they go on."""

import importlib
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from photos import write_photos
from vggnet import InputError, RunError, checkpoint, roll
from vggnet.configs import Config
from vggnet.datasets import open_dataset
from vggnet.parts import Dataset
from vggnet.recipes import TrainConfig
from vggnet.runs import _lock
from vggnet.train import train

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
KILLS = int(os.environ.get("VGGNET_KILLS", "3"))
EPOCHS = 3
CONFIG = TrainConfig(
    Config("A", crop=32, width=1 / 32, num_classes=2), S=(36, 60), batch_size=2, epochs=EPOCHS
)
FLAGS = [
    "--net",
    "A",
    "--crop",
    "32",
    "--width",
    "0.03125",
    "--scale",
    "36,60",
    "--batch-size",
    "2",
    "--epochs",
    "3",
    "--workers",
    "1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), {"train": 20, "val": 3, "test": 3})


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    data = open_dataset(str(folder))
    assert data.mean_rgb  # once for all runs
    return data


@pytest.fixture(scope="module")
def whole(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run leaves that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(CONFIG, data, out, workers=2)
    return left_in(out)


def left_in(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def forked(*arguments: Any, workers: int) -> multiprocessing.process.BaseProcess:
    """A training in a process that may be killed."""

    def run() -> None:
        # tqdm's own lock is shared by all that are forked: killed with it, one would stop the next.
        tqdm.set_lock(threading.RLock())
        train(*arguments, workers=workers)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vggnet.loop._CHECKPOINT_SECONDS", 0.0)  # a checkpoint each step


@pytest.mark.soak
def test_killed_at_random_moments_it_ends_as_one_never_killed(
    data: Dataset,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    often(monkeypatch)
    rng = random.Random(0)
    kills = 0
    for run in range(100 * KILLS):
        out = tmp_path / str(run)
        while True:
            process = forked(CONFIG, data, out, workers=1)
            process.join(rng.uniform(0.02, 1.5))
            if process.exitcode is not None:
                assert process.exitcode == 0
                break
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
            assert kills < 50 * KILLS, "it does not come on"
            if (out / "weights.safetensors").exists():
                checkpoint.load(out / "weights.safetensors")
            elif (out / "state.safetensors").exists():
                checkpoint.read_tensors(out / "state.safetensors")
        assert left_in(out) == whole
        if kills >= KILLS:
            record_property("kills", kills)
            return
    raise AssertionError(f"only {kills} kills came before the end")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_nothing_outlives_a_run_that_is_killed(data: Dataset, tmp_path: Path) -> None:
    """Neither its workers, in whatever moment it dies, nor its lock on the folder."""
    forever = replace(CONFIG, epochs=10_000)
    for delay in (0.0, 0.001, 0.003, 0.01, 0.03, 0.3):
        process = forked(forever, data, tmp_path / "run", workers=2)
        assert process.pid is not None
        children: list[int] = []
        until = time.monotonic() + 60
        while not children:
            children = children_of(process.pid)
            assert process.exitcode is None
            assert time.monotonic() < until
        time.sleep(delay)
        children = children_of(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        until = time.monotonic() + 20
        while any(is_alive(child) for child in children):
            assert time.monotonic() < until
            time.sleep(0.01)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_process_that_is_forked_does_not_keep_the_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with _lock(tmp_path) as ours:
        assert ours
        child = context.Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with _lock(tmp_path) as ours:
            assert ours
    finally:
        child.kill()
        child.join()


def command(folder: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "vggnet", "train", str(folder), "--out", str(out), *FLAGS]


@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_a_signal_ends_the_step_and_saves(
    folder: Path, whole: dict[str, bytes], tmp_path: Path, number: int, word: str, group: bool
) -> None:
    """Ctrl-C, and the end of a service, reach the processes that read images too."""
    out = tmp_path / "run"
    many = ["--epochs", "1000"]  # the last one counts
    process = subprocess.Popen(
        [*command(folder, out), *many], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for_steps(process, out)
    (os.killpg if group else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"{word}: the same command goes on where it stopped" in err
    assert "Traceback" not in err
    state = checkpoint.read_tensors(out / "state.safetensors")
    header = checkpoint.parse_header(out / "state.safetensors", state[1])
    steps = (out / "metrics.jsonl").read_text().count('"kind": "train"')
    assert header["epoch"] * 20 + header["step"] == steps  # not one is lost


def wait_for_steps(process: "subprocess.Popen[str]", out: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        if (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size:
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError(process.communicate())


def test_stopped_and_called_again_it_ends_as_one_never_stopped(
    data: Dataset, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in every seventh step, in the middle of it; and one in validation."""
    module: Any = importlib.import_module("vggnet.loop")
    out, steps = tmp_path / "run", 0
    step = module.Step.__call__
    evaluate = module.evaluate

    def signalled(self: Any, batch: Any, counts: list[int]) -> Any:
        nonlocal steps
        steps += 1
        if steps % 7 == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, counts)

    def interrupted(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(module, "evaluate", evaluate)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(module.Step, "__call__", signalled)
    monkeypatch.setattr(module, "evaluate", interrupted)
    stops = 0
    while not (out / "weights.safetensors").exists():
        try:
            train(CONFIG, data, out, workers=1)
        except KeyboardInterrupt:
            stops += 1
    assert stops == EPOCHS * 20 // 7 + 1
    assert left_in(out) == whole


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Files of this process can have so many bytes; beyond, writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_writes_that_fail_lose_nothing(
    data: Dataset, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every file and at every length, the run says so and goes on when there is room."""
    often(monkeypatch)
    out = tmp_path / "run"
    failures = 0
    for count in (0, 100, 1000, 3000, 10_000):
        with room_for(count), pytest.raises(RunError, match="the same command goes on"):
            train(CONFIG, data, out, workers=0)
        failures += 1
        leftovers = {path.name for path in out.iterdir()}
        assert leftovers <= {"metrics.jsonl", "state.safetensors"}
    assert failures == 5
    train(CONFIG, data, out, workers=0)
    assert left_in(out) == whole


def test_syncs_that_fail_lose_nothing(
    data: Dataset, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that breaks is noticed by fsync alone."""
    often(monkeypatch)
    out = tmp_path / "run"
    fsync = os.fsync
    for allowed in (0, 1, 2, 3, 10, 11, 12, 13, 50):
        calls = 0

        def failing(handle: int, allowed: int = allowed) -> None:
            nonlocal calls
            calls += 1
            if calls > allowed:
                raise OSError(5, "Input/output error")
            fsync(handle)

        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(RunError, match=r"Input/output error.*the same command goes on"):
            train(CONFIG, data, out, workers=0)
    monkeypatch.setattr(os, "fsync", fsync)
    train(CONFIG, data, out, workers=0)
    assert left_in(out) == whole


def test_a_full_disk(data: Dataset, whole: dict[str, bytes], tmp_path: Path) -> None:
    """A real one: a file system of 300 KB, another file taking the rest of it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting needs root; test_writes_that_fail_lose_nothing does the same")
    try:
        out = disk / "run"
        for room in (1, 5, 30):
            filler = disk / "filler"
            with filler.open("wb") as file:
                file.write(bytes(free(disk) - room * 4096))
            with pytest.raises(RunError, match=r"No space left on device.*same command goes on"):
                train(CONFIG, data, out, workers=1)
            filler.unlink()
        train(CONFIG, data, out, workers=1)
        assert left_in(out) == whole
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def test_a_folder_that_may_not_be_written(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        train(CONFIG, data, tmp_path / "file" / "run")


def test_bad_images_in_the_course_of_a_run(folder: Path, tmp_path: Path) -> None:
    """Files that go or break after the start are left out, listed and counted; or end the run."""
    copy = tmp_path / "photos"
    write_photos(copy, {"train": 5, "val": 2, "test": 1})
    data = open_dataset(str(copy))
    assert data.mean_rgb
    assert data.trained_on
    (copy / "train/class0/003.jpg").unlink()
    (copy / "train/class1/001.jpg").write_bytes(b"")
    (copy / "val/class1/001.jpg").write_text("<html>")
    said: list[str] = []
    out = tmp_path / "run"
    with pytest.raises(RunError, match=r"(003|001)\.jpg: .*; --on-bad-image skip leaves"):
        train(CONFIG, data, out, workers=0, on_bad_image="stop")
    train(CONFIG, data, out, workers=1, log=said.append)
    listed = lines_of(out / "bad-images.jsonl")
    assert {Path(line["path"]).relative_to(copy).as_posix() for line in listed} == {
        "train/class0/003.jpg", "train/class1/001.jpg", "val/class1/001.jpg"
    }  # fmt: skip
    assert all(line["reason"] and line["epoch"] == 0 for line in listed)
    assert said[-1].startswith("3 images could not be read, left out: ")
    assert "of 3 images, 1 not readable" in said[0]
    records = lines_of(out / "metrics.jsonl")
    validated = [record for record in records if record["kind"] == "validation"]
    assert [(record["n"], record["unread"]) for record in validated] == [(3, 1)] * EPOCHS


def test_a_run_that_left_images_out_goes_on(folder: Path, tmp_path: Path) -> None:
    """By the same command, though one of them is not there any more, and another is empty."""
    copy = tmp_path / "photos"
    write_photos(copy, {"train": 20, "val": 3, "test": 3})
    out, whole = tmp_path / "run", tmp_path / "whole"

    def trained(place: Path, epochs: int) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*command(copy, place), "--epochs", str(epochs)],
            cwd=tmp_path,  # where what is bad before a run is listed
            stderr=subprocess.PIPE,
            text=True,
        )

    process = trained(out, 1000)
    wait_for_steps(process, out)
    (copy / "train/class0/003.jpg").unlink()
    (copy / "train/class1/004.jpg").write_bytes(b"")
    until = time.monotonic() + 60
    bad = out / "bad-images.jsonl"
    while not (bad.exists() and len(lines_of(bad)) == 2):
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    steps = len(lines_of(out / "metrics.jsonl"))
    process = trained(out, 1000)
    while len(lines_of(out / "metrics.jsonl")) < steps + 10:
        assert time.monotonic() < until + 60
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert len(lines_of(bad)) == 2
    # A new run does not begin without them.
    process = trained(whole, 1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "class1/004.jpg: is empty" in err


def test_the_roll_is_the_data_set_that_a_run_began_with(tmp_path: Path) -> None:
    copy = tmp_path / "photos"
    write_photos(copy, {"train": 5, "val": 2, "test": 1})
    whole = open_dataset(str(copy))
    before = replace(whole, train=replace(whole.train, left_out=2))
    roll.write(tmp_path / roll.NAME, before)
    (copy / "train/class0/003.jpg").unlink()
    lacking = open_dataset(str(copy))
    assert len(lacking.train) == 9
    after = roll.restored(roll.find(tmp_path), lacking)
    assert after.trained_on == before.trained_on != lacking.trained_on
    assert after.train.names == before.train.names
    assert after.train.left_out == 2
    assert (after.train.labels == before.train.labels).all()
    assert after.mean_rgb == before.mean_rgb
    assert (after.colour_pca.components == before.colour_pca.components).all()
    assert roll.restored(None, lacking) is lacking
    (tmp_path / roll.NAME).write_bytes(b"text")
    with pytest.raises(InputError, match=r"images\.npz: cannot be read"):
        roll.restored(roll.find(tmp_path), lacking)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_data_set_that_goes_away_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is unmounted is no reason to skip every image of an epoch."""
    monkeypatch.setattr("vggnet.loop._BAD_IN_A_ROW", 6)
    copy = tmp_path / "photos"
    write_photos(copy, {"train": 5, "val": 2, "test": 1})
    data = open_dataset(str(copy))
    assert data.mean_rgb
    assert data.trained_on
    (copy / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"last 6 images could not be read.*is the data set still"):
        train(CONFIG, data, tmp_path / "run", workers=0)
    (tmp_path / "elsewhere").rename(copy / "train")
    train(CONFIG, data, tmp_path / "run", workers=0)
