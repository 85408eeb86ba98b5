"""How processes end: SIGINT and SIGTERM, the first in order, the second at once; orphans."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The work was ended by a signal, after what was to be saved was saved."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Stop:
    """What a signal has asked for. While `stoppable` is entered it is only noted here."""

    def __init__(self) -> None:
        self.requested: int | None = None
        """The number of the signal that came."""
        self._at_once = False

    def check(self) -> None:
        """Raises Stopped when a signal has come."""
        if self.requested is not None:
            raise Stopped(self.requested)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that leaves nothing half-done: a signal raises Stopped in the midst of it."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.requested is not None:
            if parent_process() is not None:  # the parent repeats what the whole group has got
                return
            leave(number)
        self.requested = number
        if self._at_once:
            raise Stopped(number)
        if os.isatty(2) and parent_process() is None:
            os.write(2, b"\nending this step and saving; once more to leave at once\n")


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Notes the first SIGINT or SIGTERM; the second ends the process at once.

    Outside the main thread, where Python lets nobody handle signals, nothing changes.
    """
    stop = Stop()
    with _handled_by(stop):
        yield stop


@contextmanager
def raising() -> Iterator[None]:
    """The first SIGINT or SIGTERM raises Stopped, wherever it comes; the second ends at once."""
    stop = Stop()
    stop._at_once = True
    with _handled_by(stop):
        yield
        stop.check()  # Python swallows what is raised in its hooks, that of a fork for example


def check() -> None:
    """For loops: raises Stopped where a signal has come and what it raised was swallowed."""
    stop = signal.getsignal(signal.SIGTERM)
    if isinstance(stop, Stop) and stop._at_once:
        stop.check()


def leave(number: int) -> None:
    """Ends the process at once, with the exit code of that signal; files are written atomically."""
    os._exit(128 + number)


def end_with_parent() -> None:
    """In a process that multiprocessing started: ends it when the one that started it has gone."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = {}
    try:
        for number in SIGNALS:
            # A process that was told to ignore one, by nohup for example, goes on ignoring it.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, old in before.items():
            # None: not by Python, which cannot put it back
            signal.signal(number, signal.SIG_DFL if old is None else old)
