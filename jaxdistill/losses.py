"""Per-example losses over valid actions, and the balance over games; nothing else.

Every loss takes student outputs and expert outputs `(B, A)` and a validity mask `(B, A)` (or any
shape that broadcasts to it) and returns `(B,)` float32. Invalid actions never count, whatever
stands there.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp


def mask_outputs(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    """`outputs` with invalid actions at the most negative finite value.

    Not -inf: in a KL, 0 * (-inf) would be NaN.
    """
    return jnp.where(mask, outputs, jnp.finfo(outputs.dtype).min)


def greedy(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    """The valid action with the largest output, `(..., A)` -> `(...)` int32."""
    return jnp.argmax(mask_outputs(outputs, mask), axis=-1).astype(jnp.int32)


def log_softmax(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    """Log-probabilities over valid actions; 0 at invalid ones, so sums may run over all."""
    return jnp.where(mask, jax.nn.log_softmax(mask_outputs(outputs, mask), axis=-1), 0.0)


def softmax(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    """Probabilities over valid actions, exactly 0 at invalid ones."""
    return jnp.where(mask, jax.nn.softmax(mask_outputs(outputs, mask), axis=-1), 0.0)


def entropy(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    """Entropy in nats of the softmax over valid actions, `(B,)`."""
    return -jnp.sum(softmax(outputs, mask) * log_softmax(outputs, mask), axis=-1)


def mse(student: jax.Array, expert: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared difference over valid actions (Rusu et al. 2015, eq. 2, as a mean)."""
    student, expert, mask = _checked(student, expert, mask)
    # Masked before the difference: NaN or infinity there would reach the gradient through 0 * NaN.
    error = jnp.where(mask, student, 0.0) - jnp.where(mask, expert, 0.0)
    return jnp.square(error).sum(axis=-1) / mask.sum(axis=-1)


def kl(
    student: jax.Array, expert: jax.Array, mask: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """KL(softmax(expert / temperature) || softmax(student)) (Rusu et al. 2015, eq. 3).

    The temperature, a number or `(B, 1)`, is the *expert's* alone: the paper's 0.01 sharpens
    Q-values, which differ little between actions, into nearly the greedy choice.
    """
    student, expert, mask = _checked(student, expert, mask)
    expert = jnp.where(mask, expert, 0.0) / temperature
    p = softmax(expert, mask)
    return jnp.sum(p * (log_softmax(expert, mask) - log_softmax(student, mask)), axis=-1)


LOSSES: dict[str, Callable[..., jax.Array]] = {"mse": mse, "kl": kl}


def per_game_mean(values: jax.Array, games: jax.Array, num_games: int) -> jax.Array:
    """Mean of `values` `(B,)` over the rows of each game, `(G,)`; 0 for a game without rows.

    Averaging these gives every game the same say, however many rows it has.
    """
    chex.assert_equal_shape([values, games])
    sums = jnp.zeros(num_games, values.dtype).at[games].add(values)
    rows = jnp.zeros(num_games, values.dtype).at[games].add(1.0)
    return sums / jnp.maximum(rows, 1.0)


def _checked(
    student: jax.Array, expert: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    chex.assert_rank([student, expert], 2)
    chex.assert_equal_shape([student, expert])
    mask = jnp.broadcast_to(mask, student.shape)
    return student.astype(jnp.float32), expert.astype(jnp.float32), mask
