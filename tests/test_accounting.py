"""The accounting against closed forms, the lecture slides and the real modules."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference import KERNELS
from vggnet import NETS, VGG, Config, InputError, account, build
from vggnet.accounting import first_layer_arithmetic, kernel_arithmetic
from vggnet.rivals import RIVALS, beside

CHANNELS = [64, 128, 256, 512, 512]


def closed_form(net: str, classes: int = 1000, crop: int = 224) -> tuple[int, int, int]:
    """Parameters, weights and multiply-adds from stage sizes alone."""
    weights = biases = multiply_adds = 0
    inputs = 3
    for stage, (kernels, channels) in enumerate(zip(KERNELS[net], CHANNELS, strict=True)):
        side = crop // 2**stage
        for kernel in kernels:
            weights += kernel**2 * inputs * channels
            multiply_adds += kernel**2 * inputs * channels * side**2
            biases += channels
            inputs = channels
    head = (crop // 32) ** 2 * 512 * 4096 + 4096 * 4096 + 4096 * classes
    return weights + head + biases + 8192 + classes, weights + head, multiply_adds + head


@pytest.mark.parametrize("crop", [32, 224, 256])
@pytest.mark.parametrize("net", NETS)
def test_totals_are_the_closed_form(net: str, crop: int) -> None:
    found = account(Config(net, num_classes=11, crop=crop))
    assert (found.parameters, found.weights, found.multiply_adds) == closed_form(net, 11, crop)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("net", NETS)
def test_parameters_are_those_of_the_modules_at_full_size(net: str, batch_norm: bool) -> None:
    with torch.device("meta"):
        model = VGG(Config(net, batch_norm=batch_norm))
    found = account(model.config)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    rows = {row.name: row for row in found.layers}
    for name, module in model.named_children():
        own = list(module.parameters())
        if own:
            assert rows[name].parameters == sum(p.numel() for p in own), name
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert rows[name].weights == module.weight.numel(), name


@pytest.mark.parametrize("size", [(64, 64), (97, 130)])
@pytest.mark.parametrize("net", NETS)
def test_outputs_and_multiply_adds_are_those_of_a_forward(net: str, size: tuple[int, int]) -> None:
    model = build(net, num_classes=5, crop=64, width=1 / 16)
    found = account(model.config, size)
    names = [row.name for row in found.layers]
    outputs = model.activations(torch.zeros(1, 3, *size), names)
    for row in found.layers:
        output = outputs[row.name]
        assert tuple(output.shape[1:]) == row.output, row.name
        assert output.numel() == row.activations
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.zeros(1, 3, *size))
    lrn = 4 * 4 * size[0] * size[1] if net == "A-LRN" else 0  # its band matrix is no weight
    assert counter.get_total_flops() == 2 * (found.multiply_adds + lrn)


@pytest.mark.parametrize(
    ("net", "layer"),
    [
        *((net, layer) for net in ("C", "E", "B-5x5") for layer in ("pool2", "conv4_1", "pool5")),
        *((net, layer) for net in ("C", "D", "E") for layer in ("conv1_2", "conv3_3")),
    ],
)
def test_receptive_fields_are_what_gradients_reach(net: str, layer: str) -> None:
    found = account(Config(net))
    rows = {row.name: row for row in found.layers}
    # A net of ones: what one value in the middle depends on has a gradient.
    x = torch.ones(1, 1, 512, 512, dtype=torch.float64, requires_grad=True)
    y: Tensor = x
    for s, kernels in enumerate(KERNELS[net], start=1):
        for i, kernel in enumerate(kernels, start=1):
            ones = torch.ones(1, 1, kernel, kernel, dtype=y.dtype) / kernel**2
            y = F.conv2d(y, ones, padding=kernel // 2)
            if f"conv{s}_{i}" == layer:
                break
        else:
            y = F.avg_pool2d(y, 2)  # an average reaches as far as a maximum
            if f"pool{s}" != layer:
                continue
        break
    middle = y.shape[2] // 2
    y[0, 0, middle, middle].backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    reached = (x.grad[0, 0].sum(dim=0) != 0).nonzero()
    assert reached[-1] - reached[0] + 1 == rows[layer].receptive_field
    assert y.shape[2] * rows[layer].stride == 512


def test_training_memory_is_what_autograd_keeps() -> None:
    options: dict[str, Any] = {"num_classes": 5, "crop": 64, "width": 0.25}
    configs = [Config("D", **options), Config("A-LRN", **options)]
    configs += [Config("B", batch_norm=True, **options)]
    configs += [beside(name, configs[0]) for name in RIVALS]
    for config in configs:
        net, crop = config.title, config.crop
        model = VGG(config).train()
        kept: dict[int, int] = {}
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(tensor: Tensor, kept: Any = kept, weights: Any = weights) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            scores = model.training_scores(torch.zeros(4, 3, crop, crop))
        assert all(found.requires_grad for found in scores)
        expected = account(model.config).training_memory(4)
        assert sum(kept.values()) == pytest.approx(expected["kept"], rel=0.02), net
        assert expected["parameters"] == 4 * sum(p.numel() for p in model.parameters())
        assert expected["total"] == sum(v for k, v in expected.items() if k != "total")


def test_kernel_arithmetic() -> None:
    two, three = kernel_arithmetic(10)
    assert (two.stack_weights, two.single_weights) == (1800, 2500)
    assert (three.stack_weights, three.single_weights) == (2700, 4900)
    assert round(three.excess_percent) == 81
    first = first_layer_arithmetic()
    assert [(row.stack_weights, row.single_weights) for row in first] == [
        (3456, 4800),
        (5184, 9408),
    ]
    assert first[1].single == "7×7"
    assert round(first[1].excess_percent) == 81


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="223×300 is smaller than the net's crop 224"):
        account(Config("A"), (223, 300))
    with pytest.raises(InputError, match="batch 0"):
        account(Config("A")).training_memory(0)
    with pytest.raises(InputError, match=r"lists no layer 'relu1_1'.*conv1_1"):
        account(Config("A")).receptive_field("relu1_1")
