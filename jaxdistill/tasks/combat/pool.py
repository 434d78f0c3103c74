"""Many episodes of one combat environment behind the interface of every pool."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxdistill.tasks.combat import environments
from jaxdistill.tasks.combat.environments import APPROACH, Environment
from jaxdistill.tasks.combat.state import State
from jaxdistill.tasks.task import Step


@dataclasses.dataclass(frozen=True)
class Facts:
    """How episodes stand at a pool's last step, or ended with it; every array is `(N,)`.

    Counts, so that a share over many episodes is one sum divided by another: clicks that hit are
    `hits_dealt` of `clicks`, time in the band `near` of `near_of`, the look on the body `on_body`
    of `ticks`.

    Attributes:
      ticks: so far.
      hits_dealt: by the agent.
      hits_taken: from the bot; only a duel has them.
      clicks: by the agent.
      near: ticks after the first hundred that ended 2 to 3.5 blocks from the target, horizontally.
      near_of: ticks after the first hundred.
      on_body: ticks after which the agent's look met the target's body, however far away.
      yaw_error: mean over ticks of the angle between the agent's yaw and the target, radians.
      result: 1 won, 0 drawn, -1 lost: who has dealt more hits. A death decides the same way.
      first_to_ten: 1 if the agent was first to deal ten hits, -1 if the bot was, else 0.
    """

    ticks: np.ndarray
    hits_dealt: np.ndarray
    hits_taken: np.ndarray
    clicks: np.ndarray
    near: np.ndarray
    near_of: np.ndarray
    on_body: np.ndarray
    yaw_error: np.ndarray
    result: np.ndarray
    first_to_ten: np.ndarray


class PoolState(NamedTuple):
    """Everything of a pool, in NumPy arrays: put back into one of its like, play goes on from here.

    Attributes:
      states: the episodes, leading axis N.
      last: what the last step said.
    """

    states: State
    last: Step


class CombatPool:
    """N environments of one kind, stepped by one compiled call.

    As a `Pool` of Atari games: the step after an episode's end ignores its action and begins the
    next one. Everything random comes from the pool's seed, so that the same environment, seed and
    actions give the same steps. Unlike a game's, its state can be saved, and needs no replay.
    """

    def __init__(
        self,
        environment: Environment,
        num_envs: int,
        *,
        seed: int,
        max_steps: int | None = None,
    ):
        """Builds the pool and begins N episodes; environment i draws from `seed + i`.

        Args:
          max_steps: ticks of one episode; by default the environment's own.

        Raises:
          ValueError: a count below 1.
        """
        if num_envs < 1:
            raise ValueError(f"{environment.name}: num_envs is {num_envs}, expected at least 1")
        if max_steps is not None:
            environment = dataclasses.replace(environment, max_steps=max_steps)
        self.environment, self.num_envs, self.seed = environment, num_envs, seed
        self._fresh, self._sent = True, None
        seeds = (seed + np.arange(num_envs)).astype(np.uint32)
        begun = _step(
            environment,
            environments.ended(environment, seeds),
            np.zeros((num_envs, len(environment.entries)), np.float32),
        )
        self._states = begun.state
        self.last = Step(
            observations=jax.device_get(begun.observations),
            rewards=np.zeros(num_envs, np.float32),
            valid=np.zeros(num_envs, bool),
            over=np.zeros(num_envs, bool),
            truncated=np.zeros(num_envs, bool),
            lives=np.zeros(num_envs, np.int32),
            scores=np.zeros(num_envs),
            ages=np.zeros(num_envs, np.int32),
        )

    def send(self, actions: np.ndarray) -> None:
        """Starts one step; `receive` waits for it.

        Args:
          actions: `(N, A)` numbers, the environment's entries: keys and the click down above 0.5,
            turns in radians.

        Raises:
          ValueError: a wrong shape, or what is not a number.
        """
        name, width = self.environment.name, len(self.environment.entries)
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs, width) or actions.dtype.kind not in "fiub":
            raise ValueError(
                f"{name}: expected numbers of shape {(self.num_envs, width)} as actions, got "
                f"{actions.dtype} of shape {actions.shape}"
            )
        actions = actions.astype(np.float32)
        if not np.isfinite(actions).all():
            raise ValueError(f"{name}: actions {actions[~np.isfinite(actions)]} are not finite")
        self._sent = _step(self.environment, self._states, actions)

    def receive(self) -> Step:
        """Waits for the step that `send` has begun.

        Raises:
          ValueError: nothing was sent.
        """
        if self._sent is None:
            raise ValueError(f"{self.environment.name}: receive without send")
        after, last, self._sent, self._fresh = self._sent, self.last, None, False
        self._states = after.state
        over, rewards, observations, valid, truncated, ages = jax.device_get(
            (after.state.over, *after[1:], after.state.tick)
        )
        self.last = Step(
            observations=observations,
            rewards=rewards,
            valid=valid,
            over=over,
            truncated=truncated,
            lives=last.lives,
            scores=np.where(valid, last.scores, 0) + rewards,
            ages=ages,
        )
        return self.last

    def step(self, actions: np.ndarray) -> Step:
        """Plays one step in all N environments; see `send` and `task.Step`."""
        self.send(actions)
        return self.receive()

    def replay(self, actions: Sequence[np.ndarray] | np.ndarray) -> Step:
        """Plays recorded actions `(T, N, A)` from the start of this fresh pool.

        Raises:
          ValueError: this pool has already been stepped, or its state was put back.
        """
        if not self._fresh:
            raise ValueError(
                f"{self.environment.name}: replay needs a fresh pool, this one has stepped"
            )
        for row in actions:
            self.step(row)
        return self.last

    @property
    def state(self) -> PoolState:
        """All that is needed to go on; a step that was sent and not received is not in it."""
        return PoolState(jax.device_get(self._states), self.last)

    @state.setter
    def state(self, saved: PoolState) -> None:
        """Goes on from what another pool of this environment and size has saved.

        Raises:
          ValueError: it is of another size, or no such state.
        """
        if _kinds(saved) != _kinds(self.state):
            raise ValueError(
                f"{self.environment.name}: this is not the state of a pool of {self.num_envs} "
                f"environments of this kind"
            )
        self._fresh, self._sent = False, None
        self._states, self.last = jax.device_put(saved.states), saved.last

    @property
    def facts(self) -> Facts:
        """How the episodes stand now; asked for after a step that ended some, how they ended."""
        state = jax.device_get(self._states)
        return Facts(
            ticks=state.tick,
            hits_dealt=state.hits_dealt,
            hits_taken=state.hits_taken,
            clicks=state.clicks,
            near=state.near,
            near_of=np.maximum(state.tick - APPROACH, 0),
            on_body=state.on_body,
            yaw_error=state.yaw_error / np.maximum(state.tick, 1),
            result=np.sign(state.hits_dealt - state.hits_taken),
            first_to_ten=state.first_to_ten,
        )


_step = jax.jit(environments.step, static_argnums=0)


def _kinds(saved: PoolState) -> dict[str, tuple]:
    """Every array's place, shape and type."""
    return {
        jax.tree_util.keystr(path): (np.shape(array), str(np.asarray(array).dtype))
        for path, array in jax.tree_util.tree_leaves_with_path(saved)
    }
