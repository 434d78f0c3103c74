"""Learning that has diverged: a run stops there, says so, and may go on with other settings.

Every round's numbers are checked before anything of the round is written. What stops the run is
kept in `diverged.json`: learning is deterministic, so the same settings would only get there again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill import disk, meshes, workdirs
from jaxdistill import settings as settings_lib
from jaxdistill.text import one_line

_FILE = "diverged.json"


def check(
    workdir: pathlib.Path,
    settings: Any,
    knobs: Sequence[str],
    *,
    step: int,
    numbers: Mapping[str, float],
    state: Any,
) -> None:
    """Stops the run, and writes that down in `workdir`, unless all is finite.

    Args:
      settings: the run's.
      knobs: dotted fields of `settings` that may be turned to mend it, the likeliest first: those
        that change something in this run.
      step: updates done.
      numbers: what they said, by name: `loss`, `gradient_norm`, `game_loss/GAME`...
      state: what they made, a pytree of arrays.

    Raises:
      ValueError: a number or a part of the state is NaN or infinite.
    """
    # A game's own loss says more than the mean of all.
    ordered = sorted(numbers.items(), key=lambda item: "/" not in item[0])
    broken = [f"{_said(name)} is {x:g}" for name, x in ordered if not math.isfinite(x)]
    if not broken and not bool(_all_finite(state)):
        broken = ["a parameter, or what the optimiser keeps of one, is nan or infinite"]
    if not broken:
        return
    standing = _values(settings, knobs)
    first, *others = (f"{name} ({value} now)" for name, value in standing.items())
    message = (
        f"update {step}: {broken[0]}: learning has diverged. Likely {first} is too high; else look "
        f"at {', '.join(others)}. What was saved before is sound: change one of these and the same "
        f"command goes on from there"
    )
    if meshes.leads():
        record = {"message": message, "update": step, "settings": standing}
        disk.write_json(workdir / _FILE, record)
    raise ValueError(message)


def stands(workdir: str | os.PathLike[str]) -> bool:
    """Whether the run in `workdir` has stopped there, and nobody has turned a knob since."""
    return pathlib.Path(workdir, _FILE).is_file()


def claim(
    workdir: str | os.PathLike[str],
    settings: Any,
    knobs: Sequence[str],
    ignore: Sequence[str] = (),
    *,
    parts: Sequence[str | os.PathLike[str]] = (),
) -> bool:
    """`workdirs.claim`, for a run that may stand there because its learning has diverged.

    Then its `knobs` may be turned: the run in `workdir` becomes one with the new settings, and what
    stopped it is kept as `diverged-UPDATE.json`, or `diverged-UPDATE-2.json` where that is there.

    Args:
      parts: directories of runs that this one is made of. Where one of them has diverged, the knobs
        of the whole may be turned; each claims its own directory for itself.

    Raises:
      ValueError: see `workdirs.claim`; or no knob has been turned.
    """
    path = pathlib.Path(workdir, _FILE)
    if any(map(stands, parts)):
        workdirs.claim(workdir, settings, (*ignore, *knobs))
        if meshes.leads():
            _write(path.with_name("config.json"), settings)
        return True
    if not path.is_file():
        return workdirs.claim(workdir, settings, tuple(ignore))
    workdirs.claim(workdir, settings, (*ignore, *knobs))
    try:
        record = disk.read_json(path, "delete it to learn on")
        stopped, message = dict(record["settings"]), record["message"]
        update = int(record["update"])
    except (KeyError, TypeError) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"{path} is damaged ({reason}); delete it to learn on") from error
    now = _values(settings, knobs)
    if now == {name: stopped.get(name) for name in now}:
        raise ValueError(f"{workdir} has stopped, and would again with these settings: {message}")
    if meshes.leads():
        _write(path.with_name("config.json"), settings)
        path.rename(disk.unused(path.with_name(f"diverged-{update}.json")))
    return True


def _write(path: pathlib.Path, settings: Any) -> None:
    disk.write_json(path, json.loads(json.dumps(dataclasses.asdict(settings))))


def _said(name: str) -> str:
    kind, _, game = name.partition("/")
    said = {"game_loss": "the loss", "gradient_norm": "the gradient's norm", "loss": "the loss"}
    return f"{said.get(kind, kind)} of {game}" if game else said.get(kind, kind)


def _values(settings: Any, knobs: Sequence[str]) -> dict[str, str]:
    """As text, which an infinite one can be written as too."""
    flat = settings_lib.flatten(dataclasses.asdict(settings))
    return {name: repr(flat[name]) for name in knobs}


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    leaves = [jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]
    return jnp.stack(leaves).all()
