"""What a person reads at the end: tables of scores, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdistill import evaluation, metrics
from jaxdistill.experts.expert import Expert


def print_experts(
    experts: Sequence[Expert],
    scores: Sequence[evaluation.Scores],
    random: Sequence[evaluation.Scores],
) -> None:
    """Scores of experts as measured here, beside what they advertise."""
    metrics.table(
        "experts, measured here",
        ("game", "expert", "games", "score", "95% interval", "advertised", "random", "distinct"),
        [
            (
                expert.game,
                expert.name,
                len(s.scores),
                _score(s.mean),
                _interval(s.interval()),
                expert.advertised_score,
                _score(r.mean),
                s.distinct,
            )
            for expert, s, r in zip(experts, scores, random, strict=True)
        ],
    )


def print_expert(expert: Expert, scores: evaluation.Scores, *, epsilon: float) -> None:
    """One expert's score."""
    metrics.table(
        f"{expert.name}, epsilon {epsilon:g}",
        ("game", "score", "95% interval", "advertised", "games", "distinct", "steps each"),
        [
            (
                expert.game,
                _score(scores.mean),
                _interval(scores.interval()),
                expert.advertised_score,
                len(scores.scores),
                scores.distinct,
                _score(float(scores.lengths.mean())),
            )
        ],
    )


def print_students(rows: Sequence[Mapping[str, Any]], *, episodes: int, epsilon: float) -> None:
    """The closing table of a distillation: one row per game."""
    metrics.table(
        f"{episodes} whole games per score, epsilon {epsilon:g}, 95% bootstrap intervals",
        ("game", "random", "expert", "", "student", "", "retention", "", "agreement", "distinct"),
        [
            (
                row["game"],
                _score(row["random"]["mean"]),
                _score(row["expert"]["mean"]),
                _interval(row["expert"]["interval"]),
                _score(row["student"]["mean"]),
                _interval(row["student"]["interval"]),
                _share(row["retention"]),
                "[" + ", ".join(_share(x) for x in row["retention_interval"]) + "]",
                _share(row["agreement"]) if "agreement" in row else None,
                row["student"]["distinct"],
            )
            for row in rows
        ],
    )


def print_result(result: Mapping[str, Any]) -> None:
    """Everything `distill` returns, for people."""
    print_students(result["games"], episodes=result["episodes"], epsilon=result["epsilon"])
    print(
        f"mean retention {_share(result['mean_retention'])}, worst game "
        f"{_share(result['worst_retention'])}; student chosen after round "
        f"{result['best_round']} of {result['rounds']}"
    )
    seconds = result["seconds"]
    total = sum(seconds.values())
    phases = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    print(f"wall time {total / 60:.1f} min: {phases}")


def _score(value: float) -> str:
    return f"{value:.1f}"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _interval(interval: Sequence[float]) -> str:
    return f"[{interval[0]:.1f}, {interval[1]:.1f}]"
