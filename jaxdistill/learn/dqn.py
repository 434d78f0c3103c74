"""Deep Q-learning from a replay memory (Mnih et al., Nature 2015), for several tasks at once.

One network learns all tasks from one memory. The calls of a training, in order:

    memory = replay.create(mesh, ...)
    state = dqn.create_state(params, transform, mesh)
    update = dqn.make_update(network, transform, mesh, masks=masks, batch=64, minibatches=K, ...)
    while training:
        ...  # play L steps in the N environments of each of G tasks, exploring with some epsilon
        memory = replay.append(memory, piece)
        if memory.counts.sum() >= first_update:
            state, metrics = update(state, memory, key)
        if so many episodes have ended since the last copy:
            state = dqn.copy_target(state)

One update per environment step is K = L * N * G. The same `key` serves every call: minibatches are
drawn with `fold_in(key, updates done)`.

Agents that play one environment take their tasks in turn, an episode each, so that the memory holds
some of all. Here every task has environments of its own and all are stepped together, so there are
no turns to take.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxdistill import meshes, networks
from jaxdistill.learn import exploration, learner, losses, replay
from jaxdistill.learn.algorithm import Beginning, Progress
from jaxdistill.learn.rollout import Rollout
from jaxdistill.learn.train_settings import optimiser
from jaxdistill.tasks.actions import greedy
from jaxdistill.tasks.views import AnyView


@flax.struct.dataclass
class State:
    """What a training changes, but for its memory.

    Attributes:
      train: parameters, optimiser state, updates done.
      target: parameters of the target network, which values what follows: a copy of earlier ones.
    """

    train: learner.TrainState
    target: Any


def create_state(
    params: networks.Params,
    transform: optax.GradientTransformation,
    mesh: Mesh,
    *,
    averaged: bool = False,
) -> State:
    """A fresh state whose target network has `params` too; see `learner.create_state`."""
    train = learner.create_state(params, transform, mesh, averaged=averaged)
    return State(train, _copy(train.params))


def copy_target(state: State) -> State:
    """The state with its present parameters as those of its target network."""
    return dataclasses.replace(state, target=_copy(state.train.params))


def _copy(params: Any) -> Any:
    """The same values in other buffers: `update` is given all of a state's to overwrite."""
    return jax.tree.map(jnp.array, params)


def targets(
    rewards: jax.Array,
    ended: jax.Array,
    next_values: jax.Array,
    masks: jax.Array,
    *,
    discount: float,
    choosing: jax.Array | None = None,
) -> jax.Array:
    """`r + gamma * (1 - ended) * max_a Q_target(s', a)` over valid actions, `(B,)`.

    Double Q-learning (van Hasselt et al., AAAI 2016) takes `Q_target(s', argmax_a Q(s', a))`.

    Args:
      rewards, ended: `(B,)`.
      next_values: `(B, A)`, `Q_target(s', .)`.
      masks: `(B, A)` bool, the valid actions of each row's task.
      choosing: `(B, A)`, `Q(s', .)` of the network that is learning, for double Q-learning.
    """
    chosen = greedy(next_values if choosing is None else choosing, masks)
    values = jnp.take_along_axis(next_values, chosen[:, None], axis=-1)[:, 0]
    return rewards + discount * jnp.where(ended, 0.0, values)


Update = Callable[[State, replay.Memory, jax.Array], tuple[State, learner.Metrics]]


def make_update(
    network: networks.Network,
    transform: optax.GradientTransformation,
    mesh: Mesh,
    *,
    masks: jax.Array,
    batch: int,
    minibatches: int,
    discount: float,
    double: bool = False,
    view: AnyView | None = None,
    ema_decay: float = 0.0,
) -> Update:
    """The jitted `update(state, memory, key) -> (state, metrics)` of `minibatches` optimiser steps.

    Every minibatch draws its transitions with `fold_in(key, step)`, so that a resumed training
    draws what the whole would have. The loss is the mean over the batch of the square of `Q(s, a)`
    less the target; see `targets`. `state` is donated, `memory` is not, and of one with nothing to
    draw (`memory.counts`) nothing is learnt.

    Args:
      masks: `(G, A)` bool, the valid actions of each task.
      batch: transitions in a minibatch.
      discount: gamma, 0 to 1.
      double: whether the learning network chooses the next action that the target network values.
      view: what the network sees of what pools show; None is all.
      ema_decay: of the state's average, where it keeps one.

    Returns:
      The update. Its metrics are means over the call: `loss`, `target`, `q` (of the actions
      played) and `gradient_norm`.

    Raises:
      ValueError: a count below 1, a discount outside 0 to 1, or a batch that does not split over
        the mesh.
    """
    for name, count in (("batch", batch), ("minibatches", minibatches)):
        if count < 1:
            raise ValueError(f"{name} is {count}, expected at least 1")
    if not 0 <= discount <= 1:
        raise ValueError(f"discount is {discount}, expected 0 to 1")
    meshes.check_divisible(mesh, "batch", batch)

    def objective(params: Any, shared: tuple[replay.Memory, Any], drawn: Any):
        memory, target_params = shared
        tasks, rows = (x.reshape(-1) for x in drawn)
        seen = replay.gather(memory, tasks, rows)

        def said(params: Any, observations: jax.Array) -> jax.Array:
            shown = observations if view is None else view.see(observations)
            return networks.forward(network, params, shown, tasks)

        outputs = said(params, seen.observations)

        # No gradient goes through the target: a choice has none.
        target = targets(
            seen.rewards,
            seen.ended,
            said(target_params, seen.next_observations),
            masks[tasks],
            discount=discount,
            choosing=said(params, seen.next_observations) if double else None,
        )
        # Of a row's outputs the loss is about one, the action played.
        played = jax.nn.one_hot(seen.actions, outputs.shape[1], dtype=jnp.bool_)
        means = {
            "loss": losses.mse(outputs, jnp.broadcast_to(target[:, None], outputs.shape), played),
            "target": target,
            "q": jnp.where(played, outputs, 0.0).sum(axis=-1),
        }
        means = {name: jnp.where(seen.usable, x, 0.0).mean() for name, x in means.items()}
        return means["loss"], means

    gradient_of = learner.sharded_gradient(objective, mesh)

    def update(state: State, memory: replay.Memory, key: jax.Array):
        def draw(step: jax.Array) -> tuple[jax.Array, jax.Array]:
            drawn = replay.sample(memory, jax.random.fold_in(key, step), batch)
            return jax.tree.map(lambda x: x[None], drawn)  # split along the second axis

        def minibatch(train: learner.TrainState, drawn: Any):
            gradient, metrics = gradient_of(train.params, (memory, state.target), drawn)
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            return learner.apply_gradient(train, gradient, transform, ema_decay), metrics

        # All draws at once: what is drawn does not depend on what is learnt meanwhile.
        drawn = jax.vmap(draw)(state.train.step + jnp.arange(minibatches))
        train, metrics = jax.lax.scan(minibatch, state.train, drawn)
        return dataclasses.replace(state, train=train), jax.tree.map(jnp.mean, metrics)

    return jax.jit(update, donate_argnums=0)


class Dqn:
    """What is learnt by deep Q-learning: from a memory, towards what the target network says."""

    def __init__(self, begin: Beginning):
        settings, chosen, mesh = begin.settings, begin.lessons, begin.mesh
        self._settings, shown, transform = settings, chosen[0].view, optimiser(settings)
        self._key = jax.random.key(settings.seed)
        averaged = settings.ema_decay > 0
        self._state = create_state(begin.params, transform, mesh, averaged=averaged)
        self._memory = replay.create(
            mesh,
            num_tasks=len(chosen),
            num_envs=settings.num_envs,
            capacity=settings.replay_size,
            frame_shape=shown.shape[1:],
            dtype=chosen[0].task.suite.frame_dtype,
            depth=shown.stack,
        )
        self._update = make_update(
            begin.network,
            transform,
            mesh,
            masks=begin.masks,
            batch=settings.batch_per_game,
            minibatches=settings.updates_per_iteration,
            discount=settings.discount,
            double=settings.double,
            view=begin.view,
            ema_decay=settings.ema_decay,
        )

    def make_actor(self, begin: Beginning) -> exploration.Actor:
        """Who plays for it."""
        return exploration.Actor(begin, self)

    @property
    def train(self) -> learner.TrainState:
        """Parameters and optimiser."""
        return self._state.train

    @property
    def acting(self) -> tuple[Any, None]:
        """The parameters that choose; nobody reads here what a choice is worth."""
        return self._state.train.params, None

    @property
    def arrays(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"state": self._state, "memory": self._memory}

    @arrays.setter
    def arrays(self, restored: dict[str, Any]) -> None:
        self._state, self._memory = restored["state"], restored["memory"]

    def network_params(self, params: Any) -> networks.Params:
        """The network's, among what is learnt: all."""
        return params

    def log_std(self, params: Any) -> None:
        """There are no angles."""

    def train_of(self, arrays: dict[str, Any]) -> learner.TrainState:
        """The train state of a checkpoint."""
        return arrays["state"].train

    def learn(self, rollout: Rollout, progress: Progress) -> learner.Metrics:
        """Remembers one iteration's steps, and learns from what is remembered."""
        self._memory = replay.append(self._memory, replay.piece_of(rollout))
        counts = self._memory.counts
        numbers: learner.Metrics = {"remembered": counts.sum().astype(jnp.float32)}
        if int(counts.sum()) >= self._settings.first_update:
            self._state, learnt = self._update(self._state, self._memory, self._key)
            numbers |= learnt
        before, every = progress.episodes, self._settings.target_episodes
        if (before + progress.ended) // every > before // every:
            self._state = copy_target(self._state)
        return numbers
