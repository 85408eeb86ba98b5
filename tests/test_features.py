"""Named activations and the losses against plain layers, the papers' formulas and closed forms."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vggnet
from memory import PEAK
from reference import KERNELS, randomise
from vggnet import LPIPS, VGG, InputError, PerceptualLoss, StyleLoss
from vggnet.features import GATYS_STYLE, LPIPS_LAYERS, STYLE, gram
from vggnet.formats import torchvision

ROOT = Path(__file__).parent.parent
LOSSES = [PerceptualLoss, StyleLoss]


def net(width: float = 1 / 16, **options: Any) -> VGG:
    return randomise(vggnet.build("D", crop=64, width=width, num_classes=5, **options))


def pictures(*shape: int, seed: int = 0) -> Tensor:
    """RGB 0–1, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def plain(model: VGG, images: Tensor) -> dict[str, Tensor]:
    """Every convolution, ReLU and pooling of plain layers, seen by hooks."""
    weights = model.state_dict()
    layers: dict[str, nn.Module] = {}
    for s, stage in enumerate(KERNELS["D"], start=1):
        for i, kernel in enumerate(stage, start=1):
            weight = weights[f"conv{s}_{i}.weight"]
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], kernel, padding=kernel // 2)
            conv.weight.data, conv.bias.data = weight, weights[f"conv{s}_{i}.bias"]  # type: ignore[union-attr]
            layers |= {f"conv{s}_{i}": conv, f"relu{s}_{i}": nn.ReLU()}
        layers[f"pool{s}"] = nn.MaxPool2d(2)
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, __, out, name=name: found.update({name: out}))
    nn.Sequential(*layers.values())(images - weights["mean"].view(1, 3, 1, 1))
    return found


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights as the lpips package names them, for a net of 1/16 of the width."""
    generator = torch.Generator().manual_seed(3)
    state = {
        f"lin{i}.model.1.weight": torch.rand(1, channels, 1, 1, generator=generator)
        for i, channels in enumerate((4, 8, 16, 32, 32))
    }
    path = tmp_path_factory.mktemp("lpips") / "vgg.pth"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("size", [(32, 32), (45, 71), (64, 64), (97, 130)])
def test_activations_are_what_hooks_see(size: tuple[int, int]) -> None:
    model = net().double()
    images = 255 * pictures(2, 3, *size)
    expected = plain(model, images)
    assert len(expected) == 31
    for name, value in vggnet.activations(model, images, expected).items():
        torch.testing.assert_close(value, expected[name])
    fast = vggnet.fast(net())
    few = ["pool5", "conv3_3", "relu3_3"]
    found = vggnet.activations(fast, images.float(), few)
    assert list(found) == few
    for name in few:
        error = (found[name] - expected[name]).abs().max() / expected[name].abs().max()
        assert error < 2e-5, name


def test_a_forward_ends_at_the_last_layer_asked_for() -> None:
    model = net()
    images = 255 * pictures(1, 3, 32, 40).float()
    called: list[str] = []
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
    found = model.activations(images, ["relu3_3", "relu1_2", "relu3_3"])
    assert called[-1] == "relu3_3"
    assert list(found) == ["relu3_3", "relu1_2"]
    called.clear()
    assert model.activations(images, []) == {}
    assert not called


def test_below_the_crop_only_the_head_is_refused() -> None:
    model = net()
    for given in (model, vggnet.fast(model)):
        small = 255 * pictures(1, 3, 40, 40).float()
        assert vggnet.activations(given, small, ["pool5"])["pool5"].shape[2:] == (1, 1)
        for names in (["fc6"], ["pool5", "scores"], ["drop7"]):
            with pytest.raises(InputError, match="smaller than the crop 64"):
                vggnet.activations(given, small, names)
        with pytest.raises(InputError, match=r"smaller than five poolings .* 32"):
            vggnet.activations(given, small[:, :, :31], ["relu1_1"])
        with pytest.raises(InputError, match="no layer 'relu3_9'"):
            vggnet.activations(given, small, ["relu3_9"])


def test_bfloat16_and_compiled() -> None:
    model = net()
    images = 255 * pictures(2, 3, 40, 48).float()
    names = ["conv3_3", "relu3_3", "pool5"]
    expected = vggnet.activations(model, images, names)
    compiled = torch.compile(lambda x: vggnet.activations(model, x, names), backend="eager")
    for name, value in compiled(images).items():
        assert torch.equal(value, expected[name])
    for name, value in vggnet.activations(net().bfloat16(), images, names).items():
        assert value.dtype == torch.bfloat16
        assert (value - expected[name]).norm() < 0.05 * expected[name].norm()


@pytest.mark.parametrize("kind", ["ours", "torchvision"])
def test_without_the_head_it_is_neither_allocated_nor_read(tmp_path: Path, kind: str) -> None:
    """Of net D at half the width, 15 MB of 140 are convolutions. The peak tells in PyTorch's files;
    ours are mapped with the head or without it, and there the parameters tell."""
    path, model = tmp_path / "weights", vggnet.build("D", width=0.5)
    if kind == "ours":
        vggnet.save(model, path)
    else:
        torch.save(torchvision.state_dict(model), path)
    code = f"""
import torch, vggnet
callable(vggnet.load)
before = peak()
model = vggnet.load({str(path)!r}, head=False)
assert not model.config.head and len(list(model.parameters())) == 26
assert not any(name.startswith("fc") for name, _ in model.named_parameters())
found = vggnet.activations(model, torch.zeros(1, 3, 32, 32), ["relu3_3"])["relu3_3"]
torch.save(found, {str(tmp_path / "found")!r})
assert peak() - before < 90_000, peak() - before
"""
    subprocess.run([sys.executable, "-W", "error", "-c", PEAK + code], check=True)
    whole = vggnet.load(path)
    expected = whole.activations(torch.zeros(1, 3, 32, 32), ["relu3_3"])["relu3_3"]
    torch.testing.assert_close(torch.load(tmp_path / "found"), expected)
    if kind == "torchvision":
        assert vggnet.load(path, head=False).provenance.source is not None
    assert whole.config.head
    with pytest.raises(InputError, match="without its classifier"):
        vggnet.load(path, head=False)(torch.zeros(1, 3, 224, 224))


def test_perceptual_loss_is_the_formula() -> None:
    model = net().double()
    one, other = pictures(3, 3, 40, 50), pictures(3, 3, 40, 50, seed=1)
    weights = {"relu2_2": 0.5, "conv3_3": 2.0}
    a, b = plain(model, 255 * one), plain(model, 255 * other)
    expected = sum(w * F.mse_loss(a[name], b[name]) for name, w in weights.items())
    found = PerceptualLoss(model, weights)(one, other)
    assert found.shape == ()
    torch.testing.assert_close(found, expected)
    relu3_3 = F.mse_loss(a["relu3_3"], b["relu3_3"])
    torch.testing.assert_close(PerceptualLoss(model)(one, other), relu3_3)
    full = PerceptualLoss(model, data_range=255)
    torch.testing.assert_close(full(255 * one, 255 * other), relu3_3)
    eight = (255 * other).to(torch.uint8)
    torch.testing.assert_close(
        full((255 * one).to(torch.uint8), eight),
        PerceptualLoss(model)((255 * one).floor() / 255, eight / 255.0).double(),
        rtol=1e-5,
        atol=0,
    )


@pytest.mark.parametrize("layers", [STYLE, GATYS_STYLE])
def test_style_loss_is_the_formula(layers: dict[str, float]) -> None:
    """Also Gatys' equation 4, 1/(4·C²·M²)·‖FFᵀ - AAᵀ‖², each layer's weight being 1/5."""
    model = net().double()
    one, style = pictures(2, 3, 40, 50), pictures(1, 3, 40, 50, seed=1)
    a, b = plain(model, 255 * one), plain(model, 255 * style)
    expected = torch.zeros((), dtype=torch.float64)
    for name in layers:
        for i in range(2):
            rows, others = a[name][i].flatten(1), b[name][0].flatten(1)
            distance = (rows @ rows.T - others @ others.T).square().sum() / rows.numel() ** 2
            expected += distance / 2 * (1 if layers is STYLE else 1 / 4 / 5)
    torch.testing.assert_close(StyleLoss(model, layers)(one, style), expected)
    larger = pictures(1, 3, 70, 60)  # a style's picture may have any size
    assert StyleLoss(model)(one, larger) > 0


def literal_lpips(model: VGG, linear: Path, one: Tensor, other: Tensor) -> Tensor:
    """One distance a pair, cell by cell."""
    weights = torch.load(linear, weights_only=True)
    a, b = plain(model, 255 * one), plain(model, 255 * other)
    total = torch.zeros(len(one), dtype=torch.float64)
    for n in range(len(one)):
        for i, name in enumerate(LPIPS_LAYERS):
            x, y = a[name][n], b[name][n]
            x, y = (v / (v.pow(2).sum(0).sqrt() + 1e-10) for v in (x, y))
            w = weights[f"lin{i}.model.1.weight"].double().flatten()
            height, width = x.shape[1:]
            for r in range(height):
                for c in range(width):
                    total[n] += w @ (x[:, r, c] - y[:, r, c]) ** 2 / (height * width)
    return total


def test_lpips_is_the_formula(linear: Path) -> None:
    model = net().double()
    one, other = pictures(2, 3, 32, 40), pictures(2, 3, 32, 40, seed=1)
    found = LPIPS(model, linear)(one, other)
    assert found.shape == (2,)
    torch.testing.assert_close(found, literal_lpips(model, linear, one, other))
    assert LPIPS(model, linear)(one, one).tolist() == [0, 0]


def test_torchvisions_weights_see_what_lpips_feeds_them(tmp_path: Path) -> None:
    """Images from -1 to 1, less its shift and over its scale, are those of torchvision."""
    model = vggnet.build("D", width=1 / 16, mean=[255 * x for x in (0.485, 0.456, 0.406)])
    state = torchvision.state_dict(model)
    torch.save({k: v for k, v in state.items() if k.startswith("features")}, tmp_path / "w.pth")
    images = pictures(1, 3, 32, 32).float()
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    theirs = (2 * images - 1 - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1)
    first = F.conv2d(theirs, state["features.0.weight"], state["features.0.bias"], padding=1)
    found = vggnet.load(tmp_path / "w.pth").activations(255 * images, ["conv1_1"])["conv1_1"]
    torch.testing.assert_close(found, first, rtol=1e-4, atol=1e-5)


def test_gradients(linear: Path) -> None:
    """Of smooth points: no activation is within a step of its ReLU's corner, with this seed."""
    model = net(1 / 64).double()
    one, other = pictures(2, 3, 32, 32), pictures(2, 3, 32, 32, seed=1)
    few = one[:, :, :2, :2].clone().requires_grad_()

    def with_few(loss: nn.Module) -> Any:
        def value(few: Tensor) -> Tensor:
            images = one.clone()
            images[:, :, :2, :2] = few
            result: Tensor = loss(images, other)
            return result

        return value

    for kind in LOSSES:
        assert torch.autograd.gradcheck(with_few(kind(model)), (few,), eps=1e-7, atol=1e-6)
    distance = LPIPS(net().double(), linear)
    assert torch.autograd.gradcheck(with_few(distance), (few,), eps=1e-7, atol=1e-6)


def test_gradients_go_where_the_literature_has_them(linear: Path) -> None:
    model = net()
    for loss, to_target in (
        (PerceptualLoss(model), False),
        (StyleLoss(model), False),
        (LPIPS(model, linear), True),
    ):
        one = pictures(1, 3, 32, 32).float().requires_grad_()
        other = pictures(1, 3, 32, 32, seed=1).float().requires_grad_()
        loss(one, other).sum().backward()
        assert one.grad is not None
        assert one.grad.isfinite().all()
        assert (other.grad is not None) == to_target
        assert all(parameter.grad is None for parameter in loss.parameters())
    # Where all of a layer is 0, a plain square root has no gradient.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    black = torch.zeros(1, 3, 32, 32, requires_grad=True)
    LPIPS(model, linear)(black, torch.ones(1, 3, 32, 32)).sum().backward()
    assert black.grad is not None
    assert black.grad.isfinite().all()


@pytest.mark.parametrize("kind", LOSSES)
def test_a_batch_is_the_mean_of_its_images(kind: Any, linear: Path) -> None:
    model = net().double()
    one, other = pictures(3, 3, 32, 48), pictures(3, 3, 32, 48, seed=1)
    for loss in (kind(model), LPIPS(model, linear)):
        singly = [loss(one[i : i + 1], other[i : i + 1]).sum() for i in range(3)]
        torch.testing.assert_close(loss(one, other).mean(), torch.stack(singly).mean())


def test_the_net_is_frozen_and_without_its_head() -> None:
    model = net(batch_norm=True)
    loss = PerceptualLoss(model).train()
    assert not loss.net.training
    assert not any(module.training for module in loss.net.modules())
    assert not loss.net.config.head
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss(pictures(2, 3, 32, 32), pictures(2, 3, 32, 32))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    shared = [m.get_parameter("conv1_1.weight").data_ptr() for m in (loss.net, model)]
    assert shared[0] == shared[1]
    assert PerceptualLoss(model, ["relu7"]).net.config.head
    assert PerceptualLoss(vggnet.build("E", width=0.1), ["relu3_4"]).net.config.net == "E"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gram_is_finite_under_autocast(dtype: torch.dtype) -> None:
    maps = torch.full((2, 8, 64, 64), 1e3, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        found = gram(maps)
    assert found.dtype == torch.float32
    expected = float(maps[0, 0, 0, 0].detach()) ** 2 / 8
    torch.testing.assert_close(found, torch.full((2, 8, 8), expected))
    with torch.autocast("cpu", dtype=dtype):
        assert StyleLoss(net())(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)).isfinite()


def test_losses_in_bfloat16_and_compiled(linear: Path) -> None:
    model = net()
    one, other = pictures(2, 3, 32, 40).float(), pictures(2, 3, 32, 40, seed=1).float()
    for make in (PerceptualLoss, StyleLoss, lambda net: LPIPS(net, linear)):
        loss = make(model)
        expected = loss(one, other)
        compiled = torch.compile(make(model), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(one, other), expected)
        half = make(net().bfloat16())(one.bfloat16(), other.bfloat16())
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, expected, rtol=0.1, atol=0)


def test_ranges_are_checked_at_the_first_call() -> None:
    model = net()
    one = torch.rand(2, 3, 32, 32)
    bad = [
        (1, 255 * one, one),
        (1, one, 255 * one),
        (1, one, (255 * one).to(torch.uint8)),
        (1, one, 2 * one - 1.1),
        (1, one, one / 0),
        (255, one, 255 * one),
        (255, 255 * one, one),
        (255, 255 * one, 255 * (2 * one - 1)),
    ]
    for white, images, target in bad:
        for kind in LOSSES:
            with pytest.raises(InputError, match=f"not RGB 0–{white}.*data_range={256 - white}"):
                kind(model, data_range=white)(images, target)  # type: ignore[arg-type]
    for white in (1, 255):
        loss = PerceptualLoss(model, data_range=white)  # type: ignore[arg-type]
        assert loss(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)) == 0
    style = StyleLoss(model)
    style(2 * one, one)  # on its way
    style(255 * one, one)  # not looked at again


def test_mistakes_are_named(tmp_path: Path, linear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    with pytest.raises(InputError, match="data_range 2 is neither"):
        PerceptualLoss(model, data_range=2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="takes a list of names: \\['relu3_3'\\]"):
        PerceptualLoss(model, "relu3_3")
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"relu2_2: its weight {weight} is not a number of 0"):
            PerceptualLoss(model, {"relu2_2": weight})
    with pytest.raises(InputError, match="the target is a ndarray: give a tensor"):
        PerceptualLoss(model)(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32).numpy())
    with pytest.raises(InputError, match="no layer 'relu9'"):
        StyleLoss(model, ["relu9"])
    with pytest.raises(InputError, match="layers is empty"):
        StyleLoss(model, [])
    with pytest.raises(InputError, match="takes a VGG, not a OnCPU"):
        PerceptualLoss(vggnet.fast(model))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"images are .*rescale one"):
        PerceptualLoss(model)(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 33))
    with pytest.raises(InputError, match="2 targets for 3 images"):
        StyleLoss(model)(torch.rand(3, 3, 32, 32), torch.rand(2, 3, 32, 32))
    with pytest.raises(InputError, match="net D's; this is net E"):
        LPIPS(vggnet.build("E", crop=32, width=1 / 16), linear)
    with pytest.raises(InputError, match="no such file"):
        LPIPS(model, tmp_path / "none.pth")
    with pytest.raises(InputError, match="not LPIPS' weights for net D"):
        LPIPS(net(1 / 8), linear)
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(InputError, match="pip install lpips"):
        LPIPS(model)


def test_lpips_of_the_installed_package(
    tmp_path: Path, linear: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lpips" / "weights" / "v0.1"
    folder.mkdir(parents=True)
    (tmp_path / "lpips" / "__init__.py").write_text("raise ImportError('is not imported')")
    (folder / "vgg.pth").write_bytes(linear.read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    one, other = pictures(1, 3, 32, 32), pictures(1, 3, 32, 32, seed=1)
    assert torch.equal(LPIPS(net())(one, other), LPIPS(net(), linear)(one, other))
