"""Plays one game to a file: `--expert=FILE` or `--workdir=DIR [--game=pong]`, `--out=game.gif`.

Of a distillation the chosen student plays, of a training the best network so far; an exported
student's directory is a `--workdir` too. The file is a
GIF, or an MP4 where PyAV is installed (`pip install 'jaxdistill[video]'`).
"""

import pathlib

from _main import LARGEST_SEED, only_with, run
from absl import flags

_EXPERT = flags.DEFINE_string(
    "expert", None, "checkpoint, directory made by launch/convert.py, or hf://USER/NAME"
)
_SPEC = flags.DEFINE_string("spec", None, "TOML file describing the checkpoint")
_RULES = flags.DEFINE_string(
    "rules", None, "changes to the expert's own game, such as fire_after_life=true&noop_max=1"
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "a distillation whose student, or a training whose network to watch; or an exported student",
)
_GAME = flags.DEFINE_string("game", None, "the game, where expert or run do not leave only one")
_OUT = flags.DEFINE_string("out", None, "the .gif or .mp4 to write")
_STEPS = flags.DEFINE_integer("steps", None, "the most steps to play", lower_bound=1)
_EPSILON = flags.DEFINE_float(
    "epsilon",
    None,
    "chance of a random valid action; by default 0.05 in Atari, and 0 elsewhere",
    0.0,
    1.0,
)
_SAMPLE = flags.DEFINE_bool("sample_logits", False, "a player with logits samples its policy")
_SEED = flags.DEFINE_integer("seed", 1, "of the start and of chance", 0, LARGEST_SEED)
flags.mark_flag_as_required("out")


def main() -> None:
    from jaxdistill import metrics
    from jaxdistill.experts import sources
    from jaxdistill.play import clips, lessons, rollouts
    from jaxdistill.run import students, training

    if (_EXPERT.value is None) == (_WORKDIR.value is None):
        raise ValueError("give either --expert=FILE or --workdir=DIR")
    if pathlib.Path(_OUT.value).exists():
        raise ValueError(f"--out={_OUT.value} exists; choose another file")
    if _WORKDIR.value:
        only_with("--expert", "spec", "rules")
        read = (
            training.best_as_expert
            if training.stands_in(_WORKDIR.value)
            else students.student_as_expert
        )
        player = read(_WORKDIR.value, _GAME.value)
    else:
        player = sources.load(
            sources.ExpertSource(_EXPERT.value, _SPEC.value, _GAME.value, _RULES.value)
        )
    (lesson,) = lessons.of_experts([player], _SEED.value)
    if player.outputs != "logits":
        only_with("a player that holds logits", "sample_logits")
    epsilon = lesson.task.suite.epsilon if _EPSILON.value is None else _EPSILON.value
    clip = clips.record(
        lesson,
        rollouts.expert_actor([player], epsilon=epsilon, sample_logits=_SAMPLE.value),
        seed=_SEED.value,
        steps=_STEPS.value,
    )
    clips.write(clip, _OUT.value)
    state = "over" if clip.over else "stopped"
    metrics.say(
        f"{_OUT.value}: {player.name}, {len(clip.frames)} frames, score {clip.score:g}, {state}"
    )


if __name__ == "__main__":
    run(main)
