"""Turns a PyTorch file into an expert, says what was recognised, and plays it.

`--source=FILE --out=DIR [--spec=FILE.toml] [--game=pong] [--episodes=16]`

The shared agent of the public multi-task lander holds three experts: `--game=lander/windy` chooses.

Of a file that no convention knows, `--source=FILE --spec_template=NEW.toml` writes what a spec has
to say, with questions where the file says nothing; `--source=FILE --spec=FILE.toml
--try_episodes=4` plays the likely answers to those about activation, resize, pixels, the order of
frames, and how features are flattened.
"""

import pathlib

from _main import LARGEST_SEED, check_new_file, only_with, run
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
_TEMPLATE = flags.DEFINE_string(
    "spec_template", None, "new TOML file for a spec with what the source says, instead of --out"
)
_TRY = flags.DEFINE_integer(
    "try_episodes",
    0,
    "games to play by each likely answer to what --spec leaves open, instead of --out",
    lower_bound=0,
)
_EPSILON = flags.DEFINE_float(
    "epsilon", None, "chance of a random action; by default 0.05 in Atari, and 0 elsewhere", 0, 1
)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the games and of chance", 0, LARGEST_SEED)
flags.mark_flags_as_required(["source"])


def main() -> None:
    if _TEMPLATE.value is not None:
        others = ("out", "spec", "rules", "episodes", "epsilon", "seed", "try_episodes")
        only_with("a conversion, without --spec_template", *others)
        _write_template(pathlib.Path(_TEMPLATE.value))
    elif _TRY.value:
        only_with("a conversion, without --try_episodes", "out", "episodes")
        _try()
    elif _OUT.value is None:
        raise ValueError("give --out=DIR for the expert, --spec_template or --try_episodes")
    else:
        _convert()


def _write_template(path: pathlib.Path) -> None:
    from jaxdistill import disk, terminal
    from jaxdistill.experts.formats import template

    check_new_file("spec_template", path)
    text = template.write(_SOURCE.value, game=_GAME.value)
    disk.write_files({path: text.encode()}, alone=False)
    terminal.say(f"saved in {path}; answer what it asks, then give it as --spec")


def _try() -> None:
    from jaxdistill.play import records, spec_trials
    from jaxdistill.report import tables

    if _SPEC.value is None:
        raise ValueError("--try_episodes plays what a spec leaves open; give --spec=FILE.toml")
    choices = spec_trials.experts(_SOURCE.value, _SPEC.value, game=_GAME.value, rules=_RULES.value)
    answers, experts = zip(*choices, strict=True)
    epsilon = experts[0].task.suite.epsilon if _EPSILON.value is None else _EPSILON.value
    scores = spec_trials.play(experts, episodes=_TRY.value, epsilon=epsilon, seed=_SEED.value)
    best = tables.print_tries(answers, scores, epsilon=epsilon)
    tables.warn(experts[best], scores[best], records.random_score(experts[best].task))


def _convert() -> None:
    from jaxdistill import networks, terminal
    from jaxdistill.experts import formats, sources
    from jaxdistill.experts.expert import check_new
    from jaxdistill.play import measuring, protocols, records
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
    title = f"{_SOURCE.value}: {found.convention}"
    if found.layers:
        terminal.table(title, formats.COLUMNS, found.rows())
    else:  # a file of our own, which says what it is
        terminal.say(title)
    terminal.say(f"{networks.count(expert.params):,} parameters, {expert.network.head} head")
    terminal.say(
        f"{expert.outputs} over actions {list(expert.actions)} of {expert.game or 'no game'}"
    )
    for note in (*found.notes, *(f"not read: {name}" for name in found.skipped)):
        terminal.say(f"note: {note}")
    if _EPISODES.value:
        terms = protocols.Terms.of(
            expert.task.suite, episodes=_EPISODES.value, epsilon=_EPSILON.value, seed=_SEED.value
        )
        scores = measuring.measure_alone(expert, terms)
        random = records.random_score(expert.task)
        tables.print_expert(expert, scores, epsilon=terms.epsilon, random=random)
    expert.save(_OUT.value)
    terminal.say(f"saved in {_OUT.value}")


if __name__ == "__main__":
    run(main)
