"""What reading somebody else's file may cost, whatever is in it.

Memory and seconds are proportional to the file: what a few bytes may ask for many times over is
counted in bytes, and refused beyond what a file of its size may ask for. SECURITY.md states the
bounds.
"""

from __future__ import annotations

from typing import NamedTuple

FREE_BYTES = 64 * 2**20
"""What a file of any size may take; see `allowed`."""

FACTOR = 32
"""What each of a file's bytes may take beyond that. Arrays take 1, plain values up to 20."""

MAX_OPERATIONS = 5_000_000
MAX_DEPTH = 150
MAX_KEY_LENGTH = 1000

# Bytes that objects take, once as they are read and once as they are given back.
CONTAINER_BYTES = 256
SET_BYTES = 640
MEMO_BYTES = 128
MARK_BYTES = 64
ITEM_BYTES = 16

AGAIN = "download it again, or save it again with torch.save"


class Unreadable(ValueError):
    """A whole sentence about what is wrong with a file; its reader puts the name before it."""


class Allowance:
    """Counts down what a file may cost, for costs its size does not bound."""

    def __init__(self, amount: int, complaint: str):
        self.left = amount
        self.complaint = complaint

    def spend(self, amount: int) -> None:
        """Raises Unreadable once more is spent than there was."""
        self.left -= amount
        if self.left < 0:
            raise Unreadable(f"{self.complaint}; refusing to read it")


class Budget(NamedTuple):
    """What a file's arrays may take, and its plain values with the work they ask for, in bytes."""

    arrays: Allowance
    objects: Allowance


def allowed(size: int) -> int:
    """Bytes that a file of `size` bytes may unpack to; its arrays and its objects may take as much.

    So memory is proportional to the file; seconds are too, since the work that a few bytes can ask
    for again and again is counted in the same units.
    """
    return FREE_BYTES + FACTOR * size


def budget(size: int, max_bytes: int) -> Budget:
    """What a file of `size` bytes may ask for, where the caller wants `max_bytes` at most."""
    arrays = min(max_bytes, allowed(size))
    return Budget(
        Allowance(arrays, f"its arrays would take over {arrays} bytes"),
        Allowance(
            min(max(max_bytes, FREE_BYTES), allowed(size)),
            "what is in it makes or copies more than a file of its size may",
        ),
    )
