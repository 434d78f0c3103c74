"""Where in a file the network is that plays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np

from jaxdistill.experts.formats import conventions
from jaxdistill.experts.formats.layers import Arrays, brief
from jaxdistill.experts.formats.spec import Spec

Found = Mapping[str, Arrays]
"""State_dicts by their place in a file."""

_Match = TypeVar("_Match")
_MAX_PREFIXES = 5
_MANGLED = re.compile(r"_[A-Za-z0-9]{1,80}__")


def matches(
    found: Found, match: Callable[[Arrays, str], _Match | None]
) -> dict[str, tuple[_Match, Arrays]]:
    """The state_dicts that match, as they are or without a prefix that all their names share.

    Args:
      match: takes a state_dict and where in the file it is, with what was taken off its names.
    """
    matches = {}
    for place, arrays in found.items():
        for prefix, inner in peeled(arrays):
            if "online_params" in place:
                inner = conventions.as_linen(inner)
            if matched := match(inner, f"{place}.{prefix}"):
                matches[place] = (matched, inner)
                break
    return matches


def peeled(arrays: Arrays) -> Iterator[tuple[str, Arrays]]:
    """A prefix that all names share, and the arrays without it: none first, then ever more."""
    prefix = ""
    for _ in range(_MAX_PREFIXES):
        yield prefix, arrays
        first = next(iter(arrays), "")
        # A private attribute has its class before its name, as Python mangles it.
        mangled = _MANGLED.match(first)
        part = mangled[0] if mangled else first[: first.find(".") + 1]
        if not part or not all(name.startswith(part) for name in arrays):
            return
        prefix += part
        arrays = {name.removeprefix(part): array for name, array in arrays.items()}


def described(path: str, found: Found, spec: Spec) -> str:
    """Where the state_dict is that a spec describes."""
    if spec.state_dict is not None:
        if spec.state_dict not in found:
            there = brief(repr(place) for place in found)
            raise ValueError(
                f"{spec.path}: state_dict: found {spec.state_dict!r}, but {path} has {there}"
            )
        return spec.state_dict
    wanted = set(spec.plan.tensors())
    if places := [place for place, arrays in found.items() if wanted <= set(arrays)]:
        return only(path, {place: found[place] for place in places}, wanted)
    # The closest one, for the message that says what it lacks.
    return max(found, key=lambda place: (len(wanted & set(found[place])), len(found[place])))


def only(path: str, candidates: Found, wanted: set[str] | None = None) -> str:
    """The one of several places that holds the network that plays.

    Raises:
      ValueError: there are several, and their tensors (those `wanted`, or all) differ.
    """
    places = that_play(candidates) or list(candidates)
    first = candidates[places[0]]
    compared: dict[tuple[int, int], bool] = {}  # an array may stand in many places

    def equal(a: np.ndarray, b: np.ndarray) -> bool:
        if (id(a), id(b)) not in compared:
            compared[id(a), id(b)] = a is b or (a.shape == b.shape and a.tobytes() == b.tobytes())
        return compared[id(a), id(b)]

    for place in places[1:]:
        other = candidates[place]
        if not all(name in other and equal(first[name], other[name]) for name in wanted or first):
            raise ValueError(
                f"{path}: holds several networks, {brief(places)}; say which with state_dict in "
                "a spec (--spec)"
            )
    return places[0]


def likeliest(found: Found) -> str:
    """Where the network is, most likely, that plays."""
    # An optimiser has as many tensors of the same shapes.

    def layers_of(place: str) -> tuple[int, int]:
        """How many there are of a network that plays; then, the less there is besides."""
        own = [name for name in that_play(found[place]) if found[place][name].ndim in (2, 4)]
        return len(own), -len(found[place])

    return max(that_play(found) or found, key=layers_of)


def that_play(places: Iterable[str]) -> list[str]:
    """Those that are neither a target network's nor an optimiser's."""
    return [p for p in places if not any(word in p.lower() for word in ("target", "optim"))]


def elsewhere(found: Found, place: str) -> list[str]:
    """A note on tensors in other parts of the file, by outermost part."""
    chosen = {id(array) for array in found[place].values()}
    parts: dict[str, int] = {}
    last = None
    for other, arrays in found.items():
        # Whatever is inside a part follows it at once.
        seen = last is not None and other.startswith(f"{last}.")
        if seen or place.startswith(f"{other}.") or not other:
            continue
        if count := sum(id(array) not in chosen for array in arrays.values()):
            parts[other] = count
            last = other
    shown = brief(f"{part} ({count} tensors)" for part, count in parts.items())
    return [f"also in the file, not used: {shown}"] if parts else []


def where(path: str, place: str) -> str:
    """What messages call a place in a file."""
    return f"{path} ({brief([place])})" if place else path
