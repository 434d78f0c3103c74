"""A student that was exported, measured as a student: without its run and without its experts."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from jaxdistill import meshes
from jaxdistill.experts.student import Student, game_index
from jaxdistill.play import evaluation, records
from jaxdistill.run import training


def evaluate(
    student: Student,
    terms: records.Terms,
    *,
    game: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Measures an exported student again, with random play beside it.

    Its experts are not at hand. What its card says they score stands beside it, if they were
    measured in the same way; and then what it keeps of that, without an interval, since the games
    that it would take are not at hand either.

    Args:
      terms: the step limit is each task's own where they say none.
      game: the only one to play; by default all.
      cache_dir: where games that were played before are looked for and kept; None is nowhere.

    Returns:
      A row of each task that was played, as in a run's `result.json`, without what is not known.

    Raises:
      ValueError: `game` is none of its games, or openings are as long as games.
    """
    rows = training.measure(
        student.experts(),
        terms,
        mesh=meshes.create(),
        known=records.Records(shared=None if cache_dir is None else pathlib.Path(cache_dir)),
        told_by=student,
        only=None if game is None else game_index(student.games, game, student.name),
    )
    for row in rows:
        row["student"] = row.pop("network")
        if "expert" in row:
            means = (row[who]["mean"] for who in ("student", "expert", "random"))
            row["retention"] = evaluation.retention(*means)
    return rows
