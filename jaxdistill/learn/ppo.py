"""Proximal policy optimisation (PPO; Schulman et al. 2017), for several tasks at once.

One network learns all tasks from steps that its own policy has just played. Each step is learnt
from a few times and then forgotten. With experts at hand a KL to them may stand beside the rewards.

The calls of a training, in order:

    policy = Policy(network)                           # one action of several, or
    policy = Policy(network, Factored(kinds))          # keys and angles
    params = create_params(policy, network_params, log_std)
    state = learner.create_state(params, transform, mesh)
    objective, passes = Objective(masks, discount, trace), Passes(batch_per_task, epochs)
    update = make_update(policy, transform, mesh, objective=objective, passes=passes)
    while training:
        ...  # `act` T times in the N environments of each of G tasks; `judge` what is seen last
        state, metrics = update(state, Rollout(...), key)

The same `key` serves every call: minibatches are drawn with `fold_in(key, updates done)`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxdistill import meshes, networks
from jaxdistill.experts.expert import expert_outputs
from jaxdistill.learn import learner, losses
from jaxdistill.learn.algorithm import Beginning, Observed, Progress
from jaxdistill.learn.origins import Pretrained
from jaxdistill.learn.rollout import Acted, Passes, Rollout, at_rows, tasks_of
from jaxdistill.learn.train_settings import (
    Settings,
    expert_weight_at,
    optimiser,
    temperature_of,
)
from jaxdistill.play import rollouts
from jaxdistill.tasks.actions import Discrete, Factored, Form
from jaxdistill.tasks.views import AnyView


@dataclasses.dataclass(frozen=True)
class Policy:
    """An actor and its critic: what a network's outputs are a distribution of.

    Attributes:
      network: one with a state value: "actor_critic", or "dueling", whose value no choice between
        actions depends on.
      form: what outputs mean; None is one action of several.
      view: what it sees of what pools show; None is all.
    """

    network: networks.Network
    form: Form | None = None
    view: AnyView | None = None

    def __post_init__(self) -> None:
        if self.network.head == "linear":
            raise ValueError("a network with a linear head has no state value to learn PPO with")
        if self.form is not None and self.form.size != self.network.num_outputs:
            raise ValueError(
                f"{self.form.size} kinds for {self.network.num_outputs} outputs of the network"
            )

    @property
    def acts(self) -> Form:
        """`form`, whichever it is."""
        return self.form or Discrete(self.network.num_outputs)

    @property
    def turns(self) -> bool:
        """Whether there are angles, whose deviations are learnt too."""
        return isinstance(self.form, Factored)


def create_params(
    policy: Policy, network_params: networks.Params, log_std: jax.Array | float | None = None
) -> Any:
    """What is learnt: the network's parameters, with angles `{"network": ..., "log_std": (A,)}`.

    Args:
      log_std: logarithm of the deviation of the angles, a number or `(A,)`; for those alone.

    Raises:
      ValueError: it is missing with angles, or given without.
    """
    if policy.turns != (log_std is not None):
        raise ValueError("log_std belongs to keys and angles: give it with a form, and only then")
    if log_std is None:
        return network_params
    log_std = jnp.broadcast_to(jnp.asarray(log_std, jnp.float32), (policy.acts.size,))
    return {"network": network_params, "log_std": log_std}


class Judged(NamedTuple):
    """What a policy says of what it sees.

    Attributes:
      outputs: `(B, A)` float32.
      log_std: `(A,)` of angles; None where there are none.
      values: `(B,)` float32, the critic's.
    """

    outputs: jax.Array
    log_std: jax.Array | None
    values: jax.Array


def judge(policy: Policy, params: Any, observations: jax.Array, games: Any = None) -> Judged:
    """Outputs and values of observations `(B, stack, *frame)`; `games` as `networks.forward`."""
    log_std = None
    if policy.turns:
        params, log_std = params["network"], params["log_std"]
    if policy.view is not None:
        observations = policy.view.see(observations)
    outputs, values = networks.forward_with_values(policy.network, params, observations, games)
    return Judged(outputs, log_std, values)


def act(
    policy: Policy,
    params: Any,
    observations: jax.Array,
    mask: jax.Array,
    key: jax.Array,
    *,
    seats: jax.Array | np.ndarray,
    games: Any = None,
) -> Acted:
    """Draws an action for each row.

    Args:
      observations: `(B, stack, *frame)`.
      mask: `(A,)` or `(B, A)`, valid actions or entries that count.
      seats: `(B,)` integers; row b draws with `fold_in(key, seats[b])`.
    """
    judged = judge(policy, params, observations, games)
    chosen = policy.acts.choose(
        judged.outputs,
        mask,
        key,
        epsilon=0.0,
        sample=True,
        log_std=judged.log_std,
        seats=seats,
    )
    probability = policy.acts.log_probability(judged.outputs, chosen, mask, judged.log_std)
    return Acted(chosen, judged.values, probability)


@flax.struct.dataclass
class Guide:
    """How an update stays near experts, whose outputs are a rollout's `labels`.

    Labels are logits (Q-values over their temperature), or keys' logits and angles.

    Attributes:
      weight: of KL(expert || policy) in the loss, a number; it may fall from call to call.
      log_std: `(G, A)`, of the experts' angles; None without a form.
      mask: `(G, A)` bool, what each expert has an output for: the others are not compared. None is
        all that counts in the task.
    """

    weight: jax.Array
    log_std: jax.Array | None = None
    mask: jax.Array | None = None


def gae(
    rewards: jax.Array,
    ended: jax.Array,
    truncated: jax.Array,
    values: jax.Array,
    next_values: jax.Array,
    *,
    discount: float,
    trace: float,
) -> jax.Array:
    """Generalised advantages (Schulman et al. 2016, eq. 16), all arrays `(T, ...)`:

    `A_t = r_t + gamma * V(s_{t+1}) - V(s_t) + gamma * lambda * A_{t+1}`

    After an end V(s_{t+1}) is 0; nothing is traced across an end or a cut. What the critic should
    say is `A_t + V(s_t)`.

    Args:
      ended, truncated, values, next_values: as in `Rollout`. Ended wins where both are said.
      discount, trace: gamma and lambda.
    """
    errors = rewards + discount * jnp.where(ended, 0.0, next_values) - values

    def backward(following: jax.Array, row: tuple[jax.Array, jax.Array]):
        error, last = row
        advantage = error + discount * trace * jnp.where(last, 0.0, following)
        return advantage, advantage

    start = jnp.zeros_like(errors[-1])
    return jax.lax.scan(backward, start, (errors, ended | truncated), reverse=True)[1]


def normalise(advantages: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean 0 and variance 1 over the valid ones of `(B,)`; 0 at the others.

    The variance is the population's. Where all are equal they become 0.
    """
    count = jnp.maximum(valid.sum(), 1)
    centred = jnp.where(valid, advantages, 0.0)
    for _ in range(
        2
    ):  # the mean of equal ones is off by a last bit, which would be divided by itself
        centred = jnp.where(valid, centred - centred.sum() / count, 0.0)
    return centred / (jnp.sqrt(jnp.square(centred).sum() / count) + 1e-8)


def surrogate(
    log_probabilities: jax.Array, old: jax.Array, advantages: jax.Array, clip: float
) -> jax.Array:
    """`min(r A, clip(r, 1 - clip, 1 + clip) A)`, `(B,)`, to be raised.

    It is equation 7 of Schulman et al. 2017.

    Args:
      log_probabilities, old: of the actions played, by the policy now and by the one that played
        them; r is the ratio of the probabilities.
    """
    ratio = jnp.exp(log_probabilities - old)
    return jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - clip, 1 + clip) * advantages)


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """What is learnt of a rollout of G tasks.

    Attributes:
      masks: `(G, A)` bool, the valid actions of each task, or with a form the entries that count.
      discount, trace: gamma and lambda of `gae`.
      clip: how far the ratio of probabilities may leave 1; see `surrogate`.
      value_weight: of the critic's loss, the square of V less what it should say; see `gae`.
      entropy_weight: how much of the entropy, in nats, is taken off the loss.

    Raises:
      ValueError: a number out of its range.
    """

    masks: jax.Array
    discount: float
    trace: float
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in ("discount", "trace"):
            _check(name, x := getattr(self, name), 0 <= x <= 1, "0 to 1")
        _check("clip", self.clip, 0 < self.clip < math.inf, "a number above 0")
        for name in ("value_weight", "entropy_weight"):
            _check(name, x := getattr(self, name), 0 <= x < math.inf, "0 or more")


def _check(name: str, value: float, allowed: bool, expected: str) -> None:
    if not allowed:
        raise ValueError(f"{name} is {value}, expected {expected}")


Update = Callable[..., tuple[learner.TrainState, learner.Metrics]]
"""`update(state, rollout, key, guide=None) -> (state, metrics)`."""


def make_update(
    policy: Policy,
    transform: optax.GradientTransformation,
    mesh: Mesh,
    *,
    objective: Objective,
    passes: Passes,
    warmup_calls: int = 0,
    ema_decay: float = 0.0,
) -> Update:
    """The jitted `update(state, rollout, key, guide=None) -> (state, metrics)` of one rollout.

    Every epoch shuffles each task's rows with `fold_in(key, step)` and goes through all of them in
    minibatches of equally many rows of each task. The loss is the mean over tasks of each task's
    mean over its valid rows; advantages are normalised in a minibatch, each task's by themselves.
    So no task wins by its rows, and none moves the policy's own layers the more for larger rewards.
    In layers that the critic shares it may: the critic's error is in rewards, so a task of larger
    ones moves them more. With a `guide` the rollout has labels. `state` is donated.

    Args:
      warmup_calls: in so many first calls the critic's own layers alone are moved, all that are
        called "value" in the network. A student that was taught without a critic would otherwise be
        driven off by what an untaught one says. The optimiser sees all gradients meanwhile, so that
        its moments fit when the policy is let go.
      ema_decay: of the state's average, where it keeps one.

    Returns:
      The update. Of its metrics `loss` and `gradient_norm` are numbers; `policy_loss`,
      `value_loss`, `entropy`, `kl` (to the policy that played, `r - 1 - log r`, Schulman's k3),
      `clip_fraction` (rows whose ratio is outside the clip), `explained_variance` (of the returns
      by the critic that played; 0 where they are all equal) and, with a guide, `expert_kl` are
      `(G,)`. All are means over the call.

    Raises:
      ValueError: a number out of its range, or a batch that does not split over the mesh. The
        update raises it for a batch that does not divide the rows, or a guide without `log_std`
        where the policy has angles.
    """
    _check("warmup_calls", warmup_calls, warmup_calls >= 0, "0 or more")
    meshes.check_divisible(mesh, "batch_per_task", passes.batch_per_task)
    num_tasks, num_outputs = objective.masks.shape
    if num_outputs != policy.network.num_outputs:
        raise ValueError(
            f"masks of {num_outputs} outputs for {policy.network.num_outputs} of the network"
        )
    gradient_of = learner.sharded_gradient(functools.partial(_loss, policy, objective), mesh)
    advantages_of = functools.partial(gae, discount=objective.discount, trace=objective.trace)

    def update(
        state: learner.TrainState, rollout: Rollout, key: jax.Array, guide: Guide | None = None
    ) -> tuple[learner.TrainState, learner.Metrics]:
        rows_per_task = rollout.rewards.shape[1] * rollout.rewards.shape[2]
        minibatches = passes.minibatches(rows_per_task)
        warmup_updates = warmup_calls * passes.epochs * minibatches
        advantages = jax.vmap(advantages_of)(
            rollout.rewards, rollout.ended, rollout.truncated, rollout.values, rollout.next_values
        )
        returns = advantages + rollout.values
        by_task = [x.reshape(num_tasks, -1) for x in (advantages, rollout.valid)]

        def minibatch(state: learner.TrainState, rows: jax.Array):
            batch = _batch(rows, *by_task)
            gradient, metrics = gradient_of(state.params, (rollout, returns, guide), batch)
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            changing = transform
            if warmup_updates:
                changing = _critic_alone(transform, state.step < warmup_updates)
            return learner.apply_gradient(state, gradient, changing, ema_decay), metrics

        def epoch(state: learner.TrainState, _: None):
            keys = jax.random.split(jax.random.fold_in(key, state.step), num_tasks)
            order = jax.vmap(lambda k: jax.random.permutation(k, rows_per_task))(keys)
            batches = order.reshape(num_tasks, minibatches, -1).swapaxes(0, 1)
            return jax.lax.scan(minibatch, state, batches)

        state, metrics = jax.lax.scan(epoch, state, None, length=passes.epochs)
        metrics = jax.tree.map(lambda x: x.mean(axis=(0, 1)), metrics)
        explained = jax.vmap(explained_variance)(
            *(x.reshape(num_tasks, -1) for x in (rollout.values, returns, rollout.valid))
        )
        return state, metrics | {"explained_variance": explained}

    return jax.jit(update, donate_argnums=0)


def _loss(
    policy: Policy,
    objective: Objective,
    params: Any,
    shared: tuple[Rollout, jax.Array, Guide | None],
    batch: _Batch,
) -> tuple[jax.Array, learner.Metrics]:
    """The loss of a minibatch, and its metrics; `shared` are the rollout, its returns, a guide."""
    rollout, returns, guide = shared
    seen = rollout.stacks(batch.rows)
    weights, advantages = batch.weights.reshape(-1), batch.advantages.reshape(-1)
    valid, tasks = weights > 0, tasks_of(batch.rows).reshape(-1)

    def played(values: Any) -> jax.Array:
        """`(B, ...)`; 0 where nothing was played, since NaN would pass through 0 * NaN."""
        return _where_valid(valid, at_rows(values, tasks, batch.rows.reshape(-1)))

    seen = _where_valid(valid, seen.reshape(-1, *seen.shape[2:]))
    judged, mask = judge(policy, params, seen, tasks), objective.masks[tasks]
    form = policy.acts
    now = form.log_probability(judged.outputs, played(rollout.actions), mask, judged.log_std)
    old = played(rollout.log_probabilities)
    ratio = jnp.exp(now - old)
    rows = {
        "policy_loss": -surrogate(now, old, advantages, objective.clip),
        "value_loss": jnp.square(judged.values - played(returns)),
        "entropy": form.entropy(judged.outputs, mask, judged.log_std),
        "kl": ratio - 1 - (now - old),
        "clip_fraction": (jnp.abs(ratio - 1) > objective.clip).astype(jnp.float32),
    }
    if guide is not None:
        rows["expert_kl"] = _expert_kl(policy, judged, played(rollout.labels), guide, tasks, mask)
    means = {
        name: (weights * x).reshape(len(objective.masks), -1).mean(axis=1)
        for name, x in rows.items()
    }
    loss = (
        means["policy_loss"]
        + objective.value_weight * means["value_loss"]
        - objective.entropy_weight * means["entropy"]
    )
    if guide is not None:
        loss = loss + guide.weight * means["expert_kl"]
    return loss.mean(), means | {"loss": loss.mean()}


def explained_variance(values: jax.Array, returns: jax.Array, valid: jax.Array) -> jax.Array:
    """`1 - Var(R - V) / Var(R)` over the valid ones of `(B,)`; 0 where all R are equal."""
    count = jnp.maximum(valid.sum(), 1)

    def variance(x: jax.Array) -> jax.Array:
        mean = jnp.where(valid, x, 0.0).sum() / count
        return jnp.where(valid, jnp.square(x - mean), 0.0).sum() / count

    whole = variance(returns)
    size = jnp.where(valid, jnp.square(returns), 0.0).sum() / count
    whole = jnp.where(whole > 1e-12 * size, whole, 0.0)  # else it is of what rounding leaves
    return jnp.where(whole > 0, 1 - variance(returns - values) / jnp.where(whole > 0, whole, 1), 0)


class _Batch(NamedTuple):
    """A minibatch, all `(G, B)`.

    Attributes:
      rows: t * N + n of each row.
      weights: 0 where the row is not valid; the mean of `weights * x` over B is that of x over the
        valid rows, also where B is split over devices that have not as many.
      advantages: normalised.
    """

    rows: jax.Array
    weights: jax.Array
    advantages: jax.Array


def _batch(rows: jax.Array, advantages: jax.Array, valid: jax.Array) -> _Batch:
    """The minibatch of `rows` `(G, B)`; the others are `(G, T * N)`."""
    valid = jnp.take_along_axis(valid, rows, axis=1)
    advantages = jnp.take_along_axis(advantages, rows, axis=1)
    share = jnp.maximum(valid.sum(axis=1, keepdims=True), 1) / rows.shape[1]
    return _Batch(rows, valid / share, jax.vmap(normalise)(advantages, valid))


def _where_valid(valid: jax.Array, values: jax.Array) -> jax.Array:
    """`values` `(B, ...)`, 0 in rows that are not valid."""
    shaped = valid.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(shaped, values, jnp.zeros((), values.dtype))


def _expert_kl(
    policy: Policy,
    judged: Judged,
    expert: jax.Array,
    guide: Guide,
    tasks: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    """KL(expert || policy) of each row, of what the expert has an output for."""
    if policy.turns and guide.log_std is None:
        raise ValueError("the guide of keys and angles has no log_std; give the experts' (G, A)")
    theirs = None if guide.log_std is None else guide.log_std[tasks]
    mask = mask if guide.mask is None else mask & guide.mask[tasks]
    return policy.acts.kl(judged.outputs, expert, mask, judged.log_std, theirs)


def _critic_alone(
    transform: optax.GradientTransformation, alone: jax.Array
) -> optax.GradientTransformation:
    """`transform`, whose changes to all but the critic's own layers are 0 where `alone`."""

    def change(gradient: Any, opt_state: Any, params: Any = None) -> tuple[Any, Any]:
        changes, opt_state = transform.update(gradient, opt_state, params)

        def held(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
            critic = any(str(getattr(name, "key", "")).startswith("value") for name in path)
            return x if critic else jnp.where(alone, 0.0, x)

        return jax.tree_util.tree_map_with_path(held, changes), opt_state

    return optax.GradientTransformation(transform.init, change)


def with_critic(
    student: Pretrained, temperature: float, key: jax.Array
) -> tuple[networks.Network, networks.Params]:
    """A student's network and parameters as an actor with a critic.

    All its heads are kept, and its choices. Q-values become the logits of their softmax at
    `temperature`. What bounds its angles (tanh) is taken away, since a Gaussian has no bounds:
    small turns stay as they are, and one of 27 degrees becomes 29. A critic is added where the
    student has none; `key` `(2,)` is of its parameters.

    Raises:
      ValueError: it has an output layer for each game, beside which a critic has no place.
    """
    network = student.network
    if network.controllers:
        raise ValueError(
            f"{student.name} has output layers of each game's own; expected a student with one head"
        )
    if network.head == "linear":
        activation = network.activation
        if not isinstance(activation, str):
            activation = (*activation, *["relu"] * len(_CRITIC))
        network = network.clone(head="actor_critic", value_hidden=_CRITIC, activation=activation)
    streams = tuple(dataclasses.replace(stream, bounded=False) for stream in network.streams)
    network = network.clone(streams=streams)
    fresh = networks.init(network, key, student.view.shape)["params"]
    layers = {**fresh, **student.params["params"]}
    params = {"params": layers}
    return network, as_logits(params, temperature) if student.outputs == "q" else params


def as_logits(params: networks.Params, temperature: float) -> networks.Params:
    """Parameters of Q-values as those of the logits of their softmax at `temperature`."""
    layers = dict(params["params"])
    layers["action"] = jax.tree.map(lambda x: x / temperature, layers["action"])
    return {"params": layers}


_CRITIC = (128, 64)  # hidden layers of a critic that is added


class Ppo:
    """What is learnt by proximal policy optimisation: from the steps just played."""

    def __init__(self, begin: Beginning):
        settings, mesh = begin.settings, begin.mesh
        suite = begin.lessons[0].task.suite
        self._settings, self._mesh = settings, mesh
        self._key = jax.random.fold_in(jax.random.key(settings.seed), 2)
        self.policy = Policy(begin.network, suite.factored, begin.view)
        self.experts = tuple(begin.experts)
        self._log_std = self._deviations(suite.num_actions) if suite.factored else None
        self._known = jnp.asarray([expert.mask for expert in self.experts])
        transform = optimiser(settings)
        angles = self._first_deviations(settings) if suite.factored else None
        params = create_params(self.policy, begin.params, angles)
        self.train = learner.create_state(params, transform, mesh, averaged=settings.ema_decay > 0)
        self._update = make_update(
            self.policy,
            transform,
            mesh,
            objective=Objective(
                begin.masks,
                discount=settings.discount,
                trace=settings.trace,
                clip=settings.policy_clip,
                value_weight=settings.value_weight,
                entropy_weight=settings.entropy_weight,
            ),
            passes=Passes(settings.batch_per_game, settings.epochs),
            warmup_calls=settings.critic_iterations,
            ema_decay=settings.ema_decay,
        )

    def _first_deviations(self, settings: Settings) -> jax.Array | float:
        """Logarithms of what angles begin with: of a copy its expert's own, where it is known."""
        own = self.experts[0].suite_log_std if settings.warm_start else None
        return math.log(math.radians(settings.angle_deviation)) if own is None else own

    def _deviations(self, size: int) -> jax.Array:
        """`(G, A)`, of the experts' angles; of those that do not say, what a loss takes."""
        usual = jnp.full(size, math.log(losses.ANGLE_DEVIATION))
        known = [expert.suite_log_std for expert in self.experts]
        return jnp.stack([usual if x is None else x for x in known] or [usual])

    def make_actor(self, begin: Beginning) -> Actor:
        """Who plays for it."""
        return Actor(begin, self)

    @property
    def arrays(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"train": self.train}

    @arrays.setter
    def arrays(self, restored: dict[str, Any]) -> None:
        self.train = restored["train"]

    def train_of(self, arrays: dict[str, Any]) -> learner.TrainState:
        """The train state of a checkpoint."""
        return arrays["train"]

    def network_params(self, params: Any) -> networks.Params:
        """The network's, among what is learnt."""
        return params["network"] if self.policy.turns else params

    def log_std(self, params: Any) -> np.ndarray | None:
        """`(A,)` of angles; None where there are none."""
        return np.asarray(params["log_std"]) if self.policy.turns else None

    def learn(self, rollout: Rollout, progress: Progress) -> learner.Metrics:
        """Learns from one iteration's steps."""
        on_device = jax.device_put(rollout, meshes.replicated(self._mesh))
        guide = None
        if rollout.labels is not None:
            weight = jnp.float32(expert_weight_at(self._settings, progress.iteration))
            guide = Guide(weight, self._log_std, self._known)
        self.train, numbers = self._update(self.train, on_device, self._key, guide)
        return numbers


class Actor:
    """Draws actions from the policy that learns; see `algorithm.Actor`."""

    def __init__(self, begin: Beginning, algorithm: Ppo):
        self._algorithm = algorithm
        self._key = jax.random.fold_in(jax.random.key(begin.settings.seed), 3)
        masks, experts, policy = begin.masks, algorithm.experts, algorithm.policy
        self._settings = settings = begin.settings
        self._expert_params = jax.device_put(
            [expert.params for expert in experts], meshes.replicated(begin.mesh)
        )
        self._asked: list[Any] = []
        temperatures = [temperature_of(expert, settings) for expert in experts]

        @jax.jit
        def play(params: Any, teachers: Any, observations: tuple[jax.Array, ...], key: jax.Array):
            shape = (len(observations), observations[0].shape[0])
            rows = np.repeat(np.arange(shape[0]), shape[1])
            seats = np.arange(rows.size)
            shown = jnp.concatenate(observations)
            acted = act(policy, params, shown, masks[rows], key, seats=seats, games=rows)
            acted = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), acted)
            if teachers:  # how many is known where it is compiled
                labels = expert_outputs(experts, teachers, observations, range(shape[0]))
                tempered = map(policy.acts.tempered, labels, temperatures)
                acted = acted._replace(labels=jnp.stack(list(tempered)))
            return acted

        @jax.jit
        def values(params: Any, observations: tuple[jax.Array, ...]):
            shape = (len(observations), observations[0].shape[0])
            rows = np.repeat(np.arange(shape[0]), shape[1])
            judged = judge(policy, params, jnp.concatenate(observations), rows)
            return judged.values.reshape(shape)

        self._play, self._values = play, values
        self.begin(Progress(0, 0))

    def begin(self, progress: Progress) -> dict[str, float]:
        """Experts that count for nothing in an iteration are not asked in it; nothing to log."""
        counts = expert_weight_at(self._settings, progress.iteration) > 0
        self._asked = self._expert_params if counts else []
        return {}

    @property
    def carry(self) -> networks.Carry:
        """Nothing: no network that it learns with is recurrent."""
        return ()

    def act(self, observed: Observed) -> Acted:
        """Actions, drawn, and what is to be remembered of them."""
        key = rollouts.fold_in(self._key, observed.turn)
        params = self._algorithm.train.params
        return self._play(params, self._asked, observed.observations, key)

    def values(self, observed: Observed) -> jax.Array:
        """Values `(G, N)`, the critic's."""
        return self._values(self._algorithm.train.params, observed.observations)

    @property
    def checkpoint_arrays(self) -> dict[str, np.ndarray]:
        """Nothing that a checkpoint must hold."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on; there is nothing to restore."""
