"""From named PyTorch tensors to a `Network` and its parameters.

A convention or a spec says *which* tensors form which layer (a `Plan`); `build` checks every shape
against the others and against the input's size, and lays the numbers out the way Flax wants them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

import numpy as np

from jaxdistill import networks
from jaxdistill.tasks.views import AnyView, Vector, View

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Weights:
    """Names of one layer's tensors; `bias` is None for a layer that has none."""

    weight: str
    bias: str | None

    @property
    def key(self) -> str:
        """What messages and tables call the layer."""
        return self.weight.removesuffix(".weight")


def named(key: str) -> Weights:
    """The tensors of a PyTorch module called `key`."""
    return Weights(f"{key}.weight", f"{key}.bias")


@dataclasses.dataclass(frozen=True)
class Conv:
    """One convolution of a `Plan`.

    Attributes:
      kernel: size the kernel has to have; None takes the tensor's.
      padding: zeros on every side; None means not known, see `build`.
    """

    weights: Weights
    stride: int
    kernel: int | None = None
    padding: int | None = 0


@dataclasses.dataclass(frozen=True)
class PlannedStream:
    """One stream of a `Plan`'s head: its dense layer, the layer of its outputs, and which they are.

    The other fields are as in `networks.Stream`.
    """

    hidden: Weights
    last: Weights
    outputs: tuple[int, ...]
    bounded: bool = False


NO_LAYER = Weights("", None)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which tensors form which layer of a `Network`; the fields are called as there.

    Attributes:
      action: the layer of all outputs; none where there are streams.
      raw_pixels: the file's network takes pixels of 0..255 as they are, without dividing by 255.
      embedding: the tensor `(tasks, size)` of a learnt vector per task; the first dense layer takes
        a task's after the features, as `Network.task_embedding` does.
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

    def layers(self) -> tuple[Weights, ...]:
        """Every layer, in the order of the layer table."""
        value = () if self.value is None else (self.value,)
        convs = tuple(conv.weights for conv in self.convs)
        streams = tuple(part for stream in self.streams for part in (stream.hidden, stream.last))
        return (
            *convs,
            *self.hidden,
            *self.action_hidden,
            *(streams or (self.action,)),
            *self.value_hidden,
            *value,
        )

    def tensors(self) -> list[str]:
        """Names of all tensors it needs."""
        vectors = [] if self.embedding is None else [self.embedding]
        return vectors + [
            name
            for layer in self.layers()
            for name in (layer.weight, layer.bias)
            if name is not None
        ]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One row of the layer table.

    Attributes:
      name: the layer in our `Network`; `key` in the file.
      kind: "conv", "dense" or "embedding".
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


def build(arrays: Arrays, plan: Plan, view: AnyView | None, where: str) -> Built:
    """The network that `plan` describes, with the file's numbers in it.

    One with an embedding knows its task: it plays each with all of its outputs.

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
    params: dict[str, dict[str, np.ndarray]] = {}
    rows: list[Layer] = []
    vectors = None
    if plan.embedding is not None:
        vectors = tensor(arrays, plan.embedding, (None, None), where)
        params["task_embedding"] = {"embedding": vectors}
        key = brief([plan.embedding.removesuffix(".weight")])
        sizes = f"{vectors.shape[0]} x {vectors.shape[1]}"
        rows.append(Layer("task_embedding", key, "embedding", sizes, "", "none", vectors.size))

    def add(name: str, kind: str, layer: Weights, kernel: np.ndarray, shown: str, act: str) -> None:
        kernel = np.ascontiguousarray(kernel)
        bias = np.zeros(kernel.shape[-1], np.float32)
        if layer.bias is not None:
            bias = tensor(arrays, layer.bias, (kernel.shape[-1],), where)
        params[name] = {"kernel": kernel, "bias": bias}
        shape = f"{kernel.shape[-2]} -> {kernel.shape[-1]}"
        count = kernel.size + (0 if layer.bias is None else bias.size)
        rows.append(Layer(name, brief([layer.key]), kind, shape, shown, act, count))

    channels = None if view is None else view.stack
    kernels = []
    for conv in plan.convs:
        kernel = _conv_kernel(arrays, conv, channels, where)
        channels = kernel.shape[3]
        kernels.append(kernel)
    convs, grid = _geometry(arrays, plan, kernels, view, where, notes)
    for i, (conv, layer, kernel) in enumerate(zip(plan.convs, convs, kernels, strict=True), 1):
        scale = np.float32(255 if plan.raw_pixels and i == 1 else 1)
        shown = f"{layer.kernel}x{layer.kernel} / {layer.stride}"
        shown += f", padding {layer.padding}" if layer.padding else ""
        add(f"conv{i}", "conv", conv.weights, kernel * scale, shown, next(activations))

    first = _first_dense(plan)
    if grid is not None:
        flat = grid[0] * grid[1] * grid[2]
    elif isinstance(view, View):
        flat = view.stack * view.height * view.width
    elif isinstance(view, Vector):
        flat = view.size + (0 if vectors is None else vectors.shape[1])
    else:
        flat = inputs(arrays, plan, where)

    def dense(name: str, layer: Weights, inputs: int, act: str) -> int:
        """Adds a dense layer; the width of its output."""
        weight = tensor(arrays, layer.weight, (None, inputs), where)
        if layer in first and grid is not None:
            # PyTorch flattens (C, H, W), our networks (H, W, C).
            weight = weight.reshape(-1, *grid).transpose(0, 2, 3, 1).reshape(len(weight), -1)
        elif layer in first and plan.raw_pixels:
            weight = weight * np.float32(255)
        add(name, "dense", layer, weight.T, "", act)
        return len(weight)

    def stream(prefix: str, layers: tuple[Weights, ...], width: int) -> int:
        for i, layer in enumerate(layers, 1):
            width = dense(f"{prefix}{i}", layer, width, next(activations))
        return width

    shared = stream("fc", plan.hidden, flat)
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
        outputs = dense("action", plan.action, width, "none")
    if plan.value is not None:
        width = stream("value_fc", plan.value_hidden, shared)
        if dense("value", plan.value, width, "none") != 1:
            shape = arrays[plan.value.weight].shape
            raise ValueError(
                f"{where}: {plan.value.weight} has shape {shape}, expected (1, {width})"
            )

    def widths(prefix: str, layers: tuple[Weights, ...]) -> tuple[int, ...]:
        return tuple(params[f"{prefix}{i}"]["bias"].size for i in range(1, len(layers) + 1))

    network = networks.Network(
        convs=convs,
        hidden=widths("fc", plan.hidden),
        head=plan.head,
        action_hidden=widths("action_fc", plan.action_hidden),
        value_hidden=widths("value_fc", plan.value_hidden),
        streams=tuple(streams),
        num_outputs=outputs,
        activation=plan.activation,
    )
    if vectors is not None:
        tasks, size = vectors.shape
        network = network.clone(task_embedding=size, game_actions=(tuple(range(outputs)),) * tasks)
    return Built(network, {"params": params}, tuple(rows), tuple(notes))


def _first_dense(plan: Plan) -> tuple[Weights, ...]:
    """The dense layers that see the flattened input of the dense part."""
    if plan.hidden:
        return plan.hidden[:1]
    streams = [stream.hidden for stream in plan.streams]
    first = streams or [(*plan.action_hidden, plan.action)[0]]
    if plan.value is not None:
        first.append((*plan.value_hidden, plan.value)[0])
    return tuple(first)


def inputs(arrays: Arrays, plan: Plan, where: str) -> int:
    """How many numbers the first dense layer takes; ValueError if it is no dense layer."""
    return tensor(arrays, _first_dense(plan)[0].weight, (None, None), where).shape[1]


def _conv_kernel(arrays: Arrays, conv: Conv, channels: int | None, where: str) -> np.ndarray:
    """`(k, k, I, O)` from PyTorch's `(O, I, k, k)`."""
    name, size = conv.weights.weight, conv.kernel
    weight = tensor(arrays, name, (None, channels, size, size), where)
    if (conv.padding or 0) >= weight.shape[2]:
        raise ValueError(
            f"{where}: {brief([name])} has kernels of {weight.shape[2]}x{weight.shape[3]}, but "
            f"padding {conv.padding}; expected less than a kernel"
        )
    if weight.shape[2] != weight.shape[3]:
        raise ValueError(
            f"{where}: {name} has shape {weight.shape}, expected a square kernel (O, I, k, k)"
        )
    return weight.transpose(2, 3, 1, 0)


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
    view: AnyView | None,
    where: str,
    notes: list[str],
) -> tuple[tuple[networks.ConvLayer, ...], tuple[int, int, int] | None]:
    """The convolutions with their padding, and the (C, H, W) they end in (None without any)."""
    if not plan.convs:
        return (), None
    if not isinstance(view, View):
        raise ValueError(f"{where}: has convolutions; expected a view of the screen")
    first = _first_dense(plan)[0].weight
    channels = kernels[-1].shape[3]
    width = tensor(arrays, first, (None, None), where).shape[1]
    sizes = [kernel.shape[0] for kernel in kernels]

    def end(paddings: tuple[int, ...]) -> tuple[int, int]:
        height_width = [view.height, view.width]
        for conv, kernel, padding in zip(plan.convs, sizes, paddings, strict=True):
            height_width = [(n + 2 * padding - kernel) // conv.stride + 1 for n in height_width]
            if min(height_width) < 1:
                return (0, 0)
        return (height_width[0], height_width[1])

    def fits(paddings: tuple[int, ...]) -> bool:
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
    convs = tuple(
        networks.ConvLayer(kernel.shape[3], kernel.shape[0], conv.stride, padding)
        for conv, kernel, padding in zip(plan.convs, kernels, chosen, strict=True)
    )
    return convs, (channels, *end(chosen))


def brief(names: Iterable[str], limit: int = 8) -> str:
    """Names for a message: printable, on one line, not endless."""
    names = list(names)
    shown = ["".join(c if c.isprintable() else "?" for c in name[:80]) for name in names[:limit]]
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(shown) + rest
