"""How one who learns Q-values plays meanwhile: greedily, and at times at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import networks
from jaxdistill.learn import dqn
from jaxdistill.learn.regime import Settings
from jaxdistill.play.lessons import Lesson, masks
from jaxdistill.tasks.actions import greedy


class Explorer:
    """Epsilon-greedy over valid actions, optionally holding each exploring action for a while."""

    def __init__(self, settings: Settings, valid: list[tuple[int, ...]]):
        self._settings, self._valid = settings, valid
        shape = (len(valid), settings.num_envs)
        self.remaining = np.zeros(shape, np.int64)
        self.held = np.zeros(shape, np.int64)

    def __call__(self, best: np.ndarray, turn: int, epsilon: float) -> np.ndarray:
        """Actions `(G, N)`; draws depend on the seed and the turn alone."""
        generator = np.random.default_rng((self._settings.seed, turn))
        starts = (generator.random(best.shape) < epsilon) & (self.remaining == 0)
        actions = np.stack([generator.choice(v, best.shape[1]) for v in self._valid])
        self.held = np.where(starts, actions, self.held)
        exponent = self._settings.hold_exponent
        lengths = generator.zipf(exponent, best.shape) if exponent else np.int64(1)
        self.remaining = np.where(starts, np.minimum(lengths, 10_000), self.remaining)
        exploring = self.remaining > 0
        self.remaining = np.maximum(self.remaining - 1, 0)
        return np.where(exploring, self.held, best)


def epsilon_at(settings: Settings, iteration: int, episodes: int = 0) -> float:
    """Chance of exploring in one iteration, before which so many games of all tasks have ended.

    An action held for several steps counts once: the chance per step is smaller by its mean
    length's share, as in epsilon-z-greedy's epsilon / 3.
    """
    if settings.epsilon_decay:
        start, end = settings.epsilon_start, settings.epsilon_end
        epsilon = dqn.epsilon_per_episode(episodes, start, end, settings.epsilon_decay)
    else:
        done = min(1.0, iteration / max(1.0, settings.epsilon_fraction * settings.iterations))
        epsilon = settings.epsilon_start + done * (settings.epsilon_end - settings.epsilon_start)
    return epsilon / 3 if settings.hold_exponent else epsilon


def make_act(
    settings: Settings, network: networks.Network, masks: jax.Array
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Jitted `act(params, average, observations)` -> greedy actions and their values, `(G, N)`."""

    @jax.jit
    def act(params: Any, average: Any, observations: tuple[jax.Array, ...]):
        shape = (len(observations), observations[0].shape[0])
        rows = np.repeat(np.arange(shape[0]), shape[1])
        stacked = jnp.concatenate(observations)
        outputs = networks.forward(network, params, stacked, rows)
        actions = greedy(outputs, masks[rows])
        judge = networks.forward(network, average, stacked, rows) if settings.double else outputs
        values = jnp.take_along_axis(judge, actions[:, None], axis=1)
        return actions.reshape(shape), values.reshape(shape)

    return act


class _Acting(Protocol):
    """What has two sets of parameters: those that choose, and those that value the choice."""

    @property
    def acting(self) -> tuple[Any, Any]: ...


class Actor:
    """Plays for `pqn.Pqn` and `dqn.Dqn`; see `training.Actor`."""

    def __init__(
        self,
        settings: Settings,
        network: networks.Network,
        lessons: Sequence[Lesson],
        algorithm: _Acting,
    ):
        self._settings, self._algorithm = settings, algorithm
        self._act = make_act(settings, network, masks(lessons))
        self._explorer = Explorer(settings, [lesson.task.actions for lesson in lessons])
        self.epsilon = 0.0

    def begin(self, iteration: int, episodes: int) -> dict[str, float]:
        """Sets the chance of exploring in an iteration; returns what to log."""
        self.epsilon = epsilon_at(self._settings, iteration, episodes)
        return {"epsilon": self.epsilon}

    def act(
        self, observations: tuple[jax.Array, ...], turn: int
    ) -> tuple[np.ndarray, dict[str, jax.Array]]:
        """Actions `(G, N)`, and the `values` of the greedy ones."""
        chosen, values = self._act(*self._algorithm.acting, observations)
        return self._explorer(np.asarray(chosen), turn, self.epsilon), {"values": values}

    def judge(self, observations: tuple[jax.Array, ...]) -> jax.Array:
        """Values `(G, N)` of what was seen last."""
        return self._act(*self._algorithm.acting, observations)[1]

    @property
    def host(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds."""
        return {"remaining": self._explorer.remaining, "held": self._explorer.held}

    def restore(self, host: Mapping[str, np.ndarray]) -> None:
        """Goes on as `host` was."""
        self._explorer.remaining, self._explorer.held = host["remaining"], host["held"]
