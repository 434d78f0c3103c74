"""Ticks a second of the combat environments, random actions and new episodes included.

python benchmarks/combat.py [--num_envs=1024] [--ticks=200] [--repeats=5]

Beside them the duel in plain Python, one environment at a time. First both play the same duels, and
must see the same.
"""

import itertools
import math
import random

import jax
import numpy as np
from _reference_combat import Duel
from _timing import alternate
from absl import app, flags

from jaxdistill import terminal
from jaxdistill.tasks import combat
from jaxdistill.tasks.combat import environments, scripts

_ENVS = flags.DEFINE_integer("num_envs", 1024, "environments", lower_bound=1)
_TICKS = flags.DEFINE_integer("ticks", 200, "ticks of each environment in one run", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "timed runs of each", lower_bound=3)


def main(_: list[str]) -> None:
    print(f"largest difference between both duels: {_difference():.1e}")
    count, ticks = _ENVS.value, _TICKS.value
    rows = []
    for task in combat.COMBATS.values():
        duel = task is combat.DUEL_LEVEL  # whose reward is that of the one in plain Python
        compiled, pooled = _compiled(task.environment), _pooled(task)
        sides = (compiled, pooled, _one_by_one) if duel else (compiled, pooled)
        seconds = alternate(*sides, repeats=_REPEATS.value)
        steps = (count * ticks, count * ticks, ticks)
        rates = [n / s for n, s in zip(steps, seconds, strict=False)]
        compared = (f"{rates[2]:,.0f}", f"{rates[0] / rates[2]:.0f}x") if duel else (None, None)
        rows.append((task.name, *(f"{rate:,.0f}" for rate in rates[:2]), *compared))
    terminal.table(
        f"{count} environments, {ticks} ticks: steps/s, medians of {_REPEATS.value}",
        ("", "one compiled call", "pool, actions from the host", "plain Python", "compiled / it"),
        rows,
    )


def _compiled(environment):
    """Random play of many ticks in one call; each call goes on where the last one stopped."""
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


def _pooled(task):
    """The same through the pool, with actions drawn before; it shows every view of each state."""
    pool = task.pool(_ENVS.value, seed=1)
    own = list(task.actions)
    actions = np.zeros((32, _ENVS.value, task.suite.num_actions), np.float32)
    for row, key in zip(actions, jax.random.split(jax.random.PRNGKey(0), 32), strict=True):
        row[:, own] = scripts.at_random(task.environment, key, _ENVS.value)
    drawn = itertools.cycle(actions)

    def run():
        for _ in range(_TICKS.value):
            pool.step(next(drawn))

    return run


def _one_by_one():
    """The duel in plain Python."""
    draw, over = random.Random(0), True
    for _ in range(_TICKS.value):
        if over:
            distance, bearing = draw.uniform(6, 12), draw.uniform(-math.pi, math.pi)
            duel = Duel(distance * math.cos(bearing), distance * math.sin(bearing))
        action = [draw.random() for _ in range(7)]
        action += draw.uniform(-0.47, 0.47), draw.uniform(-0.47, 0.47)
        _, _, over = duel.step(action)


def _difference():
    """The largest in anything seen or paid, over ten ticks of scripted play from many states.

    Not longer: what rounding begins, fights enlarge.
    """
    count = 64
    task = combat.DUEL_LEVEL
    pool = task.pool(count, seed=0)
    script = jax.jit(jax.vmap(scripts.duel))
    worst = 0.0
    for _ in range(40):
        state = jax.device_get(pool.episodes)
        duels = [_copy(jax.tree.map(lambda x, i=i: x[i], state)) for i in range(count)]
        for _ in range(10):
            actions = np.asarray(script(pool.episodes))
            step = pool.step(actions)
            shown = task.view.see(step.observations[:, 0])
            for i, (duel, action) in enumerate(zip(duels, actions.tolist(), strict=True)):
                seen, reward, over = duel.step(action)
                if over != step.over[i]:
                    return math.inf
                worst = max(
                    worst,
                    float(np.abs(shown[i] - seen).max()),
                    abs(float(step.rewards[i]) - reward),
                )
    return worst


def _copy(state):
    """The same duel in plain Python."""
    duel = Duel(0.0, 0.0)
    duel.tick, duel.dealt, duel.taken = (
        int(x) for x in (state.tick, state.hits_dealt, state.hits_taken)
    )
    for fighter, body in ((duel.agent, state.agent), (duel.bot, state.target)):
        fighter.x, fighter.y, fighter.z = body.position.tolist()
        fighter.vx, fighter.vy, fighter.vz = body.velocity.tolist()
        for name in ("yaw", "pitch", "on_ground", "sprinting", "invulnerable", "health"):
            setattr(fighter, name, getattr(body, name).item())
    return duel


if __name__ == "__main__":
    app.run(main)
