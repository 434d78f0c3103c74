"""Bodies on an endless flat ground: how one is moved by its keys in one tick.

Lengths are in blocks, times in ticks of 1/20 s, speeds in blocks a tick, angles in radians. The
axes are x, y (up), z; yaw 0 looks along +z and grows towards +x; a positive pitch looks up. Every
function is about one body and is `vmap`ped for many.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

KEYS = ("w", "a", "s", "d", "space", "sprint")

WIDTH, HEIGHT, EYE = 0.6, 1.8, 1.62
GRAVITY, AIR_DRAG = 0.08, 0.98
GROUND_ACCELERATION, SPRINT_ACCELERATION, AIR_ACCELERATION = 0.1, 0.13, 0.02
GROUND_INERTIA, AIR_INERTIA = 0.6 * 0.91, 0.91
JUMP_SPEED, SPRINT_JUMP_BOOST = 0.42, 0.2
KEY_STRENGTH = 0.98
STANDSTILL = 0.005  # a slower component of a velocity is none


class Body(flax.struct.PyTreeNode):
    """One fighter: a box of 0.6 x 0.6 x 1.8 blocks with an eye at 1.62.

    Attributes:
      position: `(3,)` float32, the middle of its feet.
      velocity: `(3,)` float32.
      yaw: float32, in [-pi, pi].
      pitch: float32, in [-pi/2, pi/2].
      on_ground: bool.
      sprinting: bool, whether the sprint key was down when it last moved.
      invulnerable: int32, ticks for which it cannot be hit.
      health: float32; a hit in a duel takes 1.
    """

    position: jax.Array
    velocity: jax.Array
    yaw: jax.Array
    pitch: jax.Array
    on_ground: jax.Array
    sprinting: jax.Array
    invulnerable: jax.Array
    health: jax.Array


def standing(
    position: jax.Array, health: float, yaw: jax.Array | float = 0.0, pitch: jax.Array | float = 0.0
) -> Body:
    """A body at rest on the ground, `position` `(3,)`, that can be hit at once."""
    return Body(
        position=jnp.asarray(position, jnp.float32),
        velocity=jnp.zeros(3, jnp.float32),
        yaw=jnp.asarray(yaw, jnp.float32),
        pitch=jnp.asarray(pitch, jnp.float32),
        on_ground=jnp.asarray(True),
        sprinting=jnp.asarray(False),
        invulnerable=jnp.zeros((), jnp.int32),
        health=jnp.asarray(health, jnp.float32),
    )


def eye(body: Body) -> jax.Array:
    """`(3,)`, where it sees from."""
    return body.position + jnp.array([0.0, EYE, 0.0])


def look(yaw: jax.Array, pitch: jax.Array) -> jax.Array:
    """`(3,)` unit vector: (cos p sin y, sin p, cos p cos y)."""
    level = jnp.cos(pitch)
    return jnp.stack([level * jnp.sin(yaw), jnp.sin(pitch), level * jnp.cos(yaw)])


def to_local(vector: jax.Array, yaw: jax.Array, pitch: jax.Array) -> jax.Array:
    """`(3,)` in the frame of one who looks that way: right, up, forward.

    right = (cos y, 0, -sin y), forward = `look`, up = forward x right.
    """
    sin, cos = jnp.sin(yaw), jnp.cos(yaw)
    rise, level = jnp.sin(pitch), jnp.cos(pitch)
    x, y, z = vector
    ahead = x * sin + z * cos
    return jnp.stack([x * cos - z * sin, y * level - ahead * rise, y * rise + ahead * level])


def angles(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Yaw and pitch of one who looks along `vector` `(3,)`."""
    x, y, z = vector
    return jnp.arctan2(x, z), jnp.arctan2(y, jnp.sqrt(x * x + z * z))


def wrap(angle: jax.Array) -> jax.Array:
    """The same angle in [-pi, pi]."""
    return angle - 2 * jnp.pi * jnp.round(angle / (2 * jnp.pi))


def length(vector: jax.Array) -> jax.Array:
    """Euclidean length of a vector `(D,)`."""
    return jnp.sqrt(jnp.sum(vector * vector))


def unit(vector: jax.Array) -> jax.Array:
    """`(D,)` of length 1, or zeros if it is not longer than 1e-6."""
    size = length(vector)
    return jnp.where(size > 1e-6, vector / jnp.maximum(size, 1e-6), 0.0)


def distance_on_ground(a: Body, b: Body) -> jax.Array:
    """Horizontal distance between two bodies' middles."""
    return length((b.position - a.position)[jnp.array([0, 2])])


def move(body: Body, keys: jax.Array) -> Body:
    """One tick of walking, jumping and falling; it walks the way it looks.

    Args:
      keys: `(6,)` bool, in the order of `KEYS`.
    """
    w, a, s, d, space, sprint = keys
    vx, vy, vz = jnp.where(jnp.abs(body.velocity) < STANDSTILL, 0.0, body.velocity)
    sin, cos = jnp.sin(body.yaw), jnp.cos(body.yaw)
    forward = KEY_STRENGTH * (w.astype(jnp.float32) - s)
    strafe = KEY_STRENGTH * (d.astype(jnp.float32) - a)

    jumps = space & body.on_ground
    vy = jnp.where(jumps, JUMP_SPEED, vy)
    boost = jnp.where(jumps & sprint & (forward > 0), SPRINT_JUMP_BOOST, 0.0)

    # What holds in the air and on the ground goes by where the tick before ended.
    acceleration = jnp.where(
        body.on_ground,
        jnp.where(sprint, SPRINT_ACCELERATION, GROUND_ACCELERATION),
        AIR_ACCELERATION,
    ) / jnp.maximum(jnp.sqrt(forward * forward + strafe * strafe), 1.0)
    forward, strafe = forward * acceleration + boost, strafe * acceleration
    vx = vx + strafe * cos + forward * sin
    vz = vz - strafe * sin + forward * cos

    x, y, z = body.position
    below = y + vy
    on_ground = (below <= 0) & (vy <= 0)
    inertia = jnp.where(body.on_ground, GROUND_INERTIA, AIR_INERTIA)
    rise = jnp.where(below < 0, 0.0, vy)
    return body.replace(
        position=jnp.stack([x + vx, jnp.maximum(below, 0.0), z + vz]),
        velocity=jnp.stack(
            [
                vx * inertia,
                jnp.where(on_ground, rise, (rise - GRAVITY) * AIR_DRAG),
                vz * inertia,
            ]
        ),
        on_ground=on_ground,
        sprinting=sprint,
    )
