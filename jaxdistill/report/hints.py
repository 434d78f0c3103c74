"""What is suggested where an expert plays like nobody, or a student far below its expert."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill.experts.expert import Expert, Teacher
from jaxdistill.play import scoring
from jaxdistill.tasks.views import View

_LOW, _REACHED = 0.9, 0.95  # retention, and what its interval does not reach
_ALIKE = 0.97  # agreement from which choices in the states learnt from are no longer the trouble
_BY_HEART = 0.04  # more agreement in states that were learnt from than in those collected last
_FALL, _GAIN, _RISE = 0.05, 0.005, 0.05  # of a loss, of agreement, of retention
_CHEAP = 0.2  # of the regret at the beginning
_OF_CHOICES = ("kl", "hinton_kl", "reverse_kl", "nll")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What there is to know of a run, beside its result, of why a task is below its expert.

    Attributes:
      history: the rows of `metrics.jsonl`.
      rounds: how many the run was to have.
      loss: what was learnt by.
      of_q: whether all experts hold Q-values.
      steps_per_round: how many are collected; 0 where the states are fixed.
      begins: what is advised of the network that a new run begins with, of a task where there is
        something.
      shares: of each task, the `learn.shares` by which it had more rows.
    """

    history: Sequence[Mapping[str, Any]]
    rounds: int
    loss: str
    of_q: bool
    steps_per_round: int
    begins: Mapping[str, str]
    shares: Mapping[str, str]

    def series(self, key: str) -> np.ndarray:
        """`(N,)`, what was logged by that name."""
        return np.asarray([row[key] for row in self.history if row.get(key) is not None], float)


def closing_hint(result: Mapping[str, Any], evidence: Evidence) -> str | None:
    """One sentence on a task that is far below its expert, or None where nothing is suggested.

    Of several it is the one that keeps least.

    Far below is a retention under 90% whose interval does not reach 95%.

    Args:
      result: `games`, one row each, as in `result.json`.
    """
    low = [row for row in result["games"] if _far_below(row)]
    for row in sorted(low, key=lambda row: row["retention"]):
        if advice := _advice(row, evidence):
            return f"hint: {row['game']} keeps {row['retention']:.0%}; {advice}"
    return None


def no_better_than_random(
    expert: Teacher, scores: scoring.Scores, random: float | None
) -> str | None:
    """A warning of an expert that plays no better than at random, or None.

    Args:
      scores: the expert's. Of few games the interval is wide, and so the warning careful; one
        alone tells nothing.
      random: mean score of random play; None where it is not known.
    """
    low, high = scores.interval()
    if random is None or math.isnan(low) or low > random:
        return None
    clearly = "" if scores.mean <= random else "clearly "
    return (
        f"warning: {expert.name} scores {scores.mean:.1f} [{low:.1f}, {high:.1f}] in "
        f"{expert.task.name}, not {clearly}better than random play ({random:.1f}): what "
        f"it sees or does may differ from training. Likely: {likely(expert)}"
    )


def likely(expert: Teacher) -> str:
    """What is often otherwise than in training, for who sees what the expert sees."""
    if isinstance(expert, Expert) and isinstance(expert.view, View):
        other = expert.rules.differences_from(expert.played)
        return (
            (f"its own game ({other}; set rules), " if other else "")
            + "the resize (area or linear), the order of its actions, the stack order, pixels 0..1 "
            "or 0..255"
        )
    return "the task, the order of its actions, numbers that were scaled in training"


def _far_below(row: Mapping[str, Any]) -> bool:
    known = [row["retention"], row["retention_interval"][1]]
    return None not in known and known[0] < _LOW and known[1] < _REACHED


def _advice(row: Mapping[str, Any], evidence: Evidence) -> str | None:
    name, rounds, series = row["game"], evidence.rounds, evidence.series
    longer = f"try more rounds, by the same command and --config.learn.rounds={2 * rounds}"
    agreement, regret = (series(f"{key}/{name}") for key in ("agreement", "regret"))
    agreed, shares = row.get("agreement"), series("expert_share")
    drive = "(--config.collect.final_expert_share, --config.collect.steps_per_round)"
    if agreed is not None and agreed >= _ALIKE:
        drove = f"the experts drove {shares[-1]:.0%} of them; " if len(shares) else ""
        return (
            f"it agrees with its expert in {agreed:.1%} of the states it learns from, but plays in "
            f"others: {drove}try more that the student drives, in a new run {drive}"
        )
    taught = agreement[-max(1, len(agreement) // 5) :].mean() if len(agreement) else 0.0
    if agreed is not None and taught >= agreed + _BY_HEART:
        return (
            f"it agrees with its expert in {taught:.0%} of the states it has learnt from and in "
            f"{agreed:.0%} of those collected last, so it knows some by heart: "
            + (
                f"try more states, by the same command and --config.learn.rounds={2 * rounds} "
                f"--config.collect.steps_per_round={2 * evidence.steps_per_round}"
                if evidence.steps_per_round
                else "try more states, of a larger dataset"
            )
        )
    if name in evidence.begins:
        return f"in a new run, {evidence.begins[name]}"
    falls = _improves(-series(f"game_loss/{name}"), _FALL, relative=True)
    if falls or _improves(agreement, _GAIN):
        what = "its loss still fell" if falls else "its agreement still rose"
        return f"{what} in the last fifth of the rounds: {longer}"
    if len(shares) and shares.min() == 1:
        return (
            "it has learnt in states of its expert's own play alone: let it drive too, in a new "
            f"run {drive}"
        )
    kept = series(f"retention/{name}")
    if len(kept) > 1 and kept[-1] >= kept[:-1].max() + _RISE:
        return f"its score still rose at the last evaluation: {longer}"
    cheap = len(regret) > 1 and _fifths(regret)[1].mean() <= _CHEAP * regret[0]
    if evidence.loss in _OF_CHOICES and agreed is not None and cheap:
        other = "q_values" if evidence.of_q else "log_prob_mse"
        return (
            f"it agrees in {agreed:.1%} only, at little regret, and {evidence.loss} tells it of "
            f"choices alone: try --config.learn.loss={other} in a new run"
        )
    if len(evidence.shares) > 1 and len(agreement):
        return (
            "nothing that was logged of it still moves: try a larger share of the rows and more "
            f"rounds, by the same command, --config.learn.shares={evidence.shares[name]} and "
            f"--config.learn.rounds={2 * rounds}"
        )
    return None


def _fifths(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last fifth but one, and the last."""
    count = max(1, len(values) // 5)
    return values[-2 * count : -count], values[-count:]


def _improves(values: np.ndarray, least: float, *, relative: bool = False) -> bool:
    """Whether the last fifth is higher than the one before, by more than `least` and than chance.

    Beyond chance is two standard errors of the difference.
    """
    if len(values) < 5:
        return False
    before, after = _fifths(values)
    gain = after.mean() - before.mean()
    error = np.sqrt(before.var() / len(before) + after.var() / len(after))
    return bool(gain > 2 * error and gain >= least * (abs(before.mean()) if relative else 1.0))
