"""Training by the kernels against the model's own modules, and both against float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vggnet
from vggnet.configs import NETS
from vggnet.errors import InputError
from vggnet.kernels import library as building
from vggnet.kernels.library import library
from vggnet.kernels.training import Forward, accelerated, uses_kernels
from vggnet.model import VGG


def wide_enough() -> float:
    """The width at which 64 channels become one panel."""
    return library().columns / 64


def gradients(model: VGG, forward: Forward, images: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    labels = torch.arange(len(images)) % model.config.num_classes
    loss = F.cross_entropy(forward(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {"loss": loss.detach().double()}
    for name, parameter in model.named_parameters():
        # Before batch normalisation a bias has a gradient of 0: what is there is rounding alone.
        nothing = model.config.batch_norm and name[:4] == "conv" and name[-4:] == "bias"
        if parameter.grad is not None and not nothing:
            found[name] = parameter.grad.double().clone()
    return found


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected
    )


@pytest.mark.parametrize("batch_norm", [False, True], ids=["", "BN"])
@pytest.mark.parametrize("net", NETS)
def test_gradients(net: str, batch_norm: bool) -> None:
    """Of every parameter, in float64 by the model itself and in float32 by the kernels.

    Where rounding turns a ReLU, or chooses another pixel of a pooling, gradients are apart by more
    than rounding, with PyTorch's own layers as often: in half of the nets with batch normalisation.
    So one net of ten has to agree, and none before it may be far off.
    """
    close = 2e-4 if batch_norm else 2e-5
    for seed in range(10):
        model = vggnet.build(
            net,
            crop=32,
            width=wide_enough(),
            num_classes=5,
            dropout=0.0,
            batch_norm=batch_norm,
            seed=seed,
        ).train()
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (3, 3, 48, 40), dtype=torch.uint8, generator=generator)
        exact = gradients(model.double(), model, images)
        model.float().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        assert uses_kernels(model)
        apart = distance(gradients(model, accelerated(model, threads=2), images), exact)
        assert apart < 0.05
        if apart < close:
            return
    pytest.fail(f"no net's gradients are within {close}")


def test_threads_change_nothing() -> None:
    model = vggnet.build("D", crop=64, width=wide_enough(), num_classes=5, dropout=0.0).train()
    images = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    expected = gradients(model, accelerated(model, threads=1), images)
    for threads in (2, 3):
        found = gradients(model, accelerated(model, threads=threads), images)
        for name in expected:
            assert torch.equal(found[name], expected[name]), name


def test_dropout_and_frozen_layers() -> None:
    """Dropout is the model's own; of parameters that are not trained there is no gradient."""
    model = vggnet.build("A", crop=32, width=wide_enough(), num_classes=5, dropout=0.5).train()
    for name in ("conv1_1", "conv2_1", "fc6"):
        getattr(model, name).requires_grad_(False)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(1)
    expected = gradients(model, model, images)
    torch.manual_seed(1)
    found = gradients(model, accelerated(model), images)
    assert "conv2_1.weight" not in found
    assert distance(found, expected) < 0.05
    assert abs(found["loss"] - expected["loss"]) < 1e-5


def test_learns_as_the_model_does() -> None:
    """Fifteen steps of SGD with momentum: the two losses stay together."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(8) % 4
    losses: list[list[float]] = []
    for quick in (False, True):
        model = vggnet.build("B", crop=32, width=wide_enough(), num_classes=4, dropout=0.0).train()
        forward = accelerated(model) if quick else model
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)
        losses.append([])
        for _ in range(15):
            optimizer.zero_grad()
            loss = F.cross_entropy(forward(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < 0.8 * losses[0][0]
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) < 0.02


def test_who_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow nets, other dtypes, no compiler: the model itself."""
    narrow = vggnet.build("A", crop=32, width=1 / 16)
    assert accelerated(narrow) is narrow
    wide = vggnet.build("A", crop=32, width=wide_enough())
    assert accelerated(wide) is not wide
    double = vggnet.build("A", crop=32, width=wide_enough()).double()
    assert accelerated(double) is double
    monkeypatch.setenv(building.OFF, "0")
    assert accelerated(wide) is wide


def test_hooks_see_their_layers() -> None:
    model = vggnet.build("A", crop=32, width=wide_enough(), num_classes=5)
    forward, seen = accelerated(model), []
    layer = model.relu3_2
    assert isinstance(layer, nn.Module)
    layer.register_forward_hook(lambda *_: seen.append(1))
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(forward(images), model(images))
    assert len(seen) == 2


def test_errors() -> None:
    model = vggnet.build("A", crop=32, width=wide_enough())
    with pytest.raises(InputError, match="smaller than the crop"):
        accelerated(model)(torch.zeros(1, 3, 16, 16))
