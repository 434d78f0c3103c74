"""A game as a moving picture: what a policy sees decides, what a person sees is recorded.

Emulators are deterministic, so a second pool with the same seed and the same actions shows the very
same game in colour and at full size.
"""

from __future__ import annotations

import io
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from jaxdistill import mesh as meshes
from jaxdistill.play import rollouts
from jaxdistill.tasks.envs import MAX_STEPS, Pool, ScreenPool
from jaxdistill.tasks.games import Game
from jaxdistill.tasks.views import View

FRAMES_PER_SECOND = 15  # 60 Hz and four emulator frames a step


class Clip(NamedTuple):
    """A recorded game.

    Attributes:
      frames: `(T, 210, 160, 3)` uint8, one per step.
      score: what the game has scored so far or at its end.
      over: whether it ended.
    """

    frames: np.ndarray
    score: float
    over: bool


def record(
    game: Game,
    policy: rollouts.Policy,
    *,
    index: int = 0,
    view: View | None = None,
    seed: int = 0,
    steps: int = MAX_STEPS,
) -> Clip:
    """Plays one game until it ends or `steps` are over.

    Args:
      index: the game's index, which `policy` is told.
    """
    pool = Pool(game, 1, seed=seed, view=view, threads=1)
    screen = ScreenPool(game, seed=seed)
    frames = [screen.frame]
    mesh = meshes.local(meshes.create())
    play = rollouts.play([pool], policy, jax.random.key(seed), mesh, games=[index])
    score, over = 0.0, False
    for turn in play:
        (step,) = turn.steps
        frames.append(screen.step(int(turn.actions[0][0])))
        score, over = float(step.scores[0]), bool(step.over[0])
        if over or len(frames) > steps:
            break
    return Clip(np.stack(frames), score, over)


def side_by_side(left: Clip, right: Clip) -> np.ndarray:
    """Frames `(T, 210, 328, 3)` of two clips; the shorter one stands still at its end."""
    length = max(len(left.frames), len(right.frames))
    gap = np.full((length, left.frames.shape[1], 8, 3), 255, np.uint8)
    return np.concatenate([_extend(left.frames, length), gap, _extend(right.frames, length)], 2)


def _extend(frames: np.ndarray, length: int) -> np.ndarray:
    still = np.repeat(frames[-1:], length - len(frames), axis=0)
    return np.concatenate([frames, still])


def to_gif(frames: np.ndarray, every: int = 1) -> bytes:
    """An endless GIF of every `every`-th of the frames `(T, H, W, 3)`, at the game's own speed."""
    images = [Image.fromarray(frame).quantize(64) for frame in frames[::every]]
    out = io.BytesIO()
    images[0].save(
        out,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=round(1000 * every / FRAMES_PER_SECOND),
        loop=0,
    )
    return out.getvalue()


def write(frames: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Writes `.gif`, or `.mp4` where PyAV is installed; whole or not at all.

    Raises:
      ValueError: another ending, or MP4 without its writer.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"{path}: clips are written as .gif or .mp4")
    temporary = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        if path.suffix == ".gif":
            temporary.write_bytes(to_gif(frames))
        else:
            _write_mp4(frames, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_mp4(frames: np.ndarray, path: pathlib.Path) -> None:
    try:
        import av
    except ImportError as error:
        raise ValueError(
            f"{path}: MP4 needs `pip install 'jaxdistill[video]'`; or choose a .gif"
        ) from error
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("h264", rate=FRAMES_PER_SECOND)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
