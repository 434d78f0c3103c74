"""How a training plays: who acts, and the pools whose games go on from one iteration to the next.

What was seen and done in an iteration is a rollout, arrays that are learnt from. The actions are
kept, since a resumed training plays them again to come to the same states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import clocks, meshes, networks, preemption, terminal
from jaxdistill.learn import train_settings
from jaxdistill.learn.train_settings import Settings
from jaxdistill.play import lessons, rollouts
from jaxdistill.play.lessons import Lesson
from jaxdistill.tasks.task import Pool


class Actor(Protocol):
    """Who plays while it learns."""

    def begin(self, iteration: int, episodes: int) -> dict[str, float]:
        """Is told where the training stands, before an iteration; returns what to log."""
        ...

    @property
    def carry(self) -> networks.Carry:
        """What a recurrent network carries into the next step, `(G, N, ...)`; else nothing."""
        ...

    def act(
        self, observations: Any, begun: np.ndarray, turn: int
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Actions `(G, N, ...)` of what is seen, one array per game; and what to remember of them.

        Of that `values` `(G, N)` is what this is worth. `begun` `(G, N)` says where a game begins.
        """
        ...

    def judge(self, observations: Any, begun: np.ndarray) -> jax.Array:
        """`values` alone."""
        ...

    @property
    def host(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds of it."""
        ...

    def restore(self, host: Mapping[str, np.ndarray]) -> None:
        """Goes on as `host` was."""
        ...


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

    def begin(self) -> None:
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
        self.begin()
        return self._pools

    @property
    def log(self) -> np.ndarray:
        """Actions `(G, T, N, ...)` of the T steps that these pools have played."""
        form = self._chosen[0].task.suite.form
        shape = (-1, len(self._chosen), self._settings.num_envs, *form.action_shape)
        return np.asarray(self._log, form.action_dtype).reshape(shape).swapaxes(0, 1)

    def rollout(
        self, actor: Actor, iteration: int, mesh: Mesh, timer: clocks.Timer
    ) -> tuple[dict[str, Any], list[list[float]]]:
        """Plays one iteration: the arrays that are learnt from, and scores of games that ended.

        The arrays are `(G, T, N, ...)`: what `pqn.make_learn` takes, and whatever else the actor
        remembers. Of a recurrent network `carry` is what it carried into the first step.
        """
        settings = self._settings
        first = iteration * settings.rollout_steps
        turn = first
        remembered: list[dict[str, jax.Array]] = []
        carry = actor.carry
        dtype = self.pools[0].task.suite.form.action_dtype

        def begun() -> np.ndarray:
            return np.stack([step.ages == 0 for step in before])

        def policy(
            observations: Any, _key: Any, _games: Any, _seats: Any
        ) -> tuple[tuple[np.ndarray, ...], None]:
            with timer.phase("inference"):
                actions, more = actor.act(observations, begun(), turn)
                remembered.append(more)
                chosen = np.asarray(actions)
            return tuple(chosen), None

        depth = self.pools[0].view.stack
        finished: list[list[float]] = [[] for _ in self.pools]
        before = [pool.last for pool in self.pools]
        frames = [[step.observations[:, k] for step in before] for k in range(depth - 1)]
        ages = [[step.ages for step in before] for _ in range(depth - 1)]
        columns: dict[str, list[list[np.ndarray]]] = {
            name: [] for name in ("actions", "rewards", "ended", "truncated", "valid")
        }
        play = rollouts.play(self.pools, policy, jax.random.key(0), mesh, parts=1)
        for played in play:
            frames.append([step.observations[:, -1] for step in before])
            ages.append([step.ages for step in before])
            ended, rewards = [], []
            for old, new in zip(before, played.steps, strict=True):
                lost = new.valid & (new.lives < old.lives)
                ended.append((new.over & ~new.truncated) | lost)
                rewards.append(train_settings.learnt_rewards(settings, new.rewards))
            columns["actions"].append(list(played.actions))
            self._log.append(np.asarray(played.actions, dtype))
            columns["rewards"].append(rewards)
            columns["ended"].append(ended)
            columns["truncated"].append([step.truncated for step in played.steps])
            columns["valid"].append([step.valid for step in played.steps])
            for scores, step in zip(finished, played.steps, strict=True):
                scores.extend(step.scores[step.over].tolist())
            before = list(played.steps)
            turn += 1
            if turn == first + settings.rollout_steps:
                break
        with timer.phase("inference"):
            last = tuple(meshes.put_rows(mesh, step.observations) for step in before)
            final = actor.judge(last, begun())
        arrays: dict[str, Any] = {
            name: np.stack(rows).swapaxes(0, 1) for name, rows in columns.items()
        }
        arrays["frames"] = np.stack(frames).swapaxes(0, 1)
        arrays["ages"] = np.minimum(np.stack(ages).swapaxes(0, 1), depth).astype(np.uint8)
        for name in remembered[0]:
            rows = [np.asarray(row[name]) for row in remembered]
            arrays[name] = np.stack(rows).swapaxes(0, 1)
        following = [*arrays["values"].swapaxes(0, 1)[1:], np.asarray(final)]
        arrays["next_values"] = np.stack(following).swapaxes(0, 1)
        if carry:
            arrays["carry"] = carry
        return arrays, finished
