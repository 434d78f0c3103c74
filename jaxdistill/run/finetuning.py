"""What a training goes on from: a student, by the rules that it was distilled under."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from jaxdistill import networks, tasks, terminal
from jaxdistill.experts import hub
from jaxdistill.experts import student as travelling
from jaxdistill.experts.expert import Expert, Teacher, Team
from jaxdistill.experts.student import Student, game_index
from jaxdistill.learn import origins
from jaxdistill.learn.train_settings import Settings
from jaxdistill.run import distill_settings, kinds, student_json, students
from jaxdistill.tasks.atari import USUAL
from jaxdistill.tasks.task import Task


def student_of(settings: Settings, workdir: pathlib.Path) -> origins.Pretrained | None:
    """What the training in `workdir` goes on from, if it does.

    Raises:
      ValueError: it has become another since.
    """
    if settings.student is None:
        return None
    names = [task.name for task in settings.tasks]
    student = _the_same(_places_of(settings.student, workdir), names, workdir)
    if settings.expert_weight and student.alone:
        raise ValueError(
            f"expert_weight is {settings.expert_weight:g}, and {student.name} came without its "
            f"experts; set it to 0, as configs/finetune.py:alone does, or go on from its run"
        )
    return student


def _places_of(student: str, workdir: pathlib.Path) -> list[str]:
    """Where a training's student may be: where it was or, else, around the training.

    So `finetuned` in the directory of a run moves with it, and is read from within, though another
    run may have begun where the two were.
    """
    around = workdir.resolve().parent
    places = [str(around)] if kinds.has_student(around) else []
    if hub.is_address(student) or kinds.has_student(student) or travelling.is_student(student):
        tells = origins.relocated_fields(workdir, {"student": ""})  # if the one around is the same
        return [student, *(places if tells else [])]
    return places or [student]


def _the_same(
    places: Sequence[str], games: Sequence[str], workdir: pathlib.Path
) -> origins.Pretrained:
    """The student with which the training was begun, at the first of the places that has it.

    Raises:
      ValueError, OSError: it is at none; says what is wrong with the first.
    """
    wrong: list[Exception] = []
    for place in places:
        try:
            student = to_go_on_from(place, games)
            origins.check(workdir, origins.of(student, ()))
        except (ValueError, OSError) as error:
            wrong.append(error)
        else:
            return student
    raise wrong[0]


def as_distilled(settings: Settings, student: origins.Pretrained) -> Settings:
    """`settings` by the student's rules, where they say no others; a line where they differ."""
    if settings.rules == student.rules:
        return settings
    differ = student.rules.differences_from(settings.rules)
    if settings.rules != USUAL:
        terminal.say(f"note: {student.name} was distilled with {differ}")
        return settings
    terminal.say(f"note: games are played as {student.name} was distilled, with {differ}")
    return dataclasses.replace(settings, rules=student.rules)


def to_go_on_from(workdir: str | os.PathLike[str], games: Sequence[str]) -> origins.Pretrained:
    """A student that `students.read` reads, to be trained further in some of its games.

    One that plays a task of keys and angles whole goes on in others of that kind too, such as a
    duel of other health. One that was exported has no teachers.

    Raises:
      FileNotFoundError, ValueError: as `students.read`; an expert of the run cannot be read, or a
        game is not one of its own.
    """
    alone = travelling.read(workdir)
    student = alone or students.read(workdir)
    for game in games:
        if game not in student.games and not _knows_enough(student, tasks.get(game)):
            game_index(student.games, game, workdir)  # which refuses it
    for role in student.roles:
        if role.game in games and not role.view.native:
            raise ValueError(
                f"a training shows what EnvPool makes alone, and the student of {workdir} sees "
                f"{role.view} in {role.game}; distil one with view None"
            )
    network, params = student.network, student.params
    if network.knows_game:
        indices = [student.games.index(game) for game in games]
        network, params = networks.for_some_games(network, params, indices)
    return origins.Pretrained(
        name=f"student of {workdir}",
        network=network,
        params=params,
        outputs=student.outputs,
        view=student.roles[0].view,
        teachers={} if alone else _teachers(workdir, games),
        own={role.game: role.view for role in student.roles},
        alone=alone,
        actions={role.game: role.actions for role in student.roles},
        rules=student.rules,
        teacher_views={x.game: saw for x in student.roles if (saw := x.teacher_view) is not None},
    )


def _knows_enough(student: Student, task: Task) -> bool:
    """Whether a task that a student was not taught asks for no more than one that it was."""
    if student.network.knows_game or not task.suite.kinds:
        return False
    whole = [role for role in student.roles if role.task.suite == task.suite]
    return any(set(task.actions) <= set(role.actions) for role in whole)


def _teachers(workdir: str | os.PathLike[str], games: Sequence[str]) -> dict[str, Teacher]:
    """Who teaches each game of a run, and others that its experts play together as well.

    Raises:
      FileNotFoundError, ValueError: an expert cannot be read, or has become another.
    """
    settings = student_json.as_read(workdir, students.load_settings(workdir))
    student_json.check_paths(workdir, settings)
    experts = distill_settings.teachers(settings)
    student_json.check_teachers(workdir, experts)
    teachers = {str(expert.game): expert for expert in experts}
    alone = tuple(expert for expert in teachers.values() if isinstance(expert, Expert))
    return teachers | {game: _team(alone, game) for game in games if game not in teachers}


def _team(experts: tuple[Expert, ...], game: str) -> Team:
    """The first who plays the task whole, or else all of them together."""
    needed = set(tasks.get(game).actions)
    whole = [x for x in experts if needed <= {*x.mask.nonzero()[0].tolist()}]
    return Team((whole[0],) if whole else experts, game)
