"""What a run tells the world: rows of numbers.

`metrics.jsonl` is the record: one JSON object per row, `{"step": 100, "loss": 0.25}`. The same
scalars go to TensorBoard for looking at.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from jaxdistill import disk

_FILE = "metrics.jsonl"
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
        with disk.writing(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        if resume_step is not None:
            with disk.writing(self._path):
                _drop_rows_after(self._path, resume_step)
        elif self._path.exists() and self._path.stat().st_size:
            raise ValueError(
                f"{self._path} already holds the rows of a run: expected none for a new run; "
                "resume that run or choose another directory"
            )
        with disk.writing(self._path.parent):
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
        with disk.writing(self._path):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
        self._events.write(int(step), finite)
        for show in self._elsewhere:
            show(int(step), finite)

    def close(self) -> None:
        """Flushes and closes both files; closing twice is harmless."""
        if not self._file.closed:
            try:
                with disk.writing(self._path):
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
        with disk.writing(self._directory):
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
        with disk.writing(self._directory):
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
    disk.write_files({path: kept}, alone=False)
