"""Our parameters in PyTorch's layout, under our own names, and back: of every kind of network.

Kernels are `(outputs, inputs)` or `(outputs, inputs, rows, columns)`. What convolutions saw is
flattened (C, H, W), as `torch.flatten` does, where ours is (H, W, C).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import flax.traverse_util
import jax
import numpy as np

from jaxdistill import networks

_NAMES = {"kernel": "weight", "embedding": "weight"}


class _Entry(NamedTuple):
    """One array: where it is among our parameters, its shape there, its name in PyTorch."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    name: str

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Its shape in PyTorch."""
        if len(self.shape) == 4:
            return (*self.shape[:1:-1], *self.shape[:2])
        return self.shape[::-1] if self.path[-1] == "kernel" else self.shape


def to_torch(
    params: networks.Params, network: networks.Network, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """A state_dict of float32 arrays.

    Args:
      shape: of one observation.
    """
    flat = flax.traverse_util.flatten_dict(params["params"])
    order, first = _order(network, shape), networks.first_dense(network)
    weights = {}
    for entry in _entries(network, shape):
        array = np.asarray(flat[entry.path], np.float32)
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif entry.path[-1] == "kernel":
            array = (_moved(array, order) if entry.path[0] in first else array).T
        elif entry.path[0] == "fractions":
            array = array[:, order]
        weights[entry.name] = np.ascontiguousarray(array)
    return weights


def from_torch(
    weights: Mapping[str, np.ndarray], network: networks.Network, shape: tuple[int, ...]
) -> networks.Params:
    """The inverse of `to_torch`.

    Raises:
      ValueError: an array is missing, of another shape, not finite, or of no layer.
    """
    if network.layer_count(5) > len(weights):  # said before it is looked at layer by layer
        raise ValueError(f"{len(weights)} arrays are too few for its network's layers")
    entries = list(_entries(network, shape))
    for entry in entries:
        if entry.name not in weights:
            raise ValueError(f"{entry.name} is not there")
        if weights[entry.name].shape != entry.torch_shape:
            raise ValueError(
                f"{entry.name} is of shape {weights[entry.name].shape}, and of "
                f"{entry.torch_shape} by its network"
            )
        if not np.isfinite(weights[entry.name]).all():
            raise ValueError(f"{entry.name} holds NaN or infinite numbers")
    if more := sorted(set(weights) - {entry.name for entry in entries}):
        raise ValueError(f"{more[0]} is of no layer of its network")
    back, first = np.argsort(_order(network, shape)), networks.first_dense(network)
    flat = {}
    for entry in entries:
        array = np.asarray(weights[entry.name], np.float32)
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif entry.path[-1] == "kernel":
            array = _moved(array.T, back) if entry.path[0] in first else array.T
        elif entry.path[0] == "fractions":
            array = array[:, back]
        flat[entry.path] = np.ascontiguousarray(array)
    return {"params": flax.traverse_util.unflatten_dict(flat)}


def _entries(network: networks.Network, shape: tuple[int, ...]) -> Iterator[_Entry]:
    """Every array of a network that sees `shape`."""
    born = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), shape))
    for path, array in flax.traverse_util.flatten_dict(born["params"]).items():
        last = "weight" if path[-1] == "scale" and path[0] != "input" else path[-1]
        yield _Entry(path, array.shape, ".".join([*path[:-1], _NAMES.get(last, last)]))


def _order(network: networks.Network, shape: tuple[int, ...]) -> np.ndarray:
    """For each feature in PyTorch's order, its place in ours."""
    if not network.convs and not network.residual:
        return np.arange(math.prod(shape))
    height, width = networks.grid(network.convs, *shape[1:])
    for _ in network.residual:
        height, width = -(-height // 2), -(-width // 2)
    channels = network.residual[-1] if network.residual else network.convs[-1].features
    places = np.arange(height * width * channels).reshape(height, width, channels)
    return places.transpose(2, 0, 1).ravel()


def _moved(kernel: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rows `(inputs, outputs)` in another order; those behind the features stay."""
    return np.concatenate([kernel[order], kernel[len(order) :]])
