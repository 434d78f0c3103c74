"""How play is measured: on which terms, from which starts, in which games.

`Terms` are what flags and settings say of it, and a `Protocol` is all that decides the games: the
same protocol is the same games, whoever plays them. Where a game begins to count is an `Opening`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jaxdistill.play import rollouts
from jaxdistill.play.lessons import REPORT, Lesson
from jaxdistill.tasks.task import Pool, Suite, Task, seed_for, unusual_limit

CHOOSING, REPORTING = 0, 1
"""The two sides that starts belong to: see `Opening`."""

REPORT_SEED = 0
"""Of the games that runs report: all the same ones, so that experts are measured once."""

_LANES = 4


@dataclasses.dataclass(frozen=True)
class Opening:
    """Steps that others play before the policy that is measured takes over the game: its *start*.

    Emulators know few starts of their own (of 100 games of Breakout 4 differ), so `policy` plays
    the first `steps`, and then random actions are played until the game is in a state that is this
    seat's to start from. A hash of what is seen assigns every state to a side, `CHOOSING` or
    `REPORTING`, and there to every fourth seat: no state that a student is chosen by can be one
    that is reported, whatever the seeds, and neighbouring seats start apart.

    What is scored in an opening counts for nobody. If a game ends during its opening, the slot's
    next game has a new opening. With 0 steps every game starts where the emulator starts it, as
    published scores have it, and nothing keeps the sides apart.

    Attributes:
      policy: plays the first steps; if it is recurrent, another value than is measured with it,
        since each carries its own.
      steps: how many, at least.
      random: uniformly random play, see `rollouts.random_policy`.
      side: `CHOOSING` or `REPORTING`.
      marks: what `policy` is known by in each lesson of a run, see `players.Player`; none for
        `random`.
    """

    policy: rollouts.AnyPolicy
    steps: int
    random: rollouts.Policy
    side: int
    marks: tuple[str, ...] = ()

    def begins(self, seat: int, start: int) -> bool:
        """Whether a state with this hash is one for the seat to start from."""
        return self.steps == 0 or start % (2 * _LANES) == self.side * _LANES + seat % _LANES


def start_hash(observation: np.ndarray) -> int:
    """48 bits of a hash of what is seen; alike in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(observation.tobytes(), digest_size=6).digest(), "little")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How play is measured, whoever plays: always the same games for the same protocol.

    Every game has a seat, its number among all games of its task. Nothing else decides how it
    begins and what is drawn in it: neither the run it is played in, nor what is played beside it.

    Attributes:
      purpose: see `lessons`.
      seed: of games and draws.
      opening: who plays the first steps of a game, and where the measured policy may take over.
      max_steps: step limit of one game; None is each task's own.
    """

    purpose: int
    seed: int
    opening: Opening
    max_steps: int | None = None

    @property
    def key(self) -> jax.Array:
        """Of the draws of policies and openings."""
        return jax.random.fold_in(jax.random.key(self.seed), self.purpose)

    def pool(self, lesson: Lesson, seats: range) -> Pool:
        """Fresh games of a lesson, in consecutive seats."""
        task = lesson.task
        return task.pool(
            len(seats),
            seed=seed_for(self.seed, self.purpose, task.number) + seats.start,
            view=lesson.view,
            max_steps=self.max_steps,
            threads=1,  # there are more pools than cores
        )


@dataclasses.dataclass(frozen=True)
class Terms:
    """On what terms play is measured: what flags, or the settings of a run, say of it.

    Attributes:
      episodes: whole games of each task, 1 or more.
      epsilon: chance of a random valid action, 0 to 1.
      seed: of the starts and of chance, 0 or more: the same games for the same seed.
      opening_steps: steps of others' play, at least, before who is measured takes over; 0 or more,
        and fewer than a game may have, see `Opening`.
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
        opening = Opening(random, self.opening_steps, random, REPORTING)
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
