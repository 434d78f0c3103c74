"""Which student is the best so far, by games that are never reported."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdistill import metrics, terminal
from jaxdistill.learn import learner
from jaxdistill.play import evaluation, lessons, racing
from jaxdistill.report import tables
from jaxdistill.run.common import Run


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A student that may be the best.

    Attributes:
      value: what it is chosen by, see `value_of`.
      kept: its retention in each game that it is chosen by; NaN where it is not known.
      played: the games it is chosen by, by their lessons' indices.
    """

    value: float
    kept: tuple[float, ...]
    played: dict[int, evaluation.Scores]

    def reaches(self, target: float | None) -> bool:
        """Whether every game is where the run may end; one whose retention is unknown is not."""
        return target is not None and all(kept >= target for kept in self.kept)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        played = {str(i): scores.to_dict() for i, scores in self.played.items()}
        return {"value": self.value, "kept": list(self.kept), "played": played}

    @classmethod
    def from_dict(cls, fields: dict[str, Any] | None) -> Candidate | None:
        """The inverse of `to_dict`; None of None, where no student has been measured."""
        if fields is None:
            return None
        played = fields["played"].items()
        played = {int(i): evaluation.Scores.from_dict(scores) for i, scores in played}
        return cls(fields["value"], tuple(fields["kept"]), played)


def select(
    run: Run,
    state: learner.TrainState,
    baselines: evaluation.Baselines,
    writer: metrics.Writer | metrics.NoWriter,
    step: int,
    advance: terminal.Advance,
    before: int,
    best: Candidate | None,
) -> Candidate | None:
    """Plays games that are never reported; None if they show that the student is not to be chosen.

    Every student plays the same games, some of them first: one that is clearly worse there than
    the best has been in the very same plays no more (`racing.certain`). One that has played all is
    chosen unless it is worse by more than one standard error: it has learnt more than those before,
    and of students that differ by chance alone the best score is the luckiest. One that is at the
    run's target in every game is chosen whatever others had beyond it.

    Args:
      baselines: as `without_unknown_retention` has them.
      step: updates done.
      before: how many students were measured before this one.
      best: the one of the highest value so far.
    """
    episodes = run.settings.evaluate.select_episodes
    certain = racing.certain(before)
    only = run.deciding
    names = [run.names[i] for i in only]
    policy, played, games = run.student_policy(state.eval_params), dict[int, evaluation.Scores](), 0
    value = functools.partial(value_of, run, baselines)
    worse = False
    while games < episodes and not worse:
        seats = range(games, min(episodes, max(4, 2 * games, -(-episodes // 4))))
        new = run.measure(policy, lessons.SELECT, [seats] * len(only), only)
        for index, scores in zip(only, new, strict=True):
            played[index] = played[index].joined(scores) if index in played else scores
        games = seats.stop
        level = certain if games < episodes else racing.LIKELY
        worse = best is not None and racing.is_worse(played, best.played, value, level)
    means = {index: scores.mean for index, scores in played.items()}
    row = {f"score/{name}": means[i] for i, name in zip(only, names, strict=True)}
    if run.settings.collect.follow:
        # What the experts of the beginning scored is no measure any more: the best student is, and
        # of what is kept the experts as they are now.
        experts = run.measure(run.expert_policy(), lessons.SELECT, games, only)
        row |= {f"expert_score/{n}": s.mean for n, s in zip(names, experts, strict=True)}
        now = dict(enumerate(baselines.expert)) | dict(zip(only, experts, strict=True))
        baselines = without_unknown_retention(baselines._replace(expert=[*now.values()]))
    kept = _kept(baselines, means)
    row |= {f"retention/{name}": k for name, k in zip(names, kept, strict=True)}
    known = [share for share in kept if not math.isnan(share)]
    row |= {
        "mean_retention": float(np.mean(known)) if known else math.nan,
        "chosen_by": value(means),
        "select_games": float(games),
    }
    writer.write(step, row)
    chosen = [run.lessons[i].task for i in only]
    said = tables.playing_status(chosen, [played[i] for i in only], run.settings.evaluate.max_steps)
    advance.status(said)
    found = Candidate(value(means), tuple(kept), played)
    there = games == episodes and found.reaches(run.settings.learn.target_retention)
    return found if there or not worse else None


def measured_until(run: Run, rounds: int, measured: bool) -> int:
    """How many students were measured in so many rounds, of a run that has not counted them.

    One of an earlier version: of the ends that it was gone on from nothing is known.

    Args:
      measured: whether the student of after the last round was, if it was due.
    """
    return (rounds if measured else rounds - 1) // run.settings.evaluate.every_rounds


def without_unknown_retention(baselines: evaluation.Baselines) -> evaluation.Baselines:
    """`baselines` with NaN for the scores of experts that they do not tell to beat random play.

    What is kept of such an expert is a share of what may be nothing, or less: nobody is chosen by
    it. The closing table shows "-" by the same rule.
    """
    experts = [
        dataclasses.replace(expert, scores=np.full(len(expert.scores), np.nan))
        if math.isnan(evaluation.retention_interval(expert, expert, random)[0])
        else expert
        for expert, random in zip(baselines.expert, baselines.random, strict=True)
    ]
    return baselines._replace(expert=experts)


def _kept(baselines: evaluation.Baselines, means: Mapping[int, float]) -> list[float]:
    """The retention of each lesson, by mean scores by their indices."""
    return [baselines.retention(i, mean) for i, mean in means.items()]


def value_of(run: Run, baselines: evaluation.Baselines, means: Mapping[int, float]) -> float:
    """What the best student is chosen by: the mean retention over games where it is known.

    What a game keeps beyond 100% counts a tenth at first, and never more than ten points in all: it
    shall not pay for another game's loss. A run whose experts still learn has no such measure, nor
    one whose experts all play as at random: they take normalised scores.
    """
    kept = np.asarray(_kept(baselines, means))
    known = kept[~np.isnan(kept)]
    if run.settings.collect.follow or not known.size:
        chosen = [run.lessons[i].task for i in means]
        random = [baselines.random[i].mean for i in means]
        return float(evaluation.normalised(chosen, [*means.values()], random).mean())
    beyond = 1 + 0.1 * (1 - 1 / np.maximum(known, 1))
    return float(np.where(known > 1, beyond, known).mean())
