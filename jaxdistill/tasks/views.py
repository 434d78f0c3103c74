"""What one network sees of a task: a `View` of a screen, or a `Vector` of numbers.

Every observation is a stack of frames, `(stack, *frame)`; a vector is one frame of shape (D,). A
`View` says how 210x160 RGB frames become one observation. Those that EnvPool makes itself are
`native`, and cost nothing. Where the views of all who look at a pool are not one native view, the
pool shows the `Screen`, and each view is a pure function of it, on the device (`View.see`). It is
made of numbers that float32 holds exactly, so that it has the same bits on every device, whatever
is computed beside it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.text import short_repr

RESIZES = ("area", "linear", "nearest", "smooth")
GRAYS = ("luminance", "mean", "stretched", "none")
MAXIMA = ("before", "after", "none")
PADDINGS = ("repeat", "zero")
SCREEN = (210, 160)
"""Rows and columns of the screen; EnvPool cuts taller ones to it."""
MAX_SIZE = 4096
_CHOICES = {"resize": RESIZES, "gray": GRAYS, "maximum": MAXIMA, "padding": PADDINGS}


@dataclasses.dataclass(frozen=True)
class View:
    """Preprocessing from the raw screen to one observation `(stack, height, width)` uint8.

    Attributes:
      height, width: size of the resized frame in pixels.
      stack: how many of the latest frames form one observation, oldest first.
      resize: "area" (EnvPool's default), "linear" or "nearest", as OpenCV has them, or "smooth", as
        Pillow's bilinear. Experts are sensitive to it: one Breakout expert scores 409 with linear
        and 6 with area.
      gray: "luminance" (as ALE gives it), "mean" of the three colours, "stretched": that mean, with
        the darkest pixel of a frame at 0 and the brightest at 255 (as SciPy's `imresize` made
        pictures of numbers), or "none": frames in colour, an observation of
        `(3 stack, height, width)`, each frame's red, green and blue in turn.
      crop: (first row, row after the last) of the screen that is kept; None keeps all.
      steps: sizes (height, width) resized to before the final one, where an expert resized twice.
      gray_last: resized in colour, and made gray then.
      maximum: a frame is the maximum over the last two emulator frames of a step, pixel by pixel,
        taken "before" resizing or "after" it; or "none": the last one alone. Before resizing it is
        of luminances, as EnvPool takes it, and of colours where `gray` or `gray_last` asks for
        them: where the two frames differ in colour that may be of another luminance.
      spacing: emulator frames between two frames of the stack; None is a step.
      padding: what stands for frames before a game's first: "repeat" that one, or "zero".
      difference: each frame less the one before it, over 255, as float32.
      channels_last: `(height, width, channels)`, as a network without convolutions was given them.
    """

    height: int = 84
    width: int = 84
    stack: int = 4
    resize: str = "area"
    gray: str = "luminance"
    crop: tuple[int, int] | None = None
    steps: tuple[tuple[int, int], ...] = ()
    gray_last: bool = False
    maximum: str = "before"
    spacing: int | None = None
    padding: str = "repeat"
    difference: bool = False
    channels_last: bool = False

    def __repr__(self) -> str:
        return f"View({', '.join(f'{name}={x!r}' for name, x in self.to_dict().items())})"

    def __post_init__(self) -> None:
        for name in ("height", "width", "stack", "spacing"):
            size = getattr(self, name)
            if name == "spacing" and size is None:
                continue
            if type(size) is not int or not 1 <= size <= MAX_SIZE:
                shown = short_repr(size if not isinstance(size, int) or size < 1 else "larger")
                raise ValueError(
                    f"view: {name} is {shown}, expected a whole number of 1..{MAX_SIZE}"
                )
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(
                    f"view: {name} is {short_repr(value)}, expected one of {', '.join(known)}"
                )
        for name in ("gray_last", "difference", "channels_last"):
            if type(value := getattr(self, name)) is not bool:
                raise ValueError(f"view: {name} is {short_repr(value)}, expected true or false")
        if self.gray_last and self.gray == "none":
            raise ValueError("view: gray_last has no effect where gray is 'none'; leave it out")
        crop, steps = self.crop, self.steps
        if crop is not None and not (_pair(crop) and 0 <= crop[0] < crop[1]):
            raise ValueError(f"view: crop is {short_repr(crop)}, expected (first row, end row)")
        if not all(_pair(size) and min(size) > 0 for size in steps):
            raise ValueError(f"view: steps is {short_repr(steps)}, expected sizes (height, width)")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one observation, `(channels, height, width)` or channels last."""
        channels = 3 * self.stack if self.gray == "none" else self.stack
        if self.channels_last:
            return (self.height, self.width, channels)
        return (channels, self.height, self.width)

    @property
    def native(self) -> bool:
        """Whether EnvPool makes this view itself."""
        plain = View(self.height, self.width, self.stack, self.resize)
        return self == plain and self.resize in ("area", "linear")

    @property
    def framewise(self) -> bool:
        """Whether it is of one gray frame of each step, the first repeated, as datasets hold it."""
        usual = View()
        return self.gray != "none" and all(
            getattr(self, name) == getattr(usual, name)
            for name in ("spacing", "padding", "difference", "channels_last")
        )

    @property
    def whole(self) -> View:
        """What it is a part of, as a `Vector` may be: nothing else."""
        return self

    def see(self, shown: Any) -> Any:
        """What is seen, `(B, *shape)`, of what a pool shows; for jit.

        Args:
          shown: `Shown` of a screen; arrays are this view already, made by the pool.
        """
        return _seen(self, shown) if isinstance(shown, Shown) else shown

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` turns them back. What is rare is said where it is so."""
        usual = {field.name: field.default for field in dataclasses.fields(self)[7:]}
        fields = dataclasses.asdict(self)
        return {name: x for name, x in fields.items() if name not in usual or x != usual[name]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> View:
        """A view from plain values; ValueError names a field that does not exist."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            shown, names = short_repr(unknown[0]), ", ".join(sorted(known))
            raise ValueError(f"view: unknown field {shown}; known fields: {names}")
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
        if type(self.size) is not int or not 1 <= self.size <= MAX_SIZE:
            raise ValueError(
                f"view: size is {short_repr(self.size)}, expected a whole number of 1..{MAX_SIZE}"
            )
        whole = self.size if self.of is None else self.of
        if not all(type(x) is int and 0 <= x <= MAX_SIZE for x in (self.start, whole)) or (
            self.start + self.size > whole
        ):
            shown = f"{short_repr(self.start)}.. of {short_repr(whole)}"
            raise ValueError(f"view: numbers {shown}, expected a part of those shown")

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


@dataclasses.dataclass(frozen=True)
class Screen:
    """The screen, as a pool shows it to views that are seen on the device.

    Attributes:
      ago: its frames, oldest first: each so many emulator frames before the newest.
      skip: emulator frames in one step.
      gray: in luminance; otherwise in colour.
      maximum: a frame is the maximum over the last two emulator frames of a step; otherwise one.
    """

    ago: tuple[int, ...]
    skip: int = 4
    gray: bool = False
    maximum: bool = True

    @property
    def stack(self) -> int:
        """How many frames."""
        return len(self.ago)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is shown, `(stack, 210, 160)`, or `(stack, 3, 210, 160)` in colour."""
        return (self.stack, *SCREEN) if self.gray else (self.stack, 3, *SCREEN)

    @property
    def whole(self) -> Screen:
        """Itself: nothing shows more."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


AnyView = View | Vector
"""What a network sees."""

AnyShown = View | Vector | Screen
"""What a pool shows."""


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("frames", "ages"), meta_fields=("screen",)
)
@dataclasses.dataclass(frozen=True)
class Shown:
    """What pools show of a screen.

    Attributes:
      frames: `(B, *screen.shape)` uint8.
      ages: `(B,)` int32, steps since each game's first observation.
      screen: how.
    """

    frames: Any
    ages: Any
    screen: Screen


def shown(seen: Sequence[AnyView | Screen], skip: int) -> AnyShown:
    """What a pool shows so that each of several views can be seen of it.

    One native view that all share, all numbers, or the screen in as many frames as it takes.

    Args:
      seen: of one kind.
      skip: emulator frames in a step.

    Raises:
      ValueError: a view crops rows that the screen does not have.
    """
    first = seen[0]
    if not isinstance(first, View):
        return first.whole
    if first.native and all(view == first for view in seen):
        return first
    views = [view for view in seen if isinstance(view, View)]
    for view in views:
        if view.crop is not None and view.crop[1] > SCREEN[0]:
            raise ValueError(f"view: crop is {view.crop}, and the screen has {SCREEN[0]} rows")
    gray = all(map(_of_luminance, views))
    # Where EnvPool shows colours its maximum is of these, and not of luminances.
    by_envpool = [v.maximum == "before" and (gray or not _of_luminance(v)) for v in views]
    offsets = {offset for view in views for offset in _offsets(view, skip)}
    if skip == 1 or (all(by_envpool) and all(offset % skip == 0 for offset in offsets)):
        return Screen(tuple(range(max(offsets), -1, -skip)), skip, gray)
    pairs = [view for view in views if view.maximum != "none"]
    offsets |= {offset + 1 for view in pairs for offset in _offsets(view, skip)}
    return Screen(tuple(sorted(offsets, reverse=True)), skip, gray, maximum=False)


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
    return max(value) <= MAX_SIZE


def _of_luminance(view: View) -> bool:
    """Whether it is made of gray frames as ALE gives them."""
    return view.gray == "luminance" and not view.gray_last


def _offsets(view: View, skip: int) -> list[int]:
    """How many emulator frames before the newest each frame is that a view looks at."""
    spacing = view.spacing or skip
    frames = view.stack + view.difference
    return [spacing * place for place in range(frames - 1, -1, -1)]


def _seen(view: View, shown: Shown) -> jax.Array:
    screen = shown.screen
    offsets = _offsets(view, screen.skip)
    gray_first = not screen.gray and _of_luminance(view)  # as ALE: before any maximum

    def frames(before: int = 0) -> jax.Array:
        places = [screen.ago.index(offset + before) for offset in offsets]
        if places == list(range(places[0], places[0] + len(places))):
            taken = shown.frames[:, places[0] : places[-1] + 1]
        else:
            taken = shown.frames[:, np.asarray(places)]
        return _gray(taken, view.gray) if gray_first else taken

    look = functools.partial(_look, view, not screen.gray and not gray_first)
    if screen.maximum or view.maximum == "none":
        x = look(frames())
    elif view.maximum == "before":
        x = look(jnp.maximum(frames(), frames(1)))
    else:
        x = jnp.maximum(look(frames()), look(frames(1)))
    if view.padding == "zero":
        there = shown.ages[:, None] * screen.skip >= np.asarray(offsets)
        x = jnp.where(there.reshape(*there.shape, *[1] * (x.ndim - 2)), x, jnp.uint8(0))
    if view.difference:
        x = x.astype(jnp.float32)
        x = (x[:, 1:] - x[:, :-1]) / 255
    x = x.reshape(x.shape[0], -1, view.height, view.width)
    return jnp.moveaxis(x, 1, -1) if view.channels_last else x


def _look(view: View, coloured: bool, x: jax.Array) -> jax.Array:
    """Single frames `(B, K, ..., H, W)` as they are seen."""
    if view.crop is not None:
        x = x[..., view.crop[0] : view.crop[1], :]
    gray = coloured and view.gray != "none"
    if gray and not view.gray_last:
        x = _gray(x, view.gray)
    for size in (*view.steps, (view.height, view.width)):
        x = _resized(x, size, view.resize)
    return _gray(x, view.gray) if gray and view.gray_last else x


def _gray(x: jax.Array, kind: str) -> jax.Array:
    """`(..., 3, H, W)` uint8 in one tone: ALE's luminance, or a mean, to the nearest level."""
    red, green, blue = (x[..., i, :, :].astype(jnp.int32) for i in range(3))
    if kind == "mean":
        return ((2 * (red + green + blue) + 3) // 6).astype(jnp.uint8)
    if kind == "stretched":
        total = red + green + blue
        low, high = (f(total, (-2, -1), keepdims=True) for f in (jnp.min, jnp.max))
        span = jnp.maximum(high - low, 1)
        return ((510 * (total - low) + span) // (2 * span)).astype(jnp.uint8)
    # 0.2989, 0.587 and 0.114 of 2**16.
    return ((19589 * red + 38470 * green + 7471 * blue + 2**15) >> 16).astype(jnp.uint8)


# Bits of the weights of a resize's two products, and those behind the point between them. All
# numbers are whole and below 2**24: float32 holds them exactly, in whatever order they are added.
_FIRST, _BETWEEN, _SECOND = 15, 4, 12


def _resized(x: jax.Array, size: tuple[int, int], kind: str) -> jax.Array:
    """`(..., H, W)` uint8 in another size: as OpenCV has it, to one grey level."""
    old = x.shape[-2:]
    if old == tuple(size):
        return x
    # OpenCV shrinks by area where both sides shrink, and interpolates where one grows.
    shrinks = old[0] >= size[0] and old[1] >= size[1]
    kind = kind if kind != "area" or shrinks else "area_growing"
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    columns, rows = (
        _weights(n, m, kind, bits)
        for n, m, bits in ((old[1], size[1], _FIRST), (old[0], size[0], _SECOND))
    )
    x = product("...hw,vw->...hv", x.astype(jnp.float32), columns)
    x = jnp.floor(x / 2 ** (_FIRST - _BETWEEN) + 0.5)
    x = product("uh,...hv->...uv", rows, x)
    return jnp.floor(x / 2 ** (_BETWEEN + _SECOND) + 0.5).astype(jnp.uint8)


@functools.lru_cache(maxsize=64)
def _weights(old: int, new: int, kind: str, bits: int) -> np.ndarray:
    """`(new, old)` float32: what each pixel has of those before, in whole parts of `2**bits`."""
    scale, share = 1 / (new / old), _SHARES[kind]  # rounded as OpenCV does
    weights = np.stack([share(place, scale, old) for place in range(new)])
    whole = np.round(weights * 2**bits)
    most = whole.argmax(axis=1)
    whole[np.arange(new), most] += 2**bits - whole.sum(axis=1)  # a plain image stays as it is
    return whole.astype(np.float32)


def _area(place: int, scale: float, old: int) -> np.ndarray:
    """By how much of the new pixel each old one covers."""
    edges = np.arange(old)
    low, high = place * scale, min((place + 1) * scale, old)
    overlap = np.clip(np.minimum(edges + 1, high) - np.maximum(edges, low), 0, None)
    return overlap / overlap.sum()


def _linear(place: int, scale: float, old: int) -> np.ndarray:
    """Between the centres of two pixels."""
    where = (place + 0.5) * scale - 0.5
    return _between(int(np.floor(where)), where - np.floor(where), old)


def _area_growing(place: int, scale: float, old: int) -> np.ndarray:
    """OpenCV's "area" where an image grows: mostly one pixel, two only at an edge between them."""
    first = int(np.floor(place * scale))
    part = (place + 1) - (first + 1) / scale
    return _between(first, 0.0 if part <= 0 else part - np.floor(part), old)


def _smooth(place: int, scale: float, old: int) -> np.ndarray:
    """Pillow's bilinear: a triangle as wide as two new pixels."""
    width = max(scale, 1.0)
    far = np.abs(np.arange(old) + 0.5 - (place + 0.5) * scale)
    triangle = np.clip(1 - far / width, 0, None)
    return triangle / triangle.sum()


def _nearest(place: int, scale: float, old: int) -> np.ndarray:
    """OpenCV's, which is the one before."""
    return _between(int(np.floor(place * scale)), 0.0, old)


def _between(first: int, part: float, old: int) -> np.ndarray:
    """`1 - part` of pixel `first` and `part` of the next, within the image."""
    weights = np.zeros(old)
    if first < 0 or first >= old - 1:
        first, part = min(max(first, 0), old - 1), 0.0
    weights[first] = 1 - part
    if part:
        weights[first + 1] = part
    return weights


_SHARES: dict[str, Callable[[int, float, int], np.ndarray]] = {
    "area": _area,
    "area_growing": _area_growing,
    "linear": _linear,
    "nearest": _nearest,
    "smooth": _smooth,
}
