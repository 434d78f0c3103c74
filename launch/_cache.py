"""`--cache_dir`: where games that were played, and what JAX has compiled, are kept for all runs."""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform

from absl import flags

_CACHE = flags.DEFINE_string(
    "cache_dir",
    None,
    "where games of experts and random play are kept and looked for, so that they are played once, "
    "and what JAX compiles; empty is nowhere, by default jaxdistill in $XDG_CACHE_HOME or ~/.cache",
)


def cache_dir() -> pathlib.Path | None:
    """The directory that the flag names, now for compiled code too; None where it is empty."""
    if _CACHE.value is None:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        directory = pathlib.Path(home, "jaxdistill")
    elif _CACHE.value:
        directory = pathlib.Path(_CACHE.value)
    else:
        return None
    if not _of_several():
        _keep_compiled(directory / "compiled" / _processor())
    return directory


def _of_several() -> bool:
    """Whether this process shares a run: only one of them would keep what JAX compiles.

    The others, who compile anew what the first one reads, would let it wait for them.
    """
    return "coordinator" in flags.FLAGS and flags.FLAGS.coordinator is not None


def _keep_compiled(directory: pathlib.Path) -> None:
    """Has JAX keep there what takes long to compile, unless its own variable says where."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # nothing is lost but time
    import jax

    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _processor() -> str:
    """A name of what machine code is for: homes are shared by machines that differ."""
    known = pathlib.Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    told = next((line for line in lines if line.startswith("flags")), "")
    return hashlib.sha256(f"{platform.machine()} {told}".encode()).hexdigest()[:12]
