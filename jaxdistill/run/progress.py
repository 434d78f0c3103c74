"""How far a run is: what its checkpoints say beside the student's state, as plain JSON values.

What an earlier version did not write is None, or what it stood for, here and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdistill.run.choosing import Candidate

Timer = Mapping[str, Mapping[str, float]]
"""Seconds by phase, see `clocks.Timer.state`."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Of a run in rounds.

    Attributes:
      timer: its seconds.
      length: steps of each environment that the student has learnt from.
      dataset: what tells the dataset that the run was given from others, see `data.mark_of`; None
        where it collects its own, and in an earlier version.
      ended: how many rounds the run was to have when it reached its target before them; True in an
        earlier version, which did not say; None where it has not reached it.
      best: the best student so far; None before one was measured, and in an earlier version.
      measured: whether the student of now was, if one was due.
      students: how many were measured; None in an earlier version, see `students_measured`.
    """

    timer: Timer
    length: int
    dataset: Mapping[str, Any] | None
    ended: int | None
    best: Candidate | None
    measured: bool
    students: int | None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {"best": None if self.best is None else self.best.to_dict()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Progress:
        """The inverse of `to_dict`."""
        best = fields.get("best")
        return cls(
            timer=fields["timer"],
            length=fields["length"],
            dataset=fields.get("dataset"),
            ended=fields.get("ended"),
            best=None if best is None else Candidate.from_dict(best),
            measured=fields.get("measured", True),
            students=fields.get("students"),
        )

    def reached_target(self, rounds: int) -> bool:
        """Whether the run has ended at its target: with other `rounds` than it had it goes on."""
        return self.ended is True or self.ended == rounds

    def students_measured(self, rounds: int, every_rounds: int) -> int:
        """How many students were measured in so many rounds.

        Estimated from the rounds for checkpoints that do not store it. Extra evaluations at the end
        of an earlier, shorter run are not counted then.

        Args:
          every_rounds: as `Evaluate.every_rounds`.
        """
        if self.students is not None:
            return self.students
        return (rounds if self.measured else rounds - 1) // every_rounds


@dataclasses.dataclass(frozen=True)
class MergeProgress:
    """Of a merge of weights, whose only checkpoint is the merged network.

    Attributes:
      timer: its seconds.
      length: steps of each environment that it was merged by; None in an earlier version.
    """

    timer: Timer
    length: int | None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> MergeProgress:
        """The inverse of `to_dict`."""
        return cls(fields["timer"], fields.get("length"))
