"""What a run tells the world: rows of numbers, phase timers, progress bars and tables.

`metrics.jsonl` is the record: one JSON object per row, `{"step": 100, "loss": 0.25}`. The same
scalars go to TensorBoard for looking at. Progress goes to stderr, tables go to stdout.
"""

import contextlib
import json
import math
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import jax
import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text
from jax import monitoring

from jaxdistill import mesh as meshes
from jaxdistill import settings as settings_lib
from jaxdistill.text import shown

_FILE = "metrics.jsonl"
_WALL_FILE = "wall.json"
_WALL_INTERVAL = 10.0  # seconds between two times that it is written
_PLAIN_INTERVAL = 15.0  # seconds between progress lines where there is no terminal
_LONG_COMPILE = 1.0  # seconds that JAX compiles until that is said
_COMPILING = "compiling, which no rate counts"
_FLUSH_INTERVAL = 10  # seconds until TensorBoard sees a row at the latest


_Show = Callable[[int, Mapping[str, float]], None]
_shown_in: list[Callable[[Path], _Show]] = []


def show_in(begin: Callable[[Path], _Show]) -> None:
    """Has writers of this process show their rows elsewhere too.

    Args:
      begin: called with the directory of each that is opened; returns what is called with every
        step and its finite scalars by name.
    """
    _shown_in.append(begin)


class Writer:
    """Appends rows to `DIRECTORY/metrics.jsonl` and their scalars to `DIRECTORY/tensorboard`.

    A row is on disk when `write` returns; TensorBoard's files follow within about ten seconds.
    It is a context manager. One process and one thread may write to a directory at a time.
    """

    def __init__(self, directory: str | os.PathLike[str], resume_step: int | None = None):
        """Opens the files, creating the directory where needed.

        Args:
          directory: the run's directory.
          resume_step: None for a new run. For a run that continues, the step of the checkpoint
            it continues from: rows with a larger step, and a half-written last line, were left
            by the killed run and are dropped; -1 drops every row.

        Raises:
          ValueError: if a new run finds rows of another one, or a line is not a row.
        """
        self._path = Path(directory) / _FILE
        with settings_lib.writing(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        if resume_step is not None:
            with settings_lib.writing(self._path):
                _drop_rows_after(self._path, resume_step)
        elif self._path.exists() and self._path.stat().st_size:
            raise ValueError(
                f"{self._path} already holds the rows of a run: expected none for a new run; "
                "resume that run or choose another directory"
            )
        with settings_lib.writing(self._path.parent):
            self._events = _Events(self._path.parent / "tensorboard", resume_step)
            self._file: TextIO = self._path.open("a", encoding="utf-8", newline="\n")
        self._elsewhere = [begin(self._path.parent) for begin in _shown_in]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one row.

        Args:
          step: the run's step counter, stored under "step".
          values: scalars by name; anything `float` accepts, so a device array is fetched here.
            NaN and infinities are stored as null, and left out of TensorBoard.

        Raises:
          ValueError: if a value is named "step", or the writer is closed.
          OSError: it cannot be written, as on a full disk.
        """
        if self._file.closed:
            raise ValueError(f"{self._path} is closed: no rows can be written after close()")
        if "step" in values:
            raise ValueError('a value is named "step": expected another name, as rows use this one')
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: x for name, x in numbers.items() if math.isfinite(x)}
        row = {"step": int(step), **{name: finite.get(name) for name in numbers}}
        with settings_lib.writing(self._path):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
        self._events.write(int(step), finite)
        for show in self._elsewhere:
            show(int(step), finite)

    def close(self) -> None:
        """Flushes and closes both files; closing twice is harmless."""
        if not self._file.closed:
            try:
                with settings_lib.writing(self._path):
                    self._file.close()
            finally:
                self._events.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Events:
    """A new TensorBoard event file in `directory`.

    Written by the caller's own thread: the one that tensorboardX starts dies when the disk is full,
    and who writes more, or closes, waits for it for ever.
    """

    def __init__(self, directory: Path, resume_step: int | None):
        # Here and not above: reading rows back should not pay for importing TensorBoard's side.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._directory, self._event, self._scalar = directory, Event, scalar
        directory.mkdir(parents=True, exist_ok=True)
        # The suffix keeps two sessions that start within a second from sharing a file name.
        session = len(list(directory.glob("events.out.tfevents.*")))
        self._writer = EventsWriter(str(directory / "events"), f".{session:04d}")
        self._flushed = time.monotonic()
        if resume_step is not None:
            # What a killed session wrote beyond this is not shown.
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(step=resume_step + 1, file_version="brain.Event:2"))
            self._writer.write_event(Event(step=resume_step + 1, session_log=start))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds scalars by name."""
        with settings_lib.writing(self._directory):
            for name, number in numbers.items():
                summary = self._scalar(name, number)
                self._writer.write_event(
                    self._event(step=step, wall_time=time.time(), summary=summary)
                )
            if time.monotonic() - self._flushed > _FLUSH_INTERVAL:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is left."""
        with settings_lib.writing(self._directory):
            self._writer.close()


class NoWriter:
    """Takes rows and drops them: a `Writer` for processes other than the leading one."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def __enter__(self) -> "NoWriter":
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def read(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the rows of `DIRECTORY/metrics.jsonl` in the order they were written.

    A half-written last line is left out; values stored as null come back as None.

    Raises:
      FileNotFoundError: if the directory holds no metrics.
      ValueError: if any other line is not a row.
    """
    path = Path(directory) / _FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: expected the directory of a run")
    return [row for row, _ in _rows(path)]


def tells(directory: str | os.PathLike[str], step: int, names: Iterable[str]) -> bool:
    """Whether a row of a step has these names: a run that was killed then has written it."""
    return any(row["step"] == step and row.keys() >= set(names) for row in read(directory))


def _rows(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yields each row with its line (without the line end), skipping a half-written last one."""
    # Bytes, because a killed run may have stopped in the middle of a character.
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("no step")
        except ValueError:
            if number == len(lines):
                return
            found = line[:40].decode("utf-8", "replace")
            raise ValueError(
                f"{path} line {number}: found {found!r}, expected a JSON object with an integer "
                '"step"; delete the line to go on without it'
            ) from None
        yield row, line


def _drop_rows_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = b"".join(line + b"\n" for row, line in _rows(path) if row["step"] <= step)
    settings_lib.write_files({path: kept}, alone=False)


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
_compiling = _Compiling()


def _clock() -> float:
    """Seconds by a clock that stands while JAX compiles."""
    return time.perf_counter() - _compiling.seconds()


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
        self._compiled = _compiling.seconds()  # before what is counted here

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times the body of a `with` statement, whether or not it raises."""
        if name in self._started:
            yield
            return
        self._started[name] = _clock()
        try:
            yield
        finally:
            elapsed = _clock() - self._started.pop(name)
            self._seconds[name] = self._seconds.get(name, 0.0) + elapsed

    def seconds(self) -> dict[str, float]:
        """Wall seconds per phase so far, those still open included."""
        now, totals = _clock(), dict(self._seconds)
        for name, start in self._started.items():
            totals[name] = totals.get(name, 0.0) + now - start
        if compiled := _compiling.seconds() - self._compiled:
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
        self._started = dict.fromkeys(self._started, _clock())


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
            settings_lib.write_json(path, {"seconds": seconds()})

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
    standing = settings_lib.read_json(path, advice)
    seconds = standing.get("seconds") if isinstance(standing, dict) else None
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        found = settings_lib.one_line(repr(standing), 100)
        raise ValueError(f"{path} is damaged (found {found}); {advice}")
    return float(seconds)


def say(text: str) -> None:
    """Prints one line on stdout, as `shown`."""
    print(shown(text))


def tell(text: str, width: int | None = None) -> None:
    """Prints text on stdout, as `shown`, in lines of at most `width` columns."""
    for line in textwrap.wrap(shown(text), width, break_on_hyphens=False) if width else [text]:
        say(line)


class Advance(Protocol):
    """What `progress` yields."""

    def __call__(self, n: int = 1) -> None:
        """Says that `n` more units are done."""

    def status(self, text: str) -> None:
        """Shows `text`, such as the latest score, beside the bar from now on."""


@contextlib.contextmanager
def progress(description: str, total: int | None, unit: str, done: int = 0) -> Iterator[Advance]:
    """Shows on stderr how far a loop is, its rate and the time that remains.

        with metrics.progress("collect", 100_000, "steps") as advance:
            for ...:
                advance(64)
                advance.status(f"score {score:.1f}")

    On a terminal it is a bar; elsewhere a plain line at most every 15 seconds and one at the
    end, also when the body raises. While JAX compiles, and for long, that is said instead, and
    neither the rate nor the time that remains counts it. Bars cannot be nested. Of several
    processes the leading one shows it.

    Args:
      description: what is being done, in a word or two.
      total: units in the whole, None where that is not known.
      unit: the plural of what is counted, such as "steps"; rates are in units/s.
      done: units done by an earlier session, left out of the rate.
    """
    if not meshes.leads():
        yield _Unseen()
        return
    on_terminal = sys.stderr.isatty() and rich.console.Console(stderr=True).is_interactive
    display = (_Bar if on_terminal else _Lines)(shown(description), total, unit, done)
    try:
        yield display
    finally:
        display.close()


class _Unseen:
    """Progress that another process shows."""

    def __call__(self, n: int = 1) -> None:
        pass

    def status(self, text: str) -> None:
        pass


class _Bar:
    """Progress on a terminal."""

    def __init__(self, description: str, total: int | None, unit: str, done: int):
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            _TallyColumn(unit),
            _ElapsedColumn(),
            rich.progress.TimeRemainingColumn(),
            _StatusColumn(),
            get_time=_clock,
            console=rich.console.Console(stderr=True),
            # Output meant for a file or a pipe must not be drawn into the bar's terminal.
            redirect_stdout=sys.stdout.isatty(),
            refresh_per_second=4,
        )
        self._task = self._progress.add_task(description, total=total, completed=done, status="")
        self._progress.start()

    def __call__(self, n: int = 1) -> None:
        self._progress.advance(self._task, n)

    def status(self, text: str) -> None:
        self._progress.update(self._task, status=shown(text))

    def close(self) -> None:
        self._progress.stop()


class _TallyColumn(rich.progress.ProgressColumn):
    """Units done, the whole, and the recent rate."""

    def __init__(self, unit: str):
        super().__init__()
        self._unit = unit

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        rate = task.finished_speed or task.speed
        return rich.text.Text(_tally(task.completed, task.total, self._unit, rate))


class _ElapsedColumn(rich.progress.ProgressColumn):
    """Wall time since the bar began, that of compiling included."""

    def __init__(self) -> None:
        super().__init__()
        self._start = time.monotonic()

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        return rich.text.Text(_duration(time.monotonic() - self._start))


class _StatusColumn(rich.progress.ProgressColumn):
    """What was said last, or that JAX compiles."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        compiling = _compiling.underway() > _LONG_COMPILE
        return rich.text.Text(_COMPILING if compiling else task.fields["status"])


class _Lines:
    """Progress where there is no terminal."""

    def __init__(self, description: str, total: int | None, unit: str, done: int):
        self._description, self._total, self._unit = description, total, unit
        self._done = self._first = done
        self._status = ""
        self._start = self._printed = time.monotonic()
        self._clock = _clock()
        self._closed = threading.Event()
        self._watch = threading.Thread(target=self._announce, daemon=True)
        self._watch.start()

    def __call__(self, n: int = 1) -> None:
        self._done += n
        if time.monotonic() - self._printed >= _PLAIN_INTERVAL:
            self._print("left")

    def status(self, text: str) -> None:
        self._status = shown(text)

    def close(self) -> None:
        self._closed.set()
        self._watch.join()
        self._print("in all")

    def _announce(self) -> None:
        """Says that JAX compiles, once when it has for long, and as often as else of progress."""
        said = 0.0  # how long it had when that was said
        while not self._closed.wait(_LONG_COMPILE):
            long = _compiling.underway()
            if long < said:
                said = 0.0
            if long >= (said + _PLAIN_INTERVAL if said else _LONG_COMPILE):
                said, self._printed = long, time.monotonic()
                so_far = f", {_duration(long)} so far" if long >= _PLAIN_INTERVAL else ""
                print(f"{self._description}: {_COMPILING}{so_far}", file=sys.stderr, flush=True)

    def _print(self, which: str) -> None:
        self._printed = time.monotonic()
        worked = _clock() - self._clock
        rate = (self._done - self._first) / worked if worked > 0 else None
        parts = [_tally(self._done, self._total, self._unit, rate)]
        if which == "in all":
            parts.append(f"{_duration(self._printed - self._start)} in all")
        elif self._total is not None and rate:
            parts.append(f"{_duration(max(0.0, self._total - self._done) / rate)} left")
        if self._status:
            parts.append(self._status)
        print(f"{self._description}: {', '.join(parts)}", file=sys.stderr, flush=True)


def _tally(done: float, total: float | None, unit: str, rate: float | None) -> str:
    """Such as "500/1000 steps (50%), 120 steps/s"."""
    text = f"{done:.0f} {unit}" if total is None else f"{done:.0f}/{total:.0f} {unit}"
    if total:
        text += f" ({100 * done / total:.0f}%)"
    if rate is None:
        return text
    return f"{text}, {rate:,.0f} {unit}/s" if rate >= 10 else f"{text}, {rate:.2g} {unit}/s"


def _duration(seconds: float) -> str:
    """Such as "1:02:03" or "2:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Profile:
    """A `jax.profiler` trace of a few iterations of a loop, for TensorBoard or Perfetto.

    The first ones compile and are left out.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, *, skip: int = 3, count: int = 3):
        """Traces iterations `skip` to `skip + count` into `directory`; None traces nothing."""
        self._directory, self._first, self._last = directory, skip, skip + count
        self._seen = 0
        self._running = False

    def step(self) -> None:
        """Call at the start of every iteration."""
        if self._directory is not None and self._seen == self._first:
            jax.profiler.start_trace(self._directory)
            self._running = True
        if self._seen == self._last:
            self.close()
        self._seen += 1

    def close(self) -> None:
        """Writes what was traced, if the loop ended early; says so if nothing was."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
        elif self._directory is not None and self._seen <= self._first:
            say(
                f"no profile in {self._directory}: {self._seen} iterations were left, and the "
                f"first {self._first} are not traced"
            )


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    width: int | None = None,
    spare: Sequence[str] = (),
    names: Sequence[str] = (),
) -> None:
    """Prints a table on stdout.

    On a terminal long cells are folded; elsewhere lines are as long as they need to be, unless
    `width` says otherwise.

    Args:
      title: printed above the table.
      columns: the column headings.
      rows: cells per row, one for each column. Strings are printed as `shown`, None and NaN as "-",
        numbers rounded to what is readable. Columns without strings are set to the right.
      width: the most columns of a terminal that title and table may take.
      spare: headings of columns that are left out where that is too little, the first of them
        first.
      names: headings of columns whose cells then are cut, and end in an ellipsis.

    Raises:
      ValueError: if a row has another number of cells than there are columns.
    """
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            raise ValueError(
                f"table {title!r}: row {number} has {len(row)} cells, expected {len(columns)}"
            )
    console = rich.console.Console()
    on_terminal, terminal = sys.stdout.isatty(), console.width
    console.width = 100_000  # rich would otherwise assume 80 columns and fold
    kept, left_out = [*range(len(columns))], [columns.index(name) for name in spare]
    drawn = _drawn(columns, rows, kept, names)
    while width and left_out and console.measure(drawn).maximum > width:
        kept.remove(left_out.pop(0))
        drawn = _drawn(columns, rows, kept, names)
    limits = (console.measure(drawn).maximum, width, terminal if on_terminal else None)
    console.width = min(limit for limit in limits if limit)
    # Not printed by the console itself, which would write across a progress bar.
    with console.capture() as captured:
        console.print(drawn)
    tell(title, width)  # outside the table, which would fold a title wider than its rows
    print()
    for line in captured.get().splitlines():
        print(line.rstrip())
    print()


def _drawn(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    kept: Sequence[int],
    names: Sequence[str],
) -> rich.table.Table:
    """The columns of the indices `kept`."""
    drawn = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for i in kept:
        words = any(isinstance(row[i], str) for row in rows)
        drawn.add_column(
            rich.text.Text(shown(columns[i])),
            justify="left" if words else "right",
            overflow="fold",
            no_wrap=bool(names) and columns[i] not in names,
        )
    cut: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis"}
    for row in rows:
        drawn.add_row(
            *(rich.text.Text(_cell(row[i]), **(cut if columns[i] in names else {})) for i in kept)
        )
    return drawn


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, str | bool | int):
        return shown(value)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return shown(value)
    if math.isnan(number):
        return "-"
    if not math.isfinite(number) or number.is_integer():
        return f"{number:.0f}"
    return f"{number:.1f}" if abs(number) >= 100 else f"{number:.3g}"
