"""The nets of Table 7 against the counts and maps that their papers and public files print."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference import literal_lrn as reference_lrn
from vggnet import (
    VGG,
    Config,
    InputError,
    TrainConfig,
    account,
    load,
    posteriors,
    read_header,
    report,
    save,
)
from vggnet.adaptations import on_digits
from vggnet.card import card
from vggnet.cli import main
from vggnet.configs import NETS
from vggnet.datasets import digits
from vggnet.export import export
from vggnet.graph import Settings, grid
from vggnet.initialize import initialize_
from vggnet.loading import TrainingImages
from vggnet.modules import FullyConnected, SpatialPyramid
from vggnet.parts import Dataset, Part
from vggnet.recipes import at_384, jittered, rival_256
from vggnet.reproduce import reproduce
from vggnet.rivals import RIVALS, SIDE_WEIGHT, Rival, beside
from vggnet.step import Parallel, Step
from vggnet.train import build_for, train

SMALL = {name: beside(name, Config("A", 10, crop=64, width=1 / 16)) for name in RIVALS}


def full(name: str) -> Rival:
    """As in its paper, 1,000 classes."""
    return beside(name, Config("A"))


def net(config: Rival, seed: int = 0) -> VGG:
    model = VGG(config)
    initialize_(model, "glorot", torch.Generator().manual_seed(seed))
    return model.eval()


def pixels(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).float()


# Published: Caffe's bvlc_alexnet and bvlc_googlenet files, without and with the side classifiers.
# Zeiler & Fergus and He et al. print none: layer by layer from the widths that they print.
FC7_FC8 = (4096 + 1) * 4096 + (4096 + 1) * 1000
ZF_CONVOLUTIONS = (
    (3 * 49 + 1) * 96 + (96 * 25 + 1) * 256 + (256 * 9 + 1) * 384 + (384 * 9 + 1) * (384 + 256)
)
PARAMETERS = {
    "Krizhevsky": 60_965_224,
    "ZF": ZF_CONVOLUTIONS + (256 * 36 + 1) * 4096 + FC7_FC8,
    "OverFeat": 145_920_872,
    "GoogLeNet": 6_998_552,
    "SPP": ZF_CONVOLUTIONS + (256 * 50 + 1) * 4096 + FC7_FC8,
}
WITH_SIDES = {**PARAMETERS, "GoogLeNet": 13_378_280}


@pytest.mark.parametrize("name", RIVALS)
def test_parameters_are_the_published(name: str) -> None:
    config = full(name)
    assert account(config).parameters == PARAMETERS[name]
    with torch.device("meta"):
        model = VGG(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == WITH_SIDES[name]


def test_rounded_counts_of_the_papers() -> None:
    millions = {name: PARAMETERS[name] / 1e6 for name in RIVALS}
    adds = {name: account(full(name)).multiply_adds / 1e6 for name in RIVALS}
    # Krizhevsky et al., abstract: 60 million parameters. OverFeat, Table 4: 145 million and 2,810
    # million connections. GoogLeNet, §1: 1.5 billion multiply-adds.
    assert int(millions["Krizhevsky"]) == 60
    assert int(millions["OverFeat"]) == 145
    assert adds["OverFeat"] == pytest.approx(2810, rel=0.005)
    assert adds["GoogLeNet"] == pytest.approx(1500, rel=0.06)
    assert account(full("Krizhevsky")).multiply_adds == 724_406_816  # Caffe's bvlc_alexnet


def test_googlenets_table_1() -> None:
    """Weights in units of 1,024 and multiply-adds in millions, of the rows that agree with its own
    widths; the table's first row and those of 4a to 5b are off by up to a tenth."""
    rows = {layer.name: layer for layer in account(full("GoogLeNet")).layers}
    for name, thousands, millions in (
        ("inception3a", 159, 128),
        ("inception3b", 380, 304),
        ("fc8", 1000, 1),
    ):
        assert rows[name].weights / 1024 == pytest.approx(thousands, rel=0.005)
        assert rows[name].multiply_adds / 1e6 == pytest.approx(millions, rel=0.03)
    conv2 = rows["conv2_reduce"].weights + rows["conv2"].weights
    assert conv2 / 1024 == 112
    for name, thousands in (("4a", 364), ("4b", 437), ("4c", 463), ("4d", 580), ("4e", 840),
                            ("5a", 1072), ("5b", 1388)):  # fmt: skip
        assert rows[f"inception{name}"].weights / 1024 == pytest.approx(thousands, rel=0.1)
    assert full("GoogLeNet").weight_layers == 22  # §5


# Sides of the maps as printed: Krizhevsky et al. §3.5 (units by layer), Zeiler & Fergus Fig. 3,
# Sermanet et al. Table 1, Szegedy et al. Table 1, He et al. Table 1.
MAPS = {
    "Krizhevsky": {"conv1": 55, "conv2": 27, "conv3": 13, "conv4": 13, "conv5": 13, "pool5": 6},
    "ZF": {"conv1": 110, "pool1": 55, "conv2": 26, "pool2": 13, "conv5": 13, "pool5": 6},
    "OverFeat": {"conv1": 56, "conv2": 24, "pool2": 12, "conv3": 12, "conv5": 12, "pool5": 6},
    "GoogLeNet": {"conv1": 112, "pool1": 56, "conv2": 56, "pool2": 28, "inception3b": 28,
                  "inception4e": 14, "inception5b": 7, "pool5": 1},
    "SPP": {"pool1": 55, "conv2": 27, "conv3": 13, "conv4": 13, "conv5": 13, "spp": 1},
}  # fmt: skip
# Receptive field by 1 + sum of (kernel - 1) times the strides before, and stride, written out.
SEES = {
    "Krizhevsky": (1 + 10 + 2 * 4 + 4 * 8 + 2 * 8 + 3 * 2 * 16 + 2 * 16, 32),
    "ZF": (1 + 6 + 2 * 2 + 4 * 4 + 2 * 8 + 3 * 2 * 16 + 2 * 16, 32),
    "OverFeat": (1 + 10 + 4 + 4 * 8 + 8 + 3 * 2 * 16 + 16, 32),
}


@pytest.mark.parametrize("name", RIVALS)
def test_maps_fields_and_strides(name: str) -> None:
    rows = {layer.name: layer for layer in account(full(name)).layers}
    assert {layer: rows[layer].output[1] for layer in MAPS[name]} == MAPS[name]
    if name in SEES:
        assert (rows["pool5"].receptive_field, rows["pool5"].stride) == SEES[name]
    if name == "SPP":
        assert rows["spp"].output == (256 * 50, 1, 1)


@pytest.mark.parametrize("name", RIVALS)
def test_the_account_is_the_modules(name: str) -> None:
    config, seen = SMALL[name], {}
    model = net(config)
    size = (config.crop + 39, config.crop + 70)
    for layer in config.layers():
        getattr(model, layer.name).register_forward_hook(
            lambda _, __, out, key=layer.name: seen.update({key: tuple(out.shape[1:])})
        )
    model(pixels(1, 3, *size))
    rows = account(config, size).layers
    assert {row.name: row.output for row in rows} == {row.name: seen[row.name] for row in rows}
    whole = sum(p.numel() for key, p in model.named_parameters() if not key.startswith("side"))
    assert account(config).parameters == whole


def literal_lrn(x: Tensor) -> Tensor:
    return reference_lrn(x, caffe=False)


def plain(name: str, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """The nets of one line, written out with PyTorch's functions, up to what fc6 looks at."""

    def conv(i: int, x: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        weight, bias = w[f"conv{i}.weight"], w[f"conv{i}.bias"]
        return F.relu(F.conv2d(x, weight, bias, stride, padding, groups=groups))

    def pool(x: Tensor, kernel: int = 3) -> Tensor:
        return F.max_pool2d(x, kernel, 2, ceil_mode=True)

    x = x - w["mean"][None, :, None, None]
    if name == "Krizhevsky":
        x = pool(literal_lrn(conv(1, x, 4)))
        x = pool(literal_lrn(conv(2, x, 1, 2, 2)))
        return pool(conv(5, conv(4, conv(3, x, padding=1), 1, 1, 2), 1, 1, 2))
    if name == "ZF":
        x = literal_lrn(pool(conv(1, x, 2, 1)))
        x = literal_lrn(pool(conv(2, x, 2)))
        return pool(conv(5, conv(4, conv(3, x, padding=1), padding=1), padding=1))
    if name == "OverFeat":
        x = pool(conv(2, pool(conv(1, x, 4), 2)), 2)
        return pool(conv(5, conv(4, conv(3, x, padding=1), padding=1), padding=1), 2)
    x = pool(literal_lrn(conv(1, x, 2, 1)))
    x = pool(literal_lrn(conv(2, x, 2, 1)))
    x = conv(5, conv(4, conv(3, x, padding=1), padding=1), padding=1)
    levels = []
    for n in (6, 3, 2, 1):
        bins = []
        for i in range(n):
            for j in range(n):
                rows = slice(i * x.shape[2] // n, -(-(i + 1) * x.shape[2] // n))
                columns = slice(j * x.shape[3] // n, -(-(j + 1) * x.shape[3] // n))
                bins.append(x[:, :, rows, columns].amax(dim=(2, 3)))
        levels.append(torch.stack(bins, dim=2).flatten(1))
    return torch.cat(levels, dim=1)[:, :, None, None]


@pytest.mark.parametrize("name", ["Krizhevsky", "ZF", "OverFeat", "SPP"])
def test_the_forward_is_the_formula(name: str) -> None:
    """On one crop, and densely: every window of the last map through plain linear layers."""
    config = replace(SMALL[name], crop=SMALL[name].crop + 32)
    model = net(config).double()
    weights = model.state_dict()
    for extra in ((0, 0), (32, 70)):
        images = pixels(2, 3, config.crop + extra[0], config.crop + extra[1]).double()
        body = plain(name, weights, images)
        assert isinstance(model.fc6, FullyConnected)
        k = model.fc6.kernel
        assert k == (1 if name == "SPP" else 2)
        down, across = body.shape[2] - k + 1, body.shape[3] - k + 1
        found = model.score_map(images)
        assert found.shape == (2, 10, down, across)
        if extra == (0, 0) or name == "SPP":
            assert (down, across) == (1, 1)
        for i in range(down):
            for j in range(across):
                x = body[:, :, i : i + k, j : j + k].flatten(1)
                for fc in ("fc6", "fc7", "fc8"):
                    x = F.linear(x, weights[f"{fc}.weight"], weights[f"{fc}.bias"])
                    x = x if fc == "fc8" else F.relu(x)
                torch.testing.assert_close(found[:, :, i, j], x)
        torch.testing.assert_close(model(images), found.mean(dim=(2, 3)))


def test_googlenets_forward_is_the_formula() -> None:
    """Its body by its own modules' weights, and a map that is the running mean of the last one."""
    config = SMALL["GoogLeNet"]
    model = net(config).double()
    w = model.state_dict()

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.relu(F.conv2d(x, weight, w[f"{name}.bias"], stride, weight.shape[2] // 2))

    def inception(name: str, x: Tensor) -> Tensor:
        branches = (
            conv(f"{name}.one", x),
            conv(f"{name}.three", conv(f"{name}.three_reduce", x)),
            conv(f"{name}.five", conv(f"{name}.five_reduce", x)),
            conv(f"{name}.projection", F.max_pool2d(x, 3, 1, 1)),
        )
        return torch.cat(branches, dim=1)

    images = pixels(1, 3, 100, 130).double()
    x = conv("conv1", images - w["mean"][None, :, None, None], 2)
    x = literal_lrn(F.max_pool2d(x, 3, 2, ceil_mode=True))
    x = literal_lrn(conv("conv2", conv("conv2_reduce", x)))
    for stage in (("3a", "3b"), ("4a", "4b", "4c", "4d", "4e"), ("5a", "5b")):
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for name in stage:
            x = inception(f"inception{name}", x)
    x = F.avg_pool2d(x, config.crop // 32, 1)
    expected = torch.einsum("nchw,kc->nkhw", x, w["fc8.weight"]) + w["fc8.bias"][:, None, None]
    assert expected.shape[2:] == (2, 3)
    torch.testing.assert_close(model.score_map(images), expected)
    assert model.score_map(images[..., :64, :64]).shape == (1, 10, 1, 1)


def test_the_pyramid_takes_maps_of_any_size() -> None:
    pyramid = SpatialPyramid((6, 3, 2, 1))
    for size in ((1, 1), (2, 5), (13, 13), (24, 31)):
        assert pyramid(torch.rand(2, 4, *size)).shape == (2, 200, 1, 1)
    # A 6×6 map: level 6 is the map itself, level 1 its maximum.
    x = torch.rand(1, 1, 6, 6)
    assert torch.equal(pyramid(x)[0, :36, 0, 0], x.flatten())
    assert pyramid(x)[0, -1, 0, 0] == x.max()


def test_side_classifiers_learn_with_their_weight() -> None:
    """The step's gradient is that of the sum written out; without the sides the trunk's differs."""
    config = replace(SMALL["GoogLeNet"], dropout=0.0)
    data = digits()
    recipe = TrainConfig(config, S=73, batch_size=4, flip=False, learning_rate=1e-3)
    model = net(config).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    part = replace(data, train=Part(data.train.images[:4], data.train.labels[:4]))
    images = TrainingImages(part, S=73, crop=64, batch_size=4, flip=False, colour_shift=0.1, seed=0)
    batch = next(iter(images.epoch(0)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    main_score, *sides = model.training_scores(batch.images + batch.shifts)
    assert len(sides) == 2
    loss = F.cross_entropy(main_score, batch.labels)
    for side in sides:
        loss = loss + SIDE_WEIGHT * F.cross_entropy(side, batch.labels)
    names, values = zip(*model.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(loss, values), strict=True))
    assert all(gradients[name].abs().sum() > 0 for name in names if name.startswith("side"))
    in_parts = VGG(config).train()
    in_parts.load_state_dict(model.state_dict())
    for module in in_parts.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    shown, _ = Step(model, recipe)(batch, [4])
    again, _ = Step(in_parts, recipe, parallel=Parallel(accumulate=2))(batch, [4])
    assert again.item() == pytest.approx(shown.item(), rel=1e-5)
    for key, value in in_parts.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-4, atol=1e-6)
    assert shown.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, value in model.named_parameters():
        step = gradients[name] + recipe.weight_decay * before[name]
        torch.testing.assert_close(value.detach(), before[name] - 1e-3 * step, rtol=1e-4, atol=1e-6)
    with torch.no_grad():  # in use they do not count
        scores = model.eval()(batch.images)
        for key, value in model.state_dict().items():
            if key.startswith("side"):
                value.zero_()
        assert torch.equal(model(batch.images), scores)


@pytest.fixture(scope="module")
def data() -> Dataset:
    whole = digits()

    def first(part: Part, n: int) -> Part:
        return Part(part.images[:n], part.labels[:n])

    return replace(
        whole,
        train=first(whole.train, 64),
        validation=first(whole.validation, 20),
        test=first(whole.test, 20),
    )


@pytest.mark.parametrize("name", RIVALS)
def test_trained_saved_and_tested_as_vgg_is(name: str, data: Dataset, tmp_path: Path) -> None:
    recipe = replace(rival_256(SMALL[name]), batch_size=32, epochs=1)
    weights = train(recipe, data, tmp_path / "run", progress=False)
    assert train(recipe, data, tmp_path / "run", progress=False) == weights  # is finished
    header = read_header(weights)
    assert header.config == SMALL[name]
    assert isinstance(header.config, Rival)
    model = load(weights)
    save(model, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == weights.read_bytes()
    drawn = build_for(replace(recipe, flip=False), data, None).state_dict()
    moved = [key for key, value in model.state_dict().items() if not torch.equal(value, drawn[key])]
    assert set(moved) == drawn.keys() - {"mean"}
    # Dense evaluation of an image that is no larger than a crop is the crop's.
    crop = header.config.crop
    found = posteriors(model, data.test.images, scales=[crop], flips=False)
    for method in ("centre-crop", "multi-crop", "multi-crop+dense"):
        other = posteriors(model, data.test.images, scales=[crop], method=method, flips=False)
        np.testing.assert_allclose(other, found, atol=1e-6)
    # The next run starts from all of it.
    start = build_for(at_384(SMALL[name]), data, model).state_dict()
    assert all(torch.equal(start[key], value) for key, value in model.state_dict().items())


def test_what_is_refused(tmp_path: Path) -> None:
    assert not RIVALS.keys() & NETS.keys()
    least = {"Krizhevsky": 39, "ZF": 47, "OverFeat": 43, "GoogLeNet": 31, "SPP": 23}
    for name, crop in least.items():
        with pytest.raises(InputError, match=f"crop {crop - 1} .* take {crop} or more"):
            Rival(name, crop=crop - 1)
        small = Rival(name, 2, crop=crop, width=1 / 16)
        assert VGG(small).eval()(pixels(1, 3, crop, crop)).shape == (1, 2)
        for side in small.sides():
            assert side in RIVALS[name].sides
    for options in ({"batch_norm": True}, {"head": False}, {"boxes": "scr"}):
        with pytest.raises(InputError, match="as in its paper"):
            Rival("ZF", **options)
    with pytest.raises(InputError, match="'Clarifai': the nets are Krizhevsky"):
        Rival("Clarifai")
    with pytest.raises(InputError, match="'ZF'"):
        Config("ZF")
    model = net(SMALL["ZF"])
    with pytest.raises(InputError, match="smaller than the crop 64"):
        model.activations(pixels(1, 3, 63, 64), ["pool5"])
    with pytest.raises(InputError, match="no VGG, and export is"):
        export(model, tmp_path / "x.onnx", format="onnx")
    with pytest.raises(InputError, match="no VGG, and a card"):
        card(model)
    with pytest.raises(InputError, match="no VGG, and fc-parallel"):
        reproduce(digits(), tmp_path, Settings(rivals=True), parallel=Parallel(fc=2))


def test_krizhevskys_groups_divide_channels_of_any_width() -> None:
    for width in (0.01, 0.05, 0.33, 0.7):
        config = Rival("Krizhevsky", crop=65, width=width)
        for layer in config.layers():
            assert layer.in_channels % layer.groups == layer.out_channels % layer.groups == 0


def test_the_grid_has_them_when_asked() -> None:
    whole = grid("photographs", 1000, True, Settings(rivals=True))
    without = grid("photographs", 1000, True, Settings())
    half = grid("photographs", 1000, True, Settings(rivals=True, precision="bfloat16"))
    assert {run.config.precision for run in half.runs} == {"bfloat16"}
    assert whole.runs[: len(without.runs)] == without.runs
    rival = whole.runs[len(without.runs) :]
    assert len(rival) == 3 * len(RIVALS)
    by_name = {run.name: run for run in rival}
    last = by_name["Krizhevsky-S259-519"]  # 227 / 224 of [256;512]
    assert [run.name for run in last.lineage()] == [
        "Krizhevsky-S259",
        "Krizhevsky-S389",
        "Krizhevsky-S259-519",
    ]
    model = full("Krizhevsky")
    assert [run.config for run in last.lineage()] == [
        rival_256(model), at_384(model), jittered(model)
    ]  # fmt: skip
    rates = {run.config.model.net: run.config.learning_rate for run in rival if not run.parent}
    assert rates == {**dict.fromkeys(RIVALS, 1e-2), "OverFeat": 1e-3}
    rows = {row.published.name: row for row in whole.rows if row.section == "table 7"}  # type: ignore[union-attr]
    assert len(rows) == 15
    vgg = rows["VGG (1 net, multi-crop & dense eval.)"]
    for name, other in RIVALS.items():
        row = rows[other.system]
        assert row.nets == {name}
        assert (row.method, row.flips) == (vgg.method, vgg.flips)
        (member,) = row.members
        sides = (256, 384, 512)
        assert member.Q == tuple(round(Q * member.run.config.model.crop / 224) for Q in sides)
    assert not rows["Clarifai (1 net)"].members
    assert not rows["Krizhevsky et al. (5 nets)"].members


def test_table_7_is_measured(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = "table 7, spp, overfeat"
    arguments = ["reproduce", "digits", "--rivals", "--only", only, "--out", str(tmp_path)]
    assert main([*arguments, "--plan"]) == 0
    assert "OverFeat-S75-151" in capsys.readouterr().out
    settings = Settings(epochs=1, width=1 / 32, only=only, rivals=True)
    results = reproduce(data, tmp_path, settings, device="cpu")
    text = " ".join(report.table(results, 7).split())
    assert "OverFeat (1 net); here its fast net" in text
    rows = {row["system"]: row for row in results["rows"]}
    assert list(rows) == ["MSRA (1 net)", "OverFeat (1 net)"]
    for row in rows.values():
        assert (row["method"], row["n"]) == ("multi-crop+dense", 20)
        assert 0 <= row["top5"] <= row["top1"] <= 100
    assert rows["OverFeat (1 net)"]["paper"]["top1"] == 35.7
    assert results["parameters"] == []  # Table 2 is of VGG's nets
    model = load(tmp_path / "runs" / "SPP-S73-146" / "weights.safetensors")
    found = posteriors(
        model, data.test.images, scales=[73, 110, 146], method="multi-crop+dense", flips=False
    )
    wrong = 100 * float((found.argmax(axis=1) != data.test.labels).mean())
    assert rows["MSRA (1 net)"]["top1"] == pytest.approx(wrong)
    with pytest.raises(InputError, match=r"neither a table nor a net: .*or with --rivals the nets"):
        grid("digits", 10, False, Settings(only="SPP"))


def test_a_crop_has_to_do_for_the_nets_that_are_asked_for() -> None:
    small = Settings(crop=32, rivals=True)  # too small for Krizhevsky's
    with pytest.raises(InputError, match="net Krizhevsky's last map"):
        grid("digits", 10, False, small)
    found = grid("digits", 10, False, replace(small, only="table 7, GoogLeNet"))
    assert [run.name for run in found.runs] == [
        "GoogLeNet-S37", "GoogLeNet-S55", "GoogLeNet-S37-73"
    ]  # fmt: skip


def test_a_command_trains_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "digits", "--net", "GoogLeNet", "--epochs", "1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    header = read_header(tmp_path / "weights.safetensors")
    assert header.config == replace(SMALL["GoogLeNet"], num_classes=10)
    assert (header.config.dropout, header.provenance.S) == (0.4, 73)
    assert header.provenance.recipe is not None
    expected = replace(on_digits(rival_256(SMALL["GoogLeNet"])), epochs=1, flip=False)
    assert header.provenance.recipe == json.loads(json.dumps(expected.to_json()))
    weights = str(tmp_path / "weights.safetensors")
    capsys.readouterr()
    assert main(["evaluate", weights, "digits", "--scales", "73", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(["convert", weights, str(tmp_path / "x.pth")]) == 2
    assert "torchvision has no net GoogLeNet" in capsys.readouterr().err
