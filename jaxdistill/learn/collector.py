"""How a training plays: in pools whose games go on from one iteration to the next.

What was seen and done in an iteration is a rollout, arrays that are learnt from. The actions are
kept, since a resumed training plays them again to come to the same states.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import clocks, meshes, preemption, terminal
from jaxdistill.learn import train_settings
from jaxdistill.learn.algorithm import Actor, Observed
from jaxdistill.learn.rollout import Acted, Rollout
from jaxdistill.learn.train_settings import Settings
from jaxdistill.play import lessons, rollouts
from jaxdistill.play.lessons import Lesson
from jaxdistill.tasks.task import Pool, Step

Steps = Sequence[Step]
"""One step of each pool."""


class RolloutCollector:
    """The training pools and everything that must survive a kill with them."""

    def __init__(
        self,
        settings: Settings,
        chosen: Sequence[Lesson],
        iteration: int,
        log: np.ndarray | None,
    ):
        """Of fresh pools with seeds of their own; `log` `(G, T, N)` is played again in each."""
        self._settings, self._chosen = settings, chosen
        self.began = iteration
        self._log = [] if log is None else list(log.swapaxes(0, 1))
        self._pools: list[Pool] = []

    def open(self) -> None:
        """Opens the pools and plays the log in them, unless that was done.

        Raises:
          Preempted: a signal has come; nothing is lost by it.
        """
        if self._pools:
            return
        settings = self._settings
        pools = [
            lesson.pool(
                settings.num_envs, lessons.COLLECT, self.began, max_steps=settings.max_steps
            )
            for lesson in self._chosen
        ]
        if self._log:
            name = f"replay {', '.join(lesson.name for lesson in self._chosen)}"
            with terminal.progress(name, len(self._log) * settings.num_envs, "steps") as advance:
                for actions in self._log:
                    preemption.stop_if_asked()
                    for pool, row in zip(pools, actions, strict=True):
                        pool.send(row)
                    for pool in pools:
                        pool.receive()
                    advance(settings.num_envs)
        self._pools = pools

    @property
    def pools(self) -> list[Pool]:
        """One of each task, begun."""
        self.open()
        return self._pools

    @property
    def log(self) -> np.ndarray:
        """Actions `(G, T, N, ...)` of the T steps that these pools have played."""
        form = self._chosen[0].task.suite.form
        shape = (-1, len(self._chosen), self._settings.num_envs, *form.action_shape)
        return np.asarray(self._log, form.action_dtype).reshape(shape).swapaxes(0, 1)

    def rollout(
        self, actor: Actor, iteration: int, mesh: Mesh, timer: clocks.Timer
    ) -> tuple[Rollout, list[list[float]]]:
        """Plays one iteration: what is learnt from, and each task's scores of games that ended."""
        carry = actor.carry
        steps, actions, acted, last_values = self._play(actor, iteration, mesh, timer)
        values = [np.asarray(each.values) for each in acted]
        after = steps[1:]
        frames, ages = _seen(steps[:-1], self.pools[0].view.stack)
        rollout = Rollout(
            frames=frames,
            ages=ages,
            actions=_over_time(actions),
            rewards=_over_time([self._rewards(each) for each in after]),
            ended=_over_time([_ended(*each) for each in itertools.pairwise(steps)]),
            truncated=_over_time([[step.truncated for step in each] for each in after]),
            valid=_over_time([[step.valid for step in each] for each in after]),
            values=_over_time(values),
            next_values=_over_time([*values[1:], np.asarray(last_values)]),
            log_probabilities=_remembered([each.log_probabilities for each in acted]),
            labels=_remembered([each.labels for each in acted]),
            carry=carry,
        )
        return rollout, [_scores(of_one) for of_one in zip(*after, strict=True)]

    def _play(
        self, actor: Actor, iteration: int, mesh: Mesh, timer: clocks.Timer
    ) -> tuple[list[Steps], list[tuple[np.ndarray, ...]], list[Acted], jax.Array]:
        """Plays T steps of every pool.

        Returns:
          What pools showed at first and after each step, T + 1 times; each step's actions, one
          array per task; what the actor says of each step; and `(G, N)`, what it says that the last
          states are worth.
        """
        first = iteration * self._settings.rollout_steps
        steps: list[Steps] = [[pool.last for pool in self.pools]]
        actions: list[tuple[np.ndarray, ...]] = []
        acted: list[Acted] = []
        dtype = self.pools[0].task.suite.form.action_dtype

        def observed(observations: tuple[Any, ...]) -> Observed:
            begun = np.stack([step.ages == 0 for step in steps[-1]])
            return Observed(observations, begun, first + len(acted))

        def policy(
            observations: Any, _key: Any, _games: Any, _seats: Any
        ) -> tuple[tuple[np.ndarray, ...], None]:
            with timer.phase("inference"):
                acted.append(actor.act(observed(observations)))
                return tuple(np.asarray(acted[-1].actions)), None

        play = rollouts.play(self.pools, policy, jax.random.key(0), mesh, parts=1)
        for played in itertools.islice(play, self._settings.rollout_steps):
            steps.append(played.steps)
            actions.append(played.actions)
            self._log.append(np.asarray(played.actions, dtype))
        with timer.phase("inference"):
            last = tuple(meshes.put_rows(mesh, step.observations) for step in steps[-1])
            return steps, actions, acted, actor.values(observed(last))

    def _rewards(self, steps: Steps) -> list[np.ndarray]:
        """`(N,)` of each pool, as they are learnt from."""
        return [train_settings.learnt_rewards(self._settings, step.rewards) for step in steps]


def _over_time(rows: Sequence[Any]) -> np.ndarray:
    """`(G, T, N, ...)` of T rows `(G, N, ...)`."""
    return np.stack(rows).swapaxes(0, 1)


def _remembered(rows: Sequence[Any]) -> np.ndarray | None:
    """The same of what is remembered of each step, or of none."""
    return None if rows[0] is None else _over_time([np.asarray(row) for row in rows])


def _seen(steps: Sequence[Steps], depth: int) -> tuple[np.ndarray, np.ndarray]:
    """`frames` and `ages` of a rollout, from what was seen before each of its steps."""
    older = [[step.observations[:, k] for step in steps[0]] for k in range(depth - 1)]
    newest = [[step.observations[:, -1] for step in each] for each in steps]
    first = [[step.ages for step in steps[0]]] * (depth - 1)
    ages = _over_time(first + [[step.ages for step in each] for each in steps])
    return _over_time(older + newest), np.minimum(ages, depth).astype(np.uint8)


def _ended(before: Steps, after: Steps) -> list[np.ndarray]:
    """`(N,)` of each pool: the episode has ended by itself, or a life was lost."""
    return [
        (new.over & ~new.truncated) | (new.valid & (new.lives < old.lives))
        for old, new in zip(before, after, strict=True)
    ]


def _scores(steps: Steps) -> list[float]:
    """Scores of the games that ended in the steps of one pool."""
    return [score for step in steps for score in step.scores[step.over].tolist()]
