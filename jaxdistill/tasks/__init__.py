"""What is played: `get("pong")`, `get("lander/windy")`."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import pathlib
import re
import sys
from typing import Any

from jaxdistill import settings
from jaxdistill.tasks import atari, combat, lander
from jaxdistill.tasks.atari import USUAL, Game, Rules
from jaxdistill.tasks.checks import check as check
from jaxdistill.tasks.task import Task

# What others call a task, beside its own name.
_ALIASES = {"lunarlander": "lander/standard"}
_LONGEST = 200  # letters of a name; what is longer is none
_added: dict[str, Task] = {}
_files: dict[str, str | None] = {}  # digests, see `content`
OF_ONE_S_OWN = "give --import=FILE (in Python, import it first)"
"""What to do where a name is not known because the file that makes it known was not imported."""


class UnknownTask(ValueError):
    """There is no task of this name: it is mistyped, or of a file that was not imported."""


def add(task: Task) -> None:
    """Makes a task of one's own known by its name, such as "corridor" or "corridor/long".

    Added again, as by a cell of a notebook that is run twice, it takes the place of the first.

    Raises:
      ValueError: the name, as `get` reads it, is that of another task.
    """
    standing = _by_key().get(_key(task.name))
    if standing not in (None, task, _added.get(task.name)):
        raise ValueError(f"{task.name!r} is the name of {standing.name} already; take another")
    _added[task.name], _files[task.name] = task, _file_of(type(task))
    names.cache_clear()
    _by_key.cache_clear()


def added(name: str) -> bool:
    """Whether the task of this name did not come with the package."""
    return get(name).name in _added


def content(task: Task) -> dict[str, Any] | None:
    """What tells a task of one's own from others that have had its name; None of our tasks.

    Its own fields, and a digest of the file of its class, as it was when the task was added.
    """
    if task.name not in _added:
        return None
    own = {x.name for x in dataclasses.fields(task)} - {x.name for x in dataclasses.fields(Task)}
    fields = {name: repr(getattr(task, name)) for name in sorted(own)}
    return {"fields": fields, "file": _files[task.name]}


def _file_of(made: type) -> str | None:
    """A digest of the file that a class is of; None where it is of none, as in a notebook."""
    path = getattr(sys.modules.get(made.__module__), "__file__", None)
    if path is None or not pathlib.Path(path).is_file():
        return None
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


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
        raise ValueError(f"unknown task {settings.one_line(repr(name), 80)}, expected a name")
    name, by_key = name[:_LONGEST], _by_key()
    close = dict.fromkeys(
        by_key[key].name
        for spelling in dict.fromkeys(_spellings(name))
        for key in difflib.get_close_matches(spelling, by_key, n=3, cutoff=0.6)
    )
    hint = "did you mean " + " or ".join([*close][:3]) + "? " if close else ""
    raise UnknownTask(
        f"unknown task {settings.one_line(repr(name), 80)}: {hint}jaxdistill.tasks.names() lists "
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
    tasks: dict[str, Task] = {**atari.games(), **lander.LANDERS, **combat.COMBATS, **_added}
    keys = {_key(name.rpartition("/")[2]): task for name, task in tasks.items()}
    keys |= {_key(name): task for name, task in tasks.items()}
    return keys | {alias: tasks[name] for alias, name in _ALIASES.items()}


def _key(name: str) -> str:
    """Reduces a spelling to lower-case letters and digits, without suffixes."""
    name = re.sub(r"[-_ ]v\d+\s*$", "", name.lower())
    name = re.sub(r"[^a-z0-9]", "", name)
    return re.sub(r"(ram)?(noframeskip|deterministic)?$", "", name)
