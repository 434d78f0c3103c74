"""The states that minibatches are drawn from: the newest steps, on the device, each frame once.

A *window* is the tail of the log. Observations are rebuilt where they are drawn: stacks of frames,
which never reach across the start of a game.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdistill import meshes
from jaxdistill.play.collection import Chunk


@flax.struct.dataclass
class Window:
    """The most recent T steps of N environments of each of G games, as rings on the device.

    Attributes:
      frames: `(G, T, N, *frame)`, the newest frame of each observation.
      ages: `(G, T, N)` uint8, steps since the game began, counted up to `depth - 1` only.
      labels: `(G, T, N, A)` float32, the expert's outputs in the suite's action order.
      rows: `(G, T * N)` int32; the first `counts[g]` are the usable rows of game g, as t * N + n.
      counts: `(G,)` int32.
      depth: frames in one stack.
    """

    frames: jax.Array
    ages: jax.Array
    labels: jax.Array
    rows: jax.Array
    counts: jax.Array
    depth: int = flax.struct.field(pytree_node=False, default=4)


def stacks(
    frames: jax.Array, ages: jax.Array, games: jax.Array, rows: jax.Array, depth: int
) -> jax.Array:
    """Rebuilds observations from single frames.

    Args:
      frames: `(G, T, N, *frame)` in playing order, T a ring.
      ages: `(G, T, N)`; a frame's stack reaches back at most this far, and repeats the game's
        first frame beyond that, as EnvPool does.
      games: game of each row, any shape S.
      rows: t * N + n of each row's newest frame, shape S.
      depth: frames in a stack.

    Returns:
      `S + (depth, *frame)`, oldest frame first.
    """
    length, envs = frames.shape[1:3]
    time, env = rows // envs, rows % envs
    back = jnp.minimum(
        jnp.arange(depth - 1, -1, -1), ages[games, time, env].astype(jnp.int32)[..., None]
    )
    return frames[games[..., None], (time[..., None] - back) % length, env[..., None]]


def sample(window: Window, key: jax.Array, games: jax.Array, count: int) -> jax.Array:
    """Usable rows `(L, count)` of `games` `(L,)`, uniform with replacement; all must have some."""
    drawn = jax.random.randint(key, (len(games), count), 0, window.counts[games, None])
    return window.rows[games[:, None], drawn]


def gather(window: Window, games: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Observations `(L, B, depth, *frame)`, labels `(L, B, A)` of `rows` `(L, B)` of `games`."""
    games = jnp.broadcast_to(games[:, None], rows.shape)
    envs = window.frames.shape[2]
    labels = window.labels[games, rows // envs, rows % envs]
    return stacks(window.frames, window.ages, games, rows, window.depth), labels


def sample_others(
    window: Window, key: jax.Array, games: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """For each of `(L, count)` a usable row of another game than `games`: its game, and its row."""
    num_games = window.counts.shape[0]
    which, where = jax.random.split(key)
    shape = (len(games), count)
    ahead = jax.random.randint(which, shape, 1, num_games)
    others = (games[:, None] + ahead) % num_games
    places = jax.random.randint(where, shape, 0, window.counts[others])
    return others, window.rows[others, places]


class WindowBuffer:
    """Fills a `Window` chunk by chunk; the newest steps replace the oldest.

    Args:
      num_games, num_envs: G and N.
      steps: T, steps per environment kept.
      frame_shape: of one frame, such as (H, W).
      num_actions: A.
      depth: frames in one stack.
      frame_dtype: of their numbers.
    """

    def __init__(
        self,
        num_games: int,
        num_envs: int,
        steps: int,
        frame_shape: tuple[int, ...],
        num_actions: int,
        mesh: Mesh,
        depth: int = 4,
        frame_dtype: str = "uint8",
    ):
        shape = (num_games, steps, num_envs)
        self._mesh, self._sharding = mesh, meshes.replicated(mesh)
        self._ages = np.zeros(shape, np.uint8)
        self._usable = np.zeros(shape, bool)
        self._written = 0

        def zeros(extra: tuple[int, ...], dtype: Any) -> jax.Array:
            return jnp.zeros(shape + extra, dtype, device=self._sharding)

        self.window = Window(
            frames=zeros(frame_shape, np.dtype(frame_dtype)),
            ages=zeros((), jnp.uint8),
            labels=zeros((num_actions,), jnp.float32),
            rows=jnp.zeros((num_games, steps * num_envs), jnp.int32, device=self._sharding),
            counts=jnp.zeros(num_games, jnp.int32, device=self._sharding),
            depth=depth,
        )

    def skip(self, steps: int) -> None:
        """Begins as if `steps` steps had been written and already replaced."""
        self._written += steps

    def append(self, chunk: Chunk) -> None:
        """Adds a chunk; of one longer than the window, the tail."""
        steps = self._usable.shape[1]
        length = chunk.frames.shape[1]
        start = max(0, length - steps)
        self._written += start
        while start < length:
            # Pieces end where the ring does, so each is one contiguous copy.
            position = self._written % steps
            stop = min(length, start + steps - position)
            self._write(Chunk(*(x[:, start:stop] for x in chunk)), position)
            start = stop
        self._refresh()

    def _write(self, piece: Chunk, position: int) -> None:
        length = piece.frames.shape[1]
        span = slice(position, position + length)
        self._ages[:, span] = np.minimum(piece.ages, self.window.depth - 1)
        self._usable[:, span] = piece.usable
        # A copy: what is on a CPU device may be this very memory, which later steps overwrite.
        written = meshes.put(self._mesh, (piece.frames, self._ages[:, span].copy(), piece.labels))
        current = (self.window.frames, self.window.ages, self.window.labels)
        frames, ages, labels = _write_at(current, written, position)
        self.window = dataclasses.replace(self.window, frames=frames, ages=ages, labels=labels)
        self._written += length

    def _refresh(self) -> None:
        num_games, steps, num_envs = self._usable.shape
        usable = self._usable.copy()
        for offset in range(min(steps, self.window.depth - 1)):
            # The oldest frames' stacks reach back to frames that are gone.
            oldest = (self._written + offset) % steps if self._written > steps else offset
            usable[:, oldest] &= self._ages[:, oldest] <= offset
        rows = np.zeros((num_games, steps * num_envs), np.int32)
        counts = np.zeros(num_games, np.int32)
        for game in range(num_games):
            found = np.flatnonzero(usable[game])
            rows[game, : len(found)] = found
            counts[game] = len(found)
        rows_on_device, counts_on_device = meshes.put(self._mesh, (rows, counts))
        self.window = dataclasses.replace(self.window, rows=rows_on_device, counts=counts_on_device)


@functools.partial(jax.jit, donate_argnums=0)
def _write_at(current: Any, piece: Any, position: int) -> Any:
    return jax.tree.map(
        lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, position, axis=1),
        current,
        piece,
    )
