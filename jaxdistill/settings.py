"""Plain configuration values -> validated frozen dataclasses, once, at the edge."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def build(cls: type[T], fields: Mapping[str, Any], where: str = "config") -> T:
    """A frozen dataclass from nested plain values.

    Raises:
      ValueError: a field is unknown, missing or of the wrong type; names it as `where.field`.
    """
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in fields:
        if name not in known:
            raise ValueError(f"{where}.{name} is unknown; known fields: {', '.join(known)}")
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


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (a for a in arguments if a is not type(None))
        return _convert(inner, value, where)
    if origin is tuple:
        if isinstance(value, str):  # --config.games=pong,freeway
            value = [part for part in value.split(",") if part]
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} is {value!r}, expected a list")
        return tuple(_convert(arguments[0], x, f"{where}[{i}]") for i, x in enumerate(value))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not hasattr(value, "items"):
            raise ValueError(f"{where} is {value!r}, expected fields of {hint.__name__}")
        return build(hint, dict(value.items()), where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{where} is {value!r}, expected {hint.__name__}")
    return value


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
        try:
            standing = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); choose another --workdir") from error
        # A field that was not yet known when the run began had what is now its default.
        completed = dataclasses.asdict(build(type(settings), standing, str(path)))
        old, new = flatten(json.loads(json.dumps(completed))), flatten(wanted)
        for name in sorted(old.keys() | new.keys()):
            if name not in ignore and old.get(name) != new.get(name):
                raise ValueError(
                    f"{workdir} holds a run with {name} {old.get(name)!r}, this one has "
                    f"{new.get(name)!r}; choose another --workdir or the same settings"
                )
        return True
    # A kill while config.json was written leaves this beside nothing else.
    partial = {f"{path.name}.partial"}
    if workdir.exists() and (
        not workdir.is_dir() or {entry.name for entry in workdir.iterdir()} - partial
    ):
        raise ValueError(f"{workdir} exists and holds no run; choose another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, wanted)
    return False


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


def write_json(path: pathlib.Path, values: Any) -> None:
    """Writes JSON so that a kill leaves either the old file or the new one."""
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(temporary, path)
