"""Where the time of training an expert goes, and how far it is from raw emulator stepping.

    python benchmarks/train_expert.py [--game=pong] [--iterations=12]

Runs the real training loop for a few iterations after a warm-up, alternating with raw EnvPool
stepping by random actions in a pool of the same size, and prints medians over the iterations.
"""

import statistics
import tempfile
import time

import numpy as np
from absl import app, flags, logging

from jaxdistill import tasks, terminal
from jaxdistill.learn import train_settings
from jaxdistill.learn import training as learning
from jaxdistill.tasks import atari

_GAME = flags.DEFINE_string("game", "pong", "game to train on")
_ITERATIONS = flags.DEFINE_integer("iterations", 12, "iterations that count", lower_bound=1)
_NETWORK = flags.DEFINE_string("network", "dueling_small_layer_norm", "see networks.NETWORKS")


def raw_seconds(pool: atari.AtariPool, steps: int) -> float:
    """Seconds of `steps` random steps in every environment, EnvPool and nothing else."""
    generator = np.random.default_rng(0)
    actions = generator.choice(pool.task.actions, (steps, pool.num_envs))
    start = time.perf_counter()
    for row in actions:
        pool.step(row)
    return time.perf_counter() - start


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    settings = train_settings.Settings(
        games=(_GAME.value,), network=_NETWORK.value, eval_every=10**9, total_steps=2_000_000
    )
    pool = atari.AtariPool(tasks.get(_GAME.value), settings.num_envs, seed=1)
    rows = []
    with tempfile.TemporaryDirectory() as workdir:
        training = learning.Training.of(settings, workdir)
        before: dict[str, float] = {}
        for iteration in range(_ITERATIONS.value + 3):
            training.iterate()
            raw = raw_seconds(pool, settings.rollout_steps)
            seconds = training.timer.seconds()
            spent = {k: v - before.get(k, 0.0) for k, v in seconds.items()}
            before = dict(seconds)
            if iteration >= 3:  # compiled, and the emulators past their first screens
                rows.append(spent | {"raw": raw})
    steps = settings.steps_per_iteration
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    total = median["collect"] + median["learn"]
    terminal.table(
        f"{_GAME.value}, {settings.num_envs} environments, {_NETWORK.value}: medians of "
        f"{len(rows)} iterations of {steps} steps",
        ("phase", "seconds", "steps/s", "share"),
        [
            (name, f"{value:.3f}", round(steps / value), f"{value / total:.0%}")
            for name, value in (
                ("inference", median["inference"]),
                ("stepping and the rest", median["collect"] - median["inference"]),
                ("learning", median["learn"]),
                ("all", total),
            )
        ],
    )
    print(f"raw EnvPool stepping: {steps / median['raw']:.0f} steps/s")
    print(f"training / raw stepping: {median['raw'] / total:.2f}")


if __name__ == "__main__":
    app.run(main)
