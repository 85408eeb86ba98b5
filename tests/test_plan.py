"""The plan's counts against closed forms; nothing is written; ImageNet without its images."""

import json
import re
from pathlib import Path

import pytest

from vggnet import Config, InputError, TrainConfig, account, build, save
from vggnet.cli import main
from vggnet.datasets import digits
from vggnet.graph import Settings, grid
from vggnet.machines import AtHand, Speed, elsewhere
from vggnet.plan import ILSVRC_2012, Facts, plan, text
from vggnet.rivals import beside


class Known:
    """A machine of 1e12 multiply-adds a second in training and 2e12 in testing."""

    words, notes = "a known machine", ["Nothing was timed."]

    def speed(self, config: TrainConfig) -> Speed:
        return Speed(1e12, 2e12, measured=True)


def test_facts_are_the_data_sets() -> None:
    facts = Facts.of(digits())
    assert facts == Facts("digits", 10, 1000, 297, 500, False, (8, 8))


def test_costs_of_a_run_by_hand(tmp_path: Path) -> None:
    whole = grid("imagenet", 1000, True, Settings(only="table 3, A, D"))
    steps = {step.name: step for step in plan(whole, ILSVRC_2012, tmp_path, Known())}
    assert list(steps) == ["A-S256", "D-S256", "D-S384", "D-S256-512"]
    d = steps["D-S384"]
    net = Config("D")
    training = 74 * 1_281_167 * 3 * account(net).multiply_adds
    dense = account(net, (384, 512)).multiply_adds
    validation = 74 * 50_000 * dense
    assert d.training_multiply_adds == training + validation
    assert d.test_multiply_adds == 50_000 * 2 * dense  # with the mirror image
    assert d.training_seconds == pytest.approx(training / 1e12 + validation / 2e12)
    assert d.test_seconds == pytest.approx(100_000 * dense / 2e12)
    assert d.images_per_second == pytest.approx(1e12 / 3 / account(net).multiply_adds)
    assert d.disk_bytes == 4 * 138_357_544 + 50_000 * 1000 * 4
    assert (d.parent, d.start, d.status) == ("D-S256", "all layers from D-S256", "to do")
    assert not list(tmp_path.iterdir())


def test_multi_crop_counts_its_crops(tmp_path: Path) -> None:
    whole = grid("imagenet", 1000, True, Settings(only="table 5, E"))
    step = plan(whole, ILSVRC_2012, tmp_path, Known())[-1]
    net = Config("E")
    sizes = [(256, 341), (384, 512), (512, 683)]
    dense = sum(account(net, size).multiply_adds for size in sizes)
    crops = 150 // 2 * account(net).multiply_adds
    assert step.test_multiply_adds == 50_000 * 2 * (dense + crops)


def test_tuning_fc_layers_costs_little_more_than_a_forward(tmp_path: Path) -> None:
    whole = grid("imagenet", 1000, True, Settings(only="table 6"))
    steps = {step.name: step for step in plan(whole, ILSVRC_2012, tmp_path, Known())}
    fc, every = steps["D-S256-512-fc"], steps["D-S384"]
    assert fc.training_multiply_adds < 0.5 * every.training_multiply_adds


def test_finished_runs_cost_nothing(tmp_path: Path) -> None:
    whole = grid("digits", 10, False, Settings())
    config = whole.runs[0].config
    net = build("A", num_classes=10, crop=64, width=0.0625)
    weights = tmp_path / "runs" / "A-S73" / "weights.safetensors"
    save(net, weights, recipe=config.to_json())
    steps = {step.name: step for step in plan(whole, Facts.of(digits()), tmp_path, Known())}
    assert len(steps) == 14
    other = grid("digits", 10, False, Settings(seed=1))
    with pytest.raises(InputError, match=r"weights\.safetensors: is of another recipe"):
        plan(other, Facts.of(digits()), tmp_path, Known())
    assert (steps["A-S73"].status, steps["A-S73"].seconds) == ("finished", 0)
    assert steps["B-S73"].status == "to do"
    shown = text(list(steps.values()), Facts.of(digits()), Known())
    for name in steps:
        assert f"\n{name} " in shown
    assert "together" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_table_7s_other_nets_are_planned(tmp_path: Path) -> None:
    only = Settings(only="table 7, googlenet, krizhevsky", rivals=True)
    facts = ILSVRC_2012
    steps = plan(grid("imagenet", 1000, True, only), facts, tmp_path, Known())
    assert len(steps) == 6
    google = next(step for step in steps if step.name == "GoogLeNet-S256")
    net = beside("GoogLeNet", Config("A"))
    # Szegedy et al. 2014, §5: 4×4 cells, 1×1 to 128 channels, 1,024, 1,000.
    sides = sum(c * 128 * 16 + 128 * 16 * 1024 + 1024 * 1000 for c in (512, 528))
    validation = 74 * 50_000 * account(net, (256, 341)).multiply_adds
    training = 74 * 1_281_167 * 3 * (account(net).multiply_adds + sides)
    assert google.training_multiply_adds == training + validation
    shown = text(steps, facts, Known()).splitlines()
    table = [line for line in shown if line.endswith(" to do")]
    assert len(table) == 6
    assert len({len(line) for line in table}) == 1
    last = next(step for step in steps if step.name == "GoogLeNet-S256-512")
    assert last.disk_bytes == 4 * 13_378_280 + 6 * 50_000 * 1000 * 4


def test_side_by_side_is_the_longest_chain(tmp_path: Path) -> None:
    whole = grid("imagenet", 1000, True, Settings(only="table 3, A, D"))
    steps = plan(whole, ILSVRC_2012, tmp_path, Known())
    a, d, d_384, jittered = steps
    seconds = sum(step.training_seconds for step in steps) + jittered.test_seconds
    assert seconds > d_384.seconds + a.training_seconds + d.training_seconds
    shown = text(steps, ILSVRC_2012, Known())
    names = " → ".join(step.name for step in steps)
    assert f"Side by side: {seconds / 86400:.0f} days ({names})." in shown


def test_this_machine_is_timed() -> None:
    config = TrainConfig(Config("A", crop=32, width=1 / 16), S=37)
    speed = AtHand("cpu").speed(config)
    assert speed.measured
    assert 1e7 < speed.training < 1e13
    assert 1e7 < speed.testing < 1e13


def test_bfloat16_is_not_planned_for_a_cpu() -> None:
    with pytest.raises(
        InputError, match="bfloat16 is for training on a GPU: take float32, or plan"
    ):
        AtHand("cpu", "bfloat16")


@pytest.mark.parametrize("state", ["state.safetensors", "state.json"])  # of one process; of several
def test_a_run_that_is_begun_is_told(tmp_path: Path, state: str) -> None:
    whole = grid("imagenet", 1000, True, Settings(only="table 3, A"))
    folder = tmp_path / "runs" / whole.runs[0].name
    folder.mkdir(parents=True)
    assert plan(whole, ILSVRC_2012, tmp_path, Known())[0].status == "to do"
    (folder / state).touch()
    assert plan(whole, ILSVRC_2012, tmp_path, Known())[0].status == "started"


FILES = Path(__file__).parent.parent / "benchmarks" / "results"


def test_an_h200_is_as_fast_as_it_was_measured() -> None:
    """The committed step of D, and other nets by multiply-adds."""
    found = json.loads((FILES / "2026-11-26-gpu-fast-h200.json").read_text())
    one = elsewhere("h200", 1, "bfloat16")
    d = one.speed(TrainConfig(Config("D"), S=256, precision="bfloat16"))
    per_image = account(Config("D")).multiply_adds
    assert d.measured
    assert d.training / 3 / per_image == pytest.approx(found["training"]["vggnet"], rel=1e-3)
    e = one.speed(TrainConfig(Config("E"), S=256, precision="bfloat16"))
    assert not e.measured
    assert e.training == pytest.approx(d.training, rel=0.01)
    eight = elsewhere("h200", 8, "bfloat16")
    faster = eight.speed(TrainConfig(Config("D"), S=256, precision="bfloat16"))
    assert not faster.measured
    assert 7 < faster.training / d.training < 8  # docs/scaling.md: 90.2 % of eight
    assert faster.testing == 8 * d.testing


def test_the_h200s_tests_are_as_fast_as_they_were_measured() -> None:
    """E-BN's tests on Fashion-MNIST, by the protocols' own counts and the committed seconds."""
    folder = FILES.parent.parent / "docs" / "results" / "fashion-mnist"
    beside = json.loads((folder / "beside.json").read_text())
    rows = {
        row["protocol"]["method"]: row["multiply_adds_per_image"]
        for row in beside["departures"]
        if row["runs"] == ["E-BN-S64-82"]
    }
    # All 10,000 test images by both methods, and 5,000 for validation by the dense one.
    total = 10_000 * rows["multi-crop+dense"] + 5_000 * rows["dense"]
    seconds = beside["runs"]["E-BN-S64-82"]["test_seconds"]
    config = TrainConfig(Config("E"), S=256, precision="bfloat16")
    found = elsewhere("h200", 1, "bfloat16").speed(config)
    assert total / seconds == pytest.approx(found.testing, rel=0.01)


def test_a_machine_by_what_was_measured_there(tmp_path: Path) -> None:
    measured = {
        "machine": "Some GPU",
        "training": {
            "D": {"tf32": {"batch": 256, "images_per_second": 100.0}, "bfloat16": "out of memory"},
            "E": {"tf32": {"batch": 256, "images_per_second": 90.0}},
        },
        "evaluation": {"D": {"dense": {"tera_multiply_adds_per_second": 3.0}, "images": 64}},
    }
    file = tmp_path / "grid.json"
    file.write_text(json.dumps(measured))
    machine = elsewhere(str(file), 1, "float32")
    assert machine.words == "one Some GPU"
    d, e = (account(Config(net)).multiply_adds for net in "DE")
    for net, expected, known in (("D", 100 * d, True), ("E", 90 * e, True), ("A", 100 * d, False)):
        speed = machine.speed(TrainConfig(Config(net), S=256))
        assert speed.training == pytest.approx(3 * expected)
        assert (speed.testing, speed.measured) == (3e12, known)
    with pytest.raises(InputError, match=r"grid\.json: has no measurements of net D in bfloat16"):
        elsewhere(str(file), 1, "bfloat16")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--on", "h200"], "precision float32: on h200 .* --precision bfloat16"),
        (["--on", "a100", "--precision", "bfloat16"], "machine 'a100' is not known: give h200"),
        (["--on", "h200", "--precision", "bfloat16", "--gpus", "0"], "gpus 0"),
        (["--gpus", "8"], "--gpus is for a plan of another machine"),
    ],
)
def test_wrong_machines(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "imagenet", "--plan", "--out", str(tmp_path / "x"), *more]
    assert main(command) == 2
    assert re.search(words, capsys.readouterr().err)
    assert main(["reproduce", "digits", "--out", str(tmp_path / "x"), "--on", "h200"]) == 2
    assert "--on is for a plan" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


IMAGENET = (FILES.parent.parent / "docs" / "imagenet.md").read_text()


def test_the_plans_on_the_page_are_those_that_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"```console\n(vggnet [^\n]*--on[^\n]*)\n```\n\n```text\n(.*?)```", IMAGENET, re.DOTALL
    )
    assert len(blocks) == 2
    for command, shown in blocks:
        assert main(command.split()[1:]) == 0
        printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        assert printed == shown.splitlines()
    one, eight = (re.findall(r"All of it: (.*?)\.", shown)[0] for _, shown in blocks)
    readme = " ".join((FILES.parent.parent / "README.md").read_text().split())
    assert f"{one} for all 14 runs on one H200, {eight.replace(' h', ' hours')} on eight" in readme
