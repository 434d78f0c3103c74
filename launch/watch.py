"""Plays a game to a file: `--expert=FILE` or `--workdir=DIR [--game=pong]`, `--out=game.gif`.

Of a distillation the chosen student plays, of a training the best network so far; an exported
student's directory is a `--workdir` too. Without `--game` it plays one of each of its games, shown
beside each other. The file is a GIF, or an MP4 where PyAV is installed (`pip install
'jaxdistill[video]'`).
"""

import importlib.util
import pathlib

from _main import LARGEST_SEED, check_new_file, only_with, run
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
_GAME = flags.DEFINE_string(
    "game", None, "an expert's game, where its file does not say it; or the only one of a workdir"
)
_OUT = flags.DEFINE_string("out", None, "the .gif or .mp4 to write")
_STEPS = flags.DEFINE_integer("steps", None, "the most steps to play", lower_bound=1)
_WIDTH = flags.DEFINE_integer(
    "width", None, "of each game's picture, in pixels; by default its own", 16, 1024
)
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
    from jaxdistill import terminal
    from jaxdistill.experts import sources
    from jaxdistill.play import clips, lessons, rollouts
    from jaxdistill.run import kinds, students, training

    if (_EXPERT.value is None) == (_WORKDIR.value is None):
        raise ValueError("give either --expert=FILE or --workdir=DIR")
    _check_out(pathlib.Path(_OUT.value))  # before anything is played
    if _WORKDIR.value:
        only_with("--expert", "spec", "rules")
        if kinds.of(_WORKDIR.value) == "training":
            players = training.load_experts(_WORKDIR.value, _GAME.value)
        else:
            student = students.read(_WORKDIR.value)
            one = _GAME.value
            players = student.experts() if one is None else [student.expert(one)]
    else:
        players = [
            sources.load(
                sources.ExpertSource(_EXPERT.value, _SPEC.value, _GAME.value, _RULES.value)
            )
        ]
    if any(player.outputs != "logits" for player in players):
        only_with("a player that holds logits", "sample_logits")
    chosen = lessons.of_experts(players, _SEED.value)
    epsilon = chosen[0].task.suite.epsilon if _EPSILON.value is None else _EPSILON.value
    policy = rollouts.expert_actor(players, epsilon=epsilon, sample_logits=_SAMPLE.value)
    played = []
    for lesson in chosen:
        clip = clips.record(
            lesson,
            policy,
            seed=_SEED.value,
            steps=_STEPS.value,
        )
        played.append(clips.resized(clip, _WIDTH.value) if _WIDTH.value else clip)
    whole = played[0]._replace(frames=clips.side_by_side(*played))
    clips.write(whole, _OUT.value)
    told = "; ".join(
        f"{player.game}, {player.name}: score {clip.score:g}, {'over' if clip.over else 'stopped'}"
        for player, clip in zip(players, played, strict=True)
    )
    terminal.say(f"{_OUT.value}: {len(whole.frames)} frames; {told}")


def _check_out(path: pathlib.Path) -> None:
    """Refuses a file that a clip could not be written to."""
    check_new_file("out", path)
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"--out={path}: clips are written as .gif or .mp4")
    if path.suffix == ".mp4" and importlib.util.find_spec("av") is None:
        raise ValueError(
            f"--out={path}: MP4 needs `pip install 'jaxdistill[video]'`; or choose a .gif"
        )


if __name__ == "__main__":
    run(main)
