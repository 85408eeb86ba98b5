"""The recipe against its formulas; one seed, one curve; a stopped run against one never stopped."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vggnet import Config, InputError, RunError, TrainConfig, build, load, save
from vggnet.datasets import Dataset, Part, digits
from vggnet.initialize import STAGED_LAYERS
from vggnet.loading import TrainingImages
from vggnet.recipes import a_256, deeper_256, in_proportion, on_digits
from vggnet.train import Plateau, build_for, train

NET = Config("A", num_classes=10, crop=32, width=1 / 16)


@pytest.fixture(scope="module")
def data() -> Dataset:
    whole = digits()

    def first(part: Part, n: int) -> Part:
        return Part(part.images[:n], part.labels[:n])

    return replace(
        whole,
        train=first(whole.train, 150),
        validation=first(whole.validation, 40),
        test=first(whole.test, 40),
    )


def config(**values: Any) -> TrainConfig:
    options = {"model": NET, "S": 37, "batch_size": 32, "epochs": 3, **values}
    return TrainConfig(**options)


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_steps_are_the_papers_sgd(data: Dataset, tmp_path: Path) -> None:
    """Two epochs against §3.1 written out: momentum, L2 penalty, mean loss, by autograd alone."""
    values = config(
        model=replace(NET, dropout=0.0), epochs=2, learning_rate=0.003, colour_shift=0.0
    )
    weights = train(values, data, tmp_path)
    model = build_for(values, data, None).train()
    images = TrainingImages(
        data, S=37, crop=32, batch_size=32, flip=False, colour_shift=0.0, seed=0
    )
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    losses = []
    for epoch in range(2):
        for batch in images.epoch(epoch):
            loss = F.cross_entropy(model(batch.images), batch.labels)
            losses.append(loss.item())
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, v, g in zip(model.parameters(), velocity, gradients, strict=True):
                    v.mul_(0.9).add_(g + 5e-4 * p)
                    p.sub_(0.003 * v)
    found = [record["loss"] for record in records(tmp_path, "train")]
    assert len(found) == 10
    assert found == pytest.approx(losses, rel=1e-4)
    for key, value in load(weights).state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-3, atol=1e-5)


def test_one_seed_gives_one_curve(data: Dataset, tmp_path: Path) -> None:
    bytes_of = {}
    for name, seed in (("one", 5), ("same", 5), ("other", 6)):
        weights = train(config(seed=seed), data, tmp_path / name)
        bytes_of[name] = ((tmp_path / name / "metrics.jsonl").read_bytes(), weights.read_bytes())
    assert bytes_of["one"] == bytes_of["same"]
    assert bytes_of["one"][0] != bytes_of["other"][0]


def test_the_callers_random_numbers_are_left_alone(data: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train(config(epochs=1), data, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_training_learns(data: Dataset, tmp_path: Path) -> None:
    wide = replace(NET, width=0.1875, dropout=0.0)
    values = config(model=wide, epochs=20, batch_size=16, learning_rate=5e-3, colour_shift=0.0)
    train(values, data, tmp_path)
    losses = [record["loss"] for record in records(tmp_path, "train")]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.parametrize("stop_at", [3, 5, 7, 12])
def test_a_stopped_run_ends_as_one_never_stopped(
    stop_at: int, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of a step, with a checkpoint at every step or every epoch."""
    expected = train(config(), data, tmp_path / "whole")
    if stop_at % 2:
        monkeypatch.setattr("vggnet.train._CHECKPOINT_SECONDS", 0.0)
    steps = 0
    step = torch.optim.SGD.step

    def interrupted(self: torch.optim.SGD, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config(), data, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "weights.safetensors").exists()
    # Half a line, as a killed process leaves it.
    with (tmp_path / "stopped" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    found = train(config(), data, tmp_path / "stopped")
    assert found.read_bytes() == expected.read_bytes()
    metrics = [(path.parent / "metrics.jsonl").read_bytes() for path in (found, expected)]
    assert metrics[0] == metrics[1]
    assert sorted(p.name for p in found.parent.iterdir()) == [
        "metrics.jsonl",
        "weights.safetensors",
    ]


def test_a_finished_run_is_left_as_it_is(data: Dataset, tmp_path: Path) -> None:
    first = train(config(epochs=1), data, tmp_path)
    before = first.stat().st_mtime_ns
    assert train(config(epochs=1), data, tmp_path) == first
    assert first.stat().st_mtime_ns == before


def test_a_folder_with_another_recipe_is_refused(data: Dataset, tmp_path: Path) -> None:
    train(config(epochs=1), data, tmp_path)
    with pytest.raises(InputError, match=r"recipe\.epochs 1 instead of 2.*--out"):
        train(config(epochs=2), data, tmp_path)


def test_the_weight_file_tells_the_whole_run(data: Dataset, tmp_path: Path) -> None:
    values = config(epochs=1, seed=9)
    model = load(train(values, data, tmp_path))
    known = model.provenance
    assert known.class_names == data.class_names
    assert (known.dataset, known.S, known.seed, known.parent) == ("digits", 37, 9, None)
    assert known.recipe is not None
    rebuilt = TrainConfig(**{**known.recipe, "model": Config(**known.recipe["model"])})
    assert rebuilt == values
    assert model.mean.tolist() == pytest.approx(data.mean_rgb)


def test_staged_runs_start_from_a(data: Dataset, tmp_path: Path) -> None:
    parent = train(config(epochs=1), data, tmp_path / "A")
    net_a = load(parent)
    values = config(model=replace(NET, net="C"), epochs=1)
    start = build_for(values, data, net_a)
    for name in STAGED_LAYERS:
        assert torch.equal(
            start.get_parameter(f"{name}.weight"), net_a.get_parameter(f"{name}.weight")
        )
    child = train(values, data, tmp_path / "C", parent=parent)
    known = load(child).provenance
    assert known.parent is not None
    assert len(known.parent) == 64
    # The copied layers learn too, at the full rate (§3.1).
    trained = load(child).get_parameter("conv1_1.weight")
    assert not torch.equal(trained, net_a.get_parameter("conv1_1.weight"))
    with pytest.raises(InputError, match="parent"):
        train(values, data, tmp_path / "C")


def test_wrong_parents_write_nothing(data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "E.safetensors"
    save(build("E", num_classes=10, crop=32, width=1 / 16), path)
    out = tmp_path / "out"
    with pytest.raises(InputError, match="from net A, not from E"):
        train(config(model=replace(NET, net="D")), data, out, parent=path)
    with pytest.raises(InputError, match="no such file"):
        train(config(), data, out, parent=tmp_path / "nothing")
    with pytest.raises(InputError, match="7 classes, digits has 10"):
        train(config(model=replace(NET, num_classes=7)), data, out)
    assert not out.exists()


def test_a_loss_that_is_not_finite_stops_the_run(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at step \d+.*--learning-rate"):
        train(config(learning_rate=1e6), data, tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()
    for record in records(tmp_path, "train"):
        assert record["loss"] < float("inf")


def test_the_plateau_divides_three_times_and_ends() -> None:
    plateau = Plateau(patience=2, allowed=3)
    errors = [50, 40, 41, 40, 39, 40, 40, 38, 38, 38, 38, 38]
    #                     ÷10         ÷10         ÷10     end
    seen = []
    for error in errors:
        over = plateau.update(error)
        seen.append((plateau.divisions, over))
    assert [divisions for divisions, _ in seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [over for _, over in seen] == [False] * 11 + [True]


def test_the_rate_follows_the_plateau(data: Dataset, tmp_path: Path) -> None:
    # A rate too low to learn anything: every epoch after the first is a plateau.
    values = config(learning_rate=1e-12, patience=1, epochs=20)
    train(values, data, tmp_path)
    rates = [record["learning_rate"] for record in records(tmp_path, "train")]
    assert sorted(set(rates), reverse=True) == pytest.approx([1e-12, 1e-13, 1e-14, 1e-15])
    assert len(records(tmp_path, "validation")) == 5  # one to set the mark, three, the end


def test_sizes_are_in_proportion() -> None:
    assert [in_proportion(size, 224) for size in (224, 256, 384, 512)] == [224, 256, 384, 512]
    assert [in_proportion(size, 32) for size in (224, 256, 384, 512)] == [32, 37, 55, 73]


def test_recipes_are_the_papers() -> None:
    paper = a_256(Config("D"))
    assert paper.model.net == "A"
    assert (paper.S, paper.batch_size, paper.learning_rate) == (256, 256, 1e-2)
    assert (paper.momentum, paper.weight_decay, paper.model.dropout) == (0.9, 5e-4, 0.5)
    assert (paper.epochs, paper.divisions, paper.colour_shift) == (74, 3, 0.1)
    assert deeper_256(Config("E")).model.net == "E"
    assert deeper_256(Config("E", crop=32)).S == 37
    assert on_digits(paper).momentum == paper.momentum


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"S": 31}, "S 31 is smaller than the crop 32.*37"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"epochs": -1}, "epochs -1"),
        ({"patience": 1.5}, "patience 1.5"),
        ({"divisions": -1}, "divisions -1"),
        ({"learning_rate": 0.0}, "learning rate 0.0"),
        ({"learning_rate": float("nan")}, "nan"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"weight_decay": -1e-4}, "weight_decay -0.0001"),
        ({"colour_shift": float("inf")}, "colour_shift inf"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_wrong_values(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        config(**values)


def test_channels(data: Dataset) -> None:
    with pytest.raises(InputError, match="RGB images; the net takes 1"):
        build_for(config(model=replace(NET, in_channels=1)), data, None)
    assert build("A", in_channels=1, crop=32, width=1 / 16).config.in_channels == 1
