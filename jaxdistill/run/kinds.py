"""Which kind of run stands in a directory, told by the fields of its settings."""

from __future__ import annotations

import os
import pathlib
from typing import Literal

from jaxdistill import disk

Kind = Literal["distillation", "merge", "training"]


def of(workdir: str | os.PathLike[str]) -> Kind | None:
    """The kind of the run in `workdir`; None where nothing stands, or something of others.

    Raises:
      ValueError: its `config.json` is damaged.
    """
    path = pathlib.Path(workdir, "config.json")
    if not path.is_file():
        return None
    standing = disk.read_json(path, "begin again in another --workdir")
    if not isinstance(standing, dict):  # others write such files too
        return None
    if "games" in standing:
        return "training"
    if "experts" in standing:
        return "merge" if "method" in standing else "distillation"
    return None


def has_student(workdir: str | os.PathLike[str]) -> bool:
    """Whether the run in `workdir` is one that ends in a student; raises as `of` does."""
    return of(workdir) in ("distillation", "merge")
