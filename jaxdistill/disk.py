"""Files that appear whole or not at all, and errors that name them."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import pathlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from jaxdistill.text import one_line


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


def unused(path: pathlib.Path) -> pathlib.Path:
    """`NAME.json`, or the first of `NAME-2.json`, `NAME-3.json`... that is not there."""
    more = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], more) if not each.exists())


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
