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

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxdistill import meshes, networks
from jaxdistill.experts.expert import Teacher, expert_outputs
from jaxdistill.learn import exploration, learner, losses
from jaxdistill.learn.algorithm import Beginning, Progress
from jaxdistill.learn.rollout import Passes, Rollout, at_rows, tasks_of
from jaxdistill.learn.train_settings import (
    Settings,
    check_divisible,
    expert_weight_at,
    optimiser,
    temperature_of,
)
from jaxdistill.tasks.views import AnyView


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


@dataclasses.dataclass(frozen=True, eq=False)
class Teaching:
    """Experts, one for each of G tasks, that a student learns from beside its rewards.

    Attributes:
      experts: in the order of the tasks.
      masks: `(G, A)` bool, the valid actions of each task that its expert has an output for. The
        others are 0 in what an expert says, which is no Q-value of theirs.
      temperatures: `(G,)`, of the softmax over each expert's outputs.
      q_temperature: what the student's Q-values are divided by.
    """

    experts: Sequence[Teacher]
    masks: jax.Array
    temperatures: jax.Array
    q_temperature: float


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """What is learnt of a rollout.

    Attributes:
      discount, trace: gamma and lambda of `q_lambda_targets`.
      teaching: experts to learn from as well; None for rewards alone.
    """

    discount: float
    trace: float
    teaching: Teaching | None = None


def objective_of(settings: Settings, experts: Sequence[Teacher] = ()) -> Objective:
    """What a training learns of its rollouts; `experts` are one per task, or none."""
    teaching = None
    if experts:
        pairs = zip(experts, settings.tasks, strict=True)
        teaching = Teaching(
            experts,
            jnp.asarray([expert.mask & task.mask for expert, task in pairs]),
            jnp.asarray([temperature_of(expert, settings) for expert in experts]),
            settings.q_temperature,
        )
    return Objective(settings.discount, settings.trace, teaching)


class Taught(NamedTuple):
    """What an update is given of the experts.

    Attributes:
      params: of each expert.
      weight: how much the distance from them counts, a number; it may fall from call to call.
    """

    params: Sequence[Any]
    weight: jax.Array


Update = Callable[..., tuple[learner.TrainState, learner.Metrics]]
"""`update(state, rollout, key, taught=None) -> (state, metrics)`."""


def make_update(
    network: networks.Network,
    transform: optax.GradientTransformation,
    mesh: Mesh,
    *,
    objective: Objective,
    passes: Passes,
    view: AnyView | None = None,
    ema_decay: float = 0.0,
) -> Update:
    """The jitted `update(state, rollout, key, taught=None) -> (state, metrics)` of one rollout.

    It computes the targets, and then goes through every minibatch of every epoch. The loss is half
    the square of `Q(s, a)` less the target. With `taught` what is added to it is `taught.weight`
    times `temperature * KL(expert || softmax(Q / temperature))`, over the valid actions that the
    expert has an output for. For a recurrent network the rollout holds its carry, and minibatches
    are of whole environments. `state` is donated.

    Args:
      view: what the network sees of what pools show; None is all.
      ema_decay: of the state's average, where it keeps one.

    Returns:
      The update. Its metrics are means over the call: `loss`, of the rewards alone, `target` and,
      with `taught`, `expert_kl`.

    Raises:
      ValueError: a batch that does not split over the mesh. The update raises it for one that does
        not divide the rows.
    """
    meshes.check_divisible(mesh, "batch_per_task", passes.batch_per_task)
    loss = functools.partial(_loss, network, view, objective)
    gradient_of = learner.sharded_gradient(loss, mesh)
    targets_of = functools.partial(
        q_lambda_targets, discount=objective.discount, trace=objective.trace
    )

    def update(
        state: learner.TrainState, rollout: Rollout, key: jax.Array, taught: Taught | None = None
    ) -> tuple[learner.TrainState, learner.Metrics]:
        num_tasks, steps, envs = rollout.rewards.shape
        minibatches = passes.minibatches(steps * envs)
        targets = jax.vmap(targets_of)(
            rollout.rewards, rollout.ended, rollout.truncated, rollout.next_values
        )
        shuffled = functools.partial(
            _shuffled, steps=steps, envs=envs, windows=network.core is not None
        )

        def minibatch(state: learner.TrainState, rows: jax.Array):
            gradient, metrics = gradient_of(state.params, (rollout, targets, taught), rows)
            return learner.apply_gradient(state, gradient, transform, ema_decay), metrics

        def epoch(state: learner.TrainState, key: jax.Array):
            order = jax.vmap(shuffled)(jax.random.split(key, num_tasks))
            batches = order.reshape(num_tasks, minibatches, -1).swapaxes(0, 1)
            return jax.lax.scan(minibatch, state, batches)

        state, metrics = jax.lax.scan(epoch, state, jax.random.split(key, passes.epochs))
        metrics = jax.tree.map(jnp.mean, metrics)
        learnt = jnp.where(rollout.valid, targets, 0.0).sum() / jnp.maximum(rollout.valid.sum(), 1)
        return state, metrics | {"target": learnt}

    return jax.jit(update, donate_argnums=0)


def _shuffled(key: jax.Array, *, steps: int, envs: int, windows: bool) -> jax.Array:
    """All rows t * N + n of a task in another order, `(T * N,)`; or one window after another."""
    if not windows:
        return jax.random.permutation(key, steps * envs)
    order = jax.random.permutation(key, envs)
    return (order[:, None] + envs * jnp.arange(steps)).reshape(-1)


def _loss(
    network: networks.Network,
    view: AnyView | None,
    objective: Objective,
    params: Any,
    shared: tuple[Rollout, jax.Array, Taught | None],
    rows: jax.Array,
) -> tuple[jax.Array, learner.Metrics]:
    """The loss of a minibatch of `rows` `(G, B)`, and its metrics.

    It is a mean over all rows, in which those that are not valid count as 0.
    """
    rollout, targets, taught = shared
    at = (tasks_of(rows).reshape(-1), rows.reshape(-1))
    stacks = rollout.stacks(rows)
    seen = stacks if view is None else view.see(stacks)
    outputs = _outputs(network, params, rollout, seen, *at)
    action, target, valid = (at_rows(x, *at) for x in (rollout.actions, targets, rollout.valid))
    error = outputs[jnp.arange(outputs.shape[0]), action] - target
    loss = 0.5 * jnp.mean(jnp.where(valid, jnp.square(error), 0.0))
    if objective.teaching is None or taught is None:
        return loss, {"loss": loss}
    divergence = _expert_kl(objective.teaching, taught.params, stacks, outputs, at[0])
    distance = jnp.mean(jnp.where(valid, divergence, 0.0))
    weight = taught.weight * objective.teaching.q_temperature
    return loss + weight * distance, {"loss": loss, "expert_kl": distance}


def _outputs(
    network: networks.Network,
    params: Any,
    rollout: Rollout,
    stacks: jax.Array,
    tasks: jax.Array,
    rows: jax.Array,
) -> jax.Array:
    """Outputs `(B, A)` of what was seen before the steps `rows` `(B,)`.

    Those of a recurrent network are the T steps of one environment after those of another.
    """
    seen = stacks.reshape(-1, *stacks.shape[2:])
    if network.core is None:
        return networks.forward(network, params, seen, tasks)
    steps = rollout.rewards.shape[1]

    def in_time(x: jax.Array) -> jax.Array:
        return x.reshape(-1, steps, *x.shape[1:]).swapaxes(0, 1)

    begun = at_rows(rollout.ages[:, rollout.depth - 1 :], tasks, rows) == 0
    first, env = in_time(tasks)[0], in_time(rows)[0]  # of the first step, t * N + n is n
    carry = jax.tree.map(lambda x: x[first, env], rollout.carry)
    outputs = networks.unroll(network, params, in_time(seen), in_time(begun), carry)
    return outputs.swapaxes(0, 1).reshape(rows.size, -1)


def _expert_kl(
    teaching: Teaching,
    expert_params: Sequence[Any],
    stacks: jax.Array,
    outputs: jax.Array,
    tasks: jax.Array,
) -> jax.Array:
    """`KL(expert || student)` `(B,)`, each at its temperature; `stacks` are `(G, B / G, ...)`."""
    said = expert_outputs(teaching.experts, expert_params, list(stacks), range(len(stacks)))
    labels = jax.lax.stop_gradient(jnp.concatenate(said))
    student, temperatures = outputs / teaching.q_temperature, teaching.temperatures[tasks]
    return losses.kl(student, labels, teaching.masks[tasks], temperatures[:, None])


class Pqn:
    """What is learnt by parallel Q-learning: from the steps just played, then forgotten."""

    def __init__(self, begin: Beginning):
        self._settings, self._mesh = settings, mesh = begin.settings, begin.mesh
        self._key = jax.random.key(settings.seed)
        check_divisible(settings, mesh)
        transform, averaged = optimiser(settings), settings.ema_decay > 0
        self.train = learner.create_state(begin.params, transform, mesh, averaged=averaged)
        # What values the choices of double Q-learning.
        self._average: Any = None
        if settings.double:
            self._average = jax.tree.map(jnp.array, self.train.params)
        self._update = make_update(
            begin.network,
            transform,
            mesh,
            objective=objective_of(settings, begin.experts),
            passes=Passes(settings.batch_per_game, settings.epochs),
            view=begin.view,
            ema_decay=settings.ema_decay,
        )
        self._expert_params = jax.device_put(
            [expert.params for expert in begin.experts], meshes.replicated(mesh)
        )
        rate = settings.average_rate
        self._follow = jax.jit(
            functools.partial(jax.tree.map, lambda average, new: average + rate * (new - average))
        )

    def make_actor(self, begin: Beginning) -> exploration.Actor:
        """Who plays for it."""
        return exploration.Actor(begin, self)

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

    def learn(self, rollout: Rollout, progress: Progress) -> learner.Metrics:
        """Learns from one iteration's steps."""
        on_device = jax.device_put(rollout, meshes.replicated(self._mesh))
        weight, taught = expert_weight_at(self._settings, progress.iteration), None
        if weight and self._expert_params:  # what counts for nothing is not asked
            taught = Taught(self._expert_params, jnp.float32(weight))
        key = jax.random.fold_in(self._key, progress.iteration + 2)
        self.train, numbers = self._update(self.train, on_device, key, taught)
        if self._average is not None:
            self._average = self._follow(self._average, self.train.params)
        return numbers
