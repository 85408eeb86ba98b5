"""Exported nets say in their own runtimes, opened by their own means, what the net says."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

import vggnet.export
from exporting import NETS, SIZES, apart, images, net, scores
from vggnet import VGG, InputError, RunError, save
from vggnet.configs import Config
from vggnet.export import Form, Precision, compare, export, layers, libraries, runtimes
from vggnet.model import Provenance, build

onnx = libraries.library("onnx", "onnx")
onnxruntime = libraries.library("onnxruntime", "onnx")
openvino = libraries.library("openvino", "openvino")
ncnn = libraries.library("ncnn", "ncnn")

FORMS = get_args(Form)


def sizes(form: str) -> list[tuple[int, int, int]]:
    return SIZES if form == "dense" else [(1, 0, 0), (5, 0, 0)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETS)
def test_onnx_runtime_gives_the_nets_scores(name: str, form: Form, tmp_path: Path) -> None:
    model = net(name)
    export(model, tmp_path / "net.onnx", format="onnx", form=form)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    for size in sizes(form):
        pixels = images(model, *size)
        (found,) = session.run(["scores"], {"images": pixels})
        assert apart(found, scores(model, pixels)) < 1e-4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETS)
def test_openvino_gives_the_nets_scores(name: str, form: Form, tmp_path: Path) -> None:
    model = net(name)
    export(model, tmp_path / "net.xml", format="openvino", form=form)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(str(tmp_path / "net.xml"), "CPU", exact)
    for size in sizes(form):
        pixels = images(model, *size)
        assert apart(compiled(pixels)["scores"], scores(model, pixels)) < 1e-4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETS)
def test_ncnn_gives_the_nets_scores(name: str, form: Form, tmp_path: Path) -> None:
    model = net(name)
    export(model, tmp_path / "net.param", format="ncnn", form=form)
    runtime = ncnn.Net()
    runtime.opt.use_fp16_packed = runtime.opt.use_fp16_storage = False
    runtime.opt.use_fp16_arithmetic = runtime.opt.use_bf16_storage = False
    assert runtime.load_param(str(tmp_path / "net.param")) == 0
    assert runtime.load_model(str(tmp_path / "net.bin")) == 0
    for size in sizes(form):
        pixels = images(model, *size)[:1]
        floats = pixels[0].astype(np.float32)
        extractor = runtime.create_extractor()
        extractor.input("images", ncnn.Mat(floats).clone())
        _, found = extractor.extract("scores")
        assert apart(np.array(found)[None], scores(model, pixels)) < 1e-4


# Tracing takes its time: the nets that differ in their operators.
@pytest.mark.parametrize(
    ("name", "form"), [("A-LRN-caffe", "dense"), ("C", "crop"), ("B-5x5", "crop")]
)
def test_an_exported_program_gives_the_nets_scores(name: str, form: Form, tmp_path: Path) -> None:
    model = net(name)
    path = tmp_path / "net.pt2"
    export(model, path, format="torch", form=form)
    extra = {"net": "", "crop": ""}
    program = torch.export.load(path, extra_files=extra).module()
    for size in sizes(form):
        pixels = images(model, *size)
        found = program(torch.from_numpy(pixels)).detach().numpy()
        assert apart(found, scores(model, pixels)) < 1e-6
    assert (extra["net"], extra["crop"]) == (model.config.title, str(model.config.crop))


def named() -> VGG:
    """Net A-LRN that has learned three classes."""
    model = build("A-LRN", num_classes=3, crop=32, width=1 / 16, mean=(120.5, 110.25, 100))
    model.provenance = Provenance(class_names=("ä", "b c", "<d>"), dataset="letters", S=(32, 64))
    return model


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", get_args(Precision))
def test_an_onnx_file_describes_itself(form: Form, precision: Precision, tmp_path: Path) -> None:
    model = named()
    calibration = [np.full((40, 40, 3), 90, np.uint8)] if precision == "int8" else None
    path = tmp_path / "net.onnx"
    export(model, path, format="onnx", form=form, precision=precision, calibration=calibration)
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    assert file.opset_import[0].version == 13
    found = {entry.key: entry.value for entry in file.metadata_props}
    assert found["net"] == "A-LRN"
    assert json.loads(found["class_names"]) == ["ä", "b c", "<d>"]
    assert json.loads(found["mean"]) == [120.5, 110.25, 100]
    assert json.loads(found["provenance"]) == {"dataset": "letters", "S": [32, 64]}
    assert found["vggnet"] == vggnet.__version__
    assert (found["form"], found["weights"]) == (form, precision)
    (source,), (result,) = file.graph.input, file.graph.output
    assert (source.name, result.name) == ("images", "scores")
    assert source.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    shape = [side.dim_param or side.dim_value for side in source.type.tensor_type.shape.dim]
    assert shape == (["n", 3, "h", "w"] if form == "dense" else ["n", 3, 32, 32])
    assert [side.dim_param or side.dim_value for side in result.type.tensor_type.shape.dim] == [
        "n",
        3,
    ]


def test_nodes_and_tensors_are_named_as_layers(tmp_path: Path) -> None:
    export(named(), tmp_path / "net.onnx", format="onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    wanted = [layer.name for layer in named().config.layers() if layer.kind != "dropout"]
    nodes = [node.name for node in graph.node]
    assert nodes == ["to_float", "subtract_mean", *wanted, "average", "flatten"]
    assert [node.output[0] for node in graph.node[:-1]] == nodes[:-1]
    assert {value.name for value in graph.initializer} >= {"conv1_1.weight", "fc8.bias", "mean"}
    export(named(), tmp_path / "net.param", format="ncnn", form="crop")
    lines = (tmp_path / "net.param").read_text().splitlines()[2:]
    assert [line.split()[1] for line in lines] == ["images", "subtract_mean", *wanted]


def test_openvino_and_ncnn_describe_as_their_formats_allow(tmp_path: Path) -> None:
    export(named(), tmp_path / "net.xml", format="openvino")
    model = openvino.Core().read_model(str(tmp_path / "net.xml"))
    assert json.loads(model.get_rt_info(["vggnet", "class_names"]).value) == ["ä", "b c", "<d>"]
    assert str(model.input("images").get_partial_shape()) == "[?,3,?,?]"
    export(named(), tmp_path / "other.param", format="ncnn", form="crop")
    lines = (tmp_path / "other.param").read_text().splitlines()
    assert lines[0] == "7767517"
    assert lines[2].endswith("0=32 1=32 2=3")


@pytest.mark.parametrize(("lrn", "alpha"), [("krizhevsky", 5e-4), ("caffe", 1e-4)])
def test_alpha_is_what_runtimes_divide_by_the_size(lrn: Any, alpha: float) -> None:
    model = build("A-LRN", num_classes=2, crop=32, width=1 / 16, lrn=lrn)
    step = next(step for step in layers.steps(model) if step.kind == "lrn")
    assert step.lrn is not None
    assert step.lrn.alpha == pytest.approx(alpha)
    assert (step.lrn.size, step.lrn.beta, step.lrn.k) == (5, 0.75, 2)


@pytest.mark.parametrize("name", ["onnx", "openvino", "torch", "ncnn"])
def test_float16_is_half_the_size(name: Any, tmp_path: Path) -> None:
    model = build("A", num_classes=10, crop=32, width=1 / 4)
    suffix = runtimes.SUFFIXES[name]
    full = export(model, tmp_path / f"full{suffix}", format=name, form="crop")
    half = export(model, tmp_path / f"half{suffix}", format=name, form="crop", precision="float16")
    # Beside weights there are the graph, biases and the mean.
    assert full.files[0].stat().st_size > 4 * 1_500_000
    assert 0.5 < half.files[0].stat().st_size / full.files[0].stat().st_size < 0.53
    assert full.difference < 1e-4 < half.difference < 5e-3
    assert half.bytes == sum(file.stat().st_size for file in half.files)


def test_ncnn_pads_an_odd_number_of_float16(tmp_path: Path) -> None:
    model = build("A", num_classes=3, in_channels=1, crop=32, width=3 / 64)
    found = export(model, tmp_path / "net.param", format="ncnn", precision="float16")
    assert model.conv1_1.weight.numel() % 2  # type: ignore[operator,union-attr]
    assert found.difference < 5e-3


def test_what_is_beyond_float16_is_refused(tmp_path: Path) -> None:
    model = build("A", num_classes=10, crop=32, width=1 / 16)
    with torch.no_grad():
        model.fc6.weight[3, 4] = -7e4  # type: ignore[operator,union-attr]
    with pytest.raises(InputError, match="fc6 has weights beyond float16"):
        export(model, tmp_path / "net.onnx", format="onnx", precision="float16")
    assert not list(tmp_path.iterdir())


def test_more_weights_than_protobuf_holds_are_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        huge = VGG(Config("A", width=2.0))
    steps = layers.steps(build("A", num_classes=10, crop=32, width=1 / 16))
    size = sum(value.numel() for value in huge.parameters())
    wide = np.broadcast_to(np.float32(0), (size, 1, 1, 1))
    steps[0] = layers.Step("conv1_1", "conv", wide, np.zeros(1, np.float32))
    with pytest.raises(InputError, match=r"2\.\d GB .* --fp16, --format torch or --format ncnn"):
        vggnet.export.onnx._check_size(steps, "float32")
    vggnet.export.onnx._check_size(steps, "float16")


def test_a_net_whose_scores_are_others_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("before")
    model = build("A", num_classes=10, crop=32, width=1 / 16)
    monkeypatch.setattr(compare, "difference", lambda *_: 2e-4)
    with pytest.raises(RunError, match=r"net\.onnx: not written"):
        export(model, path, format="onnx")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "difference", interrupted)
    model = build("A", num_classes=10, crop=32, width=1 / 16)
    with pytest.raises(KeyboardInterrupt):
        export(model, tmp_path / "net.xml", format="openvino")
    assert not list(tmp_path.iterdir())


def test_a_net_without_its_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without its classifier"):
        export(VGG(Config("A", width=1 / 16, head=False)), tmp_path / "a.onnx", format="onnx")


def test_a_net_elsewhere_or_narrower_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"bfloat16 on cpu.*model\.float\(\)\.cpu\(\)"):
        export(named().bfloat16(), tmp_path / "a.onnx", format="onnx")
    grey = build("A", num_classes=2, in_channels=1, crop=32, width=1 / 16)
    images = [np.zeros((40, 40, 3), np.uint8)]
    with pytest.raises(InputError, match="takes 1 channels; images have 3"):
        export(grey, tmp_path / "a.onnx", format="onnx", precision="int8", calibration=images)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "name", "library", "extra"),
    [
        ("onnx", "net.onnx", "onnxruntime", "onnx"),
        ("openvino", "net.xml", "openvino", "openvino"),
        ("ncnn", "net.param", "ncnn", "ncnn"),
    ],
)
def test_a_missing_library_is_named(
    format: Any,
    name: str,
    library: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(InputError, match=rf"{library}.*pip install 'vggnet\[{extra}\]'"):
        export(named(), tmp_path / name, format=format)
    assert not list(tmp_path.iterdir())


def test_two_nets_do_not_share_a_file_of_weights(tmp_path: Path) -> None:
    export(named(), tmp_path / "net.param", format="ncnn")
    with pytest.raises(InputError, match=r"net\.bin would be net\.param's too"):
        export(named(), tmp_path / "net.xml", format="openvino")
    export(named(), tmp_path / "net.param", format="ncnn")  # again is no matter


@pytest.mark.parametrize(
    ("name", "words"), [("net.tflite", "takes .onnx"), ("net.onnx", "no such file")]
)
def test_what_cannot_be_opened(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        runtimes.load(tmp_path / name)


def test_a_saved_net_exports_as_the_net(tmp_path: Path) -> None:
    model = named()
    save(model, tmp_path / "net.safetensors")
    one = export(vggnet.load(tmp_path / "net.safetensors"), tmp_path / "a.onnx", format="onnx")
    two = export(model, tmp_path / "b.onnx", format="onnx")
    assert one.path.read_bytes() == two.path.read_bytes()
