"""From named PyTorch or Flax tensors to a `Network` and its parameters.

A plan says *which* tensors form which layer (see `layers`); `build` checks every shape against the
others and against the input's size, and lays the numbers out the way Flax wants them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill import networks
from jaxdistill.experts.formats import distributions, padding
from jaxdistill.experts.formats.kernels import Reader
from jaxdistill.experts.formats.layers import (
    Arrays,
    Conv,
    Plan,
    PlannedCore,
    Statistics,
    Weights,
    brief,
)
from jaxdistill.tasks.views import AnyView, Vector, View


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

    @property
    def vector(self) -> Vector:
        """What it sees, if that is a vector."""
        first = networks.first_dense(self.network)[0]
        return Vector(self.params["params"][first]["kernel"].shape[0])


def build(arrays: Arrays, plan: Plan, view: AnyView | None, where: str) -> Built:
    """The network that `plan` describes, with the file's numbers in it.

    One with an embedding knows its task: it plays each with all of its outputs.

    Of a quantile head the mean over quantiles, being linear, becomes part of the layer of all
    outputs: exactly the same Q-values. The vectors of implicit quantiles are f(W cos(pi i tau) + b)
    for the midpoints tau of `distributions.FRACTIONS` equal parts of 0..1, with f an activation
    (Dabney et al. 2018, equation 4). There i is 0, 1, ..., n - 1; in Dopamine and PFRL, and here
    where a plan's `first_cosine` does not say otherwise, it is 1, 2, ..., n.

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
    builder = _Builder(Reader(arrays, plan, where), view)
    network = builder.network()
    try:  # what is kept of it has to be read again
        networks.from_dict(networks.to_dict(network))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    params = {"params": builder.params}
    return Built(network, params, tuple(builder.rows), tuple(builder.notes))


_MOST_OUTPUTS = 2**16  # of all tasks together: each has its list of those that count


class _Builder:
    """What `build` has made so far; each method adds its layers, in the order of the layer table.

    Attributes:
      params, rows, notes: of what was added.
      activations: one per layer, in the order in which layers are added.
      grid: the (C, H, W) that the convolutions end in; None without any.
      levels: what our pixels are multiplied by to be those of the file's network.
      first_scale: what of that the first layer makes up for.
    """

    def __init__(self, reader: Reader, view: AnyView | None):
        self.reader, self.plan, self.where = reader, reader.plan, reader.where
        self.view = view
        self.params: dict[str, Any] = {}
        self.rows: list[Layer] = []
        self.notes: list[str] = []
        acts = self.plan.activation
        self.activations = itertools.repeat(acts) if isinstance(acts, str) else iter(acts)
        self.grid: tuple[int, int, int] | None = None
        # Our networks divide pixels by 255. What takes them as they are makes up for it:
        # statistics, or else the first layer. Frames over their own deviation are the same whatever
        # their scale.
        raw = self.plan.raw_pixels and not self.plan.frame_decay
        self.levels = np.float32(255 if raw else 1)
        self.first_scale = np.float32(1) if self.plan.statistics else self.levels

    def network(self) -> networks.Network:
        """Adds all layers; the network that they are of."""
        plan = self.plan
        vectors = self.embedding()
        convs, residual = self.torso()
        self.statistics()
        flat = self.features(vectors)
        self.fractions(flat)
        atoms = distributions.atoms(self.reader)
        depth = atoms.count if atoms else 1
        shared, core = self.core(self.stack("fc", plan.hidden, flat))
        streams = self.streams(shared)
        outputs = sum(len(part.outputs) for part in streams)
        if not streams:
            outputs = self.action(shared, depth)
        self.value(shared, depth)
        self.norms()
        network = networks.Network(
            convs=convs,
            residual=residual,
            hidden=self.widths("fc", plan.hidden),
            head=plan.head,
            action_hidden=self.widths("action_fc", plan.action_hidden),
            value_hidden=self.widths("value_fc", plan.value_hidden),
            streams=streams,
            num_outputs=outputs,
            activation=self.activation(),
            atoms=atoms,
            fractions=distributions.FRACTIONS if plan.fractions else 0,
            input_clip=plan.statistics.clip if plan.statistics else 0.0,
            torch_pool=plan.torch_pool,
            core=core,
            frame_decay=plan.frame_decay,
            layer_norm=bool(plan.norms),
        )
        if vectors is None:
            return network
        tasks, size = vectors.shape
        if tasks * outputs > _MOST_OUTPUTS:
            raise ValueError(
                f"{self.where}: has {outputs} outputs for each of {tasks} tasks, expected at most "
                f"{_MOST_OUTPUTS} together"
            )
        return network.clone(task_embedding=size, game_actions=(tuple(range(outputs)),) * tasks)

    # --- what all layers need

    def add(
        self, name: str, kind: str, layer: Weights, kernel: np.ndarray, shown: str, act: str
    ) -> None:
        """Adds a layer, whose kernel is ours and whose bias is the file's.

        Args:
          name: "section1/conv" in a section.
          shown: the table's column of kernels.
        """
        bias = self.reader.bias(layer, kernel.shape[-1])
        shape = f"{kernel.shape[-2]} -> {kernel.shape[-1]}"
        count = kernel.size + (0 if layer.bias is None else bias.size)
        self.rows.append(Layer(name, brief([layer.key]), kind, shape, shown, act, count))
        if name == "action" and self.plan.quantiles:
            kernel, bias = distributions.means(self.reader, kernel, bias)
        section, _, own = name.rpartition("/")
        at = self.params.setdefault(section, {}) if section else self.params
        at[own] = {"kernel": np.ascontiguousarray(kernel), "bias": np.ascontiguousarray(bias)}

    def width(self, name: str) -> int:
        """How many outputs a layer has that was added."""
        size: int = self.params[name]["bias"].size
        return size

    def widths(self, prefix: str, layers: tuple[Weights, ...]) -> tuple[int, ...]:
        """Of layers that `stack` added."""
        return tuple(self.width(f"{prefix}{i}") for i in range(1, len(layers) + 1))

    def activation(self) -> str | tuple[str, ...]:
        """The network's: without that of the layer of fractions, whose vectors went through it."""
        plan = self.plan
        if not plan.fractions or isinstance(plan.activation, str):
            return plan.activation
        place = len(plan.convs) + len(plan.sections)
        return (*plan.activation[:place], *plan.activation[place + 1 :])

    # --- what sees the input

    def embedding(self) -> np.ndarray | None:
        """Adds a vector for each task, `(tasks, size)`; None where there are none."""
        name = self.plan.embedding
        if name is None:
            return None
        vectors = self.reader.tensor(name, (None, None))
        self.params["task_embedding"] = {"embedding": vectors}
        key = brief([name.removesuffix(".weight")])
        sizes = f"{vectors.shape[0]} x {vectors.shape[1]}"
        self.rows.append(Layer("task_embedding", key, "embedding", sizes, "", "none", vectors.size))
        return vectors

    def torso(self) -> tuple[tuple[networks.ConvLayer, ...], tuple[int, ...]]:
        """Adds convolutions and residual sections, and says the `grid`.

        Returns:
          The convolutions, and the channels of each section.
        """
        channels = self.view.shape[0] if isinstance(self.view, View) else None
        kernels = self.conv_kernels(channels)
        channels = kernels[-1].shape[3] if kernels else channels
        sections = self.section_kernels(channels)
        residual = tuple(own[0].shape[3] for own in sections)
        channels = residual[-1] if residual else channels
        convs, self.grid, notes = padding.geometry(self.reader, kernels, channels, self.view)
        self.notes += notes
        self.add_convs(convs, kernels)
        self.add_sections(sections)
        return convs, residual

    def conv_kernels(self, channels: int | None) -> list[np.ndarray]:
        """`(k, k, I, O)` of each convolution; `channels` are the input's."""
        kernels = []
        for conv in self.plan.convs:
            kernels.append(self.reader.conv(conv, channels))
            channels = kernels[-1].shape[3]
        if self.plan.newest_first:
            if not kernels or not isinstance(self.view, View):
                raise ValueError(
                    f"{self.where}: frames are put in order for a network that begins with a conv"
                )
            kernels[0] = _turned(kernels[0], 2, self.view)
        return kernels

    def section_kernels(self, channels: int | None) -> list[list[np.ndarray]]:
        """Those of each residual section, in the order of its layers; `channels` go in."""
        sections = []
        for section in self.plan.sections:
            kernel = self.reader.conv(Conv(section.conv, 1, 3, 1), channels)
            channels = kernel.shape[3]
            blocks = [self.reader.block(weights, channels) for weights in section.blocks]
            sections.append([kernel, *blocks])
        return sections

    def add_convs(self, convs: Sequence[networks.ConvLayer], kernels: list[np.ndarray]) -> None:
        """Adds the convolutions."""
        each = zip(self.plan.convs, convs, kernels, strict=True)
        for i, (conv, layer, kernel) in enumerate(each, 1):
            scaled = kernel * (self.first_scale if i == 1 else np.float32(1))
            self.add(
                f"conv{i}", "conv", conv.weights, scaled, _shown(layer), next(self.activations)
            )

    def add_sections(self, sections: list[list[np.ndarray]]) -> None:
        """Adds the residual sections, each with one activation."""
        for i, (section, own) in enumerate(zip(self.plan.sections, sections, strict=True), 1):
            act = next(self.activations)
            for (name, weights), kernel in zip(section.layers, own, strict=True):
                shown = "3x3 / 1, padding 1" + (", maximum 3x3 / 2" if name == "conv" else "")
                self.add(f"section{i}/{name}", "conv", weights, kernel, shown, act)

    def statistics(self) -> None:
        """Adds what normalises each pixel, where something does."""
        if self.plan.statistics is None:
            return
        mean, scale = _scales(self.reader, self.plan.statistics, self.view)
        clip = self.plan.statistics.clip
        self.notes.append(f"its running mean and variance normalise each pixel, cut to +-{clip:g}")
        scales: dict[str, np.ndarray]
        scales = {"mean": mean / self.levels, "scale": scale * self.levels}
        if self.plan.newest_first and isinstance(self.view, View):
            scales = {name: _turned(x, 0, self.view) for name, x in scales.items()}
        self.params["input"] = scales

    def features(self, vectors: np.ndarray | None) -> int:
        """How many numbers the dense part takes; `vectors` are those of `embedding`."""
        if self.grid is not None:
            return math.prod(self.grid)
        if isinstance(self.view, View):
            return math.prod(self.view.shape)
        if isinstance(self.view, Vector):
            return self.view.size + (0 if vectors is None else vectors.shape[1])
        return self.reader.inputs()

    def fractions(self, flat: int) -> None:
        """Adds what `flat` features are multiplied by, for each fraction of implicit quantiles."""
        layer = self.plan.fractions
        if layer is None:
            return
        act = next(self.activations)
        weight = self.reader.dense(layer, None)
        vectors = distributions.vectors(self.reader, layer, weight, act, flat)
        if self.grid is not None:
            vectors = self.reader.rows_first(vectors, self.grid)
        self.params["fractions"] = {"vectors": np.ascontiguousarray(vectors)}
        basis = weight.shape[1]
        count = (basis + (layer.bias is not None)) * flat
        shape = f"{basis} -> {flat}"
        self.rows.append(Layer("fractions", brief([layer.key]), "dense", shape, "", act, count))
        self.notes.append(
            f"implicit quantiles: the mean over the midpoints of {distributions.FRACTIONS} equal "
            "parts, where its own program drew them by chance"
        )

    # --- dense layers, and what is made of them

    def dense(self, name: str, layer: Weights, inputs: int, act: str) -> int:
        """Adds one that takes `inputs` numbers; how many outputs it has."""
        weight = self.reader.dense(layer, inputs)
        if layer in self.plan.first_dense:
            if self.grid is not None:
                weight = self.reader.rows_first(weight, self.grid)
            else:
                weight = weight * self.first_scale
        self.add(name, "dense", layer, weight.T, "", act)
        return len(weight)

    def stack(self, prefix: str, layers: tuple[Weights, ...], width: int) -> int:
        """Adds several, one after another; how many outputs the last has, or `width` of none."""
        for i, layer in enumerate(layers, 1):
            width = self.dense(f"{prefix}{i}", layer, width, next(self.activations))
        return width

    def core(self, inputs: int) -> tuple[int, networks.Core | None]:
        """Adds the recurrent cell, if there is one; how many numbers come after it."""
        plan = self.plan.core
        if plan is None:
            return inputs, None
        core = _core(self.reader, plan, inputs)
        self.dense("core_input", plan.input, inputs, "none")
        self.dense("core_hidden", plan.hidden, core.width, plan.kind)
        return core.width, core

    def streams(self, inputs: int) -> tuple[networks.Stream, ...]:
        """Adds the streams of a head; none where one layer has all outputs."""
        streams = []
        for i, part in enumerate(self.plan.streams, 1):
            width = self.dense(f"stream{i}_fc1", part.hidden, inputs, next(self.activations))
            act = "tanh" if part.bounded else "none"
            count = self.dense(f"stream{i}", part.last, width, act)
            self.check_outputs(part.last, count, len(part.outputs), width)
            streams.append(networks.Stream(width, part.outputs, part.bounded))
        return tuple(streams)

    def action(self, inputs: int, depth: int) -> int:
        """Adds the layer of all outputs, of `depth` atoms each, and those before; how many."""
        plan = self.plan
        width = self.stack("action_fc", plan.action_hidden, inputs)
        self.dense("action", plan.action, width, "none")
        if plan.quantiles:
            self.notes.append(
                f"the mean of {plan.quantiles.count} quantiles is now part of the last layer: the "
                "same Q-values"
            )
        count = self.width("action")
        if count % depth:
            raise ValueError(
                f"{self.where}: {plan.action.weight} has {count} outputs, not {depth} atoms for "
                f"each action"
            )
        return count // depth

    def value(self, inputs: int, depth: int) -> None:
        """Adds the layer of the value, if there is one, and those before it."""
        plan = self.plan
        if plan.value is None:
            return
        width = self.stack("value_fc", plan.value_hidden, inputs)
        count = self.dense("value", plan.value, width, "none")
        self.check_outputs(plan.value, count, depth, width)

    def check_outputs(self, layer: Weights, count: int, expected: int, inputs: int) -> None:
        """Refuses a layer of another number of outputs."""
        if count != expected:
            shape = self.reader.arrays[layer.weight].shape
            raise ValueError(
                f"{self.where}: {layer.weight} has shape {shape}, expected ({expected}, {inputs})"
            )

    def norms(self) -> None:
        """Adds the LayerNorms, of layers that were all added before."""
        plan = self.plan
        if not plan.norms:
            return
        groups = {
            "conv": len(plan.convs),
            "fc": len(plan.hidden),
            "action_fc": len(plan.action_hidden),
            "value_fc": len(plan.value_hidden),
        }
        places = [(name, i) for name, count in groups.items() for i in range(1, count + 1)]
        for (prefix, i), norm in zip(places, plan.norms, strict=True):
            assert norm.bias is not None
            name, size = f"{prefix}_norm{i}", self.width(f"{prefix}{i}")
            scale, bias = (self.reader.tensor(x, (size,)) for x in (norm.weight, norm.bias))
            self.params[name] = {"scale": scale, "bias": bias}
            shape = f"{size} -> {size}"
            self.rows.append(Layer(name, brief([norm.key]), "norm", shape, "", "", 2 * size))
        self.notes.append("LayerNorm before every activation")


def _shown(layer: networks.ConvLayer) -> str:
    """The table's column of kernels."""
    shown = f"{layer.kernel}x{layer.kernel} / {layer.stride}"
    if layer.extra:
        return f"{shown}, padding {layer.padding} and {layer.padding + layer.extra}"
    return f"{shown}, padding {layer.padding}" if layer.padding else shown


def _turned(array: np.ndarray, axis: int, view: View) -> np.ndarray:
    """With the frames of a stack, which are one axis, in the other order."""
    shape = array.shape
    apart = array.reshape(*shape[:axis], view.stack, -1, *shape[axis + 1 :])
    return np.flip(apart, axis).reshape(shape)


def _scales(
    reader: Reader, statistics: Statistics, view: AnyView | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and one over the deviation of each pixel."""
    shape = None if view is None else view.shape
    mean, variance = (
        reader.tensor(name, shape or (None,)) for name in (statistics.mean, statistics.variance)
    )
    if (variance < 0).any():
        raise ValueError(f"{reader.where}: {brief([statistics.variance])} holds negative variances")
    scale = 1 / np.sqrt(variance.astype(np.float64) + statistics.epsilon)
    return mean, scale.astype(np.float32)


def _core(reader: Reader, core: PlannedCore, inputs: int) -> networks.Core:
    """The cell that these tensors are of, whose sizes fit each other."""
    gates = networks.CELLS[core.kind].gates
    width = reader.tensor(core.hidden.weight, (None, None)).shape[1]
    for name, columns in ((core.hidden.weight, width), (core.input.weight, inputs)):
        rows = reader.arrays[name].shape[0]
        if rows != gates * width:
            raise ValueError(
                f"{reader.where}: {brief([name])} has {rows} rows, expected {gates * width}, of "
                f"{gates} gates of {width} units, as {core.kind} has"
            )
        reader.tensor(name, (rows, columns))
    return networks.Core(core.kind, width)
