"""What comes with the package besides modules: programs, config files, experts.

A wheel holds `launch/`, `configs/` and `experts/` inside the package; in a checkout they stand
beside it.
"""

from __future__ import annotations

import os
import pathlib

_PACKAGE = pathlib.Path(__file__).parent
_INSIDE = _PACKAGE / "programs"

ROOT = _INSIDE if _INSIDE.is_dir() else _PACKAGE.parent
"""The directory that `launch/`, `configs/` and `experts/` are in."""

EXPERTS = ROOT / "experts"
"""Those that come with the package."""

_FOLDERS = ("configs", EXPERTS.name)


def found(path: str | os.PathLike[str]) -> pathlib.Path:
    """`path`, or what came with the package as `configs/...` or `experts/...`.

    What is there goes before what came with the package, so that nothing of the user's is hidden.
    """
    given = pathlib.Path(path)
    if given.exists() or next(iter(given.parts), "") not in _FOLDERS:
        return given
    return ROOT / given if (ROOT / given).exists() else given


def is_packaged(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is not there, and what came with the package is found in its place."""
    return found(path) != pathlib.Path(path)


def config(name: str) -> str:
    """The value of `--config` with its file found: `configs/merge.py:pong=FILE`, or `merge:...`."""
    file, colon, argument = name.partition(":")
    short = pathlib.Path(file)
    if not short.suffix and len(short.parts) == 1 and not short.is_file():
        known = found(pathlib.Path("configs", f"{file}.py"))
        file = str(known if known.exists() else short)
    return f"{found(file)}{colon}{argument}"
