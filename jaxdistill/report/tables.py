"""What a person reads at the end: tables of scores, and where the time went."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdistill import metrics, settings
from jaxdistill.experts.expert import Expert
from jaxdistill.play import evaluation


def print_experts(
    experts: Sequence[Expert],
    scores: Sequence[evaluation.Scores],
    random: Sequence[evaluation.Scores],
) -> None:
    """Scores of experts as measured here, beside what they advertise."""
    metrics.table(
        "experts, measured here",
        ("game", "expert", "games", "score", "95% interval", "advertised", "random", "starts"),
        [
            (
                expert.game,
                expert.name,
                len(s.scores),
                _score(s.mean),
                _interval(s.interval()),
                expert.advertised_score,
                _score(r.mean),
                s.distinct_starts,
            )
            for expert, s, r in zip(experts, scores, random, strict=True)
        ],
    )


def print_expert(expert: Expert, scores: evaluation.Scores, *, epsilon: float) -> None:
    """One expert's score."""
    metrics.table(
        f"{expert.name}, epsilon {epsilon:g}",
        ("game", "score", "95% interval", "advertised", "games", "starts", "steps each"),
        [
            (
                expert.game,
                _score(scores.mean),
                _interval(scores.interval()),
                expert.advertised_score,
                len(scores.scores),
                scores.distinct_starts,
                _score(float(scores.lengths.mean())),
            )
        ],
    )


def print_students(rows: Sequence[Mapping[str, Any]], measured: Mapping[str, Any]) -> None:
    """The closing table of a distillation: one row per game; for `measured` see `protocol`."""
    metrics.table(protocol(measured), *student_cells(rows))


def protocol(measured: Mapping[str, Any]) -> str:
    """How scores were measured: `episodes`, `epsilon`, `opening_steps`, `opening_by`."""
    steps = measured["opening_steps"]
    after = f"after {steps} or more steps of {measured['opening_by']} play, " if steps else ""
    return (
        f"{measured['episodes']} whole games per score, {after}epsilon {measured['epsilon']:g}, "
        f"95% bootstrap intervals"
    )


def student_cells(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Column headings, and one row of cells per game."""
    columns = ("game", "random", "expert", "", "student", "", "retention", "")
    return (*columns, "agreement", "regret", "human", "starts"), [
        (
            row["game"],
            _score(row["random"]["mean"]),
            _score(row["expert"]["mean"]),
            _interval(row["expert"]["interval"]),
            _score(row["student"]["mean"]),
            _interval(row["student"]["interval"]),
            _share(row["retention"]),
            "[" + ", ".join(_share(x) for x in row["retention_interval"]) + "]",
            None if row.get("agreement") is None else _share(row["agreement"]),
            None if row.get("regret") is None else f"{row['regret']:.4f}",
            None if row["human_normalised"] is None else _share(row["human_normalised"]),
            row["student"]["distinct_starts"],
        )
        for row in rows
    ]


def starts(result: Mapping[str, Any]) -> str:
    """What the table's "starts" are, and whether the student was chosen by some of them."""
    shared = {row["game"]: row["shared_starts"] for row in result["games"] if row["shared_starts"]}
    some = ", ".join(f"{count} of {game}'s" for game, count in shared.items())
    return (
        f"starts: how many of the {result['episodes']} games began in different states; "
        f"{some or 'none of these'} were among those the student was chosen by"
    )


def summary(result: Mapping[str, Any]) -> str:
    """One sentence on the whole result."""
    return (
        f"mean retention {_share(result['mean_retention'])}, geometric mean "
        f"{_share(result['geometric_retention'])}, worst game {_share(result['worst_retention'])}; "
        f"student chosen after round {result['best_round']} of {result['rounds']}"
    )


def wall_time(result: Mapping[str, Any]) -> str:
    """The run's time by phase."""
    seconds = result["seconds"]
    phases = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    return f"wall time {sum(seconds.values()) / 60:.1f} min: {phases}"


def read_result(path: pathlib.Path) -> dict[str, Any]:
    """A run's `result.json`, which `print_result` can print.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged.
    """
    advice = "remove it, and the run measures its student again"
    result = settings.read_json(path, advice)
    try:
        student_cells(result["games"])
        protocol(result), summary(result), wall_time(result), starts(result)
    except Exception as error:  # whatever a value of another kind brings about
        reason = settings.one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"{path} is damaged ({reason}); {advice}") from error
    return result


def print_result(result: Mapping[str, Any]) -> None:
    """Everything `distill` returns, for people."""
    print_students(result["games"], result)
    metrics.say(starts(result))
    metrics.say(summary(result))
    metrics.say(wall_time(result))


def _score(value: float) -> str:
    return f"{value:.1f}"


def _share(value: float | None) -> str:
    """A share that is not known, as what was kept of nothing, is NaN, and None in a file."""
    return "-" if value is None or math.isnan(value) else f"{value:.1%}"


def _interval(interval: Sequence[float]) -> str:
    return f"[{interval[0]:.1f}, {interval[1]:.1f}]"
