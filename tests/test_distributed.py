"""Several processes, started by torchrun, do what one does."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vggnet
from photos import write_annotated
from ranks import STEPS
from vggnet import InputError, sharded
from vggnet.cli import main
from vggnet.distributed import World
from vggnet.loading import Batch
from vggnet.recipes import a_256
from vggnet.step import Parallel, Step

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")
HERE = Path(__file__).parent


def torchrun(ranks: int, *arguments: str, restarts: int = 0) -> "subprocess.Popen[str]":
    command = ["--standalone", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)},
    )


def vgg(ranks: int, *arguments: str, restarts: int = 0) -> "subprocess.Popen[str]":
    return torchrun(ranks, "-m", "vggnet", *arguments, restarts=restarts)


def done(process: "subprocess.Popen[str]", code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out, err


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Any]:
    """What 1, 2, 3 and 4 ranks find, by the check's name and their number: see ranks.py."""
    folder = tmp_path_factory.mktemp("ranks")
    script = str(HERE / "ranks.py")
    wanted = {
        2: ["steps", "steps_in_float32", "compressed", "states"],
        4: ["steps", "steps_in_float32", "compressed", "states", "dropout"],
        3: ["steps", "states", "evaluation"],
        1: ["steps", "steps_in_float32", "compressed", "states", "evaluation"],
    }
    for ranks, checks in wanted.items():
        done(torchrun(ranks, script, str(folder), *checks))
    done(torchrun(2, script, str(folder), "states"))  # those of four ranks too
    return {
        (check, ranks): torch.load(folder / f"{check}-{ranks}.pt", weights_only=False)
        for ranks, checks in wanted.items()
        for check in checks
    }


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_learn_what_one_does(found: dict[tuple[str, int], Any], ranks: int) -> None:
    """In float64, since in float32 rounding moves the recipe's losses by 1e-2 within 50 steps, with
    another number of threads in one process too."""
    alone = found["steps", 1]
    for mode, of_ranks in found["steps", ranks].items():
        same = {"fc 2": "plain", "fc 4": "plain", "fc 2 accumulated": "accumulated"}.get(mode, mode)
        losses, expected = (np.array(x["losses"]) for x in (of_ranks, alone[same]))
        assert losses.shape == (STEPS, 2)
        assert np.abs(losses - expected).max() < 1e-10, mode
        for name, weight in alone[same]["weights"].items():
            torch.testing.assert_close(of_ranks["weights"][name], weight, msg=mode + name)


@pytest.mark.parametrize("ranks", [2, 4])
def test_losses_in_float32(found: dict[tuple[str, int], Any], ranks: int) -> None:
    (expected,) = (
        np.array(losses) for mode, losses in found["steps_in_float32", 1].items() if mode == "plain"
    )
    assert expected[0, 0] - expected[-1, 0] > 1e-3  # something is learnt
    for losses in found["steps_in_float32", ranks].values():
        assert np.abs(np.array(losses) - expected)[:, 0].max() < 1e-5


@pytest.mark.parametrize("ranks", [2, 4])
def test_compression_rounds(found: dict[tuple[str, int], Any], ranks: int) -> None:
    losses, expected = (np.array(found["compressed", n]["losses"]) for n in (ranks, 1))
    assert 1e-6 < np.abs(losses - expected)[:, 0].max() < 5e-3


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_state_is_read_by_any_number_of_ranks(
    found: dict[tuple[str, int], Any], ranks: int
) -> None:
    written = {**found["states", 2], **found["states", 4]}
    for name, state in found["states", ranks].items():
        expected = found["states", int(name.split("-")[1])][name]
        assert state.keys() == expected.keys()
        assert any(key.startswith("momentum.fc6") for key in state)
        assert all(torch.equal(value, expected[key]) for key, value in state.items())
    assert found["states", ranks].keys() == written.keys()


def test_evaluation_covers_each_image_once(found: dict[tuple[str, int], Any]) -> None:
    """101 images on three ranks: the very posteriors of one, and the same costs."""
    together, alone = found["evaluation", 3], found["evaluation", 1]
    for method in ("dense", "multi-crop", "ten-crop"):
        assert torch.equal(together[method][0], alone[method][0])
        assert together[method][1:] == alone[method][1:]
    assert np.array_equal(together["few"], alone["few"])


def test_ranks_drop_each_for_itself(found: dict[tuple[str, int], Any]) -> None:
    masks = found["dropout", 4]["masks"]
    for of_rank in masks:
        assert torch.equal(of_rank[0], of_rank[1])  # a step that is repeated
        assert not torch.equal(of_rank[0], of_rank[2])
    for other in masks[1:]:
        agree = (other[0] == masks[0][0]).float().mean().item()
        assert 0.45 < agree < 0.55


def test_parts_of_a_batch_without_torchrun() -> None:
    """Gradient accumulation is the batch's own gradient, also of parts of different sizes."""
    config = a_256(vggnet.Config("A", num_classes=10, crop=32, width=0.0625, dropout=0.0))
    pixels = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    batch = Batch(pixels, torch.zeros(7, 3, 1, 1), torch.arange(7), torch.empty(7, 0))
    moved = []
    for parts in (1, 3, 9):  # more than there are images
        model = vggnet.build("A", num_classes=10, crop=32, width=0.0625, dropout=0.0).train()
        step = Step(model.double(), config, parallel=Parallel(accumulate=parts))
        loss, wrong = step(batch, [7])
        moved.append((loss, wrong, model.get_parameter("conv1_1.weight").detach()))
    for other in moved[1:]:
        for value, expected in zip(other, moved[0], strict=True):
            torch.testing.assert_close(value, expected)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_damaged_states_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state, folder = {"a": torch.arange(1000.0), "b": torch.ones(3)}, tmp_path / "run" / "state-a"
    sharded.save(folder, state)
    (file,) = folder.glob("*.safetensors")
    whole = file.read_bytes()

    def read(**other: torch.Tensor) -> dict[str, torch.Tensor]:
        room = {name: torch.zeros_like(value) for name, value in state.items()} | other
        sharded.load(folder, room)
        return room

    assert all(torch.equal(value, state[name]) for name, value in read().items())
    for damaged in (b"", whole[:100], whole[:-4], bytes(500)):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=f"state-a: is damaged .* delete {folder.parent}"):
            read()
    file.write_bytes(whole)
    for other in ({"c": torch.zeros(2)}, {"a": torch.zeros(7)}):
        with pytest.raises(InputError, match="is damaged or not whole"):
            read(**other)
    file.unlink()
    with pytest.raises(InputError, match="is damaged or not whole"):
        read()
    assert "Traceback" not in capfd.readouterr().err


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="fc-parallel 3 does not divide the run's 4 processes"):
        Parallel(fc=3).check(World(0, 4))
    with pytest.raises(InputError, match=r"fc-parallel 2 .* torchrun"):
        Parallel(fc=2).check(World())
    with pytest.raises(InputError, match="accumulate 0"):
        Parallel(accumulate=0).check(World())


KILLS = max(1, int(os.environ.get("VGGNET_KILLS", "2")) // 2)
TRAIN = ["train", "digits", "--net", "A", "--epochs", "12", "--learning-rate", "1e-3"]


def kills(folder: Path, count: int) -> None:
    """A random rank is killed at a random time, `count` runs in turn; each ends by itself, with
    the very losses and weights of a run that nobody disturbed."""
    whole = folder / "whole"
    out, _ = done(vgg(2, *TRAIN, "--out", str(whole)))
    assert "n=500" in out
    rng = random.Random(0)
    killed = 0
    for i in range(count):
        disturbed = folder / str(i)
        began = time.monotonic()
        process = vgg(2, *TRAIN, "--out", str(disturbed), restarts=3)
        metrics = disturbed / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.02)
        assert time.monotonic() - began < 120
        time.sleep(rng.uniform(0, 3))
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
        )
        if ranks := [int(pid) for pid in children.stdout.split()]:
            os.kill(rng.choice(ranks), signal.SIGKILL)
            killed += 1
        out, _ = done(process)
        assert "n=500" in out
        assert metrics.read_bytes() == (whole / "metrics.jsonl").read_bytes()
        weights = [vggnet.load(run / "weights.safetensors") for run in (disturbed, whole)]
        theirs = weights[1].state_dict()
        assert all(torch.equal(value, theirs[k]) for k, value in weights[0].state_dict().items())
        assert sorted(path.name for path in disturbed.iterdir()) == [
            "metrics.jsonl",
            "weights.safetensors",
        ]
    assert killed >= (count + 1) // 2


@pytest.mark.soak
def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    kills(tmp_path, KILLS)
    record_property("runs", KILLS)


def test_one_rank_alone_fails_in_validation(tmp_path: Path) -> None:
    """Its error is told, and the state from before the validation is there for all."""
    _, err = done(torchrun(2, str(HERE / "ranks.py"), str(tmp_path), "died"), 1)
    assert "a reader is gone: lower --workers" in err
    assert "not enough values to unpack" not in err
    assert (tmp_path / "died" / "state.json").exists()


def test_ten_thousand_images(tmp_path: Path) -> None:
    for ranks in (1, 3):
        done(torchrun(ranks, str(HERE / "ranks.py"), str(tmp_path), "many"))
    one, three = (
        torch.load(tmp_path / f"many-{ranks}.pt", weights_only=False)["posteriors"]
        for ranks in (1, 3)
    )
    assert one.shape == (10_007, 10)
    assert np.array_equal(one, three)


def test_reproduce(tmp_path: Path) -> None:
    out = tmp_path / "grid"
    command = ["reproduce", "digits", "--only", "table 3, A, B", "--epochs", "1"]
    text, _ = done(vgg(2, *command, "--out", str(out)))
    assert text.count("Table 3") == 1  # the first rank prints
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert {row["net"] for row in rows} >= {"A", "B"}
    done(vgg(2, *command, "--out", str(out)))  # all of it is there
    _, err = done(vgg(2, *command, "--out", str(out), "--jobs", "2"), 1)
    assert "jobs 2: the processes that torchrun started" in err


def test_stopped_and_resumed_by_others(tmp_path: Path) -> None:
    """SIGTERM on two ranks, on by one process, and again by four with a divided head."""
    out = tmp_path / "run"
    train = [*TRAIN, "--dropout", "0", "--out", str(out)]
    process = vgg(2, *train)
    metrics = out / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "terminated: the same command goes on" in err
    assert (out / "state.json").exists()
    before = metrics.read_text().splitlines()
    alone = subprocess.Popen(
        [sys.executable, "-m", "vggnet", *train],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    while alone.poll() is None and len(metrics.read_text().splitlines()) < len(before) + 3:
        time.sleep(0.02)
    alone.send_signal(signal.SIGINT)
    alone.communicate(timeout=120)
    assert alone.returncode == 130
    assert (out / "state.safetensors").exists()
    assert not (out / "state.json").exists()
    done(vgg(4, *train, "--fc-parallel", "2"))
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [record["step"] for record in records if record["kind"] == "train"]
    assert steps == list(range(len(steps)))
    assert [r["epoch"] for r in records if r["kind"] == "validation"] == list(range(12))
    weights = str(out / "weights.safetensors")
    done(vgg(2, "evaluate", weights, "digits", "--json"))
    features = ["features", weights, "digits", "--part", "test", "--out"]
    done(vgg(2, *features, str(tmp_path / "two.npy")))
    assert main([*features, str(tmp_path / "one.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "two.npy"), np.load(tmp_path / "one.npy"))


def test_boxes_are_learnt_together(tmp_path: Path) -> None:
    """Two processes learn the boxes that one learns, and measure every image once."""
    folder, table = write_annotated(tmp_path)
    classifier = tmp_path / "classifier.safetensors"
    net = vggnet.build("A", num_classes=2, crop=32, width=0.0625, dropout=0.0)
    vggnet.save(net, classifier, S=40, class_names=("class0", "class1"))
    command = ["train-boxes", str(classifier), str(folder), "--boxes", str(table)]
    command += ["--epochs", "2", "--batch-size", "5", "--workers", "0", "--out"]
    done(vgg(2, *command, str(tmp_path / "two")))
    assert main([*command, str(tmp_path / "one")]) == 0
    results = [
        json.loads((tmp_path / name / "localisation.json").read_text()) for name in ("one", "two")
    ]
    assert [row["n"] for row in results[1]["rows"]] == [row["n"] for row in results[0]["rows"]]
    for run in ("A-40-scr-fc", "A-40-pcr-all"):
        one, two = (
            vggnet.checkpoint.load(tmp_path / name / "runs" / run / "weights.safetensors")
            for name in ("one", "two")
        )
        for name, weight in one.state_dict().items():
            torch.testing.assert_close(two.state_dict()[name], weight, atol=1e-4, rtol=1e-3)


def test_mistakes_under_torchrun(tmp_path: Path) -> None:
    _, err = done(vgg(2, "info"), 1)  # by the process that came first: torchrun then ends the other
    assert re.search(r"vggnet: error \(process [01] of 2\): info is the work of one process", err)
    _, err = done(vgg(2, *TRAIN, "--out", str(tmp_path / "x"), "--fc-parallel", "3"), 1)
    assert "fc-parallel 3 does not divide the run's 2 processes" in err
    assert "[rank" not in err  # as PyTorch begins the lines of a traceback
