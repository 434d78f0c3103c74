"""Tests for recorded games: the picture is of the game that was played."""

import io
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdistill import tasks
from jaxdistill.play import clips, lessons, rollouts
from jaxdistill.play.clips import Clip
from jaxdistill.tasks import atari

PONG = tasks.get("pong")


def test_the_screen_shows_the_very_game_the_pool_plays():
    pool = atari.AtariPool(PONG, 1, seed=11)
    screen, other = PONG.camera(seed=11), PONG.camera(seed=12)
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = rng.choice(PONG.actions)
        pool.step(np.asarray([action]))
        screen.step(int(action))
        other.step(int(action))
    seen = pool.last.observations[0, -1].astype(float)
    gray = Image.fromarray(screen.frame).convert("L").resize((84, 84), Image.Resampling.BOX)
    assert np.abs(seen - np.asarray(gray, float)).mean() < 1.0
    assert (other.frame != screen.frame).any()


def test_a_clip_is_recorded_and_written(tmp_path):
    policy = rollouts.random_policy(jnp.asarray(PONG.mask)[None])
    clip = clips.record(lessons.of_tasks([PONG], 0)[0], policy, seed=3, steps=20)
    assert clip.frames.shape == (21, 210, 160, 3) and not clip.over
    assert clip.frames_per_second == 15
    short = clip._replace(frames=clip.frames[:5])
    both = clips.side_by_side(clip, short)
    assert both.shape == (21, 210, 328, 3)
    np.testing.assert_array_equal(both[-1, :, 168:], short.frames[-1])
    clip = clip._replace(frames=both)
    clips.write(clip, tmp_path / "a.gif")
    image = Image.open(io.BytesIO((tmp_path / "a.gif").read_bytes()))
    assert image.size == (328, 210) and image.n_frames > 10
    with pytest.raises(ValueError, match=r"\.gif or \.mp4"):
        clips.write(clip, tmp_path / "a.avi")


def test_a_clip_is_a_film_where_pyav_is_installed(tmp_path):
    av = pytest.importorskip("av")
    clips.write(Clip(np.zeros((12, 210, 328, 3), np.uint8), 0.0, True, 50), tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 12
        assert film.streams.video[0].average_rate == 50


def test_a_film_without_pyav_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"jaxdistill\[video\]"):
        clips.write(Clip(np.zeros((2, 4, 4, 3), np.uint8), 0.0, True, 15), tmp_path / "a.mp4")
    assert not (tmp_path / "a.mp4").exists()
