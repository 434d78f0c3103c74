"""What a training learns from: the steps of one iteration, and how often each is learnt from."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from jaxdistill import networks
from jaxdistill.learn import windows

Array = Any
"""NumPy's where it is played, and JAX's where it is learnt from."""


class Acted(NamedTuple):
    """What an actor has done, and what is to be remembered of it.

    Leading axes `...` are B rows, or N environments of each of G tasks.

    Attributes:
      actions: `(...)` int32, or of keys and angles `(..., A)` float32.
      values: `(...)`, what the state that was seen is worth; NaN where nobody reads it.
      log_probabilities: `(...)`, of these actions; None where they are not drawn from a policy.
      labels: `(..., A)`, what experts say of what was seen; None where none is asked.
    """

    actions: Array
    values: Array
    log_probabilities: Array | None = None
    labels: Array | None = None


@flax.struct.dataclass
class Rollout:
    """T steps of the N environments of each of G tasks, in the order they were played.

    Attributes:
      frames, ages: `(G, S - 1 + T, N, *frame)` and `(G, S - 1 + T, N)`, as `windows.stacks` takes
        them; S is the stack's depth, and the first S - 1 only complete the stacks of the first
        steps.
      actions: `(G, T, N)` int, or of keys and angles `(G, T, N, A)`, played.
      rewards: `(G, T, N)`, as they are learnt from: clipped and scaled.
      ended: `(G, T, N)` bool, nothing follows the step: no value is added to its reward.
      truncated: `(G, T, N)` bool, the episode was cut after it, and its value goes on.
      valid: `(G, T, N)` bool, False where the pool began an episode instead of playing the action.
        Such rows are not learnt from, whatever stands there.
      values: `(G, T, N)`, of what the action answered.
      next_values: `(G, T, N)`, of what was seen after it: of a cut episode its own last
        observation, which a pool shows before it begins the next.
      log_probabilities: `(G, T, N)`, of the actions when they were played; None where they were
        not drawn from a policy.
      labels: `(G, T, N, A)`, what experts said; None where none was asked.
      carry: `(G, N, ...)` each, what a recurrent network carried into the first step; else nothing.
    """

    frames: Array
    ages: Array
    actions: Array
    rewards: Array
    ended: Array
    truncated: Array
    valid: Array
    values: Array
    next_values: Array
    log_probabilities: Array | None = None
    labels: Array | None = None
    carry: networks.Carry = ()

    @property
    def depth(self) -> int:
        """Frames in one stack: S."""
        return self.frames.shape[1] - self.rewards.shape[1] + 1

    def stacks(self, rows: jax.Array) -> jax.Array:
        """What was seen before some steps, `(G, B, S, *frame)`.

        Args:
          rows: `(G, B)`, t * N + n of each step.
        """
        offset = (self.depth - 1) * self.rewards.shape[2]
        return windows.stacks(self.frames, self.ages, tasks_of(rows), rows + offset, self.depth)


def tasks_of(rows: jax.Array) -> jax.Array:
    """The index of each row's task, for `rows` `(G, B)` of each of G tasks."""
    return jnp.broadcast_to(jnp.arange(rows.shape[0])[:, None], rows.shape)


def at_rows(values: Array, tasks: jax.Array, rows: jax.Array) -> jax.Array:
    """`values` `(G, T, N, ...)` of some steps, `(B, ...)`.

    Args:
      tasks, rows: `(B,)`, the task of each step, and t * N + n.
    """
    return values.reshape(values.shape[0], -1, *values.shape[3:])[tasks, rows]


@dataclasses.dataclass(frozen=True)
class Passes:
    """How a rollout is learnt from: every epoch goes through all its rows in another order.

    Attributes:
      batch_per_task: rows of each task in a minibatch; it divides T * N.
      epochs: times each row is learnt from.

    Raises:
      ValueError: a number below 1.
    """

    batch_per_task: int
    epochs: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")

    def minibatches(self, rows_per_task: int) -> int:
        """Minibatches in an epoch of so many rows of each task.

        Raises:
          ValueError: they are not whole.
        """
        if rows_per_task % self.batch_per_task:
            raise ValueError(
                f"batch_per_task {self.batch_per_task} does not divide the {rows_per_task} steps "
                f"of each task; choose a divisor of it"
            )
        return rows_per_task // self.batch_per_task
