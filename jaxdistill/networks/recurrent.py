"""Recurrent networks applied to observations: step by step, or to many steps at once."""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.networks.applying import features_of
from jaxdistill.networks.cells import CELLS, Carry
from jaxdistill.networks.convolutions import pixels
from jaxdistill.networks.network import Network, Params


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
    features = features_of(network, params, observations)
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
    entering = network.apply(params, features_of(network, params, flat), method="entering")

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
