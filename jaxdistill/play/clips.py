"""A game as a moving picture: what a policy sees decides, what a person sees is recorded.

A seed and actions say everything, so a camera with the pool's seed that is given the same actions
shows the very same game, as people see it.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from jaxdistill import disk, meshes
from jaxdistill.play import rollouts
from jaxdistill.play.lessons import Lesson


class Clip(NamedTuple):
    """A recorded game.

    Attributes:
      frames: `(T, H, W, 3)` uint8, one per step.
      score: what the game has scored so far or at its end.
      over: whether it ended by itself; False where it was cut.
      frames_per_second: at the game's own speed.
    """

    frames: np.ndarray
    score: float
    over: bool
    frames_per_second: int


def record(
    lesson: Lesson,
    policy: rollouts.AnyPolicy,
    *,
    seed: int = 0,
    steps: int | None = None,
    max_steps: int | None = None,
    mesh: Mesh | None = None,
) -> Clip:
    """Plays one game until it ends or `steps` are over.

    Args:
      policy: is told the lesson's index.
      steps: the most to play; by default all of the game.
      max_steps: step limit of the game; by default the task's.
      mesh: of what the policy holds; by default of all devices.
    """
    task = lesson.task
    pool = task.pool(1, seed=seed, view=lesson.view, max_steps=max_steps, threads=1)
    camera = task.camera(seed=seed, max_steps=max_steps)
    frames = [camera.frame]
    own = meshes.local(mesh or meshes.create())
    play = rollouts.play([pool], policy, jax.random.key(seed), own, indices=[lesson.index])
    score, over = 0.0, False
    for turn in play:
        (step,) = turn.steps
        frames.append(camera.step(turn.actions[0][0]))
        score, over = float(step.scores[0]), bool(step.over[0] & ~step.truncated[0])
        if step.over[0] or (steps is not None and len(frames) > steps):
            break
    return Clip(np.stack(frames), score, over, task.frames_per_second)


def side_by_side(*clips: Clip) -> np.ndarray:
    """Frames `(T, H, W, 3)` of several clips, 8 white pixels apart.

    They stand in rows of four, or of the square root of their number if that is more. Whoever has
    the shorter game stands still at its end, and around a smaller picture it is white.
    """
    length = max(len(clip.frames) for clip in clips)
    columns = min(len(clips), max(4, math.isqrt(len(clips) - 1) + 1))
    rows = -(-len(clips) // columns)
    height, width = (max(clip.frames.shape[axis] for clip in clips) for axis in (1, 2))
    shape = (length, rows * (height + 8) - 8, columns * (width + 8) - 8, 3)
    whole = np.full(shape, 255, np.uint8)
    for index, clip in enumerate(clips):
        row, column = divmod(index, columns)
        top, left = row * (height + 8), column * (width + 8)
        tall, wide = clip.frames.shape[1:3]
        place = whole[:, top : top + tall, left : left + wide]
        place[: len(clip.frames)] = clip.frames
        place[len(clip.frames) :] = clip.frames[-1]
    return whole


def resized(clip: Clip, width: int) -> Clip:
    """The clip with frames `(T, round(width H / W), width, 3)`, each pixel the mean of its area."""
    height = max(1, round(width * clip.frames.shape[1] / clip.frames.shape[2]))
    frames = [
        np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))
        for frame in clip.frames
    ]
    return clip._replace(frames=np.stack(frames))


def to_gif(
    frames: np.ndarray, frames_per_second: int, every: int = 1, max_bytes: int | None = None
) -> bytes:
    """An endless GIF of every `every`-th of the frames `(T, H, W, 3)`, at the game's own speed.

    A GIF counts hundredths of a second, and viewers slow down what is shown for one of them: of
    more than 50 frames a second it has fewer.

    Args:
      max_bytes: where it would take more, it is made of fewer frames, each shown for longer; two
        are the least.
    """
    every = max(every, -(-frames_per_second // 50))
    images = [Image.fromarray(frame).quantize(64) for frame in frames[::every]]
    # Each ends at the hundredth that is next to its own end: what is rounded does not add up.
    ends = [round(100 * every * i / frames_per_second) for i in range(len(images) + 1)]
    out = io.BytesIO()
    images[0].save(
        out,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=[10 * (end - begun) for begun, end in itertools.pairwise(ends)],
        loop=0,
    )
    if max_bytes is None or out.tell() <= max_bytes or len(images) <= 2:
        return out.getvalue()
    # By as much as it is too long: most frames take about the same.
    fewer = max(every + 1, -(-every * out.tell() // max_bytes))
    return to_gif(frames, frames_per_second, min(fewer, len(frames) - 1), max_bytes)


def write(clip: Clip, path: str | os.PathLike[str]) -> None:
    """Writes `.gif`, or `.mp4` where PyAV is installed; whole or not at all.

    Raises:
      ValueError: another ending, or MP4 without its writer.
      OSError: it cannot be written, as on a full disk.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"{path}: clips are written as .gif or .mp4")
    if path.suffix == ".gif":
        content = to_gif(clip.frames, clip.frames_per_second)
    else:
        content = _to_mp4(clip, path)
    disk.write_files({path: content}, alone=False)


def _to_mp4(clip: Clip, path: pathlib.Path) -> bytes:
    """An MP4 that is to be written to `path`."""
    height, width = clip.frames.shape[1:3]
    frames = clip.frames[:, : height - height % 2, : width - width % 2]  # H.264 takes even sizes
    try:
        import av
    except ImportError as error:
        raise ValueError(
            f"{path}: MP4 needs `pip install 'jaxdistill[video]'`; or choose a .gif"
        ) from error
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream: Any = container.add_stream("h264", rate=clip.frames_per_second)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()
