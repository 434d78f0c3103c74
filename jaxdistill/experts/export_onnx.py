"""Our policies -> ONNX, layer by layer from the description of the network, preprocessing inside.

Pictures go in as emulators hand them over, `(batch, channels, height, width)` uint8. Where a policy
plays several tasks, its vectors, controllers and masks are gathered by each row's task. Needs the
package `onnx` to write; what is written runs wherever ONNX does.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill import networks
from jaxdistill.experts import portable
from jaxdistill.experts.portable import Portable

_OPSET, _IR_VERSION = 17, 8  # the first operators with LayerNormalization, and a format of its time
_KINDS = {"float32": 1, "uint8": 2, "int32": 6}  # of onnx.TensorProto
_LAYER_NORM_EPSILON = 1e-6  # flax's
_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "elu": ("Elu", {}),
    "tanh": ("Tanh", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "selu": ("Selu", {}),
    "sigmoid": ("Sigmoid", {}),
    "none": ("Identity", {}),
}


def write(policy: Portable, path: str | os.PathLike[str]) -> None:
    """Writes a policy as an ONNX model, and `FILE.json` beside it; its description is inside too.

    Raises:
      ValueError: the package `onnx` is not installed, the network has what is not written as ONNX,
        or as `portable.write`.
    """
    portable.write(policy, path, lambda: _model(policy))


def _model(policy: Portable) -> bytes:
    try:
        import onnx
    except ImportError:
        raise ValueError(
            "--format=onnx is written with the package onnx: pip install 'jaxdistill[onnx]'"
        ) from None
    if policy.network.fractions:
        raise ValueError(
            f"{policy.name}: implicit quantiles are not written as ONNX; choose --format=module or "
            f"stablehlo"
        )
    graph = _Graph()
    _Layers(policy, graph).write("outputs")
    _choose(policy, graph)
    told = policy.described()
    inputs, results = (
        [
            onnx.helper.make_tensor_value_info(x["name"], _KINDS[x["dtype"]], x["shape"])
            for x in told[side]
        ]
        for side in ("inputs", "outputs")
    )
    weights = [onnx.numpy_helper.from_array(x, name) for name, x in graph.constants.items()]
    nodes = [
        onnx.helper.make_node(kind, given, [result], **attributes)
        for kind, given, result, attributes in graph.nodes
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "policy", inputs, results, weights),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="jaxdistill",
    )
    onnx.helper.set_model_props(model, {"jaxdistill": json.dumps(told)})
    content: bytes = model.SerializeToString()
    return content


class _Graph:
    """Nodes and constants, as they are added; methods give the name of what they add."""

    def __init__(self) -> None:
        self.nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self.constants: dict[str, np.ndarray] = {}

    def node(self, kind: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """A node of one result."""
        result = result or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append((kind, list(inputs), result, attributes))
        return result

    def constant(self, value: Any, dtype: str = "float32") -> str:
        """An array."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype, order="C")
        return name

    def of_task(self, table: np.ndarray) -> str:
        """Each row's own line of a table `(G, ...)`."""
        return self.node("Gather", self.constant(table, table.dtype.name), "task", axis=0)

    def cast(self, x: str, dtype: str, result: str = "") -> str:
        """The same numbers in another dtype."""
        return self.node("Cast", x, result=result, to=_KINDS[dtype])


def _choose(policy: Portable, graph: _Graph) -> None:
    """The greedy action, from `outputs` to `action`."""
    masks, factored = policy.masks, policy.suite.factored
    mask = graph.of_task(masks) if policy.several else graph.constant(masks, "bool")
    if factored is None:
        valid = graph.node("Where", mask, "outputs", graph.constant(-np.inf))
        best = graph.node("ArgMax", valid, axis=1, keepdims=0)
        graph.cast(best, "int32", result="action")
        return
    keys = graph.constant([factored.keys], "bool")
    down = graph.cast(graph.node("Greater", "outputs", graph.constant(0.0)), "float32")
    chosen = graph.node("Where", keys, down, "outputs")
    graph.node("Where", mask, chosen, graph.constant(0.0), result="action")


class _Layers:
    """The layers of one policy's network, in the order in which `Network` runs them."""

    def __init__(self, policy: Portable, graph: _Graph):
        self.policy, self.network, self.graph = policy, policy.network, graph
        self.layers = policy.params["params"]
        self.names = list(self.network.activations)  # those of the layers to come

    def write(self, result: str) -> None:
        """Outputs `(B, A)` in the suite's order, of `observations` and `task`."""
        graph, policy, network = self.graph, self.policy, self.network
        shared = self._dense(self._with_task(self._features()), "fc", network.hidden)
        if network.controllers:
            outputs = self._controlled(shared)
        elif network.streams:
            outputs = self._streamed(shared)
        else:
            own = self._dense(shared, "action_fc", network.action_hidden)
            outputs = self._affine(own, self.layers["action"])
            if network.atoms or network.head == "dueling":
                outputs = self._valued(outputs, shared)
        size, places = policy.suite.num_actions, list(policy.places)
        if places != list(range(size)):  # 0 where it has no output
            outputs = graph.node("MatMul", outputs, graph.constant(np.eye(size)[places]))
        if policy.suite.kinds:
            low, high = (
                graph.of_task(ends) if policy.several else graph.constant(ends)
                for ends in policy.limits
            )
            outputs = graph.node("Max", graph.node("Min", outputs, high), low)
        graph.node("Identity", outputs, result=result)

    def _features(self) -> str:
        """Convolutions, flattened as (row, column, channel)."""
        graph, network, x = self.graph, self.network, "observations"
        if self.policy.dtype == "uint8":
            x = graph.node("Mul", graph.cast(x, "float32"), graph.constant(np.float32(1 / 255)))
        if network.input_clip:
            mean, scale = (graph.constant(self.layers["input"][k]) for k in ("mean", "scale"))
            x = graph.node("Mul", graph.node("Sub", x, mean), scale)
            ends = [graph.constant(sign * network.input_clip) for sign in (-1, 1)]
            x = graph.node("Clip", x, *ends)
        for i, layer in enumerate(network.convs, 1):
            name = f"conv{i}"
            x = self._convolution(x, self.layers[name], layer.pad, layer.stride)
            x = self._activated(self._normalised(x, f"conv_norm{i}", pictures=True))
        if network.residual:
            x = self._sections(x)
        if network.convs or network.residual:
            x = graph.node("Transpose", x, perm=[0, 2, 3, 1])
        return graph.node("Flatten", x, axis=1)

    def _convolution(
        self, x: str, layer: Any, pad: tuple[int, int] = (1, 1), stride: int = 1
    ) -> str:
        kernel = np.asarray(layer["kernel"]).transpose(3, 2, 0, 1)
        weights = (self.graph.constant(kernel), self.graph.constant(layer["bias"]))
        before, after = pad
        return self.graph.node(
            "Conv", x, *weights, pads=[before, before, after, after], strides=[stride, stride]
        )

    def _sections(self, x: str) -> str:
        """Residual sections; see `convolutions.Section`."""
        graph, network = self.graph, self.network
        height, width = networks.grid(network.convs, *self.policy.shape[1:])
        name = ""
        for i in range(1, len(network.residual) + 1):
            own, name = self.layers[f"section{i}"], self.names.pop(0)
            x = self._convolution(x, own["conv"])
            # As `_max_pool` has it: what reaches beyond the far edge is empty.
            first = [1 if network.torch_pool else size % 2 for size in (height, width)]
            x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[*first, 1, 1])
            height, width = -(-height // 2), -(-width // 2)
            for block in ("block1", "block2"):
                y = x
                for j in (1, 2):
                    y = self._normalised(y, f"{block}_norm{j}", pictures=True, layers=own)
                    y = self._convolution(self._as(name, y), own[f"{block}_conv{j}"])
                x = graph.node("Add", x, y)
        return self._as(name, self._normalised(x, "section_norm1", pictures=True))

    def _with_task(self, features: str) -> str:
        """Features, with what the network is told of its task beside them."""
        network, graph = self.network, self.graph
        if network.task_embedding:
            vectors = np.asarray(self.layers["task_embedding"]["embedding"])
        elif network.one_hot:
            vectors = np.eye(len(network.game_actions), dtype=np.float32)
        else:
            return features
        return graph.node("Concat", features, graph.of_task(vectors), axis=1)

    def _dense(self, x: str, prefix: str, widths: Sequence[int]) -> str:
        for i in range(1, len(widths) + 1):
            x = self._affine(x, self.layers[f"{prefix}{i}"])
            x = self._activated(self._normalised(x, f"{prefix}_norm{i}"))
        return x

    def _affine(self, x: str, layer: Any) -> str:
        weights = (self.graph.constant(layer[part]) for part in ("kernel", "bias"))
        return self.graph.node("Gemm", x, *weights)

    def _normalised(self, x: str, name: str, *, pictures: bool = False, layers: Any = None) -> str:
        """LayerNorm over channels, where the network has it; pictures have them second."""
        layers = self.layers if layers is None else layers
        if name not in layers:
            return x
        graph, layer = self.graph, layers[name]
        if pictures:
            x = graph.node("Transpose", x, perm=[0, 2, 3, 1])
        weights = (graph.constant(layer[part]) for part in ("scale", "bias"))
        x = graph.node("LayerNormalization", x, *weights, axis=-1, epsilon=_LAYER_NORM_EPSILON)
        return graph.node("Transpose", x, perm=[0, 3, 1, 2]) if pictures else x

    def _activated(self, x: str) -> str:
        """The next layer's activation."""
        return self._as(self.names.pop(0), x)

    def _as(self, name: str, x: str) -> str:
        graph = self.graph
        if name == "silu":
            return graph.node("Mul", x, graph.node("Sigmoid", x))
        if name == "gelu":
            erf = graph.node("Erf", graph.node("Mul", x, graph.constant(1 / math.sqrt(2))))
            half = graph.node("Mul", x, graph.constant(0.5))
            return graph.node("Mul", half, graph.node("Add", erf, graph.constant(1.0)))
        kind, attributes = _ACTIVATIONS[name]
        return graph.node(kind, x, **attributes)

    def _controlled(self, shared: str) -> str:
        """Every task's controller runs on all rows, and each row takes its own."""
        graph, network = self.graph, self.network
        size, names, chosen = network.num_outputs, list(self.names), ""
        for i, actions in enumerate(network.game_actions):
            self.names = list(names)  # each has layers of the same kind
            own = self._dense(shared, f"controller{i + 1}_fc", network.action_hidden)
            last = self.layers[f"controller{i + 1}"]
            kernel = np.zeros((last["kernel"].shape[0], size), np.float32)
            bias = np.zeros(size, np.float32)
            kernel[:, actions], bias[list(actions)] = last["kernel"], last["bias"]
            outputs = self._affine(own, {"kernel": kernel, "bias": bias})
            if i:
                here = np.arange(len(network.game_actions))[:, None] == i
                outputs = graph.node("Where", graph.of_task(here), outputs, chosen)
            chosen = outputs
        return chosen

    def _streamed(self, shared: str) -> str:
        """Every stream's outputs, each at its place."""
        graph, streams, parts = self.graph, self.network.streams, []
        for i, stream in enumerate(streams, 1):
            own = self._dense(shared, f"stream{i}_fc", (stream.width,))
            own = self._affine(own, self.layers[f"stream{i}"])
            parts.append(graph.node("Tanh", own) if stream.bounded else own)
        order = np.argsort([output for stream in streams for output in stream.outputs])
        joined = graph.node("Concat", *parts, axis=1)
        return graph.node("Gather", joined, graph.constant(order, "int64"), axis=1)

    def _valued(self, outputs: str, shared: str) -> str:
        """A dueling head's Q-values, and the means of distributions over returns."""
        graph, network = self.graph, self.network
        value, atoms = "", network.atoms
        if network.head == "dueling":
            value = self._dense(shared, "value_fc", network.value_hidden)
            value = self._affine(value, self.layers["value"])
        if atoms:
            shape = graph.constant([0, network.num_outputs, atoms.count], "int64")
            outputs = graph.node("Reshape", outputs, shape)
            value = value and graph.node("Unsqueeze", value, graph.constant([1], "int64"))
        if value:
            mean = graph.node("ReduceMean", outputs, axes=[1], keepdims=1)
            outputs = graph.node("Add", graph.node("Sub", outputs, mean), value)
        if atoms:
            returns = graph.constant(np.linspace(atoms.low, atoms.high, atoms.count))
            outputs = graph.node("MatMul", graph.node("Softmax", outputs, axis=-1), returns)
        return outputs
