"""Where the time of a run goes: its phases, what JAX compiles, and the wall's."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from jax import monitoring

from jaxdistill import disk
from jaxdistill.text import one_line

_WALL_FILE = "wall.json"
_WALL_INTERVAL = 10.0  # seconds between two times that it is written


class _Compiling:
    """The seconds that JAX spends on making programs: tracing, lowering and compiling them.

    JAX says when it begins and ends each of these; what is done within another is counted once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spent, self._depth, self._since = 0.0, 0, 0.0
        monitoring.register_scalar_listener(self._begin)
        monitoring.register_event_duration_secs_listener(self._end)

    def _begin(self, event: str, value: float, **kwargs: str | int) -> None:
        if event.startswith(_COMPILE_EVENTS):
            with self._lock:
                if not self._depth:
                    self._since = time.perf_counter()
                self._depth += 1

    def _end(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith(_COMPILE_EVENTS) and self._depth:
            with self._lock:
                self._depth -= 1
                if not self._depth:
                    self._spent += time.perf_counter() - self._since

    def underway(self) -> float:
        """Seconds since what is being compiled now was begun; 0 where nothing is."""
        with self._lock:
            return time.perf_counter() - self._since if self._depth else 0.0

    def seconds(self) -> float:
        """Seconds so far, in this process."""
        return self._spent + self.underway()


_COMPILE_EVENTS = "/jax/core/compile/"
compiling = _Compiling()


def now() -> float:
    """Seconds by a clock that stands while JAX compiles."""
    return time.perf_counter() - compiling.seconds()


class Timer:
    """Adds up the wall seconds spent in named phases of a run.

    Phases may be nested; the outer one's seconds include the inner one's. A phase inside itself
    is counted once. What JAX spends on compiling belongs to no phase but to its own, "compile". For
    one thread. JAX returns before the device is done: a phase that should cover the device's work
    has to wait for it.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._started: dict[str, float] = {}  # the phases open now, and since when
        self._compiled = compiling.seconds()  # before what is counted here

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times the body of a `with` statement, whether or not it raises."""
        if name in self._started:
            yield
            return
        self._started[name] = now()
        try:
            yield
        finally:
            elapsed = now() - self._started.pop(name)
            self._seconds[name] = self._seconds.get(name, 0.0) + elapsed

    def seconds(self) -> dict[str, float]:
        """Wall seconds per phase so far, those still open included."""
        at, totals = now(), dict(self._seconds)
        for name, start in self._started.items():
            totals[name] = totals.get(name, 0.0) + at - start
        if compiled := compiling.seconds() - self._compiled:
            totals[_COMPILE] = totals.get(_COMPILE, 0.0) + compiled
        return totals

    def state(self) -> dict[str, dict[str, float]]:
        """The totals so far as plain numbers, to be kept in a checkpoint."""
        return {"seconds": self.seconds()}

    def restore(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Replaces the totals by those of `state()`; phases open now count from now.

        What was compiled since this timer was made is added to what they say of compiling.

        Raises:
          ValueError: if `state` did not come from `state()`.
        """
        if "seconds" not in state:
            raise ValueError(f"timer state has keys {sorted(state)}: expected 'seconds'")
        self._seconds = {name: float(x) for name, x in state["seconds"].items()}
        self._started = dict.fromkeys(self._started, now())


_COMPILE = "compile"
_LEARNING = ("collect", "store", "learn", _COMPILE, "save")


def learning_seconds(seconds: Mapping[str, float | None], prefix: str = "") -> float:
    """Of seconds by phase, those of playing, learning and what that needs, not of measuring.

    Args:
      prefix: before the name of every phase: "seconds/" in the rows of a log.
    """
    return sum(seconds.get(f"{prefix}{phase}") or 0.0 for phase in _LEARNING)


def add_up(phases: Iterable[Mapping[str, float]], wall: float) -> dict[str, float]:
    """Seconds by phase of several timers together, and as "other" what is left of `wall` seconds.

    So they add up to the wall's, unless the phases alone are more.
    """
    totals: dict[str, float] = {}
    for seconds in phases:
        for name, value in seconds.items():
            totals[name] = totals.get(name, 0.0) + value
    return totals | {"other": max(0.0, wall - sum(totals.values()))}


@contextlib.contextmanager
def wall_clock(
    directory: str | os.PathLike[str], *, began: float | None = None, keeps: bool = True
) -> Iterator[Callable[[], float]]:
    """Yields what tells the wall seconds that a run has taken so far, in all its sessions.

    They are kept in `DIRECTORY/wall.json`, which is written at the end of the body, however it
    ends, and every ten seconds: of a session that is killed no more is lost.

    Args:
      began: when this session did, by `time.monotonic`; by default now.
      keeps: whether this process is the one that writes the file.

    Raises:
      ValueError: the file is damaged.
    """
    path, start = Path(directory) / _WALL_FILE, time.monotonic() if began is None else began
    earlier = _read_wall(path) if path.is_file() else 0.0

    def seconds() -> float:
        return earlier + time.monotonic() - start

    def keep() -> None:
        # Whoever writes what matters says that a disk is full.
        with contextlib.suppress(OSError):
            disk.write_json(path, {"seconds": seconds()})

    def keep_on() -> None:
        while not ended.wait(_WALL_INTERVAL):
            keep()

    if not keeps:
        yield seconds
        return
    ended = threading.Event()
    thread = threading.Thread(target=keep_on, daemon=True)
    thread.start()
    try:
        yield seconds
    finally:
        ended.set()
        thread.join()
        keep()


def _read_wall(path: Path) -> float:
    advice = "delete it, and the time of earlier sessions is not counted"
    standing = disk.read_json(path, advice)
    seconds = standing.get("seconds") if isinstance(standing, dict) else None
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        found = one_line(repr(standing), 100)
        raise ValueError(f"{path} is damaged (found {found}); {advice}")
    return float(seconds)
