"""One network made of several of one shape, by their weights and without distilling them.

w_1 .. w_n are the experts' parameters.

- `mean`: their mean (Wortsman et al. 2022, "Model soups").
- `task_arithmetic`: w_0 + scale * sum_i (w_i - w_0), what each has changed of a base w_0 (Ilharco
  et al. 2023, "Editing models with task arithmetic").
- `fisher`: a mean in which a weight counts as much as its network's policy depends on it
  (Matena & Raffel 2022, "Merging models with Fisher-weighted averaging").
- `htcl`: one expert after another by a Taylor step, and catch-up rounds after each (HTCL; Nag,
  Raghavan & Narayanan 2026), as the reference report has it.
- `taylor_one_shot`, `taylor_iterative`: Taylor steps from the mean towards the mean, by the loss of
  all games: one, or several that shrink.
- `aligned_mean`: the mean, once units are matched. They have no order, so those of one network are
  first put in the order of another's (Ainsworth et al. 2023, "Git Re-Basin", activation matching).

A Taylor step minimises, about w, the second-order expansion of a loss with the gradient g and the
diagonal curvature H, plus damping / 2 times the squared distance to other weights v:

    w + rate * (H + damping)^-1 (damping * (v - w) - g)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdistill import networks
from jaxdistill import settings as settings_lib
from jaxdistill.learn import learner, losses, windows
from jaxdistill.settings import Count, OneOf, Positive, Share, Steps, Temperature, Text, Weight
from jaxdistill.tasks import actions
from jaxdistill.tasks.views import AnyView

Params = networks.Params

METHODS = (
    "mean",
    "task_arithmetic",
    "fisher",
    "htcl",
    "taylor_one_shot",
    "taylor_iterative",
    "aligned_mean",
)
TD = "td"
CATCH_UP_CLIP = 10.0  # of the gradient's norm, as the report has it
_JUDGED = 2  # batches by which catch-up rounds are judged


@dataclasses.dataclass(frozen=True)
class Merge:
    """How weights are merged; every method reads some of these.

    Attributes:
      base: what task arithmetic measures changes from, HTCL begins as, and others are aligned with:
        a game of the run, any expert's file, or a run's directory, whose student it is; None is the
        first expert.
      scale: "task_arithmetic": factor of the summed differences from `base`.
      loss: whose gradients the Taylor steps take: "td", the error of the network's own Q-learning
        targets, or one of `losses.LOSSES` against the experts' outputs.
      q_temperature: softmax temperature of the experts' Q-values in losses that know one, and of
        the policy whose dependence on the weights "fisher" measures.
      discount, reward_limit, reward_scale: loss "td": the discount, what rewards are clipped to on
        both sides (0 leaves them; None is what the suite says: 1 in Atari, 0 elsewhere), and what
        they are multiplied by then: as the experts were trained.
      batch_size: rows of all games together in one batch.
      damping: damping of the Taylor steps; None is 1000 times the largest curvature.
      rate: "htcl", "taylor_iterative": size of the Taylor steps, of which 1 is the whole.
      clip_norm: "htcl": what a step changes in one tensor is shortened to this norm.
      catch_up_rounds: "htcl": after each expert so many catch-up rounds at most. In each a copy
        learns from all states once, by Adam, and a Taylor step goes towards it; the first that does
        not lower the loss is undone and ends them.
      catch_up_rate, catch_up_damping: "htcl": Adam's learning rate in catch-up rounds, and the
        damping of their Taylor steps.
      rounds, round_decay: "taylor_iterative": number of steps, and the factor of `rate` after each.
    """

    base: Text | None = None
    scale: Positive = 0.3
    loss: Annotated[str, OneOf((TD, *losses.LOSSES))] = TD
    q_temperature: Temperature = 0.01
    discount: Share = 0.99
    reward_limit: Weight | None = None
    reward_scale: Positive = 1.0
    batch_size: Count = 256
    damping: Positive | None = None
    rate: Positive = 0.9
    clip_norm: Positive = 1.0
    catch_up_rounds: Steps = 5
    catch_up_rate: Positive = 1e-3
    catch_up_damping: Positive = 1e4
    rounds: Count = 3
    round_decay: Share = 0.5

    def __post_init__(self) -> None:
        settings_lib.check(self, "merge.")


def mean(experts: Sequence[Params]) -> Params:
    """(w_1 + .. + w_n) / n."""
    return _map(lambda *weights: sum(weights) / len(weights), *experts)


def task_arithmetic(base: Params, experts: Sequence[Params], scale: float) -> Params:
    """w_0 + scale * sum_i (w_i - w_0)."""
    return _map(lambda w, *weights: w + scale * sum(x - w for x in weights), base, *experts)


def fisher_mean(experts: Sequence[Params], fishers: Sequence[Params]) -> Params:
    """sum_i F_i w_i / sum_i F_i, each F_i divided by its mean; the mean where nothing counts.

    Without the division a game of larger Q-values would have more say in every weight.

    Args:
      fishers: of each expert the diagonal of its Fisher information.
    """
    known = [_shares(fisher) for fisher in fishers]
    weighted = [_map(jnp.multiply, w, f) for w, f in zip(experts, known, strict=True)]
    return _map(jnp.divide, mean(weighted), mean(known))


_FLOOR = 1e-8  # of the mean weight's Fisher information


def _shares(fisher: Params) -> Params:
    """Over their mean, and never quite 0."""
    mean_of_all = sum(x.sum() for x in jax.tree.leaves(fisher)) / networks.count(fisher)
    scale = jnp.maximum(mean_of_all, jnp.finfo(jnp.float32).tiny)
    return _map(lambda x: x / scale + _FLOOR, fisher)


class Slope(NamedTuple):
    """What a loss is at some parameters, over batches.

    Attributes:
      loss: its mean.
      gradient: its mean gradient.
      curvature: the mean square of a batch's gradient, for the diagonal of the second derivative.
    """

    loss: jax.Array
    gradient: Params
    curvature: Params


def taylor_step(
    params: Params,
    towards: Params,
    slope: Slope,
    *,
    damping: float | None,
    rate: float = 1.0,
    clip_norm: float | None = None,
) -> Params:
    """w + rate * (H + damping)^-1 (damping * (v - w) - g); see the module.

    Args:
      towards: v.
      damping: None is 1000 times the largest curvature.
      clip_norm: the change of each tensor is shortened to this norm.
    """
    known = damping_of(slope.curvature) if damping is None else damping

    def moved(w: jax.Array, v: jax.Array, g: jax.Array, h: jax.Array) -> jax.Array:
        change = rate * (known * (v - w) - g) / (h + known)
        if clip_norm is not None:
            norm = jnp.linalg.norm(change)
            change = change * jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-12))
        return w + change

    return _map(moved, params, towards, slope.gradient, slope.curvature)


def damping_of(curvature: Params) -> jax.Array:
    """1000 times the largest of all numbers; where that is 0, so that anything would do, 1e-5."""
    largest = jnp.stack([x.max() for x in jax.tree.leaves(curvature)]).max()
    return jnp.where(largest > 0, 1000 * largest, 1e-5)


@flax.struct.dataclass
class Seen:
    """What experts saw and did, on the device; row t * N + n of game g is step t of environment n.

    Attributes:
      window: what was seen, and labelled.
      masks: `(G, A)` bool, valid actions.
      played: `(G, T * N)` int32, actions.
      rewards: `(G, T * N)` float32 of these actions, as they are to be learnt from.
      ended: `(G, T * N)` bool, nothing of worth follows them: the game, or a life, is over.
    """

    window: windows.Window
    masks: jax.Array
    played: jax.Array
    rewards: jax.Array
    ended: jax.Array


class Batch(NamedTuple):
    """Rows of several games: of which game `(B,)`, which `(B,)`, and a key for what is drawn."""

    games: jax.Array
    rows: jax.Array
    key: jax.Array


Loss = Callable[[Params, Seen, Batch], jax.Array]
"""`loss(params, seen, batch)`, the mean over the batch's rows."""


def td_loss(network: networks.Network, view: AnyView, discount: float) -> Loss:
    """Huber loss of r + discount * max_a Q(s', a) - Q(s, a), over valid actions a.

    The target is the network's own, and not differentiated.
    """

    def loss(params: Params, seen: Seen, batch: Batch) -> jax.Array:
        games, rows = batch.games, batch.rows
        values, mask = _outputs(network, view, params, seen, batch), seen.masks[games]
        next_rows = rows + seen.window.frames.shape[2]
        after = _outputs(network, view, params, seen, batch._replace(rows=next_rows))
        best = actions.mask_outputs(after, mask).max(axis=-1)
        left = jnp.where(seen.ended[games, rows], 0.0, discount * best)
        target = jax.lax.stop_gradient(seen.rewards[games, rows] + left)
        chosen = jnp.take_along_axis(values, seen.played[games, rows][:, None], axis=-1)[:, 0]
        return cast(jax.Array, optax.huber_loss(chosen, target).mean())

    return loss


def imitation_loss(network: networks.Network, view: AnyView, name: str, temperature: float) -> Loss:
    """The loss of `losses.LOSSES` called `name`, against the experts' outputs."""

    def loss(params: Params, seen: Seen, batch: Batch) -> jax.Array:
        games, rows, envs = batch.games, batch.rows, seen.window.frames.shape[2]
        labels = seen.window.labels[games, rows // envs, rows % envs]
        outputs = _outputs(network, view, params, seen, batch)
        return losses.LOSSES[name].function(outputs, labels, seen.masks[games], temperature).mean()

    return loss


def likelihood_loss(network: networks.Network, view: AnyView, temperature: float) -> Loss:
    """-log p(a | s) of the network's own policy softmax(Q / temperature), a drawn from it.

    Its gradients in two rows are independent, and zero in the mean. So the mean square of a batch's
    is the Fisher information over the number of rows.
    """

    def loss(params: Params, seen: Seen, batch: Batch) -> jax.Array:
        outputs = _outputs(network, view, params, seen, batch) / temperature
        mask = seen.masks[batch.games]
        drawn = jax.random.categorical(batch.key, actions.mask_outputs(outputs, mask))
        drawn = jax.lax.stop_gradient(drawn)
        return -actions.log_probability(outputs, drawn, mask).mean()

    return loss


def _outputs(
    network: networks.Network, view: AnyView, params: Params, seen: Seen, batch: Batch
) -> jax.Array:
    return networks.forward(network, params, _observed(view, seen, batch))


def _observed(view: AnyView, seen: Seen, batch: Batch) -> jax.Array:
    window = seen.window
    stacks = windows.stacks(window.frames, window.ages, batch.games, batch.rows, window.depth)
    return cast(jax.Array, view.see(stacks))


class States:
    """What was seen, gone through in batches that are shuffled once: a loss, and its gradients."""

    def __init__(
        self,
        seen: Seen,
        loss: Loss,
        merge: Merge,
        *,
        seed: int = 0,
        names: Sequence[str] = (),
        advance: Callable[[int], object] = lambda rows: None,
    ):
        """Chooses the rows: those whose next step was seen too, as "td" needs.

        Args:
          merge: its `batch_size` and `catch_up_rate` are read.
          names: of the games, for messages.
          advance: called with the number of rows that have been gone through.

        Raises:
          ValueError: there is no such row of a game.
        """
        self._seen, self._merge, self._seed, self._advance = seen, merge, seed, advance
        steps, envs = seen.window.frames.shape[1:3]
        rows, counts = jax.device_get((seen.window.rows, seen.window.counts))
        usable = [row[:count] for row, count in zip(rows, counts, strict=True)]
        self._rows = [row[row < (steps - 1) * envs] for row in usable]
        for game, row in enumerate(self._rows):
            if not len(row):
                name = names[game] if names else f"game {game + 1} of {len(self._rows)}"
                raise ValueError(
                    f"{name}: none of its {steps * envs} steps in {envs} environments is followed "
                    f"by another that was seen, as these weights are merged by; raise "
                    f"collect.initial_steps"
                )
        self._batches: dict[tuple[int, ...], list[Batch]] = {}
        self._transform = learner.optimiser(
            "adam_l2",
            learning_rate=merge.catch_up_rate,
            updates=1,
            schedule="constant",
            clip_norm=CATCH_UP_CLIP,
        )

        def add(sums: Slope, params: Params, seen: Seen, batch: Batch) -> Slope:
            value, gradient = jax.value_and_grad(loss)(params, seen, batch)
            square = jax.tree.map(jnp.square, gradient)
            return cast(Slope, jax.tree.map(jnp.add, sums, Slope(value, gradient, square)))

        def learn(state: learner.TrainState, seen: Seen, batch: Batch) -> learner.TrainState:
            gradient = jax.grad(loss)(state.params, seen, batch)
            return learner.apply_gradient(state, gradient, self._transform)

        self._value = jax.jit(loss)
        self._add, self._learn = jax.jit(add, donate_argnums=0), jax.jit(learn, donate_argnums=0)

    @property
    def games(self) -> tuple[int, ...]:
        """All."""
        return tuple(range(len(self._rows)))

    def batches(self, games: Sequence[int]) -> list[Batch]:
        """Equally many rows of each of `games`, mixed; always the same for the same games."""
        known = self._batches.get(tuple(games))
        if known is None:
            rng = np.random.default_rng((self._seed, *games))
            fewest = min(len(self._rows[game]) for game in games)
            rows = [rng.permutation(self._rows[game])[:fewest] for game in games]
            pairs = np.stack([np.repeat(games, fewest), np.concatenate(rows)])
            pairs = rng.permutation(pairs, axis=1).astype(np.int32)
            size = min(self._merge.batch_size, pairs.shape[1])
            key = jax.random.key(self._seed)
            known = [
                Batch(
                    games=jnp.asarray(pairs[0, i : i + size]),
                    rows=jnp.asarray(pairs[1, i : i + size]),
                    key=jax.random.fold_in(key, i),
                )
                for i in range(0, pairs.shape[1] - size + 1, size)
            ]
            self._batches[tuple(games)] = known
        return known

    def _through(self, games: Sequence[int]) -> Iterable[Batch]:
        for batch in self.batches(games):
            yield batch
            self._advance(len(batch.rows))

    def slope(self, params: Params, games: Sequence[int]) -> Slope:
        """The loss over the states of `games`, its gradient and its curvature."""
        sums = Slope(jnp.zeros(()), *(_map(jnp.zeros_like, params) for _ in range(2)))
        for batch in self._through(games):
            sums = self._add(sums, params, self._seen, batch)
        return cast(Slope, jax.tree.map(lambda x: x / len(self.batches(games)), sums))

    def loss(self, params: Params, games: Sequence[int]) -> float:
        """The loss over the first two batches."""
        judged = self.batches(games)[:_JUDGED]
        return float(np.mean([self._value(params, self._seen, batch) for batch in judged]))

    def learnt(self, params: Params, games: Sequence[int]) -> Params:
        """What one pass by Adam makes of a copy of `params`."""
        copy = _map(jnp.array, params)
        state = learner.TrainState(copy, self._transform.init(copy), jnp.zeros((), jnp.int32))
        for batch in self._through(games):
            state = self._learn(state, self._seen, batch)
        return cast(Params, state.params)

    def observations(self, view: AnyView) -> Iterable[jax.Array]:
        """What a network of this view sees in the states of all games, batch by batch."""
        for batch in self._through(self.games):
            yield _observed(view, self._seen, batch)


def fisher(states: States, params: Params, game: int) -> Params:
    """The diagonal Fisher information of a policy on the states of one game.

    Args:
      states: with `likelihood_loss`.
    """
    size = len(states.batches([game])[0].rows)
    return _map(lambda x: size * x, states.slope(params, [game]).curvature)


def htcl(
    states: States, experts: Mapping[int, Params], begun: Params, first: int | None, merge: Merge
) -> Params:
    """One expert after another.

    Each is drawn in by a Taylor step, on the states of all games so far, its own too; then catch-up
    rounds, see `Merge.catch_up_rounds`.

    Args:
      experts: by the index of their game.
      begun: what is begun with: the expert of the game `first`, or of none, which is None.
    """
    merged, games = begun, [] if first is None else [first]
    for game, expert in experts.items():
        if game == first:
            continue
        games.append(game)
        merged = taylor_step(
            merged,
            expert,
            states.slope(merged, games),
            damping=merge.damping,
            rate=merge.rate,
            clip_norm=merge.clip_norm,
        )
        merged = _caught_up(states, merged, games, merge)
    return merged


def _caught_up(states: States, params: Params, games: Sequence[int], merge: Merge) -> Params:
    loss = states.loss(params, games)
    for _ in range(merge.catch_up_rounds):
        tried = taylor_step(
            params,
            states.learnt(params, games),
            states.slope(params, games),
            damping=merge.catch_up_damping,
            rate=merge.rate,
            clip_norm=merge.clip_norm,
        )
        now = states.loss(tried, games)
        if not now < loss:
            break
        params, loss = tried, now
    return params


def taylor_one_shot(states: States, experts: Sequence[Params], damping: float | None) -> Params:
    """One whole step from the mean towards the mean: w - (H + damping)^-1 g."""
    middle = mean(experts)
    return taylor_step(middle, middle, states.slope(middle, states.games), damping=damping)


def taylor_iterative(states: States, experts: Sequence[Params], merge: Merge) -> Params:
    """`merge.rounds` steps towards the mean, which is where they begin, at a rate that falls."""
    middle = merged = mean(experts)
    for index in range(merge.rounds):
        merged = taylor_step(
            merged,
            middle,
            states.slope(merged, states.games),
            damping=merge.damping,
            rate=merge.rate * merge.round_decay**index,
        )
    return merged


def aligned(
    network: networks.Network,
    reference: Params,
    others: Sequence[Params],
    observations: Iterable[jax.Array],
) -> list[Params]:
    """`others` with the units of every hidden layer in the order of `reference`'s.

    Of all orders it is the one in which sum_k <a_k, b_k> is largest, with a_k and b_k what the k-th
    units make of the same observations, one number for every place that a convolution looks at.

    Args:
      observations: batches `(B, stack, *frame)`.

    Raises:
      ValueError: the network has other parts, see `hidden_layers`.
    """
    # Here and not above: a tenth of a program's start, and few programs align anything.
    from scipy.optimize import linear_sum_assignment

    names = [layer.name for layer in hidden_layers(network)]

    @jax.jit
    def products(
        reference: Params, others: Sequence[Params], batch: jax.Array
    ) -> list[dict[str, jax.Array]]:
        ours = _activations(network, reference, batch)
        theirs = [_activations(network, other, batch) for other in others]
        return [
            {name: jnp.matmul(ours[name].T, units[name], precision="highest") for name in names}
            for units in theirs
        ]

    sums: Any = None
    for batch in observations:
        now = jax.tree.map(np.float64, jax.device_get(products(reference, list(others), batch)))
        sums = now if sums is None else jax.tree.map(np.add, sums, now)
    return [
        permuted(
            network,
            other,
            {
                name: linear_sum_assignment(product, maximize=True)[1]
                for name, product in own.items()
            },
        )
        for other, own in zip(others, sums, strict=True)
    ]


def permuted(network: networks.Network, params: Params, orders: Mapping[str, np.ndarray]) -> Params:
    """The same function with the units of hidden layers in another order.

    Args:
      orders: by the layer's name, such as "conv1" or "action_fc1": which unit comes in each place.
    """
    layers = {name: dict(layer) for name, layer in params["params"].items()}
    for layer in hidden_layers(network):
        if layer.name not in orders:
            continue
        order = np.asarray(orders[layer.name])
        for own in (layer.name, layer.norm):
            if own in layers:
                layers[own] = {name: np.asarray(x)[..., order] for name, x in layers[own].items()}
        for taker in layer.takers:
            kernel = np.asarray(layers[taker]["kernel"])
            # Places of a picture, or of a kernel, then units.
            rows = kernel.reshape(-1, len(order), kernel.shape[-1])
            layers[taker]["kernel"] = rows[:, order].reshape(kernel.shape)
    return {"params": layers}


class Hidden(NamedTuple):
    """A layer whose units have no order: its name, its norm's, and the layers that take them."""

    name: str
    norm: str
    takers: tuple[str, ...]
    activation: str


def hidden_layers(network: networks.Network) -> list[Hidden]:
    """The hidden layers that outputs depend on.

    Raises:
      ValueError: the network has residual sections, streams, or what knows its game.
    """
    if network.residual or network.streams or network.knows_game:
        raise ValueError(
            "units are aligned in networks of convolutions and dense layers alone; expected one "
            "without residual sections, streams, or parts of a game's own"
        )
    head = tuple(networks.first_dense(network.clone(hidden=())))
    parts: list[tuple[str, Sequence[Any], tuple[str, ...]]] = [
        ("conv", network.convs, tuple(networks.first_dense(network))),
        ("fc", network.hidden, head),
        ("action_fc", network.action_hidden, ("action",)),
        ("value_fc", network.value_hidden, ("value",)),
    ]
    layers, activations = list[Hidden](), iter(network.activations)
    for prefix, part, last in parts:
        for i in range(1, len(part) + 1):
            takers = last if i == len(part) else (f"{prefix}{i + 1}",)
            layers.append(Hidden(f"{prefix}{i}", f"{prefix}_norm{i}", takers, next(activations)))
    critic = network.head == "actor_critic"  # it is not run, and stays as it is
    return [layer for layer in layers if not (critic and layer.name.startswith("value_fc"))]


def _activations(
    network: networks.Network, params: Params, observations: jax.Array
) -> dict[str, jax.Array]:
    """`(examples * places, units)` of every hidden layer."""
    _, kept = network.apply(
        params, observations, capture_intermediates=True, mutable=["intermediates"]
    )
    seen = kept["intermediates"]
    units = {}
    for layer in hidden_layers(network):
        (x,) = seen[layer.norm if layer.norm in seen else layer.name]["__call__"]
        x = networks.ACTIVATIONS[layer.activation](x)
        units[layer.name] = x.reshape(-1, x.shape[-1])
    return units


def _map(function: Callable[..., Any], *trees: Params) -> Params:
    return cast(Params, jax.tree.map(function, *trees))
