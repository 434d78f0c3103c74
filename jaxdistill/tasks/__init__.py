"""What is played: `get("pong")`, `get("lander/windy")`."""

from __future__ import annotations

import collections
import dataclasses
import difflib
import functools
import hashlib
import inspect
import json
import pathlib
import re
import sys
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxdistill.tasks import atari, combat, lander
from jaxdistill.tasks.atari import USUAL, Game, Rules
from jaxdistill.tasks.checks import check as check
from jaxdistill.tasks.gymnasium_pool import gymnasium_task as gymnasium_task
from jaxdistill.tasks.task import Task
from jaxdistill.text import one_line

# What others call a task, beside its own name.
_ALIASES = {"lunarlander": "lander/standard"}
_LONGEST = 200  # letters of a name; what is longer is none
_added: dict[str, Task] = {}
_files: dict[str, dict[str, str | None]] = {}  # digests by task and module, see `content`
OF_ONE_S_OWN = "give --import=FILE (in Python, import it first)"
"""What to do where a name is not known because the file that makes it known was not imported."""


class UnknownTask(ValueError):
    """There is no task of this name: it is mistyped, or of a file that was not imported."""


def add(task: Task) -> None:
    """Makes a task of one's own known by its name, such as "corridor" or "corridor/long".

    Added again, as by a cell of a notebook that is run twice, it takes the place of the first.

    Raises:
      ValueError: the name, as `get` reads it, is that of another task; or a field is something that
        cannot be told from others in the next run, see `content`; or it is a game of Atari with
        rules, which those who play it would replace by theirs, see `under`.
    """
    if isinstance(task, Game) and (rules := task.rules.to_dict()):
        said = [f"{name}={json.dumps(value)}" for name, value in rules.items()]
        raise ValueError(
            f"{task.name} has rules, which are not a task's but an expert's "
            f"(GAME=FILE?{'&'.join(said)}) or a run's (--config.rules.{said[0]}); leave them out"
        )
    standing = _by_key().get(_key(task.name))
    if standing is not None and standing is not _added.get(task.name):
        raise ValueError(f"{task.name!r} is the name of {standing.name} already; take another")
    files = dict[str, str | None]()
    _content(task, files)
    _added[task.name], _files[task.name] = task, files
    names.cache_clear()
    _by_key.cache_clear()


def added(name: str) -> bool:
    """Whether the task of this name did not come with the package."""
    return get(name).name in _added


def content(task: Task) -> dict[str, Any] | None:
    """What tells a task of one's own from others that have had its name; None of our tasks.

    Its own fields, and a digest of the file of its class, as it was when the task was added. It is
    the same in every process: arrays are told by their bytes, dataclasses by their fields, classes
    and functions by their names and files.
    """
    return _content(task, _files[task.name]) if task.name in _added else None


def _content(task: Task, files: dict[str, str | None]) -> dict[str, Any]:
    """As `content`; takes note of the digests of `files` by their modules."""
    own = {x.name for x in dataclasses.fields(task)} - {x.name for x in dataclasses.fields(Task)}
    fields = {
        name: _stable_repr(getattr(task, name), files, f"{task.name}: {name}")
        for name in sorted(own)
    }
    return {"fields": fields, "file": _file_of(type(task).__module__, files)}


def _stable_repr(value: Any, files: dict[str, str | None], where: str) -> str:
    """What tells a value from others, in every process: of most its `repr`."""
    told = functools.partial(_stable_repr, files=files, where=where)
    if isinstance(value, np.ndarray | jax.Array) and value.dtype != object:
        array = np.asarray(value)
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return f"array({array.dtype}, {array.shape}, {digest})"
    made = type(value).__qualname__
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [f"{x.name}={told(getattr(value, x.name))}" for x in dataclasses.fields(value)]
        return f"{made}({', '.join(parts)})"
    if isinstance(value, Mapping):
        return f"{made}({', '.join(f'{told(key)}: {told(x)}' for key, x in value.items())})"
    if isinstance(value, tuple | list | np.ndarray):
        return f"{made}({', '.join(map(told, value))})"
    if isinstance(value, set | frozenset):  # whose order is another in every process
        return f"{made}({', '.join(sorted(map(told, value)))})"
    if isinstance(value, functools.partial):
        return f"{made}{told((value.func, value.args, value.keywords))}"
    inner = inspect.unwrap(value) if callable(value) else value
    if isinstance(inner, type | types.FunctionType) and not getattr(inner, "__closure__", None):
        return f"{inner.__module__}.{inner.__qualname__}, {_file_of(inner.__module__, files)}"
    if isinstance(value, str) or not re.search(" at 0x[0-9a-fA-F]", repr(value)):
        return repr(value)
    raise ValueError(
        f"{where} is {one_line(repr(value), 80)}, which the next run cannot tell from "
        f"others; expected plain values, arrays, dataclasses, or functions that close over nothing "
        f"(functools.partial gives them what they need)"
    )


def _file_of(module: str, files: dict[str, str | None]) -> str | None:
    """A digest of the file of a module; None where it has none, as in a notebook."""
    if module not in files:
        path = pathlib.Path(getattr(sys.modules.get(module), "__file__", None) or "")
        known = path.is_file()
        files[module] = hashlib.sha256(path.read_bytes()).hexdigest() if known else None
    return files[module]


def get(name: str) -> Task:
    """Finds a task by almost any of the spellings in use.

    "pong", "Pong-v5", "PongNoFrameskip-v4", "ALE/Pong-v5", "SpaceInvaders", "space-invaders" and
    "space invaders" all work, and so do "lander/windy", "lander_windy" and "LunarLander-v3": case,
    punctuation, a namespace, a version and the suffixes of Gym's ids are ignored.

    Args:
      name: the task's name or the id of one of its environments.

    Returns:
      The task.

    Raises:
      UnknownTask: there is none; the message names the closest ones.
      ValueError: that is no name.
    """
    if task := find(name):
        return task
    if not isinstance(name, str):
        raise ValueError(f"unknown task {one_line(repr(name), 80)}, expected a name")
    name, by_key = name[:_LONGEST], _by_key()
    spellings = [*dict.fromkeys(_spellings(name))]
    close = dict.fromkeys(x for x in _added if _last(x) in spellings)  # several that end so
    close |= dict.fromkeys(
        by_key[key].name
        for spelling in spellings
        for key in difflib.get_close_matches(spelling, by_key, n=3, cutoff=0.6)
    )
    hint = "did you mean " + " or ".join([*close][:3]) + "? " if close else ""
    raise UnknownTask(
        f"unknown task {one_line(repr(name), 80)}: {hint}jaxdistill.tasks.names() lists "
        f"all {len(names())}; a task of your own: {OF_ONE_S_OWN}"
    )


def find(name: str) -> Task | None:
    """As `get`; None where there is no such task."""
    if not isinstance(name, str) or len(name) > _LONGEST:
        return None
    by_key = _by_key()
    for key in _spellings(name):
        if key in by_key:
            return by_key[key]
    return combat.find(name)


def _spellings(name: str) -> list[str]:
    space, _, last = name.rpartition("/")
    own = _key(space) in {"lander", "combat", *(_key(x.rpartition("/")[0]) for x in _added)} - {""}
    return [_key(name)] if own else [_key(name), _key(last)]


def under(task: Task, rules: Rules) -> Task:
    """The task, played in another way.

    Raises:
      ValueError: it knows no such rules.
    """
    if isinstance(task, Game):
        return task if task.rules == rules else task.under(rules)
    if rules != USUAL:
        raise ValueError(
            f"{task.name} knows none of the rules of Atari; leave out {', '.join(rules.to_dict())}"
        )
    return task


@functools.cache
def names() -> tuple[str, ...]:
    """The names of all tasks: Atari's 104 games, landers, combat and those that were added.

    Duels of other health, such as "combat/duel_10hp", are found besides.
    """
    return (*atari.games(), *sorted(combat.COMBATS), *sorted(lander.LANDERS), *sorted(_added))


@functools.cache
def _by_key() -> dict[str, Task]:
    ours: dict[str, Task] = {**atari.games(), **lander.LANDERS, **combat.COMBATS}
    ends = collections.Counter(map(_last, _added))
    # What two of one's own end with is the name of neither, and names of ours stay theirs.
    keys = {_last(name): task for name, task in _added.items() if ends[_last(name)] == 1}
    keys |= {_key(name): task for name, task in _added.items()}
    keys |= {_last(name): task for name, task in ours.items()}
    keys |= {_key(name): task for name, task in ours.items()}
    return keys | {alias: ours[name] for alias, name in _ALIASES.items()}


def _last(name: str) -> str:
    """What a name is found by where its space is left out."""
    return _key(name.rpartition("/")[2])


def _key(name: str) -> str:
    """Reduces a spelling to lower-case letters and digits, without suffixes."""
    name = re.sub(r"[-_ ]v\d+\s*$", "", name.lower())
    name = re.sub(r"[^a-z0-9]", "", name)
    return re.sub(r"(ram)?(noframeskip|deterministic)?$", "", name)
