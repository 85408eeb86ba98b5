"""What benchmarks/peers.py makes of what it measures, and of a peer that fails."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vggnet

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peers")


def test_ratios_are_of_each_round(peers: Any) -> None:
    # Images a second: the best by its median is ncnn, though MNN has the fastest round.
    ways = {
        "vggnet": [8.0, 4.0, 12.0],
        "torch_eager": [2.0, 2.0, 2.0],
        "ncnn": [4.0, 1.0, 4.0],
        "MNN": [1.0, 9.0, 1.0],
    }
    found = peers.ratios({"forward_b1": ways, "int8_b1": {}})
    assert found.keys() == {"forward_b1"}
    forward = found["forward_b1"]
    assert forward["torch_and_runtimes"] | {"quartiles": None} == {
        "ratio": 4.0,
        "quartiles": None,
        "best": "torch_eager",
    }
    assert forward["ncnn_and_mnn"]["best"] == "ncnn"
    assert forward["ncnn_and_mnn"]["ratio"] == 3.0  # of 2, 4 and 3
    assert forward["each"].keys() == {"torch_eager", "ncnn", "MNN"}


def test_nothing_to_compare(peers: Any) -> None:
    found = peers.ratios({"train_b8": {"vggnet": [1.0, 2.0]}, "dense_384": {"torch_eager": [1.0]}})
    assert found == {
        "dense_384": {"torch": "not measured", "runtimes": "not measured"},
        "train_b8": {
            "torch_eager": "not measured",
            "torch_channels_last": "not measured",
            "torch_compile": "not measured",
            "each": {},
        },
    }


def test_milliseconds_an_image(peers: Any) -> None:
    medians, spread = peers.milliseconds({"a": [10.0, 20.0, 5.0], "b": [4.0]})
    assert medians == {"a": 100.0, "b": 250.0}
    assert spread == {"a": [50.0, 200.0], "b": [250.0, 250.0]}


def test_memory_over_the_weights(peers: Any) -> None:
    peaks = {"forward_b1": {"vggnet": 600, "ncnn": 500}, "forward_b8": {"vggnet": 800}}
    found = peers.memory(peaks, {"interpreter": 100, "torch": 200}, 400)
    assert found["vggnet_forward_over_weights"] == {"all": 2.0, "less_torch": 1.5}


def test_every_peer_can_be_made(peers: Any) -> None:
    assert set(peers.PEERS) == set(peers.MAKERS)
    assert {name for task in peers.TASKS.values() for name in task.peers} == set(peers.PEERS)
    for task, groups in peers.BARS.items():
        compared = {name for group in groups for name in peers.RATIOS[group]}
        assert compared <= set(peers.TASKS[task].peers)


def test_plain_layers_give_the_nets_scores(peers: Any) -> None:
    model = vggnet.build("D", width=1 / 16, crop=32, num_classes=10)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = model(images)
        found = peers.plain(model).eval()(images - model.mean.view(1, 3, 1, 1))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_peer_that_fails_has_a_note(peers: Any, tmp_path: Path) -> None:
    jobs = [peers.Job(name, "forward_b1", tmp_path, 1) for name in ("ncnn", "MNN")]
    found = peers.measured(jobs, {str(jobs[1].file): "not installed"}, 2, together=False)
    assert found["notes"] == {
        "ncnn": "RuntimeError: ncnn cannot read its file",
        "MNN": "not installed",
    }
    assert found["speeds"] == {}


def test_chart(peers: Any, tmp_path: Path) -> None:
    times = {"vggnet": 50.0, "torch_eager": 150.0, "MNN": "not installed"}
    result = {
        "forward_b1": times,
        "spread": {"forward_b1": {"vggnet": [49.0, 51.0], "torch_eager": [140.0, 160.0]}},
        "ratios": {"forward_b1": {"each": {"torch_eager": {"ratio": 3.0}}}},
        "net": "D",
        "width": 1.0,
        "rounds": 3,
        "machine": "a processor",
        "threads": 2,
        "date": "2026-11-25",
    }
    path = tmp_path / "chart.svg"
    importlib.import_module("peers_chart").draw(json.loads(json.dumps(result)), path)
    assert path.stat().st_size > 1000
