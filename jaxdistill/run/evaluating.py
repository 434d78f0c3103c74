"""What a directory holds, measured again: a student, a training's network, an exported student."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from jaxdistill import meshes, terminal
from jaxdistill.experts import student as travelling
from jaxdistill.experts.student import Student, game_index
from jaxdistill.play import protocols, records, scoring
from jaxdistill.run import closing, common, finetuning, kinds, student_json, students, training
from jaxdistill.run.common import Run
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.task import Suite

Kind = Literal["distillation", "training", "exported"]


class Measurable(NamedTuple):
    """What can be measured again.

    Attributes:
      kind: a "distillation", merged weights among them; a "training"; or an "exported" student.
      suite: of its tasks.
      rules: how those are played.
      max_steps: the step limit of one game that it was measured by; None is each task's own.
      measure: `(terms, *, game=None, cache_dir=None)`, see `find`.
    """

    kind: Kind
    suite: Suite
    rules: Rules
    max_steps: int | None
    measure: Callable[..., list[dict[str, Any]]]


def find(where: str | os.PathLike[str]) -> Measurable:
    """What is measured again of a run's directory, or of a student that was exported or pushed.

    Its `measure` plays it with random play beside it, and:

    * with the student of a distillation its experts;
    * with the network of a training the student that it went on from, and who taught that. Where
      they are not there any more or have become others, a line says so, and their scores are left
      out;
    * with an exported student nobody, since its experts are not at hand. What its card says they
      score stands beside it, if they were measured in the same way; and then what it keeps of that,
      without an interval, since the games that it would take are not at hand either.

    It takes `protocols.Terms`, whose step limit is `max_steps` where they say none; the only `game`
    to play, by default all; and as `cache_dir` where games that were played before are looked for
    and kept, None being nowhere else than in the run. It gives a row of each task that was played,
    as in the run's `result.json`, as far as it is known.

    Raises:
      FileNotFoundError, ValueError: nothing is there that could be measured. So does `measure`:
        nothing was chosen yet, `game` is none of its own, openings are as long as games, or an
        expert is not the one that a run's student learnt from.
    """
    if kinds.of(where) == "training":
        trained = training.load_settings(where)
        measure = functools.partial(_measure_training, where)
        suite = trained.tasks[0].suite
        return Measurable("training", suite, trained.rules, trained.max_steps, measure)
    if (exported := travelling.read(where)) is not None:
        measure = functools.partial(_measure_exported, exported)
        suite = exported.roles[0].task.suite
        return Measurable("exported", suite, exported.rules, exported.max_steps, measure)
    settings, suite = students.load_settings(where), students.load_suite(where)
    measure = functools.partial(_measure_run, where)
    limit = settings.evaluate.max_steps
    return Measurable("distillation", suite, settings.rules, limit, measure)


def _measure_run(
    workdir: str | os.PathLike[str],
    terms: protocols.Terms,
    *,
    game: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    student = students.load_student(workdir)
    settings = student.settings
    roles = student_json.load_roles(workdir, settings)
    settings = student_json.as_read(workdir, settings)
    student_json.check_paths(workdir, settings)
    settings = dataclasses.replace(
        settings,
        evaluate=dataclasses.replace(
            settings.evaluate,
            report_episodes=terms.episodes,
            report_width=0.0,
            expert_ratio=1,
            epsilon=terms.epsilon,
            opening_steps=terms.opening_steps,
            opening_by=terms.opening_by,
            max_steps=terms.within(settings.evaluate.max_steps).max_steps,
        ),
    )
    known = common.records_of(settings, pathlib.Path(workdir), cache_dir, writes=False)
    run = Run(settings, meshes.create(), known=known, report_seed=terms.seed)
    student_json.check_roles(workdir, roles, student_json.roles_of(run.settings, run.experts))
    student_json.check_teachers(workdir, run.experts)
    for lesson in run.lessons:
        lesson.task.require()
    only = None if game is None else [game_index(run.names, game, workdir)]
    return closing.rows_of(run, run.play_reported(student.state.eval_params, only))


def _measure_training(
    workdir: str | os.PathLike[str],
    terms: protocols.Terms,
    *,
    game: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    settings = training.load_settings(workdir)
    names = [task.name for task in settings.tasks]
    # Independent networks are there one after another, and each plays alone.
    alone = game is not None and settings.independent
    experts, student = training.load_experts(workdir, game if alone else None), None
    try:
        student = finetuning.student_of(settings, pathlib.Path(workdir))
    except (OSError, ValueError) as error:
        terminal.say(f"note: measured without the student that it went on from: {error}")
    return training.measure(
        experts,
        terms.within(settings.max_steps),
        mesh=meshes.create(),
        known=common.records_in(pathlib.Path(workdir), cache_dir, writes=False),
        student=student,
        only=None if game is None or alone else game_index(names, game, workdir, "learnt"),
    )


def _measure_exported(
    student: Student,
    terms: protocols.Terms,
    *,
    game: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    rows = training.measure(
        student.experts(),
        terms.within(student.max_steps),
        mesh=meshes.create(),
        known=records.Records(shared=None if cache_dir is None else pathlib.Path(cache_dir)),
        told_by=student,
        only=None if game is None else game_index(student.games, game, student.name),
    )
    for row in rows:
        row["student"] = row.pop("network")
        if "expert" in row:
            means = (row[who]["mean"] for who in ("student", "expert", "random"))
            row["retention"] = scoring.retention(*means)
    return rows
