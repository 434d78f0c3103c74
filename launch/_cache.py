"""`--cache_dir`: where games that were played once are kept for all runs."""

from __future__ import annotations

import os
import pathlib

from absl import flags

_CACHE = flags.DEFINE_string(
    "cache_dir",
    None,
    "where games of experts and random play are kept and looked for, so that they are played once; "
    "empty is nowhere, by default jaxdistill in $XDG_CACHE_HOME or ~/.cache",
)


def cache_dir() -> pathlib.Path | None:
    """The directory that the flag names; None where it is empty."""
    if _CACHE.value is None:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        return pathlib.Path(home, "jaxdistill")
    return pathlib.Path(_CACHE.value) if _CACHE.value else None
