"""Ticks a second of the four combat environments, random actions and new episodes included.

python benchmarks/combat.py [--num_envs=1024] [--ticks=200] [--repeats=5]
"""

import jax
import numpy as np
from _timing import alternate
from absl import app, flags

from jaxdistill import metrics
from jaxdistill.tasks import combat
from jaxdistill.tasks.combat import environments, scripts

_ENVS = flags.DEFINE_integer("num_envs", 1024, "environments", lower_bound=1)
_TICKS = flags.DEFINE_integer("ticks", 200, "ticks of each environment in one run", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "timed runs of each", lower_bound=3)


def main(_: list[str]) -> None:
    count, ticks = _ENVS.value, _TICKS.value
    rows = []
    for environment in combat.ENVIRONMENTS.values():
        compiled, pool = _compiled(environment), combat.CombatPool(environment, count, seed=1)
        actions = np.asarray(scripts.at_random(environment, jax.random.PRNGKey(0), count))

        def stepped(pool=pool, actions=actions):
            for _ in range(ticks):
                pool.step(actions)

        seconds = alternate(compiled, stepped, repeats=_REPEATS.value)
        rows.append((environment.name, *(f"{count * ticks / s:,.0f}" for s in seconds)))
    metrics.table(
        f"{count} environments, {ticks} ticks: steps/s, medians of {_REPEATS.value}",
        ("", "random play in one compiled call", "pool, actions from the host"),
        rows,
    )


def _compiled(environment):
    """Each call goes on where the last one stopped."""
    count, ticks = _ENVS.value, _TICKS.value

    @jax.jit
    def play(state, key):
        key, now = jax.random.split(key)

        def turn(state, key):
            actions = scripts.at_random(environment, key, count)
            ticked = environments.step(environment, state, actions)
            return ticked.state, (ticked.observations, ticked.rewards, ticked.state.over)

        state, seen = jax.lax.scan(turn, state, jax.random.split(now, ticks))
        return (state, key), seen

    seeds = np.arange(count, dtype=np.uint32)
    going = environments.ended(environment, seeds), jax.random.PRNGKey(count)

    def run():
        nonlocal going
        going, seen = play(*going)
        jax.block_until_ready(seen)

    return run


if __name__ == "__main__":
    app.run(main)
