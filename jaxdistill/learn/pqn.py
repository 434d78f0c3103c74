"""Parallel Q-learning (PQN; Gallici et al., ICLR 2025), with experts beside it or without.

No replay memory and no target network: many environments play for a few steps, Q(lambda) targets
are computed backwards over them, and the same steps are learnt from once or twice before they are
thrown away. LayerNorm in the network is what keeps this stable.

A recurrent network learns from whole windows: what it carried when it began to play them is kept,
and an update replays them through its core, which forgets where a game begins (Gallici et al.).

With experts at hand it need not begin from nothing, nor end where they did: a distillation loss
beside the Q-learning one, its weight falling to 0, lets a student take over what a mediocre expert
knows and then surpass it (kickstarting, Schmitt et al. 2018; QDagger, Agarwal et al. 2022).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxdistill import meshes, networks
from jaxdistill.experts.expert import Teacher, expert_outputs
from jaxdistill.learn import (
    dataset,
    learner,
    losses,
)
from jaxdistill.learn.train_settings import (
    Beginning,
    Settings,
    check_divisible,
    expert_weight_at,
    optimiser,
    temperature_of,
)


def q_lambda_targets(
    rewards: jax.Array,
    ended: jax.Array,
    truncated: jax.Array,
    next_values: jax.Array,
    *,
    discount: float,
    trace: float,
) -> jax.Array:
    """Q(lambda) targets, all arrays `(T, ...)`:

    `G_t = r_t + gamma * (1 - ended_t) * (lambda * G_{t+1} + (1 - lambda) * max_a Q(s_{t+1}, a))`

    Args:
      ended: no value follows (the game was over, or a life was lost).
      truncated: the game was cut at t: its value goes on, its trace does not.
      next_values: `max_a Q(s_{t+1}, a)`, of the cut game's last observation where truncated.
    """

    def backward(following: jax.Array, row: tuple[jax.Array, ...]):
        reward, end, cut, value = row
        traced = jnp.where(cut, value, trace * following + (1 - trace) * value)
        target = reward + discount * jnp.where(end, 0.0, traced)
        return target, target

    rows = (rewards, ended, truncated, next_values)
    return jax.lax.scan(backward, next_values[-1], rows, reverse=True)[1]


def make_learn(
    settings: Settings,
    network: networks.Network,
    transform: Any,
    mesh: Mesh,
    experts: Sequence[Teacher] = (),
) -> Callable[..., tuple[learner.TrainState, learner.Metrics]]:
    """The jitted learning phase: targets, then every minibatch of every epoch.

    `learn(state, rollout, key)` takes a dictionary of `(G, T, N)` arrays: `actions`, `rewards`,
    `ended`, `truncated`, `valid`, `next_values`, and `frames` `(G, S - 1 + T, N, H, W)` with `ages`
    to match, where S is the stack's depth. For a recurrent network it holds its `carry`
    `(G, N, ...)` into the first step, too; minibatches are of whole environments then. With
    `experts`, one per game, it also holds `expert_params`, theirs, and `expert_weight`; what is
    added to the loss is that times `temperature * KL(expert || softmax(Q / temperature))`, over the
    valid actions that the expert has an output for.
    """
    check_divisible(settings, mesh)
    num_games = len(settings.games)
    rows_per_game = settings.steps_per_iteration
    minibatches = rows_per_game // settings.batch_per_game
    # Actions that an expert has no output for are 0 in what it says, which is no Q-value of theirs.
    masks = jnp.asarray([e.mask & t.mask for e, t in zip(experts, settings.tasks, strict=False)])
    temperatures = jnp.asarray([temperature_of(expert, settings) for expert in experts])

    def replayed(
        params: Any,
        carry: networks.Carry,
        seen: jax.Array,
        begun: jax.Array,
        game: jax.Array,
        rows: jax.Array,
    ) -> jax.Array:
        """Outputs `(B, A)` of B rows, the T steps of one environment after those of another."""

        def in_time(x: jax.Array) -> jax.Array:
            return x.reshape(-1, settings.rollout_steps, *x.shape[1:]).swapaxes(0, 1)

        first, env = in_time(game)[0], in_time(rows)[0]  # of the first step, t * N + n is n
        carry = jax.tree.map(lambda x: x[first, env], carry)
        outputs = networks.unroll(network, params, in_time(seen), in_time(begun), carry)
        return outputs.swapaxes(0, 1).reshape(rows.size, -1)

    def shuffled(key: jax.Array) -> jax.Array:
        """All rows of a game in another order; of a recurrent network, one window after another."""
        if network.core is None:
            return jax.random.permutation(key, rows_per_game)
        envs = jax.random.permutation(key, settings.num_envs)
        steps = settings.num_envs * jnp.arange(settings.rollout_steps)
        return (envs[:, None] + steps).reshape(-1)

    def objective(params: Any, rollout: dict[str, Any], rows: jax.Array):
        game = jnp.broadcast_to(jnp.arange(num_games)[:, None], rows.shape)
        # The first depth - 1 frames only complete the stacks of the first steps.
        depth = rollout["frames"].shape[1] - settings.rollout_steps + 1
        offset = (depth - 1) * settings.num_envs
        observations = dataset.stacks(
            rollout["frames"], rollout["ages"], game, rows + offset, depth
        )
        at = (game.reshape(-1), rows.reshape(-1))
        seen = observations.reshape(-1, *observations.shape[2:])
        if network.core is None:
            outputs = networks.forward(network, params, seen, at[0])
        else:
            begun = rollout["ages"].reshape(num_games, -1)[at[0], at[1] + offset] == 0
            outputs = replayed(params, rollout["carry"], seen, begun, *at)
        action, target, valid = (
            rollout[name].reshape(num_games, -1)[at] for name in ("actions", "targets", "valid")
        )
        error = outputs[jnp.arange(outputs.shape[0]), action] - target
        loss = 0.5 * jnp.mean(jnp.where(valid, jnp.square(error), 0.0))
        if not experts:
            return loss, {"loss": loss}
        labels = jnp.concatenate(
            expert_outputs(experts, rollout["expert_params"], list(observations), range(num_games))
        )
        student = outputs / settings.q_temperature
        divergence = losses.kl(
            student, jax.lax.stop_gradient(labels), masks[at[0]], temperatures[at[0]][:, None]
        )
        distance = jnp.mean(jnp.where(valid, divergence, 0.0))
        weight = rollout["expert_weight"] * settings.q_temperature
        return loss + weight * distance, {"loss": loss, "expert_kl": distance}

    gradient_of = learner.sharded_gradient(objective, mesh)

    def learn(state: learner.TrainState, rollout: dict[str, jax.Array], key: jax.Array):
        def targets(rewards, ended, truncated, values):
            return q_lambda_targets(
                rewards,
                ended,
                truncated,
                values,
                discount=settings.discount,
                trace=settings.trace,
            )

        names = ("rewards", "ended", "truncated", "next_values")
        rollout = rollout | {"targets": jax.vmap(targets)(*(rollout[name] for name in names))}

        def minibatch(state: learner.TrainState, rows: jax.Array):
            gradient, metrics = gradient_of(state.params, rollout, rows)
            return learner.apply_gradient(state, gradient, transform, settings.ema_decay), metrics

        def epoch(state: learner.TrainState, key: jax.Array):
            keys = jax.random.split(key, num_games)
            order = jax.vmap(shuffled)(keys)
            batches = order.reshape(num_games, minibatches, -1).swapaxes(0, 1)
            return jax.lax.scan(minibatch, state, batches)

        state, metrics = jax.lax.scan(epoch, state, jax.random.split(key, settings.epochs))
        metrics = jax.tree.map(jnp.mean, metrics)
        return state, metrics | {"target": rollout["targets"].mean()}

    return jax.jit(learn, donate_argnums=0)


class Pqn:
    """What is learnt by parallel Q-learning: from the steps just played, then forgotten."""

    def __init__(self, begin: Beginning):
        self._settings, self._mesh = settings, mesh = begin.settings, begin.mesh
        transform, averaged = optimiser(settings), settings.ema_decay > 0
        self.train = learner.create_state(begin.params, transform, mesh, averaged=averaged)
        # Of Double-Q's judge alone.
        self._average: Any = None
        if settings.double:
            self._average = jax.tree.map(jnp.array, self.train.params)
        make = functools.partial(make_learn, settings, begin.network, transform, mesh)
        self._learn, self._learn_taught = make(), make(begin.experts)
        self._expert_params = jax.device_put(
            [expert.params for expert in begin.experts], meshes.replicated(mesh)
        )
        rate = settings.average_rate
        self._follow = jax.jit(
            functools.partial(jax.tree.map, lambda average, new: average + rate * (new - average))
        )

    @property
    def acting(self) -> tuple[Any, Any]:
        """The parameters that choose, and that value the choice; see `exploration.make_act`."""
        choosing = self.train.params
        return choosing, choosing if self._average is None else self._average

    @property
    def arrays(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        average = {} if self._average is None else {"average": self._average}
        return {"train": self.train, **average}

    @arrays.setter
    def arrays(self, restored: dict[str, Any]) -> None:
        self.train = restored["train"]
        self._average = restored.get("average")

    def network_params(self, params: Any) -> networks.Params:
        """The network's, among what is learnt: all."""
        return params

    def log_std(self, params: Any) -> None:
        """There are no angles."""

    def train_of(self, arrays: dict[str, Any]) -> learner.TrainState:
        """The train state of a checkpoint."""
        return arrays["train"]

    def learn(
        self, rollout: dict[str, Any], iteration: int, key: jax.Array, *, copies: bool
    ) -> learner.Metrics:
        """Learns from one iteration's steps; for `copies` see `dqn.Dqn`."""
        del copies
        on_device = jax.device_put(rollout, meshes.replicated(self._mesh))
        weight = expert_weight_at(self._settings, iteration)
        learn = self._learn
        if weight and self._expert_params:  # what counts for nothing is not asked
            on_device |= {
                "expert_params": self._expert_params,
                "expert_weight": jnp.float32(weight),
            }
            learn = self._learn_taught
        key = jax.random.fold_in(key, iteration + 2)
        self.train, numbers = learn(self.train, on_device, key)
        if self._average is not None:
            self._average = self._follow(self._average, self.train.params)
        return numbers
