"""Collecting states to learn from: experts or the student drive, the experts label what is seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdistill import dataset, envs, metrics, networks, rollouts
from jaxdistill import mesh as meshes
from jaxdistill.experts.expert import Expert, expert_outputs
from jaxdistill.games import Game
from jaxdistill.views import View


@dataclasses.dataclass(frozen=True)
class Seating:
    """Who plays what, and where.

    Attributes:
      games, experts, views, seeds: one of each per game; environment i of a game draws its no-ops
        from its seed + i.
      network: the student's.
      masks: `(G, A)` bool, valid actions.
      num_envs: environments per game, in all processes together.
      expert_epsilon, student_epsilon: chance of a uniformly random valid action.
      change_drivers: every call draws anew which environments the experts drive.
      key: of every random choice.
      mesh: of all processes.
    """

    games: Sequence[Game]
    experts: Sequence[Expert]
    views: Sequence[View]
    seeds: Sequence[int]
    network: networks.Network
    masks: jax.Array
    num_envs: int
    expert_epsilon: float
    student_epsilon: float
    change_drivers: bool
    key: jax.Array
    mesh: Mesh


class Collector:
    """The pools that states are collected in, and the policy that plays them.

    Each process plays an equal share of the environments and is given what the others have seen.
    What an environment plays depends on its number, not on the process it lives in.
    """

    def __init__(self, seating: Seating, history: np.ndarray | None = None):
        """Seats the experts in fresh pools; `history` `(G, T, num_envs)` is played first.

        Raises:
          ValueError: the environments cannot be shared evenly.
        """
        self._seating = seating
        self.steps = 0
        processes, count = jax.process_count(), seating.num_envs
        if count % processes:
            raise ValueError(f"collect.num_envs {count} is not divisible by {processes} processes")
        own = count // processes
        self._first = jax.process_index() * own
        self._mesh = meshes.local(seating.mesh)
        self.pools = [
            envs.Pool(game, own, seed=seed + self._first, view=view)
            for game, seed, view in zip(seating.games, seating.seeds, seating.views, strict=True)
        ]
        self._act = jax.jit(self._choose, static_argnames=("games", "student_drives"))
        self._params = [expert.params for expert in seating.experts]
        if history is not None and history.shape[1]:
            self._replay(history[:, :, self._first : self._first + own])

    def _replay(self, history: np.ndarray) -> None:
        with metrics.progress("replay", history.size, "steps") as advance:
            for actions in history.swapaxes(0, 1):
                for pool, row in zip(self.pools, actions, strict=True):
                    pool.send(row)
                for pool in self.pools:
                    pool.receive()
                advance(actions.size)
        self.steps = history.shape[1]

    def replace_experts(self, experts: Sequence[Expert]) -> None:
        """From now on these play and label: the same networks with other parameters."""
        self._params = [expert.params for expert in experts]

    def _choose(
        self, experts, student, observations, key, by_expert, seats, *, games, student_drives: bool
    ):
        seating = self._seating
        labels = expert_outputs(seating.experts, experts, observations, games)
        outputs: Sequence[jax.Array | None] = [None] * len(games)
        if student_drives:
            rows = np.repeat(np.asarray(games), labels[0].shape[0])
            merged = networks.forward(seating.network, student, jnp.concatenate(observations), rows)
            outputs = jnp.split(merged, len(games))
        actions = []
        for game, label, output, seat in zip(games, labels, outputs, seats, strict=True):
            expert_key, student_key = jax.random.split(jax.random.fold_in(key, game))
            mask = seating.masks[game]
            chosen = rollouts.choose(
                label,
                mask,
                expert_key,
                epsilon=seating.expert_epsilon,
                sample=seating.experts[game].outputs == "logits",
                seats=seat,
            )
            if output is not None:
                own = rollouts.choose(
                    output, mask, student_key, epsilon=seating.student_epsilon, seats=seat
                )
                chosen = jnp.where(by_expert, chosen, own)
            actions.append(chosen)
        return tuple(actions), tuple(labels)

    def collect(
        self,
        length: int,
        student: Any = None,
        expert_share: float = 1.0,
        advance: Callable[[int], object] | None = None,
    ) -> dataset.Chunk:
        """Plays `length` steps in every environment; the experts drive `expert_share` of them.

        Args:
          student: parameters on this process's devices; not needed where the experts drive all.
          advance: called with the number of steps played, for a progress bar.

        Returns:
          The steps of all environments of all processes.
        """
        num_envs, own = self._seating.num_envs, self.pools[0].num_envs
        expert_slots = round(expert_share * num_envs)
        order = np.arange(num_envs)
        if self._seating.change_drivers:
            order = np.random.default_rng((self._seating.seeds[0], self.steps)).permutation(order)
        by_expert = jnp.asarray(order[self._first : self._first + own] < expert_slots)

        def policy(observations, key, games, seats):
            return self._act(
                self._params,
                student,
                observations,
                key,
                by_expert,
                seats,
                games=games,
                student_drives=expert_slots < num_envs,
            )

        frames, labels, actions, ages, usable = [], [], [], [], []
        before = [pool.last for pool in self.pools]
        play = rollouts.play(
            self.pools,
            policy,
            self._seating.key,
            self._mesh,
            seats=[np.arange(self._first, self._first + own)] * len(self.pools),
            start=self.steps,
        )
        for _ in range(length):
            turn = next(play)
            frames.append([step.observations[:, -1] for step in before])
            ages.append([np.minimum(step.ages, 255).astype(np.uint8) for step in before])
            usable.append([~step.over for step in before])
            actions.append([a.astype(np.uint8) for a in turn.actions])
            labels.append(turn.extra)
            before = list(turn.steps)
            if advance:
                advance(num_envs * len(self.pools))
        self.steps += length
        rows = (frames, jax.device_get(labels), actions, ages, usable)
        chunk = dataset.Chunk(*(np.stack(x).swapaxes(0, 1) for x in rows))
        return dataset.Chunk(*meshes.gather(tuple(chunk), axis=2))
