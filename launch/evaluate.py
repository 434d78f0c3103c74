"""Measures how well a policy plays, over whole games.

`--expert=FILE [--spec=FILE.toml] [--game=pong]` measures one expert, in its own game and, where
that is another, in the one that runs play if nothing is said. `--workdir=DIR [--game=pong]`
measures again, in all games of a run or in one, the chosen student of a distillation, with its
experts and random play beside it; or the best network of a training, with random play beside it; or
a student that was exported, with random play and what its card says of its experts.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from _cache import cache_dir
from _main import LARGEST_SEED, check_new_file, only_with, run
from absl import flags

if TYPE_CHECKING:
    from jaxdistill.play.protocols import Terms
    from jaxdistill.tasks.atari import Rules
    from jaxdistill.tasks.task import Suite

_EXPERT = flags.DEFINE_string(
    "expert", None, "checkpoint, directory made by launch/convert.py, or hf://USER/NAME"
)
_SPEC = flags.DEFINE_string("spec", None, "TOML file describing the checkpoint")
_GAME = flags.DEFINE_string("game", None, "the expert's, or the only one of a run to play")
_RULES = flags.DEFINE_string(
    "rules", None, "changes to the expert's own game, such as fire_after_life=true&noop_max=1"
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "a distillation whose student, or a training whose network to measure; or an exported student",
)
_EPISODES = flags.DEFINE_integer("episodes", 100, "whole games per game", lower_bound=1)
_EPSILON = flags.DEFINE_float(
    "epsilon",
    None,
    "chance of a random valid action; by default 0.05 in Atari, and 0 where games differ by "
    "themselves, as landers do",
    0.0,
    1.0,
)
_SAMPLE = flags.DEFINE_bool("sample_logits", False, "an expert with logits samples its policy")
_OPENING = flags.DEFINE_integer(
    "opening_steps",
    None,
    "steps of another's play, at least, before who is measured takes over; by default 10 in Atari, "
    "and 0 elsewhere",
    lower_bound=0,
)
_OPENING_BY = flags.DEFINE_enum(
    "opening_by", "random", ["random", "expert"], "who plays them before a student"
)
_MAX_STEPS = flags.DEFINE_integer(
    "max_steps",
    None,
    "step limit of one game; by default the run's, or the game's own: 27,000 in Atari, 400 to "
    "1,000 for landers",
    lower_bound=1,
)
_SEED = flags.DEFINE_integer(
    "seed",
    None,
    "of the starts and of chance; by default 1, and of an expert 0: the games that a run reports, "
    "which need not be played again there",
    0,
    LARGEST_SEED,
)
_OUT = flags.DEFINE_string("out", None, "write the numbers as JSON to this new file too")


def main() -> None:
    from jaxdistill import disk

    if (_EXPERT.value is None) == (_WORKDIR.value is None):
        raise ValueError("give either --expert=FILE or --workdir=DIR")
    if _OUT.value:
        check_new_file("out", pathlib.Path(_OUT.value))
    if _OPENING.value == 0:
        only_with("--opening_steps above 0", "opening_by")
    if _WORKDIR.value:
        only_with("--expert", "spec", "rules", "sample_logits")
        rows, measured = _measure_run()
    else:
        only_with("--workdir of a distillation, where others play too", "opening_by")
        rows, measured = _measure_expert()
    if _OUT.value:
        disk.write_json(pathlib.Path(_OUT.value), measured | {"games": rows})


def _terms(suite: Suite, *, seed: int) -> Terms:
    """As the flags say, and where they do not, as the suite does; `seed` is the usual one."""
    from jaxdistill.play import protocols

    return protocols.Terms.of(
        suite,
        episodes=_EPISODES.value,
        epsilon=_EPSILON.value,
        seed=seed if _SEED.value is None else _SEED.value,
        opening_steps=_OPENING.value,
        opening_by=_OPENING_BY.value,
        max_steps=_MAX_STEPS.value,
    )


def _measure_run() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from jaxdistill.report import tables
    from jaxdistill.run import evaluating

    found = evaluating.find(_WORKDIR.value)
    if found.kind == "training":
        only_with("a distillation", "opening_by")
    elif found.kind == "exported":
        only_with("a distillation whose experts are at hand", "opening_by")
    terms = _terms(found.suite, seed=1).within(found.max_steps)
    if not terms.opening_steps:
        only_with("--opening_steps above 0", "opening_by")
    rows = found.measure(terms, game=_GAME.value, cache_dir=cache_dir())
    said = _said(terms, rows, found.rules)
    tables.print_measured(found.kind, rows, said)
    return rows, said


def _said(terms: Terms, rows: list[dict[str, Any]], rules: Rules) -> dict[str, Any]:
    """What is said of the terms on which the tasks of `rows` were played, by these rules."""
    from jaxdistill import tasks

    return terms.to_dict(tasks.under(tasks.get(row["game"]), rules) for row in rows)


def _measure_expert() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from jaxdistill.experts import sources
    from jaxdistill.play import measuring, protocols, records
    from jaxdistill.report import tables
    from jaxdistill.tasks.atari import USUAL

    source = sources.ExpertSource(_EXPERT.value, _SPEC.value, _GAME.value, _RULES.value)
    expert = sources.load(source)
    if expert.outputs != "logits":
        only_with("an expert that holds logits", "sample_logits")
    expert.task.require()
    terms = _terms(expert.task.suite, seed=protocols.REPORT_SEED)
    known = records.Records(shared=cache_dir())
    players = (expert, expert.under(USUAL))
    own, *usual = (
        measuring.measure_alone(player, terms, sample_logits=_SAMPLE.value, records=known)
        for player in players[: 1 if expert.rules == USUAL else 2]
    )
    random, random_usual = (
        records.random_score(player.task, terms.max_steps) for player in players
    )
    tables.print_expert(
        expert,
        own,
        *usual,
        epsilon=terms.epsilon,
        random=random,
        random_usual=random_usual,
    )
    row = {"game": expert.game, "expert": own.summary()}
    for scores in usual:
        row |= {"rules": expert.rules.to_dict(), "expert_usual": scores.summary()}
    said = terms.to_dict(player.task for player in players)
    said.pop("opening_by")  # only a student's games may be begun by another than chance
    return [row], said


if __name__ == "__main__":
    run(main)
