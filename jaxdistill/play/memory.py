"""What recurrent experts carry from step to step of the games that they see.

A game begins with nothing carried. From then on its expert has to see every state in its order,
whoever drives; what it carries belongs to the game's seat, and goes where that goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill.experts.expert import Teacher


class Memory:
    """What experts carry in their games; nothing of those that are not recurrent."""

    def __init__(self, experts: Sequence[Teacher]):
        self._experts = experts
        self._kept: dict[int, tuple[np.ndarray, Any]] = {}

    def outputs(
        self,
        params: Sequence[Any],
        observations: Sequence[Any],
        indices: Sequence[int],
        seats: Sequence[np.ndarray],
        ages: Sequence[np.ndarray],
    ) -> tuple[jax.Array | None, ...]:
        """What recurrent experts say of the next step of their games; None of the others.

        Args:
          params: of all experts, in their order.
          observations: per task, as `rollouts.Observations`.
          indices: of the tasks, and so of their experts.
          seats: as `rollouts.Seats`; rows of one task may come and go from step to step.
          ages: per task, steps since the games of the first so many rows began; what is carried in
            the other rows does not matter.
        """
        rows = zip(indices, observations, seats, ages, strict=True)
        return tuple(
            self._said(index, params[index], shown, seat, age)
            if self._experts[index].recurrent
            else None
            for index, shown, seat, age in rows
        )

    def _said(
        self, index: int, params: Any, shown: Any, seats: np.ndarray, ages: np.ndarray
    ) -> jax.Array:
        begun = np.ones(len(seats), bool)
        begun[: len(ages)] = ages == 0
        expert, carry = self._experts[index], self._carry(index, seats)
        said, carry = expert.next_step(params, shown, begun, carry)
        self._kept[index] = (np.array(seats), carry)
        return said

    def _carry(self, index: int, seats: np.ndarray) -> Any:
        """What is carried in these seats; zeros in those that are new."""
        if index not in self._kept:
            return self._experts[index].carry(len(seats))
        old, carry = self._kept[index]
        if np.array_equal(old, seats):
            return carry
        places = {seat: row for row, seat in reversed([*enumerate(old.tolist())])}
        rows = [places.get(seat, len(old)) for seat in seats.tolist()]

        def moved(x: jax.Array) -> np.ndarray:
            x = jax.device_get(x)
            return np.concatenate([x, np.zeros_like(x[:1])])[rows]

        return jax.tree.map(moved, carry)
