"""Networks applied to observations, in the form the backend likes, and their fresh parameters.

Recurrent ones are applied by `recurrent.py`.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.networks.convolutions import CONVOLVED
from jaxdistill.networks.network import Network, Params

# Examples of one cache-sized piece of the batch on CPU; see `forward`.
CPU_CHUNK = 16


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
    features = features_of(network, params, observations)
    return cast(jax.Array, network.apply(params, features, games, method="outputs"))


def forward_with_values(
    network: Network, params: Params, observations: jax.Array, games: Any = None
) -> tuple[jax.Array, jax.Array]:
    """As `forward`, with the state values `(B,)` beside the outputs; the features are made once.

    Raises:
      ValueError: the network has no value, or depends on the game and `games` is missing.
    """
    features = features_of(network, params, observations)
    both = network.apply(params, features, games, method="outputs_and_values")
    return cast(tuple[jax.Array, jax.Array], both)


def features_of(network: Network, params: Params, observations: jax.Array) -> jax.Array:
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
