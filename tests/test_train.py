"""The recipe against its formulas; one seed, one curve; a stopped run against one never stopped."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vggnet import Config, InputError, RunError, TrainConfig, build, load, save
from vggnet.adaptations import adaptation, on_cifar_10, on_digits, on_fashion_mnist
from vggnet.datasets import digits
from vggnet.evaluate import evaluate
from vggnet.initialize import STAGED_LAYERS
from vggnet.loading import TrainingImages
from vggnet.parts import Dataset, Part
from vggnet.recipes import (
    Plateau,
    a_256,
    at_384,
    b_5x5,
    deeper_256,
    in_proportion,
    jittered,
    submitted_d,
)
from vggnet.runs import RunFolder
from vggnet.sgd import SGD
from vggnet.train import build_for, train

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
    """Four epochs against §3.1 written out: momentum, L2 penalty, mean loss, by autograd alone."""
    # A patience of one epoch: the rate is divided as soon as validation does not improve.
    values = config(epochs=4, learning_rate=0.003, patience=1, seed=2)
    weights = train(values, data, tmp_path)
    model = build_for(values, data, None).train()
    images = TrainingImages(
        data, S=37, crop=32, batch_size=32, flip=False, colour_shift=0.1, seed=2
    )
    rates = {record["epoch"]: record["learning_rate"] for record in records(tmp_path, "train")}
    assert len(set(rates.values())) > 1
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    losses: list[float] = []
    for epoch in range(4):
        for batch in images.epoch(epoch):
            torch.manual_seed((2 << 32) + len(losses))  # of dropout
            loss = F.cross_entropy(model(batch.images + batch.shifts), batch.labels)
            losses.append(loss.item())
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, v, g in zip(model.parameters(), velocity, gradients, strict=True):
                    v.mul_(0.9).add_(g + 5e-4 * p)
                    p.sub_(rates[epoch] * v)
    found = [record["loss"] for record in records(tmp_path, "train")]
    assert len(found) == 20
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


def test_validation_is_on_the_validation_images(data: Dataset, tmp_path: Path) -> None:
    values = config(epochs=2, learning_rate=0.003)
    model = load(train(values, data, tmp_path))
    last = records(tmp_path, "validation")[-1]["error"]
    assert last == evaluate(model, data.validation, scales=[37], flips=False).top1
    assert last != evaluate(model, data.test, scales=[37], flips=False).top1


@pytest.mark.parametrize("options", [{}, {"patience": 1, "epochs": 6}, {"momentum": 0.0}])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("stop_at", [1, 5, 12])
def test_a_stopped_run_ends_as_one_never_stopped(
    stop_at: int,
    batch_norm: bool,
    options: dict[str, Any],
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in the middle of a step, with a checkpoint at every step or every epoch."""
    values = config(model=replace(NET, batch_norm=batch_norm), learning_rate=1e-3, **options)
    expected = train(values, data, tmp_path / "whole")
    if stop_at % 2:
        monkeypatch.setattr("vggnet.loop._CHECKPOINT_SECONDS", 0.0)
    steps = 0
    step = SGD.step

    def interrupted(self: SGD, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SGD, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(values, data, tmp_path / "stopped")
    with pytest.raises(InputError, match="seed 0 instead of 1"):
        train(replace(values, seed=1), data, tmp_path / "stopped")
    (tmp_path / "stopped" / ".state.safetensors.x1y2").write_text("of a write that was killed")
    assert not (tmp_path / "stopped" / "weights.safetensors").exists()
    # Half a line, as a killed process leaves it.
    with (tmp_path / "stopped" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    found = train(values, data, tmp_path / "stopped")
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


def test_a_write_killed_before_the_first_state_leaves_nothing(
    data: Dataset, tmp_path: Path
) -> None:
    (tmp_path / ".state.safetensors.x1y2").write_text("half a state")
    (tmp_path / "metrics.jsonl").write_text("")
    train(config(epochs=1), data, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.jsonl",
        "weights.safetensors",
    ]


def test_a_state_left_beside_finished_weights_goes(data: Dataset, tmp_path: Path) -> None:
    train(config(epochs=1), data, tmp_path)
    (tmp_path / "state.safetensors").write_text("left")
    train(config(epochs=1), data, tmp_path)
    assert not (tmp_path / "state.safetensors").exists()


def test_a_damaged_run_is_refused_with_a_remedy(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    for name in ("short", "gone", "cut", "weights"):
        with pytest.raises(KeyboardInterrupt):
            train(config(), data, tmp_path / name, log=stop)
    (tmp_path / "short" / "metrics.jsonl").write_text("")
    (tmp_path / "gone" / "metrics.jsonl").unlink()
    state = tmp_path / "cut" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-10])
    save(build("A", crop=32, width=1 / 16), tmp_path / "weights" / "state.safetensors")
    words = {
        "short": "shorter than when the run stopped.*delete",
        "gone": "shorter than when the run stopped.*delete",
        "cut": "truncated.*start the run anew, delete",
        "weights": "is not the state of a run",
    }
    for name, word in words.items():
        with pytest.raises(InputError, match=word):
            train(config(), data, tmp_path / name)


def test_somebody_elses_metrics_are_not_overwritten(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("precious\n")
    with pytest.raises(InputError, match="choose another --out"):
        train(config(), data, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "precious\n"


def test_the_same_net_starts_from_all_its_weights(data: Dataset, tmp_path: Path) -> None:
    values = config(model=replace(NET, net="C"), epochs=1)
    parent = train(values, data, tmp_path / "parent")
    start = build_for(values, data, load(parent))
    for key, value in load(parent).state_dict().items():
        assert torch.equal(start.state_dict()[key], value), key


def test_the_header_tells_whether_images_were_flipped(data: Dataset, tmp_path: Path) -> None:
    for flip in (False, True):
        weights = train(config(epochs=1), replace(data, flip=flip), tmp_path / str(flip))
        recipe = load(weights).provenance.recipe
        assert recipe is not None
        assert recipe["flip"] is flip
    one, other = (records(tmp_path / name, "train") for name in ("False", "True"))
    assert one[0]["loss"] != other[0]["loss"]


def test_a_folder_with_another_recipe_is_refused(data: Dataset, tmp_path: Path) -> None:
    train(config(epochs=1), data, tmp_path)
    with pytest.raises(InputError, match=r"recipe\.epochs 1 instead of 2.*--out"):
        train(config(epochs=2), data, tmp_path)


def test_other_images_are_another_run(data: Dataset, tmp_path: Path) -> None:
    """A folder to which images were added is not what the finished run was trained on."""
    train(config(epochs=1), data, tmp_path)
    more = Part([*data.train.images, data.test.images[0]], np.append(data.train.labels, 3))
    with pytest.raises(InputError, match=r"trained on other images than digits has now.*--out"):
        train(config(epochs=1), replace(data, train=more), tmp_path)
    labels = data.validation.labels[::-1].copy()
    swapped = Part(data.validation.images, labels)
    with pytest.raises(InputError, match="other images"):
        train(config(epochs=1), replace(data, validation=swapped), tmp_path)
    # The test images have no part in it.
    train(config(epochs=1), replace(data, test=swapped), tmp_path)


def test_a_run_that_another_process_finishes_meanwhile_is_used(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(config(epochs=1), data, tmp_path)
    before = expected.read_bytes()
    answers = iter([False, True])  # before and after waiting for the folder
    monkeypatch.setattr(RunFolder, "is_finished", lambda _: next(answers))
    assert train(config(epochs=1), data, tmp_path) == expected
    assert expected.read_bytes() == before


def test_the_weight_file_tells_the_whole_run(data: Dataset, tmp_path: Path) -> None:
    values = config(epochs=1, seed=9)
    model = load(train(values, data, tmp_path))
    known = model.provenance
    assert known.class_names == data.class_names
    assert (known.dataset, known.S, known.seed, known.parent) == ("digits", 37, 9, None)
    assert known.data == data.trained_on
    assert known.recipe is not None
    rebuilt = TrainConfig(**{**known.recipe, "model": Config(**known.recipe["model"])})
    assert rebuilt == replace(values, flip=False)  # digits are not flipped
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


def test_a_cosine_goes_on_to_the_end(data: Dataset, tmp_path: Path) -> None:
    """At the rates that PyTorch's scheduler gives, whatever validation says."""
    values = config(learning_rate=1e-12, patience=1, epochs=8, schedule="cosine")
    train(values, data, tmp_path)
    optimizer = torch.optim.SGD([torch.zeros(1)], 1e-12)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    expected = []
    for _ in range(8):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    rates = {record["epoch"]: record["learning_rate"] for record in records(tmp_path, "train")}
    assert list(rates.values()) == pytest.approx(expected, rel=1e-9)
    assert len(records(tmp_path, "validation")) == 8


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_a_step_is_pytorchs(momentum: float) -> None:
    """To the bit, over rates that change, with one tensor that does not learn."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in ((5, 3), (7,), (2,))]
    options: dict[str, Any] = {"momentum": momentum, "weight_decay": 5e-4}
    ours = [value.clone().requires_grad_() for value in values]
    theirs = [value.clone().requires_grad_() for value in values]
    optimizer = SGD(ours, 1e-2, **options)
    reference = torch.optim.SGD(theirs, 1e-2, **options)
    for rate in (1e-2, 1e-2, 1e-3):
        optimizer.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        for own, other in zip(ours[:2], theirs[:2], strict=True):
            own.grad = torch.randn(own.shape, generator=generator)
            other.grad = own.grad.clone()
        optimizer.step()
        reference.step()
        assert all(torch.equal(own, other) for own, other in zip(ours, theirs, strict=True))
    assert torch.equal(ours[2], values[2])
    assert len(optimizer.state[ours[0]]) == (momentum > 0)


def test_a_run_imports_no_compiler(tmp_path: Path) -> None:
    """PyTorch's, and the computer algebra with it, would take as long as small runs do."""
    code = (
        "import sys; from vggnet.cli import main; assert main(sys.argv[1:]) == 0; "
        "assert not {'torch._dynamo', 'sympy'} & sys.modules.keys()"
    )
    arguments = ["train", "digits", "--net", "A", "--crop", "32", "--width", "0.03125"]
    arguments += ["--epochs", "1", "--out", str(tmp_path / "run")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


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
        ({"S": 37.5}, "S 37.5 is not a whole number"),
        ({"S": True}, "S True is not a whole number"),
        ({"S": (37, 73, 99)}, "nor a pair"),
        ({"S": (73, 37)}, "S from 73 to 37: give the smaller"),
        ({"S": (31, 73)}, "S 31 is smaller than the crop"),
        ({"S": (37, 10_000)}, "S 10000 is more than 32 times"),
        ({"tune": "conv"}, "tune 'conv' is not known: take all or fc"),
        ({"S": 10_000_000}, "S 10000000 is more than 32 times"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"epochs": -1}, "epochs -1"),
        ({"patience": 1.5}, "patience 1.5"),
        ({"divisions": -1}, "divisions -1"),
        ({"learning_rate": 0.0}, "learning rate 0.0"),
        ({"learning_rate": float("nan")}, "nan"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"weight_decay": -1e-4}, "weight_decay -0.0001"),
        ({"colour_shift": float("inf")}, "colour_shift inf"),
        ({"erase": 1.5}, "erase 1.5 is not a chance"),
        ({"schedule": "linear"}, "schedule 'linear' is not known: take plateau or cosine"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_wrong_values(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        config(**values)


def test_recipes_of_deeper_runs_are_the_papers() -> None:
    net = Config("E")
    assert (at_384(net).S, at_384(net).learning_rate, at_384(net).tune) == (384, 1e-3, "all")
    assert (jittered(net).S, jittered(net).learning_rate) == ((256, 512), 1e-3)
    submitted = submitted_d(net)
    assert (submitted.model.net, submitted.S, submitted.tune) == ("D", (256, 512), "fc")
    assert b_5x5(net).model.net == "B-5x5"
    small = Config("E", crop=32)
    assert (at_384(small).S, jittered(small).S) == (55, (37, 73))
    # The embedded data sets' own numbers, another for runs that start from trained nets.
    assert on_digits(at_384(small)).epochs < on_digits(deeper_256(small)).epochs
    for width in (0.125, 1):
        net = replace(small, width=width)
        for on in (on_fashion_mnist, on_cifar_10):
            assert on(jittered(net)).epochs < on(a_256(net)).epochs
    # At the paper's width all but the number of epochs is the paper's.
    for on in (on_fashion_mnist, on_cifar_10):
        assert replace(on(at_384(small)), epochs=74, patience=5) == at_384(small)
    # B-5x5, which is not staged, dies at the rate of the others (docs/LOG.md).
    for on in (on_digits, on_fashion_mnist, on_cifar_10):
        assert on(b_5x5(replace(small, width=0.125))).learning_rate == pytest.approx(2e-3)
        fitted = on(jittered(small))
        assert (fitted.S, fitted.momentum, fitted.divisions) == ((37, 73), 0.9, 3)
    assert adaptation("fashion-mnist:/data/f") is adaptation("fashion-mnist")
    assert adaptation("cifar-10:/data/c") == adaptation("cifar-100")
    assert (adaptation("cifar-10").crop, adaptation("cifar-10").width) == (64, 0.125)
    assert (adaptation("/data/photographs").crop, adaptation("x").width) == (224, 1)
    assert adaptation("x").fit(a_256(net)) == a_256(net)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_tuning_the_fc_layers_alone(batch_norm: bool, data: Dataset, tmp_path: Path) -> None:
    model = replace(NET, batch_norm=batch_norm)
    parent = train(config(model=model, epochs=1, learning_rate=1e-3), data, tmp_path / "parent")
    values = config(model=model, S=(37, 73), tune="fc", epochs=2, learning_rate=1e-3)
    child = train(values, data, tmp_path / "child", parent=parent)
    before, after = load(parent).state_dict(), load(child).state_dict()
    for key, value in before.items():
        same = torch.equal(value, after[key])
        assert same == (not key.startswith("fc")), key  # running statistics stay, too
    known = load(child).provenance
    assert known.S == (37, 73)
    assert known.recipe is not None
    assert (known.recipe["tune"], known.recipe["S"]) == ("fc", [37, 73])
    assert train(values, data, tmp_path / "child", parent=parent) == child
    for wrong in (None, parent):
        other = replace(values, model=replace(model, net="D"))
        with pytest.raises(InputError, match="give trained weights of net D"):
            train(other, data, tmp_path / "none", parent=wrong)
    assert not (tmp_path / "none").exists()


def test_a_jittered_run_resumes_too(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = config(S=(37, 73), learning_rate=1e-3, epochs=2)
    expected = train(values, data, tmp_path / "whole")
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(values, data, tmp_path / "stopped", log=stop)
    with pytest.raises(InputError, match=r"recipe\.S|S \(37, 73\)"):
        train(replace(values, S=37), data, tmp_path / "stopped")
    found = train(values, data, tmp_path / "stopped")
    assert found.read_bytes() == expected.read_bytes()
    # Validated in the middle of the range (§4.1).
    last = records(tmp_path / "whole", "validation")[-1]["error"]
    assert last == evaluate(load(expected), data.validation, scales=[55], flips=False).top1


def test_two_processes_do_not_train_in_one_folder(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds the folder for as long as it lives, however it ends."""
    monkeypatch.setattr("vggnet.runs._PATIENCE_SECONDS", 0.2)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom pathlib import Path\nfrom vggnet.runs import _lock\n"
            "with _lock(Path(sys.argv[1])) as ours: print(ours, flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with pytest.raises(InputError, match="another process is training"):
        train(config(epochs=1), data, tmp_path)
    assert not list(tmp_path.iterdir())
    holder.kill()
    holder.communicate()
    train(config(epochs=1), data, tmp_path)


def test_channels(data: Dataset) -> None:
    with pytest.raises(InputError, match="RGB images; the net takes 1"):
        build_for(config(model=replace(NET, in_channels=1)), data, None)
    assert build("A", in_channels=1, crop=32, width=1 / 16).config.in_channels == 1
