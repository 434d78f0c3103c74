"""Whole games of given starts, played and scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import meshes, preemption
from jaxdistill.play import rollouts
from jaxdistill.play.lessons import Lesson
from jaxdistill.play.protocols import Opening, Protocol, start_hash
from jaxdistill.play.scoring import Scores
from jaxdistill.tasks.task import Pool

_TOGETHER = 8  # most tasks that one call of the policy is asked for
_LONGEST_SEARCH = 20  # games of one slot that may end before they have found a start


class _Episode(NamedTuple):
    seat: int
    score: float
    length: int
    start: int
    cut: bool
    facts: dict[str, float]


class _Slots:
    """What the slots of one pool are at: an opening, or a game that counts."""

    def __init__(self, pool: Pool, seats: np.ndarray, opening: Opening | None):
        self._pool, self._seats, self._opening = pool, seats, opening
        self._opening_steps = opening.steps if opening else 0
        self.own = np.zeros(pool.num_envs, bool)  # which games the measured policy plays
        self._score, self._age = np.zeros(pool.num_envs), np.zeros(pool.num_envs, np.int64)
        self._start = np.zeros(pool.num_envs, np.int64)
        self._searched = np.zeros(pool.num_envs, np.int64)
        self._opened = np.zeros(pool.num_envs, bool)  # whose games were longer than the opening
        self.episodes: list[_Episode | None] = [None] * pool.num_envs
        self.rows = np.arange(pool.num_envs)  # those that step
        self._take_over()

    def _take_over(self) -> None:
        """Gives the measured policy the games that have come to a start."""
        step, opening = self._pool.last, self._opening
        for slot in self.rows[~self.own[self.rows] & ~step.over[self.rows]]:
            if self.episodes[slot]:
                self.own[slot] = True  # its counted episode is over; no new opening is needed
                continue
            if opening and step.ages[slot] < opening.steps:
                continue
            start = start_hash(step.observations[slot])
            if opening is None or opening.begins(int(self._seats[slot]), start):
                self.own[slot], self._start[slot] = True, start
                self._score[slot], self._age[slot] = step.scores[slot], step.ages[slot]

    def advance(self) -> int:
        """Takes note of the pool's last step; returns how many games that count ended with it."""
        step, finished = self._pool.last, 0
        facts = self._pool.facts if step.over.any() else {}
        for slot in self.rows[step.over[self.rows]]:
            if not self.own[slot]:
                self._searched[slot] += 1
                self._opened[slot] |= step.ages[slot] > self._opening_steps
                if self._searched[slot] == _LONGEST_SEARCH:
                    self._give_up(slot)
            elif not self.episodes[slot]:
                self.episodes[slot] = _Episode(
                    seat=int(self._seats[slot]),
                    score=float(step.scores[slot] - self._score[slot]),
                    length=int(step.ages[slot] - self._age[slot]),
                    start=int(self._start[slot]),
                    cut=bool(step.truncated[slot]),
                    facts={name: float(facts[name][slot]) for name in self._pool.task.facts},
                )
                finished += 1
            self.own[slot] = False
        if finished and self._pool.partial:
            self.rows = self._unfinished
        self._take_over()
        return finished

    def _give_up(self, slot: int) -> None:
        """Says why no game of a slot has come to a start."""
        why = "ended in their opening"
        if self._opened[slot]:
            why = "have so few states that they came to none of their own to start from, beyond it"
        raise ValueError(
            f"{self._pool.task.name}: with an opening of {self._opening_steps} steps, "
            f"{_LONGEST_SEARCH} games {why}; give fewer steps, or 0 (the suite's opening_steps, or "
            f"evaluate.opening_steps of a run)"
        )

    @property
    def some(self) -> np.ndarray | None:
        """`rows`, or None if that is all of them."""
        return self.rows if len(self.rows) < self._pool.num_envs else None

    @property
    def seats(self) -> np.ndarray:
        """`(K,)` of the games in `rows`."""
        return self._seats[self.rows]

    @property
    def played(self) -> np.ndarray:
        """`(K,)` bool, which of them the measured policy plays."""
        return self.own[self.rows]

    @property
    def ages(self) -> np.ndarray:
        """`(K,)` steps since each of them began."""
        return self._pool.last.ages[self.rows]

    @property
    def over(self) -> np.ndarray:
        """`(K,)` bool, which of them have ended, so that the next step begins others."""
        return self._pool.last.over[self.rows]

    @property
    def playing(self) -> bool:
        """Whether a game that counts is still to come."""
        return bool(len(self._unfinished))

    @property
    def _unfinished(self) -> np.ndarray:
        return np.flatnonzero([episode is None for episode in self.episodes])


def _with_openings(
    policy: rollouts.AnyPolicy, opening: Opening, slots: Sequence[_Slots], of_slots: Sequence[int]
) -> rollouts.Policy:
    """`policy` where it has taken over the game, others where a slot is still in its opening.

    One that is recurrent has seen what was played there.
    """

    def act(observations, key, indices, seats):
        parts = [
            [x for x, its in zip(slots, of_slots, strict=True) if its == index] for index in indices
        ]
        own = [np.concatenate([x.played for x in mine]) for mine in parts]
        # A game that is over is answered by whoever is asked: the action is ignored.
        left = [np.concatenate([~x.over for x in mine]) for mine in parts]
        ages = [np.concatenate([x.ages for x in mine]) for mine in parts]
        if not any((a & ~b).any() for a, b in zip(left, own, strict=True)):
            return rollouts.ask(policy, observations, key, indices, seats, ages)
        candidates: list[tuple[list[np.ndarray], rollouts.AnyPolicy]] = [
            (own, policy),
            ([rows < opening.steps for rows in ages], opening.policy),
            ([np.ones_like(rows) for rows in own], opening.random),
        ]
        chosen: list[np.ndarray] = []
        for who, plays in candidates:
            turn = [a & b for a, b in zip(who, left, strict=True)]
            watches = plays is policy and isinstance(plays, rollouts.Recurrent)
            if not watches and not any(rows.any() for rows in turn):
                continue
            answers = jax.device_get(
                rollouts.ask(plays, observations, key, indices, seats, ages)[0]
            )
            # By whoever is asked first: what is sent to a game that is over has to be valid too.
            chosen = chosen or [np.array(answer) for answer in answers]
            for actions, answer, rows in zip(chosen, answers, turn, strict=True):
                actions[: len(rows)][rows] = answer[: len(rows)][rows]
            left = [a & ~b for a, b in zip(left, turn, strict=True)]
        return tuple(chosen), None

    return act


def play_games(
    pools: Sequence[Pool],
    policy: rollouts.AnyPolicy,
    key: jax.Array,
    mesh: Mesh,
    *,
    indices: Sequence[int],
    seats: Sequence[np.ndarray],
    opening: Opening | None = None,
    advance: Callable[[int], object] | None = None,
) -> list[Scores]:
    """Plays exactly one whole game in every environment slot of every pool.

    A fixed number per slot counts long and short games alike; the first E games to finish would be
    the short ones. What has finished is not stepped any more, nor shown to the policy: where a pool
    steps some of its environments for less than all, the slot; elsewhere the pool.

    Args:
      pools: fresh pools; a game already begun would count as whole.
      indices: task index of each pool.
      seats: `(num_envs,)` seat numbers per pool. Random draws are by seat: an episode is the same
        whatever others are played beside it.
      opening: who plays the first steps; by default nobody else.
      advance: called with the number of episodes that ended, for a progress bar.

    Returns:
      One `Scores` per task, in the order of `indices`; episodes ordered by pool and slot.

    Raises:
      ValueError: a pool is in the middle of its games, or its games end in their openings.
    """
    for pool in pools:
        if pool.last.ages.any():
            raise ValueError(f"{pool.task.name}: evaluation needs a fresh pool")
    slots = [_Slots(pool, own, opening) for pool, own in zip(pools, seats, strict=True)]
    active = list(range(len(pools)))
    turn = 0
    while active:
        present = [indices[i] for i in active]
        play = rollouts.play(
            [pools[i] for i in active],
            _with_openings(policy, opening, [slots[i] for i in active], present)
            if opening
            else policy,
            key,
            mesh,
            indices=present,
            seats=[slots[i].seats for i in active],
            rows=[slots[i].some for i in active],
            start=turn,
            # A program is of the tasks it is asked for and of how many of each are left. Of many
            # tasks nearly every one that gets shorter would make another.
            parts=count if (count := len(set(present))) > _TOGETHER else None,
        )
        for _ in play:
            if jax.process_count() == 1:  # several would wait for the one that ends
                preemption.stop_if_asked()
            turn += 1
            finished = sum(slots[i].advance() for i in active)
            if not finished:
                continue
            if advance:
                advance(finished)
            active = [i for i in active if slots[i].playing]
            break
    played: dict[int, list[_Episode]] = {index: [] for index in indices}
    for index, mine in zip(indices, slots, strict=True):
        played[index].extend(episode for episode in mine.episodes if episode)
    return [_scores(episodes) for episodes in played.values()]


def _scores(episodes: Sequence[_Episode]) -> Scores:
    _, scores, lengths, starts, cut, facts = zip(*episodes, strict=True)
    return Scores(
        np.asarray(scores),
        np.asarray(lengths),
        np.asarray(starts),
        np.asarray(cut),
        {name: np.asarray([episode[name] for episode in facts]) for name in facts[0]},
    )


def split_pools(
    lessons: Sequence[Lesson],
    protocol: Protocol,
    seats: Sequence[range],
    *,
    share: tuple[int, int] = (0, 1),
) -> tuple[list[Pool], list[int], list[np.ndarray]]:
    """Fresh pools with one environment per game; the index and the seats of each pool.

    Args:
      seats: which games of each lesson.
      share: `(k, n)` makes only every n-th pool, from the k-th on.
    """
    plan = [
        (lesson, games[first : first + lesson.task.suite.pool_size])
        for lesson, games in zip(lessons, seats, strict=True)
        for first in range(0, len(games), lesson.task.suite.pool_size)
    ][share[0] :: share[1]]
    pools = [protocol.pool(lesson, games) for lesson, games in plan]
    return pools, [lesson.index for lesson, _ in plan], [np.asarray(games) for _, games in plan]


def measure(
    lessons: Sequence[Lesson],
    policy: rollouts.AnyPolicy,
    protocol: Protocol,
    episodes: int | Sequence[range],
    mesh: Mesh,
    *,
    advance: Callable[[int], object] | None = None,
) -> list[Scores]:
    """Plays by the protocol, shared among all processes; each gets all scores, one per lesson.

    Args:
      policy: of this process, for observations on its own devices.
      episodes: how many whole games of each lesson, or in which seats of each.
      mesh: of all processes.
    """
    processes = jax.process_count()
    wanted = [range(episodes)] * len(lessons) if isinstance(episodes, int) else [*episodes]
    pools, indices, seats = split_pools(
        lessons, protocol, wanted, share=(jax.process_index(), processes)
    )
    own = meshes.local(mesh)

    def all_advance(finished: int) -> None:
        if advance:
            advance(finished * processes)  # the others are about as far

    played = (
        play_games(
            pools,
            policy,
            protocol.key,
            own,
            indices=indices,
            seats=seats,
            opening=protocol.opening,
            advance=all_advance,
        )
        if pools
        else []
    )
    if processes == 1:
        return played
    # Every process fills the rows of its own seats, and leaves the others below any number.
    place = {lesson.index: i for i, lesson in enumerate(lessons)}
    names = lessons[0].task.suite.facts
    table = np.full((1, len(lessons), max(map(len, wanted)), 4 + len(names)), -np.inf)
    order: dict[int, list[int]] = {index: [] for index in indices}
    for index, own_seats in zip(indices, seats, strict=True):
        order[index].extend(own_seats.tolist())
    for (index, mine), scores in zip(order.items(), played, strict=True):
        none, row = np.zeros(len(mine)), place[index]
        told = [scores.facts.get(name, none) for name in names]
        columns = [scores.scores, scores.lengths, scores.starts, scores.cut, *told]
        table[0, row, np.asarray(mine) - wanted[row].start] = np.stack(columns, 1)
    # As bytes: JAX would make float32 of it.
    tables = meshes.gather(table.view(np.uint8), axis=0).view(np.float64)
    whole = tables.max(axis=0)
    return [
        Scores(
            scores,
            lengths.astype(np.int64),
            starts.astype(np.int64),
            cut.astype(bool),
            {name: facts[names.index(name)] for name in lesson.task.facts},
        )
        for lesson, games, rows in zip(lessons, wanted, whole, strict=True)
        for scores, lengths, starts, cut, *facts in (rows[: len(games)].T,)
    ]
