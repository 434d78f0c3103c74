"""What people see of a run: lines and tables on stdout, progress on stderr."""

import contextlib
import math
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text

from jaxdistill import clocks, meshes
from jaxdistill.text import printable

_PLAIN_INTERVAL = 15.0  # seconds between progress lines where there is no terminal
_LONG_COMPILE = 1.0  # seconds that JAX compiles until that is said
_COMPILING = "compiling (not counted in rates)"


def say(text: str) -> None:
    """Prints one line on stdout, as `shown`."""
    print(printable(text))


def tell(text: str, width: int | None = None) -> None:
    """Prints text on stdout, as `shown`, in lines of at most `width` columns; flags stay whole."""
    lines, breaks = [text], "--" not in text  # flags are copied
    if width:
        lines = textwrap.wrap(
            printable(text), width, break_on_hyphens=False, break_long_words=breaks
        )
    for line in lines:
        say(line)


class Advance(Protocol):
    """What `progress` yields."""

    def __call__(self, n: int = 1) -> None:
        """Says that `n` more units are done."""

    def status(self, text: str) -> None:
        """Shows `text`, such as the latest score, beside the bar from now on."""


@contextlib.contextmanager
def progress(
    description: str, total: int | None, unit: str, *, done: int = 0, steady: bool = True
) -> Iterator[Advance]:
    """Shows on stderr how far a loop is, its rate and the time that remains.

        with terminal.progress("collect", 100_000, "steps") as advance:
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
      steady: units come one after another. Of games played side by side most end at last, so their
        rate says nothing of the time that remains: how long it has taken is shown instead.
    """
    if not meshes.leads():
        yield _Unseen()
        return
    on_terminal = sys.stderr.isatty() and rich.console.Console(stderr=True).is_interactive
    display = (_Bar if on_terminal else _Lines)(printable(description), total, unit, done, steady)
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

    def __init__(self, description: str, total: int | None, unit: str, done: int, steady: bool):
        remains = [rich.progress.TimeRemainingColumn()] if steady else []
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            _TallyColumn(unit, steady),
            _ElapsedColumn(),
            *remains,
            _StatusColumn(),
            get_time=clocks.now,
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
        self._progress.update(self._task, status=printable(text))

    def close(self) -> None:
        self._progress.stop()


class _TallyColumn(rich.progress.ProgressColumn):
    """Units done, the whole, and the recent rate of those that are steady."""

    def __init__(self, unit: str, steady: bool):
        super().__init__()
        self._unit, self._steady = unit, steady

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        rate = (task.finished_speed or task.speed) if self._steady else None
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
        compiling = clocks.compiling.underway() > _LONG_COMPILE
        return rich.text.Text(_COMPILING if compiling else task.fields["status"])


class _Lines:
    """Progress where there is no terminal."""

    def __init__(self, description: str, total: int | None, unit: str, done: int, steady: bool):
        self._description, self._total, self._unit = description, total, unit
        self._steady = steady
        self._done = self._first = done
        self._status = ""
        self._start = self._printed = time.monotonic()
        self._clock = clocks.now()
        self._closed = threading.Event()
        self._watch = threading.Thread(target=self._announce, daemon=True)
        self._watch.start()

    def __call__(self, n: int = 1) -> None:
        self._done += n
        if time.monotonic() - self._printed >= _PLAIN_INTERVAL:
            self._print("left" if self._steady else "so far")

    def status(self, text: str) -> None:
        self._status = printable(text)

    def close(self) -> None:
        self._closed.set()
        self._watch.join()
        self._print("in all")

    def _announce(self) -> None:
        """Says that JAX compiles, once when it has for long, and as often as else of progress."""
        said = 0.0  # how long it had when that was said
        while not self._closed.wait(_LONG_COMPILE):
            long = clocks.compiling.underway()
            if long < said:
                said = 0.0
            if long >= (said + _PLAIN_INTERVAL if said else _LONG_COMPILE):
                said, self._printed = long, time.monotonic()
                so_far = f", {_duration(long)} so far" if long >= _PLAIN_INTERVAL else ""
                print(f"{self._description}: {_COMPILING}{so_far}", file=sys.stderr, flush=True)

    def _print(self, which: str) -> None:
        self._printed = time.monotonic()
        worked = clocks.now() - self._clock
        rate = (self._done - self._first) / worked if worked > 0 and self._steady else None
        parts = [_tally(self._done, self._total, self._unit, rate)]
        if which == "in all" or not self._steady:
            parts.append(f"{_duration(self._printed - self._start)} {which}")
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
            rich.text.Text(printable(columns[i])),
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
        return printable(value)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return printable(value)
    if math.isnan(number):
        return "-"
    if not math.isfinite(number) or number.is_integer():
        return f"{number:.0f}"
    return f"{number:.1f}" if abs(number) >= 100 else f"{number:.3g}"
