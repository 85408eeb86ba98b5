"""Random weights against their closed forms; staged and whole copies bit by bit."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from reference import randomise
from vggnet import VGG, InputError, build
from vggnet.initialize import STAGED_LAYERS, Init, initialize_, staged_, whole_
from vggnet.rivals import Rival

SMALL: dict[str, Any] = {"num_classes": 5, "crop": 64, "width": 0.125}


@pytest.mark.parametrize("init", ["glorot", "he", "paper-variance", "paper-std"])
def test_variances_are_the_closed_forms(init: Init) -> None:
    model = build("C", **SMALL, init=init)
    for name, module in model.named_children():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        # Fan in and out by their definition: connections of one output, of one input value.
        outputs = module.weight.shape[0]
        fan_in = module.weight.numel() / outputs
        kernel = math.prod(module.kernel_size) if isinstance(module, nn.Conv2d) else 1
        variance = {
            "glorot": 2 / (fan_in + outputs * kernel),
            "he": 2 / fan_in,
            "paper-variance": 1e-2,
            "paper-std": 1e-4,
        }[init]
        n = module.weight.numel()
        weight = module.weight.detach().double()
        # Mean and variance of n draws, within five standard errors.
        assert abs(weight.mean()) < 5 * math.sqrt(variance / n), name
        assert weight.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / n)), name
        if init == "glorot":  # uniform: bounded by √3 standard deviations
            assert weight.abs().max() <= math.sqrt(3 * variance) * (1 + 1e-6), name
        assert module.bias is not None
        assert torch.equal(module.bias, torch.zeros_like(module.bias))


def test_the_draw_follows_the_generator() -> None:
    one, two = build("A", **SMALL), build("A", **SMALL)
    initialize_(one, "he", torch.Generator().manual_seed(5))
    initialize_(two, "he", torch.Generator().manual_seed(5))
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key])


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("net", ["A-LRN", "B", "C", "D", "E"])
def test_staged_copies_are_bit_equal_and_the_rest_is_untouched(net: str, batch_norm: bool) -> None:
    net_a = randomise(build("A", **SMALL, batch_norm=batch_norm, seed=1))
    model = randomise(build(net, **SMALL, batch_norm=batch_norm, seed=2), seed=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    copied = staged_(model, net_a)
    assert [name for name in copied if not name.startswith("bn")] == [
        "conv1_1",
        "conv2_1",
        "conv3_1",
        "conv3_2",
        "fc6",
        "fc7",
        "fc8",
    ]
    for key, value in model.state_dict().items():
        layer = key.split(".")[0].replace("bn", "conv")
        source = net_a.state_dict()[key] if layer in STAGED_LAYERS else before[key]
        assert torch.equal(value, source), key
    model.conv1_1.weight.data.zero_()  # type: ignore[union-attr,operator]
    assert net_a.conv1_1.weight.abs().sum() > 0  # type: ignore[union-attr,operator]


def test_staged_refuses_what_does_not_fit() -> None:
    a, d = build("A", **SMALL), build("D", **SMALL)
    with pytest.raises(InputError, match="from net A, not from D"):
        staged_(build("E", **SMALL), d)
    wide = build("D", num_classes=5, crop=64, width=0.25)
    before = {key: value.clone() for key, value in wide.state_dict().items()}
    with pytest.raises(InputError, match=r"conv1_1\.weight.*\(8, 3, 3, 3\).*\(16, 3, 3, 3\)"):
        staged_(wide, a)
    assert all(torch.equal(value, before[key]) for key, value in wide.state_dict().items())
    with pytest.raises(InputError, match=r"\(8, 3, 3, 3\)"):
        staged_(build("B-5x5", **SMALL), a)
    with pytest.raises(InputError, match="batch-normalised"):
        staged_(build("D", **SMALL, batch_norm=True), a)


def test_whole_copies_everything_of_the_same_net() -> None:
    one, two = (randomise(build("C", **SMALL, seed=s), seed=s) for s in (1, 2))
    whole_(two, one)
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key
    with pytest.raises(InputError, match="net D cannot start from weights of net C"):
        whole_(build("D", **SMALL), one)


def test_other_classes_keep_their_last_layers() -> None:
    """fc8, and of GoogLeNet those of the classifiers at its sides."""
    ten, five = (VGG(Rival("GoogLeNet", n, crop=64, width=1 / 16)) for n in (10, 5))
    before = {key: value.clone() for key, value in five.state_dict().items()}
    whole_(five, ten)
    for key, value in five.state_dict().items():
        last = key.split(".")[0] in ("fc8", "side1_fc2", "side2_fc2")
        assert torch.equal(value, before[key] if last else ten.state_dict()[key]), key


def test_unknown_init() -> None:
    with pytest.raises(InputError, match=r"'xavier'.*glorot"):
        build("A", **SMALL, init="xavier")  # type: ignore[arg-type]
