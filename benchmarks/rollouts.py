"""Experts playing their games: our rollouts, their bound, and one environment at a time.

    pip install torch gymnasium ale-py opencv-python-headless    # only for this comparison
    python benchmarks/rollouts.py [--games=breakout,pong,freeway] [--num_envs=32] [--steps=64]

The bound is what stepping alone and the networks alone would give one after the other:
1 / (1 / stepping + 1 / inference). The usual way is a reference program's: PyTorch, gymnasium, one
environment, one observation at a time.
"""

import itertools

import jax
import numpy as np
from _reference import load, play
from _timing import alternate
from absl import app, flags

from jaxdistill import meshes, tasks, terminal
from jaxdistill.experts import formats
from jaxdistill.experts.expert import expert_outputs
from jaxdistill.play import rollouts
from jaxdistill.tasks import atari

_GAMES = flags.DEFINE_list("games", ["breakout", "pong", "freeway"], "with experts in experts/")
_ENVS = flags.DEFINE_integer("num_envs", 32, "environments per game", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 64, "steps of each environment in one run", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "timed runs of each", lower_bound=3)


def main(_: list[str]) -> None:
    count, steps = _ENVS.value, _STEPS.value
    chosen = [tasks.get(name) for name in _GAMES.value]
    paths = [f"experts/{game.name}.pth" for game in chosen]
    experts = [formats.load(path) for path in paths]
    pools = [atari.AtariPool(game, count, seed=1 + 1000 * i) for i, game in enumerate(chosen)]
    policy = rollouts.expert_actor(experts, epsilon=0.05)
    turns = rollouts.play(pools, policy, jax.random.key(0), meshes.create())

    alone = [atari.AtariPool(game, count, seed=9 + 1000 * i) for i, game in enumerate(chosen)]
    generator = np.random.default_rng(0)
    actions = [generator.choice(game.actions, (steps, count)) for game in chosen]
    params = rollouts.on_devices(experts, None)
    forward = jax.jit(lambda p, x: expert_outputs(experts, p, x, range(len(experts))))
    seen = [jax.numpy.asarray(pool.last.observations) for pool in alone]
    singles = [play(g, load(path), 0.05, 1) for g, path in zip(chosen, paths, strict=True)]

    def ours() -> None:
        for _ in itertools.islice(turns, steps):
            pass

    def stepping() -> None:
        for t in range(steps):
            for pool, row in zip(alone, actions, strict=True):
                pool.send(row[t])
            for pool in alone:
                pool.receive()

    def inference() -> None:
        for _ in range(steps):
            jax.block_until_ready(forward(params, seen))

    def usual() -> None:
        for single in singles:
            for _ in itertools.islice(single, steps):
                pass

    seconds = alternate(ours, stepping, inference, usual, repeats=_REPEATS.value)
    batch = steps * count * len(chosen)
    rate, env, net = (batch / s for s in seconds[:3])
    one = steps * len(chosen) / seconds[3]
    bound = 1 / (1 / env + 1 / net)
    terminal.table(
        f"{', '.join(_GAMES.value)}, {count} environments each: steps/s of all games together, "
        f"medians of {_REPEATS.value}",
        ("", "steps/s", "ours against it"),
        [
            ("rollouts, experts acting", round(rate), "1.00x"),
            ("stepping alone", round(env), f"{rate / env:.2f}x"),
            ("inference alone", round(net), f"{rate / net:.2f}x"),
            ("bound of both in turn", round(bound), f"{rate / bound:.2f}x"),
            ("one environment, PyTorch", round(one), f"{rate / one:.2f}x"),
        ],
    )


if __name__ == "__main__":
    app.run(main)
