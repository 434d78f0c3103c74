"""Players made by hand, one for each environment: what can be reached; and random play.

They see the whole state, which no policy does. A script is a function of the state of one episode
and gives an action of its environment.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdistill.tasks.combat import physics
from jaxdistill.tasks.combat.environments import ENTRIES, NEAR, Environment
from jaxdistill.tasks.combat.state import State, aim_errors

FORESIGHT = 3.0  # ticks that the walker looks ahead
STRIKES_WITHIN = 3.4  # blocks between the feet; the box is 0.3 nearer than its middle


def aim(state: State) -> jax.Array:
    """`(2,)`, the turn to a point 0.3 blocks below the target's level."""
    return jnp.stack(aim_errors(state.agent, state.target, 0.3))


def walk(state: State) -> jax.Array:
    """`(6,)`, keys that bring it to where the target will be 2.75 blocks away."""
    agent, target = state.agent, state.target
    way = target.position - agent.position + FORESIGHT * (target.velocity - agent.velocity)
    way = way * jnp.array([1.0, 0.0, 1.0])
    goal = way - sum(NEAR) / 2 * physics.unit(way)
    right, _, ahead = physics.to_local(goal, agent.yaw, jnp.zeros(()))
    slack = 0.1
    return jnp.stack(
        [ahead > slack, right < -slack, ahead < -slack, right > slack, False, True]
    ).astype(jnp.float32)


def rush(state: State) -> jax.Array:
    """`(6,)`, forward and sprint."""
    return jnp.array([1.0, 0.0, 0.0, 0.0, 0.0, 1.0])


def click(state: State) -> jax.Array:
    """`(1,)`, a click where the target is near enough and can be hit."""
    ready = state.target.invulnerable == 0
    return jnp.atleast_1d(_close(state) & ready).astype(jnp.float32)


def duel(state: State) -> jax.Array:
    """`(9,)`, aims, rushes, and clicks whenever the bot is near: what slows it keeps it off."""
    clicks = jnp.atleast_1d(_close(state)).astype(jnp.float32)
    return jnp.concatenate([rush(state), clicks, aim(state)])


SCRIPTS: dict[str, Callable[[State], jax.Array]] = {
    "combat/movement": walk,
    "combat/aiming": aim,
    "combat/clicking": click,
    "combat/duel": duel,
}


def _close(state: State) -> jax.Array:
    return physics.length(state.target.position - state.agent.position) <= STRIKES_WITHIN


def at_random(environment: Environment, key: jax.Array, num_envs: int) -> jax.Array:
    """`(N, A)` float32: every key down or up, every angle within the largest turn, alike often."""
    uniform = jax.random.uniform(key, (num_envs, len(environment.entries)))
    angle = jnp.array([ENTRIES[entry] in ("yaw", "pitch") for entry in environment.entries])
    return jnp.where(angle, (2 * uniform - 1) * environment.turn, uniform)
