"""Turns a PyTorch file into an expert, says what was recognised, and plays it.

`--source=FILE --out=DIR [--spec=FILE.toml] [--game=pong] [--episodes=16]`

The shared agent of the public multi-task lander holds three experts: `--game=lander/windy` chooses.
"""

from _main import LARGEST_SEED, only_with, run
from absl import flags

_SOURCE = flags.DEFINE_string(
    "source", None, "PyTorch file, directory of an expert, or hf://USER/NAME"
)
_OUT = flags.DEFINE_string("out", None, "new directory for the expert")
_SPEC = flags.DEFINE_string("spec", None, "TOML file that says what the source does not")
_RULES = flags.DEFINE_string(
    "rules", None, "changes to its own game, such as fire_after_life=true&noop_max=1"
)
_GAME = flags.DEFINE_string("game", None, "its game, where the source does not say")
_EPISODES = flags.DEFINE_integer("episodes", 0, "whole games to play it for", 0)
_EPSILON = flags.DEFINE_float(
    "epsilon", None, "chance of a random action; by default 0.05 in Atari, and 0 elsewhere", 0, 1
)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the games and of chance", 0, LARGEST_SEED)
flags.mark_flags_as_required(["source", "out"])


def main() -> None:
    from jaxdistill import metrics, networks
    from jaxdistill.experts import formats, sources
    from jaxdistill.experts.expert import check_new
    from jaxdistill.play import records
    from jaxdistill.report import tables

    if not _EPISODES.value:
        only_with("--episodes", "epsilon", "seed")
    found = formats.convert(_SOURCE.value, spec=_SPEC.value, game=_GAME.value)
    expert = sources.by_rules(found.expert, _RULES.value)
    if _EPISODES.value and expert.game is None:
        raise ValueError(
            f"{_SOURCE.value} does not say which game it plays; give --game to play it"
        )
    if _EPISODES.value:
        expert.task.require()
    check_new(_OUT.value)
    metrics.table(f"{_SOURCE.value}: {found.convention}", formats.COLUMNS, found.rows())
    metrics.say(f"{networks.count(expert.params):,} parameters, {expert.network.head} head")
    metrics.say(
        f"{expert.outputs} over actions {list(expert.actions)} of {expert.game or 'no game'}"
    )
    for note in (*found.notes, *(f"not read: {name}" for name in found.skipped)):
        metrics.say(f"note: {note}")
    if _EPISODES.value:
        epsilon = expert.task.suite.epsilon if _EPSILON.value is None else _EPSILON.value
        scores = records.measure_expert(
            expert, episodes=_EPISODES.value, epsilon=epsilon, seed=_SEED.value
        )
        tables.print_expert(expert, scores, epsilon=epsilon)
    expert.save(_OUT.value)
    metrics.say(f"saved in {_OUT.value}")


if __name__ == "__main__":
    run(main)
