"""Which student is the best so far, by games that are never reported."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.learn import learner
from jaxdistill.play import lessons, racing, scoring
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
    played: dict[int, scoring.Scores]

    def reaches(self, target: float | None) -> bool:
        """Whether every game is where the run may end; one whose retention is unknown is not."""
        return target is not None and all(kept >= target for kept in self.kept)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        played = {str(i): scores.to_dict() for i, scores in self.played.items()}
        return {"value": self.value, "kept": list(self.kept), "played": played}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Candidate:
        """The inverse of `to_dict`."""
        played = fields["played"].items()
        played = {int(i): scoring.Scores.from_dict(scores) for i, scores in played}
        return cls(fields["value"], tuple(fields["kept"]), played)


class Selection(NamedTuple):
    """What the games say that a student is chosen by.

    Attributes:
      chosen: the student; None if it is not to be chosen.
      row: its scores and retentions, for the run's metrics.
      status: its scores in a line, for the progress bar.
    """

    chosen: Candidate | None
    row: dict[str, float]
    status: str


def select(
    run: Run,
    state: learner.TrainState,
    baselines: scoring.Baselines,
    before: int,
    best: Candidate | None,
) -> Selection:
    """Plays games that are never reported, and decides whether the student is to be chosen.

    It is, unless it is worse than the best one: see `_race`. A student that is at the run's target
    in every game is chosen whatever others had beyond it.

    Args:
      baselines: as `without_unknown_retention` has them.
      before: how many students were measured before this one.
      best: the one of the highest value so far.
    """
    played, games, worse = _race(run, state, baselines, before, best)
    means = {index: scores.mean for index, scores in played.items()}
    followed = _followed_experts(run, games)
    kept = _kept(_with_experts(baselines, followed), means)
    found = Candidate(value_of(run, baselines, means), tuple(kept), played)
    complete = games == run.settings.evaluate.select_episodes
    there = complete and found.reaches(run.settings.learn.target_retention)
    tasks = [run.lessons[i].task for i in played]
    return Selection(
        chosen=found if there or not worse else None,
        row=_row(run, found, followed) | {"select_games": float(games)},
        status=tables.playing_status(tasks, [*played.values()], run.settings.evaluate.max_steps),
    )


def _race(
    run: Run,
    state: learner.TrainState,
    baselines: scoring.Baselines,
    before: int,
    best: Candidate | None,
) -> tuple[dict[int, scoring.Scores], int, bool]:
    """The student plays against the best one until it is worse or has played all games.

    Every student plays the same games, a few of them first. One that is clearly worse in these than
    the best one plays no more (`racing.certain`). Over all games it is worse only if it is so by
    more than a standard error: it has learnt more than those before, and of students that differ by
    chance alone the best score is the luckiest.

    Returns:
      Its scores by the lessons' indices, its games of each lesson, and whether it is worse.
    """
    only, episodes = run.deciding, run.settings.evaluate.select_episodes
    value = functools.partial(value_of, run, baselines)
    policy, played, games = run.student_policy(state.eval_params), dict[int, scoring.Scores](), 0
    certain, worse = racing.certain(before), False
    while games < episodes and not worse:
        seats = range(games, min(episodes, max(4, 2 * games, -(-episodes // 4))))
        new = run.measure(policy, lessons.SELECT, [seats] * len(only), only)
        for index, scores in zip(only, new, strict=True):
            played[index] = played[index].joined(scores) if index in played else scores
        games = seats.stop
        level = certain if games < episodes else racing.LIKELY
        worse = best is not None and racing.is_worse(played, best.played, value, level)
    return played, games, worse


def _followed_experts(run: Run, games: int) -> dict[int, scoring.Scores]:
    """What the experts of a run that follows them score by now, by the lessons' indices.

    What they scored when the run began is no measure any more. Empty in other runs.
    """
    if not run.settings.collect.follow:
        return {}
    scores = run.measure(run.expert_policy(), lessons.SELECT, games, run.deciding)
    return dict(zip(run.deciding, scores, strict=True))


def _with_experts(
    baselines: scoring.Baselines, experts: Mapping[int, scoring.Scores]
) -> scoring.Baselines:
    """`baselines` with these scores of experts in place of their own."""
    if not experts:
        return baselines
    now = [experts.get(index, scores) for index, scores in enumerate(baselines.expert)]
    return without_unknown_retention(baselines._replace(expert=now))


def _row(run: Run, found: Candidate, followed: Mapping[int, scoring.Scores]) -> dict[str, float]:
    """What metrics say of a student that was measured, and of experts that are followed."""
    kept = dict(zip(found.played, found.kept, strict=True))
    known = [share for share in found.kept if not math.isnan(share)]
    return {
        **{f"score/{run.names[i]}": scores.mean for i, scores in found.played.items()},
        **{f"expert_score/{run.names[i]}": scores.mean for i, scores in followed.items()},
        **{f"retention/{run.names[i]}": share for i, share in kept.items()},
        "mean_retention": float(np.mean(known)) if known else math.nan,
        "chosen_by": found.value,
    }


def without_unknown_retention(baselines: scoring.Baselines) -> scoring.Baselines:
    """`baselines` with NaN for the scores of experts that they do not tell to beat random play.

    What is kept of such an expert is a share of what may be nothing, or less: nobody is chosen by
    it. The closing table shows "-" by the same rule.
    """
    experts = [
        dataclasses.replace(expert, scores=np.full(len(expert.scores), np.nan))
        if math.isnan(scoring.retention_interval(expert, expert, random)[0])
        else expert
        for expert, random in zip(baselines.expert, baselines.random, strict=True)
    ]
    return baselines._replace(expert=experts)


def _kept(baselines: scoring.Baselines, means: Mapping[int, float]) -> list[float]:
    """The retention of each lesson, by mean scores by their indices."""
    return [baselines.retention(i, mean) for i, mean in means.items()]


def value_of(run: Run, baselines: scoring.Baselines, means: Mapping[int, float]) -> float:
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
        return float(scoring.normalised(chosen, [*means.values()], random).mean())
    beyond = 1 + 0.1 * (1 - 1 / np.maximum(known, 1))
    return float(np.where(known > 1, beyond, known).mean())
