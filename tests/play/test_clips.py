"""Tests for recorded games: the picture is of the game that was played."""

import io
import sys

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
    policy = rollouts.random_policy(lessons.choices(played := lessons.of_tasks([PONG], 0)))
    clip = clips.record(played[0], policy, seed=3, steps=20)
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


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, name):
    if name.endswith("mp4"):
        pytest.importorskip("av")
    resource = pytest.importorskip("resource")
    clip, path = Clip(np.zeros((3, 40, 60, 3), np.uint8), 0.0, True, 15), tmp_path / name
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9, hard))  # of a file so many bytes at most
        with pytest.raises(OSError, match=rf"/{name} cannot be written \(File too large\)$"):
            clips.write(clip, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    clips.write(clip, path)
    assert [x.name for x in tmp_path.iterdir()] == [name]


def test_clips_stand_in_rows():
    """Five of 4x6 pixels, each of one gray: four in a row, and the fifth below."""
    one = [Clip(np.full((1 + i, 4, 6, 3), 10 * i, np.uint8), 0.0, True, 15) for i in range(5)]
    whole = clips.side_by_side(*one)
    assert whole.shape == (5, 4 + 8 + 4, 4 * 6 + 3 * 8, 3)
    for frame in whole:  # the shorter ones stand still
        for index, (top, left) in enumerate([(0, 0), (0, 14), (0, 28), (0, 42), (12, 0)]):
            assert (frame[top : top + 4, left : left + 6] == 10 * index).all()
    assert (whole != 255).sum() == 5 * 5 * 4 * 6 * 3, "and nothing else"
    for count, shape in ((4, (4, 48)), (17, (4 * 4 + 3 * 8, 5 * 6 + 4 * 8))):
        assert clips.side_by_side(*[one[0]] * count).shape == (1, *shape, 3)
    taller = one[1]._replace(frames=np.zeros((2, 5, 3, 3), np.uint8))  # some games have more rows
    frame = clips.side_by_side(one[2], taller)[0]
    assert frame.shape == (5, 6 + 8 + 6, 3) and not frame[:, 14:17].any()
    assert (frame[:4, :6] == 20).all() and (frame[4, :14] == 255).all()


def test_a_clip_is_made_smaller_by_the_means_of_areas():
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    frames[1, :2, :2] = [[[0, 8, 100], [40, 8, 100]], [[80, 8, 100], [120, 8, 100]]]
    small = clips.resized(Clip(frames, 3.0, True, 15), 2)
    assert small.frames.shape == (2, 2, 2, 3) and small.score == 3.0
    assert small.frames[1].tolist() == [[[60, 8, 100], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert clips.resized(small, 3).frames.shape == (2, 3, 3, 3)


@pytest.mark.parametrize(
    ("rate", "every", "pictures", "seconds"),
    [
        (15, 1, 150, 10.0),
        (15, 2, 75, 10.0),
        (20, 1, 150, 7.5),
        (30, 1, 150, 5.0),
        (50, 1, 150, 3.0),
        (60, 1, 75, 2.5),
        (60, 3, 50, 2.5),
    ],
)
def test_a_gif_takes_as_long_as_the_game(rate, every, pictures, seconds):
    """In whole hundredths of a second, of which viewers show no picture for less than two."""
    frames = np.zeros((150, 8, 8, 3), np.uint8)
    frames[::2] = 255  # Pillow joins pictures that are the same
    frames[:, 0, 0, 0] = np.arange(150)
    with Image.open(io.BytesIO(clips.to_gif(frames, rate, every))) as image:
        times = []
        for index in range(image.n_frames):
            image.seek(index)
            times.append(image.info["duration"])
    assert len(times) == pictures and min(times) >= 20 and max(times) - min(times) <= 10
    assert sum(times) == pytest.approx(1000 * seconds, rel=0.01)


def test_a_clip_of_one_picture_is_a_gif():
    for frames in (np.zeros((1, 4, 4, 3), np.uint8), np.zeros((9, 4, 4, 3), np.uint8)):
        with Image.open(io.BytesIO(clips.to_gif(frames, 15))) as image:
            assert image.n_frames == 1
            assert image.info["duration"] == round(100 * len(frames) / 15) * 10


def test_a_clip_is_a_film_where_pyav_is_installed(tmp_path):
    av = pytest.importorskip("av")
    clips.write(Clip(np.zeros((12, 211, 329, 3), np.uint8), 0.0, True, 50), tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 12
        (stream,) = film.streams.video
        assert (stream.width, stream.height, stream.average_rate) == (328, 210, 50)


def test_a_film_without_pyav_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"jaxdistill\[video\]"):
        clips.write(Clip(np.zeros((2, 4, 4, 3), np.uint8), 0.0, True, 15), tmp_path / "a.mp4")
    assert not (tmp_path / "a.mp4").exists()
