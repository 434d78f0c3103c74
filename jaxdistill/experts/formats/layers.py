"""From named PyTorch or Flax tensors to a `Network` and its parameters.

A convention or a spec says *which* tensors form which layer (a `Plan`); `build` checks every shape
against the others and against the input's size, and lays the numbers out the way Flax wants them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdistill import networks
from jaxdistill.tasks.views import AnyView, Vector, View

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


def flax_norm(key: str) -> Weights:
    """The tensors of a Flax LayerNorm called `key`."""
    return Weights(f"{key}.scale", f"{key}.bias")


@dataclasses.dataclass(frozen=True)
class Conv:
    """One convolution of a `Plan`.

    Attributes:
      kernel: size the kernel has to have; None takes the tensor's.
      padding: zeros on every side, or `SAME`; None means not known, see `build`.
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
        vectors for `FRACTIONS` midpoints become the network's.
      first_cosine: the first of its cosines is of so many times pi and the fraction; see `build`.
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


@dataclasses.dataclass(frozen=True)
class Layer:
    """One row of the layer table.

    Attributes:
      name: the layer in our `Network`; `key` in the file.
      kind: "conv", "dense", "norm" or "embedding".
      shape: inputs and outputs, such as "4 -> 32".
      kernel: size, stride and padding of a convolution, such as "8x8 / 4"; "" for a dense layer.
      activation: what follows it.
      parameters: how many scalars it has.
    """

    name: str
    key: str
    kind: str
    shape: str
    kernel: str
    activation: str
    parameters: int


@dataclasses.dataclass(frozen=True)
class Built:
    """A network made from a plan, with what there is to say about it."""

    network: networks.Network
    params: networks.Params
    layers: tuple[Layer, ...]
    notes: tuple[str, ...]


FRACTIONS = 32
"""How many fractions of the return an implicit quantile network is asked for."""


def build(arrays: Arrays, plan: Plan, view: AnyView | None, where: str) -> Built:
    """The network that `plan` describes, with the file's numbers in it.

    One with an embedding knows its task: it plays each with all of its outputs.

    Of a quantile head the mean over quantiles, being linear, becomes part of the layer of all
    outputs: exactly the same Q-values. The vectors of implicit quantiles are f(W cos(pi i tau) + b)
    for the midpoints tau of `FRACTIONS` equal parts of 0..1, with f an activation (Dabney et al.
    2018, equation 4). There i is 0, 1, ..., n - 1; in Dopamine and PFRL, and here where a plan's
    `first_cosine` does not say otherwise, it is 1, 2, ..., n.

    A padding that is not known is taken to be 0, PyTorch's default, if the first dense layer's
    width agrees; otherwise it is the only one that agrees.

    Args:
      arrays: tensors by name.
      view: what the network sees; None for a vector of as many numbers as it takes.
      where: what messages call the file.

    Raises:
      ValueError: tensors are missing, are not finite floats, or their shapes do not fit.
    """
    if missing := [name for name in plan.tensors() if name not in arrays]:
        raise ValueError(f"{where}: lacks {brief(missing)}; it has {brief(arrays)}")
    # One per layer, in the order in which layers are added below.
    activations = iter(plan.activation)
    if isinstance(plan.activation, str):
        activations = itertools.repeat(plan.activation)
    notes: list[str] = []
    params: dict[str, Any] = {}
    rows: list[Layer] = []
    vectors = None
    if plan.embedding is not None:
        vectors = tensor(arrays, plan.embedding, (None, None), where)
        params["task_embedding"] = {"embedding": vectors}
        key = brief([plan.embedding.removesuffix(".weight")])
        sizes = f"{vectors.shape[0]} x {vectors.shape[1]}"
        rows.append(Layer("task_embedding", key, "embedding", sizes, "", "none", vectors.size))

    def add(name: str, kind: str, layer: Weights, kernel: np.ndarray, shown: str, act: str) -> None:
        """Adds a layer, whose kernel is ours and whose bias is the file's."""
        bias = np.zeros(kernel.shape[-1], np.float32)
        if layer.bias is not None:
            size = kernel.shape[-1]
            if layer.half is not None:
                size = arrays[layer.weight].shape[-1 if plan.flax else 0]
            bias = _half(tensor(arrays, layer.bias, (size,), where), layer)
        shape = f"{kernel.shape[-2]} -> {kernel.shape[-1]}"
        count = kernel.size + (0 if layer.bias is None else bias.size)
        rows.append(Layer(name, brief([layer.key]), kind, shape, shown, act, count))
        if name == "action" and plan.quantiles:
            kernel, bias = _mean_quantile(kernel, bias, plan, where, notes)
        section, _, own = name.rpartition("/")
        at = params.setdefault(section, {}) if section else params
        at[own] = {"kernel": np.ascontiguousarray(kernel), "bias": np.ascontiguousarray(bias)}

    channels = view.shape[0] if isinstance(view, View) else None
    kernels = []
    for conv in plan.convs:
        kernel = _conv_kernel(arrays, conv, channels, plan, where)
        channels = kernel.shape[3]
        kernels.append(kernel)
    if plan.newest_first:
        if not kernels or not isinstance(view, View):
            raise ValueError(
                f"{where}: frames are put in order for a network that begins with a conv"
            )
        kernels[0] = _turned(kernels[0], 2, view)
    sections = []
    for section in plan.sections:
        kernel = _conv_kernel(arrays, Conv(section.conv, 1, 3, 1), channels, plan, where)
        channels = kernel.shape[3]
        blocks = [Conv(weights, 1, 3, 1) for weights in section.blocks]
        sections.append([kernel, *(_block(arrays, x, channels, plan, where) for x in blocks)])
    convs, grid = _geometry(arrays, plan, kernels, channels, view, where, notes)
    # Our networks divide pixels by 255. What takes them as they are makes up for it: statistics, or
    # else the first layer. Frames over their own deviation are the same whatever their scale.
    levels = np.float32(255 if plan.raw_pixels and not plan.frame_decay else 1)
    first_scale = np.float32(1) if plan.statistics else levels
    for i, (conv, layer, kernel) in enumerate(zip(plan.convs, convs, kernels, strict=True), 1):
        scale = first_scale if i == 1 else np.float32(1)
        shown = f"{layer.kernel}x{layer.kernel} / {layer.stride}"
        if layer.extra:
            shown += f", padding {layer.padding} and {layer.padding + layer.extra}"
        elif layer.padding:
            shown += f", padding {layer.padding}"
        add(f"conv{i}", "conv", conv.weights, kernel * scale, shown, next(activations))
    for i, (section, own) in enumerate(zip(plan.sections, sections, strict=True), 1):
        act = next(activations)
        for (name, weights), kernel in zip(section.layers, own, strict=True):
            shown = "3x3 / 1, padding 1" + (", maximum 3x3 / 2" if name == "conv" else "")
            add(f"section{i}/{name}", "conv", weights, kernel, shown, act)
    if plan.statistics is not None:
        scales = _scales(arrays, plan.statistics, view, where, notes)
        scales = {"mean": scales["mean"] / levels, "scale": scales["scale"] * levels}
        if plan.newest_first and isinstance(view, View):
            scales = {name: _turned(x, 0, view) for name, x in scales.items()}
        params["input"] = scales

    first = _first_dense(plan)
    if grid is not None:
        flat = grid[0] * grid[1] * grid[2]
    elif isinstance(view, View):
        flat = math.prod(view.shape)
    elif isinstance(view, Vector):
        flat = view.size + (0 if vectors is None else vectors.shape[1])
    else:
        flat = inputs(arrays, plan, where)

    if plan.fractions is not None:
        act = next(activations)
        params["fractions"] = {"vectors": _vectors(arrays, plan, act, flat, grid, where)}
        basis = _dense_weight(arrays, plan.fractions, None, plan, where).shape[1]
        count = (basis + (plan.fractions.bias is not None)) * flat
        key = brief([plan.fractions.key])
        rows.append(Layer("fractions", key, "dense", f"{basis} -> {flat}", "", act, count))
        notes.append(
            f"implicit quantiles: the mean over the midpoints of {FRACTIONS} equal parts, where "
            "its own program drew them by chance"
        )

    def dense(name: str, layer: Weights, inputs: int, act: str) -> int:
        """Adds a dense layer; the width of its output."""
        weight = _dense_weight(arrays, layer, inputs, plan, where)
        if layer in first and grid is not None:
            weight = _rows_first(weight, grid, plan)
        elif layer in first:
            weight = weight * first_scale
        add(name, "dense", layer, weight.T, "", act)
        return len(weight)

    def stream(prefix: str, layers: tuple[Weights, ...], width: int) -> int:
        for i, layer in enumerate(layers, 1):
            width = dense(f"{prefix}{i}", layer, width, next(activations))
        return width

    atoms = _atoms(arrays, plan, where)
    depth = atoms.count if atoms else 1
    shared = stream("fc", plan.hidden, flat)
    core = None
    if plan.core:
        core = _core(arrays, plan.core, shared, where)
        dense("core_input", plan.core.input, shared, "none")
        dense("core_hidden", plan.core.hidden, core.width, plan.core.kind)
        shared = core.width
    streams = []
    for i, part in enumerate(plan.streams, 1):
        width = dense(f"stream{i}_fc1", part.hidden, shared, next(activations))
        count = dense(f"stream{i}", part.last, width, "tanh" if part.bounded else "none")
        if count != len(part.outputs):
            shape = arrays[part.last.weight].shape
            raise ValueError(
                f"{where}: {part.last.weight} has shape {shape}, expected "
                f"({len(part.outputs)}, {width})"
            )
        streams.append(networks.Stream(width, part.outputs, part.bounded))
    outputs = sum(len(part.outputs) for part in streams)
    if not streams:
        width = stream("action_fc", plan.action_hidden, shared)
        dense("action", plan.action, width, "none")
        count = params["action"]["bias"].size
        outputs = count // depth
        if outputs * depth != count:
            raise ValueError(
                f"{where}: {plan.action.weight} has {count} outputs, not {depth} atoms for "
                f"each action"
            )
    if plan.value is not None:
        width = stream("value_fc", plan.value_hidden, shared)
        if dense("value", plan.value, width, "none") != depth:
            shape = arrays[plan.value.weight].shape
            raise ValueError(
                f"{where}: {plan.value.weight} has shape {shape}, expected ({depth}, {width})"
            )

    if plan.norms:
        norms, more = _norms(arrays, plan, params, where)
        params |= norms
        rows += more
        notes.append("LayerNorm before every activation")

    def widths(prefix: str, layers: tuple[Weights, ...]) -> tuple[int, ...]:
        return tuple(params[f"{prefix}{i}"]["bias"].size for i in range(1, len(layers) + 1))

    activation = plan.activation
    if plan.fractions and not isinstance(activation, str):  # whose vectors have gone through it
        place = len(plan.convs) + len(plan.sections)
        activation = (*activation[:place], *activation[place + 1 :])
    network = networks.Network(
        convs=convs,
        residual=tuple(own[0].shape[3] for own in sections),
        hidden=widths("fc", plan.hidden),
        head=plan.head,
        action_hidden=widths("action_fc", plan.action_hidden),
        value_hidden=widths("value_fc", plan.value_hidden),
        streams=tuple(streams),
        num_outputs=outputs,
        activation=activation,
        atoms=atoms,
        fractions=FRACTIONS if plan.fractions else 0,
        input_clip=plan.statistics.clip if plan.statistics else 0.0,
        torch_pool=plan.torch_pool,
        core=core,
        frame_decay=plan.frame_decay,
        layer_norm=bool(plan.norms),
    )
    if vectors is not None:
        tasks, size = vectors.shape
        network = network.clone(task_embedding=size, game_actions=(tuple(range(outputs)),) * tasks)
    try:  # what is kept of it has to be read again
        networks.from_dict(networks.to_dict(network))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return Built(network, {"params": params}, tuple(rows), tuple(notes))


def _norms(
    arrays: Arrays, plan: Plan, params: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], list[Layer]]:
    """The parameters of a plan's LayerNorms, and their rows of the layer table."""
    groups = {
        "conv": len(plan.convs),
        "fc": len(plan.hidden),
        "action_fc": len(plan.action_hidden),
        "value_fc": len(plan.value_hidden),
    }
    places = [(name, i) for name, count in groups.items() for i in range(1, count + 1)]
    made, rows = {}, []
    for (name, i), norm in zip(places, plan.norms, strict=True):
        assert norm.bias is not None
        size = params[f"{name}{i}"]["bias"].size
        scale, bias = (tensor(arrays, x, (size,), where) for x in (norm.weight, norm.bias))
        made[f"{name}_norm{i}"] = {"scale": scale, "bias": bias}
        key, shape = brief([norm.key]), f"{size} -> {size}"
        rows.append(Layer(f"{name}_norm{i}", key, "norm", shape, "", "", 2 * size))
    return made, rows


def _first_dense(plan: Plan) -> tuple[Weights, ...]:
    """The dense layers that see the flattened input of the dense part."""
    if plan.hidden:
        return plan.hidden[:1]
    if plan.core:
        return (plan.core.input,)
    streams = [stream.hidden for stream in plan.streams]
    first = streams or [(*plan.action_hidden, plan.action)[0]]
    if plan.value is not None:
        first.append((*plan.value_hidden, plan.value)[0])
    return tuple(first)


def inputs(arrays: Arrays, plan: Plan, where: str) -> int:
    """How many numbers the first dense layer takes; ValueError if it is no dense layer."""
    return _dense_weight(arrays, _first_dense(plan)[0], None, plan, where).shape[1]


def _dense_weight(
    arrays: Arrays, layer: Weights, inputs: int | None, plan: Plan, where: str
) -> np.ndarray:
    """`(outputs, inputs)`, as PyTorch has it."""
    if plan.flax:
        return _half(tensor(arrays, layer.weight, (inputs, None), where).T, layer)
    return _half(tensor(arrays, layer.weight, (None, inputs), where), layer)


def _half(array: np.ndarray, layer: Weights) -> np.ndarray:
    """The outputs of a file's layer that are this one's; they come first."""
    if layer.half is None:
        return array
    middle = len(array) // 2
    return array[middle:] if layer.half else array[:middle]


def _rows_first(weight: np.ndarray, grid: tuple[int, int, int], plan: Plan) -> np.ndarray:
    """Inputs in the order (H, W, C) of our networks, whatever the file's network flattens."""
    if plan.flax if plan.rows_first is None else plan.rows_first:
        return weight
    return weight.reshape(-1, *grid).transpose(0, 2, 3, 1).reshape(len(weight), -1)


def _conv_kernel(
    arrays: Arrays, conv: Conv, channels: int | None, plan: Plan, where: str
) -> np.ndarray:
    """`(k, k, I, O)`, as Flax has it, from PyTorch's `(O, I, k, k)`."""
    name, size = conv.weights.weight, conv.kernel
    if plan.flax:
        weight = tensor(arrays, name, (size, size, channels, None), where)
    else:
        weight = tensor(arrays, name, (None, channels, size, size), where).transpose(2, 3, 1, 0)
    padding = conv.padding if isinstance(conv.padding, int) else 0
    if padding >= weight.shape[0]:
        raise ValueError(
            f"{where}: {brief([name])} has kernels of {weight.shape[0]}x{weight.shape[1]}, but "
            f"padding {padding}; expected less than a kernel"
        )
    if weight.shape[0] != weight.shape[1]:
        raise ValueError(
            f"{where}: {name} has shape {arrays[name].shape}, expected a square kernel (O, I, k, k)"
        )
    return weight


def _turned(array: np.ndarray, axis: int, view: View) -> np.ndarray:
    """With the frames of a stack, which are one axis, in the other order."""
    shape = array.shape
    apart = array.reshape(*shape[:axis], view.stack, -1, *shape[axis + 1 :])
    return np.flip(apart, axis).reshape(shape)


def _block(arrays: Arrays, conv: Conv, channels: int, plan: Plan, where: str) -> np.ndarray:
    """A residual block's kernel, of as many outputs as inputs."""
    kernel = _conv_kernel(arrays, conv, channels, plan, where)
    if kernel.shape[3] != channels:
        raise ValueError(
            f"{where}: {brief([conv.weights.weight])} has {kernel.shape[3]} outputs, expected "
            f"{channels}, those of its residual section"
        )
    return kernel


def _mean_quantile(
    kernel: np.ndarray, bias: np.ndarray, plan: Plan, where: str, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The layer of all outputs whose outputs are the means of a quantile head's."""
    assert plan.quantiles
    count = plan.quantiles.count
    if bias.size % count:
        raise ValueError(
            f"{where}: {plan.action.weight} has {bias.size} outputs, not {count} quantiles for "
            f"each action"
        )
    shape = (count, -1) if plan.quantiles.first else (-1, count)
    axis = -2 if plan.quantiles.first else -1
    notes.append(f"the mean of {count} quantiles is now part of the last layer: the same Q-values")
    # In double precision, since so many are added.
    means = (x.astype(np.float64).reshape(*x.shape[:-1], *shape).mean(axis) for x in (kernel, bias))
    kernel, bias = (x.astype(np.float32) for x in means)
    return kernel, bias


def _atoms(arrays: Arrays, plan: Plan, where: str) -> networks.Atoms | None:
    """The returns of a categorical head; ValueError if they are not evenly spaced."""
    if plan.support is None or plan.support.tensor is None:
        return plan.support.atoms if plan.support else None
    name = plan.support.tensor
    returns = tensor(arrays, name, (None,), where).astype(np.float64)
    low, high = float(returns[0]), float(returns[-1])
    even = np.linspace(low, high, len(returns))
    if len(returns) < 2 or not low < high or np.abs(returns - even).max() > 1e-5 * (high - low):
        raise ValueError(f"{where}: {brief([name])} holds returns that are not evenly spaced")
    return networks.Atoms(low, high, len(returns))


def _core(arrays: Arrays, core: PlannedCore, inputs: int, where: str) -> networks.Core:
    """The cell that these tensors are of, whose sizes fit each other."""
    gates = networks.CELLS[core.kind].gates
    weight = tensor(arrays, core.hidden.weight, (None, None), where)
    width = weight.shape[1]
    for name, columns in ((core.hidden.weight, width), (core.input.weight, inputs)):
        rows = arrays[name].shape[0]
        if rows != gates * width:
            raise ValueError(
                f"{where}: {brief([name])} has {rows} rows, expected {gates * width}, of {gates} "
                f"gates of {width} units, as {core.kind} has"
            )
        tensor(arrays, name, (rows, columns), where)
    return networks.Core(core.kind, width)


def _vectors(
    arrays: Arrays,
    plan: Plan,
    activation: str,
    width: int,
    grid: tuple[int, int, int] | None,
    where: str,
) -> np.ndarray:
    """`(FRACTIONS, width)`: what features are multiplied by, for each fraction."""
    assert plan.fractions
    weight = _dense_weight(arrays, plan.fractions, None, plan, where).astype(np.float64)
    bias = np.zeros(width, np.float32)
    if plan.fractions.bias is not None:
        bias = tensor(arrays, plan.fractions.bias, (width,), where)
    if len(weight) != width:
        wanted = (None, width) if plan.flax else (width, None)
        tensor(arrays, plan.fractions.weight, wanted, where)
    middle = (np.arange(FRACTIONS) + 0.5) / FRACTIONS
    numbers = plan.first_cosine + np.arange(weight.shape[1])
    made = np.cos(np.pi * np.outer(middle, numbers)) @ weight.T + bias
    vectors = np.array(networks.ACTIVATIONS[activation](jnp.asarray(made, np.float32)))
    return np.ascontiguousarray(vectors if grid is None else _rows_first(vectors, grid, plan))


def _scales(
    arrays: Arrays, statistics: Statistics, view: AnyView | None, where: str, notes: list[str]
) -> dict[str, np.ndarray]:
    """Mean and one over the deviation of each pixel."""
    shape = None if view is None else view.shape
    mean, variance = (
        tensor(arrays, name, shape or (None,), where)
        for name in (statistics.mean, statistics.variance)
    )
    if (variance < 0).any():
        raise ValueError(f"{where}: {brief([statistics.variance])} holds negative variances")
    notes.append(
        f"its running mean and variance normalise each pixel, cut to +-{statistics.clip:g}"
    )
    scale = 1 / np.sqrt(variance.astype(np.float64) + statistics.epsilon)
    return {"mean": mean, "scale": scale.astype(np.float32)}


def tensor(arrays: Arrays, name: str, shape: tuple[int | None, ...], where: str) -> np.ndarray:
    """A tensor as float32, of this shape (None fits any size)."""
    array = arrays[name]
    fits = len(array.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or 0 in array.shape:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        wanted += "," if len(shape) == 1 else ""
        raise ValueError(f"{where}: {brief([name])} has shape {array.shape}, expected ({wanted})")
    if array.dtype.kind != "f" and not array.dtype.name.startswith(("bfloat", "float")):
        raise ValueError(
            f"{where}: {brief([name])} has dtype {array.dtype}, expected floating point"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{where}: {brief([name])} holds NaN or infinite weights; the expert is broken"
        )
    return array


def _geometry(
    arrays: Arrays,
    plan: Plan,
    kernels: list[np.ndarray],
    channels: int | None,
    view: AnyView | None,
    where: str,
    notes: list[str],
) -> tuple[tuple[networks.ConvLayer, ...], tuple[int, int, int] | None]:
    """The convolutions with their padding, and the (C, H, W) that all ends in (None without any).

    Args:
      channels: that it ends in.
    """
    if not plan.convs and not plan.sections:
        return (), None
    if not isinstance(view, View):
        raise ValueError(f"{where}: has convolutions; expected a view of the screen")
    assert channels is not None
    first = _first_dense(plan)[0].weight
    width = inputs(arrays, plan, where)
    sizes = [kernel.shape[0] for kernel in kernels]

    def end(paddings: tuple[int | str, ...]) -> tuple[int, int]:
        height_width = [view.height, view.width]
        for conv, kernel, padding in zip(plan.convs, sizes, paddings, strict=True):
            height_width = [convolved(n, kernel, conv.stride, padding) for n in height_width]
            if min(height_width) < 1:
                return (0, 0)
        for _ in plan.sections:
            height_width = [(n + 1) // 2 for n in height_width]
        return (height_width[0], height_width[1])

    def fits(paddings: tuple[int | str, ...]) -> bool:
        rows, columns = end(paddings)
        return channels * rows * columns == width

    usual = tuple(conv.padding or 0 for conv in plan.convs)
    chosen = usual
    if not fits(usual) and any(conv.padding is None for conv in plan.convs):
        choices = itertools.product(
            *(
                range(size // 2 + 1) if conv.padding is None else (conv.padding,)
                for conv, size in zip(plan.convs, sizes, strict=True)
            )
        )
        most = 100_000 // len(sizes)
        fitting = [paddings for paddings in itertools.islice(choices, most) if fits(paddings)]
        if len(fitting) > 1:
            keys = brief(conv.weights.key for conv in plan.convs if conv.padding is None)
            raise ValueError(
                f"{where}: {len(fitting)} paddings agree with the {width} inputs of {first}; "
                f"say which: give padding for {keys}"
            )
        if fitting:
            chosen = fitting[0]
            notes.append(f"padding {list(chosen)}: the only one that agrees with {first}")
    if not fits(chosen):
        rows, columns = end(chosen)
        got = f"{channels}x{rows}x{columns} = {channels * rows * columns} features"
        raise ValueError(
            f"{where}: {brief([first])} has shape {arrays[first].shape}, but the convolutions make "
            f"{got if rows else 'nothing'} of a {view.height}x{view.width} view; "
            "check the view, strides and paddings"
        )
    convs: list[networks.ConvLayer] = []
    for conv, kernel, padding in zip(plan.convs, kernels, chosen, strict=True):
        size = kernel.shape[0]
        height, width = networks.grid(convs, view.height, view.width)
        zeros, across = (_zeros(n, size, conv.stride, padding) for n in (height, width))
        if zeros != across:
            raise ValueError(
                f"{where}: 'same' padding is not the same for {height} rows and {width} columns"
            )
        convs.append(networks.ConvLayer(kernel.shape[3], size, conv.stride, zeros // 2, zeros % 2))
    return tuple(convs), (channels, *end(chosen))


def convolved(size: int, kernel: int, stride: int, padding: int | str) -> int:
    """How many rows or columns a convolution makes of `size`; below 1 where it does not fit."""
    return (size + _zeros(size, kernel, stride, padding) - kernel) // stride + 1


def _zeros(size: int, kernel: int, stride: int, padding: int | str) -> int:
    """What is added to `size` pixels on both sides together, by a number or by `SAME`."""
    if isinstance(padding, int):
        return 2 * padding
    return max(0, (-(-size // stride) - 1) * stride + kernel - size)


def brief(names: Iterable[str]) -> str:
    """Names for a message: printable, on one line, not endless."""
    names = list(names)
    shown = ["".join(c if c.isprintable() else "?" for c in name[:80]) for name in names[:8]]
    rest = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(shown) + rest
