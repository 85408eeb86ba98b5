"""Seconds, rates and bytes in the documentation are those of benchmarks/results, rounded."""

import json
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import pytest

from documentation import (
    PAGES,
    ROOT,
    check_numbers,
    check_sentence,
    section,
    tables,
    text,
)
from measured import committed, ratio

AVX512, AVX2 = committed("peers-avx512-cpu"), committed("peers-cpu")
FEATURES, SERVE, FORWARD = (committed(f"{name}-cpu") for name in ("features", "serve", "forward"))
H200, LAYERS = committed("gpu-fast-h200"), committed("gpu-layers-h200")
PROTOCOLS, DATA, EXPORT = (committed(f"{name}-cpu") for name in ("protocols", "data", "export"))
TRAFFIC, TRAFFIC_256 = committed("traffic-gloo"), committed("traffic-256-gloo")

CASES = ("forward_b1", "forward_b8", "dense_384", "train_b8")
PEERS = {
    "vggnet": "vggnet",
    "PyTorch, eager": "torch_eager",
    "torch.compile, frozen": "torch_compile",
    "PyTorch, channels_last, fused SGD": "torch_channels_last",
    "ONNX Runtime": "onnxruntime",
    "OpenVINO": "openvino",
    "ncnn": "ncnn",
    "MNN": "MNN",
}


def check_row(cells: Sequence[str], values: Sequence[Sequence[float] | None]) -> None:
    """Cells hold these numbers; none in place of an absent one."""
    for cell, expected in zip(cells, values, strict=True):
        check_numbers(cell, expected or [])


@pytest.mark.parametrize(
    ("page", "heading", "number", "results", "spread"),
    [
        ("README.md", "How fast", 0, AVX512, False),
        ("docs/speed.md", "Against others", 0, AVX512, True),
        ("docs/speed.md", "Against others", 1, AVX2, True),
    ],
)
def test_other_software(page: str, heading: str, number: int, results: Any, spread: bool) -> None:
    assert results["rounds"] == (5 if results is AVX512 else 9)
    for name, *cells in tables(section(page, heading))[number]:
        way = PEERS[name]
        for case, cell in zip(CASES, cells, strict=True):
            if way in results[case]:
                more = results["spread"][case][way] if spread else []
                check_numbers(cell, [results[case][way], *more])
            else:
                assert cell == "–"


def test_ratios_to_other_software() -> None:
    *rows, memory = tables(section("docs/speed.md", "Against others"))[2]
    measured = [
        ("forward_b8", "torch_and_runtimes"),
        ("forward_b8", "ncnn_and_mnn"),
        ("forward_b1", "torch_and_runtimes"),
        ("forward_b1", "ncnn_and_mnn"),
        ("dense_384", "torch"),
        ("train_b8", "torch_eager"),
    ]
    for cells, (case, kind) in zip(rows, measured, strict=True):
        for cell, results in zip(cells[2:4], (AVX512, AVX2), strict=True):
            found = results["ratios"][case][kind]
            check_numbers(cell, ratio(found))
            (best,) = (name for name, way in PEERS.items() if way == found["best"])
            named = {"torch_compile": "compiled", "torch_eager": ""}.get(found["best"], best)
            assert f", {named}".rstrip(", ") in cell, cells
    for cell, results in zip(memory[2:4], (AVX512, AVX2), strict=True):
        check_numbers(cell, [*results["peak_memory"]["vggnet_forward_over_weights"].values()])


def test_the_gpu() -> None:
    *forwards, step = tables(section("docs/speed.md", "On a GPU"))[0]
    for cells, (name, found) in zip(forwards, list(H200["inference"].items())[1:], strict=True):
        assert cells[0].endswith(name.replace("_", " "))
        lesser = min(found["over_torchvision"], found["over_timm"], key=lambda one: one["ratio"])
        rates = [found[way] for way in ("vggnet", "torchvision", "timm")]
        more = [found["over_torchvision"]["ratio"]] if "torchvision" in cells[4] else []
        check_row(cells[1:5], [*([rate] for rate in rates), [*ratio(lesser), *more]])
    found = H200["training"]
    rates = [[found["vggnet"]], [found["torchvision"]], None]
    check_row(step[1:5], [*rates, ratio(found["over_torchvision"])])
    products = ("gemm", "nvjet", "cutlass")
    spent = [
        one for one in LAYERS["training"]["kernels"] if any(p in one["name"] for p in products)
    ]
    of_a_layer = [
        way["tflops"]
        for layer in list(LAYERS["layers"].values())[1:]
        for way in layer.values()
        if isinstance(way, dict)
    ]
    check_sentence(
        "docs/speed.md",
        "Of the step's {} ms {} are products, by cuDNN at {} (conv1_2) to {} TFLOP/s",
        [
            LAYERS["training"]["ms"],
            sum(one["ms"] for one in spent),
            round(LAYERS["layers"]["conv1_2"]["forward"]["tflops"], -1),
            round(max(of_a_layer), -1),
        ],
    )


def test_features() -> None:
    rows = tables(section("docs/features.md", "Speed"))[0]
    cases = ("b1_224", "b8_224", "b1_256", "b8_256")
    peaks = FEATURES["peak_memory_mb"]
    for cells, way in zip(rows, ("vggnet", "hook", "cut", "cut_channels_last"), strict=False):
        check_row(cells[1:], [*([FEATURES[case][way]] for case in cases), [peaks[way]]])
    for cells, way in zip(rows[4:], ("hook", "best_cut"), strict=True):
        memory = peaks[way.replace("best_", "")] / peaks["vggnet"]
        ratios = [ratio(FEATURES["ratios"][case][way]) for case in cases]
        check_row(cells[1:], [*ratios, [memory]])


def test_serving() -> None:
    rows = tables(section("docs/results.md", "Serving"))[1]
    for cells, one in zip(rows, SERVE["clients"], strict=True):
        times, refused = one["answer_ms"], one["refusal_ms"]
        memory = [min(one["memory_mb"]), max(one["memory_mb"])]
        seen = [[one["answers_a_second"]], [times["median"]], [times["p99"]], [one["refusals"]]]
        check_row(cells, [[one["clients"]], *seen, refused and [refused["median"]], memory])
        assert one["other_statuses"] == []


def test_the_forward() -> None:
    for cells in tables(section("docs/results.md", "Forward: D beside plain layers"))[0]:
        found = FORWARD[f"b{cells[0]}"]
        check_row(cells[1:], [[found["ratio"]], found["ratio_quartiles"], [found["vggnet_ms"]]])
        assert found["ratio"] <= 1.03
        assert found["largest_score_difference"] == 0


def test_protocols() -> None:
    methods = ("centre-crop", "dense", "ten-crop", "multi-crop", "multi-crop+dense")
    rows = tables(section("docs/results.md", "Protocols: what they cost"))[0]
    for cells, method in zip(rows, methods, strict=True):
        found = [one for one in PROTOCOLS["by_protocol"] if one["method"] == method]
        keys = ("forwards", "giga_multiply_adds", "seconds")
        check_row(cells[1:], [[one[key]] for one in found for key in keys])


def test_reading() -> None:
    loading, ways = tables(section("docs/results.md", "Reading images"))
    kinds = {
        f"{size.replace('x', '×')}, {rate}": found
        for rate, sizes in DATA["by_bitrate"].items()
        for size, found in sizes.items()
    }
    assert [cells[0] for cells in loading] == list(kinds)
    for name, *cells in loading:
        found = kinds[name]
        loaders = found["loaders"]
        speeds = [[loaders["images_per_second"][way]] for way in ("vggnet, 1", "pillow, 1")]
        compared = (
            *("vs_pillow", "vs_pillow_2_workers", "vs_pillow_float"),
            *("workers_2_vs_1", "pillow_workers_2_vs_1"),
        )
        ratios = [ratio(loaders[way]) for way in compared]
        check_row(cells, [[found["bits_per_pixel"]], *speeds, *ratios])
    assert len(ways) == 10
    for size, way, *cells in ways:
        usual, heavy = (
            kinds[f"{size}, {rate}"]["antialiasing"][way] for rate in ("usual", "heavy")
        )
        error = [usual["error_rms"]], [usual["error_max"]], [heavy["error_rms"]]
        check_row(cells, [[usual["vs_pillow"]["ratio"]], *error])


def test_exported_nets() -> None:
    sizes, errors = tables(section("docs/results.md", "Exported nets"))
    full = EXPORT["full_size"]
    for name, *cells in sizes[1:]:
        way = name.replace(" Runtime", "").replace(",", "").lower()
        speeds = [[full[batch]["images_per_second"][way]] for batch in ("batch_1", "batch_8")]
        speeds.append([EXPORT["memory_mb"][way]])
        difference = [*full[way]["difference"].values()]
        check_row(cells, [[full[way]["megabytes"]], difference, *speeds])
    check_row(
        sizes[0][3:],
        [*([full[b]["images_per_second"]["pytorch"]] for b in ("batch_1", "batch_8")), None],
    )
    measured = [(net, net[way]) for net in EXPORT["errors"].values() for way in ("dense", "crop")]
    for cells, (net, found) in zip(errors, measured, strict=True):
        assert cells[0].endswith(f", {net['net']}")
        ways = ("pytorch", "onnx int8", "openvino int8")
        check_row(cells[2:], [[found["n"]], *([found[way]["top1"]] for way in ways)])
        assert (
            len({found[way]["top1"] for way in ("pytorch", "onnx float32", "openvino float32")})
            == 1
        )


def test_weight_files() -> None:
    (rows,) = tables(section("docs/results.md", "Weight files"))
    found = committed("files-cpu")
    for cells, (kind, row) in zip(rows, found["files"].items(), strict=True):
        assert cells[0] == f"{kind}, `{row['suffix']}`"
        seconds = [row["seconds"], row["fastest_and_slowest"][1]]
        check_row(cells[1:], [[row["megabytes"]], seconds, [row["memory_mb"]]])


def test_stored_weights() -> None:
    found = committed("fc-cpu")
    rows = tables(section("docs/speed.md", "On a CPU"))[-1]
    assert [cells[0] for cells in rows] == ["bfloat16", "int8"]
    for fc, *cells in rows:
        digits = found["digits"][fc]
        assert digits["top1"] == found["digits"]["float32"]["top1"]
        values = [ratio(found["speed"][fc]), [found["difference"][fc]]]
        check_row(cells, [*values, [digits["top1"], digits["decided_otherwise"]]])


def test_the_soak() -> None:
    (file,) = (ROOT / "benchmarks" / "results").glob("????-??-??-soak.xml")
    (suite,) = ElementTree.parse(file).getroot()
    assert {suite.get(kind) for kind in ("errors", "failures", "skipped")} == {"0"}
    page = section("docs/results.md", "Soak")
    check_numbers(
        " ".join(re.findall(r"all (.*) passed in (.*) seconds", page)[0]),
        [float(suite.attrib[key]) for key in ("tests", "time")],
    )
    rows = tables(page)[0]
    for cells, case in zip(rows, suite, strict=True):
        found = {one.attrib["name"]: one.attrib["value"] for one in case.iter("property")}
        if "caffe-old" in found:  # of each kind of files, what became of them
            counts = [json.loads(kind) for kind in found.values()]
            assert len(counts) == 16
            assert all(not one["failures"] for one in counts)
            number = sum(one["read"] + one["refused"] for one in counts)
        else:
            (number,) = (int(count) for count in found.values())
        check_row(cells[1:], [[number], [float(case.attrib["time"])]])


def test_traffic() -> None:
    rows = tables(section("docs/scaling.md", "Measured here"))[0]
    for cells, found in zip(rows, TRAFFIC["rows"] + TRAFFIC_256["rows"], strict=True):
        check_row(cells[:2], [[found["ranks"]], [found["batch"]]])
        assert ("--compress" in cells[2]) == found["compress"]
        groups = f"--fc-parallel {found['fc_parallel']}"
        assert groups in cells[2] or found["fc_parallel"] == 1
        sent, model = found["mb_sent_by_a_rank"], found["mb_of_the_model"]
        check_row(cells[3:], [[sent], [model], [100 * (found["ratio"] - 1)]])


def test_every_file_of_results_is_linked() -> None:
    pages = "".join(text(page) for page in PAGES)
    for file in (ROOT / "benchmarks" / "results").iterdir():
        assert f"results/{file.name})" in pages, file.name


def test_the_rehearsal() -> None:
    found = committed("rehearsal-cpu")
    *_, stages = tables(section("docs/results.md", "ImageNet, rehearsed"))
    for cells, seconds in zip(stages, found["seconds"].values(), strict=True):
        check_numbers(cells[1], [seconds])
    rows = [found["rows"][f"table {number}"] for number in (3, 4, 5, 6)]
    sentence = "All {} rows of Table 3, {} of Table 4, {} of Table 5 and {} of Table 6 have their"
    # The numbers of the tables are the sentence's own.
    filled = sentence.format(*rows)
    page = " ".join(text("docs/results.md").split())
    assert filled in page
    assert f"said {found['planned_seconds']} seconds for what" in page
    assert f"the largest process took {found['peak_memory_mb']:,} MB" in page
    assert all(found["checks"].values())
