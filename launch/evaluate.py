"""Measures how well a policy plays, over whole games.

`--expert=FILE [--spec=FILE.toml] [--game=pong]` measures one expert; `--workdir=DIR [--game=pong]`
measures the chosen student of a distillation run again, in all of its games or in one, with its
experts and random play beside it.
"""

import pathlib
from typing import Any

from _main import LARGEST_SEED, only_with, run
from absl import flags

from jaxdistill import metrics, settings
from jaxdistill.experts import formats
from jaxdistill.play import evaluation
from jaxdistill.report import tables
from jaxdistill.run import distill

_EXPERT = flags.DEFINE_string("expert", None, "checkpoint, or directory made by launch/convert.py")
_SPEC = flags.DEFINE_string("spec", None, "TOML file describing the checkpoint")
_GAME = flags.DEFINE_string("game", None, "the expert's, or the only one of a run to play")
_WORKDIR = flags.DEFINE_string("workdir", None, "a distillation run whose student to measure")
_EPISODES = flags.DEFINE_integer("episodes", 100, "whole games per game", lower_bound=1)
_EPSILON = flags.DEFINE_float("epsilon", 0.05, "chance of a random valid action", 0.0, 1.0)
_SAMPLE = flags.DEFINE_bool("sample_logits", False, "an expert with logits samples its policy")
_OPENING = flags.DEFINE_integer(
    "opening_steps",
    None,
    "steps of another's play, at least, before who is measured takes over; by default 10 in Atari",
    lower_bound=0,
)
_OPENING_BY = flags.DEFINE_enum(
    "opening_by", "random", ["random", "expert"], "who plays them before a student"
)
_SEED = flags.DEFINE_integer("seed", 1, "of the starts and of chance", 0, LARGEST_SEED)
_OUT = flags.DEFINE_string("out", None, "write the numbers as JSON to this new file too")


def main() -> None:
    if (_EXPERT.value is None) == (_WORKDIR.value is None):
        raise ValueError("give either --expert=FILE or --workdir=DIR")
    if _OUT.value and pathlib.Path(_OUT.value).exists():
        raise ValueError(f"--out={_OUT.value} exists; choose another file")
    chosen: dict[str, Any] = {
        "episodes": _EPISODES.value,
        "epsilon": _EPSILON.value,
        "opening_steps": _OPENING.value,
    }
    if _WORKDIR.value:
        only_with("--expert", "spec", "sample_logits")
        if not _OPENING.value:
            only_with("--opening_steps above 0", "opening_by")
        chosen["opening_by"] = _OPENING_BY.value
        rows = distill.evaluate_student(
            _WORKDIR.value, seed=_SEED.value, game=_GAME.value, **chosen
        )
        tables.print_students(rows, chosen)
    else:
        only_with("--workdir, where others play too", "opening_by")
        expert = formats.load(_EXPERT.value, spec=_SPEC.value, game=_GAME.value)
        if expert.outputs != "logits":
            only_with("an expert that holds logits", "sample_logits")
        with metrics.progress(f"play {expert.game}", _EPISODES.value, "games") as advance:
            scores = evaluation.measure_expert(
                expert,
                seed=_SEED.value,
                sample_logits=_SAMPLE.value,
                advance=advance,
                **chosen,
            )
        tables.print_expert(expert, scores, epsilon=_EPSILON.value)
        rows = [{"game": expert.game, "expert": scores.summary()}]
    if _OUT.value:
        settings.write_json(pathlib.Path(_OUT.value), chosen | {"games": rows})


if __name__ == "__main__":
    run(main)
