"""Collecting states to learn from: experts or the student drive, the experts label what is seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdistill import meshes, networks, preemption, terminal
from jaxdistill.experts.expert import Teacher, expert_outputs
from jaxdistill.play import lessons, rollouts
from jaxdistill.play.lessons import Lesson
from jaxdistill.play.memory import Memory
from jaxdistill.tasks.actions import Form
from jaxdistill.tasks.task import Pool
from jaxdistill.tasks.views import Screen, Shown


class Chunk(NamedTuple):
    """T consecutive steps of N environments of each of G games, on the host.

    Attributes:
      frames: `(G, T, N, *frame)`, newest frame of what was seen before each action.
      labels: `(G, T, N, A)` float32, the expert's outputs there, in the suite's action order.
      actions: `(G, T, N)` uint8, or `(G, T, N, A)` float32 of keys and angles, played.
      ages: `(G, T, N)` uint8, steps since the game began, at most 255.
      usable: `(G, T, N)` bool, False on a game's last observation, where no action is asked for.
    """

    frames: np.ndarray
    labels: np.ndarray
    actions: np.ndarray
    ages: np.ndarray
    usable: np.ndarray


@dataclasses.dataclass(frozen=True)
class CollectorConfig:
    """Who plays what, and where.

    Attributes:
      lessons: each with its expert.
      network: the student's.
      num_envs: environments per game, in all processes together.
      expert_epsilon, student_epsilon: chance of a uniformly random valid action.
      change_drivers: every call draws anew which environments the experts drive.
      key: of every random choice.
      mesh: of all processes.
      renewed_every: steps of each environment after which pools begin anew whose games cannot be
        skipped, so that no more has to be played again; 0 is never. Games in progress are cut.
    """

    lessons: Sequence[Lesson]
    network: networks.Network
    num_envs: int
    expert_epsilon: float
    student_epsilon: float
    change_drivers: bool
    key: jax.Array
    mesh: Mesh
    renewed_every: int = 0

    @property
    def experts(self) -> list[Teacher]:
        """Theirs."""
        return [lesson.teacher for lesson in self.lessons]

    @property
    def form(self) -> Form:
        """What outputs mean."""
        return self.lessons[0].task.suite.form


class Past(NamedTuple):
    """What has been played, as far as it takes to bring fresh pools to where it ended.

    Attributes:
      actions: `(G, T, N)` or `(G, T, N, A)`, all actions.
      over: `(G, T, N)` bool, which of the observations before each action were a game's last.
      frames: `(G, R, N, *frame)`, the newest frames of the last R observations before an action.
      states: `(G, N)` uint32, see `Pool.states`, after the last action; None if unknown.
    """

    actions: np.ndarray
    over: np.ndarray
    frames: np.ndarray
    states: np.ndarray | None


class _Players(NamedTuple):
    """Who plays: what compiled code is given of experts and student.

    Attributes:
      experts: the parameters of each game's.
      log_std: the deviations of each one's angles, see `Teacher.suite_log_std`.
      student: its parameters; None where it does not play.
      by_expert: `(N,)` bool, the environments of each game that its expert drives.
    """

    experts: Sequence[Any]
    log_std: Sequence[jax.Array | None]
    student: Any
    by_expert: jax.Array


class Collector:
    """The pools that states are collected in, and the policy that plays them.

    Each process plays an equal share of the environments and is given what the others have seen.
    What an environment plays depends on its number, not on the process it lives in.
    """

    def __init__(self, config: CollectorConfig, past: Past | None = None):
        """Seats the experts in fresh pools, brought to where those were that `past` is of.

        Raises:
          ValueError: the environments cannot be shared evenly.
        """
        self._config = config
        self.steps = 0
        processes, count = jax.process_count(), config.num_envs
        if count % processes:
            raise ValueError(f"collect.num_envs {count} is not divisible by {processes} processes")
        self._first = jax.process_index() * (count // processes)
        self._mesh = meshes.local(config.mesh)
        self.pools = [self._pool(index) for index in range(len(config.lessons))]
        self._renewed = [
            index
            for index, pool in enumerate(self.pools)
            if config.renewed_every and not pool.skips
        ]
        self._masks = lessons.masks(config.lessons)
        self._act = jax.jit(self._choose, static_argnames=("indices", "student_drives"))
        self._see = jax.jit(self._stored, static_argnums=0)
        self.replace_experts(config.experts)
        self._memory = Memory(config.experts)
        self._seats = np.arange(self._first, self._first + self.pools[0].num_envs)
        if past is not None and past.actions.shape[1]:
            self._resume(past)

    def _pool(self, index: int, renewals: int = 0) -> Pool:
        own = self._config.num_envs // jax.process_count()
        words = (lessons.COLLECT, renewals) if renewals else (lessons.COLLECT,)
        # All pools step at once: with many tasks, as many threads each as there are cores are
        # thousands.
        cores = meshes.cores()
        enough = max(2, 2 * cores // len(self._config.lessons))
        threads = enough if enough < min(cores, own) else None
        lesson = self._config.lessons[index]
        return lesson.pool(own, *words, first=self._first, threads=threads)

    def _renew(self, chunk: Chunk) -> None:
        """Begins anew the pools that are due, after a chunk whose last games are cut thereby."""
        every = self._config.renewed_every
        if self._renewed and self.steps % every == 0:
            chunk.usable[self._renewed, -1] = False
            for index in self._renewed:
                self.pools[index] = self._pool(index, self.steps // every)

    def _resume(self, past: Past) -> None:
        """Brings the pools to the end of `past`, by playing again the games in progress there.

        The games before them are skipped. Whether that was right is checked by frames and by
        checksums of the environments' states; if it was not, or they are not known, all is played
        again, from where the pool was begun anew if it was.

        Raises:
          ValueError: not even that leads to what was seen.
        """
        own = slice(self._first, self._first + self.pools[0].num_envs)
        length, every = past.actions.shape[1], self._config.renewed_every
        for index in range(len(self.pools)):
            renewals = length // every if index in self._renewed else 0
            begun = renewals * every
            wanted = None if past.states is None else past.states[index, own]
            played = (x[index, begun:, own] for x in (past.actions, past.over))
            arguments = (index, *played, past.frames[index][:, own], wanted)
            skips = wanted is not None and self.pools[index].skips
            if not (skips and self._replayed(*arguments, skip=True)):
                self.pools[index] = self._pool(index, renewals)
                if not self._replayed(*arguments, skip=False):
                    raise ValueError(
                        f"{self._config.lessons[index].name}: what the dataset holds cannot be "
                        f"played again here; resume with the EnvPool, or for landers the gymnasium "
                        f"and Box2D, it was collected with, or begin anew; a task of your own must "
                        f"draw all chance from its seed, which jaxdistill.tasks.check tries"
                    )
        self.steps = length

    def _replayed(
        self,
        index: int,
        actions: np.ndarray,
        over: np.ndarray,
        shown: np.ndarray,
        states: np.ndarray | None,
        *,
        skip: bool,
    ) -> bool:
        """Plays `actions` `(T, N, ...)` in a fresh pool; returns whether all is as it was.

        Args:
          over: `(T, N)`, which of the observations before each action were a game's last.
          shown: `(R, N, *frame)`, the newest frames of the last R of them.
          states: `(N,)`, of the environments after the last action; None if unknown.
          skip: leave out the games that are over.
        """
        pool, length = self.pools[index], len(actions)
        begun = np.zeros(pool.num_envs, int)
        if skip:
            pool.skip(over.sum(axis=0))
            # The action after a game's last observation begins the next, whatever it is.
            begun = np.where(over.any(axis=0), length - np.argmax(over[::-1], axis=0), 0)
        name = f"replay {pool.task.name}"
        with terminal.progress(name, int((length - begun).sum()), "steps") as advance:
            for time in range(begun.min(), length):
                if jax.process_count() == 1:  # several would wait for the one that ends
                    preemption.stop_if_asked()
                rows = np.flatnonzero(begun <= time)
                ago = length - time
                if ago <= len(shown) and (self._newest(index)[rows] != shown[-ago][rows]).any():
                    return False
                if self._config.experts[index].recurrent:
                    self._remembered((index,), (rollouts.look([pool], self._mesh),))
                pool.step(actions[time][rows], None if len(rows) == pool.num_envs else rows)
                advance(len(rows))
        return states is None or np.array_equal(pool.states, states)

    def _stored(self, index: int, shown: Shown) -> jax.Array:
        """The newest frames `(N, *frame)` of what the student sees of a screen; for jit."""
        return self._config.lessons[index].seen.see(shown)[:, -1]

    def _newest(self, index: int) -> np.ndarray:
        """What is stored of what a pool shows now, `(N, *frame)`."""
        pool = self.pools[index]
        if isinstance(pool.view, Screen):
            return np.asarray(self._see(index, rollouts.look([pool], self._mesh)))
        return pool.last.observations[:, -1]

    def _remembered(
        self, indices: Sequence[int], observations: Sequence[Any]
    ) -> tuple[jax.Array | None, ...]:
        """What recurrent experts say of what the pools show now, and carry on; see `Memory`."""
        ages = [self.pools[index].last.ages for index in indices]
        seats = [self._seats] * len(indices)
        return self._memory.outputs(self._params, observations, indices, seats, ages)

    def replace_experts(self, experts: Sequence[Teacher]) -> None:
        """From now on these play and label: the same networks, otherwise taught."""
        known = [expert.params for expert in experts], [expert.suite_log_std for expert in experts]
        # Sent once, not at every step.
        self._params, self._log_std = jax.device_put(known, meshes.replicated(self._mesh))

    def _choose(
        self,
        players: _Players,
        observations: Sequence[Any],
        key: jax.Array,
        seats: Sequence[jax.Array],
        said: Sequence[jax.Array | None],
        *,
        indices: Sequence[int],
        student_drives: bool,
    ) -> tuple[tuple[jax.Array, ...], tuple[tuple[jax.Array, jax.Array | None], ...]]:
        """What is played in each of some games, and what is kept of what was seen; for jit.

        Args:
          observations: what their pools show.
          seats: `(N,)` of each, see `Discrete.choose`.
          said: what recurrent experts have said of it.
          indices: of their tasks.

        Returns:
          Actions; and the labels, with the frames of those that are seen of a screen.
        """
        labels = expert_outputs(self._config.experts, players.experts, observations, indices, said)
        outputs: Sequence[jax.Array | None] = [None] * len(indices)
        if student_drives:
            outputs = self._student_outputs(players.student, observations, indices)
        actions = [
            self._action(players, index, label, output, key, seat)
            for index, label, output, seat in zip(indices, labels, outputs, seats, strict=True)
        ]
        frames = [
            self._stored(index, x) if isinstance(x, Shown) else None
            for index, x in zip(indices, observations, strict=True)
        ]
        return tuple(actions), tuple(zip(labels, frames, strict=True))

    def _student_outputs(
        self, student: Any, observations: Sequence[Any], indices: Sequence[int]
    ) -> list[jax.Array]:
        """The student's outputs `(N, A)` in each game, all of them in one batch."""
        taught = self._config.lessons
        seen = [taught[i].seen.see(x) for i, x in zip(indices, observations, strict=True)]
        rows = np.repeat(np.asarray(indices), len(seen[0]))
        merged = networks.forward(self._config.network, student, jnp.concatenate(seen), rows)
        return jnp.split(merged, len(indices))

    def _action(
        self,
        players: _Players,
        index: int,
        label: jax.Array,
        output: jax.Array | None,
        key: jax.Array,
        seats: jax.Array,
    ) -> jax.Array:
        """What is played in one game, `(N, ...)`, by who drives each of its environments.

        Args:
          label: the expert's outputs.
          output: the student's; None where the expert drives all.
        """
        config, mask = self._config, self._masks[index]
        expert_key, student_key = jax.random.split(jax.random.fold_in(key, index))
        chosen = config.form.choose(
            label,
            mask,
            expert_key,
            epsilon=config.expert_epsilon,
            sample=config.experts[index].outputs == "logits",
            log_std=players.log_std[index],
            seats=seats,
        )
        if output is None:
            return chosen
        own = config.form.choose(
            output, mask, student_key, epsilon=config.student_epsilon, seats=seats
        )
        rows = players.by_expert.reshape(-1, *[1] * (own.ndim - 1))
        return jnp.where(rows, chosen, own)

    def states(self) -> np.ndarray:
        """`(G, num_envs)` uint32: checksums of the environments of all processes, as they are."""
        return meshes.gather(np.stack([pool.states for pool in self.pools]), axis=1)

    def collect(
        self,
        length: int,
        student: Any = None,
        expert_share: float = 1.0,
        advance: Callable[[int], object] | None = None,
    ) -> Chunk:
        """Plays `length` steps in every environment; the experts drive `expert_share` of them.

        Pools begin anew where that is due; see `CollectorConfig`.

        Args:
          student: parameters on this process's devices; not needed where the experts drive all.
          advance: called with the number of steps played, for a progress bar.

        Returns:
          The steps of all environments of all processes.
        """
        num_envs, own = self._config.num_envs, self.pools[0].num_envs
        expert_slots = round(expert_share * num_envs)
        order = np.arange(num_envs)
        if self._config.change_drivers:
            seed = self._config.lessons[0].pool_seed(lessons.COLLECT)
            order = np.random.default_rng((seed, self.steps)).permutation(order)
        by_expert = jnp.asarray(order[self._first : self._first + own] < expert_slots)
        players = _Players(self._params, self._log_std, student, by_expert)

        def policy(observations, key, indices, seats):
            return self._act(
                players,
                observations,
                key,
                seats,
                self._remembered(indices, observations),
                indices=indices,
                student_drives=expert_slots < num_envs,
            )

        pieces, left = list[Chunk](), length
        while left:
            every = self._config.renewed_every
            steps = min(left, every - self.steps % every) if self._renewed else left
            pieces.append(self._play(policy, steps, advance))
            self._renew(pieces[-1])
            left -= steps
        chunk = pieces[0]
        if len(pieces) > 1:
            chunk = Chunk(*(np.concatenate(x, axis=1) for x in zip(*pieces, strict=True)))
        return Chunk(*meshes.gather(tuple(chunk), axis=2))

    def _play(
        self, policy: rollouts.Policy, length: int, advance: Callable[[int], object] | None
    ) -> Chunk:
        """Plays `length` steps in this process's environments."""
        frames, labels, actions, ages, usable = [], [], [], [], []
        before = [pool.last for pool in self.pools]
        play = rollouts.play(
            self.pools,
            policy,
            self._config.key,
            self._mesh,
            seats=[self._seats] * len(self.pools),
            start=self.steps,
        )
        for _ in range(length):
            turn = next(play)
            answered, stored = zip(*turn.extra, strict=True)
            frames.append(
                [
                    # A copy: a view would keep the whole stack until the last step.
                    step.observations[:, -1].copy() if frame is None else frame
                    for step, frame in zip(before, stored, strict=True)
                ]
            )
            ages.append([np.minimum(step.ages, 255).astype(np.uint8) for step in before])
            usable.append([~step.over for step in before])
            actions.append([a.astype(self._config.form.action_dtype) for a in turn.actions])
            labels.append(answered)
            before = list(turn.steps)
            if advance:
                advance(self._config.num_envs * len(self.pools))
        self.steps += length
        rows = (jax.device_get(frames), jax.device_get(labels), actions, ages, usable)
        return Chunk(*(np.stack(x, axis=1) for x in rows))
