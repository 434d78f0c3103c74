"""Plain configuration values -> validated frozen dataclasses, once, at the edge.

What a field may hold is said once, beside it, as `rounds: Annotated[int, Range(1)]`: `build` reads
it for values from flags and files, and `check`, in a dataclass's `__post_init__`, for all others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import math
import os
import pathlib
import types
import typing
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np

from jaxdistill import lock

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


def build(cls: type[T], fields: Mapping[str, Any], where: str = "config") -> T:
    """A frozen dataclass from nested plain values.

    What its `gone` names are fields of earlier versions: where a file still says them, they are
    read over.

    Raises:
      ValueError: a field is unknown, missing, of the wrong type or outside its range; names it as
        `where.field`.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where} is {shown(fields)}, expected fields of {cls.__name__}")
    hints = _hints(cls)  # type: ignore[arg-type]
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in fields:
        if name not in known and name not in getattr(cls, "gone", ()):
            raise ValueError(
                f"{where}.{one_line(str(name), 60)} is unknown; known fields: {', '.join(known)}"
            )
    values = {}
    for name, field in known.items():
        if name in fields:
            values[name] = _convert(hints[name], fields[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and (
            field.default_factory is dataclasses.MISSING
        ):
            raise ValueError(f"{where}.{name} is missing")
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
                raise ValueError(f"{where} is {shown(value)}, expected {allowed}")
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
            raise ValueError(f"{where} is {shown(value)}, expected a list")
        return tuple(_convert(arguments[0], x, f"{where}[{i}]") for i, x in enumerate(value))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not hasattr(value, "items"):
            raise ValueError(f"{where} is {shown(value)}, expected fields of {hint.__name__}")
        return build(hint, dict(value.items()), where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{where} is {shown(value)}, expected {hint.__name__}")
    if hint is float and not math.isfinite(value):
        raise ValueError(f"{where} is {shown(value)}, expected a finite number")
    if hint is int and abs(value) > LARGEST:
        raise ValueError(f"{where} is {shown(value)}, expected at most {LARGEST}")
    return value


def one_line(text: str, limit: int = 400) -> str:
    """Text from a file made fit for a terminal: printable, on one line, not endless."""
    clean = "".join(c if c.isprintable() else " " for c in text[:limit])
    return clean + "..." if len(text) > limit else clean


def shown(value: Any, limit: int = 100) -> str:
    """Any value in a message: on one line, not endless."""
    try:
        return one_line(repr(value), limit)
    except (RecursionError, ValueError):  # nested too deeply, or thousands of digits
        return f"{type(value).__name__} too large to show"


def refuse_idle(settings: Any, reasons: Iterable[tuple[object, str, Sequence[str]]]) -> None:
    """Refuses settings that were changed and cannot change anything.

    Args:
      reasons: `(holds, why, fields)`: where `holds`, the dotted `fields` have no effect. `why` goes
        on after "where", as in "collect.dataset is given".

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
            defaults = ", ".join(repr(default) for _, default in idle.values())
            raise ValueError(f"{changed}: no effect where {why}; leave at {defaults}")


def claim(workdir: str | os.PathLike[str], settings: Any, ignore: tuple[str, ...] = ()) -> bool:
    """Makes `workdir` this run's own, or finds that it already is.

    Args:
      ignore: dotted fields that may differ from the run that stands there.

    Returns:
      True if a run of the same settings has already begun there.

    Raises:
      ValueError: the directory holds something else, or a run with other settings.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / "config.json"
    # Through JSON and back, so that tuples compare equal to what was read.
    wanted = json.loads(json.dumps(dataclasses.asdict(settings)))
    if path.is_file():
        standing = read_json(path, "choose another --workdir")
        # A field that was not yet known when the run began had what is now its default.
        completed = dataclasses.asdict(build(type(settings), standing, str(path)))
        old, new = flatten(json.loads(json.dumps(completed))), flatten(wanted)
        said = flatten(standing)
        for name in sorted(old.keys() | new.keys()):
            if name not in ignore and old.get(name) != new.get(name):
                unsaid = " (its config.json does not say: today's default)"
                raise ValueError(
                    f"{workdir} holds a run with {name} {old.get(name)!r}"
                    f"{'' if name in said or name not in old else unsaid}, this one has "
                    f"{new.get(name)!r}; choose another --workdir or the same settings"
                )
        return True
    lock.refuse_foreign(workdir, path.name)
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, wanted)
    return False


@contextlib.contextmanager
def naming_unsaid(path: pathlib.Path, cls: type, standing: Mapping[str, Any]) -> Iterator[None]:
    """Has an error in its body say which fields a run's `config.json` leaves to their defaults.

    The run may have begun before they were known, and had another value.

    Args:
      cls: the settings' class.
      standing: what stands in the file at `path`.
    """
    try:
        yield
    except ValueError as error:
        now = flatten(json.loads(json.dumps(dataclasses.asdict(build(cls, standing)))))
        said = flatten(standing)
        unsaid = ", ".join(f"{name} {now[name]!r}" for name in sorted(now.keys() - said.keys()))
        if not unsaid:
            raise
        raise ValueError(
            f"{path} is of an earlier version and does not say {unsaid} (taken by default); write "
            f"there what the run had, such as 0: {error}"
        ) from error


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


def read_json(path: pathlib.Path, advice: str) -> Any:
    """What a JSON file of a run holds.

    Args:
      advice: what to do about a damaged one, such as "collect again".

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is not JSON, or far larger than any that a run writes.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_JSON_BYTES + 1)
        if len(text) > _MAX_JSON_BYTES:
            raise ValueError(f"it has over {_MAX_JSON_BYTES} bytes")
        return json.loads(text)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not there") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(str(error), 200)
        raise ValueError(f"{path} is damaged ({reason}); {advice}") from error


_MAX_JSON_BYTES = 16 * 2**20


def write_json(
    path: pathlib.Path, values: Any, indent: int | None = 2, *, alone: bool = True
) -> None:
    """Writes JSON so that a kill leaves either the old file or the new one.

    JSON knows no NaN and no infinity: they are written as null.

    Args:
      alone: False where another process may write the same file at the same time.
    """
    text = json.dumps(_finite(values), indent=indent, allow_nan=False) + "\n"
    write_files({path: text.encode()}, alone=alone)


def write_files(
    contents: Mapping[str | os.PathLike[str], bytes], *, alone: bool = True, folder: bool = False
) -> None:
    """Writes files, each of which appears whole or not at all.

    All are written beside their places first, as `NAME.partial`, and take them in the order given.
    Where one cannot be written, what stood there stays, and nothing is left beside it; a kill
    leaves the partial ones.

    Args:
      contents: by path.
      alone: False where another process may write the same files at the same time: the partial
        ones have names of their own. They are on the disk before they take their places, too, since
        no run that goes on writes them again.
      folder: their folders are made if needed.

    Raises:
      OSError: one cannot be written, as where the disk is full; names it.
    """
    own = "" if alone else f".{uuid.uuid4().hex[:12]}"
    paths = [pathlib.Path(path) for path in contents]
    partials = [path.with_name(f"{path.name}{own}.partial") for path in paths]
    try:
        for path, partial, content in zip(paths, partials, contents.values(), strict=True):
            with writing(path):
                if folder:
                    path.parent.mkdir(parents=True, exist_ok=True)
                with open(partial, "wb") as file:
                    file.write(content)
                    if not alone:
                        file.flush()
                        os.fsync(file.fileno())
        for path, partial in zip(paths, partials, strict=True):
            with writing(path):
                os.replace(partial, path)
    finally:
        for partial in partials:
            with contextlib.suppress(OSError):  # most are in their places, or were never made
                partial.unlink()


def check_free(path: str | os.PathLike[str]) -> None:
    """Raises ValueError if there is a file already, or a directory."""
    if os.path.exists(path):
        raise ValueError(f"{path} already exists; choose another --out")


@contextlib.contextmanager
def writing(
    path: str | os.PathLike[str], errors: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Says what could not be written, and why: an error about a full disk names no file.

    Args:
      errors: what else the body raises where something cannot be written.

    Raises:
      OSError: the body raised one, or one of `errors`.
    """
    try:
        yield
    except (OSError,) + errors as error:  # noqa: RUF005 (mypy)
        text, full = " ".join(str(error).split()), os.strerror(errno.ENOSPC)
        reason = full if full in text else getattr(error, "strerror", None) or text[:300]
        raise OSError(f"{path} cannot be written ({reason})") from error


def _finite(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _finite(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
