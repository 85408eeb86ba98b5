"""What this machine does in a second: forward, dense evaluation, training step, reading images.

What is compared takes turns, round by round, in one process. GFLOP/s count 2 a multiply-add of the
net as it is written down (`accounting`), and a training step as 3 forwards: one, and a backward
pass of twice that. Winograd's convolutions need fewer multiplications than they are counted for, so
that a net's share of what a matrix multiplication reaches on the machine can exceed 100 %.
"""

import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from vggnet import __version__, stopping
from vggnet.accounting import account
from vggnet.configs import Config
from vggnet.errors import InputError, RunError
from vggnet.folders import ImageFiles
from vggnet.images import finds_damage
from vggnet.inference import Fast, engine
from vggnet.inference.base import Plain
from vggnet.kernels.library import processor
from vggnet.kernels.training import accelerated
from vggnet.loading import TrainingImages
from vggnet.model import VGG
from vggnet.parts import Dataset, Part
from vggnet.photographs import PHOTOGRAPH, write_photographs
from vggnet.rates import FLOPS_A_MULTIPLY_ADD, KINDS, PEAK_SIDE, PEAK_TYPE, Case, Row, Speed, What
from vggnet.readers import default_workers, processors
from vggnet.recipes import in_proportion
from vggnet.turns import seconds_of, turns

SECONDS = 3.0
"""For the rounds of each way that is measured, by default."""
DENSE = (256, 384, 512)
"""Sides in pixels for a crop of 224; in proportion for others."""
TRAIN_BATCH = {"cpu": 8, "cuda": 64}
_FORWARDS_A_STEP = 3
_RATE = 1e-6
"""Of learning: the weights hardly move, however many steps are measured."""
_FILES = 60
_LOADED_BATCH = 32
_EPOCH = 100
"""How often an epoch of the loader has every file: few epochs end in what is measured."""


def measure(
    model: VGG,
    *,
    device: str = "cpu",
    batch_sizes: Sequence[int] = (1, 8),
    only: Sequence[str] = KINDS,
    seconds: float = SECONDS,
    threads: int | None = None,
    progress: bool = False,
) -> Speed:
    """Measures a net's speed on random images, and that of reading photographs.

    `forward` at the crop, `dense` (the score map at three larger sizes, batch 1), `train` (a step
    of SGD at the crop, batch 8 on a CPU and 64 on a GPU) and `loader` (`TrainingImages` of
    generated JPEG files of 500×375 with the default number of processes). `vggnet.fast` takes turns
    with the plain model, in channels_last and in its own type; a training step with the kernels
    takes turns with one without. What this machine has no kernels for is measured plain alone.

    Args:
        model: it is moved to the device, and the training steps change its weights.
        device: cpu or cuda.
        batch_sizes: of `forward`.
        only: what of `KINDS` is measured.
        seconds: for the rounds of each way; there are three at least.
        threads: on the CPU; PyTorch's number by default.
        progress: show a bar where standard error is a terminal.

    Raises:
        InputError: for a wrong value, or a net without its classifier.
        RunError: where there is not enough memory.
    """
    check(batch_sizes=batch_sizes, only=only, threads=threads)
    model.config.check_head()
    with _threads(threads):
        bench = _Bench(model, torch.device(device), tuple(dict.fromkeys(batch_sizes)), set(only))
        return bench.run(seconds, progress)


def check(
    *, batch_sizes: Sequence[int] = (), only: Sequence[str] = (), threads: int | None = None
) -> None:
    """Raises InputError for values that `measure` does not take."""
    for size in batch_sizes:
        if size < 1:
            raise InputError(f"batch size {size} is not 1 or more")
    for what in only:
        if what not in KINDS:
            raise InputError(f"only {what!r} is not known: take {', '.join(KINDS)}")
    if threads is not None and not 1 <= threads <= processors():
        raise InputError(f"threads {threads} is not from 1 to this machine's {processors()}")


def matrix_peak(device: torch.device, seconds: float) -> float:
    """GFLOP/s of a product of square matrices, the best of as many as the time allows: in float32
    with a side of 2048 on a CPU, in bfloat16 with one of 8192 on a GPU."""
    side, dtype = PEAK_SIDE[device.type], PEAK_TYPE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    multiply = partial(torch.mm, a, b, out=torch.empty_like(a))
    best, end = math.inf, time.perf_counter() + seconds
    while best == math.inf or time.perf_counter() < end:
        stopping.check()
        best = min(best, seconds_of(multiply, device))
    return FLOPS_A_MULTIPLY_ADD * side**3 / best / 1e9


def machine(device: torch.device) -> str:
    """The processor's name, after the GPU's if the device is one."""
    told = dict(line.split(":", 1) for line in processor().splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in told.items()}
    name = names.get("model name") or platform.processor() or platform.machine()
    return f"{torch.cuda.get_device_name(device)}, {name}" if device.type == "cuda" else name


class _Bench:
    """A net on a device, and what is measured of it."""

    def __init__(
        self, model: VGG, device: torch.device, batch_sizes: tuple[int, ...], only: set[str]
    ) -> None:
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model, self.device, self.config = model.eval(), device, model.config
        self.batch_sizes, self.only = batch_sizes, only
        self.engine: str | None = None
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None

    def run(self, seconds: float, show: bool) -> Speed:
        count = 1 + ("train" in self.only) + ("loader" in self.only)
        count += len(self.batch_sizes) * ("forward" in self.only)
        count += len(DENSE) * ("dense" in self.only)
        bar = tqdm(
            total=count,
            desc="matrix multiplication",
            bar_format="{desc} {bar} {n_fmt}/{total_fmt}",
            leave=False,
            disable=None if show else True,  # None: where standard error is no terminal
        )
        rows: list[Row] = []
        with bar, closing(self._cases()) as cases:
            peak = matrix_peak(self.device, seconds)
            bar.update()
            for case in cases:
                bar.set_description(case.title)
                rows += self._rows(case, seconds)
                bar.update()
                # Other programs and the heat make a processor slower for a while.
                peak = max(peak, matrix_peak(self.device, seconds / 10))
        return Speed(
            machine=machine(self.device),
            versions={
                "vggnet": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
            device=str(self.device),
            threads=torch.get_num_threads(),
            load_average=self.load,
            net=self.config.title,
            crop=self.config.crop,
            width=self.config.width,
            engine=self.engine,
            peak_gflops=peak,
            rows=tuple(row.beside(peak) for row in rows),
        )

    def _rows(self, case: Case, seconds: float) -> list[Row]:
        with _memory_of(case):
            found, memory = turns(case.ways, self.device, seconds)
        return [Row.of(case, name, times, memory[name]) for name, times in found.items()]

    def _cases(self) -> Generator[Case, None, None]:
        if self.only & {"forward", "dense"}:
            yield from self._inference()
        if "train" in self.only:
            yield from self._training()
        if "loader" in self.only:
            yield from self._reading()

    def _inference(self) -> Generator[Case, None, None]:
        model, crop = self.model, self.config.crop
        fast = engine(model)
        # Where nothing is faster than the model, it is measured once.
        nets: dict[str, VGG | Fast] = {"plain": model}
        if not isinstance(fast, Plain):
            nets = {"fast": fast, **nets}

        def case(what: What, batch: int, side: int) -> Case:
            images = _pixels(self.config, batch, side, self.device)

            @torch.inference_mode()
            def call(net: VGG | Fast) -> object:
                return net(images) if what == "forward" else net.score_map(images)

            ways = {name: partial(call, net) for name, net in nets.items()}
            multiply_adds = account(self.config, (side, side)).multiply_adds
            return Case(what, batch, side, side, batch, multiply_adds, ways)

        if "forward" in self.only:
            yield from (case("forward", batch, crop) for batch in self.batch_sizes)
        if "dense" in self.only:
            yield from (case("dense", 1, in_proportion(side, crop)) for side in DENSE)
        self.engine = fast.engine  # only now: it may have changed its ways

    def _training(self) -> Generator[Case, None, None]:
        """A step as in `train`: dropout, cross-entropy, momentum and the L2 penalty."""
        model, config, device = self.model.train(), self.config, self.device
        batch, crop = TRAIN_BATCH[device.type], config.crop
        optimizer = torch.optim.SGD(
            model.parameters(), _RATE, momentum=0.9, weight_decay=5e-4, fused=True
        )
        images = _pixels(config, batch, crop, device)
        labels = torch.randint(config.num_classes, (batch,), device=device)

        def step(forward: Callable[[Tensor], Tensor]) -> None:
            loss = F.cross_entropy(forward(images.float()), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        ways = {"plain": partial(step, model)}
        if (fast := accelerated(model)) is not model:
            ways = {"fast": partial(step, fast), **ways}
        multiply_adds = _FORWARDS_A_STEP * account(config).multiply_adds
        yield Case("train", batch, crop, crop, batch, multiply_adds, ways)
        optimizer.zero_grad(set_to_none=True)

    def _reading(self) -> Generator[Case, None, None]:
        """The loader alone; the net has nothing to do."""
        height, width = PHOTOGRAPH
        with tempfile.TemporaryDirectory() as folder:
            files = ImageFiles(Path(folder), write_photographs(Path(folder), _FILES) * _EPOCH)
            part = Part(files, np.zeros(len(files), np.int64), files.names)
            statistics = (127.5,) * 3, 2500 * np.eye(3)
            data = Dataset("photographs", ("a",), part, part, part, True, statistics=statistics)
            workers = default_workers(files, self.device.type)
            crop = self.config.crop
            images = TrainingImages(
                data, S=in_proportion(256, crop), crop=crop, batch_size=_LOADED_BATCH, flip=True,
                colour_shift=0.1, seed=0, workers=workers, pin=self.device.type == "cuda",
            )  # fmt: skip
            batches = (batch for epoch in range(sys.maxsize) for batch in images.epoch(epoch))
            count = 2 * workers  # every process gives as many of them

            def read() -> None:
                for _ in range(count):
                    if bad := next(batches).bad:
                        raise RunError(f"the loader: {bad[0][1]}")

            decoder = "simplejpeg" if finds_damage() else "Pillow"
            ways = {f"{decoder}, {workers} worker{'s' * (workers > 1)}": read}
            images_a_call = count * _LOADED_BATCH
            try:
                yield Case("loader", _LOADED_BATCH, height, width, images_a_call, None, ways)
            finally:
                batches.close()
                images.close()


def _pixels(config: Config, batch: int, side: int, device: torch.device) -> Tensor:
    """Random images, N×C×H×W, uint8; H×W×C in memory, as decoders write them."""
    shape = batch, side, side, config.in_channels
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _memory_of(case: Case) -> Iterator[None]:
    """Names the case where the memory does not do for it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "allocate memory" not in str(error):
            raise
        raise RunError(
            f"out of memory at {case.title}: leave it out with --only, give smaller --batch-sizes, "
            "or take a smaller net"
        ) from None
