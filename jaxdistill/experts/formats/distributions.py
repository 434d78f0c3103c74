"""Heads that hold the distribution of the return: what is made of them for our networks."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxdistill import networks
from jaxdistill.experts.formats.kernels import Reader
from jaxdistill.experts.formats.layers import Weights, brief

FRACTIONS = 32
"""How many fractions of the return an implicit quantile network is asked for."""


def atoms(reader: Reader) -> networks.Atoms | None:
    """The returns of a categorical head; ValueError if they are not evenly spaced."""
    support = reader.plan.support
    if support is None or support.tensor is None:
        return support.atoms if support else None
    returns = reader.tensor(support.tensor, (None,)).astype(np.float64)
    low, high = float(returns[0]), float(returns[-1])
    even = np.linspace(low, high, len(returns))
    if len(returns) < 2 or not low < high or np.abs(returns - even).max() > 1e-5 * (high - low):
        name = brief([support.tensor])
        raise ValueError(f"{reader.where}: {name} holds returns that are not evenly spaced")
    return networks.Atoms(low, high, len(returns))


def means(reader: Reader, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The layer of all outputs whose outputs are the means of a quantile head's.

    Args:
      kernel, bias: the head's, `(inputs, actions * quantiles)` and `(actions * quantiles,)`.

    Returns:
      `(inputs, actions)` and `(actions,)`.

    Raises:
      ValueError: there are not so many quantiles for each action.
    """
    quantiles, layer = reader.plan.quantiles, reader.plan.action.weight
    assert quantiles
    count = quantiles.count
    if bias.size % count:
        raise ValueError(
            f"{reader.where}: {layer} has {bias.size} outputs, not {count} quantiles for each "
            f"action"
        )
    shape = (count, -1) if quantiles.first else (-1, count)
    axis = -2 if quantiles.first else -1
    # In double precision, since so many are added.
    means = (x.astype(np.float64).reshape(*x.shape[:-1], *shape).mean(axis) for x in (kernel, bias))
    kernel, bias = (x.astype(np.float32) for x in means)
    return kernel, bias


def vectors(
    reader: Reader, layer: Weights, weight: np.ndarray, activation: str, width: int
) -> np.ndarray:
    """`(FRACTIONS, width)`: what features are multiplied by, in the file's order of features.

    Args:
      layer: of cosines; `weight` is its `(width, cosines)`.
      width: how many features there are.

    Raises:
      ValueError: the layer is of another width.
    """
    bias = reader.bias(layer, width)
    if len(weight) != width:
        reader.tensor(layer.weight, (None, width) if reader.plan.flax else (width, None))
    middle = (np.arange(FRACTIONS) + 0.5) / FRACTIONS
    numbers = reader.plan.first_cosine + np.arange(weight.shape[1])
    made = np.cos(np.pi * np.outer(middle, numbers)) @ weight.astype(np.float64).T + bias
    return np.array(networks.ACTIVATIONS[activation](jnp.asarray(made, np.float32)))
