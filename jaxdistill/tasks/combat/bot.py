"""The duel's opponent: it looks at you, runs at you, and clicks on every third tick."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.tasks.combat import fight, physics
from jaxdistill.tasks.combat.physics import Body

STANDS_WITHIN = 1.5  # blocks
CLICKS_EVERY = 3  # ticks
TURNS_BEYOND = 0.1  # blocks; nearer, there is nowhere to look


class Decision(NamedTuple):
    """`keys` `(6,)` bool, `click` bool, and the `yaw` and `pitch` that it looks along."""

    keys: jax.Array
    click: jax.Array
    yaw: jax.Array
    pitch: jax.Array


def decide(bot: Body, other: Body, tick: jax.Array) -> Decision:
    """What the bot does in this tick; nothing about it is random.

    Args:
      tick: int32, ticks since the reset.
    """
    way = physics.eye(other) - physics.eye(bot)
    distance = physics.length(way)
    yaw, pitch = physics.angles(way)
    turns, runs = distance >= TURNS_BEYOND, distance > STANDS_WITHIN
    up = jnp.zeros_like(runs)
    return Decision(
        keys=jnp.stack([runs, up, up, up, up, runs]),
        click=(tick % CLICKS_EVERY == 0) & (distance <= fight.REACH),
        yaw=jnp.where(turns, yaw, bot.yaw),
        pitch=jnp.where(turns, pitch, bot.pitch),
    )
