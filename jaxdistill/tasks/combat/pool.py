"""Many episodes of one combat task behind the interface of every pool."""

from __future__ import annotations

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.tasks.combat import environments, views
from jaxdistill.tasks.combat.environments import APPROACH, Environment
from jaxdistill.tasks.combat.state import State
from jaxdistill.tasks.task import Played, Pool, Task
from jaxdistill.tasks.views import AnyShown

FACTS = (
    "dealt",
    "taken",
    "won",
    "drawn",
    "lost",
    "won_to_ten",
    "lost_to_ten",
    "near",
    "yaw_error",
    "on_body",
    "hit_rate",
)


class CombatPool(Pool):
    """N environments of one task, stepped by one compiled call.

    The k-th episode of environment i has a key of its own, drawn from the pool's seed, i and k: all
    its chance comes from it.
    """

    partial = False

    def __init__(
        self,
        task: Task,
        environment: Environment,
        num_envs: int,
        *,
        seed: int,
        view: AnyShown | None = None,
        max_steps: int | None = None,
    ):
        """Builds the pool and begins N episodes; environment i draws from `seed + i`.

        Args:
          environment: the task's rules.
          max_steps: ticks of one episode; by default the task's own.

        Raises:
          ValueError: a count below 1, or a view of something else than combat shows.
        """
        max_steps = task.max_steps if max_steps is None else max_steps
        super().__init__(task, num_envs, view, max_steps)
        if self.view != task.suite.view:
            raise ValueError(f"{task.name} shows {task.suite.view}, not {self.view}")
        self.environment, self._limit = environment, np.int32(max_steps)
        self._seeds = (seed + np.arange(num_envs)).astype(np.uint32)
        self._width = len(self.environment.entries)
        self.skip(np.zeros(num_envs, int))

    def skip(self, counts: np.ndarray) -> None:
        """Begins the episode after the first `counts[i]` in environment i of this fresh pool."""
        over = environments.ended(self.environment, self._seeds, counts)
        nothing = np.zeros((self.num_envs, self._width), np.float32)
        begun = _step(self.environment, self._limit, over, nothing)
        self.episodes = begun.state
        self._begin(np.asarray(begun.observations)[:, None], np.zeros(self.num_envs))

    def _send(self, actions: np.ndarray, rows: np.ndarray | None) -> None:
        own = np.zeros((self.num_envs, self._width), np.float32)
        own[slice(None) if rows is None else rows] = actions[:, self.environment.entries]
        self._stepped = _step(self.environment, self._limit, self.episodes, own)

    def _receive(self) -> Played:
        after, rows = self._stepped, self._sent
        over, rewards, observations, truncated = jax.device_get(
            (after.state.over, after.rewards, after.observations, after.truncated)
        )
        steps = np.ones(self.num_envs, bool)
        if rows is None:
            self.episodes, rows = after.state, steps
        else:
            steps = np.isin(np.arange(self.num_envs), rows)
            self.episodes = _merge(steps, after.state, self.episodes)
        return Played(
            observations[rows, None],
            rewards[rows],
            np.zeros(steps.sum()),
            over[rows],
            truncated[rows],
            self._sent,
        )

    @property
    def states(self) -> np.ndarray:
        """`(N,)` uint32, a checksum of all that an episode is."""
        leaves = [
            np.ascontiguousarray(x).reshape(self.num_envs, -1).view(np.uint8)
            for x in jax.tree.leaves(jax.device_get(self.episodes))
        ]
        rows = np.concatenate(leaves, axis=1)
        return np.asarray([zlib.crc32(row.tobytes()) for row in rows], np.uint32)

    @property
    def facts(self) -> dict[str, np.ndarray]:
        """How the episodes stand, or ended, `(N,)` each.

        `dealt`, `taken`: hits by the agent and by the bot. `won`, `drawn`, `lost`: 1 for who has
        dealt more; a death decides the same way. `won_to_ten`, `lost_to_ten`: 1 for who was first
        to deal ten. `near`: share of the ticks after the first hundred that ended 2 to 3.5 blocks
        from the target. `yaw_error`: mean angle between the agent's yaw and the target, in degrees.
        `on_body`: share of the ticks after which the look met the target's body, however far away.
        `hit_rate`: share of the clicks that hit, 0 without one.
        """
        state = jax.device_get(self.episodes)
        ticks = np.maximum(state.tick, 1)
        ahead = np.sign(state.hits_dealt - state.hits_taken)
        facts = (
            state.hits_dealt,
            state.hits_taken,
            ahead > 0,
            ahead == 0,
            ahead < 0,
            state.first_to_ten > 0,
            state.first_to_ten < 0,
            state.near / np.maximum(state.tick - APPROACH, 1),
            np.rad2deg(state.yaw_error / ticks),
            state.on_body / ticks,
            state.hits_dealt / np.maximum(state.clicks, 1),
        )
        return {name: np.asarray(x, float) for name, x in zip(FACTS, facts, strict=True)}


@functools.partial(jax.jit, static_argnums=0)
def _step(
    environment: Environment, limit: np.int32, state: State, actions: jax.Array
) -> environments.Ticked:
    """One tick of all, compiled once for every limit that episodes are given."""
    shown = functools.partial(views.shown, environment.name)
    return environments.step(environment, state, actions, shown, limit)


@jax.jit
def _merge(steps: jax.Array, after: State, before: State) -> State:
    """`after` where environments have stepped, `(N,)`, and `before` elsewhere."""

    def merged(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(steps.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(merged, after, before)
