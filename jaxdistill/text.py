"""Text for people, without anything that takes long to import."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

_ALIKE = 1.3  # of 2, from which a name is taken for another that was mistyped


def printable(text: object) -> str:
    r"""As text in which whatever is not printable is written out, an escape character as "\x1b".

    Names come out of files, and terminals obey such characters: they could hide what follows, or
    pretend to be the program.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def one_line(text: str, limit: int = 400) -> str:
    """Text from a file made fit for a terminal: printable, on one line, not endless."""
    clean = "".join(c if c.isprintable() else " " for c in text[:limit])
    return clean + "..." if len(text) > limit else clean


_BOUNDED = reprlib.Repr()
_BOUNDED.maxlevel = 3
_BOUNDED.maxlist = _BOUNDED.maxtuple = _BOUNDED.maxdict = _BOUNDED.maxset = 20
_BOUNDED.maxfrozenset = _BOUNDED.maxdeque = 20
_BOUNDED.maxstring = _BOUNDED.maxother = 1000


def short_repr(value: Any, limit: int = 100) -> str:
    """Any value in a message: on one line, not endless.

    Nor is more of it turned into text on the way: a list in a file may name one long string again
    and again.
    """
    try:
        return one_line(_BOUNDED.repr(value), limit)
    except (RecursionError, ValueError):  # nested too deeply, or thousands of digits
        return f"{type(value).__name__} too large to show"


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """What a setting that is none may be: the one that is nearly called so, or those beside it.

    Args:
      name: dotted, as "learn.round".
      known: all that there are.
      prefix: what is written before a name: "--config." of a flag.
    """
    first, _, last = name.rpartition(".")
    known = list(known)

    def alike(other: str) -> float:
        """How alike both are, by all of it and by the end: 2 is the same."""
        both = ((name, other), (last, other.rpartition(".")[2]))
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in both)

    best = max(known, key=alike)
    if alike(best) >= _ALIKE:
        return f"did you mean {prefix}{best}?"
    while first and not any(x.startswith(f"{first}.") for x in known):
        first = first.rpartition(".")[0]
    there = [x.rpartition(".")[2] for x in known if x.rpartition(".")[0] == first]
    return f"expected {prefix}{first}{'.' if first else ''}NAME of {', '.join(there)}"
