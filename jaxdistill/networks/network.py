"""The Flax network of every expert and student.

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
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.networks.cells import CELLS, Carry, Core
from jaxdistill.networks.convolutions import (
    ACTIVATIONS,
    HIDDEN_INIT,
    SMALL_INIT,
    Conv,
    ConvLayer,
    Normalised,
    Section,
    pixels,
)
from jaxdistill.tasks.atari import NUM_ACTIONS

Params = Mapping[str, Any]

HEADS = ("linear", "dueling", "actor_critic")
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
        vectors = self.param("vectors", nn.initializers.ones_init(), shape, jnp.float32)
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
        check_streams(self)
        check_distribution(self)
        check_core(self)
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
        layers = self.layer_count(5)
        if isinstance(self.activation, str):
            return (self.activation,) * layers
        if len(self.activation) != layers:
            raise ValueError(f"{len(self.activation)} activations for {layers} layers")
        return tuple(self.activation)

    def layer_count(self, groups: int) -> int:
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
        return self._run(features, self.fc, self.fc_norm, self.layer_count(2))

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
            x = ACTIVATIONS[self.activations[self.layer_count(2) - 1]](x)
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
            x = self._run(shared, self.action_fc, self.action_norm, self.layer_count(3))
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
            own = last(self._run(shared, layers, norms, self.layer_count(3)).astype(jnp.float32))
            empty = jnp.zeros((own.shape[0], self.num_outputs), own.dtype)
            choices.append(empty.at[:, actions].set(own))
        return jnp.stack(choices)[rows, jnp.arange(rows.shape[0])]

    def _streamed(self, shared: jax.Array) -> jax.Array:
        """What every stream makes of the same features, each number at its output's place."""
        parts = []
        for i, (stream, (layers, norms, last)) in enumerate(
            zip(self.streams, self.stream, strict=True)
        ):
            x = self._run(shared, layers, norms, self.layer_count(3) + i)
            own = last(x.astype(jnp.float32))
            parts.append(jnp.tanh(own) if stream.bounded else own)
        owned = [output for stream in self.streams for output in stream.outputs]
        return jnp.concatenate(parts, axis=-1)[:, np.argsort(owned)]

    def _value(self, shared: jax.Array) -> jax.Array:
        x = self._run(shared, self.value_fc, self.value_norm, self.layer_count(4))
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


def initial_carry(network: Network, rows: int) -> Carry:
    """What a network carries where games begin, all zeros; empty if it is not recurrent."""
    if network.core is None:
        return ()
    cell = tuple(
        jnp.zeros((rows, network.core.width)) for _ in range(CELLS[network.core.kind].carried)
    )
    return cell + tuple(jnp.zeros(rows) for _ in range(3 if network.frame_decay else 0))


def check_streams(network: Network) -> None:
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


def check_distribution(network: Network) -> None:
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


def check_core(network: Network) -> None:
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
