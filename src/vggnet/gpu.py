"""Inference on a GPU: half precision in channels_last, CUDA graphs for shapes that come again."""

import importlib
import warnings
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache, partial
from itertools import takewhile
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.configs import Layer
from vggnet.errors import InputError
from vggnet.inference.base import Fast, Plain
from vggnet.inference.cpu import folded
from vggnet.model import VGG

try:  # it comes with PyTorch for CUDA on Linux
    triton: Any = importlib.import_module("triton")
    tl: Any = importlib.import_module("triton.language")
except ImportError:
    triton = tl = None

constexpr: TypeAlias = Any
"""What Triton finds in a string annotation: the value is part of the compiled kernel."""

_TIMES, _GRAPHS = 3, 8
"""A shape gets its CUDA graph when it comes for the third time, as long as there is room."""
_CHANNELS = 8
"""The images' channels are filled up with zeros to a multiple of this, for the tensor cores."""
_BLOCK = 1024
_FUSED_AGREES = 0.02
"""Largest difference over the largest value between two ways of computing a layer in bfloat16."""

_DTYPES = torch.bfloat16, torch.float16, torch.float32


class OnGPU(Fast):
    """A net on CUDA; a shape that comes for the third time is captured into a CUDA graph.

    The weights are copied once into `dtype` and channels_last, batch normalisation multiplied into
    them. The mean is subtracted in float32, fc8 and the average of the score map are computed in
    float32; what comes back is float32 too. Of other layers in half precision the products are
    summed in float32 and the maps rounded.

    Between the convolutions, adding the bias, the ReLU and the pooling are one kernel of Triton.
    When a shape is captured, cuDNN looks for its fastest kernels, and for each convolution it is
    measured whether one of them with the bias and the ReLU inside is faster. That takes a second
    or so. Shapes that do not come again, such as photographs' own or an evaluation's last batch,
    cost nothing of that. A graph reads and writes memory of its own: images are copied in, results
    out.

    On a CPU, for tests, it computes the same with PyTorch's own operations.

    Args:
        model: on CUDA, in evaluation mode or not.
        dtype: bfloat16, float16 or float32; by default bfloat16 for a float32 net where the GPU
            computes in it (float32 elsewhere), and the net's own for others. A float64 net computes
            as it is. Convolutions in float32 use TF32 where
            `torch.backends.cudnn.allow_tf32` has it, as the net itself does.

    Raises:
        InputError: for another dtype.
    """

    def __init__(self, model: VGG, dtype: torch.dtype | None = None) -> None:
        if dtype is not None and dtype not in _DTYPES:
            known = ", ".join(_name(known) for known in _DTYPES)
            raise InputError(f"dtype {_name(dtype)}: take {known}")
        device = model.mean.device
        self.dtype = dtype or _default_dtype(model)
        self._plain = Plain(model, "")
        self._exact = self.dtype == torch.float64
        self._graphs = device.type == "cuda" and not self._exact
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        engine = f"{_name(self.dtype)} on {where}"
        if self._exact:
            super().__init__(model, f"PyTorch: {engine}")
            return
        why_not = _why_no_triton(device) if self._graphs else "there is no GPU"
        self._triton = not why_not
        engine += ", channels_last, " + (f"without Triton: {why_not}" if why_not else "Triton")
        super().__init__(model, engine + ", CUDA graphs" * self._graphs)
        self._seen: Counter[_Key] = Counter()
        self._captured: dict[_Key, Callable[[Tensor], dict[str, Tensor]] | None] = {}
        with torch.no_grad():
            self._mean = model.mean.to(torch.float32, copy=True).view(1, -1, 1, 1)
            self._blocks = _blocks(model, self.dtype)
            self._head = _head(model, self.dtype)
        self._zeros = torch.empty(0, dtype=self.dtype, device=device)
        # A ReLU inside cuDNN's kernels may turn what is not a number into 0; with finite weights in
        # bfloat16, whose range is float32's, there is none to hide.
        self._fusible = self._graphs and self.dtype == torch.bfloat16
        self._fusible = self._fusible and all(
            bool(x.isfinite().all()) for block in self._blocks for x in (block.weight, block.bias)
        )
        if self._graphs:
            with torch.cuda.device(device):
                self._pool = torch.cuda.graph_pool_handle()
                self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    @property
    def bytes(self) -> int:
        """Memory besides the model's own: the weights in `dtype`, and what the graphs keep."""
        if self._exact:
            return 0
        theirs = {x.data_ptr() for x in self._model.parameters()}
        own = [x for block in self._blocks for x in (block.weight, block.bias, block.narrow)]
        own += [x for fc in self._head for x in (fc.weight, fc.bias)]
        graphs = sum(x.bytes for x in self._captured.values() if isinstance(x, _Captured))
        return graphs + sum(
            x.numel() * x.element_size()
            for x in (*own, self._mean, self._zeros)
            if x.data_ptr() not in theirs
        )

    def _run(self, images: Tensor, names: list[str]) -> dict[str, Tensor]:
        # Batch normalisation has become part of the weights of the convolution before it.
        inside = not self._exact and any(
            block.conv in names and block.before != block.conv for block in self._blocks
        )
        if self._exact or inside or not len(images):
            return self._plain._run(images, names)
        device = self.mean.device
        with torch.autocast(device.type, enabled=False):
            if device.type != "cuda":
                return self._forward(images.to(device), names)
            with torch.cuda.device(device):
                return self._run_on_gpu(images.to(device), names)

    def _run_on_gpu(self, images: Tensor, names: list[str]) -> dict[str, Tensor]:
        key = tuple(images.shape), images.dtype, frozenset(names)
        if key not in self._captured and self._recurs(key):
            self._captured[key] = self._capture(images, key[2])
        captured = self._captured.get(key)
        return captured(images) if captured else self._forward(images, key[2])

    def _recurs(self, key: "_Key") -> bool:
        """Counts a shape; whether it has come often enough for a graph."""
        if not self._graphs or len(self._captured) >= _GRAPHS:
            return False
        self._seen[key] += 1
        return self._seen[key] >= _TIMES

    def _capture(self, images: Tensor, names: Collection[str]) -> "_Captured | None":
        """A graph of the forward for this shape; None where there is none to be had."""
        device, stream = images.device, torch.cuda.current_stream()
        benchmark = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            own = torch.empty_like(images, memory_format=torch.channels_last).copy_(images)
            fused = self._faster_fused(own)
            self._forward(own, names, fused)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU meanwhile, such as one that pins memory.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                before = torch.cuda.memory_reserved(device)
                found = self._forward(own, names, fused)
                taken = torch.cuda.memory_reserved(device) - before
        except torch.OutOfMemoryError:  # a smaller shape may have one
            torch.cuda.set_stream(stream)
            return None
        except RuntimeError as error:
            torch.cuda.set_stream(stream)
            self._graphs = False
            self.engine = self.engine.replace(", CUDA graphs", ", without CUDA graphs")
            warnings.warn(f"CUDA graphs are not used any more: {error}", stacklevel=2)
            return None
        finally:
            torch.backends.cudnn.benchmark = benchmark
        taken = max(0, taken) + own.numel() * own.element_size()
        return _Captured(graph, own, found, self._zeros, self._done, taken)

    def _forward(
        self, images: Tensor, names: Collection[str], fused: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """Named outputs, each in float32.

        Args:
            images: as for the net.
            names: of layers, or scores.
            fused: convolutions whose bias and ReLU cuDNN computes.
        """
        kept: dict[str, Tensor] = {}
        wanted = len(set(names))

        def keep(name: str | None, x: Tensor) -> Tensor:
            if name in names:
                assert name is not None
                kept[name] = x.to(torch.float32)
            return x

        x = self._prepared(images)
        for block in self._blocks:
            together = block.pools and block.relu not in names and block.before not in names
            if block.before in names:
                y = F.conv2d(x, block.weight, padding=block.padding).add_(block.bias.view(-1, 1, 1))
                x = keep(block.relu, keep(block.before, y).relu())
            else:
                x = self._convolved(block, x, together, block.conv in fused)
                keep(block.pool if together else block.relu, x)
            if not together:
                x = self._rest(block, x, keep)
            if len(kept) == wanted:
                return kept
        return self._connected(x, names, kept, keep)

    def _prepared(self, images: Tensor) -> Tensor:
        """The images in `dtype` and channels_last without their mean, with more channels of 0."""
        n, channels, height, width = images.shape
        shape = n, self._blocks[0].weight.shape[1], height, width
        x = torch.empty(
            shape, dtype=self.dtype, device=images.device, memory_format=torch.channels_last
        )
        torch.sub(images, self._mean, out=x[:, :channels])
        x[:, channels:].zero_()
        return x

    def _convolved(self, block: "_Block", x: Tensor, pool: bool, fused: bool) -> Tensor:
        """A convolution, its bias, the ReLU and, where `pool` says so, the pooling."""
        if fused:
            # What is added is multiplied by 0. It is something finite all the same: without it,
            # PyTorch has cuDNN add the result's own memory, whatever that holds.
            y = torch.cudnn_convolution_add_relu(
                x,
                block.weight,
                self._something(block, x),
                0.0,
                block.narrow,
                (1, 1),
                (block.padding, block.padding),
                (1, 1),
                1,
            )
            return _pooled(y, None, self._triton) if pool else y
        y = F.conv2d(x, block.weight, padding=block.padding)
        if pool:
            return _pooled(y, block.bias, self._triton)
        return _bias_relu_(y, block.bias, self._triton)

    def _something(self, block: "_Block", x: Tensor) -> Tensor:
        """Finite values in the shape of the convolution's result."""
        n, _, height, width = x.shape
        channels = len(block.bias)
        if channels == x.shape[1]:
            return x
        count = n * height * width * channels
        if self._zeros.numel() < count:
            self._zeros = torch.zeros(count, dtype=x.dtype, device=x.device)
        return self._zeros[:count].view(n, height, width, channels).permute(0, 3, 1, 2)

    def _rest(
        self, block: "_Block", x: Tensor, keep: Callable[[str | None, Tensor], Tensor]
    ) -> Tensor:
        """What comes after the ReLU."""
        if block.lrn:
            x = keep(block.lrn, getattr(self._model, block.lrn)(x))
        return keep(block.pool, _pooled(x, None, self._triton)) if block.pool else x

    def _connected(
        self,
        x: Tensor,
        names: Collection[str],
        kept: dict[str, Tensor],
        keep: Callable[[str | None, Tensor], Tensor],
    ) -> dict[str, Tensor]:
        """The fully connected layers on every window of the last map."""
        k = self.config.crop // 32
        n, channels, height, width = x.shape
        maps = x.permute(0, 2, 3, 1)
        if (height, width) == (k, k):
            rows = maps.reshape(n, 1, 1, k * k * channels)
        else:
            windows = maps.unfold(1, k, 1).unfold(2, k, 1)  # N×h×w×C×k×k
            rows = windows.permute(0, 1, 2, 4, 5, 3).flatten(3)
        *hidden, last = self._head
        for number, fc in enumerate(hidden, start=6):
            rows = F.linear(rows, fc.weight, fc.bias)
            if f"fc{number}" in names:
                keep(f"fc{number}", rows.permute(0, 3, 1, 2))
                rows = rows.relu()
            else:
                rows = rows.relu_()
            for name in (f"relu{number}", f"drop{number}"):
                keep(name, rows.permute(0, 3, 1, 2))
        scores = F.linear(rows.to(last.weight.dtype), last.weight, last.bias)
        keep("fc8", scores.permute(0, 3, 1, 2))
        if "scores" in names:
            keep("scores", scores.mean(dim=(1, 2)))
        return kept

    def _faster_fused(self, images: Tensor) -> set[str]:
        """The convolutions that are faster with bias and ReLU inside cuDNN's kernel, measured."""
        found: set[str] = set()
        if not self._fusible:
            return found
        x = self._prepared(images)
        for block in self._blocks:
            plain, fused = (
                partial(self._convolved, block, x, block.pools, way) for way in (False, True)
            )
            y = plain()
            try:
                if _agree(fused(), y) and _milliseconds(fused) < _milliseconds(plain):
                    found.add(block.conv)
            except RuntimeError:  # cuDNN has no such kernel, or it takes too much memory
                pass
            x = y if block.pools else self._rest(block, y, lambda _, x: x)
        return found


_Key: TypeAlias = tuple[tuple[int, ...], torch.dtype, frozenset[str]]


@dataclass(frozen=True, slots=True)
class _Captured:
    """A forward for one shape, which replays as it is, in memory of its own."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    found: dict[str, Tensor]
    zeros: Tensor
    """What the graph reads; held, since a larger one may take its place."""
    done: torch.cuda.Event
    """When the last replay of any graph in the same memory was over."""
    bytes: int

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        stream = torch.cuda.current_stream()
        stream.wait_event(self.done)  # the last one may have been on another stream
        self.images.copy_(images)
        self.graph.replay()
        found = {name: value.clone() for name, value in self.found.items()}
        self.done.record(stream)
        return found


@dataclass(frozen=True, slots=True)
class _Block:
    """A convolution and what follows it up to the next; names are the layers'."""

    weight: Tensor
    """In channels_last."""
    bias: Tensor
    """In float32."""
    narrow: Tensor
    """The bias in the weights' dtype."""
    padding: int
    conv: str
    before: str
    """The last layer before the ReLU: a batch normalisation, or the convolution itself."""
    relu: str
    lrn: str | None
    pool: str | None

    @property
    def pools(self) -> bool:
        """Whether pooling comes right after the ReLU."""
        return self.pool is not None and self.lrn is None


@dataclass(frozen=True, slots=True)
class _Connected:
    weight: Tensor
    """out×in; of fc6 the columns are in the order row, column, C."""
    bias: Tensor


def _blocks(model: VGG, dtype: torch.dtype) -> list[_Block]:
    """The net up to pool5; batch normalisation becomes part of the weights before it."""
    blocks: list[_Block] = []
    layers = list(takewhile(lambda layer: layer.kind != "fc", model.config.layers()))
    starts = [i for i, layer in enumerate(layers) if layer.kind == "conv"]
    for start, end in zip(starts, [*starts[1:], len(layers)], strict=True):
        conv, *rest = layers[start:end]
        of = {layer.kind: layer for layer in rest}
        weight, bias = folded(model, conv, of.get("bn"))
        if not blocks and dtype.itemsize == 2:
            weight = F.pad(weight, (0, 0, 0, 0, 0, -conv.in_channels % _CHANNELS))
        blocks.append(
            _Block(
                weight.to(dtype, memory_format=torch.channels_last),
                bias.float(),
                bias.to(dtype),
                conv.kernel // 2,
                conv.name,
                of.get("bn", conv).name,
                of["relu"].name,
                of["lrn"].name if "lrn" in of else None,
                of["pool"].name if "pool" in of else None,
            )
        )
    return blocks


def _head(model: VGG, dtype: torch.dtype) -> list[_Connected]:
    layers = [layer for layer in model.config.layers() if layer.kind == "fc"]
    return [_fully_connected(model, layer, dtype) for layer in layers]


def _fully_connected(model: VGG, layer: Layer, dtype: torch.dtype) -> _Connected:
    module = getattr(model, layer.name)
    assert isinstance(module, nn.Linear)
    weight, bias, k = module.weight.detach(), module.bias.detach(), layer.kernel
    if layer.name == "fc8":
        return _Connected(weight.float(), bias.float())
    windows = weight.view(len(weight), layer.in_channels, k, k).permute(0, 2, 3, 1)
    return _Connected(windows.reshape(len(weight), -1).to(dtype), bias.to(dtype))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _default_dtype(model: VGG) -> torch.dtype:
    own, device = model.mean.dtype, model.mean.device
    if own != torch.float32:
        return own
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return torch.float32
    return torch.bfloat16


def _agree(found: Tensor, expected: Tensor) -> bool:
    difference = (found.float() - expected.float()).abs().max()
    return bool(difference <= _FUSED_AGREES * expected.float().abs().max())


def _milliseconds(work: Callable[[], object], rounds: int = 5) -> float:
    work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(rounds):
        work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _bias_relu_(x: Tensor, bias: Tensor, with_triton: bool) -> Tensor:
    """max(x + bias, 0), written over x."""
    if not with_triton:
        return x.add_(bias.view(-1, 1, 1)).relu_()
    x = x.contiguous(memory_format=torch.channels_last)
    count = x.numel()
    kernel, _ = _kernels()
    kernel[(-(-count // _BLOCK),)](x, bias, count, channels=x.shape[1], block=_BLOCK)
    return x


def _pooled(x: Tensor, bias: Tensor | None, with_triton: bool) -> Tensor:
    """The largest of each 2×2 values; with a bias max(… + bias, 0), which comes to the same as
    adding it before."""
    if not with_triton:
        y = F.max_pool2d(x, 2)
        return y if bias is None else y.add_(bias.view(-1, 1, 1)).relu_()
    x = x.contiguous(memory_format=torch.channels_last)
    n, channels, height, width = x.shape
    y = torch.empty(
        (n, channels, height // 2, width // 2),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    row = width // 2 * channels
    _, kernel = _kernels()
    kernel[(n * (height // 2), -(-row // _BLOCK))](
        x, y if bias is None else bias, y, height, width, channels=channels,
        add=bias is not None, block=_BLOCK,
    )  # fmt: skip
    return y


@cache
def _kernels() -> tuple[Any, Any]:
    return triton.jit(_bias_relu_kernel), triton.jit(_pool_kernel)


# Both take maps in channels_last, and let through what is not a number.


def _bias_relu_kernel(
    x: "Any", bias: "Any", count: "Any", channels: "constexpr", block: "constexpr"
) -> None:
    i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = i < count
    value = tl.load(x + i, mask=inside, other=0.0).to(tl.float32) + tl.load(bias + i % channels)
    value = tl.where(value < 0, 0.0, value)
    tl.store(x + i, value.to(x.dtype.element_ty), mask=inside)


def _pool_kernel(
    x: "Any",
    bias: "Any",
    y: "Any",
    height: "Any",
    width: "Any",
    channels: "constexpr",
    add: "constexpr",
    block: "constexpr",
) -> None:
    """A program makes `block` values of a row of the result."""
    row = tl.program_id(0)
    half = width // 2
    i = tl.program_id(1) * block + tl.arange(0, block)
    inside = i < half * channels
    image = row // (height // 2)
    upper = x + (image * height + 2 * (row % (height // 2))).to(tl.int64) * width * channels
    lower = upper + width * channels
    left = i + i // channels * channels  # two pixels a step
    right = left + channels
    a = tl.load(upper + left, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(upper + right, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(lower + left, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(lower + right, mask=inside, other=0.0).to(tl.float32)
    value = tl.where((a > b) | (a != a), a, b)
    value = tl.where((c > value) | (c != c), c, value)
    value = tl.where((d > value) | (d != d), d, value)
    if add:
        value += tl.load(bias + i % channels)
        value = tl.where(value < 0, 0.0, value)
    tl.store(y + row.to(tl.int64) * half * channels + i, value.to(y.dtype.element_ty), mask=inside)


@cache
def _why_no_triton(device: torch.device) -> str:
    """Why its kernels cannot be used there, or nothing; tried once, and a warning says so."""
    if triton is None:
        why = "Triton is not installed"
    else:
        try:
            why = "" if _triton_is_right(device) else "its kernels are wrong here"
        except Exception as error:  # no C compiler, a driver that is too old, …
            why = f"{type(error).__name__}: {error}".splitlines()[0]
    if why:
        warnings.warn(f"bias, ReLU and pooling are not fused by Triton: {why}", stacklevel=4)
    return why


def _triton_is_right(device: torch.device) -> bool:
    """On maps of odd sizes, against PyTorch's operations."""
    context = torch.cuda.device(device) if device.type == "cuda" else torch.no_grad()
    with context, torch.inference_mode():
        for channels in (5, 16):
            x = torch.arange(2 * channels * 5 * 7, device=device).view(2, channels, 5, 7)
            x = (x * 37 % 101 - 50).to(torch.bfloat16, memory_format=torch.channels_last)
            bias = torch.arange(channels, device=device).float() - channels / 2
            for add in (None, bias):
                if not torch.equal(_pooled(x, add, True), _pooled(x, add, False)):
                    return False
            own = _bias_relu_(x.clone(memory_format=torch.preserve_format), bias, True)
            if not torch.equal(own, _bias_relu_(x.clone(), bias, False)):
                return False
    return True
