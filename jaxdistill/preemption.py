"""SIGTERM, as schedulers send it before they take a machine away, and Ctrl-C: save, and end.

A signal is heard at once and followed where nothing is lost by it, such as after a round.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

_asked: int | None = None


class Preempted(Exception):
    """A signal came, and what was done by then is saved: the same command goes on from there.

    Where it does something else, its text says what: see `begun_again`.
    """


def watch() -> None:
    """From here on a signal does not end this process at once, but where its loops ask for it.

    A second one does. For the main thread of a program that can be gone on with.
    """
    for number in _USUAL:
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell's script has it of what it left
            signal.signal(number, _ask)


_USUAL: dict[int, Any] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}


def _ask(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = number
    for each, usual in _USUAL.items():
        if signal.getsignal(each) == _ask:
            signal.signal(each, usual)
    if number == signal.SIGINT:
        # Not by `print`: what it writes to may be in the middle of drawing a bar.
        said = b"\nstopping where nothing is lost, in seconds as a rule; Ctrl-C again stops now\n"
        with contextlib.suppress(OSError):
            os.write(2, said)


def asked() -> bool:
    """Whether a signal has come; a loop saves then, and raises `Preempted`."""
    return _asked is not None


def by_hand() -> bool:
    """Whether it was somebody's Ctrl-C."""
    return _asked == signal.SIGINT


def stop_if_asked() -> None:
    """For where nothing is left to save.

    Raises:
      Preempted: a signal has come.
    """
    if asked():
        raise Preempted


@contextlib.contextmanager
def begun_again(then: str) -> Iterator[None]:
    """For a body of which nothing is kept where a signal ends it, which then says what follows.

    Args:
      then: what the same command does, to stand after "the same command".
    """
    try:
        yield
    except (Preempted, KeyboardInterrupt) as stopped:
        stopped.args = (then,)
        raise
