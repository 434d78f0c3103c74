"""What whole games scored: means, retention and their intervals. NumPy alone, without JAX."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxdistill.tasks.task import Task

_LEVEL = 0.95  # of intervals
_RESAMPLES = 10_000
_COLUMNS = ("scores", "lengths", "starts", "cut")


@dataclasses.dataclass(frozen=True)
class Scores:
    """Whole-game scores of one policy in one task.

    Attributes:
      scores: `(E,)` undiscounted, unclipped returns.
      lengths: `(E,)` steps that the policy played in each episode.
      starts: `(E,)` hash of what it saw first in each.
      cut: `(E,)` bool, the step limit ended the episode.
      facts: `(E,)` each, how the episodes ended; see `Pool.facts`.
    """

    scores: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray
    cut: np.ndarray
    facts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean score."""
        return float(self.scores.mean())

    @property
    def unfinished(self) -> int:
        """How many episodes the step limit has cut."""
        return int(self.cut.sum())

    def first(self, episodes: int) -> Scores:
        """Those of the first seats, at most `episodes`."""
        return Scores(
            self.scores[:episodes],
            self.lengths[:episodes],
            self.starts[:episodes],
            self.cut[:episodes],
            {name: x[:episodes] for name, x in self.facts.items()},
        )

    def joined(self, others: Scores) -> Scores:
        """With the episodes of `others`, of the seats that follow."""
        return Scores(
            np.concatenate([self.scores, others.scores]),
            np.concatenate([self.lengths, others.lengths]),
            np.concatenate([self.starts, others.starts]),
            np.concatenate([self.cut, others.cut]),
            {name: np.concatenate([x, others.facts[name]]) for name, x in self.facts.items()},
        )

    @property
    def distinct(self) -> int:
        """How many episodes differ in (score, length): 100 copies of one game are one game."""
        return len(set(zip(self.scores.tolist(), self.lengths.tolist(), strict=True)))

    @property
    def distinct_starts(self) -> int:
        """How many different states the episodes started from."""
        return len(set(self.starts.tolist()))

    def summary(self) -> dict[str, Any]:
        """Mean, interval and counts as plain JSON values, but for the NaN in intervals of one game.

        Where games have facts, of each the mean and its interval, and the interval of the lengths.
        """
        summary = {
            "mean": self.mean,
            "interval": list(self.interval()),
            "episodes": len(self.scores),
            "distinct": self.distinct,
            "distinct_starts": self.distinct_starts,
            "unfinished": self.unfinished,
            "mean_steps": float(self.lengths.mean()),
        }
        facts = {
            name: {"mean": float(x.mean()), "interval": list(_interval(x))}
            for name, x in self.facts.items()
        }
        told = {"facts": facts, "steps_interval": list(_interval(self.lengths))}
        return summary | (told if facts else {})

    def to_dict(self) -> dict[str, Any]:
        """Every episode, as plain JSON values; `from_dict` turns them back."""
        fields = {name: getattr(self, name).tolist() for name in _COLUMNS}
        facts = {name: x.tolist() for name, x in self.facts.items()}
        return fields | ({"facts": facts} if facts else {})

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Scores:
        """The inverse of `to_dict`.

        Raises:
          ValueError: there is no episode, its lists differ in length, or a score is not finite.
        """
        scores, lengths, starts, cut = (np.asarray(fields[name]) for name in _COLUMNS)
        if not len(scores) or {x.shape for x in (scores, lengths, starts, cut)} != {(len(scores),)}:
            raise ValueError("expected one score, length, start and end of every episode")
        if not np.isfinite(scores).all():
            raise ValueError("a score is not a finite number")
        if cut.dtype != bool or {lengths.dtype.kind, starts.dtype.kind} != {"i"}:
            raise ValueError("expected whole lengths and starts, and true or false for cut")
        facts = {name: np.asarray(x) for name, x in fields.get("facts", {}).items()}
        if not all(x.shape == scores.shape and np.isfinite(x).all() for x in facts.values()):
            raise ValueError("expected one finite number of each fact for every episode")
        return cls(scores, lengths, starts, cut, facts)

    def interval(self) -> tuple[float, float]:
        """Bootstrap interval of the mean; see `_percentiles`."""
        return _interval(self.scores)


def retention(student: float, expert: float, random: float) -> float:
    """(student - random) / (expert - random); NaN where the expert plays like random."""
    return (student - random) / (expert - random) if expert != random else float("nan")


class Comparison(NamedTuple):
    """Whole games of one lesson, of the three players that a retention is of."""

    random: Scores
    expert: Scores
    student: Scores


class Baselines(NamedTuple):
    """What a student's scores are held against.

    Attributes:
      random: scores of random play, one per lesson.
      expert: those of the lessons' experts.
    """

    random: list[Scores]
    expert: list[Scores]

    def retention(self, index: int, score: float) -> float:
        """The retention of a mean score in the lesson of that index, see `retention`."""
        return retention(score, self.expert[index].mean, self.random[index].mean)


def normalised(
    chosen: Sequence[Task], means: Sequence[float], random: Sequence[float | None]
) -> np.ndarray:
    """Scores `(G,)` in units in which no game drowns the others by the size of its points.

    It is the published distance of people from random play, also where games are cut or played by
    other rules, and nobody is held against people. Of a task whose human score is not known scores
    are counted in those of random play: how much more than that `means` are, over its size, or over
    1 where that is larger.

    Args:
      random: what random play scores; 0 is taken where that is None.
    """
    scores = []
    for task, mean, known in zip(chosen, means, random, strict=True):
        low, high = task.random_score, task.human_score
        if low is None or high is None:
            low = known or 0.0
            unit = max(abs(low), 1)
        else:
            unit = high - low
        scores.append((mean - low) / unit)
    return np.asarray(scores)


def retention_interval(student: Scores, expert: Scores, random: Scores) -> tuple[float, float]:
    """Bootstrap interval of the retention, see `_percentiles`; all three are resampled.

    NaN where these games cannot tell at its level that the expert is better than random play: a
    share of what may be nothing, or less, has no bounds. Nor has it any where student or expert has
    played one game.
    """
    student_means, expert_means, random_means = (
        _bootstrap_means(x.scores, seed) for seed, x in enumerate((student, expert, random))
    )
    span = expert_means - random_means
    span[np.isclose(expert_means, random_means, rtol=1e-9)] = 0.0  # or what rounding leaves of it
    if (span <= 0).mean() > (1 - _LEVEL) / 2:
        return (float("nan"), float("nan"))
    ratios = np.divide(
        student_means - random_means, span, out=np.full_like(span, np.nan), where=span != 0
    )
    return _percentiles(ratios, min(len(student.scores), len(expert.scores)))


def _interval(values: np.ndarray) -> tuple[float, float]:
    return _percentiles(_bootstrap_means(values, seed=0), len(values))


def _bootstrap_means(scores: np.ndarray, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return scores[generator.integers(0, len(scores), (_RESAMPLES, len(scores)))].mean(axis=1)


def _percentiles(values: np.ndarray, games: int) -> tuple[float, float]:
    """An interval of bootstrapped means, by the expanded percentiles of Hesterberg, 2015.

    NaN of one game: how far others would be from it is not known.

    ("What teachers should know about the bootstrap".) Plain percentiles of few games make too
    narrow an interval: it is widened as Student's t and the factor sqrt(n / (n - 1)) ask for.
    """
    if games < 2 or np.isnan(values).all():
        return (float("nan"), float("nan"))
    # Here and not above: a sixth of a program's start, and many programs measure nothing.
    from scipy import special

    tail = (1 - _LEVEL) / 2
    tail = special.ndtr(math.sqrt(games / (games - 1)) * special.stdtrit(games - 1, tail))
    low, high = np.nanpercentile(values, [100 * tail, 100 * (1 - tail)])
    return float(low), float(high)
