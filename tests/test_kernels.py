"""The kernels, at every width of vector, against PyTorch in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from vggnet.kernels import layers as on
from vggnet.kernels import library as building
from vggnet.kernels.layers import Connected, Direct, Scratch, Winograd, tile_for
from vggnet.kernels.library import Library, compile_to, compiler_and_flags, open_library
from vggnet.layers import LRN
from vggnet.modules import LocalResponseNorm

TILES = {43: 3, 23: 3, 25: 5}
"""Tile to kernel."""


@pytest.fixture(scope="module", params=[0, 4, 16], ids=["native", "4 lanes", "16 lanes"])
def lib(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The library, at the processor's own width of vectors and at others."""
    if not request.param:
        return building.library()
    path = tmp_path_factory.mktemp("kernels") / f"{request.param}.so"
    compiler, flags = compiler_and_flags()
    compile_to(path, compiler, (*flags, "-O0", f"-DVGGNET_LANES={request.param}"))
    return open_library(path)


@pytest.fixture(autouse=True)
def opened(lib: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on, "library", lambda: lib)


def maps(x: Tensor) -> Tensor:
    """N×C×H×W as the kernels take it."""
    n, channels, height, width = x.shape
    whole = torch.zeros(n, height, width, on.padded(channels))
    whole[..., :channels] = x.permute(0, 2, 3, 1)
    return whole


def images(x: Tensor, channels: int) -> Tensor:
    return x[..., :channels].permute(0, 3, 1, 2)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False, pool: bool = False
) -> Tensor:
    y = F.conv2d(
        x.double(),
        weight.double(),
        None if bias is None else bias.double(),
        padding=weight.shape[2] // 2,
    )
    y = y.relu() if relu else y
    return F.max_pool2d(y, 2) if pool else y


SHAPES = [
    (1, 3, 8, 4, 4),
    (2, 32, 48, 11, 9),
    (1, 20, 70, 7, 13),
    (3, 64, 64, 14, 14),
    (1, 5, 8, 1, 2),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tile", TILES)
def test_winograd(tile: int, shape: tuple[int, ...]) -> None:
    n, channels, out_channels, height, width = shape
    torch.manual_seed(0)
    x = torch.randn(n, channels, height, width).relu()
    weight, bias = (
        torch.randn(out_channels, channels, *[TILES[tile]] * 2),
        torch.randn(out_channels),
    )
    for memory_format in (torch.contiguous_format, torch.channels_last):
        layer = Winograd.of(weight.contiguous(memory_format=memory_format), bias, tile, 2)
        for relu, pool in ((False, False), (True, False), (True, True), (False, True)):
            if pool and min(height, width) < 2:
                continue
            expected = convolved(x, weight, bias, relu=relu, pool=pool)
            out = torch.full((n, *expected.shape[2:], on.padded(out_channels)), torch.nan)
            layer(maps(x), out, Scratch(), 2, relu=relu, pool=pool)
            assert error(images(out, out_channels), expected) < 3e-6
            assert not out[..., out_channels:].any()  # what pads the channels is 0, not anything


@pytest.mark.parametrize("together", [0, 5, 12, 1000])
def test_sharing_changes_nothing(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the number of threads, nor of tiles in a band, nor who takes what."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 64, 21, 17), torch.randn(96, 64, 3, 3)
    layer = Winograd.of(weight, None, 43, 1)
    expected = None
    for threads, band in ((1, 4), (2, 4), (3, 5), (4, 1)):
        share = min(together, 60), min(band, together or band)
        monkeypatch.setattr(on, "shares", lambda *_, share=share: share)
        out = torch.empty(2, 21, 17, on.padded(96))
        layer(maps(x), out, Scratch(), threads)
        assert expected is None or torch.equal(out, expected)
        expected = out
    assert expected is not None
    assert error(images(expected, 96), convolved(x, weight, None)) < 3e-6


def test_shares(lib: Library) -> None:
    """Every division of the work is one: no empty band, none larger than what is there."""
    for size in (1 << 10, 1 << 30):
        for tiles in (1, 2, 7, 49, 196, 3136):
            for threads in (1, 2, 7, 64):
                together, band = on.shares(lib, size, 512, tiles, threads)
                assert 1 <= band <= (together or tiles)
                assert 0 <= together <= tiles


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tile", TILES)
def test_gradients_of_a_convolution(tile: int, shape: tuple[int, ...]) -> None:
    n, _, _, height, width = shape
    channels, out_channels = on.padded(5), on.padded(20)
    torch.manual_seed(0)
    x = torch.randn(n, channels, height, width).double().requires_grad_()
    weight = torch.randn(out_channels, channels, *[TILES[tile]] * 2).double().requires_grad_()
    y = F.conv2d(x, weight, padding=TILES[tile] // 2)
    given = torch.randn(y.shape).double()
    y.backward(given)  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert weight.grad is not None
    w = weight.detach().float()
    turned = Winograd.of(w, None, tile, 2, turned=True)
    of_x = torch.empty(n, height, width, channels)
    turned(maps(given.float()), of_x, Scratch(), 2)
    assert error(images(of_x, channels), x.grad) < 3e-6
    for memory_format in (torch.contiguous_format, torch.channels_last):
        of_weight = torch.full_like(w, torch.nan).contiguous(memory_format=memory_format)
        on.weight_gradient(
            tile, maps(x.detach().float()), maps(given.float()), of_weight, Scratch(), 3
        )
        assert error(of_weight, weight.grad) < 5e-6


def test_gradients_of_weights_over_many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """More tiles than are transformed together: what is added up over the rounds."""
    monkeypatch.setattr(on, "_GRADIENTS", 10)
    torch.manual_seed(0)
    channels = on.padded(1)
    x, given = torch.randn(2, channels, 30, 18), torch.randn(2, channels, 30, 18)
    size = channels, channels, 3, 3
    expected = conv2d_weight(x.double(), size, given.double(), padding=1)  # type: ignore[no-untyped-call]
    found = torch.empty(channels, channels, 3, 3)
    on.weight_gradient(43, maps(x), maps(given), found, Scratch(), 2)
    assert error(found, expected) < 5e-6


@pytest.mark.parametrize("pool", [False, True])
def test_gradient_of_relu_and_pooling(pool: bool) -> None:
    """Where several values are the largest, the first gets the gradient, as PyTorch's does."""
    torch.manual_seed(0)
    for height, width in ((6, 4), (7, 5), (2, 2), (3, 2)):
        # Few different values, so that there are ties.
        x = torch.randint(-2, 3, (2, on.padded(3), height, width)).double().requires_grad_()
        y = x.relu()
        z = F.max_pool2d(y, 2) if pool else y
        given = torch.randn(z.shape).double()
        z.backward(given)  # type: ignore[no-untyped-call]
        assert x.grad is not None
        into = torch.full((2, height, width, x.shape[1]), torch.nan)
        on.rectified(maps(y.detach().float()), maps(given.float()), into, 2, pool=pool)
        assert torch.equal(images(into, x.shape[1]), x.grad.float())


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_direct(kernel: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 3, 9, 23), torch.randn(40, 3, kernel, kernel), torch.randn(40)
    border = kernel // 2
    bordered = F.pad(x, [border] * 4).permute(0, 2, 3, 1).contiguous()
    for relu in (False, True):
        out = torch.empty(2, 9, 23, on.padded(40))
        Direct.of(weight, bias, 3)(bordered, out, 2, relu=relu)
        assert error(images(out, 40), convolved(x, weight, bias, relu=relu)) < 2e-6


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_prepare(dtype: torch.dtype) -> None:
    pixels = torch.randint(0, 256, (2, 8, 10, 3), dtype=torch.uint8).to(dtype)
    mean = torch.tensor([100.0, 110.0, 120.0])
    for images in (pixels.permute(0, 3, 1, 2), pixels.permute(0, 3, 1, 2).contiguous()):
        out = torch.full((2, 12, 14, 3), torch.nan)
        on.prepare(images, mean, out, 2)
        expected = F.pad(images.float() - mean.view(1, 3, 1, 1), [2] * 4)
        assert torch.equal(out.permute(0, 3, 1, 2), expected)


def test_pool_and_relu() -> None:
    x = torch.randn(3, on.padded(20), 7, 5)
    out = torch.empty(3, 3, 2, x.shape[1])
    on.pool(maps(x), out, 2)
    assert torch.equal(out.permute(0, 3, 1, 2), F.max_pool2d(x, 2))
    y = torch.empty(3, 7, 5, x.shape[1])
    on.relu(maps(x), y, 2)
    assert torch.equal(y.permute(0, 3, 1, 2), x.relu())


@pytest.mark.parametrize("convention", ["krizhevsky", "caffe"])
def test_normalise(convention: str) -> None:
    x = 100 * torch.randn(2, 10, 4, 5)
    module = LocalResponseNorm(LRN(), convention)
    out = torch.empty(2, 4, 5, on.padded(10))
    on.normalise(maps(x), out, 2, channels=10, size=5, alpha=module.alpha, beta=0.75, k=2)
    assert error(images(out, 10), module(x.double())) < 1e-6


def test_windows() -> None:
    x = torch.randn(2, 20, 9, 8)
    out = torch.empty(2 * 3 * 2, 20 * 49)
    on.windows(maps(x), out, 2, channels=20, kernel=7)
    expected = F.unfold(x, 7).transpose(1, 2).reshape(out.shape)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("shape", [(1, 33, 7), (5, 4101, 18), (50, 256, 64), (3, 8, 1)], ids=str)
def test_connected(shape: tuple[int, ...]) -> None:
    rows, inputs, outputs = shape
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    scales = weight.abs().amax(dim=1) / 127
    stored = {
        "float32": (weight, None),
        "bfloat16": (weight.bfloat16(), None),
        "int8": ((weight / scales[:, None]).round().to(torch.int8), scales),
    }
    for kept, scale in stored.values():
        exact = kept.double() if scale is None else kept.double() * scale.double()[:, None]
        for relu in (False, True):
            expected = F.linear(x.double(), exact, bias.double())
            expected = expected.relu() if relu else expected
            y = torch.empty(rows, outputs)
            Connected(kept, scale, bias)(x, y, 2, relu=relu)
            assert float((y - expected).abs().max()) < 3e-6 * inputs**0.5 * 4
            one = torch.empty(1, outputs)
            Connected(kept, scale, bias)(x[-1:], one, 1, relu=relu)
            assert torch.equal(one, y[-1:])  # of a row alone the same as among others


@pytest.mark.parametrize("shape", [(1, 33, 7), (8, 2060, 18), (19, 40, 64)], ids=str)
def test_gradients_of_connected(shape: tuple[int, ...]) -> None:
    rows, inputs, outputs = shape
    x, weight, given = (
        torch.randn(rows, inputs),
        torch.randn(outputs, inputs),
        torch.randn(rows, outputs),
    )
    of_x, of_weight = torch.full_like(x, torch.nan), torch.full_like(weight, torch.nan)
    on.connected_gradients(weight, x, given, of_x, of_weight, 2)
    assert error(of_x, given.double() @ weight.double()) < 3e-6
    assert error(of_weight, given.double().T @ x.double()) < 3e-6


def test_tile_of_fewest_products() -> None:
    """Counted by hand: 4×4 outputs from 36 products, 2×2 from 16."""
    assert [tile_for(3, side) for side in (1, 2, 4, 14, 224)] == [23, 23, 43, 43, 43]
    assert tile_for(5, 2) == 25


def test_not_finite_stays_not_finite() -> None:
    """A ReLU or a pooling that took NaN for 0 would hide damaged weights."""
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(8, 4, 3, 3)
    weight[3, 2, 1, 1] = torch.nan
    out = torch.empty(1, 4, 4, on.padded(8))
    Winograd.of(weight, torch.zeros(8), 43, 1)(maps(x), out, Scratch(), 1, relu=True, pool=True)
    assert images(out, 8)[:, 3].isnan().all()
    y = torch.empty(1, 8)
    Connected(weight[:, 0].flatten(1), None, torch.full((8,), torch.nan))(
        torch.randn(1, 9), y, 1, relu=True
    )
    assert y.isnan().all()
