"""The cost model against closed forms by hand, its limits, and what `vggnet plan` says."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from documentation import check_sentence
from vggnet import Config, InputError
from vggnet.cli import main
from vggnet.scaling import Cluster, bytes_per_step, modes, step_seconds

ROOT = Path(__file__).parent.parent
D = Config("D")
CONV, FC, ALL = 14_714_688, 123_642_856, 138_357_544  # parameters of net D; fc7's bias is 4096
POWERS = st.integers(0, 9).map(lambda i: 2**i)
GROUPS = st.sampled_from([1, 2, 4, 8])


def test_plain_ring_by_hand() -> None:
    traffic = bytes_per_step(D, 256, 4)
    assert traffic.conv_gradients.sent == pytest.approx(2 * 3 / 4 * 4 * CONV)
    assert traffic.fc_gradients.sent == pytest.approx(2 * 3 / 4 * 4 * FC)
    assert traffic.total.sent == pytest.approx(830_145_264)
    assert traffic.fc_exchange.sent == traffic.total.crossing == 0
    assert bytes_per_step(D, 256, 4, compress=True).total.sent == pytest.approx(415_072_632)


def test_hosts_share_their_interface() -> None:
    total = bytes_per_step(D, 256, 16).total
    assert total.sent == pytest.approx(2 * 15 / 16 * 4 * ALL)
    assert total.crossing == pytest.approx(2 * 1 / 2 * 4 * ALL)
    # What goes over NVLink is a ring all-reduce of the eight GPUs in a host, 2 · 7/8.
    assert total.sent - total.crossing / 8 == pytest.approx(2 * 7 / 8 * 4 * ALL)


def test_one_group_by_hand() -> None:
    traffic = bytes_per_step(D, 256, 4, fc_parallel=4)
    assert traffic.conv_gradients.sent == pytest.approx(1.5 * 4 * (CONV + 4096))
    assert traffic.fc_gradients.sent == 0
    # Gathered and scattered, each twice: pool5, fc7's sums, fc8's input, the scores.
    exchange = 0.75 * 256 * 4 * 2 * (25088 + 4096 + 4096 + 1000)
    assert traffic.fc_exchange.sent == pytest.approx(exchange)
    assert traffic.total.sent <= bytes_per_step(D, 256, 4).total.sent / 5


def test_groups_of_a_host_leave_the_network_what_plain_does() -> None:
    traffic = bytes_per_step(D, 256, 64, fc_parallel=8)
    shard = (FC - 4096) / 8
    assert traffic.fc_gradients.sent == pytest.approx(2 * 7 / 8 * 4 * shard)
    assert traffic.fc_gradients.crossing == pytest.approx(2 * 7 / 8 * 4 * (FC - 4096))
    assert traffic.fc_exchange.crossing == 0
    plain = bytes_per_step(D, 256, 64)
    assert traffic.total.crossing == pytest.approx(plain.total.crossing)


def test_groups_of_two_hosts_by_hand() -> None:
    traffic = bytes_per_step(D, 256, 64, fc_parallel=16)
    images = 256 / 4
    assert traffic.fc_gradients.crossing == pytest.approx(8 * 2 * 3 / 4 * 4 * (FC - 4096) / 16)
    gathered = 1 / 2 * images * 4 * 2 * (25088 + 2 * 4096 + 1000)
    assert traffic.fc_exchange.crossing == pytest.approx(gathered)


def test_groups_smaller_than_a_host() -> None:
    traffic = bytes_per_step(D, 256, 16, fc_parallel=4)
    assert traffic.fc_gradients.sent == pytest.approx(2 * 3 / 4 * 4 * (FC - 4096) / 4)
    assert traffic.fc_gradients.crossing == pytest.approx(2 * 1 / 2 * 4 * (FC - 4096))
    assert traffic.fc_exchange.crossing == 0


def test_seconds_by_hand() -> None:
    step = step_seconds(D, 6400, Cluster(64, network=50), images_per_second=1000)
    # Five messages: fc8 with fc7, fc6, three of convolutions; 14 steps inside and 14 across each.
    across = 2 * 7 / 8 * 4 * ALL
    inside = 2 * 63 / 64 * 4 * ALL - across / 8
    gradients = across / 6e9 + inside / 371e9 + 5 * 14 * (3.4e-6 + 14e-6)
    assert step.compute == pytest.approx(0.1)
    assert step.gradients == pytest.approx(gradients)
    assert step.exposed == pytest.approx(gradients - 0.1 * 2 / 3)
    assert step.seconds == pytest.approx(0.1 + step.exposed)
    assert step.images_per_second == pytest.approx(6400 / step.seconds)
    assert step.efficiency == pytest.approx(0.1 / step.seconds)


def test_reading_can_be_the_limit() -> None:
    step = step_seconds(D, 256, Cluster(16), loading=100)
    assert step.seconds == step.reading == pytest.approx(256 / 200)


def test_the_measured_gpu() -> None:
    file = ROOT / "benchmarks" / "results" / "2026-11-26-gpu-fast-h200.json"
    measured = json.loads(file.read_text())["training"]["vggnet"]
    assert step_seconds(D, 256, Cluster(1)).images_per_second == pytest.approx(measured, rel=1e-3)
    assert 0.89 < step_seconds(D, 32, Cluster(1)).images_per_second / measured < 0.91
    assert 0.66 < step_seconds(D, 8, Cluster(1)).images_per_second / measured < 0.70


@given(st.sampled_from(["A", "C", "E"]), st.integers(1, 10_000), st.booleans())
def test_one_gpu_sends_nothing(net: str, batch: int, compress: bool) -> None:
    step = step_seconds(Config(net), batch, Cluster(1), compress=compress)
    assert step.traffic.total.sent == step.traffic.total.crossing == 0
    assert step.efficiency == pytest.approx(1)


@given(POWERS, GROUPS, st.floats(1, 1000), st.floats(1, 10))
def test_faster_networks_and_compression_never_slow_down(
    gpus: int, group: int, network: float, factor: float
) -> None:
    group = min(group, gpus)
    slow, fast = (Cluster(gpus, network=x) for x in (network, network * factor))
    steps = [
        step_seconds(D, 4096, cluster, fc_parallel=group, compress=compress)
        for cluster, compress in ((slow, False), (fast, False), (fast, True))
    ]
    assert steps[0].seconds >= steps[1].seconds >= steps[2].seconds
    assert steps[1].traffic.total.sent >= steps[2].traffic.total.sent
    assert 0 < steps[2].efficiency <= 1 + 1e-9


@given(POWERS, GROUPS)
def test_more_gpus_send_more_and_are_less_efficient(gpus: int, per_host: int) -> None:
    few, many = (step_seconds(D, 4096, Cluster(n, per_host)) for n in (gpus, 2 * gpus))
    assert few.traffic.total.sent < many.traffic.total.sent
    assert few.efficiency > many.efficiency


def test_modes() -> None:
    assert [step.mode for step in modes(D, 256, Cluster(1))] == ["plain", "--compress"]
    steps = modes(D, 256, Cluster(64))
    assert [step.mode for step in steps[:4]] == [
        "plain",
        "--compress",
        "--fc-parallel 8",
        "--fc-parallel 8 --compress",
    ]
    every = [step_seconds(D, 256, Cluster(64), fc_parallel=n) for n in (16, 32, 64)]
    assert steps[4] == min(every, key=lambda step: step.seconds)
    assert steps[5].compress


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--gpus 512", "batch 256 is smaller than 512 GPUs, .* --batch 16384"),
        ("--gpus 12", "12 GPUs are no whole number of hosts of 8: take 8 or 16"),
        ("--gpus 0", "gpus 0 is not a number above 0"),
        ("--gpus 8 --gpus-per-host -1", "gpus per host -1 is not"),
        ("--gpus 8 --network nan", "network nan is not"),
        ("--gpus 8 --images-per-second 0", "images per second 0 is not"),
        ("--gpus 8 --loading -3", "loading -3 is not"),
        ("--gpus 8 --batch 0", "batch 0 is not"),
        ("--gpus 8 --net Q", "unknown net 'Q'"),
        ("--gpus 8 --crop 100", "crop 100 is not a multiple of 32"),
        ("--gpus 8 --epochs 0", "--epochs 0 is not 1 or more"),
    ],
)
def test_impossible_values(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert re.search(message, err)


@pytest.mark.parametrize("group", [3, 12, 128, 0])
def test_groups_that_do_not_fit(group: int) -> None:
    with pytest.raises(InputError, match=f"fc parallel {group}"):
        bytes_per_step(D, 256, 64, fc_parallel=group)


def test_a_net_without_its_classifier() -> None:
    with pytest.raises(InputError, match="without its classifier"):
        bytes_per_step(Config("D", head=False), 256, 8)


def test_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--gpus", "16", "--network", "25", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["net"], found["batch"], found["gpus"], found["network"]) == ("D", 256, 16, 25)
    plain = found["rows"][0]
    assert plain["traffic"]["fc_gradients"]["crossing"] == pytest.approx(4 * FC)
    hours = 74 * 1_281_167 / plain["images_per_second"] / 3600
    assert plain["hours"] == pytest.approx(hours)
    assert found["best"] == min(found["rows"], key=lambda row: row["seconds"])["mode"]


def test_importing_is_cheap() -> None:
    code = "import sys, vggnet.commands.plan; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_page_has_what_the_model_predicts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script: Any = importlib.import_module("scaling")
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert script.predictions() in page
    assert script.check() in page
    main(["plan", "--gpus", "64"])
    shown = capsys.readouterr().out
    assert f"```console\nvggnet plan --gpus 64\n```\n\n```text\n{shown}```" in page
    assert max(map(len, shown.splitlines())) <= 120
    plain, compressed = modes(D, 2048, Cluster(64, network=3200))[:2]
    for step in (plain, compressed):
        assert f"{step.images_per_second:,.0f} ({100 * step.efficiency:.1f} %)" in page


def test_launch_files() -> None:
    subprocess.run(["bash", "-n", ROOT / "examples" / "slurm.sbatch"], check=True)
    yaml: Any = importlib.import_module("yaml")
    service, job = yaml.safe_load_all((ROOT / "examples" / "kubernetes.yaml").read_text())
    assert service["spec"]["clusterIP"] == "None"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    nodes, per_node = (int(x.partition("=")[2]) for x in container["command"][1:3])
    assert nodes == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert per_node == container["resources"]["limits"]["nvidia.com/gpu"]
    name = f"{job['metadata']['name']}-0.{service['metadata']['name']}:29400"
    assert f"--rdzv-endpoint={name}" in container["command"]


def rates(gpus: int, batch: int) -> dict[str, float]:
    """Images a second by mode, at 100 Gb/s a host."""
    return {step.mode: step.images_per_second for step in modes(D, batch, Cluster(gpus))}


def test_the_pages_sentences_are_the_models() -> None:
    computes = [1e3 * modes(D, batch, Cluster(1))[0].compute for batch in (32, 256)]
    check_sentence(
        "docs/scaling.md",
        "which an H200 computes in {} ms ({} images) to {} ms ({})",
        [computes[0], 32, computes[1], 256],
    )
    two, wide = rates(16, 256), "--fc-parallel 16 --compress"
    assert two[wide] == max(two.values())
    check_sentence(
        "docs/scaling.md",
        "two hosts do {} images a second plain, where one does {}, and {} at best "
        f"(`{wide}`); "
        "at 32 images a GPU {}.",
        [two["plain"], rates(8, 256)["plain"], two[wide], max(rates(16, 512).values())],
    )
