"""What one episode of combat is: two bodies, a clock, a key, and what has happened so far."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from jaxdistill.tasks.combat import physics
from jaxdistill.tasks.combat.physics import Body


class State(flax.struct.PyTreeNode):
    """One episode of any of the four environments, between two ticks.

    It holds everything: saved and put back, the episode goes on as if nothing had been.

    Attributes:
      agent: the body that the policy moves, or a part of it.
      target: the other one; in a duel the bot.
      tick: int32, ticks since the reset.
      over: bool, the episode has ended; what comes next is a reset.
      key: `(2,)` uint32, all that is random from here on, in this episode.
      seed: `(2,)` uint32, what the keys of all episodes of an environment are drawn from.
      episode: int32, how many episodes there were before this one.
      agent_keys: `(6,)` bool, keys that were down in the last tick.
      target_keys: `(6,)` bool.
      target_turn: float32, radians a tick by which the target's yaw last turned (Movement).
      knocked: int32, tick of the target's last knock out of nothing (Movement).
      previous_look: `(3,)` float32, the target's look one tick ago, in the world's axes.
      hits_dealt: int32, hits by the agent so far.
      hits_taken: int32, hits by the target so far.
      clicks: int32, clicks by the agent so far.
      first_to_ten: int32, 1 if the agent was first to deal ten hits, -1 if the target was, else 0.
      near: int32, ticks after the first hundred that ended 2 to 3.5 blocks away, horizontally.
      on_body: int32, ticks after which the agent's look met the target, however far.
      yaw_error: float32, the sum over ticks of what was between the agent's yaw and the target.
    """

    agent: Body
    target: Body
    tick: jax.Array
    over: jax.Array
    key: jax.Array
    seed: jax.Array
    episode: jax.Array
    agent_keys: jax.Array
    target_keys: jax.Array
    target_turn: jax.Array
    knocked: jax.Array
    previous_look: jax.Array
    hits_dealt: jax.Array
    hits_taken: jax.Array
    clicks: jax.Array
    first_to_ten: jax.Array
    near: jax.Array
    on_body: jax.Array
    yaw_error: jax.Array


def begin(key: jax.Array, agent: Body, target: Body) -> State:
    """The first state of an episode of these two; `key` `(2,)` uint32."""
    none, nothing = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32)
    up = jnp.zeros(len(physics.KEYS), bool)
    return State(
        agent=agent,
        target=target,
        tick=none,
        over=jnp.asarray(False),
        key=key,
        seed=jnp.zeros(2, jnp.uint32),
        episode=none,
        agent_keys=up,
        target_keys=up,
        target_turn=nothing,
        knocked=none,
        previous_look=physics.look(target.yaw, target.pitch),
        hits_dealt=none,
        hits_taken=none,
        clicks=none,
        first_to_ten=none,
        near=none,
        on_body=none,
        yaw_error=nothing,
    )


def aim_errors(agent: Body, target: Body, lower: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """How far yaw and pitch must turn to point from feet to feet, `lower` blocks below the level.

    Both bodies are equally tall, so this points from eye to eye as well.
    """
    yaw, pitch = physics.angles(target.position - agent.position - jnp.array([0.0, lower, 0.0]))
    return physics.wrap(yaw - agent.yaw), pitch - agent.pitch
