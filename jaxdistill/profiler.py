"""A trace of a few iterations, for those who look at where the time goes."""

import os
import pathlib

import jax

from jaxdistill import disk, terminal


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
        """Writes what was traced, if the loop ended early; says so if nothing was.

        Raises:
          OSError: it cannot be written.
        """
        if self._running:
            self._running = False
            with disk.writing(str(self._directory), (RuntimeError,)):
                jax.profiler.stop_trace()
        elif self._directory is not None and self._seen <= self._first:
            terminal.say(
                f"no profile in {self._directory}: {self._seen} iterations were begun, and the "
                f"first {self._first} are not traced"
            )


def check(directory: str | os.PathLike[str] | None) -> None:
    """Looks where a trace is to be written, before anything is played for it.

    Raises:
      OSError: nothing can be written there.
    """
    if directory is None:
        return
    there = pathlib.Path(directory).absolute()
    while not there.exists():
        there = there.parent
    with disk.writing(directory):
        if not there.is_dir():
            raise NotADirectoryError(f"{there} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(f"nothing may be written in {there}")


def none_left(directory: str | os.PathLike[str] | None) -> None:
    """Says of a run that has ended before that nothing is traced, if `directory` asks for it."""
    if directory is not None:
        terminal.say(f"no profile in {directory}: the run has ended, and nothing is left to trace")
