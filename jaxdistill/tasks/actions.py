"""What outputs mean, over valid actions: masks, choices, probabilities, entropy, regret.

Outputs are `(..., A)`, a mask `(A,)` or of any shape that broadcasts to them; what stands at
invalid actions never counts.
"""

from __future__ import annotations

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


def regret(student: jax.Array, expert: jax.Array, mask: jax.Array) -> jax.Array:
    """What the student's greedy action costs by the expert's outputs, `(B,)`: 0 where they agree.

    In units of reward for Q-values; near nothing for a tie, which agreement counts as a difference.
    """
    mask = jnp.broadcast_to(mask, student.shape)
    expert = jnp.where(mask, expert.astype(jnp.float32), 0.0)
    chosen = jnp.take_along_axis(expert, greedy(student, mask)[:, None], axis=-1)[:, 0]
    return mask_outputs(expert, mask).max(axis=-1) - chosen
