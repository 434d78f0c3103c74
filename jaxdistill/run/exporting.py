"""A student or an expert, written in one of the formats that are exported."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable

from jaxdistill.experts import (
    export,
    export_module,
    export_onnx,
    export_sb3,
    export_stablehlo,
    portable,
)
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.student import Student
from jaxdistill.run import students
from jaxdistill.tasks.combat import COMBAT
from jaxdistill.tasks.views import AnyView, View

_PORTABLE = ("module", "onnx", "stablehlo")
OF_STUDENTS = ("merged", *_PORTABLE, "student")
"""What a whole student is written as, in all of its tasks."""
OF_EXPERTS = ("expert", *_PORTABLE, "sb3")
"""What an expert is written as, and a student in one of its tasks."""


def has_all_outputs(format: str) -> bool:
    """Whether an expert in this format has an output for every action, as `Student.expert` says."""
    return format in ("expert", "sb3")


def write_student(student: Student, format: str, path: str | os.PathLike[str]) -> list[str]:
    """Writes a whole student.

    Args:
      format: one of `OF_STUDENTS`; "merged" is the convention of its suite, see `export.export`.
      path: the file to write, or the directory; must not exist.

    Returns:
      Lines for who asked: what else was written, and what readers of the file cannot know.

    Raises:
      ValueError: the format cannot express it, or a file is there already.
      OSError: it cannot be written.
    """
    if format == "student":
        student.save(path)
        return []
    if format in _PORTABLE:
        return _write_portable(portable.of_student(student), format, path)
    return _write_merged(student, path)


def write_expert(
    expert: Expert, format: str, path: str | os.PathLike[str], dtype: str = "float32"
) -> list[str]:
    """Writes an expert; as `write_student`.

    Args:
      format: one of `OF_EXPERTS`.
      dtype: of the weights in the format "expert", "float32" or "float16".
    """
    if format in _PORTABLE:
        return _write_portable(portable.of_expert(expert), format, path)
    if format == "sb3":
        export_sb3.export_expert(expert, path)
        if expert.view == expert.task.view:
            return []
        return [f"note: other readers will not know what it sees: {expert.view}"]
    export.export_expert(expert, path, dtype=dtype)
    problem = None
    if isinstance(expert.view, View):
        problem = export.write_training_config(path, expert.network)
    return [*([f"note: {problem}"] if problem else []), *_unsaid(expert.outputs, [expert.view])]


def _write_portable(
    policy: portable.Portable, format: str, path: str | os.PathLike[str]
) -> list[str]:
    """A file that others run, and its description or its module."""
    if format == "module":
        return [f"its module, and how it is used: {export_module.write(policy, path)}"]
    written = export_onnx if format == "onnx" else export_stablehlo
    written.write(policy, path)
    return [f"what goes in and comes out: {os.fspath(path)}.json"]


def _write_merged(student: Student, path: str | os.PathLike[str]) -> list[str]:
    """A student of several games in the convention of its suite."""
    roles = student.roles
    if student.network.knows_game and isinstance(roles[0].view, View):
        how = "sb3" if student.network.controllers else "expert"  # which has controllers of its own
        raise ValueError(
            f"the student of {student.name} knows its games, as no merged file can; write it game "
            f"by game, --format={how} --game=NAME, or whole, --format=module, student, onnx or "
            f"stablehlo"
        )
    export.export(
        student.params,
        student.network,
        path,
        views={role.game: role.view for role in roles},
        outputs=student.outputs,
        rules=student.rules,
        teacher_views={x.game: saw for x in roles if (saw := x.teacher_view) is not None},
        merge_config=student.made,
        final_scores=student.scores,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    told = []
    if roles[0].task.suite != COMBAT:  # whose convention has logits
        told = _unsaid(student.outputs, [role.view for role in roles])
    for role in roles:
        if names := students.untaught(role, student.rules):
            told.append(
                f"note: nobody taught it {', '.join(names)} in {role.game}, and readers may "
                f"choose it; as the expert of one game (--format=expert) it never does"
            )
    return told


def _unsaid(outputs: str, views: Iterable[AnyView]) -> list[str]:
    """What readers of a convention cannot know, as only our own reads it from the file."""
    told = []
    if outputs == "logits":
        told.append(
            "note: these are logits where other readers expect Q-values; greedy play is the same"
        )
    for view in dict.fromkeys(views):
        if isinstance(view, View) and view != View():
            told.append(f"note: other readers will not know what it sees: {view}")
    return told
