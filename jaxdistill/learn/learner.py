"""The student's update: many minibatches in one jitted call, sharded over the mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from jaxdistill import meshes, networks
from jaxdistill.learn import losses, windows
from jaxdistill.tasks.actions import Discrete, Form
from jaxdistill.tasks.views import AnyView

Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """What an update changes: parameters, optimiser state, and the number of updates done."""

    params: Any
    opt_state: Any
    step: jax.Array

    @property
    def eval_params(self) -> Any:
        """The parameters to play with."""
        return self.params


@flax.struct.dataclass
class AveragedState(TrainState):
    """A train state that also keeps the exponential moving average of its parameters, to play with.

    Attributes:
      ema: the average.
    """

    ema: Any

    @property
    def eval_params(self) -> Any:
        """The average."""
        return self.ema


OPTIMISERS = ("adamw", "adam_l2", "radam")


def optimiser(
    name: str,
    *,
    learning_rate: float,
    updates: int,
    final_fraction: float = 0.1,
    schedule: str = "cosine",
    clip_norm: float = 10.0,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then the optimiser called `name`.

    Args:
      name: one of `OPTIMISERS`: "adamw", "adam_l2" or "radam".
      weight_decay: decoupled from the gradient (Loshchilov & Hutter 2019), but for "adam_l2", where
        it is added to the gradient as `torch.optim.Adam` does.
      learning_rate: the rate at the start.
      updates: number of updates after which the rate stands at `final_fraction` of it.
      schedule: "cosine", "linear" or "constant".

    Raises:
      ValueError: an unknown name or schedule.
    """
    rates = {
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, updates, final_fraction),
        "linear": lambda: optax.linear_schedule(
            learning_rate, learning_rate * final_fraction, updates
        ),
        "constant": lambda: optax.constant_schedule(learning_rate),
    }
    if schedule not in rates:
        raise ValueError(f"schedule {schedule!r} is not one of {', '.join(rates)}")
    rate = rates[schedule]()
    if name not in OPTIMISERS:
        raise ValueError(f"optimiser {name!r} is not one of {', '.join(OPTIMISERS)}")
    if name == "adamw":
        rule = optax.adamw(rate, weight_decay=weight_decay)
    elif name == "adam_l2":
        rule = optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(rate, eps=1e-8))
    elif weight_decay:
        rule = optax.chain(
            optax.scale_by_radam(),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(rate),
        )
    else:
        rule = optax.radam(rate)
    return optax.chain(optax.clip_by_global_norm(clip_norm), rule)


def create_state(
    params: networks.Params,
    transform: optax.GradientTransformation,
    mesh: Mesh,
    *,
    averaged: bool = False,
) -> TrainState:
    """A fresh train state, replicated over the mesh; `params` are copied, never shared."""
    params = jax.tree.map(jnp.array, params)
    state = TrainState(params, transform.init(params), jnp.zeros((), jnp.int32))
    if averaged:
        state = AveragedState(**vars(state), ema=jax.tree.map(jnp.array, params))
    return meshes.put(mesh, state)


def sharded_gradient(
    loss: Callable[[Any, Any, Any], tuple[jax.Array, Metrics]], mesh: Mesh
) -> Callable[[Any, Any, Any], tuple[Any, Metrics]]:
    """`(params, shared, batch) -> (gradient, metrics)`, each device taking its part of the batch.

    `loss(params, shared, batch)` returns a mean over the batch and metrics that are means too.
    Leaves of `batch` are `(L, B, ...)` and split along B, so each device holds equally many rows of
    every game and the mean of the devices' means is the mean. `shared` is whole on every device.
    """

    def local(params: Any, shared: Any, batch: Any) -> tuple[Any, Metrics]:
        gradient, metrics = jax.grad(loss, has_aux=True)(params, shared, batch)
        return jax.lax.pmean((gradient, metrics), meshes.AXIS)

    whole = PartitionSpec()
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, whole, PartitionSpec(None, meshes.AXIS)),
        out_specs=whole,
        check_vma=False,
    )


def apply_gradient(
    state: TrainState,
    gradient: Any,
    transform: optax.GradientTransformation,
    ema_decay: float = 0.0,
) -> TrainState:
    """One optimiser step; the average, where one is kept, follows with `1 - ema_decay`.

    At first it follows faster, at step t with at least 9 / (10 + t): it forgets where it began.
    """
    changes, opt_state = transform.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, changes)
    if isinstance(state, AveragedState):
        rate = jnp.maximum(1.0 - ema_decay, 9.0 / (10.0 + state.step))
        ema = optax.incremental_update(params, state.ema, rate)
        state = dataclasses.replace(state, ema=ema)
    return dataclasses.replace(state, params=params, opt_state=opt_state, step=state.step + 1)


Update = Callable[[TrainState, windows.Window, jax.Array], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """What a student is to become like in each of G games, whose outputs are A numbers.

    Attributes:
      loss: one of `losses.of(form)`.
      masks: `(G, A)` bool, the valid actions of each game.
      temperatures: `(G,)`, of each game's expert.
      form: what outputs mean; by default one action of several.
      first_loss, first_updates: over so many updates, a number per game, the loss turns linearly
        from this one into `loss`; None, or 0 updates, is `loss` from the start.
      entropy_weight: how much of the student's entropy, in nats, is taken off its loss: of the
        softmax of its outputs, at the expert's temperature where `loss` has them end on the scale
        of the expert's (`losses.Loss.gives_q`).

    Raises:
      ValueError: an unknown loss.
    """

    loss: str
    masks: jax.Array
    temperatures: jax.Array
    form: Form | None = None
    first_loss: str | None = None
    first_updates: Sequence[int] = ()
    entropy_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in (self.loss, self.first_loss or self.loss):
            if name not in self.known:
                raise ValueError(f"loss {name!r} is not one of {', '.join(self.known)}")

    @property
    def means(self) -> Form:
        """What outputs mean."""
        return self.form or Discrete(self.masks.shape[1])

    @property
    def known(self) -> Mapping[str, losses.Loss]:
        """The losses there are for such outputs, by name."""
        return losses.of(self.means)


@dataclasses.dataclass(frozen=True, eq=False)
class Minibatches:
    """What one call of an update learns from.

    Attributes:
      number: of minibatches, one optimiser step each.
      per_game: rows of each game in one.
      shares: `(G,)`, how many times as many rows a game has, and how much its loss then counts in
        the mean over games; None is 1 of all.
    """

    number: int
    per_game: int
    shares: Sequence[int] | None = None


def make_update(
    network: networks.Network,
    transform: optax.GradientTransformation,
    mesh: Mesh,
    *,
    objective: Objective,
    minibatches: Minibatches,
    ema_decay: float = 0.0,
    view: AnyView | None = None,
    seen: jax.Array | None = None,
) -> Update:
    """The jitted `update(state, window, key) -> (state, metrics)` of several optimiser steps.

    Every minibatch draws usable rows of each game with `fold_in(key, step)`, so that a resumed run
    draws what the whole run would have. `state` is donated.

    Args:
      ema_decay: of the state's average, where it keeps one.
      view: what the network sees of the window's frames; None is all.
      seen: `(G, D)` bool, the numbers seen that each game's expert can know of. The others are
        taken from a row of another game, so that the student does not take them for a sign of the
        game: what it should do does not depend on them. None leaves all as they are.

    Returns:
      The update. Its metrics are means over the call: `loss`, `gradient_norm`, and `(G,)` arrays
      `game_loss`, what `form.compare` says of the student and the expert, `student_entropy` (as
      `Objective.entropy_weight` has it) and `expert_entropy` (at the expert's temperature), in
      nats.

    Raises:
      ValueError: a batch that does not split over the mesh.
    """
    see = view.see if view is not None else lambda stacks: stacks
    form, known, masks = objective.means, objective.known, objective.masks
    loss, first_loss = known[objective.loss], known.get(objective.first_loss or "")
    entropy_weight, batch_per_game = objective.entropy_weight, minibatches.per_game
    meshes.check_divisible(mesh, "batch per game", batch_per_game)
    num_games, num_actions = masks.shape
    times = (
        np.ones(num_games, int) if minibatches.shares is None else np.asarray(minibatches.shares)
    )
    chex.assert_shape(times, (num_games,))
    lanes = jnp.asarray(np.repeat(np.arange(num_games), times))
    weights = jnp.asarray(times / times.mean(), jnp.float32)
    if first_loss:
        turning = jnp.asarray(objective.first_updates, jnp.float32)
        chex.assert_shape(turning, (num_games,))

    def observed(window: windows.Window, rows: jax.Array, others: Any) -> tuple[Any, jax.Array]:
        stacks, labels = windows.gather(window, lanes, rows)
        stacks = see(stacks)
        if seen is not None:
            foreign = windows.stacks(window.frames, window.ages, others[0], others[1], window.depth)
            stacks = jnp.where(seen[lanes, None, None], stacks, see(foreign))
        return stacks, labels

    def mean_loss(params: Any, shared: tuple[windows.Window, jax.Array], batch: Any):
        (window, step), (rows, *others) = shared, batch
        stacks, labels = observed(window, rows, others)
        games = jnp.repeat(lanes, rows.shape[1])
        outputs = networks.forward(network, params, stacks.reshape(-1, *stacks.shape[2:]), games)
        labels = labels.reshape(-1, num_actions)
        mask = masks[games]
        temperature = objective.temperatures[games][:, None]
        values = loss.function(outputs, labels, mask, temperature)
        if first_loss:
            first = first_loss.function(outputs, labels, mask, temperature)
            left = (jnp.maximum(turning - step, 0.0) / jnp.maximum(turning, 1.0))[games]
            values = left * first + (1.0 - left) * values
        sharpened = jnp.where(mask, labels, 0.0) / temperature

        def per_game(x: jax.Array) -> jax.Array:
            return losses.per_game_mean(x, games, num_games)

        own = outputs / temperature if loss.gives_q else outputs
        game_loss, entropy = per_game(values), per_game(form.entropy(own, mask))
        compared = form.compare(outputs, labels, mask)
        return (weights * (game_loss - entropy_weight * entropy)).mean(), {
            "loss": (weights * game_loss).mean(),
            "game_loss": game_loss,
            **{name: per_game(x) for name, x in compared.items()},
            "student_entropy": entropy,
            "expert_entropy": per_game(form.entropy(sharpened, mask)),
        }

    gradient_of = sharded_gradient(mean_loss, mesh)

    def update(state: TrainState, window: windows.Window, key: jax.Array):
        def minibatch(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            now = jax.random.fold_in(key, state.step)
            batch: tuple[jax.Array, ...] = (windows.sample(window, now, lanes, batch_per_game),)
            if seen is not None:
                other = jax.random.fold_in(now, 1)
                batch += windows.sample_others(window, other, lanes, batch_per_game)
            gradient, metrics = gradient_of(state.params, (window, state.step), batch)
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            return apply_gradient(state, gradient, transform, ema_decay), metrics

        state, metrics = jax.lax.scan(minibatch, state, None, length=minibatches.number)
        return state, jax.tree.map(lambda x: x.mean(axis=0), metrics)

    return jax.jit(update, donate_argnums=0)


def host_metrics(metrics: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    """Metrics as floats for logging; per-game arrays become `name/game`. Waits for the device."""
    rows: dict[str, float] = {}
    for name, value in jax.device_get(dict(metrics)).items():
        if getattr(value, "ndim", 0) == 0:
            rows[name] = float(value)
        else:
            rows |= {f"{name}/{game}": float(x) for game, x in zip(names, value, strict=True)}
    return rows
