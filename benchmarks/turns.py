"""Speeds of what is compared in turns, round by round, and ratios of each round."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

Ways = dict[str, Callable[[], float]]
"""By name, what measures a way once: images a second."""


def speed(counts: Iterator[int]) -> float:
    """Images a second over what counts them while it works."""
    start = time.perf_counter()
    total = sum(counts)
    return total / (time.perf_counter() - start)


def in_turns(ways: Ways, rounds: int) -> dict[str, list[float]]:
    """Images a second of each way in each round; who comes first changes."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(ways[name]())
    return found


def ratio(speeds: dict[str, list[float]], one: str, other: str) -> dict[str, Any]:
    """Of each round, one way's speed over another's: median and quartiles."""
    found = [a / b for a, b in zip(speeds[one], speeds[other], strict=True)]
    low, middle, high = statistics.quantiles(found, n=4) if len(found) > 1 else found * 3
    return {"ratio": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}
