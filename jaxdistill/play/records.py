"""Whole games that were played before: kept, and found by all that decides them.

A game of a protocol is decided by who plays it, the task and its seat. So it is kept, in a file for
each player, task and protocol, and counts wherever the same is asked again: in a run that was
stopped, in the next run of the same experts, for another who has the same experts' files.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill import disk, tasks
from jaxdistill.play.lessons import Lesson
from jaxdistill.play.players import RANDOM, Player, digest
from jaxdistill.play.protocols import Protocol
from jaxdistill.play.scoring import Scores
from jaxdistill.tasks.task import Task
from jaxdistill.text import one_line

PACKAGED = "random_play.json"
"""Random play, in the tasks where `benchmarks/random_play.py` has measured it."""

_VERSION = 1  # of what decides a game; another number begins all records anew
_OWN = "own"  # of what decides a game: the content of a task of one's own


class Records:
    """Where games are kept.

    Attributes:
      own: a run's directory, which holds all games that the run was measured in.
      shared: a cache for all runs. Not kept there: games of players of one run only, games of
        user-defined tasks (their code may change), and games that continue ones found only in
        `own`, which may come from somebody else.
      given: others where games are only looked for, such as the package's own.
      writes: False where the run is only read, and no game is added to its own.
    """

    def __init__(
        self,
        own: pathlib.Path | None = None,
        shared: pathlib.Path | None = None,
        given: Sequence[pathlib.Path] = (),
        *,
        writes: bool = True,
    ):
        self.own, self.shared, self.given, self.writes = own, shared, tuple(given), writes

    def find(self, lesson: Lesson, protocol: Protocol, player: Player) -> Scores | None:
        """The most games that are known, from the first seat on.

        Raises:
          ValueError: a file is damaged.
        """
        of = described(lesson, protocol, player)
        return self._known(of, self.own)

    def _known(self, of: Mapping[str, Any], own: pathlib.Path | None = None) -> Scores | None:
        """The most games that are known to all runs, or in `own`."""
        places = (own, self._shared_for(of), *self.given)
        known = [_read(place / _name(of), of) for place in places if place]
        if of["player"] == RANDOM:
            known.append(_packaged().get(digest(of)))
        return max((x for x in known if x), key=lambda x: len(x.scores), default=None)

    def keep(
        self,
        lesson: Lesson,
        protocol: Protocol,
        player: Player,
        scores: Scores,
        *,
        found: int = 0,
    ) -> None:
        """Writes games from the first seat on, where no more are known.

        A shared directory that cannot be read or written is not used: it would have saved time
        alone.

        Args:
          found: how many of them, the first, were not played here but found: all runs are told of
            more only where they know of these.

        Raises:
          OSError: the run's own cannot be written.
        """
        of = described(lesson, protocol, player)
        if self.own and self.writes:
            _write(self.own, of, scores)
        shared = self._shared_for(of)
        if shared and not player.one_run_only:
            with contextlib.suppress(OSError):
                known = self._known(of) if found else None
                if not found or (known is not None and len(known.scores) >= found):
                    _write(shared, of, scores, alone=False)

    def _shared_for(self, of: Mapping[str, Any]) -> pathlib.Path | None:
        """The shared directory; None where what it holds of these games may not be read."""
        if _OWN in of or self.shared is None:
            return None
        try:
            (self.shared / _name(of)).open("rb").close()
        except FileNotFoundError:
            return self.shared
        except OSError:
            return None
        return self.shared


def described(lesson: Lesson, protocol: Protocol, player: Player) -> dict[str, Any]:
    """All that decides a game but its seat."""
    opening, task = protocol.opening, lesson.task
    by = opening.marks[lesson.index] if opening.marks else RANDOM
    of = {
        "version": _VERSION,
        "player": player.marks[lesson.index],
        "task": task.name,
        "max_steps": protocol.max_steps or task.max_steps,
        "view": lesson.view.to_dict(),
        "valid": np.flatnonzero(lesson.mask).tolist(),
        "purpose": protocol.purpose,
        "seed": protocol.seed,
        "opening": [opening.steps, by if opening.steps else RANDOM, opening.side],
        **task.variant_fields,
        **_draws_by(),
        **({_OWN: own} if (own := tasks.content(task)) else {}),
    }
    return json.loads(json.dumps(of))  # as it is read back: no tuples


def _draws_by() -> dict[str, Any]:
    """How JAX draws numbers here, where that is not as it usually does."""
    usual = {"jax_enable_x64": False, "jax_default_prng_impl": "threefry2x32"}
    told = {name: getattr(jax.config, name) for name in usual}
    return {name: value for name, value in told.items() if value != usual[name]}


def _name(of: Mapping[str, Any]) -> str:
    return f"{of['task'].replace('/', '_')}-{digest(of)[:16]}.json"


def _read(path: pathlib.Path, of: Mapping[str, Any]) -> Scores | None:
    """The games in a file; None where there is none, or those of others."""
    if not path.is_file():
        return None
    advice = "delete it to play its games again"
    standing = disk.read_json(path, advice)
    try:
        return Scores.from_dict(standing["games"]) if standing["of"] == of else None
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"{path} is damaged ({reason}); {advice}") from error


def _write(
    directory: pathlib.Path, of: Mapping[str, Any], scores: Scores, *, alone: bool = True
) -> None:
    path = directory / _name(of)
    with disk.writing(path):
        directory.mkdir(parents=True, exist_ok=True)
    known = _read(path, of)
    if known is None or len(known.scores) < len(scores.scores):
        values = {"of": of, "games": scores.to_dict()}
        disk.write_json(path, values, indent=None, alone=alone)


@functools.cache
def _packaged() -> dict[str, Scores]:
    """Games of random play that come with the package, by the digest of what decides them."""
    return {digest(row["of"]): Scores.from_dict(row["games"]) for row in _rows()}


@functools.cache
def _rows() -> list[dict[str, Any]]:
    """The games, each row with what decides them as `of`."""
    file = importlib.resources.files(__package__).joinpath(PACKAGED)
    return json.loads(file.read_text("utf-8")) if file.is_file() else []


def random_score(task: Task, max_steps: int | None = None) -> float | None:
    """The mean score of uniformly random play, measured here or published; None where unknown.

    Args:
      max_steps: step limit of one game; by default the task's.
    """
    if not task.as_published(max_steps):
        return None
    for row in _rows():
        if row["of"]["task"] == task.name:
            return Scores.from_dict(row["games"]).mean
    return task.random_score
