"""Images in tar shards: read anywhere, and in sequence from anywhere on."""

import os
import threading
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.storage import EncodedImages, Place, open_file, stamps
from vggnet.tarindex import HEADER, Index

BUFFER = 2048
"""Images among which `ShardedImages.order` shuffles, and that `stream` holds in memory, encoded: of
ImageNet's 110 kB each, 225 MB."""
TAIL = 64
"""Samples at the end of a shard that are read together, so that it can be closed."""


class ShardedImages(EncodedImages):
    """Images that stay in tar shards. It pickles to its arrays: nothing in it is open.

    Args:
        root: the data set's folder.
        shards: their paths in it.
        index: their samples, or some of them.
    """

    sequential = True

    def __init__(self, root: Place, shards: tuple[str, ...], index: Index) -> None:
        self.root, self.shards = root, shards
        self.names = index.names
        self._index = index

    def where(self, index: int) -> str:
        shard = self.shards[self._index.shard[index]]
        return f"{self.root / shard}: {self.names[index][len(shard) + 1 :]}"

    def read(self, index: int) -> bytes:
        place = self.root / self.shards[self._index.shard[index]]
        try:
            return self._content(_kept_open(place, os.getpid()), index)
        except InputError:  # what is open may have been replaced; a connection may be lost
            _kept_open.cache_clear()
            return self._content(_kept_open(place, os.getpid()), index)

    def subset(self, chosen: NDArray[np.int64]) -> Self:
        return type(self)(self.root, self.shards, self._index.subset(chosen))

    def stamps(self) -> Iterator[tuple[str, int, int]]:
        used = np.unique(self._index.shard).tolist()
        found = stamps(self.root, [self.shards[shard] for shard in used])
        changed = {shard: time for shard, (_, _, time) in zip(used, found, strict=True)}
        columns = zip(
            self.names, self._index.size.tolist(), self._index.shard.tolist(), strict=True
        )
        for name, size, shard in columns:
            yield name, size, changed[shard]

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """A random order for an epoch of training: a permutation of the indices.

        The shards come in random order, their samples as they are stored, and these go through a
        buffer of `BUFFER`: each draw takes one out of it, and the next sample comes in. So no
        sample comes earlier by `BUFFER` or more than it is stored.
        """
        stored = np.lexsort((self._index.offset, self._index.shard))
        _, first = np.unique(self._index.shard[stored], return_index=True)
        shards = np.split(stored, first[1:])
        line = np.concatenate([shards[i] for i in rng.permutation(len(shards))])
        return line[_shuffled(len(line), BUFFER, rng)]

    def stream(self, order: NDArray[np.int64]) -> Iterator[bytes | InputError]:
        """What `read` gives or raises for each index of an order: an error is given, not raised.

        Each shard is opened once and read from its front to its back. An image that comes before
        others that are stored ahead of it has these read with it, and kept until they are due. Of
        an order by `order`, its rest, or any selection of it in its sequence, such as one rank's
        share, that is never more than `BUFFER + TAIL` images, for whatever has been read stands
        less than `BUFFER` beyond the image that is due. Of another order it may be all of them.
        """
        shard = self._index.shard[order]
        stored = np.lexsort((self._index.offset[order], shard))  # the order's places, as stored
        rank = np.empty_like(stored)
        rank[stored] = np.arange(len(stored))
        ends = np.searchsorted(shard[stored], np.arange(len(self.shards)), side="right")
        next_rank = np.searchsorted(shard[stored], np.arange(len(self.shards)))
        begun: dict[int, _OpenShard | InputError] = {}
        kept: dict[int, bytes | InputError] = {}
        for place in range(len(order)):
            if place not in kept:
                number = int(shard[place])
                source = begun.pop(number, None) or _open(self.root / self.shards[number])
                end = rank[place] + 1
                if ends[number] - end <= TAIL:
                    end = ends[number]
                else:
                    begun[number] = source
                for due in stored[next_rank[number] : end].tolist():
                    kept[due] = self._content_or_error(source, int(order[due]))
                next_rank[number] = end
                del source  # closed, unless it has been begun
            yield kept.pop(place)

    def _content_or_error(
        self, source: "_OpenShard | InputError", index: int
    ) -> bytes | InputError:
        if isinstance(source, InputError):
            return InputError(str(source))
        try:
            return self._content(source, index)
        except InputError as error:
            return error

    def _content(self, source: "_OpenShard", index: int) -> bytes:
        """An image's bytes, with the header before them, by which it is known again."""
        start, count = int(self._index.offset[index]) - HEADER, int(self._index.size[index])
        try:
            content = source.read(start, HEADER + count)
        except Exception as error:  # each remote file system has exceptions of its own
            raised = f"{type(error).__name__}: {error}"
            why = getattr(error, "strerror", None) or " ".join(raised.split())
            raise InputError(f"{self.where(index)}: cannot be read ({why})") from None
        if len(content) < HEADER + count:
            raise InputError(f"{self.where(index)}: its shard is cut off: copy or make it again")
        if zlib.crc32(content[:HEADER]) != self._index.header[index]:
            raise InputError(
                f"{self.where(index)}: its shard is another than when the data set was opened: "
                "start again"
            )
        return content[HEADER:]


class _OpenShard:
    """A shard open for reading; closed when nobody holds it any more."""

    def __init__(self, place: Place) -> None:
        self._lock = threading.Lock()
        self._file = open_file(place)

    def read(self, start: int, count: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(count)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def _open(place: Place) -> _OpenShard | InputError:
    try:
        return _OpenShard(place)
    except InputError as error:
        return error


@lru_cache(maxsize=8)
def _kept_open(place: Place, process: int) -> _OpenShard:
    """For reading out of sequence. After a fork each process opens files of its own."""
    return _OpenShard(place)


def _shuffled(count: int, slots: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """0 … count - 1 as they leave a shuffle buffer of so many slots.

    Each draw empties a slot, into which the next number comes; when there is none any more, what
    is left follows in random order.
    """
    if not count:
        return np.empty(0, np.int64)
    slots = min(slots, count)
    slot = np.concatenate([np.arange(slots), rng.integers(slots, size=count - slots)])
    # Of two numbers that follow each other in a slot, the second one's coming lets the first out.
    by_slot = np.argsort(slot, kind="stable")
    follow = slot[by_slot[1:]] == slot[by_slot[:-1]]
    left = np.empty(count, np.int64)
    left[by_slot[1:][follow] - slots] = by_slot[:-1][follow]
    left[count - slots :] = rng.permutation(by_slot[np.append(~follow, True)])
    return left
