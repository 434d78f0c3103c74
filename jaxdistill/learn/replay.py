"""A replay memory on the device: frames stored once, transitions drawn from them.

A ring of the newest T steps of N environments of each of G tasks. One *transition* is what was seen
before an action, the action, what it earned, and what was seen after it; what was seen is stored
once, as single frames, and stacks are rebuilt by gather. `append` adds the steps just played,
`sample` draws transitions, `gather` returns them:

    memory = replay.create(mesh, num_tasks=3, num_envs=16, capacity=100_000, frame_shape=(8,), ...)
    while training:
        memory = replay.append(memory, piece)       # some steps of every environment
        tasks, rows = replay.sample(memory, key, 64)  # or `dqn.make_update`, which does both
        batch = replay.gather(memory, tasks, rows)

What follows a transition is the *next step's* frame of the same environment. Therefore

- the newest step cannot be drawn yet: what it led to comes with the next piece;
- where an episode ended or was cut at step t, step t + 1 must hold that episode's last observation
  and not be `valid`, and step t + 2 begins the next episode. That is what pools do (`task.Step`):
  their answer to the last action holds the last observation, is what is seen "before" the next
  action, and that action is ignored. So a transition cut by a time limit is followed by its own
  episode's last observation, as its target wants.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdistill import meshes
from jaxdistill.learn import windows
from jaxdistill.learn.rollout import Rollout

Array = jax.Array | np.ndarray


@flax.struct.dataclass
class Memory:
    """The newest T steps of N environments of each of G tasks; whole on every device.

    Attributes:
      frames: `(G, T, N, *frame)`, the newest frame of what was seen before each action.
      ages: `(G, T, N)` uint8, steps since the episode began, counted up to the stack's depth only.
      actions: `(G, T, N)` uint8.
      rewards: `(G, T, N)` float32.
      ended: `(G, T, N)` bool, no value follows.
      usable: `(G, T, N)` bool, a transition to learn from; of the newest step, as far as is known.
      rows: `(G, T * N)` int32, a ring: each task's usable rows, t * N + n, in the order played.
      ends: `(G,)` int32, where the next of them goes.
      counts: `(G,)` int32, the transitions that can be drawn now: the last so many of `rows`.
      written: `()` int32, steps ever appended; the next one goes to `written % T`.
      depth: frames in one stack.
    """

    frames: jax.Array
    ages: jax.Array
    actions: jax.Array
    rewards: jax.Array
    ended: jax.Array
    usable: jax.Array
    rows: jax.Array
    ends: jax.Array
    counts: jax.Array
    written: jax.Array
    depth: int = flax.struct.field(pytree_node=False, default=4)


class Piece(NamedTuple):
    """L consecutive steps of N environments of each of G tasks, following those of the last piece.

    With `before` and `after` the pool's `Step` before and after an action, the arrays of one step
    are `before.observations[:, -1]`, `before.ages`, the action, and of `after` the rest.

    Attributes:
      frames: `(G, L, N, *frame)`, the newest frame of what was seen before each action, of the
        memory's dtype.
      ages: `(G, L, N)` integers, steps since the episode began, of the same observation.
      actions: `(G, L, N)` integers below 256.
      rewards: `(G, L, N)`, as they are to be learnt: scaled or clipped.
      ended: `(G, L, N)` bool, no value follows: the episode ended by itself (`over` and not
        `truncated`), or a life was lost where that is to count as an end.
      valid: `(G, L, N)` bool, `after.valid`; False also for anything else not to be learnt from.
    """

    frames: Array
    ages: Array
    actions: Array
    rewards: Array
    ended: Array
    valid: Array


def piece_of(rollout: Rollout) -> Piece:
    """The steps of a rollout, without the frames that only complete the stacks of the first."""
    earlier = rollout.depth - 1
    return Piece(
        frames=rollout.frames[:, earlier:],
        ages=rollout.ages[:, earlier:],
        actions=rollout.actions,
        rewards=rollout.rewards,
        ended=rollout.ended,
        valid=rollout.valid,
    )


class Batch(NamedTuple):
    """B transitions.

    Attributes:
      observations: `(B, depth, *frame)`, oldest frame first.
      actions: `(B,)` int32.
      rewards: `(B,)` float32.
      ended: `(B,)` bool, no value follows.
      next_observations: `(B, depth, *frame)`; where an episode was cut, its last observation.
      usable: `(B,)` bool, False in place of a transition of a memory that has none to draw.
    """

    observations: jax.Array
    actions: jax.Array
    rewards: jax.Array
    ended: jax.Array
    next_observations: jax.Array
    usable: jax.Array


def create(
    mesh: Mesh,
    *,
    num_tasks: int,
    num_envs: int,
    capacity: int,
    frame_shape: tuple[int, ...],
    dtype: Any,
    depth: int,
) -> Memory:
    """An empty memory.

    Args:
      num_tasks, num_envs: G and N.
      capacity: steps kept, of all environments of all tasks together: T is what G * N go into it.
        Of each environment's T steps the newest and the oldest `depth - 1` cannot be drawn, for
        want of what followed and of whole stacks.
      frame_shape, dtype: of one frame: `(84, 84)` and uint8, or `(8,)` and float32.
      depth: frames in one stack.

    Raises:
      ValueError: a count below 1, a depth above 255, or a capacity that holds no transition.
    """
    for name, value in (("num_tasks", num_tasks), ("num_envs", num_envs), ("depth", depth)):
        if value < 1:
            raise ValueError(f"replay memory: {name} is {value}, expected at least 1")
    if depth > 255:
        raise ValueError(f"replay memory: depth is {depth}, expected at most 255")
    least = (depth + 1) * num_tasks * num_envs
    if capacity < least:
        raise ValueError(
            f"replay memory: a capacity of {capacity} is too small, expected at least {least}: "
            f"{depth + 1} steps of {num_envs} environments of {num_tasks} tasks"
        )
    shape = (num_tasks, capacity // (num_tasks * num_envs), num_envs)
    sharding = meshes.replicated(mesh)

    def zeros(shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.zeros(shape, dtype, device=sharding)

    return Memory(
        frames=zeros((*shape, *frame_shape), dtype),
        ages=zeros(shape, jnp.uint8),
        actions=zeros(shape, jnp.uint8),
        rewards=zeros(shape, jnp.float32),
        ended=zeros(shape, jnp.bool_),
        usable=zeros(shape, jnp.bool_),
        rows=zeros((num_tasks, shape[1] * num_envs), jnp.int32),
        ends=zeros((num_tasks,), jnp.int32),
        counts=zeros((num_tasks,), jnp.int32),
        written=zeros((), jnp.int32),
        depth=depth,
    )


def check_fits(mesh: Mesh, capacity: int, frame_shape: tuple[int, ...], dtype: Any) -> None:
    """Refuses a memory that no device of this process can hold; see `mesh.check_fits`.

    Args:
      capacity, frame_shape, dtype: as `create` takes them.
    """
    # Of a step also age, action, reward, `ended`, `usable` and a row of the ring.
    step = math.prod(frame_shape) * np.dtype(dtype).itemsize + 4 * 1 + 2 * 4
    meshes.check_fits(mesh, "replay_size", capacity, step)


@functools.partial(jax.jit, donate_argnums=0)
def append(memory: Memory, piece: Piece) -> Memory:
    """Adds a piece; the newest steps replace the oldest. `memory` is donated.

    How the steps are cut into pieces makes no difference, nor does what came before the newest T:
    a memory filled anew with those draws what the uninterrupted one would have drawn. Where fresh
    pools take over between two pieces, ages begin at 0 and the last steps of the old ones, of which
    nobody saw the next frame, are never drawn. Each length of piece is compiled once.

    Args:
      piece: arrays that are not written to again; work on the device may still be to come.

    Raises:
      ValueError: shapes or a dtype that do not fit, or as many steps as the memory has.
    """
    _check(memory, piece)
    num_tasks, steps, num_envs = memory.ages.shape
    times = memory.written + jnp.arange(piece.ages.shape[1])
    here, previous = times % steps, (times - 1) % steps
    ages = jnp.minimum(piece.ages, memory.depth).astype(jnp.uint8)
    # A memory may begin in the middle of an episode: no whole stacks there for the first few steps.
    whole = jnp.minimum(ages, memory.depth - 1) <= times[:, None]

    def write(ring: jax.Array, new: Array) -> jax.Array:
        return ring.at[:, here].set(jnp.asarray(new, ring.dtype), unique_indices=True)

    usable = write(memory.usable, piece.valid & whole)
    # What followed is known now of the step before the piece and of all its steps but the last. A
    # frame that begins an episode follows nothing.
    found = usable[:, previous] & (ages > 0)
    usable = usable.at[:, previous].set(found, unique_indices=True)

    found = found.reshape(num_tasks, -1)
    size = memory.rows.shape[1]
    place = (memory.ends[:, None] + jnp.cumsum(found, axis=1) - 1) % size
    rows = memory.rows.at[jnp.arange(num_tasks)[:, None], jnp.where(found, place, size)].set(
        (previous[:, None] * num_envs + jnp.arange(num_envs)).reshape(-1), mode="drop"
    )
    written = times[-1] + 1
    # How long ago each slot was written: 0 is the newest; at the far end, stacks are not whole.
    ago = (written - 1 - jnp.arange(steps)) % steps
    drawable = (ago > 0) & (ago <= steps - memory.depth)
    return dataclasses.replace(
        memory,
        frames=write(memory.frames, piece.frames),
        ages=write(memory.ages, ages),
        actions=write(memory.actions, piece.actions),
        rewards=write(memory.rewards, piece.rewards),
        ended=write(memory.ended, piece.ended),
        usable=usable,
        rows=rows,
        ends=(memory.ends + found.sum(axis=1)) % size,
        counts=jnp.sum(usable & drawable[:, None], axis=(1, 2)),
        written=written,
    )


def _check(memory: Memory, piece: Piece) -> None:
    num_tasks, steps, num_envs = memory.ages.shape
    length = piece.ages.shape[1] if piece.ages.ndim > 1 else 0
    if not 0 < length < steps:
        raise ValueError(
            f"replay memory: a piece of {length} steps, expected 1 to {steps - 1}: the memory has "
            f"{steps} of each environment; append shorter pieces, or choose a larger capacity"
        )
    for name, array in zip(Piece._fields, piece, strict=True):
        frame = memory.frames.shape[3:] if name == "frames" else ()
        expected = (num_tasks, length, num_envs, *frame)
        if array.shape != expected:
            raise ValueError(f"replay memory: {name} of shape {array.shape}, expected {expected}")
    if piece.frames.dtype != memory.frames.dtype:
        raise ValueError(
            f"replay memory: frames are {piece.frames.dtype}, expected {memory.frames.dtype}"
        )


def sample(memory: Memory, key: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """Draws transitions uniformly, with replacement.

    All tasks' transitions are one heap, so that a task with fewer, as its episodes end or began
    later, is drawn less often.

    Args:
      rows: B, how many.

    Returns:
      `tasks` and `rows`, both `(B,)` int32, for `gather`. Of a memory that has nothing to draw they
      are of no use, and `Batch.usable` says so.
    """
    counts = memory.counts
    stops = jnp.cumsum(counts)
    drawn = jax.random.randint(key, (rows,), 0, jnp.maximum(stops[-1], 1))
    tasks = jnp.sum(drawn[:, None] >= stops[:-1], axis=1)
    drawn = drawn - (stops - counts)[tasks]
    place = (memory.ends - counts)[tasks] + drawn
    return tasks, memory.rows[tasks, place % memory.rows.shape[1]]


def gather(memory: Memory, tasks: jax.Array, rows: jax.Array) -> Batch:
    """The transitions that `sample` has drawn."""
    steps, num_envs = memory.ages.shape[1:]
    time, env = rows // num_envs, rows % num_envs
    following = (time + 1) % steps * num_envs + env
    # Both stacks at once: they share all frames but one.
    frames = windows.stacks(memory.frames, memory.ages, tasks, following, memory.depth + 1)
    at = (tasks, time, env)
    return Batch(
        observations=frames[:, :-1],
        actions=memory.actions[at].astype(jnp.int32),
        rewards=memory.rewards[at],
        ended=memory.ended[at],
        next_observations=frames[:, 1:],
        usable=memory.counts[tasks] > 0,
    )
