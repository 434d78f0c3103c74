"""Raw emulator stepping: EnvPool as our pools use it, ale-py's own vector environment, gymnasium.

pip install gymnasium ale-py    # only for this comparison
python benchmarks/stepping.py [--game=pong] [--num_envs=32] [--steps=256]
"""

import gymnasium
import numpy as np
from _timing import alternate
from absl import app, flags
from ale_py.vector_env import AtariVectorEnv

from jaxdistill import tasks, terminal
from jaxdistill.tasks import atari

_GAME = flags.DEFINE_string("game", "pong", "game to step")
_ENVS = flags.DEFINE_integer("num_envs", 32, "environments", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 256, "steps of each environment in one run", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "timed runs of each", lower_bound=3)


def main(_: list[str]) -> None:
    from _reference import make_env  # registers gymnasium's environments

    game, count, steps = tasks.get(_GAME.value), _ENVS.value, _STEPS.value
    pool = atari.AtariPool(game, count, seed=1)
    rom = gymnasium.spec(f"ALE/{game.env_id}").kwargs["game"]
    vector = AtariVectorEnv(rom, count, noop_max=30, repeat_action_probability=0.0)
    vector.reset(seed=1)
    single = make_env(game)
    single.reset(seed=1)
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, len(game.actions), (steps, count))
    actions = np.asarray(game.actions)[numbers]

    def ours() -> None:
        for row in actions:
            pool.step(row)

    def ale() -> None:
        for row in numbers:
            vector.step(row)

    def one() -> None:
        for action in actions[:, 0]:
            _, _, terminated, truncated, _ = single.step(int(action))
            if terminated or truncated:
                single.reset()

    seconds = alternate(ours, ale, one, repeats=_REPEATS.value)
    rates = [n / s for n, s in zip((steps * count, steps * count, steps), seconds, strict=True)]
    terminal.table(
        f"{game.name}, {count} environments, random actions: steps/s, medians of {_REPEATS.value}",
        ("", "steps/s", "ours against it"),
        [
            (name, round(rate), f"{rates[0] / rate:.2f}x")
            for name, rate in zip(
                ("EnvPool, our pool", "ale-py AtariVectorEnv", "gymnasium, one environment"),
                rates,
                strict=True,
            )
        ],
    )


if __name__ == "__main__":
    app.run(main)
