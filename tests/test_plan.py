"""The plan's counts against closed forms; nothing is written; ImageNet without its images."""

from pathlib import Path

import pytest

from vggnet import Config, InputError, account, build, save
from vggnet.datasets import digits
from vggnet.graph import Settings, grid
from vggnet.plan import ILSVRC_2012, Facts, plan, text
from vggnet.rivals import beside


@pytest.fixture(autouse=True)
def _known_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 1e12 multiply-adds a second in training and 2e12 in testing."""
    monkeypatch.setattr("vggnet.plan._speeds", lambda config, device: (1e12, 2e12))


def test_facts_are_the_data_sets() -> None:
    facts = Facts.of(digits())
    assert facts == Facts("digits", 10, 1000, 297, 500, False, (8, 8))


def test_costs_of_a_run_by_hand(tmp_path: Path) -> None:
    whole = grid("imagenet", 1000, True, Settings(only="table 3, A, D"))
    steps = {step.name: step for step in plan(whole, ILSVRC_2012, tmp_path, "cpu")}
    assert list(steps) == ["A-S256", "D-S256", "D-S384", "D-S256-512"]
    d = steps["D-S384"]
    net = Config("D")
    training = 74 * 1_281_167 * 3 * account(net).multiply_adds
    dense = account(net, (384, 512)).multiply_adds
    validation = 74 * 50_000 * dense
    assert d.training_multiply_adds == training + validation
    assert d.test_multiply_adds == 50_000 * 2 * dense  # with the mirror image
    assert d.seconds == pytest.approx(training / 1e12 + (validation + 100_000 * dense) / 2e12)
    assert d.disk_bytes == 4 * 138_357_544 + 50_000 * 1000 * 4
    assert (d.parent, d.start, d.status) == ("D-S256", "all layers from D-S256", "to do")
    assert not list(tmp_path.iterdir())


def test_multi_crop_counts_its_crops(tmp_path: Path) -> None:
    whole = grid("imagenet", 1000, True, Settings(only="table 5, E"))
    step = plan(whole, ILSVRC_2012, tmp_path, "cpu")[-1]
    net = Config("E")
    sizes = [(256, 341), (384, 512), (512, 683)]
    dense = sum(account(net, size).multiply_adds for size in sizes)
    crops = 150 // 2 * account(net).multiply_adds
    assert step.test_multiply_adds == 50_000 * 2 * (dense + crops)


def test_tuning_fc_layers_costs_little_more_than_a_forward(tmp_path: Path) -> None:
    whole = grid("imagenet", 1000, True, Settings(only="table 6"))
    steps = {step.name: step for step in plan(whole, ILSVRC_2012, tmp_path, "cpu")}
    fc, every = steps["D-S256-512-fc"], steps["D-S384"]
    assert fc.training_multiply_adds < 0.5 * every.training_multiply_adds


def test_finished_runs_cost_nothing(tmp_path: Path) -> None:
    whole = grid("digits", 10, False, Settings())
    config = whole.runs[0].config
    net = build("A", num_classes=10, crop=64, width=0.0625)
    weights = tmp_path / "runs" / "A-S73" / "weights.safetensors"
    save(net, weights, recipe=config.to_json())
    steps = {step.name: step for step in plan(whole, Facts.of(digits()), tmp_path, "cpu")}
    assert len(steps) == 14
    other = grid("digits", 10, False, Settings(seed=1))
    with pytest.raises(InputError, match=r"weights\.safetensors: is of another recipe"):
        plan(other, Facts.of(digits()), tmp_path, "cpu")
    assert (steps["A-S73"].status, steps["A-S73"].seconds) == ("finished", 0)
    assert steps["B-S73"].status == "to do"
    shown = text(list(steps.values()), Facts.of(digits()), "cpu")
    for name in steps:
        assert f"\n{name} " in shown
    assert "together" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_table_7s_other_nets_are_planned(tmp_path: Path) -> None:
    only = Settings(only="table 7, googlenet, krizhevsky", rivals=True)
    facts = ILSVRC_2012
    steps = plan(grid("imagenet", 1000, True, only), facts, tmp_path, "cpu")
    assert len(steps) == 6
    google = next(step for step in steps if step.name == "GoogLeNet-S256")
    net = beside("GoogLeNet", Config("A"))
    # Szegedy et al. 2014, §5: 4×4 cells, 1×1 to 128 channels, 1,024, 1,000.
    sides = sum(c * 128 * 16 + 128 * 16 * 1024 + 1024 * 1000 for c in (512, 528))
    validation = 74 * 50_000 * account(net, (256, 341)).multiply_adds
    training = 74 * 1_281_167 * 3 * (account(net).multiply_adds + sides)
    assert google.training_multiply_adds == training + validation
    shown = text(steps, facts, "cpu").splitlines()
    table = shown[shown.index("") + 1 :]
    assert len({len(line.removesuffix(" to do").rstrip()) for line in table[1:-1]}) == 1
    last = next(step for step in steps if step.name == "GoogLeNet-S256-512")
    assert last.disk_bytes == 4 * 13_378_280 + 6 * 50_000 * 1000 * 4
