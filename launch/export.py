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

from typing import TYPE_CHECKING

from _main import only_with, run
from absl import flags

if TYPE_CHECKING:
    from jaxdistill.experts.expert import Expert

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
    from jaxdistill.run import exporting, students

    chosen, of_expert = _FORMAT.value, _EXPERT.value is not None
    if of_expert == (_WORKDIR.value is not None):
        raise ValueError("give either --workdir=DIR or --expert=DIR")
    if chosen not in ("merged", "expert"):
        only_with("another format", "dtype")
    if chosen == "student":
        only_with("another format", "expert", "game")
    elif of_expert and chosen not in exporting.OF_EXPERTS:
        only_with("--workdir; of an expert it is expert, module, sb3, onnx or stablehlo", "format")
        chosen = "expert"
    elif chosen == "merged":
        only_with("--format=expert", "game", "dtype")
    if of_expert or _GAME.value is not None or chosen not in exporting.OF_STUDENTS:
        expert = _of_one_game(whole=exporting.has_all_outputs(chosen))
        told = exporting.write_expert(expert, chosen, _OUT.value, _DTYPE.value)
    else:
        told = exporting.write_student(students.read(_WORKDIR.value), chosen, _OUT.value)
    for line in told:
        terminal.say(line)
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


if __name__ == "__main__":
    run(main)
