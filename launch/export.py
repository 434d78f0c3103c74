"""Writes a run's chosen student as a PyTorch file: `--workdir=DIR --out=FILE.pth`.

With `--format=student`, `--out=DIR` becomes a directory that needs neither run nor experts, and
stands wherever an expert's file can: as the expert of each of its tasks; and it is a `--workdir` of
`evaluate`, `watch`, `finetune` and this program.

The file loads with `torch.load(weights_only=True)`. A student of Atari is written in the reference
*merged* convention; as the expert of one of its games (`--format=expert --game=pong`), or an
expert (`--expert=DIR`, made by launch/convert.py), in the reference *expert* convention, with the
`training_config.json` that its programs look for beside it. A student of landers is written as the
public multi-task lander's shared agent, and an expert of one as its single agents; a student of
combat as the public fighter's distilled policy. `--convention` is another name of `--format`.

`--game` is the one to write of a student or a merged file of several, and an expert's where its
file does not say it.

Formats of other programs, of a student or an expert:

* `sb3`, a Stable-Baselines3 zip: for `DQN.load` of one game of Atari, if the network has Nature's
  convolutions, dueling or not; for `PPO.load` of what PPO has taught in combat
  (`--expert=DIR`, such as RUN/finetuned/experts/combat/duel);
* `module`: `FILE.pth` and beside it `FILE.py`, the network as a PyTorch module of its own, written
  out for people to read. Every network that is not recurrent, of any task, can be written so. What
  the module's `save` writes after more training in PyTorch is read here as an expert;
* `onnx`, and `stablehlo` for `jax.export`: one function of what is seen, and of the task where
  there are several, to outputs and the greedy action. `FILE.json` says what goes in and comes out.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import TYPE_CHECKING

from _main import only_with, run
from absl import flags

if TYPE_CHECKING:
    from jaxdistill.experts.expert import Expert
    from jaxdistill.experts.student import Student
    from jaxdistill.tasks.views import AnyView

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "a distillation run whose student to write, or a student that was exported"
)
_EXPERT = flags.DEFINE_string("expert", None, "an expert to write instead")
_OUT = flags.DEFINE_string("out", None, "the file or directory to write; must not exist")
_FORMAT = flags.DEFINE_enum(
    "format",
    "merged",
    ["merged", "expert", "module", "sb3", "student", "onnx", "stablehlo"],
    "convention of a student's file, or a directory of its own; module (PyTorch, any network), sb3 "
    "(Stable-Baselines3), onnx and stablehlo of an expert's too",
)
flags.DEFINE_alias("convention", "format")
_GAME = flags.DEFINE_string(
    "game", None, "of several, to be the expert of; an expert's, where its file does not say it"
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "float16"], "of an expert's weights")
flags.mark_flag_as_required("out")


def main() -> None:
    from jaxdistill import terminal
    from jaxdistill.experts import export_sb3
    from jaxdistill.run import students

    if (_EXPERT.value is None) == (_WORKDIR.value is None):
        raise ValueError("give either --workdir=DIR or --expert=DIR")
    if _FORMAT.value in ("module", "sb3", "student", "onnx", "stablehlo"):
        only_with("another format", "dtype")
    if _FORMAT.value == "student":
        only_with("another format", "expert", "game")
        students.read(_WORKDIR.value).save(_OUT.value)
    elif _FORMAT.value in ("module", "onnx", "stablehlo"):
        _write_portable()
    elif _FORMAT.value == "sb3":
        expert = _of_one_game(whole=True)
        export_sb3.export_expert(expert, _OUT.value)
        if expert.view != expert.task.view:
            terminal.say(f"note: other readers will not know what it sees: {expert.view}")
    elif _EXPERT.value or _FORMAT.value == "expert":
        if _FORMAT.value != "expert":
            only_with(
                "--workdir; of an expert it is expert, module, sb3, onnx or stablehlo", "format"
            )
        _write_expert(_of_one_game(whole=True))
    else:
        only_with("--format=expert", "game", "dtype")
        _write_merged(students.read(_WORKDIR.value))
    terminal.say(f"saved in {_OUT.value}")


def _of_one_game(*, whole: bool) -> Expert:
    """The expert that is written, or a student in one of its games.

    `whole` is as `Student.expert` takes it.
    """
    from jaxdistill.experts import formats
    from jaxdistill.experts import student as travelling
    from jaxdistill.run import students

    if _WORKDIR.value:
        return students.student_as_expert(_WORKDIR.value, _GAME.value, whole=whole)
    if (exported := travelling.read(_EXPERT.value)) is not None:
        return exported.expert(_GAME.value, whole=whole)
    return formats.load(_EXPERT.value, game=_GAME.value)


def _write_portable() -> None:
    """A file that others run, and its description or its module."""
    from jaxdistill import terminal
    from jaxdistill.experts import export_module, export_onnx, export_stablehlo, portable
    from jaxdistill.run import students

    if _EXPERT.value or _GAME.value is not None:
        policy = portable.of_expert(_of_one_game(whole=False))
    else:
        policy = portable.of_student(students.read(_WORKDIR.value))
    if _FORMAT.value == "module":
        module = export_module.write(policy, _OUT.value)
        terminal.say(f"its module, and how it is used: {module}")
        return
    written = export_onnx if _FORMAT.value == "onnx" else export_stablehlo
    written.write(policy, _OUT.value)
    terminal.say(f"what goes in and comes out: {_OUT.value}.json")


def _write_merged(student: Student) -> None:
    """A student of several games in the convention of its suite."""
    from jaxdistill import terminal
    from jaxdistill.experts import export
    from jaxdistill.run import students
    from jaxdistill.tasks.combat import COMBAT
    from jaxdistill.tasks.views import View

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
        _OUT.value,
        views={role.game: role.view for role in roles},
        outputs=student.outputs,
        rules=student.rules,
        teacher_views={x.game: saw for x in roles if (saw := x.teacher_view) is not None},
        merge_config=student.made,
        final_scores=student.scores,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    if roles[0].task.suite != COMBAT:  # whose convention has logits
        _notes(student.outputs, [role.view for role in roles])
    for role in roles:
        if names := students.untaught(role, student.rules):
            terminal.say(
                f"note: nobody taught it {', '.join(names)} in {role.game}, and readers may "
                f"choose it; as the expert of one game (--format=expert) it never does"
            )


def _write_expert(expert: Expert) -> None:
    from jaxdistill import terminal
    from jaxdistill.experts import export
    from jaxdistill.tasks.views import View

    export.export_expert(expert, _OUT.value, dtype=_DTYPE.value)
    problem = None
    if isinstance(expert.view, View):
        problem = export.write_training_config(_OUT.value, expert.network)
    if problem:
        terminal.say(f"note: {problem}")
    _notes(expert.outputs, [expert.view])


def _notes(outputs: str, views: Iterable[AnyView]) -> None:
    """What readers of the convention cannot know, as only our own reads it from the file."""
    from jaxdistill import terminal
    from jaxdistill.tasks.views import View

    if outputs == "logits":
        terminal.say(
            "note: these are logits where other readers expect Q-values; greedy play is the same"
        )
    for view in dict.fromkeys(views):
        if isinstance(view, View) and view != View():
            terminal.say(f"note: other readers will not know what it sees: {view}")


if __name__ == "__main__":
    run(main)
