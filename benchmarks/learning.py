"""Whether expert training learns: a few minutes of a real game, before and after.

    python benchmarks/learning.py [--game=breakout] [--steps=200000]

Trains from nothing, then plays the same whole games with the untrained and the trained network,
epsilon 0.05. Exits with 1 if their 95% intervals meet.
"""

import sys
import tempfile
import time

import jax
from absl import app, flags, logging

from jaxdistill import networks, tasks, terminal
from jaxdistill.experts.expert import Expert
from jaxdistill.learn import loop, train_settings
from jaxdistill.play import measuring, protocols
from jaxdistill.tasks.views import View

_GAME = flags.DEFINE_string("game", "breakout", "game to learn")
_STEPS = flags.DEFINE_integer("steps", 200_000, "steps of training", lower_bound=10_000)
_EPISODES = flags.DEFINE_integer("episodes", 32, "games of each network", lower_bound=2)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    settings = train_settings.Settings(
        games=(_GAME.value,),
        total_steps=_STEPS.value,
        epsilon_fraction=0.5,
        epsilon_end=0.05,
        eval_every=_STEPS.value,
        eval_epsilon=0.05,
    )
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as workdir:
        loop.train(settings, workdir)
        after = Expert.load(f"{workdir}/experts/{tasks.get(_GAME.value).name}")
    minutes = (time.perf_counter() - start) / 60
    fresh = networks.init(after.network, jax.random.key(0), View().shape)
    before = Expert("untrained", after.network, fresh, "q", after.actions, game=after.game)
    measured = []
    for expert in (before, after):
        suite = expert.task.suite
        terms = protocols.Terms.of(suite, episodes=_EPISODES.value, epsilon=0.05, seed=1)
        scores = measuring.measure_alone(expert, terms)
        measured.append((scores.mean, *scores.interval()))
    terminal.table(
        f"{after.game}, {settings.iterations * settings.steps_per_iteration} steps in "
        f"{minutes:.1f} minutes; {_EPISODES.value} whole games, epsilon 0.05",
        ("", "score", "95% from", "to"),
        [("untrained", *measured[0]), ("trained", *measured[1])],
    )
    sys.exit(int(measured[1][1] <= measured[0][2]))


if __name__ == "__main__":
    app.run(main)
