"""What an image file's bytes say: size, format, digest, colours; many files in many processes."""

import hashlib
from collections.abc import Callable, Sequence
from multiprocessing.sharedctypes import RawArray
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from vggnet.errors import InputError, RunError
from vggnet.images import EncodedImage, finds_damage
from vggnet.parts import STATISTICS_SIDE, colour_sums
from vggnet.readers import DiedError, parallel, watched
from vggnet.storage import EncodedImages

_CHUNK = 32  # files that a process reads before it reports
_IDLE = -1
UNKNOWN = 2


class Measured(NamedTuple):
    """What is found in one file; where there is a reason, the rest is empty."""

    reason: str = ""
    """Why it cannot be read; empty for an image that can."""
    height: int = 0
    """In pixels, upright."""
    width: int = 0
    format: str = ""
    """As Pillow calls it, by the content."""
    digest: bytes = b""
    """BLAKE2b of the file's bytes, 16 bytes."""
    mean: tuple[float, ...] = (0.0,) * 3
    """Of R, G, B, 0–255, over the image decoded as `parts.STATISTICS_SIDE` says."""
    second: tuple[float, ...] = (0.0,) * 6
    """Means of r·r, r·g, r·b, g·g, g·b, b·b."""
    damaged: int = 0
    """1 for a JPEG of which a part is lost, UNKNOWN without what tells (`images.finds_damage`)."""


def measure(images: EncodedImages, index: int) -> Measured:
    """Reads and decodes one image."""
    where = images.where(index)
    try:
        content = images.read(index)
        opened = EncodedImage(content, where)
        reduced = opened.reduced(STATISTICS_SIDE)
    except InputError as error:
        return Measured(str(error).removeprefix(f"{where}: "))
    sums, products = colour_sums(reduced)
    pixels = reduced.shape[0] * reduced.shape[1]
    return Measured(
        "",
        *opened.shape,
        opened.format,
        hashlib.blake2b(content, digest_size=16).digest(),
        tuple((sums / pixels).tolist()),
        tuple((products[np.triu_indices(3)] / pixels).tolist()),
        int(bool(opened.damaged)) if finds_damage() or opened.format != "JPEG" else UNKNOWN,
    )


def measure_all(
    parts: Sequence[EncodedImages],
    part: NDArray[np.int64],
    index: NDArray[np.int64],
    workers: int,
    take: Callable[[int, Measured], None],
) -> None:
    """`measure` of many images, in their order.

    Args:
        parts: images.
        part: of each image that is to be measured, which of `parts` it is in.
        index: its index there.
        workers: processes that read; 0 for this one.
        take: gets each image's place in `part` and `index`, and what was found.

    Raises:
        RunError: when one of the processes dies; it names the files that were being read.
    """
    workers = min(workers, -(-len(index) // _CHUNK))
    files = _Files(parts, part, index, workers)
    if not workers:
        for i in range(len(index)):
            take(i, files.measure(i))
        return
    try:
        chunks = parallel(files, range(len(files)), workers, prefetch_factor=4)
        for chunk, found in enumerate(watched(chunks, workers)):
            for i, measured in enumerate(found, start=chunk * _CHUNK):
                take(i, measured)
    except DiedError:
        raise files.died() from None


class _Files(torch.utils.data.Dataset[list[Measured]]):
    """The files that are to be measured, some at a time."""

    def __init__(
        self,
        parts: Sequence[EncodedImages],
        part: NDArray[np.int64],
        index: NDArray[np.int64],
        workers: int,
    ) -> None:
        self.parts, self.part, self.index = parts, part, index
        # Shared with the processes: what each is reading, for the case that it dies of it.
        self.reading = RawArray("q", [_IDLE] * workers)

    def __len__(self) -> int:
        return -(-len(self.index) // _CHUNK)

    def __getitem__(self, chunk: int) -> list[Measured]:
        info = get_worker_info()
        assert info is not None
        found = []
        for i in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(self.index))):
            self.reading[info.id] = i
            found.append(self.measure(i))
        self.reading[info.id] = _IDLE
        return found

    def measure(self, i: int) -> Measured:
        return measure(self.parts[self.part[i]], int(self.index[i]))

    def died(self) -> RunError:
        files = [
            self.parts[self.part[i]].where(int(self.index[i])) for i in self.reading if i != _IDLE
        ]
        reading = f" while these were read: {', '.join(files)}" if files else ""
        return RunError(
            f"a process that checks images died{reading}. One of them crashes its decoder (move it "
            "away), or memory is short (lower --workers). What was checked is kept: the same "
            "command goes on"
        )
