"""Processes and threads that read images, and images for testing."""

import math
import os
import queue
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from vggnet.errors import InputError, RunError
from vggnet.images import Pixels, rescale
from vggnet.stopping import check, end_with_parent
from vggnet.storage import EncodedImages

_Sizes = tuple[tuple[int, int], list[tuple[int, ...]]]
_MOST_WORKERS = 16
_CHUNK = 8
"""Images for testing that a worker hands over together: each time takes half a millisecond."""


def default_workers(images: Sequence[Pixels], device: str, processes: int = 1) -> int:
    """How many processes read images, where nobody says: none for images in memory.

    Beside a GPU one for each processor, 16 at most; beside training on the processors themselves,
    half of that, which wait most of the time.

    Args:
        images: what is read.
        device: where the net is, cpu or cuda.
        processes: trainings at a time on this machine.
    """
    if not isinstance(images, EncodedImages):
        return 0
    cores = processors() if device.startswith("cuda") else processors() // 2
    return max(1, min(_MOST_WORKERS, cores // processes))


def processors() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Views(list[Pixels]):
    """An image, rescaled to each Q."""

    def __init__(self, views: Iterable[Pixels], shape: tuple[int, int]) -> None:
        super().__init__(views)
        self.shape = shape
        """Height and width of the whole image in pixels."""


class TestImages:
    """Images for testing, in their order, each rescaled to every Q.

    Args:
        images: in memory or in files.
        scales: Q in pixels.
        workers: processes that read, decode and rescale; 0 for this one.
    """

    __test__ = False  # pytest's names are not ours

    def __init__(self, images: Sequence[Pixels], scales: Sequence[int], workers: int = 0) -> None:
        self.images, self.scales, self.workers = images, list(scales), workers

    def __iter__(self) -> "Iterator[Views | InputError]":
        """For each image a view a scale, or why it cannot be read.

        Raises:
            DiedError: when a worker dies.
        """
        if not self.workers:
            yield from (self._views(i) for i in range(len(self.images)))
            return
        chunks = parallel(_Rescaled(self), range(0, len(self.images), _CHUNK), self.workers)
        for pixels, found in watched(chunks, self.workers):
            start = 0
            for sizes in found:
                if isinstance(sizes, InputError):
                    yield sizes
                    continue
                whole, shapes = sizes
                views = Views([], whole)
                for shape in shapes:
                    end = start + math.prod(shape)
                    views.append(pixels.numpy()[start:end].reshape(shape))
                    start = end
                yield views

    def _views(self, i: int) -> "Views | InputError":
        try:
            if isinstance(self.images, EncodedImages):
                opened = self.images.open(i)
                return Views([opened.rescaled(scale) for scale in self.scales], opened.shape)
            image = self.images[i]
        except InputError as error:
            return error
        check_pixels(image, i)
        height, width = image.shape[:2]
        return Views([rescale(image, scale) for scale in self.scales], (height, width))


class _Rescaled(torch.utils.data.Dataset[Any]):
    """`TestImages` for workers: all pixels of some images as one tensor, which travels in shared
    memory, and for each image its size and its views' shapes, or why it cannot be read."""

    def __init__(self, test: TestImages) -> None:
        self.test = test

    def __getitem__(self, start: int) -> tuple[Tensor, list[_Sizes | InputError]]:
        stop = min(start + _CHUNK, len(self.test.images))
        found = [self.test._views(i) for i in range(start, stop)]
        flat = [v.ravel() for views in found if not isinstance(views, InputError) for v in views]
        pixels = np.concatenate(flat) if flat else np.empty(0, np.uint8)
        return torch.from_numpy(pixels), [
            views
            if isinstance(views, InputError)
            else (views.shape, [view.shape for view in views])
            for views in found
        ]


def check_pixels(image: Pixels, i: int) -> None:
    """Raises InputError for an array that is no H×W×3 of uint8; `i` is its index."""
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"image {i} is a {type(image).__name__}: expected an array, H×W×3 of uint8 "
            "(vggnet.images.decode reads files)"
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f"image {i} is {image.shape} of {image.dtype}: expected H×W×3 of uint8")


def shard(n: int, rank: int, ranks: int) -> NDArray[np.int64]:
    """The indices of `n` test images that one rank of several looks at: each is looked at once."""
    return np.arange(rank, n, ranks)


def parallel(
    items: "torch.utils.data.Dataset[Any]", requests: Iterable[Any], workers: int, **options: Any
) -> "DataLoader[Any]":
    """A loader of `items[request]` for each request, in their order, from worker processes."""
    with _silent():
        return DataLoader(
            items,
            batch_size=None,
            sampler=requests,
            collate_fn=_as_it_is,
            num_workers=workers,
            worker_init_fn=_begin,
            # The default generator is training's, for dropout.
            generator=torch.Generator(),
            **options,
        )


class DiedError(RunError):
    """A worker died. The main process is where it was."""


def watched(loader: "DataLoader[Any]", workers: int) -> Iterator[Any]:
    """What a loader gives; the death of a worker as a DiedError."""
    try:
        with _silent(), _no_sigchld():
            items = iter(loader)
        for item in items:
            check()
            yield item
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # but for errors that a worker met
            raise
        raise DiedError(
            f"a process that reads images died ({str(error).splitlines()[0]}): out of memory, out "
            f"of shared memory (docker run --shm-size=8g), or a file that crashes its decoder; "
            f"with fewer than {workers} --workers there is less of the first two, and with 0 the "
            "last shows itself"
        ) from None


def read_ahead(contents: Iterator[bytes | InputError], count: int) -> Iterator[bytes | InputError]:
    """The same, read by a thread that is `count` ahead."""
    ready: queue.Queue[tuple[bytes | InputError | None, BaseException | None]]
    ready = queue.Queue(maxsize=count)
    over = threading.Event()

    def put(item: tuple[bytes | InputError | None, BaseException | None]) -> None:
        while not over.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for content in contents:
                put((content, None))
                if over.is_set():
                    return
            put((None, None))
        except BaseException as error:
            put((None, error))

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            content, error = ready.get()
            if error is not None:
                raise error
            if content is None:
                return
            yield content
    finally:
        over.set()


@contextmanager
def _no_sigchld() -> Iterator[None]:
    """Without the handler by which PyTorch raises the death of a worker wherever the main process
    is, in the midst of a step or of a write: asking for the next item finds it too."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


@contextmanager
def _silent() -> Iterator[None]:
    """Without PyTorch's word on the number of workers, which is the user's business, and Python's
    on forking beside threads: a worker uses none of them, nor their locks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork")
        yield


def _begin(_: int) -> None:
    """In a worker, before its first request.

    Ctrl-C goes to every process of a terminal, and the main one decides what it means.
    """
    # PyTorch's own watch misses a parent that dies before it begins.
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a worker raises goes to the main process. Here would appear only that this one has gone
    # in the midst of taking a batch.
    sys.excepthook = lambda *_: None
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not what the main process has made of it


def _as_it_is(value: Any) -> Any:
    return value
