"""Timing ways that take turns, round by round, in one process."""

import sys
import time
from collections.abc import Callable, Mapping

import torch

from vggnet import stopping

_LEAST_ROUNDS = 3
_WARM_UP = {"cpu": 1, "cuda": 4}
"""Calls before the rounds. On a GPU the first ones compile, and record what is run again."""


def turns(
    ways: Mapping[str, Callable[[], object]], device: torch.device, seconds: float
) -> tuple[dict[str, list[float]], dict[str, float | None]]:
    """Of each way the seconds of a call in every round, and the peak memory in MB before them.

    Who comes first changes from round to round, so that none always finds the other's cache.
    """
    memory = {}
    for name, way in ways.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        for _ in range(_WARM_UP[device.type]):
            seconds_of(way, device)
        memory[name] = _peak_memory(device)
    found: dict[str, list[float]] = {name: [] for name in ways}
    names, turn = list(ways), 0
    end = time.perf_counter() + seconds * len(ways)
    while turn < _LEAST_ROUNDS or time.perf_counter() < end:
        stopping.check()
        for name in names if turn % 2 == 0 else reversed(names):
            found[name].append(seconds_of(ways[name], device))
        turn += 1
    return found, memory


def seconds_of(way: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _peak_memory(device: torch.device) -> float | None:
    """In MB; see `Row.peak_memory_mb`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6
