"""Whole games that were played before: read back, and only those that are missing are played.

A game of a protocol is decided by who plays it, the task and its seat. So it is kept, in a file for
each player, task and protocol, and counts wherever the same is asked again: in a run that was
stopped, in the next run of the same experts, for another who has the same experts' files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.resources
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import disk, meshes, networks, preemption, tasks, terminal
from jaxdistill.experts.expert import Expert, Teacher, Team
from jaxdistill.play import evaluation, rollouts, scoring
from jaxdistill.play.evaluation import Protocol
from jaxdistill.play.lessons import REPORT, Lesson, choices, of_experts
from jaxdistill.play.scoring import Comparison, Scores
from jaxdistill.tasks.task import Suite, Task, unusual_limit
from jaxdistill.tasks.views import AnyView
from jaxdistill.text import one_line

RANDOM = "random"
"""The mark of uniformly random play."""

RANDOM_GAMES = 64
"""Random play is measured in so many games at most: its scores differ little."""

REPORT_SEED = 0
"""Of the games that runs report: all the same ones, so that experts are measured once."""

PACKAGED = "random_play.json"
"""Random play, in the tasks where `benchmarks/random_play.py` has measured it."""

_VERSION = 1  # of what decides a game; another number begins all records anew
_OWN = "own"  # of what decides a game: the content of a task of one's own


@dataclasses.dataclass(frozen=True)
class Player:
    """Who is measured.

    Attributes:
      name: what a progress bar calls it.
      policy: how it plays.
      marks: what it is known by in each lesson of the run, by the lessons' indices: `RANDOM`, or a
        digest of all that decides its actions.
      one_run_only: it is of one run, and others will not ask for it.
    """

    name: str
    policy: rollouts.AnyPolicy
    marks: tuple[str, ...]
    one_run_only: bool = False

    @classmethod
    def experts(
        cls,
        experts: Sequence[Teacher],
        *,
        mesh: Mesh,
        epsilon: float,
        sample_logits: bool = False,
        name: str = "experts",
        one_run_only: bool = False,
    ) -> Player:
        """An expert for each lesson; see `rollouts.expert_actor`."""
        policy = rollouts.expert_actor(
            experts, epsilon=epsilon, sample_logits=sample_logits, mesh=mesh
        )
        marks = (expert_mark(x, epsilon=epsilon, sample_logits=sample_logits) for x in experts)
        return cls(name, policy, tuple(marks), one_run_only)

    @classmethod
    def student(
        cls,
        network: networks.Network,
        params: Any,
        policy: rollouts.Policy,
        *,
        views: Sequence[AnyView],
        epsilon: float,
        one_run_only: bool = False,
    ) -> Player:
        """One network for all lessons, and how it plays with its parameters.

        Args:
          params: on the host; those of `policy` are where it plays.
          views: what it sees in each lesson.
          epsilon: of `policy`.
        """
        marks = (
            student_mark(network, params, view, index=index, epsilon=epsilon)
            for index, view in enumerate(views)
        )
        return cls("student", policy, tuple(marks), one_run_only)

    @property
    def most_games(self) -> int | None:
        """How many games of one task say enough; None where more say more."""
        return RANDOM_GAMES if set(self.marks) == {RANDOM} else None


@dataclasses.dataclass(frozen=True)
class Terms:
    """On what terms play is measured: what flags, or the settings of a run, say of it.

    Attributes:
      episodes: whole games of each task, 1 or more.
      epsilon: chance of a random valid action, 0 to 1.
      seed: of the starts and of chance, 0 or more: the same games for the same seed.
      opening_steps: steps of others' play, at least, before who is measured takes over; 0 or more,
        and fewer than a game may have, see `evaluation.Opening`.
      opening_by: who plays them, "random" or "expert".
      max_steps: step limit of one game, 1 or more; None is the run's, or each task's own.
    """

    episodes: int
    epsilon: float
    seed: int
    opening_steps: int
    opening_by: str = "random"
    max_steps: int | None = None

    @classmethod
    def of(
        cls,
        suite: Suite,
        *,
        episodes: int,
        seed: int,
        epsilon: float | None = None,
        opening_steps: int | None = None,
        opening_by: str = "random",
        max_steps: int | None = None,
    ) -> Terms:
        """Terms for tasks of a suite, whose own epsilon and opening stand where None is given."""
        return cls(
            episodes,
            suite.epsilon if epsilon is None else epsilon,
            seed,
            suite.opening_steps if opening_steps is None else opening_steps,
            opening_by,
            max_steps,
        )

    def within(self, max_steps: int | None) -> Terms:
        """With a run's step limit, where none is said."""
        limit = max_steps if self.max_steps is None else self.max_steps
        return dataclasses.replace(self, max_steps=limit)

    def check_opening(self, task: Task) -> None:
        """Raises ValueError for openings that are as long as games of `task`."""
        limit = self.max_steps or task.max_steps
        if self.opening_steps >= limit:
            raise ValueError(
                f"opening_steps is {self.opening_steps}, expected less than the {limit} steps of a "
                f"game of {task.name}"
            )

    def protocol(self, random: rollouts.Policy) -> Protocol:
        """Of games that are reported, whose openings are this random play."""
        assert self.opening_by == "random", "experts play the openings of runs alone"
        opening = evaluation.Opening(random, self.opening_steps, random, evaluation.REPORTING)
        return Protocol(REPORT, self.seed, opening, self.max_steps)

    @property
    def protocol_fields(self) -> dict[str, Any]:
        """How each game is played, as cards have it: plain JSON values."""
        return {
            "epsilon": self.epsilon,
            "opening_steps": self.opening_steps,
            "opening_by": self.opening_by,
            "max_steps": self.max_steps,
        }

    def to_dict(self, played: Iterable[Task]) -> dict[str, Any]:
        """As results and tables have it: `protocol_fields`, and how many games of each task.

        Args:
          played: the tasks; a step limit that is each one's own is told as None.
        """
        limit = unusual_limit(self.max_steps, played)
        return {"episodes": self.episodes, **self.protocol_fields, "max_steps": limit}


def fingerprint(params: Any) -> str:
    """SHA-256 of parameters: the same network, whatever file it came from."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def read_as(expert: Teacher, *, in_training: bool = False) -> str:
    """A digest of what an expert answers by besides its parameters: network, actions and view.

    Args:
      in_training: without its deviations, which it learns.
    """
    alone = expert.experts if isinstance(expert, Team) else (expert,)
    changes = {"log_std": None} if in_training else {}
    return _digest([_described(one) | changes for one in alone])[:12]


def expert_mark(expert: Teacher, *, epsilon: float, sample_logits: bool) -> str:
    """What an expert is known by that plays in this way."""
    alone = expert.experts if isinstance(expert, Team) else (expert,)
    return _digest(
        {
            "experts": [
                _described(one) | _computes_in(one.network) | {"params": fingerprint(one.params)}
                for one in alone
            ],
            "epsilon": epsilon,
            "sampled": sample_logits and expert.outputs == "logits",
        }
    )


def student_mark(
    network: networks.Network, params: Any, view: AnyView, *, index: int, epsilon: float
) -> str:
    """What one network of several tasks is known by in one of them.

    Args:
      index: the task's, which a network that knows its task is told.
    """
    return _digest(
        {
            "student": networks.to_dict(network),
            **_computes_in(network),
            "params": fingerprint(params),
            "view": view.to_dict(),
            "index": index,
            "epsilon": epsilon,
        }
    )


def _described(expert: Expert) -> dict[str, Any]:
    return {
        "network": networks.to_dict(expert.network),
        "actions": list(expert.actions),
        "view": expert.view.to_dict(),
        "game": expert.game,
        "log_std": None if expert.log_std is None else list(expert.log_std),
    }


def _computes_in(network: networks.Network) -> dict[str, str]:
    """The dtype that is no part of a network's description, where it is not the usual one."""
    dtype = np.dtype(network.dtype).name
    return {} if dtype == "float32" else {"dtype": dtype}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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
            known.append(_packaged().get(_digest(of)))
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

        A shared directory that cannot be written is not used: it would only have saved time.

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
        return None if _OWN in of else self.shared


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
        **({_OWN: own} if (own := tasks.content(task)) else {}),
    }
    return json.loads(json.dumps(of))  # as it is read back: no tuples


def _name(of: Mapping[str, Any]) -> str:
    return f"{of['task'].replace('/', '_')}-{_digest(of)[:16]}.json"


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
    return {_digest(row["of"]): Scores.from_dict(row["games"]) for row in _rows()}


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


def measure(
    lessons: Sequence[Lesson],
    player: Player,
    protocol: Protocol,
    episodes: int | Sequence[int],
    mesh: Mesh,
    records: Records,
) -> list[Scores]:
    """As `evaluation.measure`, but only what is not known is played, and then kept.

    A few lessons are played at a time, of each some hundred games, and kept when they have ended.

    Args:
      episodes: of each lesson, or of all, from the first seat on; see `Player.most_games`.
      mesh: of all processes; the leading one reads and writes.

    Raises:
      Preempted: a signal has come; several processes end after lessons that were played together.
    """
    given = [episodes] * len(lessons) if isinstance(episodes, int) else episodes
    wanted = [min(games, player.most_games or games) for games in given]
    known = _find(lessons, player, protocol, records)
    seats = [
        range(0 if x is None else len(x.scores), games)
        for x, games in zip(known, wanted, strict=True)
    ]
    missing = [i for i, games in enumerate(seats) if games]
    for i, scores in enumerate(known):
        if scores is not None and i not in missing and meshes.leads():
            records.keep(lessons[i], protocol, player, scores.first(wanted[i]), found=wanted[i])
    if missing:
        total = sum(len(seats[i]) for i in missing)
        of_one = max(_OF_ONE, lessons[0].task.suite.pool_size)
        with terminal.progress(player.name, total, "games") as advance:
            for part in _parts(missing, seats, of_one):
                played = evaluation.measure(
                    [lessons[i] for i in part],
                    player.policy,
                    protocol,
                    [*part.values()],
                    mesh,
                    advance=advance,
                )
                for i, scores in zip(part, played, strict=True):
                    old = known[i]
                    known[i] = whole = scores if old is None else old.joined(scores)
                    if meshes.leads():
                        records.keep(lessons[i], protocol, player, whole, found=seats[i].start)
                # One process stops within its games.
                if jax.process_count() > 1 and meshes.any_of(preemption.asked()):
                    raise preemption.Preempted
    return [x.first(games) for x, games in zip(known, wanted, strict=True) if x is not None]


_AT_ONCE = 1024  # games: the emulators of more would take the machine's memory
_OF_ONE = 256  # of one lesson: they are kept before the next are played


def _parts(
    chosen: Sequence[int], seats: Sequence[range], of_one: int
) -> Iterator[dict[int, range]]:
    """Which seats of the `chosen` lessons are played together, by lesson.

    Those of one lesson, or `_AT_ONCE` in all at most; of each lesson `of_one` at most.
    """
    part, games = dict[int, range](), 0
    for first in range(0, max(len(seats[lesson]) for lesson in chosen), of_one):
        for lesson in chosen:
            some = seats[lesson][first : first + of_one]
            if not some:
                continue
            if part and (lesson in part or games + len(some) > _AT_ONCE):
                yield part
                part, games = {}, 0
            part[lesson] = some
            games += len(some)
    yield part


def _find(
    lessons: Sequence[Lesson], player: Player, protocol: Protocol, records: Records
) -> list[Scores | None]:
    """What the leading process knows, in all of them."""
    found: list[Any] = []
    if meshes.leads():
        known = (records.find(lesson, protocol, player) for lesson in lessons)
        found = [None if x is None else x.to_dict() for x in known]
    return [None if x is None else Scores.from_dict(x) for x in meshes.broadcast_json(found)]


def measure_until_precise(
    lessons: Sequence[Lesson],
    players: Mapping[str, Player],
    protocol: Protocol,
    mesh: Mesh,
    records: Records,
    *,
    episodes: int,
    width: float,
) -> dict[int, Comparison]:
    """Games of "random", "expert" and "student" until each lesson's retention is known.

    A lesson is played until half of its retention's 95% interval is at most `width`, asked after
    16, 32, 64, ... games alone: with so few questions and `scoring.Scores.interval` as it is,
    the interval that ends the games holds what it says (`tests/play/test_records.py` plays that
    through). How wide it is tells how many games will be asked for at least (`_ahead`). These are
    played at once: in parts, each part would wait for its longest game. The answers are the same.

    Args:
      players: "random", "expert" and "student".
      episodes: so many at most.
      width: 0 plays them all.

    Returns:
      By the lessons' indices.
    """
    scores: dict[int, Comparison] = {}
    played: dict[str, dict[int, Scores]] = {who: {} for who in players}
    ahead = count = dict.fromkeys((lesson.index for lesson in lessons), 0)
    for games in rounds(episodes) if width else (episodes,):
        due = [lesson for lesson in lessons if count[lesson.index] < games]
        wanted = [max(games, ahead[lesson.index]) for lesson in due]
        count = count | {x.index: n for x, n in zip(due, wanted, strict=True)}
        for who, player in players.items():
            measured = measure(due, player, protocol, wanted, mesh, records)
            played[who] |= {lesson.index: x for lesson, x in zip(due, measured, strict=True)}
        for lesson in lessons:
            counted = {who: rows[lesson.index].first(games) for who, rows in played.items()}
            scores[lesson.index] = Comparison(**counted)
        widths = {lesson.index: _half_width(scores[lesson.index]) for lesson in lessons}
        lessons = [lesson for lesson in lessons if not widths[lesson.index] <= width]
        if not lessons or games == episodes:
            break
        ahead = {index: _ahead(half / width, games, episodes) for index, half in widths.items()}
    return scores


def rounds(episodes: int) -> Iterator[int]:
    """16, 32, 64, ... and at last `episodes`: after so many it is asked whether more are due."""
    games = 16
    while games < episodes:
        yield games
        games *= 2
    yield episodes


def _half_width(scores: Comparison) -> float:
    """Half of the retention's interval; NaN where it has none."""
    random, expert, student = scores
    low, high = scoring.retention_interval(student, expert, random)
    return (high - low) / 2


def _ahead(wider: float, games: int, episodes: int) -> int:
    """Of `rounds`, the last that an interval will hardly be narrow enough before; 0 if none.

    It narrows with the root of the games. How wide it is after few is known to a fifth or so, so
    half as many games are counted on as it asks for.

    Args:
      wider: how many times as wide it is after `games` as it may be; NaN where it has none.
    """
    counted_on = games * wider**2 / 2
    return max((n for n in rounds(episodes) if n <= counted_on), default=0)


def measure_alone(
    expert: Teacher,
    terms: Terms,
    *,
    sample_logits: bool = False,
    beside: Sequence[AnyView] = (),
    records: Records | None = None,
) -> Scores:
    """Whole-game scores of one expert, from starts that are `REPORTING`.

    They are those of a run that has this expert, plays by its rules and reports games of this seed;
    of a student those of its own run.

    Args:
      beside: what others see, for whom the games are to start alike.
      records: what need not be played again; by default nothing.

    Raises:
      ValueError: its task is unknown, or openings are as long as games.
    """
    terms.check_opening(expert.task)
    alone, mesh = of_experts([expert], terms.seed), meshes.create()
    if beside:
        alone = tuple(lesson.showing(expert.view, *beside) for lesson in alone)
    random = rollouts.random_policy(choices(alone))
    player = Player.experts(
        [expert],
        mesh=mesh,
        epsilon=terms.epsilon,
        sample_logits=sample_logits,
        name=f"play {expert.game}",
    )
    protocol = terms.within(expert.task.max_steps).protocol(random)
    return measure(alone, player, protocol, terms.episodes, mesh, records or Records())[0]
