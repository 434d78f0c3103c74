"""Plain configuration values -> validated frozen dataclasses, once, at the edge.

What a field may hold is said once, beside it, as `rounds: Annotated[int, Range(1)]`: `build` reads
it for values from flags and files, and `check`, in a dataclass's `__post_init__`, for all others.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np

from jaxdistill.text import one_line, short_repr

T = TypeVar("T")
LARGEST = 2**31 - 1  # counters and seeds are 32 bits wide on devices and in emulators


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers that a field may hold; nothing else that is not finite, in float32, ever is in one.

    Attributes:
      low, high: the ends; None is no end.
      above, below: the ends themselves are left out.
      besides: a number outside that has a meaning of its own.
    """

    low: float
    high: float | None = None
    above: bool = False
    below: bool = False
    besides: float | None = None

    def __contains__(self, value: float) -> bool:
        # As on a device, where 1e-50 is 0 and 1e50 infinite.
        with np.errstate(over="ignore"):
            x, low = np.float32(value), np.float32(self.low)
            high = np.float32(math.inf if self.high is None else self.high)
        if not np.isfinite(x):
            return False
        inside = (low < x if self.above else low <= x) and (x < high if self.below else x <= high)
        return bool(inside) or value == self.besides

    def __str__(self) -> str:
        if self.high is None:
            text = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        elif self.above or self.below:
            low = f"above {self.low:g}" if self.above else f"{self.low:g} or more"
            text = f"{low}, {'less than' if self.below else 'at most'} {self.high:g}"
        else:
            text = f"{self.low:g} to {self.high:g}"
        return text if self.besides is None else f"{self.besides:g}, or {text}"


@dataclasses.dataclass(frozen=True, eq=False)  # hashed as it is: names may be a dictionary's
class OneOf:
    """Names that a field may hold, and what to do where a name is of somebody's own."""

    names: Collection[str]
    hint: str = ""

    def __contains__(self, value: str) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}" + (f"; {self.hint}" if self.hint else "")


@dataclasses.dataclass(frozen=True)
class _Filled:
    def __contains__(self, value: str) -> bool:
        return bool(value.strip())

    def __str__(self) -> str:
        return "some text"


Count = Annotated[int, Range(1)]
Steps = Annotated[int, Range(0)]  # 0 is none
Share = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Temperature = Annotated[float, Range(1e-6, 1e6)]  # outputs divided by it stay finite
Text = Annotated[str, _Filled()]


class OtherFields(ValueError):
    """A field is unknown or missing: what is read was written for something else."""


def build(cls: type[T], fields: Mapping[str, Any], where: str = "config") -> T:
    """A frozen dataclass from nested plain values.

    What its `gone` names are fields of earlier versions: where a file still says them, they are
    read over.

    Raises:
      OtherFields: a field is unknown or missing; names it as `where.field`.
      ValueError: a field is of the wrong type or outside its range; names it so, too.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where} is {short_repr(fields)}, expected fields of {cls.__name__}")
    hints = _hints(cls)  # type: ignore[arg-type]
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in fields:
        if name not in known and name not in getattr(cls, "gone", ()):
            raise OtherFields(
                f"{where}.{one_line(str(name), 60)} is unknown; known fields: {', '.join(known)}"
            )
    values = {}
    for name, field in known.items():
        if name in fields:
            values[name] = _convert(hints[name], fields[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and (
            field.default_factory is dataclasses.MISSING
        ):
            raise OtherFields(f"{where}.{name} is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def check(settings: Any, where: str = "") -> None:
    """Has every field of a frozen dataclass be of its type and in its range, as `build` would.

    For `__post_init__`, so that settings made in Python are checked too. A list becomes the tuple,
    and a whole number the float, that the field is declared as.

    Raises:
      ValueError: a field is not; names it as `where` and its name.
    """
    for name, hint in _hints(type(settings)).items():  # type: ignore[arg-type]
        value = _convert(hint, getattr(settings, name), f"{where}{name}")
        object.__setattr__(settings, name, value)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    # Once for each class: annotations are text, which is compiled.
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = _convert(arguments[0], value, where)
        for allowed in arguments[1:]:
            if value not in allowed:
                raise ValueError(f"{where} is {short_repr(value)}, expected {allowed}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (a for a in arguments if a is not type(None))
        return _convert(inner, value, where)
    if origin is tuple:
        if isinstance(value, str):  # --config.games=pong,freeway
            value = [part for part in value.split(",") if part]
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} is {short_repr(value)}, expected a list")
        return tuple(_convert(arguments[0], x, f"{where}[{i}]") for i, x in enumerate(value))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not hasattr(value, "items"):
            raise ValueError(f"{where} is {short_repr(value)}, expected fields of {hint.__name__}")
        return build(hint, dict(value.items()), where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{where} is {short_repr(value)}, expected {hint.__name__}")
    if hint is float and not math.isfinite(value):
        raise ValueError(f"{where} is {short_repr(value)}, expected a finite number")
    if hint is int and abs(value) > LARGEST:
        raise ValueError(f"{where} is {short_repr(value)}, expected at most {LARGEST}")
    return value


Reason = tuple[object, str, Sequence[str]]
"""`(holds, why, fields)`: where `holds`, the dotted `fields` have no effect. `why` goes on after
"where", as in "collect.dataset is given"."""


def idle_fields(reasons: Iterable[Reason]) -> set[str]:
    """The dotted fields that cannot change anything."""
    return {name for holds, _, names in reasons if holds for name in names}


def refuse_idle(settings: Any, reasons: Iterable[Reason]) -> None:
    """Refuses settings that were changed and cannot change anything.

    Raises:
      ValueError: one of those is not as its class declares it.
    """
    for holds, why, names in reasons:
        idle = {}
        for name in names if holds else ():
            *parts, last = name.split(".")
            owner = functools.reduce(getattr, parts, settings)
            (default,) = (f.default for f in dataclasses.fields(owner) if f.name == last)
            if getattr(owner, last) != default:
                idle[name] = getattr(owner, last), default
        if idle:
            changed = ", ".join(f"{name} {value!r}" for name, (value, _) in idle.items())
            # Who has named a recipe has not given all that it says.
            advice = ", ".join(f"{name} to {default!r}" for name, (_, default) in idle.items())
            raise ValueError(f"{changed}: no effect where {why}; set {advice}")


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists -> {dotted name: leaf}."""
    if isinstance(tree, Mapping):
        items = list(tree.items())
    elif isinstance(tree, list):
        items = [(str(i), x) for i, x in enumerate(tree)]
    else:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, value in items:
        flat |= flatten(value, f"{prefix}.{name}" if prefix else name)
    return flat
