"""torchvision's and timm's files, against restatements of their nets by their own layers; and
which file is told to be what."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import vggnet
from vggnet import InputError, weights
from vggnet.cli import main
from vggnet.datasets import digits
from vggnet.formats import torchvision
from vggnet.formats.foreign import NAMED, Preprocessing
from vggnet.imagenet import synset_names
from vggnet.initialize import staged_, whole_
from vggnet.train import build_for

# torchvision's own notation: channels, M for a pooling.
LAYERS = {
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}
NETS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
NARROW = 16


def features(name: str, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for word in LAYERS[name].split():
        if word == "M":
            layers.append(nn.MaxPool2d(2, 2))
            continue
        out = int(word) // NARROW
        layers.append(nn.Conv2d(channels, out, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(out))
        layers.append(nn.ReLU())
        channels = out
    return nn.Sequential(*layers)


class Torchvision(nn.Module):
    """torchvision's VGG, narrow, for images of 224×224 (larger ones it would pool adaptively)."""

    def __init__(self, name: str, batch_norm: bool = False, classes: int = 9, side: int = 7):
        super().__init__()
        self.features = features(name, batch_norm)
        hidden = 4096 // NARROW
        self.classifier = nn.Sequential(
            nn.Linear(512 // NARROW * side * side, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.features(x).flatten(1))
        return scores


class Head(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(4096 // NARROW, classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return scores


class PreLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(512 // NARROW, 4096 // NARROW, 7)
        self.fc2 = nn.Conv2d(4096 // NARROW, 4096 // NARROW, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc2(F.relu(self.fc1(x))))


class Timm(nn.Module):
    """timm's VGG, narrow: convolutions for fc6 and fc7, an average, a linear layer."""

    def __init__(self, name: str, batch_norm: bool = False, classes: int = 9) -> None:
        super().__init__()
        self.features = features(name, batch_norm)
        self.pre_logits = PreLogits()
        self.head = Head(classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.pre_logits(self.features(x)))
        return scores


def randomised(net: nn.Module) -> nn.Module:
    """Weights, biases and running statistics all random, scores of about 1."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            assert module.bias is not None
            module.bias.data.normal_(0, 0.1, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.1, generator=generator)
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
    return net.eval()


def photographs(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


def normalised(images: Tensor) -> Tensor:
    """torchvision's ToTensor and Normalize."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]


def close(found: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    assert (found - expected).abs().max() <= relative * expected.abs().max()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("name", LAYERS)
@torch.inference_mode()
def test_torchvision_in_and_out(name: str, batch_norm: bool, tmp_path: Path) -> None:
    net = randomised(Torchvision(name, batch_norm))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    model = vggnet.load(tmp_path / "net.pth")
    assert (model.config.net, model.config.batch_norm) == (NETS[name], batch_norm)
    assert (model.config.num_classes, model.config.crop) == (9, 224)
    assert model.provenance.class_names is None
    images = photographs(224, 224)
    expected = net(normalised(images))
    close(model(images), expected)
    _, written = weights.convert(tmp_path / "net.pth", tmp_path / "back.pth")
    assert f"{name}{'_bn' * batch_norm}" in written
    assert "RGB 0–1, minus 0.485, 0.456, 0.406" in written
    again = Torchvision(name, batch_norm)
    again.load_state_dict(torch.load(tmp_path / "back.pth", weights_only=True))
    close(again.eval()(normalised(images)), expected)


@pytest.mark.parametrize("size", [(224, 224), (256, 256), (384, 512)])
@pytest.mark.parametrize("batch_norm", [False, True])
@torch.inference_mode()
def test_timms_scores_are_our_dense_scores(
    size: tuple[int, int], batch_norm: bool, tmp_path: Path
) -> None:
    net = randomised(Timm("vgg16", batch_norm))
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    model = vggnet.load(tmp_path / "model.safetensors")
    assert model.provenance.source is not None
    assert model.provenance.source.startswith("timm, images RGB 0–1, minus 0.485,")
    images = photographs(*size)
    close(model(images), net(normalised(images)))


@torch.inference_mode()
def test_timms_bin_and_all_its_nets(tmp_path: Path) -> None:
    images = photographs(224, 256)
    for name, net in NETS.items():
        theirs = randomised(Timm(name))
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
        model = vggnet.load(tmp_path / "pytorch_model.bin", net=net)
        close(model(images), theirs(normalised(images)))
    with pytest.raises(InputError, match="holds net E, not D"):
        vggnet.load(tmp_path / "pytorch_model.bin", net="D")


# The published files' keys, which their notation above must give.
INDICES = {
    ("vgg11", False): "0 3 6 8 11 13 16 18",
    ("vgg13", False): "0 2 5 7 10 12 15 17 20 22",
    ("vgg16", False): "0 2 5 7 10 12 14 17 19 21 24 26 28",
    ("vgg19", False): "0 2 5 7 10 12 14 16 19 21 23 25 28 30 32 34",
    ("vgg16", True): "0 3 7 10 14 17 20 24 27 30 34 37 40",
}


@pytest.mark.parametrize(("name", "batch_norm"), INDICES)
def test_torchvisions_keys(name: str, batch_norm: bool) -> None:
    config = vggnet.Config(NETS[name], batch_norm=batch_norm)
    keys = dict(torchvision.names(config))
    convolutions = [key for key in keys if key.startswith("conv") and key.endswith("weight")]
    found = [keys[key].split(".")[1] for key in convolutions]
    assert " ".join(found) == INDICES[name, batch_norm]
    assert [keys[f"fc{i}.bias"] for i in (6, 7, 8)] == [f"classifier.{i}.bias" for i in (0, 3, 6)]


@torch.inference_mode()
def test_a_classifier_of_nan_is_no_classifier(tmp_path: Path) -> None:
    """torchvision's IMAGENET1K_FEATURES: the authors' convolutions, RGB, no division by a std."""
    net = randomised(Torchvision("vgg16"))
    state = net.state_dict()
    for key in state:
        if key.startswith("classifier"):
            state[key] = torch.full_like(state[key], torch.nan)
    torch.save(state, tmp_path / "features.pth")
    for path in (tmp_path / "features.pth", tmp_path / "features.safetensors"):
        if path.suffix == ".safetensors":
            weights.convert(tmp_path / "features.pth", path)
        model = vggnet.load(path)
        images = photographs(64, 96)
        mean = torch.tensor([0.48235, 0.45882, 0.40784])[:, None, None]
        expected = net.get_submodule("features")((images.float() / 255 - mean) * 255)
        close(model.activations(images, ["pool5"])["pool5"], expected)
        for use in (model, model.score_map):
            with pytest.raises(InputError, match="without its classifier"):
                use(images)
        with pytest.raises(InputError, match="no layer 'scores'"):
            model.activations(images, ["scores"])
        with pytest.raises(InputError, match="smaller than five poolings leave anything of, 32"):
            model.activations(photographs(31, 40), ["pool5"])
    written = tmp_path / "features.safetensors"
    assert main(["evaluate", str(written), "digits"]) == 2
    assert vggnet.read_header(written).config.head is False


def test_a_net_without_a_classifier_can_be_started_from(tmp_path: Path) -> None:
    source = vggnet.VGG(vggnet.Config("D", crop=32, width=1 / 16, head=False))
    target = vggnet.build("D", crop=32, width=1 / 16, num_classes=3)
    before = target.get_parameter("fc6.weight").clone()
    whole_(target, source)
    assert torch.equal(
        target.get_parameter("conv5_3.weight"), source.get_parameter("conv5_3.weight")
    )
    assert torch.equal(target.get_parameter("fc6.weight"), before)


def test_a_net_of_other_classes_can_be_started_from() -> None:
    source = vggnet.build("D", crop=32, width=1 / 16, num_classes=1000)
    target = vggnet.build("D", crop=32, width=1 / 16, num_classes=3, seed=1)
    before = target.get_parameter("fc8.weight").clone()
    whole_(target, source)
    assert torch.equal(target.get_parameter("fc7.weight"), source.get_parameter("fc7.weight"))
    assert torch.equal(target.get_parameter("fc8.weight"), before)


def test_staging_from_a_net_a_without_a_classifier() -> None:
    source = vggnet.VGG(vggnet.Config("A", crop=32, width=1 / 16, head=False))
    target = vggnet.build("B", crop=32, width=1 / 16, num_classes=3)
    assert staged_(target, source) == ["conv1_1", "conv2_1", "conv3_1", "conv3_2"]
    assert torch.equal(target.get_parameter("conv3_2.bias"), source.get_parameter("conv3_2.bias"))


@torch.inference_mode()
def test_training_further_keeps_what_the_convolutions_see(tmp_path: Path) -> None:
    """Of weights with another mean than the new data's."""
    source = vggnet.build("A", crop=32, width=1 / 16, num_classes=9, mean=(51, 102, 204))
    config = vggnet.TrainConfig(vggnet.Config("A", num_classes=10, crop=32, width=1 / 16), S=37)
    model = build_for(config, digits(), source)
    images = photographs(32, 32)
    layers = ["conv1_1", "pool5", "fc7"]
    for name, value in source.activations(images, layers).items():
        assert torch.equal(model.activations(images, layers)[name], value), name


def test_impossible_preprocessing() -> None:
    cases: list[dict[str, Any]] = [{"std": (0, 1, 1)}, {"scale": 0}, {"mean": (1, 2)}]
    for wrong in [*cases, {"order": "GBR"}]:
        with pytest.raises(InputError, match=r"pre-processing|order 'GBR'"):
            Preprocessing(**wrong)


def test_fine_tuning_another_softwares_net(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(Torchvision("vgg16", classes=9, side=1).state_dict(), tmp_path / "vgg16.pth")
    converted = str(tmp_path / "vgg16.safetensors")
    assert main(["convert", str(tmp_path / "vgg16.pth"), converted]) == 0
    run = tmp_path / "run" / "weights.safetensors"
    run.parent.mkdir()
    (run.parent / "metrics.jsonl").touch()
    assert main(["convert", str(tmp_path / "vgg16.pth"), str(run)]) == 2
    assert not run.exists()
    sizes = ["--crop", "32", "--width", "0.0625", "--epochs", "1"]
    found = []
    for name, start in (("a", converted), ("b", str(tmp_path / "vgg16.pth"))):
        command = ["train", "digits", "--net", "D", "--out", str(tmp_path / name), *sizes]
        assert main([*command, "--init-from", start]) == 0
        assert "fc8 starts at random" in capsys.readouterr().out
        found.append(vggnet.load(tmp_path / name / "weights.safetensors").state_dict())
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "checkpoint": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "data parallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "half": lambda state: {key: value.half() for key, value in state.items()},
    "double": lambda state: {key: value.double() for key, value in state.items()},
    "channels last": lambda state: {
        key: value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
        for key, value in state.items()
    },
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("how", WRAPPED)
@torch.inference_mode()
def test_how_people_save(how: str, legacy: bool, tmp_path: Path) -> None:
    """`legacy` is the format of before PyTorch 1.6, which torchvision's files are in."""
    net = randomised(Torchvision("vgg11", side=1))
    path = tmp_path / "anything"
    torch.save(WRAPPED[how](net.state_dict()), path, _use_new_zipfile_serialization=not legacy)
    model = vggnet.load(path)
    images = photographs(32, 32)
    close(model(images), net(normalised(images)), 1e-2 if how == "half" else 1e-5)


@pytest.mark.parametrize("name", NAMED)
@torch.inference_mode()
def test_every_preprocessing(name: str, tmp_path: Path) -> None:
    """Against what each is called in words, on an image of many edges: zero padding included."""
    net = randomised(Torchvision("vgg11", side=1))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    model = vggnet.load(tmp_path / "net.pth", preprocessing=NAMED[name])
    images = photographs(32, 32).double()
    mean = torch.tensor([123.68, 116.779, 103.939], dtype=torch.float64)[:, None, None]
    expected = {
        "torchvision": lambda: normalised(images).double(),
        "torchvision-features": lambda: (
            images - 255 * torch.tensor([0.48235, 0.45882, 0.40784]).double()[:, None, None]
        ),
        "caffe": lambda: (images - mean).flip(1),
        "rgb-mean": lambda: images - mean,
        "rgb-255": lambda: images,
        "rgb-1": lambda: images / 255,
    }[name]()
    close(model(images), net(expected.float()))


def test_the_fold_is_exact_and_goes_back() -> None:
    weight = torch.randn(8, 3, 3, 3)
    for given in [*NAMED.values(), Preprocessing("BGR", 127.5, (1, 1, 1), (0.3, 0.2, 0.1))]:
        folded, mean = given.folded(weight)
        assert mean == pytest.approx([given.scale * value for value in given.mean])
        # Back to within a unit in the last place.
        assert torch.allclose(given.unfolded(folded), weight, rtol=2.4e-7, atol=0)


def test_class_names(tmp_path: Path) -> None:
    net = Torchvision("vgg11", classes=1000, side=1)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    model = vggnet.load(tmp_path / "net.pth")
    names = model.provenance.class_names
    assert names is not None
    assert names == tuple(synset_names().values())
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")
    assert model.provenance.dataset is None  # a thousand classes are no proof
    own = tuple(f"class {i}" for i in range(1000))
    assert vggnet.load(tmp_path / "net.pth", class_names=own).provenance.class_names == own
    for names, message in (
        (("a", "b"), "2 class names for 1000 classes"),
        (("a",) * 1000, "not all different"),
        ((), "0 class names for 1000 classes"),
    ):
        with pytest.raises(InputError, match=message):
            vggnet.load(tmp_path / "net.pth", class_names=names)


def test_weights_with_another_mean(tmp_path: Path) -> None:
    """A mean cannot be folded, so the file's user is told it."""
    model = vggnet.build("A", crop=32, width=1 / 16, num_classes=2, mean=(51, 102, 204))
    vggnet.save(model, tmp_path / "own.safetensors")
    _, written = weights.convert(tmp_path / "own.safetensors", tmp_path / "net.pth")
    assert "vgg11 of 0.0625 times the channels for crops of 32" in written
    assert "minus 0.2, 0.4, 0.8 of R, G, B, divided by 0.229, 0.224, 0.225" in written
    assert "not what torchvision's transforms subtract" in written
    net = Torchvision("vgg11", classes=2, side=1).eval()
    net.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
    images = photographs(32, 32)
    mean, std = torch.tensor([0.2, 0.4, 0.8]), torch.tensor([0.229, 0.224, 0.225])
    x = (images.float() / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        close(net(x), model(images))


def state(**changed: Tensor) -> dict[str, Tensor]:
    return {**Torchvision("vgg11", side=1).state_dict(), **changed}


def saved(content: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


def without(key: str) -> dict[str, Tensor]:
    return {name: value for name, value in state().items() if name != key}


def packed_zip(path: Path) -> None:
    torch.save(state(), path)
    with zipfile.ZipFile(path) as file:
        members = {member: file.read(member) for member in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member, content in members.items():
            file.writestr(member, content)


class Program:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('ran')",)


def cut(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-1000])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.touch(), "not a weight file in a format that vggnet reads"),
    "text": (lambda path: path.write_text("hello"), "not a weight file in a format"),
    "picture": (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0 JFIF"), "not a weight file in a"),
    "folder": (lambda path: path.mkdir(), "is a folder, not a weight file"),
    "missing": (lambda path: None, "no such file"),
    "truncated": (cut, "cannot be read as PyTorch's"),
    "pickled program": (
        lambda path: path.write_bytes(pickle.dumps(Program(), 2)),
        "holds Python objects|cannot be read as PyTorch's",
    ),
    "pickled net": (saved(Torchvision("vgg11", side=1)), "holds Python objects .*state_dict"),
    "no names": (saved([torch.zeros(3)]), "holds a list, not weights by name"),
    "no weights": (saved({"lr": 0.1}), "holds no weights by name"),
    "packed": (packed_zip, "packed as PyTorch packs none"),
    "a missing bias": (saved(without("features.3.bias")), "vgg11, but lacks features.3.bias"),
    "another net": (
        saved({"layer1.0.conv1.weight": torch.zeros(64, 3, 7, 7)}),
        "its names, 'layer1.0.conv1.weight', are not those of a VGG net of torchvision's",
    ),
    "one more": (saved(state(extra=torch.zeros(1))), "vgg11, but has 'extra' too"),
    "a shape": (
        saved(state(**{"features.3.weight": torch.zeros(8, 5, 3, 3)})),
        r"is not net A, which it resembles: conv2_1.weight is \(8, 5, 3, 3\), expected \(8, 4, 3",
    ),
    "a kernel": (
        saved(state(**{"features.3.weight": torch.zeros(8, 4, 5, 5)})),
        "convolutions are those of no VGG net: .*conv2_1 5×5",
    ),
    "a vector": (
        saved(state(**{"classifier.0.weight": torch.zeros(3)})),
        "fc6 or fc8 is no matrix",
    ),
    "a width": (
        saved(state(**{"classifier.0.weight": torch.zeros(1 << 17, 32)})),
        "is no net that vggnet can make: width 32.0",
    ),
    "integers": (
        saved(state(**{"features.0.weight": torch.zeros(4, 3, 3, 3, dtype=torch.int64)})),
        "conv1_1.weight is of torch.int64",
    ),
    "eight bits": (
        saved(state(**{"features.0.bias": torch.zeros(4).to(torch.float8_e4m3fn)})),
        "conv1_1.bias is of torch.float8_e4m3fn: convert it to float32",
    ),
    "NaN": (
        saved(state(**{"features.3.weight": torch.full((8, 4, 3, 3), torch.nan)})),
        "conv2_1.weight has values that are not finite",
    ),
    "overflow": (
        saved(state(**{"features.3.weight": torch.full((8, 4, 3, 3), 1e300, dtype=torch.float64)})),
        "conv2_1.weight has values that are not finite",
    ),
    "sparse": (
        saved(state(**{"features.3.bias": torch.ones(8).to_sparse()})),
        r"holds a tensor that is no plain tensor \(torch._utils._rebuild_sparse_tensor\)",
    ),
    "a claim": (
        saved(state(**{"classifier.3.weight": torch.zeros(1).expand(1 << 20, 1 << 20)})),
        "'classifier.3.weight' claims more values than the file has",
    ),
    "four channels": (
        saved(state(**{"features.0.weight": torch.zeros(4, 4, 3, 3)})),
        "conv1_1 takes 4 channels, its pre-processing is of 3",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = BAD[case]
    path = tmp_path / "file.pth"
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        vggnet.load(path)
    assert str(path) in str(caught.value)
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vggnet: error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(Torchvision("vgg11", classes=2, side=1).state_dict(), tmp_path / "a.pth")
    (tmp_path / "names").write_text("cat\ndog\n")
    source, target = str(tmp_path / "a.pth"), str(tmp_path / "folder" / "a.safetensors")
    names = ["--class-names", str(tmp_path / "names")]
    assert main(["convert", source, target, *names, "--preprocessing", "rgb-1"]) == 0
    out = capsys.readouterr().out
    assert "net A, 2 classes (cat, dog)" in out
    assert "torchvision, images RGB 0–1\n" in out
    assert "images RGB 0–255" in out
    header = vggnet.read_header(target)
    assert header.provenance.class_names == ("cat", "dog")
    assert np.allclose(header.mean, 0)
    cases = {
        (source, str(tmp_path / "a.onnx")): "choose by the ending",
        (source, source): "is the source itself",
        (
            source,
            target,
            "--preprocessing",
            "bgr",
        ): "take one of torchvision, torchvision-features, caffe",
        (target, str(tmp_path / "b.pth"), "--preprocessing", "rgb-1"): "has its own pre-processing",
        (source, target, "--class-names", str(tmp_path / "nope")): "nope: cannot be read",
        (source, str(tmp_path / "names" / "x.pth")): "is not a folder",
    }
    for arguments, message in cases.items():
        assert main(["convert", *arguments]) == 2
        assert message in capsys.readouterr().err
    for content in ("cat\ncat\n", "", "cat\n\n"):
        (tmp_path / "names").write_text(content)
        assert main(["convert", source, target, *names]) == 2
        assert "give a class a line, none empty, none twice" in capsys.readouterr().err
    (tmp_path / "names").write_text("cat\ndog\n", encoding="utf-8-sig")
    assert main(["convert", source, target.upper(), *names]) == 0
    assert vggnet.read_header(target.upper()).provenance.class_names == ("cat", "dog")


def test_nets_that_torchvision_does_not_have(tmp_path: Path) -> None:
    for net in ("A-LRN", "C", "B-5x5"):
        model = vggnet.build(net, crop=32, width=1 / 16, num_classes=2)
        with pytest.raises(InputError, match=f"torchvision has no net {net}"):
            torchvision.state_dict(model)
