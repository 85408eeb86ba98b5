"""What runs on a GPU, as far as a CPU can tell; the tests at the end need one."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reference import randomise
from vggnet import VGG, Config, InputError, build, gpu_layers, gpu_step
from vggnet.configs import NETS
from vggnet.gpu_step import CompiledStep, compiled_forward
from vggnet.inference.gpu import OnGPU
from vggnet.initialize import initialize_
from vggnet.loading import Batch
from vggnet.model import empty
from vggnet.recipes import a_256, rival_256
from vggnet.rivals import RIVALS, beside
from vggnet.step import Parallel, Step

HALF, FULL = 3e-2, 1e-5
"""Largest difference of scores from float64's over the largest score."""

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def net(name: str = "A", **options: Any) -> VGG:
    values: dict[str, Any] = {"num_classes": 11, "crop": 32, "width": 0.06, **options}
    return randomise(build(name, **values))


def pixels(n: int = 2, height: int = 32, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(n * height + width)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)


def exactly(model: VGG, images: Tensor, names: list[str]) -> dict[str, Tensor]:
    copy = VGG(model.config, model.mean.tolist()).double().eval()
    copy.load_state_dict(model.state_dict())
    with torch.inference_mode():
        return copy.activations(images, names)


def relative(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double().cpu() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_every_net_gives_the_scores_of_float64(name: str, batch_norm: bool) -> None:
    model = net(name, batch_norm=batch_norm)
    for dtype, within in ((torch.bfloat16, HALF), (torch.float32, FULL)):
        fast = OnGPU(model, dtype)
        for images in (pixels(3), pixels(1, 70, 101), pixels().float() + 0.3):
            expected = exactly(model, images, ["scores", "fc8"])
            scores = fast(images)
            assert scores.dtype == torch.float32
            assert relative(scores, expected["scores"]) < within
            assert relative(fast.score_map(images), expected["fc8"]) < within


@pytest.mark.parametrize("name", ["A-LRN", "C"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_layer_alone_and_all_together(name: str, batch_norm: bool) -> None:
    model = net(name, batch_norm=batch_norm, crop=64)
    fast = OnGPU(model, torch.float32)
    names = [*(layer.name for layer in model.config.layers()), "scores"]
    images = pixels(2, 64, 97)
    expected = exactly(model, images, names)
    for wanted in (names, [*names[:4], "scores"], *([name] for name in names)):
        found = fast.activations(images, wanted)
        assert list(found) == wanted
        for layer, value in found.items():
            assert relative(value, expected[layer]) < FULL, layer


def test_a_layer_asked_for_twice() -> None:
    fast = OnGPU(net())
    assert list(fast.activations(pixels(), ["pool1", "pool1"])) == ["pool1"]
    assert fast.activations(pixels(), []) == {}


def test_without_a_head() -> None:
    model = randomise(empty(Config("B", width=0.06, head=False)).float())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    fast = OnGPU(model)
    images = pixels(2, 40, 50)
    found = fast.activations(images, ["relu3_2", "pool5"])
    expected = exactly(model, images, ["relu3_2", "pool5"])
    assert relative(found["relu3_2"], expected["relu3_2"]) < HALF
    assert relative(found["pool5"], expected["pool5"]) < HALF
    with pytest.raises(InputError, match="without its classifier"):
        fast(images)


def test_channels_that_are_not_rgb() -> None:
    model = net(in_channels=9)
    images = torch.randint(0, 256, (2, 9, 32, 40), dtype=torch.uint8)
    assert relative(OnGPU(model)(images), exactly(model, images, ["scores"])["scores"]) < HALF


def test_nets_in_other_types_keep_them() -> None:
    model, images = net(), pixels()
    expected = exactly(model, images, ["scores"])["scores"]
    assert relative(OnGPU(model.double())(images), expected) < 1e-12
    for dtype in (torch.bfloat16, torch.float16):
        fast = OnGPU(model.to(dtype))
        assert fast.dtype == dtype
        assert str(dtype).removeprefix("torch.") in fast.engine
        assert relative(fast(images), expected) < 2 * HALF
    with pytest.raises(InputError, match="int8"):
        OnGPU(model, torch.int8)


def test_no_images_and_wrong_ones() -> None:
    model = net()
    fast = OnGPU(model)
    assert fast(pixels()[:0]).shape == (0, 11)
    with pytest.raises(InputError, match="smaller"):
        fast(pixels(1, 31, 40))
    with torch.no_grad():
        model.get_parameter("fc7.bias").add_(1)
    with pytest.raises(InputError, match="have changed"):
        fast(pixels())


def test_the_model_stays_as_it_is() -> None:
    model, images = net(batch_norm=True).train(), pixels()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = OnGPU(model)
    assert torch.equal(fast(images), fast(images))  # no dropout
    fast.activations(images, ["conv1_1"])
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.is_contiguous()


def test_what_is_not_a_number_stays_one() -> None:
    model = net()
    with torch.no_grad():
        model.get_parameter("conv3_1.weight")[0, 0, 0, 0] = torch.nan
    assert OnGPU(model)(pixels()).isnan().all()


def test_memory_is_that_of_the_own_weights() -> None:
    model = net("D", width=0.25)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert OnGPU(model).bytes == 2 * count


def compiling(fast: OnGPU, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """As on a GPU, with a compiler that compiles nothing; gives the shapes that reach it."""
    compiled: list[tuple[int, ...]] = []

    def forward(images: Tensor, names: tuple[str, ...], arranged: bool) -> dict[str, Tensor]:
        assert arranged
        compiled.append(tuple(images.shape))
        return fast._forward(images, names, arranged)

    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    monkeypatch.setattr(fast, "_compile", True)
    monkeypatch.setattr(fast, "_compiled", forward)
    return compiled


def test_a_shape_is_compiled_when_it_comes_for_the_third_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast = OnGPU(net())
    compiled = compiling(fast, monkeypatch)
    for _ in range(2):
        fast(pixels(4))
        fast(pixels(1, 40, 40))
        fast.score_map(pixels(4))  # other results are another program
    assert compiled == []
    expected = fast(pixels(4))
    assert compiled == [(4, 3, 32, 32)]
    assert torch.equal(fast(pixels(4)), expected)
    fast(pixels(4).float())  # so are images of another type
    fast(pixels(3))  # an evaluation's last batch
    assert compiled == [(4, 3, 32, 32)] * 2


def test_so_many_shapes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = OnGPU(net())
    compiled = compiling(fast, monkeypatch)
    for n in range(1, 12):
        for _ in range(4):
            fast(pixels(n))
    assert sorted(set(compiled)) == [(n, 3, 32, 32) for n in range(1, 9)]


def test_what_cannot_be_compiled_is_computed_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = OnGPU(net())
    expected = fast(pixels())

    def broken(*_: object) -> dict[str, Tensor]:
        raise RuntimeError("there is no compiler\nand a long story")

    compiling(fast, monkeypatch)
    monkeypatch.setattr(fast, "_compiled", broken)
    fast(pixels())
    with pytest.warns(UserWarning, match="not compiled: RuntimeError: there is no compiler$"):
        assert torch.equal(fast(pixels()), expected)
    assert torch.equal(fast(pixels()), expected)  # and says so once


@pytest.mark.parametrize("name", ["A-LRN", "C"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("width", [0.06, 0.125])  # 4 and 8 channels at first
def test_layers_as_a_compiler_gets_them(name: str, batch_norm: bool, width: float) -> None:
    model = net(name, batch_norm=batch_norm, crop=64, width=width)
    fast = OnGPU(model, torch.float32)
    names = (*(layer.name for layer in model.config.layers()), "scores")
    images = pixels(2, 64, 97)
    expected = exactly(model, images, list(names))
    for wanted in (names, ("relu2_1", "pool3", "fc8"), *((name,) for name in names)):
        with torch.no_grad():
            found = fast._forward(images, wanted, arranged=True)
        assert list(found) == list(wanted)
        for layer, value in found.items():
            assert relative(value, expected[layer]) < FULL, layer


@pytest.mark.parametrize("size", [(8, 6), (7, 9), (2, 3), (3, 2)])
def test_pooling_and_its_gradient(size: tuple[int, int]) -> None:
    """Against PyTorch's, with equal values among the four and some that are not numbers."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (2, 4, *size), generator=generator).float()
    x[1, 2, 0, 1] = torch.nan
    x.requires_grad_()
    found, expected = gpu_layers.max_pool(x), F.max_pool2d(x, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    gradient = torch.randn(expected.shape, generator=generator)
    of_found, of_expected = (torch.autograd.grad(y, x, gradient)[0] for y in (found, expected))
    assert torch.equal(of_found, of_expected)


def test_convolution_with_its_relu_passes_pytorchs_checks_of_an_operator() -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    for k in (1, 3, 5):
        operands = drawn(2, 8, 6, 5), drawn(16, 8, k, k), drawn(16)
        torch.library.opcheck(gpu_layers.conv_relu, operands)
        assert torch.autograd.gradcheck(gpu_layers.conv_relu, operands)


def batches(*sizes: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for n in sizes:
        shifts = 10 * torch.randn(n, 3, 1, 1, generator=generator)
        labels = torch.randint(0, 11, (n,), generator=generator)
        yield pixels(n).to(memory_format=torch.channels_last), shifts, labels


def step_of(model: VGG, **options: Any) -> CompiledStep:
    values = {"batch_size": 6, "learning_rate": 1e-2, "momentum": 0.9, "weight_decay": 5e-4}
    return CompiledStep(model, **{**values, "backend": None, **options})


@pytest.mark.parametrize("name", ["A", "C", "A-LRN"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_the_papers_sgd(name: str, batch_norm: bool, dtype: torch.dtype) -> None:
    """Against §3.1 written out, with the net's own forward and autograd; the rate falls.

    With batch normalisation over six images rounding turns a ReLU here and there, which moves a
    layer by up to some hundredths of its steps.
    """
    model, same = (net(name, batch_norm=batch_norm, dropout=0.0).train() for _ in range(2))
    step = step_of(model, dtype=dtype)
    start = {key: value.clone() for key, value in same.named_parameters()}
    velocity = [torch.zeros_like(p) for p in same.parameters()]
    within = 1e-4 if dtype == torch.float32 else 0.05
    for i, (images, shifts, labels) in enumerate(batches(6, 6, 4)):
        rate = step.optimizer.param_groups[0]["lr"] = 1e-3 / (1 + i)
        loss, wrong = step(images, shifts, labels)
        scores = same(images + shifts)
        expected = F.cross_entropy(scores, labels)
        assert loss.item() == pytest.approx(expected.item(), rel=within)
        if dtype == torch.float32:
            assert wrong.item() == (scores.argmax(dim=1) != labels).sum().item()
        gradients = torch.autograd.grad(expected, list(same.parameters()))
        with torch.no_grad():
            for p, v, g in zip(same.parameters(), velocity, gradients, strict=True):
                v.mul_(0.9).add_(g + 5e-4 * p)
                p.sub_(rate * v)
    if dtype == torch.float32:
        trained = dict(model.named_parameters())
        for key, expected in same.named_parameters():
            apart, moved = (trained[key] - expected).norm(), (expected - start[key]).norm()
            assert apart < (0.1 if batch_norm else 0.01) * moved + 1e-6, key
        buffers = dict(model.named_buffers())
        for key, value in same.named_buffers():
            torch.testing.assert_close(buffers[key], value, rtol=1e-3, atol=1e-5)


def test_layers_that_do_not_learn_stay() -> None:
    model = net().train()
    for layer in model.children():
        if isinstance(layer, torch.nn.Conv2d):
            layer.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step_of(model)(*next(batches(6)))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(("conv", "mean")), name


def test_one_seed_gives_one_step() -> None:
    losses = []
    for seed in (1, 1, 2):
        step = step_of(net(dropout=0.5).train())
        torch.manual_seed(seed)
        losses.append([step(*batch)[0].item() for batch in batches(6, 5)])
    assert losses[0] == losses[1] != losses[2]


# Dynamo makes an instance of the pooling's function, which PyTorch itself warns of.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_only_whole_batches_compile_and_one_time() -> None:
    """The graph is whole, and neither a last batch, an evaluation nor a rate compile another."""
    from torch._dynamo.utils import counters

    counters.clear()
    models = [net(dropout=0.5).train() for _ in range(2)]
    compiled, plain = step_of(models[0], backend="eager"), step_of(models[1])
    for batch in batches(6, 6, 4, 6):
        losses = []
        for step in (compiled, plain):
            torch.manual_seed(3)
            step.optimizer.param_groups[0]["lr"] *= 0.5
            losses.append(step(*batch)[0].item())
            step.model.eval()(batch[0])
            step.model.train()
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_without_a_compiler_it_goes_on_as_it_stands() -> None:
    models = [net(dropout=0.0).train() for _ in range(2)]
    step, expected = step_of(models[0]), step_of(models[1])

    def broken(*_: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError("there is no compiler\nat all")

    step._compiled = broken
    batch = next(batches(6))
    with pytest.warns(UserWarning, match="not compiled: RuntimeError: there is no compiler$"):
        loss, _ = step(*batch)
    assert loss.item() == expected(*batch)[0].item()
    assert step(*batch)[0].item() == expected(*batch)[0].item()  # and says so once


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", ["fc8", "pool5"])
def test_the_compiled_forward_of_shared_steps(name: str) -> None:
    """Scores or pool5 of whole batches and others, with the gradients of float32's net."""
    model, same = (net(dropout=0.0).train() for _ in range(2))
    forward = compiled_forward(model, name, 6, backend="aot_eager")
    for images, shifts, _ in batches(6, 4):
        found = forward(images, shifts)
        expected = same.run(images + shifts, (name,))[name]
        assert found.dtype == torch.bfloat16
        given = found.flatten(1).float()
        assert relative(given.detach(), expected.detach().flatten(1).double()) < HALF
        of_found, of_expected = (
            torch.autograd.grad(y.float().square().mean(), m.get_parameter("conv2_1.weight"))[0]
            for y, m in ((found, model), (expected, same))
        )
        assert (of_found - of_expected).norm() < 0.3 * of_expected.norm()


def test_a_shared_step_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Any:
        def fails(*_: object) -> Tensor:
            raise RuntimeError("there is no compiler")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    forward = compiled_forward(net(), "fc8", 6)
    images, shifts, _ = next(batches(6))
    with pytest.warns(UserWarning, match="not compiled: RuntimeError: there is no compiler$"):
        found = forward(images, shifts)
    assert torch.equal(forward(images, shifts), found)  # and says so once


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_step_in_parts_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As float32's, within bfloat16's rounding, through the forward that several ranks take."""
    monkeypatch.setattr("vggnet.step.compiled_forward", partial(compiled_forward, backend="eager"))
    losses = {}
    for precision in ("float32", "bfloat16"):
        model = net(dropout=0.0).train()
        config = replace(a_256(model.config), batch_size=6, learning_rate=1e-4, precision=precision)
        step = Step(model, config, parallel=Parallel(accumulate=2))
        losses[precision] = [
            step(Batch(*batch, torch.empty(0, 0)), [len(batch[2])])[0].item()
            for batch in batches(6, 5, 6)
        ]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]


def rival(name: str, seed: int = 0) -> VGG:
    """One of Table 7's other nets, without dropout."""
    model = VGG(replace(beside(name, Config("A", 11, crop=64, width=1 / 16)), dropout=0.0))
    initialize_(model, "glorot", torch.Generator().manual_seed(seed))
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    return model.train()


def some_of(crop: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches for steps at this crop, one of which is not whole."""
    return [
        (pixels(n, crop, crop), torch.randn(n, 3, 1, 1), torch.arange(n) % 11) for n in (6, 5, 6)
    ]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", RIVALS)
def test_steps_of_table_7s_other_nets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 as the plain step's, which is written out in test_rivals.py; in bfloat16 near it,
    alone and in parts."""
    for way in ("compiled_forward", "compiled_scores"):
        function = getattr(gpu_step, way)
        monkeypatch.setattr(f"vggnet.step.{way}", partial(function, backend="eager"))
    plain = rival(name)
    recipe = replace(rival_256(plain.config), batch_size=6, learning_rate=1e-4)
    step = Step(plain, recipe)
    some = some_of(plain.config.crop)
    losses = [step(Batch(*batch, torch.empty(0, 0)), [len(batch[2])])[0].item() for batch in some]
    start = rival(name).state_dict()
    for dtype, within, moves in ((torch.float32, 1e-5, 1e-3), (torch.bfloat16, 0.02, 0.25)):
        model = rival(name)
        backend = "eager" if dtype == torch.bfloat16 else None
        compiled = step_of(model, dtype=dtype, backend=backend, learning_rate=1e-4)
        found = [compiled(*batch)[0].item() for batch in some]
        assert (compiled._compiled is None) == (backend is None)
        assert found == pytest.approx(losses, rel=within)
        assert {value.dtype for value in model.parameters()} == {torch.float32}
        apart, moved = (
            torch.cat([(value - at[key]).flatten() for key, value in one.named_parameters()])
            for one, at in ((model, plain.state_dict()), (plain, start))
        )
        assert apart.norm() < moves * moved.norm()
    assert found != losses  # bfloat16 was there
    half = replace(recipe, precision="bfloat16")
    in_parts = Step(rival(name), half, parallel=Parallel(accumulate=2))
    found = [
        in_parts(Batch(*batch, torch.empty(0, 0)), [len(batch[2])])[0].item() for batch in some
    ]
    assert found[0] == pytest.approx(losses[0], rel=0.02)


def test_nets_that_cannot_be_trained() -> None:
    with pytest.raises(InputError, match="float32"):
        step_of(net().double())
    with pytest.raises(InputError, match="float64"):
        step_of(net(), dtype=torch.float64)
    with pytest.raises(InputError, match="classifier"):
        step_of(empty(Config("A", width=0.06, head=False)))


@on_cuda
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_scores_on_a_gpu(name: str, batch_norm: bool) -> None:
    model = net(name, batch_norm=batch_norm, width=0.25, crop=64)
    expected = {n: exactly(model, pixels(n, 64, 64), ["scores"])["scores"] for n in (1, 5)}
    fast = OnGPU(model.cuda())
    for _ in range(5):  # as they stand, and from graphs
        for n, scores in expected.items():
            assert relative(fast(pixels(n, 64, 64).cuda()), scores) < HALF
    assert fast._compile


@on_cuda
def test_results_are_not_written_over() -> None:
    fast = OnGPU(net("D", width=0.25).cuda())
    one, other = pixels(4).cuda(), (255 - pixels(4)).cuda()
    first = [fast.activations(one, ["pool2", "scores"]) for _ in range(4)]
    kept = [{name: value.clone() for name, value in found.items()} for found in first]
    fast.activations(other, ["pool2", "scores"])
    for found, copy in zip(first, kept, strict=True):
        assert all(torch.equal(found[name], copy[name]) for name in copy)
    assert relative(first[3]["scores"], first[0]["scores"].double().cpu()) < HALF


@on_cuda
@pytest.mark.parametrize("name", ["A", "D"])
@pytest.mark.parametrize(
    ("dtype", "loss_within", "moves_within"),
    [(torch.float32, 1e-4, 0.05), (torch.bfloat16, 0.01, 0.4)],
)
def test_steps_on_a_gpu_are_those_of_a_cpu(
    name: str, dtype: torch.dtype, loss_within: float, moves_within: float
) -> None:
    """On a CPU, bfloat16 moves the first layers of these nets by up to 0.3 of float32's steps."""
    there, here = (net(name, width=0.25, dropout=0.0).train() for _ in range(2))
    start = {key: value.detach().clone() for key, value in here.named_parameters()}
    steps = [
        step_of(there.cuda(), backend="inductor", learning_rate=1e-4, dtype=dtype),
        step_of(here, learning_rate=1e-4, dtype=torch.float32),
    ]
    with torch.backends.cudnn.flags(allow_tf32=False):
        for batch in batches(6, 6, 4, 6):
            found = steps[0](*(x.cuda() for x in batch))[0].item()
            assert found == pytest.approx(steps[1](*batch)[0].item(), rel=loss_within)
    moved = dict(there.named_parameters())
    for key, expected in here.named_parameters():
        apart = (moved[key].cpu() - expected).norm()
        assert apart < moves_within * (expected - start[key]).norm(), key


@on_cuda
def test_one_seed_gives_one_step_on_a_gpu() -> None:
    losses = []
    for seed in (1, 1, 2):
        step = step_of(net(width=0.25, dropout=0.5).cuda().train(), backend="inductor")
        torch.manual_seed(seed)
        losses.append(step(*(x.cuda() for x in next(batches(6))))[0].item())
    assert losses[0] == losses[1] != losses[2]


@on_cuda
@pytest.mark.parametrize("name", RIVALS)
def test_steps_of_table_7s_other_nets_on_a_gpu(name: str) -> None:
    here, there = rival(name), rival(name).cuda()
    step = step_of(here, dtype=torch.float32, learning_rate=1e-4)
    compiled = step_of(there, backend="inductor", learning_rate=1e-4)
    for batch in some_of(here.config.crop):
        found = compiled(*(x.cuda() for x in batch))[0].item()
        assert found == pytest.approx(step(*batch)[0].item(), rel=0.02)
    assert compiled._compiled is not None
