"""What each skill's policy sees of a fight: pure functions of the state of any environment.

All are float32 in [-1, 1]. Directions are unit vectors in the agent's own frame (right, up,
forward), zero where there is none.

A student of several skills sees what the duel shows. `SEEN` says how much of it each skill's expert
can tell. The views called `document_` are what the published recipe showed its student instead
while it learnt a skill, mistakes and all: they are here so that the recipe can be measured.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdistill.tasks.combat import fight, physics
from jaxdistill.tasks.combat.physics import Body
from jaxdistill.tasks.combat.state import State, aim_errors
from jaxdistill.tasks.views import Vector


def movement(state: State) -> jax.Array:
    """`(20,)`.

    0-2 direction to the target, 3 distance / 10, 4-6 direction of own velocity, 7 own speed / 2,
    8-10 and 11 the target's, 12 own and 13 target's feet on the ground (1 or -1), 14-16 the
    target's look, 17-19 its look one tick ago.
    """
    agent, target = state.agent, state.target
    return _clip(
        *_where_they_are(state),
        _sign(agent.on_ground),
        _sign(target.on_ground),
        physics.to_local(physics.look(target.yaw, target.pitch), agent.yaw, agent.pitch),
        physics.to_local(state.previous_look, agent.yaw, agent.pitch),
    )


def aiming(state: State) -> jax.Array:
    """`(5,)`: sine and cosine of the yaw error, the same of the pitch error, distance / 15."""
    yaw, pitch = aim_errors(state.agent, state.target)
    return _clip(jnp.sin(yaw), jnp.cos(yaw), jnp.sin(pitch), jnp.cos(pitch), _distance(state) / 15)


def clicking(state: State) -> jax.Array:
    """`(9,)`.

    Yaw error / pi, pitch error / (pi/2), distance / 10, 1 if the distance is at most 3 else -1,
    the target's invulnerability / 10, how far the target is in the world's x and z / 10, own
    yaw / pi, own pitch / (pi/2).
    """
    agent, target = state.agent, state.target
    yaw, pitch = aim_errors(agent, target)
    x, _, z = target.position - agent.position
    distance = _distance(state)
    return _clip(
        yaw / jnp.pi,
        pitch / (jnp.pi / 2),
        distance / 10,
        _sign(distance <= fight.REACH),
        target.invulnerable / fight.INVULNERABLE,
        x / 10,
        z / 10,
        agent.yaw / jnp.pi,
        agent.pitch / (jnp.pi / 2),
    )


def duel(state: State) -> jax.Array:
    """`(20,)`.

    0-11 as `movement`, 12 own and 13 the target's health / 20, 14 own and 15 the target's feet on
    the ground (1 or -1), 16-18 the target's look, 19 own invulnerability / 10.
    """
    agent, target = state.agent, state.target
    return _clip(
        *_where_they_are(state),
        agent.health / 20,
        target.health / 20,
        _sign(agent.on_ground),
        _sign(target.on_ground),
        physics.to_local(physics.look(target.yaw, target.pitch), agent.yaw, agent.pitch),
        agent.invulnerable / fight.INVULNERABLE,
    )


SEEN: dict[str, tuple[int, ...]] = {
    # All but both healths and whether the agent can be hit.
    "combat/movement": (*range(12), 14, 15, 16, 17, 18),
    # Where the target is and how far. Clicking sees besides whether the target can be hit, and
    # absolute angles, but no entry of the duel's says that.
    "combat/aiming": (0, 1, 2, 3),
    "combat/clicking": (0, 1, 2, 3),
}
"""By skill, the entries of `duel` that its own view can tell; a duel's tells all.

At states that differ in the others alone an expert says the same, so its labels do not depend on
them. A student may learn that they do, where they vary with the skill.
"""


def document_movement(state: State) -> jax.Array:
    """`(20,)`, what the published recipe shows its student of a state of Movement.

    As `duel`, but 19 is the *target's* invulnerability / 10.
    """
    return _of_target(state)


def document_aiming(state: State) -> jax.Array:
    """`(20,)`, what the published recipe shows its student of a state of Aiming.

    As `duel`, but 19 is the *target's* invulnerability / 10; 0-2, made from the errors e of yaw and
    p of pitch, are (sin e cos p, sin p, -cos e cos p), so that ahead and behind are interchanged;
    3 is made from the distance / 15.
    """
    sin_yaw, cos_yaw, sin_pitch, cos_pitch, far = aiming(state)
    way = jnp.stack([sin_yaw * cos_pitch, sin_pitch, -cos_yaw * cos_pitch])
    return _clip(way, far * (15 / 10), _of_target(state)[4:])


def document_clicking(state: State) -> jax.Array:
    """`(20,)`, what the published recipe shows its student of a state of Clicking.

    As `duel`, but 19 is the *target's* invulnerability / 10; 0-2 are the direction along yaw y and
    pitch p to the target in the world's axes, given as (sin y cos p, sin p, -cos y cos p), and then
    turned into the agent's frame: (sin 2y, 0, -cos 2y) for a target straight ahead on the level; 12
    is 1, and 14 is -1, since the original's agent, which never moves, never lands.
    """
    seen = clicking(state)
    own_yaw, own_pitch = seen[7] * jnp.pi, seen[8] * (jnp.pi / 2)
    yaw, pitch = own_yaw + seen[0] * jnp.pi, own_pitch + seen[1] * (jnp.pi / 2)
    x, y, z = physics.look(yaw, pitch)
    way = physics.to_local(jnp.stack([x, y, -z]), own_yaw, own_pitch)
    rest = _of_target(state)
    return _clip(way, rest[3:12], 1.0, rest[13], -1.0, rest[15:])


def _of_target(state: State) -> jax.Array:
    """As `duel`, with the target's invulnerability in place of the agent's."""
    return _clip(duel(state)[:19], state.target.invulnerable / fight.INVULNERABLE)


SIZES = {"duel": 20, "movement": 20, "aiming": 5, "clicking": 9, "document": 20}
"""How many numbers each view has, in the order in which `shown` puts them one after another.

"document" is what the published recipe's student sees: a `document_` view in a skill's own
environment, and `duel` in the duel.
"""

_DOCUMENT = {
    "combat/movement": document_movement,
    "combat/aiming": document_aiming,
    "combat/clicking": document_clicking,
}


def shown(environment: str, state: State) -> jax.Array:
    """`(74,)`, all that can be seen of a state: every view beside the others.

    So every expert and every student looks at any state through its own view.

    Args:
      environment: the name of the one that is played.
    """
    document = _DOCUMENT.get(environment, duel)
    views = (duel, movement, aiming, clicking, document)
    return jnp.concatenate([view(state) for view in views])


def part(name: str) -> Vector:
    """Where the numbers of the view called `name` stand in what is shown."""
    before = [*SIZES].index(name)
    sizes = [*SIZES.values()]
    return Vector(SIZES[name], start=sum(sizes[:before]), of=sum(sizes))


def _where_they_are(state: State) -> tuple[jax.Array, ...]:
    agent = state.agent
    way = state.target.position - agent.position
    return (
        physics.to_local(physics.unit(way), agent.yaw, agent.pitch),
        _distance(state) / 10,
        *_motion(agent, agent),
        *_motion(state.target, agent),
    )


def _motion(body: Body, seen_by: Body) -> tuple[jax.Array, jax.Array]:
    way = physics.to_local(physics.unit(body.velocity), seen_by.yaw, seen_by.pitch)
    return way, physics.length(body.velocity) / 2


def _distance(state: State) -> jax.Array:
    return physics.length(state.target.position - state.agent.position)


def _sign(flag: jax.Array) -> jax.Array:
    return jnp.where(flag, 1.0, -1.0)


def _clip(*parts: jax.Array | float) -> jax.Array:
    return jnp.clip(jnp.concatenate([jnp.atleast_1d(part) for part in parts]), -1.0, 1.0)
