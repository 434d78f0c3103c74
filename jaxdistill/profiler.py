"""A trace of a few iterations, for those who look at where the time goes."""

import os

import jax

from jaxdistill import terminal


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
            terminal.say(
                f"no profile in {self._directory}: {self._seen} iterations were begun, and the "
                f"first {self._first} are not traced"
            )


def none_left(directory: str | os.PathLike[str] | None) -> None:
    """Says of a run that has ended before that nothing is traced, if `directory` asks for it."""
    if directory is not None:
        terminal.say(f"no profile in {directory}: the run has ended, and nothing is left to trace")
