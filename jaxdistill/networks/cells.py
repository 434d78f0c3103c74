"""Recurrent cells: what they carry from step to step, and what each makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

Carry = tuple[jax.Array, ...]
"""What a recurrent network carries from step to step, each array `(B, ...)`; zeros where a game
begins, and nothing at all of other networks."""


@dataclasses.dataclass(frozen=True)
class Core:
    """A recurrent cell behind the shared layers, with PyTorch's two biases.

    Attributes:
      kind: a key of `CELLS`.
      width: its units.
    """

    kind: str
    width: int


def _gru(seen: jax.Array, kept: jax.Array, carry: Carry) -> Carry:
    """h of what is seen and kept, `(B, 3 width)` each: reset, update and new."""
    (h,) = carry
    (reset, update, new), (old_reset, old_update, old) = (jnp.split(x, 3, -1) for x in (seen, kept))
    update = nn.sigmoid(update + old_update)
    new = jnp.tanh(new + nn.sigmoid(reset + old_reset) * old)
    return ((1 - update) * new + update * h,)


def _lstm(seen: jax.Array, kept: jax.Array, carry: Carry) -> Carry:
    """h and c of what is seen and kept, `(B, 4 width)` each: input, forget, cell and output."""
    enter, forget, cell, leave = jnp.split(seen + kept, 4, -1)
    c = nn.sigmoid(forget) * carry[1] + nn.sigmoid(enter) * jnp.tanh(cell)
    return (nn.sigmoid(leave) * jnp.tanh(c), c)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of recurrent cell.

    Attributes:
      gates: each of them is a dense layer of `width` outputs, side by side with the others.
      step: what is carried on, of both dense layers' outputs and of what was carried.
      carried: of how many arrays `(B, width)` that is; the first is what the head sees.
    """

    gates: int
    step: Callable[[jax.Array, jax.Array, Carry], Carry]
    carried: int


CELLS = {"gru": Cell(3, _gru, 1), "lstm": Cell(4, _lstm, 2)}
"""Cho et al. 2014, with the reset behind the product as PyTorch has it; Hochreiter and Schmidhuber
1997, with the forget gate of Gers et al. 2000."""
