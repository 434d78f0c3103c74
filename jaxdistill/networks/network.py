"""Flax networks for experts and students, and the one table that names them.

Every network here is a `Network`: convolutions, shared dense layers, and a head. That covers the
2013 and 2015 DQNs, the dueling net (Wang et al. 2016), A3C/PPO actor-critics, the compressed nets
of Policy Distillation (Rusu et al. 2015) and plain MLPs; residual sections make it IMPALA's
(Espeholt et al. 2018). An architecture is a *value* of one class, and two experts of one shape are
equal as Python objects.

A policy of several hands at once (keys, a look, a click) has a head of *streams*: a small layer for
each on what is shared, and the outputs that are its own.

A student may be told which game it sees: by output layers of each game's own, or by a learnt vector
beside what the convolutions saw. Such a network takes `games`, the game of each row; cut down to
one game (`for_one_game`) it is an ordinary one again.

Other people's experts may see pixels normalised each by itself (`input_clip`), predict the return's
distribution in place of its mean (`atoms`, `fractions`), or pad as other libraries do; what they
answer is a mean all the same. Or they are *recurrent*: a cell behind the shared layers answers by
what it carries from step to step of a game, too (`advance`).

Observations are `(B, C, H, W)` as emulators and PyTorch hand them over. `uint8` means pixels and is
divided by 255 inside the network; floats are taken as they are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdistill.networks.convolutions import (
    ACTIVATIONS,
    CONVOLVED,
    HIDDEN_INIT,
    SMALL_INIT,
    Conv,
    ConvLayer,
    Normalised,
    Section,
    pixels,
)
from jaxdistill.tasks.atari import NUM_ACTIONS
from jaxdistill.tasks.task import Task

Params = Mapping[str, Any]

Carry = tuple[jax.Array, ...]
"""What a recurrent network carries from step to step, each array `(B, ...)`; zeros where a game
begins, and nothing at all of other networks."""

HEADS = ("linear", "dueling", "actor_critic")
COMPUTE_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# Examples of one cache-sized piece of the batch on CPU; see `forward`.
CPU_CHUNK = 16


NATURE_CONVS = (ConvLayer(32, 8, 4), ConvLayer(64, 4, 2), ConvLayer(64, 3, 1))


@dataclasses.dataclass(frozen=True)
class Stream:
    """One part of a head: a dense layer on what is shared, and its own outputs after it.

    Attributes:
      width: units of its dense layer.
      outputs: which of the network's outputs are its own.
      bounded: they go through tanh, to -1..1 (an angle's mean, in radians).
    """

    width: int
    outputs: tuple[int, ...]
    bounded: bool = False


@dataclasses.dataclass(frozen=True)
class Atoms:
    """Returns that a categorical head gives the probabilities of (Bellemare et al. 2017).

    Attributes:
      low, high: the least and the largest.
      count: how many, evenly spaced.
    """

    low: float
    high: float
    count: int


@dataclasses.dataclass(frozen=True)
class Core:
    """A recurrent cell behind the shared layers, with PyTorch's two biases.

    Attributes:
      kind: a key of `CELLS`.
      width: its units.
    """

    kind: str
    width: int


def _gru(seen: jax.Array, kept: jax.Array, carry: Carry) -> Carry:
    """h of what is seen and kept, `(B, 3 width)` each: reset, update and new."""
    (h,) = carry
    (reset, update, new), (old_reset, old_update, old) = (jnp.split(x, 3, -1) for x in (seen, kept))
    update = nn.sigmoid(update + old_update)
    new = jnp.tanh(new + nn.sigmoid(reset + old_reset) * old)
    return ((1 - update) * new + update * h,)


def _lstm(seen: jax.Array, kept: jax.Array, carry: Carry) -> Carry:
    """h and c of what is seen and kept, `(B, 4 width)` each: input, forget, cell and output."""
    enter, forget, cell, leave = jnp.split(seen + kept, 4, -1)
    c = nn.sigmoid(forget) * carry[1] + nn.sigmoid(enter) * jnp.tanh(cell)
    return (nn.sigmoid(leave) * jnp.tanh(c), c)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of recurrent cell.

    Attributes:
      gates: each of them is a dense layer of `width` outputs, side by side with the others.
      step: what is carried on, of both dense layers' outputs and of what was carried.
      carried: of how many arrays `(B, width)` that is; the first is what the head sees.
    """

    gates: int
    step: Callable[[jax.Array, jax.Array, Carry], Carry]
    carried: int


CELLS = {"gru": Cell(3, _gru, 1), "lstm": Cell(4, _lstm, 2)}
"""Cho et al. 2014, with the reset behind the product as PyTorch has it; Hochreiter and Schmidhuber
1997, with the forget gate of Gers et al. 2000."""


class Fractions(nn.Module):
    """What implicit quantiles make of features `(B, D)`: `(B, count, D)`.

    Features are multiplied by a vector for each fraction of the return's distribution (Dabney et
    al. 2018, section 3.1). The fractions are always the same, so their vectors are parameters.
    """

    count: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """In the features' dtype."""
        shape = (self.count, features.shape[-1])
        vectors = self.param("vectors", nn.initializers.ones_init(), shape)
        return features[:, None] * vectors.astype(features.dtype)


class Network(nn.Module):
    """Convolutions -> shared dense layers -> head; `(B, C, H, W)` -> `(B, num_outputs)`.

    Attributes:
      convs: convolutions, each followed by the activation; empty for an MLP on `(B, D)`.
      residual: channels of the residual sections after them (Espeholt et al. 2018, figure 3): a 3x3
        convolution, a 3x3 maximum at stride 2 and two residual blocks each.
      hidden: widths of dense layers shared by both streams of the head.
      head: "linear" (one output layer), "dueling" (value + advantage - mean advantage over *all*
        outputs, Wang et al. 2016 eq. 9) or "actor_critic" (logits, and a critic's value beside).
      action_hidden, value_hidden: dense widths private to the action / value stream.
      streams: in place of `action_hidden` and one layer of all outputs, a layer of each stream and
        its outputs; every output is of one stream. For a linear or an actor-critic head.
      num_outputs: size of the action head.
      activation: a key of `ACTIVATIONS`, after every layer but the heads; or one per layer, in the
        order convs, residual (a section is one layer), hidden, action_hidden (or one per stream),
        value_hidden.
      layer_norm: LayerNorm before every activation (as PQN needs).
      controllers: every game has an `action_hidden` and an output layer of its own, over its own
        actions alone (Rusu et al. 2015); the other outputs are 0. For a linear head.
      task_embedding: size of a learnt vector per game, beside the features: to each unit of the
        first dense layers a bias of the game's.
      one_hot: instead of a learnt vector, 1 in the game's place and 0 in the others'.
      game_actions: the actions of each game, for controllers and task embeddings; see `for_tasks`.
      atoms: every output is the mean of a distribution over these returns, whose logits the last
        layers give: for each action in turn its atoms'. In a dueling head values and advantages are
        logits too.
      fractions: every output is the mean over so many fractions of the return's distribution
        (implicit quantiles), for each of which the features are multiplied by a vector of its own.
        For a linear head.
      input_clip: pixels are normalised each by itself first, and cut to plus or minus this; 0
        leaves them.
      torch_pool: maxima of residual sections lie where PyTorch's padding of 1 has them, in place
        of TensorFlow's "SAME": in pictures of an even size one pixel up and to the left.
      core: a recurrent cell between the shared layers and a linear or dueling head. Its outputs are
        had by `advance` alone.
      frame_decay: of a recurrent network: each frame less the running mean of all frames since the
        game began, over their running deviation; both keep this share of themselves in a step. 0
        leaves frames as they are.
      dtype: what the torso computes in; parameters and head outputs stay float32.
    """

    convs: tuple[ConvLayer, ...] = NATURE_CONVS
    residual: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    head: str = "linear"
    action_hidden: tuple[int, ...] = ()
    value_hidden: tuple[int, ...] = ()
    streams: tuple[Stream, ...] = ()
    num_outputs: int = NUM_ACTIONS
    activation: str | tuple[str, ...] = "relu"
    layer_norm: bool = False
    controllers: bool = False
    task_embedding: int = 0
    one_hot: bool = False
    game_actions: tuple[tuple[int, ...], ...] = ()
    atoms: Atoms | None = None
    fractions: int = 0
    input_clip: float = 0.0
    torch_pool: bool = False
    core: Core | None = None
    frame_decay: float = 0.0
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Names the parameters: conv1.., fc1.., action_fc1.., action, value_fc1.., value.

        A core has core_input and core_hidden. With controllers controller1_fc1.., controller1,
        controller2_fc1.. stand for the action's; with streams stream1_fc1, stream1, stream2_fc1..
        """
        if self.head not in HEADS:
            raise ValueError(f"head {self.head!r} is not one of {', '.join(HEADS)}")
        if self.controllers and self.head != "linear":
            raise ValueError(f"controllers have a linear head, not {self.head!r}")
        if self.one_hot and self.task_embedding:
            raise ValueError("a network has a learnt vector per game or a one-hot one, not both")
        _check_streams(self)
        _check_distribution(self)
        _check_core(self)
        if self.knows_game and not self.game_actions:
            raise ValueError("controllers and task embeddings need the games; see for_tasks")
        for name in self.activations:
            if name not in ACTIVATIONS:
                raise ValueError(
                    f"activation {name!r} is not one of {', '.join(sorted(ACTIVATIONS))}"
                )
        if self.input_clip:
            self.input = Normalised(self.input_clip, name="input")
        if self.fractions:
            self.fraction = Fractions(self.fractions, name="fractions")
        self.conv = [
            Conv(layer, self.dtype, name=f"conv{i}") for i, layer in enumerate(self.convs, 1)
        ]
        self.conv_norm = self._norms("conv_norm", len(self.convs))
        self.section = [
            Section(
                features,
                self.activations[len(self.convs) + i],
                self.layer_norm,
                self.dtype,
                self.torch_pool,
                name=f"section{i + 1}",
            )
            for i, features in enumerate(self.residual)
        ]
        self.section_norm = self._norms("section_norm", min(1, len(self.residual)))
        if self.task_embedding:
            self.embedding = nn.Embed(
                len(self.game_actions),
                self.task_embedding,
                embedding_init=nn.initializers.normal(1.0),
                name="task_embedding",
            )
        self.fc, self.fc_norm = self._dense("fc", self.hidden)
        if self.core:
            width = CELLS[self.core.kind].gates * self.core.width
            dense = functools.partial(nn.Dense, width, dtype=self.dtype)
            self.core_input = dense(kernel_init=HIDDEN_INIT, name="core_input")
            self.core_hidden = dense(kernel_init=nn.initializers.orthogonal(), name="core_hidden")
        if self.controllers:
            self.controller = [
                (
                    *self._dense(f"controller{i}_fc", self.action_hidden),
                    nn.Dense(len(actions), kernel_init=SMALL_INIT, name=f"controller{i}"),
                )
                for i, actions in enumerate(self.game_actions, 1)
            ]
        elif self.streams:
            self.stream = [
                (
                    *self._dense(f"stream{i}_fc", (stream.width,)),
                    nn.Dense(len(stream.outputs), kernel_init=SMALL_INIT, name=f"stream{i}"),
                )
                for i, stream in enumerate(self.streams, 1)
            ]
        else:
            self.action_fc, self.action_norm = self._dense("action_fc", self.action_hidden)
            width = self.num_outputs * self.depth
            self.action = nn.Dense(width, kernel_init=SMALL_INIT, name="action")
        if self.head != "linear":
            self.value_fc, self.value_norm = self._dense("value_fc", self.value_hidden)
            self.value_out = nn.Dense(self.depth, kernel_init=SMALL_INIT, name="value")

    @property
    def knows_game(self) -> bool:
        """Whether outputs depend on the game, so that `games` must be given."""
        return self.controllers or self.one_hot or self.task_embedding > 0

    @property
    def depth(self) -> int:
        """How many numbers of the last layer one output is made of."""
        return self.atoms.count if self.atoms else 1

    @property
    def activations(self) -> tuple[str, ...]:
        """One per layer: convs, residual, hidden, action_hidden or streams, value_hidden.

        Raises:
          ValueError: `activation` lists another number of them.
        """
        layers = self._layers(5)
        if isinstance(self.activation, str):
            return (self.activation,) * layers
        if len(self.activation) != layers:
            raise ValueError(f"{len(self.activation)} activations for {layers} layers")
        return tuple(self.activation)

    def _layers(self, groups: int) -> int:
        """How many layers the first so many groups have."""
        action = (*self.action_hidden, *self.streams)  # never both
        all_groups = (self.convs, self.residual, self.hidden, action, self.value_hidden)
        return sum(len(group) for group in all_groups[:groups])

    def _norms(self, prefix: str, count: int) -> list[nn.Module]:
        wanted = count if self.layer_norm else 0
        return [nn.LayerNorm(dtype=self.dtype, name=f"{prefix}{i}") for i in range(1, wanted + 1)]

    def _dense(self, prefix: str, widths: tuple[int, ...]) -> tuple[list[Any], list[nn.Module]]:
        layers = [
            nn.Dense(width, kernel_init=HIDDEN_INIT, dtype=self.dtype, name=f"{prefix}{i}")
            for i, width in enumerate(widths, 1)
        ]
        return layers, self._norms(f"{prefix}_norm", len(widths))

    def _run(self, x: jax.Array, layers: list, norms: list, first: int) -> jax.Array:
        """Layers whose activations begin at `first`."""
        for i, layer in enumerate(layers):
            x = layer(x)
            if norms:
                x = norms[i](x)
            x = ACTIVATIONS[self.activations[first + i]](x)
        return x

    def _shared(self, features: jax.Array, games: Any) -> jax.Array:
        if self.task_embedding:
            vectors = self.embedding(self._rows(features, games)).astype(features.dtype)
            features = jnp.concatenate([features, vectors], axis=-1)
        if self.one_hot:
            places = jax.nn.one_hot(
                self._rows(features, games), len(self.game_actions), dtype=features.dtype
            )
            features = jnp.concatenate([features, places], axis=-1)
        return self._run(features, self.fc, self.fc_norm, self._layers(2))

    def _rows(self, features: jax.Array, games: Any) -> jax.Array:
        """The game of each row `(B,)`."""
        if games is None:
            raise ValueError("outputs of this network depend on the game; give `games`")
        return jnp.broadcast_to(jnp.asarray(games), features.shape[:1])

    def features(self, observations: jax.Array) -> jax.Array:
        """Convolutions: `(B, C, H, W)` -> `(B, D)`, flattened in (row, column, channel) order."""
        pictures = self.convs or self.residual
        if pictures and observations.ndim != 4:
            raise ValueError(
                f"a convolutional network takes (B, C, H, W), got shape {observations.shape}"
            )
        if self.input_clip:
            observations = self.input(observations)
        if pictures:
            observations = observations.transpose(0, 2, 3, 1)
        x = self._run(observations, self.conv, self.conv_norm, 0)
        for section in self.section:
            x = section(x)
        for norm in self.section_norm:
            x = norm(x)
        if self.residual:  # a section ends with a sum, without an activation
            x = ACTIVATIONS[self.activations[self._layers(2) - 1]](x)
        x = pixels(x, self.dtype)
        return x.reshape(x.shape[0], -1)

    def outputs(self, features: jax.Array, games: Any = None) -> jax.Array:
        """Q-values or logits `(B, num_outputs)` float32 from `features`."""
        if self.core:
            raise ValueError(
                "a recurrent network answers by what it carries through a game, and here each "
                "state stands alone"
            )
        if self.fractions:
            features = self.fraction(features)
        return self._headed(self._shared(features, games), games)

    def advance(self, features: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
        """`outputs` of a recurrent network, and what it carries on."""
        carry = self.carried(self.entering(features), carry)
        return self.leaving(carry[0]), carry

    def entering(self, features: jax.Array) -> jax.Array:
        """What its core is given of `features`: all that comes before what is carried."""
        assert self.core
        return self.core_input(self._shared(features, None))

    def carried(self, entering: jax.Array, carry: Carry) -> Carry:
        """What its core carries on."""
        assert self.core
        return CELLS[self.core.kind].step(entering, self.core_hidden(carry[0]), carry)

    def leaving(self, kept: jax.Array) -> jax.Array:
        """`outputs` by the first of what is carried on."""
        return self._headed(kept, None)

    def _headed(self, shared: jax.Array, games: Any) -> jax.Array:
        """Outputs of what the layers before the head make."""
        if self.controllers:
            return self._controlled(shared, self._rows(shared, games))
        if self.streams:
            out = self._streamed(shared)
        else:
            x = self._run(shared, self.action_fc, self.action_norm, self._layers(3))
            if self.fractions:  # the last layer is linear, so its mean is that of the mean
                x = x.mean(axis=1)
            out = self.action(x.astype(jnp.float32))
        if self.atoms:
            return self._mean_return(out, shared)
        if self.head == "dueling":
            out = out - out.mean(axis=-1, keepdims=True) + self._value(shared)
        elif self.head == "actor_critic" and self.is_initializing():
            self._value(shared)  # the critic's parameters are born with the actor's
        return out

    def _mean_return(self, out: jax.Array, shared: jax.Array) -> jax.Array:
        """Logits `(B, num_outputs * atoms)` -> means `(B, num_outputs)` of the distributions."""
        assert self.atoms
        out = out.reshape(out.shape[0], self.num_outputs, self.atoms.count)
        if self.head == "dueling":
            out = out - out.mean(axis=1, keepdims=True) + self._value(shared)[:, None]
        support = jnp.linspace(self.atoms.low, self.atoms.high, self.atoms.count)
        return jax.nn.softmax(out, axis=-1) @ support

    def _controlled(self, shared: jax.Array, rows: jax.Array) -> jax.Array:
        """Every controller runs on all rows, small as they are, and each row takes its game's."""
        choices = []
        for actions, (layers, norms, last) in zip(self.game_actions, self.controller, strict=True):
            own = last(self._run(shared, layers, norms, self._layers(3)).astype(jnp.float32))
            empty = jnp.zeros((own.shape[0], self.num_outputs), own.dtype)
            choices.append(empty.at[:, actions].set(own))
        return jnp.stack(choices)[rows, jnp.arange(rows.shape[0])]

    def _streamed(self, shared: jax.Array) -> jax.Array:
        """What every stream makes of the same features, each number at its output's place."""
        parts = []
        for i, (stream, (layers, norms, last)) in enumerate(
            zip(self.streams, self.stream, strict=True)
        ):
            x = self._run(shared, layers, norms, self._layers(3) + i)
            own = last(x.astype(jnp.float32))
            parts.append(jnp.tanh(own) if stream.bounded else own)
        owned = [output for stream in self.streams for output in stream.outputs]
        return jnp.concatenate(parts, axis=-1)[:, np.argsort(owned)]

    def _value(self, shared: jax.Array) -> jax.Array:
        x = self._run(shared, self.value_fc, self.value_norm, self._layers(4))
        return self.value_out(x.astype(jnp.float32))

    def outputs_and_values(
        self, features: jax.Array, games: Any = None
    ) -> tuple[jax.Array, jax.Array]:
        """`outputs` `(B, num_outputs)` and state values `(B,)` from the same `features`."""
        if self.head == "linear" or self.atoms or self.core:
            kind = "categorical" if self.atoms else "recurrent" if self.core else "linear"
            raise ValueError(f"a {kind} head has no state value")
        values = self._value(self._shared(features, games))[:, 0]
        return self.outputs(features, games), values

    def __call__(self, observations: jax.Array, games: Any = None) -> jax.Array:
        """Q-values or logits `(B, num_outputs)`; `games` as `forward` takes them."""
        if self.core and self.is_initializing():
            carry = initial_carry(self, len(observations))[: CELLS[self.core.kind].carried]
            return self.advance(self.features(observations), carry)[0]
        return self.outputs(self.features(observations), games)


def _check_streams(network: Network) -> None:
    """Raises ValueError where streams stand beside what they take the place of, or do not fit."""
    if not network.streams:
        return
    if network.head == "dueling" or network.controllers or network.action_hidden:
        beside = "controllers" if network.controllers else "action_hidden"
        beside = "a dueling head" if network.head == "dueling" else beside
        raise ValueError(
            f"a network has {beside} or streams, not both; streams have a linear or an "
            f"actor_critic head, whose layers they are"
        )
    owned = [output for stream in network.streams for output in stream.outputs]
    size = network.num_outputs
    if len(owned) != size or sorted(owned) != list(range(len(owned))):
        shown = f"{owned[:24]}{' and more' if len(owned) > 24 else ''}"
        raise ValueError(f"its streams have outputs {shown}; expected each of 0..{size - 1} once")
    if not all(stream.outputs for stream in network.streams):
        raise ValueError("a stream has no outputs; expected some for each")


def _check_distribution(network: Network) -> None:
    """Raises ValueError where a distribution is asked of a head that has none."""
    kinds = [name for name in ("atoms", "fractions") if getattr(network, name)]
    if not kinds:
        return
    heads = ("linear",) if "fractions" in kinds else ("linear", "dueling")
    if len(kinds) > 1 or network.streams or network.knows_game or network.head not in heads:
        raise ValueError(
            f"a network with {' and '.join(kinds)} has a head of type {' or '.join(heads)}, one "
            f"kind of distribution, and neither streams nor parts of its own for each game"
        )
    if network.atoms and not (network.atoms.low < network.atoms.high and network.atoms.count > 1):
        raise ValueError(f"the least of its {network.atoms} is not below the largest")


def _check_core(network: Network) -> None:
    """Raises ValueError where a core stands beside what has no place for it."""
    if network.core is None:
        if network.frame_decay:
            raise ValueError("frame_decay is for a network with a core, which carries the mean")
        return
    if network.core.kind not in CELLS:
        raise ValueError(f"core {network.core.kind!r} is not one of {', '.join(CELLS)}")
    if network.knows_game or network.fractions or network.head == "actor_critic":
        raise ValueError(
            "a network with a core has a linear or a dueling head, no fractions, and no parts of "
            "its own for each game"
        )


def only_of_experts(network: Network) -> str | None:
    """What this network has that no file format of ours and no student has; None if nothing."""
    if network.core:
        return "a recurrent core"
    if network.atoms:
        return "a categorical head"
    if network.fractions:
        return "implicit quantiles"
    if network.input_clip:
        return "normalised pixels"
    if any(layer.extra for layer in network.convs):
        return "uneven padding"
    return None


def forward(
    network: Network, params: Params, observations: jax.Array, games: Any = None
) -> jax.Array:
    """`network(observations)` in the form the backend likes: `(B, ...)` -> `(B, num_outputs)`.

    On CPU the convolutions run over pieces of the batch that fit the cache, and keep their results
    for the backward pass but not what lies between; it is the same function of the same parameters.

    Args:
      games: `(B,)` int, the index of each row's game, or one for all rows. Networks that know their
        game need it; others take no notice.

    Raises:
      ValueError: the network's outputs depend on the game, and `games` is missing.
    """
    features = _features(network, params, observations)
    return cast(jax.Array, network.apply(params, features, games, method="outputs"))


def initial_carry(network: Network, rows: int) -> Carry:
    """What a network carries where games begin, all zeros; empty if it is not recurrent."""
    if network.core is None:
        return ()
    cell = tuple(
        jnp.zeros((rows, network.core.width)) for _ in range(CELLS[network.core.kind].carried)
    )
    return cell + tuple(jnp.zeros(rows) for _ in range(3 if network.frame_decay else 0))


def advance(
    network: Network, params: Params, observations: jax.Array, carry: Carry
) -> tuple[jax.Array, Carry]:
    """One step of a recurrent network: as `forward`, and what it carries on.

    Args:
      carry: what the last step of the same games gave, see `initial_carry`.
    """
    own = CELLS[network.core.kind].carried if network.core else 0
    frames = carry[own:]
    if network.frame_decay:
        observations, frames = _running(observations, frames, network.frame_decay)
    features = _features(network, params, observations)
    outputs, cell = network.apply(params, features, carry[:own], method="advance")
    return outputs, (*cell, *frames)


def forget(carry: Carry, begun: jax.Array) -> Carry:
    """What is carried, and nothing in the rows `begun`, `(B,)` bool, where a game begins."""

    def forgotten(x: jax.Array) -> jax.Array:
        return jnp.where(begun.reshape(-1, *[1] * (x.ndim - 1)), 0, x)

    return cast(Carry, jax.tree.map(forgotten, carry))


def unroll(
    network: Network, params: Params, observations: jax.Array, begun: jax.Array, carry: Carry
) -> jax.Array:
    """Outputs `(T, B, num_outputs)` of T steps of a recurrent network, as `advance` gives them.

    All that does not depend on what is carried is computed for all steps at once. For a network
    without `frame_decay`.

    Args:
      observations: `(T, B, ...)`.
      begun: `(T, B)` bool, where a game begins: nothing is carried into it.
      carry: into the first step.
    """
    assert not network.frame_decay
    steps, rows = begun.shape
    flat = observations.reshape(steps * rows, *observations.shape[2:])
    entering = network.apply(params, _features(network, params, flat), method="entering")

    def step(carry: Carry, now: tuple[jax.Array, jax.Array]) -> tuple[Carry, jax.Array]:
        carried = network.apply(params, now[0], forget(carry, now[1]), method="carried")
        return cast(Carry, carried), carried[0]

    entering = cast(jax.Array, entering).reshape(steps, rows, -1)
    _, kept = lax.scan(step, carry, (entering, begun))
    outputs = network.apply(params, kept.reshape(steps * rows, -1), method="leaving")
    return cast(jax.Array, outputs).reshape(steps, rows, -1)


def _running(x: jax.Array, carry: Carry, decay: float) -> tuple[jax.Array, Carry]:
    """Frames normalised by the running mean and deviation of them all.

    Averages that begin at 0 are too small at first: by the running average of 1.
    """
    x = pixels(x, jnp.float32)
    axes = tuple(range(1, x.ndim))
    new = (x.mean(axes), x.std(axes), jnp.ones(len(x)))
    carry = tuple(decay * old + (1 - decay) * now for old, now in zip(carry, new, strict=True))
    mean, deviation = (jnp.expand_dims(average / carry[2], axes) for average in carry[:2])
    return (x - mean) / (deviation + 1e-8), carry


def forward_with_values(
    network: Network, params: Params, observations: jax.Array, games: Any = None
) -> tuple[jax.Array, jax.Array]:
    """As `forward`, with the state values `(B,)` beside the outputs; the features are made once.

    Raises:
      ValueError: the network has no value, or depends on the game and `games` is missing.
    """
    features = _features(network, params, observations)
    both = network.apply(params, features, games, method="outputs_and_values")
    return cast(tuple[jax.Array, jax.Array], both)


def _features(network: Network, params: Params, observations: jax.Array) -> jax.Array:
    """`(B, ...)` -> `(B, D)`; see `forward`."""

    def features(chunk: jax.Array) -> jax.Array:
        return cast(jax.Array, network.apply(params, chunk, method="features"))

    batch = observations.shape[0]
    # The pictures inside a residual section are larger: fewer of them fit.
    size = CPU_CHUNK // 2 if network.residual else CPU_CHUNK
    pictures = network.convs or network.residual
    if jax.default_backend() != "cpu" or not pictures or batch <= size:
        return features(observations)
    kept = jax.checkpoint_policies.save_only_these_names(CONVOLVED)
    missing = -batch % size
    padded = jnp.pad(observations, ((0, missing), *((0, 0),) * (observations.ndim - 1)))
    chunks = padded.reshape(-1, size, *observations.shape[1:])
    flat = lax.map(jax.checkpoint(features, policy=kept), chunks)
    return flat.reshape(batch + missing, -1)[:batch]


def init(network: Network, key: jax.Array, observation_shape: tuple[int, ...]) -> Params:
    """Fresh float32 parameters for observations of one example's shape, e.g. `(4, 84, 84)`."""
    return _init(network, tuple(observation_shape), key)


# One program, in which the network itself need not run; compiling it takes seconds, so it is kept.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(network: Network, observation_shape: tuple[int, ...], key: jax.Array) -> Params:
    example = jnp.zeros((1, *observation_shape), jnp.float32)
    return cast(Params, network.init(key, example, 0))


def count(params: Params) -> int:
    """Number of scalars in `params`."""
    return sum(x.size for x in jax.tree.leaves(params))


def _dueling(
    convs: tuple[ConvLayer, ...], width: int, *, layer_norm: bool = False, task_embedding: int = 0
) -> Network:
    return Network(
        convs=convs,
        head="dueling",
        action_hidden=(width,),
        value_hidden=(width,),
        layer_norm=layer_norm,
        task_embedding=task_embedding,
    )


def _multi_task(convs: tuple[ConvLayer, ...], width: int, *, layer_norm: bool = False) -> Network:
    return Network(
        convs=convs, hidden=(width,), action_hidden=(128,), controllers=True, layer_norm=layer_norm
    )


def _skills(*, bounded: bool, **fields: Any) -> Network:
    """Six keys (walking, jumping, sprinting), two angles (yaw, pitch) and a click."""
    keys, click = Stream(64, (0, 1, 2, 3, 4, 5)), Stream(16, (6,))
    look = Stream(32, (7, 8), bounded)
    return Network(
        convs=(), hidden=(256, 256, 128), streams=(keys, look, click), num_outputs=9, **fields
    )


def _apart(*widths: int) -> Network:
    """Policy and value without a layer in common."""
    return Network(
        convs=(),
        head="actor_critic",
        action_hidden=widths,
        value_hidden=widths,
        activation="tanh",
    )


_CONVS_2013 = (ConvLayer(16, 8, 4), ConvLayer(32, 4, 2))
_SMALL_CONVS = (ConvLayer(16, 8, 4), ConvLayer(32, 4, 2), ConvLayer(32, 3, 1))
_TINY_CONVS = (ConvLayer(16, 8, 4), ConvLayer(16, 4, 2), ConvLayer(16, 3, 1))
_WIDE_CONVS = (ConvLayer(64, 8, 4), ConvLayer(64, 4, 2), ConvLayer(64, 3, 1))

NETWORKS: dict[str, Network] = {
    # The default student and the reference experts: 3,300,019 parameters with 18 outputs.
    "dueling": _dueling(NATURE_CONVS, 512),
    "dueling_layer_norm": _dueling(NATURE_CONVS, 512, layer_norm=True),
    "dueling_small": _dueling(_SMALL_CONVS, 128),
    "dueling_small_layer_norm": _dueling(_SMALL_CONVS, 128, layer_norm=True),
    # The default student, told which game it sees.
    "dueling_task": _dueling(NATURE_CONVS, 512, task_embedding=32),
    # Mnih et al. 2015, also the teacher of Policy Distillation; Mnih et al. 2013.
    "nature": Network(convs=NATURE_CONVS, hidden=(512,)),
    "dqn2013": Network(convs=_CONVS_2013, hidden=(256,)),
    "nature_actor_critic": Network(convs=NATURE_CONVS, hidden=(512,), head="actor_critic"),
    # Rusu et al. 2015, compressed students.
    "net1": Network(convs=_SMALL_CONVS, hidden=(256,)),
    "net2": Network(convs=_TINY_CONVS, hidden=(128,)),
    "net3": Network(convs=_TINY_CONVS, hidden=(64,)),
    # Rusu et al. 2015, students of 3 and of 10 games.
    "multi_task": _multi_task(NATURE_CONVS, 512),
    "multi_task_layer_norm": _multi_task(NATURE_CONVS, 512, layer_norm=True),
    "multi_task_large": _multi_task(_WIDE_CONVS, 1500),
    # For a few numbers instead of a screen: a DQN that is told nothing of its task, one that learns
    # a vector for each, and one that is told a one-hot vector.
    "mlp": Network(convs=(), hidden=(256, 128)),
    "mlp_layer_norm": Network(convs=(), hidden=(256, 128), layer_norm=True),
    "mlp_task_embedding": Network(convs=(), hidden=(256, 128), task_embedding=8),
    "mlp_task_embedding_layer_norm": Network(
        convs=(), hidden=(256, 128), task_embedding=8, layer_norm=True
    ),
    "mlp_one_hot": Network(convs=(), hidden=(256, 128), one_hot=True),
    "mlp_one_hot_layer_norm": Network(convs=(), hidden=(256, 128), one_hot=True, layer_norm=True),
    # For keys and angles: the student of three skills, and one that goes on learning by PPO, whose
    # angles need no bound. Their experts: policies and values apart, as in Stable-Baselines3.
    "skills": _skills(bounded=True),
    "skills_actor_critic": _skills(bounded=False, head="actor_critic", value_hidden=(128, 64)),
    "mlp_actor_critic": _apart(128, 128),
    "mlp_actor_critic_small": _apart(64, 64),
    # Espeholt et al. 2018, the deep network, with a dueling head.
    "impala": Network(convs=(), residual=(16, 32, 32), hidden=(256,), head="dueling"),
}


def create(name: str, compute_dtype: str = "float32", **changes: Any) -> Network:
    """The network called `name` in `NETWORKS`, with fields replaced by `changes`.

    Args:
      compute_dtype: a key of `COMPUTE_DTYPES`, what its torso computes in.

    Raises:
      ValueError: no network or no dtype has that name.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(NETWORKS)}")
    if compute_dtype not in COMPUTE_DTYPES:
        raise ValueError(
            f"compute_dtype {compute_dtype!r} is not one of {', '.join(COMPUTE_DTYPES)}"
        )
    return NETWORKS[name].clone(dtype=COMPUTE_DTYPES[compute_dtype], **changes)


def for_tasks(network: Network, tasks: Sequence[Task]) -> Network:
    """The network of a run of these tasks, of one suite: with an output for each of its actions.

    One that does not know its game stays as it is otherwise.

    Raises:
      ValueError: it looks at pictures, and they show none; its streams are of another number of
        outputs; or it has no place for its core.
    """
    suite = tasks[0].suite
    if (network.convs or network.residual) and len(suite.view.shape) != 3:
        vectors = [
            name
            for name, known in NETWORKS.items()
            if not known.convs + known.residual
            and (not known.streams or known.num_outputs == suite.num_actions)
        ]
        raise ValueError(
            f"the network looks at screens, and {tasks[0].name} shows {suite.view}; choose one of "
            f"{', '.join(vectors)}"
        )
    network = network.clone(num_outputs=suite.num_actions)
    try:
        _check_streams(network)
    except ValueError as error:
        raise ValueError(
            f"the network is of other tasks than {tasks[0].name}, with its {suite.num_actions} "
            f"outputs: {error}"
        ) from error
    _check_core(network)
    if not network.knows_game:
        return network
    return network.clone(game_actions=tuple(task.actions for task in tasks))


def for_one_game(
    network: Network, params: Params, game: int
) -> tuple[Network, Params, tuple[int, ...]]:
    """What plays one game of a network that knows its game: an ordinary network.

    The game's controller becomes the head; its vector, the same in every row, becomes part of the
    biases behind it.

    Args:
      game: its index.

    Returns:
      The network, its parameters, and the suite's action of each of its outputs.
    """
    layers, actions = dict(params["params"]), tuple(range(network.num_outputs))
    if network.controllers:
        actions = network.game_actions[game]
        own = f"controller{game + 1}"
        for name in [name for name in layers if name.startswith("controller")]:
            layer = layers.pop(name)
            if name.split("_")[0] == own:
                layers[name.replace(own, "action")] = layer
    if network.task_embedding or network.one_hot:
        if network.one_hot:
            vector = np.eye(len(network.game_actions), dtype=np.float32)[game]
        else:
            vector = layers.pop("task_embedding")["embedding"][game]
        for name in first_dense(network):
            kernel, bias = layers[name]["kernel"], layers[name]["bias"]
            rest = kernel.shape[0] - len(vector)
            layers[name] = {"kernel": kernel[:rest], "bias": bias + vector @ kernel[rest:]}
    alone = network.clone(
        controllers=False,
        task_embedding=0,
        one_hot=False,
        game_actions=(),
        num_outputs=len(actions),
    )
    return alone, {"params": layers}, actions


def for_some_games(
    network: Network, params: Params, games: Sequence[int]
) -> tuple[Network, Params]:
    """What plays some of the games of a network that knows its game, `games` in this order.

    One that does not know its game is the same whatever it plays.
    """
    if not network.knows_game:
        return network, params
    layers, kept = dict(params["params"]), np.asarray(games)
    if network.controllers:
        own = {name: layers.pop(name) for name in [*layers] if name.startswith("controller")}
        for new, old in enumerate(games, 1):
            prefix = f"controller{old + 1}"
            for name in [name for name in own if name.split("_")[0] == prefix]:
                layers[name.replace(prefix, f"controller{new}")] = own[name]
    if network.task_embedding:
        vectors = layers["task_embedding"]["embedding"]
        layers["task_embedding"] = {"embedding": vectors[kept]}
    for name in first_dense(network) if network.one_hot else ():
        kernel = layers[name]["kernel"]
        rest = kernel.shape[0] - len(network.game_actions)
        places = np.concatenate([np.arange(rest), rest + kept])
        layers[name] = {**layers[name], "kernel": kernel[places]}
    actions = tuple(network.game_actions[game] for game in games)
    return network.clone(game_actions=actions), {"params": layers}


def with_outputs(
    network: Network, params: Params, outputs: Sequence[int]
) -> tuple[Network, Params]:
    """The network of so many of a network's outputs, in their order; for one without controllers.

    Streams that none of them is of go.
    """
    layers, kept = dict(params["params"]), list(outputs)
    if not network.streams:
        depth = network.depth
        places = [output * depth + i for output in kept for i in range(depth)]
        layers["action"] = {name: x[..., places] for name, x in layers["action"].items()}
        return network.clone(num_outputs=len(kept)), {"params": layers}
    streams: list[Stream] = []
    activations = list(network.activations)
    for i, stream in enumerate(network.streams, 1):
        own = {x: layers.pop(f"stream{i}{x}", None) for x in ("", "_fc1", "_fc_norm1")}
        places = [place for place, output in enumerate(stream.outputs) if output in kept]
        if not places:
            del activations[network._layers(3) + len(streams)]
            continue
        own[""] = {name: x[..., places] for name, x in own[""].items()}
        taken = tuple(kept.index(stream.outputs[place]) for place in places)
        streams.append(dataclasses.replace(stream, outputs=taken))
        layers |= {f"stream{len(streams)}{x}": layer for x, layer in own.items() if layer}
    uniform = isinstance(network.activation, str)
    network = network.clone(
        streams=tuple(streams),
        num_outputs=len(kept),
        activation=network.activation if uniform else tuple(activations),
    )
    return network, {"params": layers}


def task_vectors(network: Network, params: Params) -> np.ndarray | None:
    """The vector `(G, task_embedding)` learnt for each task; None where there is none to learn."""
    if not network.task_embedding:
        return None
    return np.asarray(params["params"]["task_embedding"]["embedding"])


def first_dense(network: Network) -> list[str]:
    """Names of the layers that take the features."""
    if network.hidden:
        return ["fc1"]
    if network.core:
        return ["core_input"]
    if network.streams:
        first = [f"stream{i}_fc1" for i in range(1, len(network.streams) + 1)]
    else:
        first = ["action_fc1" if network.action_hidden else "action"]
    if network.head != "linear":
        first.append("value_fc1" if network.value_hidden else "value")
    return first


def torso(network: Network) -> Network:
    """Its convolutions alone, with a linear head.

    Networks whose torsos are equal can take over each other's convolutions; see `with_torso`, and
    `may_take_torso` for others that can.
    """
    layers = network._layers(2)
    return Network(
        convs=network.convs,
        residual=network.residual,
        activation=network.activations[:layers],
        layer_norm=network.layer_norm,
        input_clip=network.input_clip,
        torch_pool=network.torch_pool,
        frame_decay=network.frame_decay,
    )


def may_take_torso(own: Network, other: Network) -> bool:
    """Whether `own` has the convolutions of `other`, or the same ones with more features."""
    theirs = torso(other)
    if same_architecture(torso(own), theirs):
        return bool(own.convs or own.residual)
    if own.layer_norm or len(own.convs) != len(other.convs):
        return False
    pairs = list(zip(own.convs, other.convs, strict=True))
    cut = own.clone(convs=tuple(dataclasses.replace(a, features=b.features) for a, b in pairs))
    wide = all(a.features >= b.features for a, b in pairs)
    return wide and same_architecture(torso(cut), theirs)


def with_torso(params: Params, other: Params) -> Params:
    """`params` with the convolutions of `other`, of a network whose torso this one may take.

    Where there are more features than in `other`, its own are the first and begin by seeing what
    they see there, none of the new ones; those are as in `params` and see all. So nothing that
    `other` has learnt to see is lost, and there is room for what it has not (as Net2WiderNet, Chen
    et al. 2016, but that the new ones are no copies).
    """
    return {
        "params": {
            name: jax.tree.map(_widened, layer, other["params"][name])
            if name.startswith(("input", "conv", "section"))
            else layer
            for name, layer in params["params"].items()
        }
    }


def _widened(fresh: jax.Array, taken: jax.Array) -> jax.Array:
    """A kernel `(k, k, C, F)` or bias `(F,)` whose first features are those of `taken`."""
    if fresh.shape == taken.shape:
        return taken
    features = taken.shape[-1]
    alone = jnp.asarray(fresh).at[..., :features].set(0.0)
    return alone.at[tuple(slice(size) for size in taken.shape)].set(taken)


def same_architecture(a: Network, b: Network) -> bool:
    """Whether two networks are alike in all but the dtype that they compute in."""
    return to_dict(a) == to_dict(b)


def to_dict(network: Network) -> dict[str, Any]:
    """The fields of a network as plain JSON values; `from_dict` turns them back.

    What came later is named only where it is used, so that a network is called what it ever was.
    """
    later: dict[str, Any] = {
        "atoms": network.atoms and dataclasses.asdict(network.atoms),
        "fractions": network.fractions,
        "input_clip": network.input_clip,
        "torch_pool": network.torch_pool,
        "core": network.core and dataclasses.asdict(network.core),
        "frame_decay": network.frame_decay,
    }
    return {name: value for name, value in later.items() if value} | {
        "convs": [
            {name: n for name, n in dataclasses.asdict(layer).items() if name != "extra" or n}
            for layer in network.convs
        ],
        "residual": list(network.residual),
        "hidden": list(network.hidden),
        "head": network.head,
        "action_hidden": list(network.action_hidden),
        "value_hidden": list(network.value_hidden),
        "streams": [
            dataclasses.asdict(stream) | {"outputs": list(stream.outputs)}
            for stream in network.streams
        ],
        "num_outputs": network.num_outputs,
        "activation": network.activation
        if isinstance(network.activation, str)
        else list(network.activation),
        "layer_norm": network.layer_norm,
        "controllers": network.controllers,
        "task_embedding": network.task_embedding,
        "one_hot": network.one_hot,
        "game_actions": [list(actions) for actions in network.game_actions],
    }


def from_dict(fields: Mapping[str, Any]) -> Network:
    """The inverse of `to_dict`; what an older file does not name has its default.

    Raises:
      ValueError: sizes or names that no network has.
      KeyError, TypeError: fields that are missing or not of their kind.
    """
    fields = dict(fields)
    fields["convs"] = tuple(ConvLayer(**layer) for layer in fields["convs"])
    for name in ("residual", "hidden", "action_hidden", "value_hidden"):
        fields[name] = tuple(fields.get(name, ()))
    fields["streams"] = tuple(
        Stream(**{**stream, "outputs": tuple(stream["outputs"])})
        for stream in fields.get("streams", ())
    )
    fields["game_actions"] = tuple(tuple(actions) for actions in fields.get("game_actions", ()))
    if fields.get("atoms") is not None:
        fields["atoms"] = Atoms(**fields["atoms"])
    if fields.get("core") is not None:
        fields["core"] = Core(**fields["core"])
    if not isinstance(fields["activation"], str):
        fields["activation"] = tuple(fields["activation"])
    network = Network(**fields)
    convs = [dataclasses.astuple(layer) for layer in network.convs]
    widths = (*network.residual, *network.hidden, *network.action_hidden, *network.value_hidden)
    widths += tuple(stream.width for stream in network.streams)
    owned = tuple(output for stream in network.streams for output in stream.outputs)
    widths += (network.core.width,) if network.core else ()
    sizes = (*(size for conv in convs for size in conv[:3]), *widths, network.num_outputs)
    others = (*(n for conv in convs for n in conv[3:]), network.task_embedding, *owned)
    others += (network.fractions, network.atoms.count if network.atoms else 0)
    if not all(type(n) is int and 0 < n < 2**31 for n in sizes) or not all(
        type(n) is int and 0 <= n < 2**31 for n in others
    ):
        raise ValueError("a network's sizes are whole numbers above 0")
    if any(max(layer.pad) >= layer.kernel for layer in network.convs):
        raise ValueError("a convolution's padding is less than its kernel")
    if network.head not in HEADS or not set(network.activations) <= ACTIVATIONS.keys():
        raise ValueError(f"a network's head is one of {', '.join(HEADS)}, its activations known")
    flags = [network.layer_norm, network.controllers, network.one_hot, network.torch_pool]
    flags += [stream.bounded for stream in network.streams]
    if not all(isinstance(flag, bool) for flag in flags):
        raise ValueError(
            "layer_norm, controllers, one_hot, torch_pool and bounded are true or false"
        )
    numbers = [network.input_clip]
    numbers += [network.atoms.low, network.atoms.high] if network.atoms else []
    if not all(type(x) in (int, float) and abs(x) < 1e9 for x in numbers) or numbers[0] < 0:
        raise ValueError("input_clip and the ends of atoms are finite numbers below 1e9")
    if type(network.frame_decay) not in (int, float) or not 0 <= network.frame_decay < 1:
        raise ValueError("frame_decay is a number of 0..1, below 1")
    _check_streams(network)
    _check_distribution(network)
    _check_core(network)
    return network
