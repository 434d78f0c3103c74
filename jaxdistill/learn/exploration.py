"""How one who learns Q-values plays meanwhile: greedily, and at times at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import networks
from jaxdistill.learn.algorithm import Beginning, Observed, Progress
from jaxdistill.learn.rollout import Acted
from jaxdistill.learn.train_settings import Settings
from jaxdistill.tasks.actions import greedy
from jaxdistill.tasks.views import AnyView


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


def epsilon_per_episode(episodes: int, start: float, end: float, decay: float) -> float:
    """Chance of exploring once so many episodes have ended: `max(end, start * decay ** episodes)`.

    Args:
      episodes: of all tasks together, where they share one network.
      decay: the factor of each episode, 0 to 1.
    """
    return max(end, start * decay**episodes)


def epsilon_at(settings: Settings, iteration: int, episodes: int = 0) -> float:
    """Chance of exploring in one iteration, before which so many games of all tasks have ended.

    With `hold_exponent` it is a third of epsilon, and the chance p of *beginning* to hold an action
    at a step where none is held. Of all steps, `m p / (m p + 1 - p)` explore in the long run, where
    m is the mean length: at exponent 1.6, cut at 10,000 steps, 72. So epsilon 1, 0.1 and 0.01 are
    97%, 71% and 19% of the steps.
    """
    if settings.epsilon_decay:
        start, end = settings.epsilon_start, settings.epsilon_end
        epsilon = epsilon_per_episode(episodes, start, end, settings.epsilon_decay)
    else:
        done = min(1.0, iteration / max(1.0, settings.epsilon_fraction * settings.iterations))
        epsilon = settings.epsilon_start + done * (settings.epsilon_end - settings.epsilon_start)
    return epsilon / 3 if settings.hold_exponent else epsilon


Carries = tuple[networks.Carry, networks.Carry]
"""What two sets of parameters carry, those that choose and those that value; `(G, N, ...)` each."""


def make_act(
    settings: Settings,
    network: networks.Network,
    masks: jax.Array,
    view: AnyView | None = None,
) -> Callable[..., tuple[jax.Array, jax.Array, Carries]]:
    """Jitted `act(params, average, observations, begun, carries)`.

    It gives greedy actions and their values, `(G, N)`, and what is carried on. With an `average` of
    None values are NaN. `begun` `(G, N)` says where a game begins; it and `carries` matter to a
    recurrent network alone.

    Args:
      view: what the network sees of what pools show; None is all.
    """

    def said(params: Any, seen: jax.Array, rows: np.ndarray, begun: jax.Array, carry: Any):
        if network.core is None:
            return networks.forward(network, params, seen, rows), carry
        return networks.advance(network, params, seen, networks.forget(carry, begun))

    @jax.jit
    def act(
        params: Any,
        average: Any,
        observations: tuple[jax.Array, ...],
        begun: jax.Array,
        carries: Carries,
    ):
        shape = (len(observations), observations[0].shape[0])
        rows = np.repeat(np.arange(shape[0]), shape[1])
        shown, begins = jnp.concatenate(observations), begun.reshape(-1)
        stacked = shown if view is None else view.see(shown)
        chooser, valuer = jax.tree.map(lambda x: x.reshape(rows.size, *x.shape[2:]), carries)
        outputs, chooser = said(params, stacked, rows, begins, chooser)
        actions, valued = greedy(outputs, masks[rows]), outputs
        values = _unread(shape)
        if average is not None:
            if settings.double:
                valued, valuer = said(average, stacked, rows, begins, valuer)
            values = jnp.take_along_axis(valued, actions[:, None], axis=1).reshape(shape)
        carries = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), (chooser, valuer))
        return actions.reshape(shape), values, carries

    return act


def _unread(shape: tuple[int, ...]) -> jax.Array:
    """Values that nobody reads."""
    return jnp.full(shape, jnp.nan)


class _Acting(Protocol):
    """What has two sets of parameters: those that choose, and those that value the choice.

    The second is None where nobody reads what a choice is worth.
    """

    @property
    def acting(self) -> tuple[Any, Any]: ...


class Actor:
    """Plays for `pqn.Pqn` and `dqn.Dqn`; see `algorithm.Actor`."""

    def __init__(self, begin: Beginning, algorithm: _Acting):
        settings, network, lessons = begin.settings, begin.network, begin.lessons
        self._settings, self._algorithm = settings, algorithm
        self._act = make_act(settings, network, begin.masks, begin.view)
        self._explorer = Explorer(settings, [lesson.task.actions for lesson in lessons])
        self.epsilon = 0.0
        # Kept on the host, as the pools are.
        games, count = len(lessons), settings.num_envs
        nothing = jax.tree.map(
            lambda x: np.zeros((games, count, *x.shape[1:]), x.dtype),
            networks.initial_carry(network, 1),
        )
        self._carries: Carries = (nothing, nothing if settings.double else ())

    def begin(self, progress: Progress) -> dict[str, float]:
        """Sets the chance of exploring in an iteration; returns what to log."""
        self.epsilon = epsilon_at(self._settings, progress.iteration, progress.episodes)
        return {"epsilon": self.epsilon}

    @property
    def carry(self) -> networks.Carry:
        """What was carried on from the last step by who chooses; empty if it is not recurrent."""
        return self._carries[0]

    def act(self, observed: Observed) -> Acted:
        """Actions, some of which explore, and the values of the greedy ones."""
        acting = self._algorithm.acting
        chosen, values, carries = self._act(
            *acting, observed.observations, observed.begun, self._carries
        )
        self._carries = jax.device_get(carries)
        return Acted(self._explorer(np.asarray(chosen), observed.turn, self.epsilon), values)

    def values(self, observed: Observed) -> jax.Array:
        """Values `(G, N)` of the greedy actions; NaN where nobody reads them."""
        params, average = self._algorithm.acting
        if average is None:
            return _unread(observed.begun.shape)
        return self._act(params, average, observed.observations, observed.begun, self._carries)[1]

    @property
    def checkpoint_arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds."""
        carried = {f"carry{i}": x for i, x in enumerate(jax.tree.leaves(self._carries))}
        return {"remaining": self._explorer.remaining, "held": self._explorer.held, **carried}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on as `checkpoint_arrays` were."""
        self._explorer.remaining, self._explorer.held = arrays["remaining"], arrays["held"]
        leaves, kind = jax.tree.flatten(self._carries)
        carried = [arrays[f"carry{i}"] for i in range(len(leaves))]
        self._carries = jax.tree.unflatten(kind, carried)
