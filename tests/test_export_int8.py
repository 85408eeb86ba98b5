"""Eight bits: what they lose, what they need; and the command line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from exporting import scores
from vggnet import VGG, InputError, RunError, save
from vggnet.cli import main
from vggnet.configs import Config
from vggnet.datasets import digits
from vggnet.evaluate import evaluate
from vggnet.export import Form, compare, export, int8, libraries, runtimes
from vggnet.images import rescale
from vggnet.model import Provenance, build
from vggnet.parts import Part

onnx = libraries.library("onnx", "onnx")


@pytest.fixture(scope="module")
def trained() -> VGG:
    """Net A after some seconds of the digits."""
    data = digits()
    model = build("A", num_classes=10, crop=32, width=1 / 8, mean=data.mean_rgb)
    pixels = np.stack([rescale(image, 32) for image in data.train.images]).transpose(0, 3, 1, 2)
    inputs, labels = torch.from_numpy(pixels.copy()), torch.from_numpy(data.train.labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for chosen in torch.randperm(len(labels), generator=generator).view(-1, 50):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model.provenance = Provenance(class_names=data.class_names, dataset="digits", S=32)
    return model


@pytest.fixture(scope="module")
def weights(trained: VGG, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    save(trained, path)
    return path


@pytest.mark.parametrize("form", ["dense", "crop"])
@pytest.mark.parametrize(("format", "name"), [("onnx", "net.onnx"), ("openvino", "net.xml")])
def test_int8_decides_as_the_net(
    trained: VGG, format: Any, name: str, form: Form, tmp_path: Path
) -> None:
    data = digits()
    path = tmp_path / name
    found = export(
        trained,
        path,
        format=format,
        form=form,
        precision="int8",
        calibration=compare.evenly(data.train, 64).images,
    )
    exact = export(trained, tmp_path / f"exact{path.suffix}", format=format, form=form)
    # The graph is not small beside the weights of so small a net.
    assert found.files[0].stat().st_size < 0.3 * exact.files[0].stat().st_size
    pixels = np.stack([rescale(image, 32) for image in data.test.images]).transpose(0, 3, 1, 2)
    wanted = scores(trained, pixels.copy())
    eight = runtimes.load(path)(pixels.copy())
    error = (wanted.argmax(1) != data.test.labels).mean()
    assert error < 0.15  # it has learned
    assert (eight.argmax(1) == wanted.argmax(1)).mean() > 0.99
    apart = np.abs(eight - wanted).max(axis=1) / np.abs(wanted).max()
    assert 1e-4 < np.median(apart) < 0.01


def test_weights_are_int8_by_channel_and_scores_are_not(trained: VGG, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    images = digits().train.images[:4]
    export(trained, path, format="onnx", precision="int8", calibration=images)
    graph = onnx.load(path).graph
    values = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    for layer in ("conv1_1", "conv5_2", "fc6", "fc8"):
        weight = values[f"{layer}.weight_quantized"]
        assert weight.dtype == np.int8
        assert values[f"{layer}.weight_scale"].shape == (len(weight),)
        # No farther from the net's than half a step of its channel.
        own = getattr(trained, layer).weight.detach().numpy().reshape(weight.shape)
        scale = values[f"{layer}.weight_scale"].reshape(-1, *[1] * (weight.ndim - 1))
        assert np.abs(weight * scale - own).max(initial=0, where=scale > 0) <= scale.max() / 1.99
    (fc8,) = (node for node in graph.node if node.name == "fc8")
    (after,) = (node for node in graph.node if fc8.output[0] in node.input)
    assert after.op_type == "GlobalAveragePool"


def test_calibration_sees_what_testing_sees() -> None:
    model = build("A", num_classes=2, crop=32, width=1 / 16)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    model.provenance = Provenance(S=(40, 50))
    (whole,) = int8.views(model, [image], "dense")
    assert np.array_equal(whole[0].transpose(1, 2, 0), rescale(image, 45))
    (crop,) = int8.views(model, [image], "crop")
    top, left = round((45 - 32) / 2), round((68 - 32) / 2)
    assert np.array_equal(crop, whole[:, :, top : top + 32, left : left + 32])
    model.provenance = Provenance()
    assert int8.scale_for(model) == round(32 * 256 / 224)
    with pytest.raises(InputError, match="calibrate"):
        int8.views(model, [], "dense")


def test_errors_are_those_of_evaluate(trained: VGG, tmp_path: Path) -> None:
    data = digits()
    export(trained, tmp_path / "net.onnx", format="onnx")
    part = compare.evenly(data.test, 60)
    assert len(part) == 60
    assert [int(label) for label in part.labels] == data.test.labels[
        np.arange(60) * 500 // 60
    ].tolist()
    session = runtimes.load(tmp_path / "net.onnx")
    model, exported = compare.side_by_side(trained, [session], part, "dense")
    wanted = evaluate(trained, part, scales=[32], flips=False)
    assert model.result == exported.result == wanted
    assert exported.images_per_second > 0
    (crops, *_) = compare.side_by_side(trained, [], part, "crop")
    assert crops.result == evaluate(trained, part, scales=[32], method="centre-crop", flips=False)


def test_evenly_keeps_names_and_refuses_none() -> None:
    part = digits().test
    named = Part(part.images, part.labels, [f"{i}.png" for i in range(len(part))])
    assert compare.evenly(named, 4).names == ["0.png", "125.png", "250.png", "375.png"]
    assert compare.evenly(part, 500) is part
    with pytest.raises(InputError, match="0 images"):
        compare.evenly(part, 0)


def test_the_command_compares(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "net.onnx"
    code = main(
        [
            *("export", str(weights), "--format", "onnx", "--out", str(out), "--int8"),
            *("--calibrate", "digits", "--calibrate-images", "20", "--test-images", "50"),
        ]
    )
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    lines = printed.out.splitlines()
    assert "net A, 10 classes" in lines[0]
    assert "1×32×32" in lines[2]
    assert lines[4].startswith("net float32")
    assert lines[5].startswith("onnx int8")
    assert "n=50" in lines[6]
    assert "S=32, Q=32, dense" in lines[6]
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(("format", "name"), [("onnx", "net.onnx"), ("openvino", "net.xml")])
def test_no_usage_data_are_gathered(format: str, name: str, weights: Path, tmp_path: Path) -> None:
    """The runtimes write an identifier into the home folder before they send anything."""
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-W", "error", "-m", "vggnet", "export", str(weights)]
    command += ["--format", format, "--out", str(tmp_path / name), "--int8"]
    command += ["--calibrate", "digits", "--calibrate-images", "3", "--test-images", "10"]
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("CI", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    }
    found = subprocess.run(
        command,
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert f"{format} int8" in found.stdout
    assert not list(home.iterdir())


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: object) -> str:
        code = main(["export", *map(str, arguments)])
        printed = capsys.readouterr()
        assert (code, printed.out, printed.err.count("\n")) == (2, "", 1), printed
        return printed.err

    return call


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--format tflite --out net.tflite", "unknown format 'tflite'"),
        ("--format onnx --out net.xml", "net.xml: a file of format onnx ends in .onnx"),
        ("--format ncnn --out net.bin", "ends in .param"),
        ("--format onnx --out net.onnx --form square", "unknown form 'square'"),
        ("--format onnx --out net.onnx --int8", "--calibrate DATA"),
        ("--format onnx --out net.onnx --calibrate digits", "add --int8"),
        ("--format onnx --out net.onnx --fp16 --int8 --calibrate digits", "give one of them"),
        ("--format torch --out net.pt2 --int8 --calibrate digits", "onnx and openvino, not torch"),
        ("--format ncnn --out net.param --int8 --calibrate digits", "not ncnn"),
        (
            "--format onnx --out net.onnx --int8 --calibrate digits --calibrate-images 0",
            "--calibrate-images 0 is not 1 or more",
        ),
        ("--format onnx --out net.onnx --test digits --test-images -1", "--test-images -1"),
        ("--format onnx --out net.onnx --test nowhere", "unknown data set 'nowhere'"),
        ("--format onnx --out weights.safetensors/net.onnx", "is not a folder"),
    ],
)
def test_mistakes_are_one_line(
    flags: str,
    words: str,
    weights: Path,
    fails: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.safetensors").write_bytes(weights.read_bytes())
    assert words in fails("weights.safetensors", *flags.split())
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_classes_must_be_those_of_the_test_data(
    tmp_path: Path, fails: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "three.safetensors", tmp_path / "net.onnx"
    save(build("A", num_classes=3, crop=32, width=1 / 16), path)
    flags = [path, "--format", "onnx", "--out", out]
    assert "3 classes; digits has 10" in fails(*flags, "--test", "digits")
    # To calibrate, images are enough.
    flags += ["--int8", "--calibrate", "digits", "--calibrate-images", 2]
    assert main(["export", *map(str, flags)]) == 0
    assert "no errors are counted: 3 classes" in capsys.readouterr().err


def test_missing_weights_and_missing_classifiers(tmp_path: Path, fails: Callable[..., str]) -> None:
    flags = ["--format", "onnx", "--out", tmp_path / "net.onnx"]
    assert "no such file" in fails(tmp_path / "gone.safetensors", *flags)
    path = tmp_path / "headless.safetensors"
    save(VGG(Config("A", width=1 / 16, head=False)), path)
    assert f"{path}: net A is without its classifier" in fails(path, *flags)


def test_scores_that_are_not_finite_end_the_command(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build("A", num_classes=3, crop=32, width=1 / 16)
    with torch.no_grad():
        model.fc8.bias[0] = torch.inf  # type: ignore[operator,union-attr]
    path = tmp_path / "bad.safetensors"
    save(model, path)
    out = tmp_path / "net.onnx"
    assert main(["export", str(path), "--format", "onnx", "--out", str(out)]) == 2
    assert "fc8.bias of the net has values that are not finite" in capsys.readouterr().err
    assert not out.exists()


def test_nothing_of_somebody_elses_is_overwritten(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OpenVINO's and ncnn's weights go into a .bin, as PyTorch's do."""
    source = tmp_path / "pytorch_model.bin"
    source.write_bytes(weights.read_bytes())
    for suffix, format in ((".xml", "openvino"), (".param", "ncnn")):
        out = str(source.with_suffix(suffix))
        assert main(["export", str(weights), "--format", format, "--out", out]) == 2
        assert "pytorch_model.bin, which is not its" in capsys.readouterr().err
    assert source.read_bytes() == weights.read_bytes()


def test_weights_too_small_for_float16(tmp_path: Path) -> None:
    model = build("A", num_classes=3, crop=32, width=1 / 16)
    with torch.no_grad():
        model.get_parameter("fc6.weight").mul_(1e-8)
        model.get_parameter("fc7.weight").mul_(1e4)
    with pytest.raises(RunError, match="too small for float16"):
        export(model, tmp_path / "net.onnx", format="onnx", precision="float16")
    assert not (tmp_path / "net.onnx").exists()
