"""Which tensors of a file are which layer of a network: a `Plan`, as a convention or a spec has it.

`building.build` makes the network of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxdistill import networks

Arrays = Mapping[str, np.ndarray]


SAME = "same"
"""A convolution's padding as TensorFlow's "SAME": as many outputs as strides begin in the input."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Names of one layer's tensors.

    Attributes:
      bias: None for a layer that has none.
      half: of a file's layer that is two of ours side by side, 0 for the first half of its outputs
        and 1 for the second; None for all.
    """

    weight: str
    bias: str | None
    half: int | None = None

    @property
    def key(self) -> str:
        """What messages and tables call the layer."""
        ends = (end for end in (".weight", ".kernel", ".scale") if self.weight.endswith(end))
        name = self.weight.removesuffix(next(ends, ""))
        return name if self.half is None else f"{name} (half {self.half + 1})"


def named(key: str) -> Weights:
    """The tensors of a PyTorch module called `key`."""
    return Weights(f"{key}.weight", f"{key}.bias")


def noisy(key: str) -> Weights:
    """The means of a noisy layer, `weight_mu` and `bias_mu` of a module called `key`."""
    return Weights(f"{key}.weight_mu", f"{key}.bias_mu")


def flax(key: str) -> Weights:
    """The tensors of a Flax module called `key`."""
    return Weights(f"{key}.kernel", f"{key}.bias")


WEIGHTS = (".weight", ".weight_mu", ".kernel", ".kernel:0", ".vars.0")
"""What names of weights end with: PyTorch's, of noisy layers, Flax's, Keras 2's and Keras 3's."""
_BIASES = (".bias", ".bias_mu", ".bias:0", ".vars.1")


def bias_of(weight: str, arrays: Arrays) -> str | None:
    """The bias in a file of the layer whose weight is called so; None where none is known."""
    key = weight.removesuffix(next((end for end in WEIGHTS if weight.endswith(end)), ""))
    return next((f"{key}{end}" for end in _BIASES if f"{key}{end}" in arrays), None)


def flax_norm(key: str) -> Weights:
    """The tensors of a Flax LayerNorm called `key`."""
    return Weights(f"{key}.scale", f"{key}.bias")


@dataclasses.dataclass(frozen=True)
class Conv:
    """One convolution of a `Plan`.

    Attributes:
      kernel: size the kernel has to have; None takes the tensor's.
      padding: zeros on every side, or `SAME`; None means not known, see `building.build`.
    """

    weights: Weights
    stride: int
    kernel: int | None = None
    padding: int | str | None = 0


@dataclasses.dataclass(frozen=True)
class PlannedSection:
    """A residual section of a `Plan`: its convolution, and those of its two blocks in order."""

    conv: Weights
    blocks: tuple[Weights, Weights, Weights, Weights]

    @property
    def layers(self) -> tuple[tuple[str, Weights], ...]:
        """All five, by their names in our networks."""
        names = ("conv", "block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2")
        return tuple(zip(names, (self.conv, *self.blocks), strict=True))


@dataclasses.dataclass(frozen=True)
class Support:
    """The returns of a categorical head: where the file holds them, or what they are.

    Attributes:
      tensor: name of the tensor of them all.
      atoms: where there is none in the file.
    """

    tensor: str | None = None
    atoms: networks.Atoms | None = None


@dataclasses.dataclass(frozen=True)
class Quantiles:
    """A quantile head: so many outputs for each action, whose mean is its value.

    Attributes:
      first: whether the quantiles come first, `(quantiles, actions)`, or last.
    """

    count: int
    first: bool = False


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Running statistics that pixels are normalised by: `(x - mean) / sqrt(variance + epsilon)`.

    Attributes:
      mean, variance: names of tensors `(C, H, W)`, of pixels as the file's network takes them.
      clip: the furthest from 0 that they go.
    """

    mean: str
    variance: str
    epsilon: float
    clip: float


@dataclasses.dataclass(frozen=True)
class PlannedStream:
    """One stream of a `Plan`'s head: its dense layer, the layer of its outputs, and which they are.

    The other fields are as in `networks.Stream`.
    """

    hidden: Weights
    last: Weights
    outputs: tuple[int, ...]
    bounded: bool = False


@dataclasses.dataclass(frozen=True)
class PlannedCore:
    """A recurrent cell of a `Plan`; `kind` as in `networks.Core`.

    Attributes:
      input, hidden: the layers of what is seen and of what was carried, gates one after another.
    """

    kind: str
    input: Weights
    hidden: Weights


def recurrent(kind: str, key: str, layer: str = "") -> PlannedCore:
    """A PyTorch cell called `key`; `layer` is "_l0" where it is the first of a `GRU` or `LSTM`."""
    input, hidden = (
        Weights(f"{key}.weight_{part}{layer}", f"{key}.bias_{part}{layer}") for part in ("ih", "hh")
    )
    return PlannedCore(kind, input, hidden)


NO_LAYER = Weights("", None)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which tensors form which layer of a `Network`; the fields are called as there.

    Attributes:
      action: the layer of all outputs; none where there are streams.
      raw_pixels: the file's network takes pixels of 0..255 as they are, without dividing by 255.
      embedding: the tensor `(tasks, size)` of a learnt vector per task; the first dense layer takes
        a task's after the features, as `Network.task_embedding` does.
      sections: residual sections after the convolutions; `torch_pool` as in `Network`.
      flax: kernels are `(k, k, inputs, outputs)` and `(inputs, outputs)`, as Flax has them.
      rows_first: what the convolutions end in is flattened as (H, W, C), row by row, and not as
        (C, H, W); None as the program has it whose kernels these are: Flax row by row, PyTorch not.
      support: of a categorical head.
      quantiles: of a quantile head; its mean is folded into the layer of all outputs.
      activation: as there, with that of the layer of `fractions` before those of `hidden`.
      fractions: the layer of an implicit quantile network that takes cosines of a fraction; its
        vectors for `distributions.FRACTIONS` midpoints become the network's.
      first_cosine: the first of its cosines is of so many times pi and the fraction; see
        `building.build`.
      statistics: what pixels are normalised by.
      newest_first: the file's network takes the frames of a stack in this order; ours take the
        oldest first.
      core, frame_decay: as in `Network`.
      norms: LayerNorms with Flax's epsilon, one before each activation in the order of the layers;
        or none. For convolutions and dense layers alone.
    """

    action: Weights = NO_LAYER
    convs: tuple[Conv, ...] = ()
    hidden: tuple[Weights, ...] = ()
    head: str = "linear"
    action_hidden: tuple[Weights, ...] = ()
    value_hidden: tuple[Weights, ...] = ()
    value: Weights | None = None
    streams: tuple[PlannedStream, ...] = ()
    activation: str | tuple[str, ...] = "relu"
    raw_pixels: bool = False
    embedding: str | None = None
    sections: tuple[PlannedSection, ...] = ()
    torch_pool: bool = False
    flax: bool = False
    support: Support | None = None
    quantiles: Quantiles | None = None
    fractions: Weights | None = None
    first_cosine: int = 1
    statistics: Statistics | None = None
    newest_first: bool = False
    core: PlannedCore | None = None
    frame_decay: float = 0.0
    norms: tuple[Weights, ...] = ()
    rows_first: bool | None = None

    def __post_init__(self) -> None:
        """Refuses a value that the head has no place for, or lacks.

        Raises:
          ValueError: so it is; the expert would be written, and not be read back.
        """
        if self.head == "linear" and (self.value or self.value_hidden):
            keys = brief(layer.key for layer in (*self.value_hidden, self.value) if layer)
            raise ValueError(
                f"a Plan has value={keys} beside head='linear', which is of actions alone; "
                f"expected head='actor_critic' or 'dueling', or no value"
            )
        if self.head != "linear" and self.value is None:
            raise ValueError(
                f"a Plan has head={self.head!r} and no value; expected the layer of the value, or "
                f"head='linear'"
            )

    def layers(self) -> tuple[Weights, ...]:
        """Every layer, in the order of the layer table."""
        value = () if self.value is None else (self.value,)
        convs = tuple(conv.weights for conv in self.convs)
        streams = tuple(part for stream in self.streams for part in (stream.hidden, stream.last))
        fractions = () if self.fractions is None else (self.fractions,)
        core = () if self.core is None else (self.core.input, self.core.hidden)
        return (
            *convs,
            *(layer for section in self.sections for _, layer in section.layers),
            *fractions,
            *self.hidden,
            *core,
            *self.action_hidden,
            *(streams or (self.action,)),
            *self.value_hidden,
            *value,
        )

    def renamed(self, names: Mapping[str, str]) -> Plan:
        """The same plan of tensors that are called otherwise."""

        def new(value: Any) -> Any:
            if isinstance(value, str):
                return names.get(value, value)
            if isinstance(value, tuple):
                return tuple(map(new, value))
            if not dataclasses.is_dataclass(value) or isinstance(value, type):
                return value
            fields = {f.name: new(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return dataclasses.replace(value, **fields)

        plan: Plan = new(self)
        return plan

    @property
    def first_conv(self) -> Weights | None:
        """What sees the picture; None for a network of dense layers."""
        if self.convs:
            return self.convs[0].weights
        return self.sections[0].conv if self.sections else None

    @property
    def first_dense(self) -> tuple[Weights, ...]:
        """The dense layers that see what the convolutions end in, or the vector that is seen."""
        if self.hidden:
            return self.hidden[:1]
        if self.core:
            return (self.core.input,)
        streams = [stream.hidden for stream in self.streams]
        first = streams or [(*self.action_hidden, self.action)[0]]
        if self.value is not None:
            first.append((*self.value_hidden, self.value)[0])
        return tuple(first)

    def channels(self, arrays: Arrays) -> int:
        """Input channels of the first convolution; 4 where there is none to ask."""
        kernel = arrays.get(self.first_conv.weight) if self.first_conv else None
        if kernel is None or kernel.ndim != 4:
            return 4
        return kernel.shape[2 if self.flax else 1] or 4

    def tensors(self) -> list[str]:
        """Names of all tensors it needs."""
        others = [self.embedding, self.support.tensor if self.support else None]
        if self.statistics:
            others += [self.statistics.mean, self.statistics.variance]
        layers = (*self.layers(), *self.norms)
        names = [name for layer in layers for name in (layer.weight, layer.bias)]
        return [name for name in dict.fromkeys((*others, *names)) if name is not None]


def brief(names: Iterable[str]) -> str:
    """Names for a message: printable, on one line, not endless."""
    names = list(names)
    shown = ["".join(c if c.isprintable() else "?" for c in name[:80]) for name in names[:8]]
    rest = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(shown) + rest
