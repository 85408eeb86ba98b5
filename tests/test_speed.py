"""`vggnet bench`: its arithmetic, its rows, its errors. How fast anything is, is not asserted."""

import contextlib
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vggnet import RunError, build, save, speed, turns
from vggnet.accounting import account
from vggnet.cli import main
from vggnet.commands import bench
from vggnet.configs import Config
from vggnet.kernels.library import OFF, available
from vggnet.photographs import write_photographs
from vggnet.rates import PEAK_SIDE, Case, Row, Speed
from vggnet.readers import processors
from vggnet.speed import measure

CPU = torch.device("cpu")
TINY = {"crop": 32, "width": 1 / 16, "num_classes": 10}
KEYS = {
    "machine", "versions", "device", "threads", "load_average", "net", "crop", "width", "engine",
    "peak_gflops", "rows",
}  # fmt: skip
ROW_KEYS = {
    "what", "engine", "batch", "height", "width", "ms_per_image", "quartiles", "images_per_second",
    "gflops", "share_of_peak", "peak_memory_mb",
}  # fmt: skip


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `vggnet bench A --quick --json` prints and writes, here in the fewest rounds."""
    file, printed = tmp_path_factory.mktemp("bench") / "speed.json", io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "_QUICK_SECONDS", 0.0)
        patch.setitem(PEAK_SIDE, "cpu", 512)
        assert main(["bench", "A", "--quick", "--json", "--out", str(file)]) == 0
    assert printed.getvalue() == file.read_text()
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_every_row_is_there(quick: dict[str, Any]) -> None:
    assert set(quick) == KEYS
    assert all(set(row) == ROW_KEYS for row in quick["rows"])
    cases = dict.fromkeys(
        (row["what"], row["batch"], row["height"], row["width"]) for row in quick["rows"]
    )
    assert list(cases) == [
        ("forward", 1, 224, 224),
        ("forward", 8, 224, 224),
        *(("dense", 1, side, side) for side in (256, 384, 512)),
        ("train", 8, 224, 224),
        ("loader", 32, 375, 500),
    ]
    engines = {row["engine"] for row in quick["rows"] if row["what"] in ("forward", "dense")}
    assert "plain" in engines
    assert ("fast" in engines) == quick["engine"].startswith("Winograd")
    assert (quick["device"], quick["net"], quick["crop"]) == ("cpu", "A", 224)
    assert (quick["width"], quick["threads"]) == (0.125, torch.get_num_threads())
    assert quick["versions"]["torch"] == torch.__version__
    loader = quick["rows"][-1]
    assert loader["engine"].startswith(("simplejpeg, ", "Pillow, "))
    assert loader["gflops"] is loader["share_of_peak"] is None


def test_the_numbers_of_a_row_agree(quick: dict[str, Any]) -> None:
    """The layers' own counts, added here: two operations a multiply-add."""
    rounding = 2e-4  # every number of the report is rounded to five digits
    counted = 0
    for row in quick["rows"]:
        low, high = row["quartiles"]
        assert 0 < low <= row["ms_per_image"] <= high
        assert row["images_per_second"] * row["ms_per_image"] == pytest.approx(1000, rel=rounding)
        if row["what"] == "loader":
            continue
        layers = account(Config("A", width=0.125), (row["height"], row["width"])).layers
        operations = sum(2 * layer.weights * layer.output[1] * layer.output[2] for layer in layers)
        operations *= 3 if row["what"] == "train" else 1
        assert row["gflops"] * 1e9 == pytest.approx(
            operations * row["images_per_second"], rel=rounding
        )
        share = row["gflops"] / quick["peak_gflops"]
        assert row["share_of_peak"] == pytest.approx(share, rel=rounding)
        counted += 1
    assert counted >= 6


def test_memory_of_the_process_only_grows(quick: dict[str, Any]) -> None:
    found = [row["peak_memory_mb"] for row in quick["rows"]]
    assert found == sorted(found)
    assert 50 < found[0] <= found[-1] < 1e5  # PyTorch alone has more than 50 MB


def test_a_row_in_closed_form() -> None:
    """Net D at 224: 15,470,264,320 multiply-adds; 8 images in 0.4, 0.8 and 1.6 seconds."""
    case = Case("forward", 8, 224, 224, 8, account(Config("D")).multiply_adds, {})
    row = Row.of(case, "plain", [0.8, 1.6, 0.4], 100.0).beside(61.88105728)
    assert row.ms_per_image == pytest.approx(100)
    assert row.quartiles == pytest.approx((50, 200))
    assert row.images_per_second == pytest.approx(10)
    assert row.gflops == pytest.approx(309.4052864)
    assert row.share_of_peak == pytest.approx(5)  # Winograd may: nothing is cut off at 100 %
    even = Row.of(case, "plain", [0.8, 1.6, 2.4, 3.2], None)
    assert even.ms_per_image == pytest.approx(1e3 * statistics.median([0.1, 0.2, 0.3, 0.4]))
    of_loader = Row.of(replace(case, multiply_adds=None), "Pillow", [1, 1, 1], None)
    assert of_loader.beside(50).share_of_peak is of_loader.gflops is None


def test_ways_take_turns() -> None:
    """Each in every round, after a call to warm up; who comes first changes."""
    called: list[str] = []

    def call(name: str) -> Callable[[], object]:
        return lambda: called.append(name)

    times, memory = turns.turns({name: call(name) for name in "abc"}, CPU, 0.0)
    assert "".join(called) == "abc" + "abccbaabc"
    assert {name: len(found) for name, found in times.items()} == dict.fromkeys("abc", 3)
    assert all(found is not None and found > 0 for found in memory.values())
    called.clear()
    turns.turns({name: call(name) for name in "ab"}, CPU, 0.01)
    assert called.count("a") == called.count("b") > 4


def test_training_steps_are_the_same_with_and_without_kernels() -> None:
    """Both ways move the model's parameters, from the same place by the same gradients."""
    torch.manual_seed(0)
    model = build("B", width=0.5, crop=32, num_classes=10, dropout=0.0)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    gradients: dict[str, dict[str, torch.Tensor]] = {}
    measured = speed._Bench(model, CPU, (1,), {"train"})
    with contextlib.closing(measured._cases()) as cases:
        for way, step in next(cases).ways.items():
            model.load_state_dict(start)
            step()
            found = {name: (value, value.grad) for name, value in model.named_parameters()}
            assert not [name for name, (value, _) in found.items() if value.equal(start[name])]
            gradients[way] = {name: of for name, (_, of) in found.items() if of is not None}
    plain = gradients.pop("plain")
    assert len(plain) == len(list(model.parameters()))
    assert ("fast" in gradients) == available()
    for other in gradients.values():
        for name, gradient in plain.items():
            error = (other[name] - gradient).abs().max()
            assert error <= 1e-3 * gradient.abs().max(), name


def test_photographs_are_like_photographs(tmp_path: Path) -> None:
    names = write_photographs(tmp_path, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    contents = [(tmp_path / name).read_bytes() for name in names]
    assert len(set(contents)) == 6
    for content in contents:
        image = Image.open(io.BytesIO(content))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (500, 375))
        # Those of ILSVRC-2012 have about 1.8 bits a pixel of 0.5 to 4.
        assert 0.5 < 8 * len(content) / (500 * 375) < 4
        pixels = np.asarray(image.convert("L"), dtype=float)
        steps = np.diff(pixels, axis=1).std()
        assert 0 < steps < 0.5 * pixels.std()  # smooth: white noise would have 1.4
    write_photographs(tmp_path, 6)
    assert [(tmp_path / name).read_bytes() for name in names] == contents


def test_a_file_of_weights_at_another_crop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dense sizes keep the paper's proportion to the crop; the table has a line a row."""
    file, out = tmp_path / "a.safetensors", tmp_path / "out" / "speed.json"
    save(build("A", **TINY, batch_norm=True), file)  # type: ignore[arg-type]
    content = file.read_bytes()
    monkeypatch.setattr(bench, "_QUICK_SECONDS", 0.0)
    monkeypatch.setitem(PEAK_SIDE, "cpu", 512)
    arguments = ["--quick", "--batch-sizes", "3,3", "--only", "dense,forward", "--threads", "1"]
    assert main(["bench", str(file), *arguments, "--out", str(out)]) == 0
    printed, note = capsys.readouterr()
    assert note == ""  # no bar where there is no terminal
    found = json.loads(out.read_text())
    assert (found["net"], found["crop"], found["width"]) == ("A-BN", 32, 1 / 16)
    sizes = dict.fromkeys((row["what"], row["batch"], row["height"]) for row in found["rows"])
    dense = [("dense", 1, side) for side in (37, 55, 73)]
    assert list(sizes) == [("forward", 3, 32), *dense]
    lines = printed.splitlines()
    assert lines[0].startswith(found["machine"])
    assert "1 thread, torch " in lines[0]
    assert found["engine"] in lines[1]
    table = lines[4 : 5 + len(found["rows"])]
    assert [line.split()[:2] for line in table[1:]] == [
        [row["what"], row["engine"]] for row in found["rows"]
    ]
    assert str(out) in lines[-1]
    assert file.read_bytes() == content


def test_without_kernels_the_model_is_measured_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OFF, "0")
    monkeypatch.setitem(PEAK_SIDE, "cpu", 512)
    model = build("A", **TINY)  # type: ignore[arg-type]
    found = measure(model, only=["forward", "train"], batch_sizes=[2], seconds=0)
    assert [(row.what, row.engine) for row in found.rows] == [
        ("forward", "plain"),
        ("train", "plain"),
    ]
    assert found.engine is not None
    assert OFF in found.engine
    assert measure(model, only=["train"], seconds=0).engine is None


def test_a_gpus_table_says_whose_memory_it_is() -> None:
    case = Case("train", 64, 224, 224, 64, 1, {})
    rows = tuple(Row.of(case, "plain", [1.0, 1.0], 5e3).beside(1) for _ in range(2))
    found = Speed("GPU, CPU", {"torch": "2"}, "cuda:0", 8, 0.25, "D", 224, 1.0, None, 7e5, rows)
    lines = found.text().splitlines()
    assert (
        lines[0]
        == "GPU, CPU, 8 threads, torch 2; net D, crop 224, width 1; load average before: 0.2"
    )
    assert lines[1] == "peak: 700,000 GFLOP/s, matrices of 8,192×8,192 in bfloat16"
    assert lines[3].endswith("  memory, MB")
    assert lines[4].endswith("  5,000")
    assert lines[4].index("5,000") + 5 == len(lines[3])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["F"], ["unknown net 'F'", "the nets are A", "no file"]),
        (["vgg16"], ["did you mean D?"]),
        (["nothing.safetensors"], ["nothing.safetensors", "no such file"]),
        (["folder/D"], ["folder/D", "no such file"]),
        (["text"], ["text", "not a weight file"]),
        (["features"], ["without its classifier"]),
        (["--batch-sizes", "0"], ["batch size 0", "1 or more"]),
        (["--batch-sizes", "1,-8"], ["batch size -8"]),
        (["--batch-sizes", "many"], ["batch-sizes 'many'", "1,8"]),
        (["--only", "forward,speed"], ["only 'speed'", "forward, dense, train, loader"]),
        (["--only", ""], ["only ''"]),
        (["--threads", "0"], ["threads 0"]),
        (["--threads", str(processors() + 1)], [f"threads {processors() + 1}"]),
        (["--device", "tpu"], ["device 'tpu'"]),
        (["--device", "cuda:99"], ["device 'cuda:99'"]),
        (["--out", "."], ["is a folder"]),
        (["--out", "text/speed.json"], ["is not a folder"]),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("no weights in here")
    model = build("A", **TINY)  # type: ignore[arg-type]
    model = type(model)(replace(model.config, head=False))
    save(model, "features")
    assert main(["bench", "--quick", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1, error
    for word in ("vggnet: error: ", *words):
        assert word in error
    assert not Path("speed.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(
    number: signal.Signals,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the midst of reading: the files are gone, PyTorch has its threads again."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(speed, "matrix_peak", lambda *_: 1.0)
    count, seconds, calls = torch.get_num_threads(), turns.seconds_of, iter(range(100))
    seen: list[Path] = []

    def interrupting(way: Callable[[], object], device: torch.device) -> float:
        if next(calls) == 2:
            seen.extend(tmp_path.glob("*/*.jpg"))
            os.kill(os.getpid(), number)
        return seconds(way, device)

    monkeypatch.setattr(turns, "seconds_of", interrupting)
    out = tmp_path / "speed.json"
    arguments = ["bench", "A", "--quick", "--only", "loader", "--threads", "1"]
    assert main([*arguments, "--out", str(out)]) == code
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error in ("\ninterrupted\n", "\nterminated\n")
    assert len(seen) == 60
    assert not list(tmp_path.iterdir())
    assert torch.get_num_threads() == count


def test_out_of_memory_names_what_did_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own words for a processor's memory, where a batch is too large."""

    def too_large(*_: object) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr(speed, "turns", too_large)
    model = build("A", **TINY)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="out of memory at forward, 32×32, batch 4: leave it out"):
        measure(model, only=["forward"], batch_sizes=[4], seconds=0)


def test_an_unreadable_file_stops_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    def written(folder: Path, _: int) -> Iterator[str]:
        (folder / "x.jpg").write_bytes(b"no image")
        return ["x.jpg"]  # type: ignore[return-value]

    monkeypatch.setattr(speed, "write_photographs", written)
    model = build("A", **TINY)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"the loader: .*x\.jpg"):
        measure(model, only=["loader"], seconds=0)


def test_help_does_without_pytorch() -> None:
    code = (
        "import sys; from vggnet.cli import main\n"
        "try: main(['bench', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'tqdm', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    words = " ".join(found.stdout.split())
    assert "can exceed 100 %." in words
    assert "random weights (default D)" in words
