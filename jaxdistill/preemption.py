"""SIGTERM, as schedulers send it before they take a machine away: save, and end in good order."""

from __future__ import annotations

import signal
from types import FrameType

_asked = False


class Preempted(Exception):
    """SIGTERM came, and what was done by then is saved: the same command goes on from there."""


def watch() -> None:
    """From here on SIGTERM does not end this process at once, but where its loops ask for it.

    A second one does. For the main thread of a program that can be gone on with.
    """
    signal.signal(signal.SIGTERM, _ask)


def _ask(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def asked() -> bool:
    """Whether SIGTERM has come; a loop saves then, and raises `Preempted`."""
    return _asked


def stop_if_asked() -> None:
    """For where nothing is left to save.

    Raises:
      Preempted: SIGTERM has come.
    """
    if _asked:
        raise Preempted
