"""Timing that every benchmark shares."""

import statistics
import time
from collections.abc import Callable


def alternate(*sides: Callable[[], object], repeats: int, warm_up: int = 2) -> list[float]:
    """Median seconds of each side, run in turn so that a noisy machine slows them alike."""
    for side in sides:
        for _ in range(warm_up):
            side()
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, seconds in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]
