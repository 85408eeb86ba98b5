"""Signals against processes of their own: what they have done, and how they end."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from vggnet.stopping import Stopped, raising, stoppable

SCRIPT = """
import sys, time
from vggnet.stopping import Stopped, raising, stoppable
with {manager}() as stop:
    print("ready", flush=True)
    try:
        {work}
    except Stopped as error:
        print("stopped", error, flush=True)
        {after}
print("end", flush=True)
"""


OUTSIDE = """
import time
from vggnet.stopping import Stopped, raising
try:
    with raising():
        print("ready", flush=True)
        {work}
except Stopped as error:
    print("stopped", error)
"""


def run(work: str, signals: list[int], manager: str = "stoppable", after: str = "pass") -> str:
    """What the process prints after `ready`, and its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(work=work, manager=manager, after=after)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in signals:
        time.sleep(0.2)
        process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    return " ".join([*out.split("\n")[:-1], str(process.returncode)])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_noted_and_the_second_ends_at_once(number: signal.Signals) -> None:
    step = "[time.sleep(0.05) for _ in range(20)]; stop.check()"
    assert run(step, [number]) == f"stopped {number.name} end 0"
    assert run("time.sleep(20)", [number, number]) == str(128 + number)


def test_what_may_be_interrupted_is_interrupted() -> None:
    wait = "\n        with stop.at_once():\n            time.sleep(20)"
    assert run(wait, [signal.SIGTERM]) == "stopped SIGTERM end 0"
    swallowed = """
        try:
            time.sleep(20)
        except KeyboardInterrupt:
            pass"""
    for work in ("time.sleep(20)", swallowed):  # as Python does in the hooks of a fork
        script = OUTSIDE.format(work=work)
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "stopped SIGINT\n"
    saving = "time.sleep(20)"
    assert run("time.sleep(20)", [signal.SIGINT, signal.SIGTERM], "raising", saving) == (
        "stopped SIGINT 143"
    )


def test_a_signal_before_waits_for_what_may_be_interrupted() -> None:
    with stoppable() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested == signal.SIGTERM
        with pytest.raises(Stopped, match="SIGTERM"), stop.at_once():
            raise AssertionError


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with raising(), stoppable():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_ignored_signal_stays_ignored() -> None:
    """As under nohup, or for the background jobs of a shell script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_change_nothing() -> None:
    found = []

    def work() -> None:
        with stoppable() as stop:
            found.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]
