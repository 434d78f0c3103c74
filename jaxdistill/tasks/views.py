"""What one network sees of a task: a `View` of a screen, or a `Vector` of numbers.

Every observation is a stack of frames, `(stack, *frame)`; a vector is one frame of shape (D,). A
`View` says how raw 210x160 RGB frames become one observation. The views EnvPool makes itself are
`native` and cost nothing; an expert with any other view converts and answers questions about given
observations, but cannot be seated in a pool yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

RESIZES = ("area", "linear")
GRAYS = ("luminance", "mean")
_MAX_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class View:
    """Preprocessing from the raw screen to one observation `(stack, height, width)` uint8.

    Attributes:
      height, width: size of the resized frame in pixels.
      stack: how many of the latest frames form one observation, oldest first.
      resize: "area" (EnvPool's default) or "linear". Experts are sensitive to it: one Breakout
        expert scores 409 with linear and 6 with area.
      gray: "luminance" (as ALE gives it) or "mean" of the three colours.
      crop: (first row, row after the last) of the screen that is kept; None keeps all.
      steps: sizes (height, width) resized to before the final one, where an expert resized twice.
    """

    height: int = 84
    width: int = 84
    stack: int = 4
    resize: str = "area"
    gray: str = "luminance"
    crop: tuple[int, int] | None = None
    steps: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("height", "width", "stack"):
            size = getattr(self, name)
            if type(size) is not int or not 1 <= size <= _MAX_SIZE:
                shown = size if not isinstance(size, int) or size < 1 else "larger"
                raise ValueError(
                    f"view: {name} is {shown!r}, expected a whole number of 1..{_MAX_SIZE}"
                )
        for name, known in (("resize", RESIZES), ("gray", GRAYS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"view: {name} is {getattr(self, name)!r}, expected one of {', '.join(known)}"
                )
        if self.crop is not None and not (_pair(self.crop) and 0 <= self.crop[0] < self.crop[1]):
            raise ValueError(f"view: crop is {self.crop!r}, expected (first row, end row)")
        if not all(_pair(size) and min(size) > 0 for size in self.steps):
            raise ValueError(f"view: steps is {self.steps!r}, expected sizes (height, width)")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one observation, `(stack, height, width)`."""
        return (self.stack, self.height, self.width)

    @property
    def native(self) -> bool:
        """Whether EnvPool makes this view itself."""
        return self.crop is None and self.gray == "luminance" and not self.steps

    @property
    def whole(self) -> View:
        """What a pool must show where this is seen: the same."""
        return self

    def see(self, shown: Any) -> Any:
        """What is seen of what the pool shows: all, since pools make these views themselves."""
        return shown

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` turns them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> View:
        """A view from plain values; ValueError names a field that does not exist."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise ValueError(
                f"view: unknown field {unknown[0]!r}; known fields: {', '.join(sorted(known))}"
            )
        values = dict(fields)
        try:
            if values.get("crop") is not None:
                values["crop"] = tuple(values["crop"])
            values["steps"] = tuple(tuple(size) for size in values.get("steps", ()))
        except TypeError as error:
            raise ValueError(f"view: crop or steps is no list of numbers ({error})") from error
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class Vector:
    """Numbers as the environment gives them: all of those that a pool shows, or a part.

    Attributes:
      size: how many.
      start: the first of them, among those that the pool shows.
      of: how many the pool shows; None is these alone.
    """

    size: int
    start: int = 0
    of: int | None = None

    def __repr__(self) -> str:
        part = "" if self.of is None else f", start={self.start}, of={self.of}"
        return f"Vector(size={self.size}{part})"

    stack: ClassVar[int] = 1
    native: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= _MAX_SIZE:
            raise ValueError(
                f"view: size is {self.size!r}, expected a whole number of 1..{_MAX_SIZE}"
            )
        whole = self.size if self.of is None else self.of
        if not all(type(x) is int and 0 <= x <= _MAX_SIZE for x in (self.start, whole)) or (
            self.start + self.size > whole
        ):
            raise ValueError(
                f"view: numbers {self.start!r}.. of {whole!r}, expected a part of those shown"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of one observation, `(1, size)`."""
        return (1, self.size)

    @property
    def whole(self) -> Vector:
        """All that a pool shows where this is seen."""
        return self if self.of is None else Vector(self.of)

    def see(self, shown: Any) -> Any:
        """What is seen, `(..., size)`, of what the pool shows, `(..., of)`."""
        return shown if self.of is None else shown[..., self.start : self.start + self.size]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` turns them back."""
        fields = dataclasses.asdict(self)
        return fields if self.of is not None else {"size": self.size}


AnyView = View | Vector


def from_dict(fields: Mapping[str, Any]) -> AnyView:
    """A view or vector from what its `to_dict` gave; raises as `View.from_dict` does."""
    if {"size"} <= set(fields) <= {"size", "start", "of"}:
        return Vector(**fields)
    return View.from_dict(fields)


def described(view: AnyView) -> str:
    """A view in a message."""
    return f"a vector of {view.size} numbers" if isinstance(view, Vector) else "a screen"


def _pair(value: object) -> bool:
    """Whether it is a tuple of two whole numbers that a screen can have."""
    if not isinstance(value, tuple) or [type(number) for number in value] != [int, int]:
        return False
    return max(value) <= _MAX_SIZE
