"""Memory of a window by its size, and disk space of the same steps in the log.

    python benchmarks/memory.py [--game=breakout] [--steps=8192,16384,32768] [--num_envs=32]

Plays the game at random and fills a window and a log with what is seen. On CPU the memory is what
the process has grown by, elsewhere what the device says is in use.
"""

import os
import pathlib
import tempfile

import jax
import numpy as np
from absl import app, flags

from jaxdistill import meshes, tasks, terminal
from jaxdistill.learn import dataset, windows
from jaxdistill.play import collection
from jaxdistill.tasks import atari

_GAME = flags.DEFINE_string("game", "breakout", "game to play")
_STEPS = flags.DEFINE_list("steps", ["8192", "16384", "32768"], "sizes of the window")
_ENVS = flags.DEFINE_integer("num_envs", 32, "environments", lower_bound=1)
_CHUNK = 64


def _in_use() -> int:
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["bytes_in_use"]
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _chunks(game: atari.Game, num_envs: int):
    """For ever, chunks of random play with random labels."""
    pool = atari.AtariPool(game, num_envs, seed=0)
    generator = np.random.default_rng(0)
    while True:
        rows = []
        for _ in range(_CHUNK):
            last = pool.last
            actions = generator.choice(game.actions, num_envs)
            labels = generator.standard_normal((num_envs, atari.NUM_ACTIONS), np.float32)
            ages = np.minimum(last.ages, 255).astype(np.uint8)
            row = (last.observations[:, -1], labels, actions.astype(np.uint8), ages, ~last.over)
            rows.append([x.copy() for x in row])
            pool.step(actions)
        yield collection.Chunk(*(np.stack(x)[None] for x in zip(*rows, strict=True)))


def main(_: list[str]) -> None:
    game, num_envs = tasks.get(_GAME.value), _ENVS.value
    devices = meshes.create()
    info = {
        "games": [game.name],
        "num_envs": num_envs,
        "frame_shape": [84, 84],
        "num_actions": atari.NUM_ACTIONS,
    }
    rows = []
    for steps in map(int, _STEPS.value):
        per_env = steps // num_envs
        chunks = _chunks(game, num_envs)
        next(chunks)
        before = _in_use()
        buffer = windows.WindowBuffer(1, num_envs, per_env, (84, 84), atari.NUM_ACTIONS, devices)
        with tempfile.TemporaryDirectory() as directory:
            log = dataset.Log(directory, info)
            while log.length < per_env:
                chunk = next(chunks)
                buffer.append(chunk)
                log.append(chunk)
            jax.block_until_ready(buffer.window.frames)
            memory = _in_use() - before
            disk = sum(f.stat().st_size for f in pathlib.Path(directory).rglob("*") if f.is_file())
        held = sum(x.nbytes for x in jax.tree.leaves(buffer.window))
        rows.append((f"{steps:,}", f"{held / 1e6:,.0f}", f"{memory / 1e6:,.0f}", disk // steps))
        del buffer
    terminal.table(
        f"{game.name}, {jax.default_backend()}: a window and its log",
        ("steps", "arrays, MB", "memory grew, MB", "disk, bytes a step"),
        rows,
    )


if __name__ == "__main__":
    app.run(main)
