"""Whose a directory is: the settings of the run that stands there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from jaxdistill import disk, lock, meshes
from jaxdistill.settings import OtherFields, build, flatten
from jaxdistill.text import one_line

T = TypeVar("T")


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
        standing = disk.read_json(path, "choose another --workdir")
        # A field that was not yet known when the run began had what is now its default.
        begun = understood(type(settings), standing, path, "choose another --workdir")
        completed = dataclasses.asdict(begun)
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
    if meshes.leads():  # the others may not see yet what it has written
        lock.refuse_foreign(workdir, path.name)
        workdir.mkdir(parents=True, exist_ok=True)
        disk.write_json(path, wanted)
    return False


def understood(cls: type[T], standing: Any, path: pathlib.Path, advice: str) -> T:
    """The settings that stand in a run's `config.json`, as those of a program's class.

    Args:
      standing: what the file at `path` holds.
      advice: what to do where it is not for this program.

    Raises:
      ValueError: the run is of another program or version, or has a setting that is refused here.
    """
    try:
        return build(cls, standing, path.name)
    except OtherFields as error:
        reason, _, _ = str(error).partition(";")  # without all that are known
        raise ValueError(
            f"{path.parent} holds a run of another program or of another version ({reason}); "
            f"{advice}"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{path.parent} holds a run that cannot be read here ({one_line(str(error))}); {advice}"
        ) from error


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
