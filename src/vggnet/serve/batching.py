"""One thread that computes for everybody: requests that wait are answered together.

While it computes, requests gather; those of one kind make the next batch. Nothing waits for a batch
to fill, and no more than a fixed number waits at all.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Work = Callable[[Sequence[Any]], Sequence[Any]]
"""Gets what was submitted with one key, and gives as many results."""


class BusyError(Exception):
    """There is no place for another picture now."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A result, and how long it took."""

    value: Any
    waited: float
    """Seconds until its batch began."""
    computed: float
    """Seconds that its batch took."""


@dataclass(slots=True)
class _Item:
    key: Hashable
    work: Work
    payload: Any
    future: "Future[Computed]" = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """Computes in a thread of its own.

    Args:
        places: pictures that are taken in and not yet answered, at most.
        batch: pictures that are computed together, at most.
        on_batch: gets the size of each batch and its seconds.
    """

    def __init__(
        self,
        places: int,
        batch: int,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self.places, self.batch = places, batch
        self.taken = 0
        """Places; changed by the event loop's thread alone."""
        self._each = 0.0
        """Seconds a picture, of late."""
        self._on_batch = on_batch
        self._waiting: deque[_Item] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    @property
    def seconds_to_empty(self) -> float:
        """How long what was taken in will take, as it went of late."""
        return self._each * self.taken

    @contextmanager
    def place(self, pictures: int = 1) -> Iterator[None]:
        """Places for pictures while they are decoded, wait and are computed.

        Raises:
            BusyError: where there are not so many.
        """
        if self.taken + pictures > self.places:
            raise BusyError
        self.taken += pictures
        try:
            yield
        finally:
            self.taken -= pictures

    async def compute(self, key: Hashable, work: Work, payload: Any) -> Computed:
        """What `work` makes of the payload, together with others that have the same key.

        One that is cancelled before its batch begins is never computed.
        """
        item = _Item(key, work, payload)
        with self._change:
            if self._closed:
                raise BusyError
            self._waiting.append(item)
            self._change.notify()
        return await asyncio.wrap_future(item.future)

    def close(self) -> None:
        """Ends the thread once nothing waits any more."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        while items := self._next():
            start = time.perf_counter()
            try:
                values = items[0].work([item.payload for item in items])
                assert len(values) == len(items)
            except BaseException as error:
                for item in items:
                    item.future.set_exception(error)
                continue
            seconds = time.perf_counter() - start
            self._each += 0.2 * (seconds / len(items) - self._each)
            self._on_batch(len(items), seconds)
            for item, value in zip(items, values, strict=True):
                item.future.set_result(Computed(value, start - item.since, seconds))

    def _next(self) -> list[_Item]:
        """The oldest item, and others of its key; none at the end."""
        with self._change:
            while True:
                self._change.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return []
                key = self._waiting[0].key
                chosen: list[_Item] = []
                rest: deque[_Item] = deque()
                for item in self._waiting:
                    if item.key != key or len(chosen) == self.batch:
                        rest.append(item)
                    elif item.future.set_running_or_notify_cancel():
                        chosen.append(item)
                self._waiting = rest
                if chosen:
                    return chosen
