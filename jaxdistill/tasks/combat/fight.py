"""Attacks: what a click meets, what a hit does, and when one can be hit again."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.tasks.combat import physics
from jaxdistill.tasks.combat.physics import Body

REACH = 3.0  # blocks from the eye to where the ray enters the box
INVULNERABLE = 10  # ticks after a hit
KNOCK, SPRINT_KNOCK = 0.4, 1.0  # blocks a tick, away from the attacker
KNOCK_UP = 0.4
ATTACK_SLOWS = 0.6


class Blow(NamedTuple):
    """What an attack leaves behind.

    Attributes:
      attacker: slowed if its ray met the other.
      target: knocked back and invulnerable if it was hit; its health is as before.
      met: bool, clicked and the ray met the target within reach.
      hit: bool, and the target could be hit.
    """

    attacker: Body
    target: Body
    met: jax.Array
    hit: jax.Array


def looks_at(body: Body, other: Body, reach: float) -> jax.Array:
    """Bool: the ray from the eye enters the other's box within `reach` blocks, or begins in it."""
    half = physics.WIDTH / 2
    low = other.position - jnp.array([half, 0.0, half])
    high = other.position + jnp.array([half, physics.HEIGHT, half])
    look, origin = physics.look(body.yaw, body.pitch), physics.eye(body)
    # A ray along a wall is inside or outside for ever: almost parallel says the same.
    slope = 1 / jnp.where(jnp.abs(look) < 1e-9, 1e-9, look)
    first, second = (low - origin) * slope, (high - origin) * slope
    enters = jnp.max(jnp.minimum(first, second))
    leaves = jnp.min(jnp.maximum(first, second))
    return (enters <= leaves) & (leaves >= 0) & (enters <= reach)


def knock(target: Body, away: jax.Array, hard: jax.Array) -> Body:
    """The target, pushed along `away` `(3,)`, of which the horizontal direction counts.

    Its velocity is halved; then it gets 0.4 blocks a tick, 1.0 if `hard`, and 0.4 upwards, of which
    it keeps at most 0.4.
    """
    way = physics.unit(away * jnp.array([1.0, 0.0, 1.0]))
    vx, vy, vz = target.velocity / 2 + way * jnp.where(hard, SPRINT_KNOCK, KNOCK)
    return target.replace(velocity=jnp.stack([vx, jnp.minimum(vy + KNOCK_UP, KNOCK_UP), vz]))


def attack(attacker: Body, target: Body, clicks: jax.Array) -> Blow:
    """One click, or none where `clicks` is False.

    A ray that meets the target slows the attacker and ends its sprint, hit or not; the strength of
    the hit goes by the sprint before. A click that meets nothing changes nothing.
    """
    met = clicks & looks_at(attacker, target, REACH)
    hit = met & (target.invulnerable == 0)
    knocked = knock(target, target.position - attacker.position, attacker.sprinting)
    slow = jnp.where(met, jnp.array([ATTACK_SLOWS, 1.0, ATTACK_SLOWS]), 1.0)
    return Blow(
        attacker=attacker.replace(
            velocity=attacker.velocity * slow, sprinting=attacker.sprinting & ~met
        ),
        target=target.replace(
            velocity=jnp.where(hit, knocked.velocity, target.velocity),
            invulnerable=jnp.where(hit, INVULNERABLE, target.invulnerable),
        ),
        met=met,
        hit=hit,
    )


def recover(body: Body) -> Body:
    """The end of a tick: one tick less to be invulnerable."""
    return body.replace(invulnerable=jnp.maximum(body.invulnerable - 1, 0))
