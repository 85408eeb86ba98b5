"""The net against a reference of plain layers, on crops and on larger images."""

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vggnet
from reference import classifier, literal_lrn, pool5, randomise
from vggnet import NETS, VGG, Config, InputError, build
from vggnet.layers import LRN
from vggnet.modules import LocalResponseNorm

SMALL: dict[str, Any] = {"num_classes": 7, "crop": 64, "width": 1 / 16}


def pixels(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def small(net: str, **options: Any) -> VGG:
    """A narrow net in float64, every weight random."""
    return randomise(build(net, **{**SMALL, **options})).double()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("net", NETS)
def test_scores_at_the_crop_are_the_references(net: str, batch_norm: bool) -> None:
    model = small(net, batch_norm=batch_norm)
    images = pixels(3, 3, 64, 64)
    expected = classifier(model, pool5(model, images))
    assert expected.std() > 1e-3
    torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(model.score_map(images)[:, :, 0, 0], expected)


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (97, 129), (128, 75), (161, 95)])
@pytest.mark.parametrize("net", ["A-LRN", "C", "D"])
def test_each_cell_of_the_map_is_the_classifier_on_its_window(
    net: str, size: tuple[int, int]
) -> None:
    model = small(net)
    images = pixels(2, 3, *size, seed=1)
    features = pool5(model, images)
    k = 2  # crop 64
    h, w = features.shape[2] - k + 1, features.shape[3] - k + 1
    found = model.score_map(images)
    assert found.shape == (2, 7, h, w) == (2, 7, size[0] // 32 - 1, size[1] // 32 - 1)
    for i in range(h):
        for j in range(w):
            expected = classifier(model, features[:, :, i : i + k, j : j + k])
            torch.testing.assert_close(found[:, :, i, j], expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(model(images), found.flatten(2).mean(2))


def test_full_size_d_is_the_reference() -> None:
    model = build("D")
    images = pixels(1, 3, 224, 224)
    with torch.inference_mode():
        expected = classifier(model, pool5(model, images))
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_images_are_taken_as_they_are() -> None:
    model = small("A")
    images = pixels(2, 3, 64, 64)
    for other in (images.float(), images.double(), images.long()):
        torch.testing.assert_close(model(images), model(other))
    channels_last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images), model(channels_last))
    before = images.double()
    kept = before.clone()
    model(before)
    assert torch.equal(before, kept)


def test_the_mean_is_subtracted_inside() -> None:
    model = build("A", **SMALL, mean=(10.0, 20.0, 30.0)).double()
    grey = torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    assert model(grey).abs().max() == 0  # all biases are zero
    assert build("A", **SMALL).mean.tolist() == pytest.approx([123.68, 116.779, 103.939])
    assert build("A", **SMALL, in_channels=1).mean.tolist() == [127.5]
    with pytest.raises(InputError, match="2 values for 3 channels"):
        build("A", **SMALL, mean=(1.0, 2.0))


@pytest.mark.parametrize("convention", ["krizhevsky", "caffe"])
@pytest.mark.parametrize("channels", [1, 3, 5, 16])
def test_lrn_is_the_formula(convention: str, channels: int) -> None:
    x = 50 * torch.randn(2, channels, 6, 5, dtype=torch.float64, requires_grad=True)
    layer = LocalResponseNorm(LRN(), convention)
    torch.testing.assert_close(layer(x), literal_lrn(x, convention == "caffe"))
    if convention == "caffe":  # what PyTorch's own layer computes
        torch.testing.assert_close(layer(x), nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)(x))
    else:  # with PyTorch's, Krizhevsky's formula takes 5e-4
        torch.testing.assert_close(layer(x), nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)(x))
    assert torch.autograd.gradcheck(layer, (x,))


def test_every_activation_is_what_a_hook_sees_and_none_is_overwritten() -> None:
    model = small("E", batch_norm=True)
    images = pixels(1, 3, 64, 96)
    names = [name for name, _ in model.named_children()]
    found = model.activations(images, [*names, "scores"])
    assert list(found) == [*names, "scores"]

    hooked: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: hooked.__setitem__(name, output)

    handles = [child.register_forward_hook(keep(n)) for n, child in model.named_children()]
    scores = model(images)
    for handle in handles:
        handle.remove()
    for name in names:
        assert torch.equal(found[name], hooked[name]), name
    assert torch.equal(found["scores"], scores)
    for s, i in ((1, 1), (3, 4), (5, 4)):
        before, after = found[f"bn{s}_{i}"], found[f"relu{s}_{i}"]
        assert before.min() < 0
        assert torch.equal(after, before.clamp(min=0))
    assert found["fc6"].min() < 0
    assert found["pool5"].shape == (1, 32, 2, 3)
    assert found["fc7"].shape == (1, 256, 1, 2)
    assert found["fc8"].shape == (1, 7, 1, 2)


def test_activations_alone_equal_activations_together_and_carry_gradients() -> None:
    model = small("D")
    images = pixels(1, 3, 64, 64).double().requires_grad_()
    together = model.activations(images, ["conv3_3", "relu3_3"])
    for name in ("conv3_3", "relu3_3"):
        alone = model.activations(images, [name])[name]
        assert torch.equal(alone, together[name])
        (gradient,) = torch.autograd.grad(alone.square().sum(), images)
        assert gradient.abs().sum() > 0


def test_hooks_of_every_kind_see_what_was_there() -> None:
    """A ReLU overwrites its input only when nobody looks; Grad-CAM and others do look."""
    images = pixels(1, 3, 64, 64)
    clean = small("A", batch_norm=True)
    expected = clean.activations(images, ["bn3_2", "relu3_2", "fc6"])
    weights = dict(clean.named_parameters())
    gradient = torch.autograd.grad(clean(images).square().sum(), weights["conv3_1.weight"])[0]

    def run(register: Any) -> VGG:
        model = small("A", batch_norm=True)
        handle = register(model)
        model(images).square().sum().backward()
        if handle is not None:
            handle.remove()
        torch.testing.assert_close(model.get_parameter("conv3_1.weight").grad, gradient)
        return model

    seen: list[Tensor] = []

    def ignore(*_: Any) -> None:
        return None

    for name in ("bn3_2", "relu3_2", "conv3_2", "fc6", "relu6", "pool3", "fc8"):
        run(lambda m, n=name: getattr(m, n).register_full_backward_hook(ignore))
        run(lambda m, n=name: getattr(m, n).register_full_backward_pre_hook(ignore))
    run(lambda m: m.relu3_2.register_forward_pre_hook(lambda _, x: seen.append(x[0])))
    assert torch.equal(seen.pop(), expected["bn3_2"])
    run(lambda m: m.relu6.register_forward_pre_hook(lambda _, x: seen.append(x[0])))
    assert torch.equal(seen.pop(), expected["fc6"])
    everything: dict[int, Tensor] = {}
    whole = nn.modules.module.register_module_forward_hook
    model = run(lambda m: whole(lambda layer, _, y: everything.__setitem__(id(layer), y)))
    assert torch.equal(everything[id(model.bn3_2)], expected["bn3_2"])


def test_a_layer_that_hands_its_input_on_is_not_overwritten() -> None:
    model = small("A", batch_norm=True)
    model.bn3_2 = nn.Identity()  # as after folding it into its convolution
    found = model.activations(pixels(1, 3, 64, 64), ["conv3_2", "relu3_2"])
    assert found["conv3_2"].min() < 0
    model.criterion = nn.CrossEntropyLoss()  # no layer of the net
    assert model(pixels(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize("net", ["A-LRN", "C", "E"])
def test_gradients_are_the_references(net: str) -> None:
    model = small(net, dropout=0.0).train()
    images = pixels(2, 3, 97, 64).double().requires_grad_()
    features = pool5(model, images)
    cells = [
        classifier(model, features[:, :, i : i + 2, j : j + 2])
        for i in range(features.shape[2] - 1)
        for j in range(features.shape[3] - 1)
    ]
    # The reference's weights carry no gradient: compare at the image.
    (expected,) = torch.autograd.grad(torch.stack(cells).mean(0).square().sum(), images)
    (found,) = torch.autograd.grad(model(images).square().sum(), images)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-14)


def test_lrn_in_float16_does_not_overflow() -> None:
    x = torch.full((1, 8, 4, 4), 300.0)
    expected = LocalResponseNorm(LRN(), "krizhevsky")(x)
    half = LocalResponseNorm(LRN(), "krizhevsky")(x.half())
    torch.testing.assert_close(half.float(), expected, rtol=2e-3, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(LocalResponseNorm(LRN(), "krizhevsky")(x), expected)


def test_activations_stop_at_the_last_one_asked_for() -> None:
    model = small("A")
    ran = []
    for name, child in model.named_children():
        child.register_forward_hook(lambda m, i, o, name=name: ran.append(name))
    model.activations(pixels(1, 3, 64, 64), ["pool2", "relu1_1"])
    assert ran[-1] == "pool2"
    assert list(model.activations(pixels(1, 3, 64, 64), iter(["pool2"]))) == ["pool2"]
    with pytest.raises(InputError, match="takes a list of names"):
        model.activations(pixels(1, 3, 64, 64), "pool5")
    with pytest.raises(InputError, match=r"no layer 'relu9_1'.*relu5_2"):
        model.activations(pixels(1, 3, 64, 64), ["relu9_1"])


def test_the_head_has_one_copy_of_its_weights() -> None:
    model = build("A", **SMALL)
    sizes = {name: p.numel() for name, p in model.named_parameters() if name.startswith("fc")}
    assert sizes["fc6.weight"] == 32 * 2 * 2 * 256
    pointers = [p.data_ptr() for p in model.state_dict().values() if p.numel() > 1]
    assert len(pointers) == len(set(pointers))


def test_channels_last_and_bfloat16() -> None:
    model = randomise(build("D", **SMALL))
    images = pixels(2, 3, 96, 64)
    expected = model(images)
    last = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(last(images), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(images)
    assert scores.dtype == torch.bfloat16
    error = (scores.float() - expected).abs().max() / expected.abs().max()
    assert 0 < error < 0.05
    half = model.bfloat16()(images)
    assert (half.float() - expected).abs().max() / expected.abs().max() < 0.05


@pytest.mark.parametrize(
    ("backend", "shapes"),
    [
        ("aot_eager", [(2, 3, 64, 64), (3, 3, 97, 128)]),
        pytest.param(
            "inductor",
            [(2, 3, 97, 128), (3, 3, 130, 230)],  # compiled once
            marks=pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler"),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, while it compiles
def test_compiled_with_dynamic_shapes(
    backend: str, shapes: list[tuple[int, int, int, int]]
) -> None:
    model = randomise(build("A-LRN", **SMALL))
    torch.compiler.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for shape in shapes:
            images = pixels(*shape)
            torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("from_crop", [False, True])
def test_exported_with_dynamic_batch_and_size(from_crop: bool) -> None:
    model = randomise(build("D", **SMALL))
    dim, smallest = torch.export.Dim, 64 if from_crop else 96
    sizes = {0: dim("n", min=1), 2: dim("h", min=smallest), 3: dim("w", min=smallest)}
    # PyTorch takes a map of one cell for a case of its own unless told otherwise.
    settings: Any = torch.fx.experimental._config
    with settings.patch(backed_size_oblivious=from_crop):
        exported = torch.export.export(
            model, (pixels(2, 3, 96, 128),), dynamic_shapes={"images": sizes}
        )
    for height, width in ((smallest, smallest), (97, smallest), (smallest + 5, 200)):
        images = pixels(5, 3, height, width)
        torch.testing.assert_close(exported.module()(images), model(images))


def test_one_seed_gives_one_net() -> None:
    one, same, other = (build("A", **SMALL, seed=seed) for seed in (3, 3, 4))
    assert not one.training
    for key, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[key])
    assert not torch.equal(one.conv1_1.weight, other.conv1_1.weight)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("call", [lambda net: net, vggnet.fast])
def test_what_is_no_tensor_here_is_refused(call: Callable[[VGG], Callable[[Any], Any]]) -> None:
    """An array, a picture, a tensor on another device, whose memory kernels would read."""
    net = call(build("A", **SMALL))
    with pytest.raises(InputError, match=r"are a ndarray: give a tensor, N×3×H×W; .*permute"):
        net(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(
        InputError, match=r"images are on meta, the net on cpu: images\.to\('cpu'\)"
    ):
        net(torch.zeros(1, 3, 64, 64, device="meta"))


@pytest.mark.parametrize("given", ["net.safetensors", None, nn.Linear(1, 1)])
def test_fast_takes_nets(given: Any) -> None:
    with pytest.raises(InputError, match=f"fast takes a VGG, not a {type(given).__name__}"):
        vggnet.fast(given)
    with pytest.raises(InputError, match=r"not a OnCPU|not a Plain"):
        vggnet.fast(vggnet.fast(build("A", **SMALL)))  # type: ignore[arg-type]


def test_the_class_can_be_made_without_build() -> None:
    model = VGG(Config("A", **SMALL))
    assert model.training
    assert model(pixels(1, 3, 64, 64)).isfinite().all()
    assert "crop=64" in repr(model)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3, 63, 64), ["63×64", "crop 64", "64 or more"]),
        ((1, 1, 64, 64), ["(1, 1, 64, 64)", "N×3×H×W"]),
        ((3, 64, 64), ["batch dimension"]),
    ],
)
def test_wrong_images_are_refused(shape: tuple[int, ...], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build("A", **SMALL)(pixels(*shape))
    for word in words:
        assert word in str(caught.value)
