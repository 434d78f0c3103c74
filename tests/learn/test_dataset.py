"""Tests for the log: it gives back what it was given, survives a kill, and tells what is lost."""

import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import meshes
from jaxdistill.learn import dataset, windows
from jaxdistill.learn.dataset import Log
from jaxdistill.play import collection

INFO = {
    "games": ["pong", "breakout"],
    "num_envs": 3,
    "frame_shape": [4, 5],
    "num_actions": 6,
    "seed": 0,
}


def _log_chunk(steps, seed=0):
    rng = np.random.default_rng(seed)
    shape = (2, steps, 3)
    return collection.Chunk(
        frames=rng.integers(0, 256, (*shape, 4, 5)).astype(np.uint8),
        labels=rng.normal(size=(*shape, 6)).astype(np.float32),
        actions=rng.integers(0, 18, shape).astype(np.uint8),
        ages=rng.integers(0, 256, shape).astype(np.uint8),
        usable=rng.random(shape) < 0.5,
    )


def _joined(*chunks):
    return collection.Chunk(*(np.concatenate(parts, axis=1) for parts in zip(*chunks, strict=True)))


def _assert_same(actual, expected):
    for name, a, b in zip(collection.Chunk._fields, actual, expected, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
        assert a.dtype == b.dtype, name


@pytest.fixture(params=["memory", "disk"])
def directory(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "new" / "log"


def test_a_log_gives_back_what_it_was_given(directory):
    log = Log(directory, INFO)
    assert log.length == 0
    # Lengths that do not fit the chunks of 64 that lie on disk.
    parts = [_log_chunk(steps, seed=steps) for steps in (50, 1, 80, 20)]
    for part in parts:
        log.append(part)
    assert log.length == 151
    whole = _joined(*parts)
    _assert_same(log.read(0, 151), whole)
    _assert_same(log.read(49, 65), collection.Chunk(*(x[:, 49:65] for x in whole)))
    np.testing.assert_array_equal(log.actions(60), whole.actions[:, :60])
    assert log.actions(0).shape == (2, 0, 3)


def test_what_is_truncated_is_forgotten_and_replaced(directory):
    log = Log(directory, INFO)
    old, new = _log_chunk(100), _log_chunk(30, seed=1)
    log.append(old)
    log.truncate(70)
    assert log.length == 70
    log.append(new)
    assert log.length == 100
    _assert_same(log.read(0, 100), _joined(collection.Chunk(*(x[:, :70] for x in old)), new))
    said = rf"^{directory or 'the dataset'} holds 100 steps of each environment, fewer than the 101"
    with pytest.raises(ValueError, match=said):
        log.truncate(101)
    assert log.length == 100


@pytest.mark.parametrize("name", collection.Chunk._fields)
def test_a_chunk_that_does_not_fit_is_refused_whole(directory, name):
    log = Log(directory, INFO)
    log.append(_log_chunk(5))
    chunk = _log_chunk(5, seed=1)
    with pytest.raises(ValueError, match=rf"{name} of shape .*, expected \(2, 5, "):
        log.append(chunk._replace(**{name: getattr(chunk, name)[:, :, :2]}))
    assert log.length == 5
    _assert_same(log.read(0, 5), _log_chunk(5))


def test_logs_in_memory_are_apart():
    first, second = Log(None, INFO), Log(None, INFO)
    first.append(_log_chunk(5))
    second.append(_log_chunk(5, seed=1))
    _assert_same(first.read(0, 5), _log_chunk(5))


def test_a_log_on_disk_is_opened_again_and_continued(tmp_path):
    extra = INFO | {"seed": 3}
    Log(tmp_path, extra).append(_log_chunk(70))
    for again in (dataset.open_log(str(tmp_path)), Log(tmp_path, extra)):
        assert again.length == 70
        assert again.info == extra
        _assert_same(again.read(0, 70), _log_chunk(70))
    again.append(_log_chunk(10, seed=1))
    again.truncate(75)
    final = dataset.open_log(tmp_path)
    assert final.length == 75
    whole = _joined(_log_chunk(70), _log_chunk(10, seed=1))
    _assert_same(final.read(0, 75), collection.Chunk(*(x[:, :75] for x in whole)))


@pytest.mark.parametrize("states", [True, False], ids=["states", "none"])
def test_reading_a_log_touches_nothing(tmp_path, states, contents):
    """Not even one from before logs kept the emulators' states, nor what a writer leaves open."""
    Log(tmp_path, INFO).append(_log_chunk(70), np.full((2, 3), 7, np.uint32))
    if not states:
        shutil.rmtree(tmp_path / "states")
    (tmp_path / "dataset.json.partial").write_text("{")
    before = contents(tmp_path)
    log = dataset.open_log(tmp_path)
    _assert_same(log.read(0, 70), _log_chunk(70))
    log.truncate(60)
    log.append(_log_chunk(5))
    assert log.length == 65
    assert contents(tmp_path) == before


def test_a_log_knows_where_each_chunk_left_the_emulators(directory):
    log = Log(directory, INFO)
    first, second = np.arange(12, dtype=np.uint32).reshape(2, 2, 3) + 2**31
    log.append(_log_chunk(70), first)
    log.append(_log_chunk(3), second)
    log.append(_log_chunk(4))
    np.testing.assert_array_equal(log.states(70), first)
    np.testing.assert_array_equal(log.states(73), second)
    assert log.states(77) is None and log.states(69) is None
    # What is written over a forgotten chunk is no longer of it.
    log.truncate(70)
    log.append(_log_chunk(3))
    assert log.states(73) is None


@pytest.mark.parametrize("when", ["before the length counts", "in the middle of the length"])
def test_a_chunk_half_written_by_a_killed_run_does_not_exist(tmp_path, monkeypatch, when):
    log = Log(tmp_path, INFO)
    log.append(_log_chunk(70))

    def killed(*args, **options):
        raise KeyboardInterrupt

    if when == "before the length counts":
        monkeypatch.setattr(log, "_commit", killed)
    else:
        monkeypatch.setattr(dataset.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        log.append(_log_chunk(40, seed=1))
    monkeypatch.undo()

    again = Log(tmp_path, INFO)
    assert again.length == 70
    _assert_same(again.read(0, 70), _log_chunk(70))
    again.append(_log_chunk(5, seed=2))
    again = dataset.open_log(tmp_path)
    assert again.length == 75
    _assert_same(again.read(0, 75), _joined(_log_chunk(70), _log_chunk(5, seed=2)))


@pytest.mark.parametrize(
    ("name", "value"),
    [("games", ["pong", "freeway"]), ("num_envs", 4), ("num_actions", 18), ("seed", 1)],
)
def test_a_log_of_something_else_is_refused_and_left_alone(tmp_path, name, value):
    Log(tmp_path, INFO).append(_log_chunk(5))
    with pytest.raises(ValueError, match=rf"holds a dataset with {name} .*, expected .*{value}"):
        Log(tmp_path, INFO | {name: value})
    _assert_same(dataset.open_log(tmp_path).read(0, 5), _log_chunk(5))


def test_a_log_that_says_more_than_is_asked_for_is_of_something_else(tmp_path):
    rules = {"fire_after_life": True}
    Log(tmp_path, INFO | {"rules": rules})  # and nothing is collected yet
    with pytest.raises(ValueError, match=r"holds a dataset with rules .*, expected None"):
        Log(tmp_path, INFO)
    assert dataset.open_log(tmp_path).info["rules"] == rules


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"length": 5, "inf',
        "[]",
        "{}",
        '{"info": {}}',
        '{"length": "many", "info": {}}',
        # The right behaviour for JSON that lacks what a log needs to know of itself.
        '{"length": 5, "info": {}}',
        '{"length": 5, "info": []}',
    ],
)
def test_a_damaged_log_is_named(tmp_path, text):
    Log(tmp_path, INFO).append(_log_chunk(5))
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=r"dataset.json is damaged"):
        dataset.open_log(tmp_path)


@pytest.mark.parametrize("field", ["games", "num_envs", "frame_shape", "num_actions", "seed"])
def test_a_log_that_does_not_say_what_it_is_of_is_named(tmp_path, field):
    Log(tmp_path, INFO).append(_log_chunk(5))
    path = tmp_path / "dataset.json"
    fields = json.loads(path.read_text())
    del fields["info"][field]
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=rf"dataset.json is damaged \(KeyError: '{field}'\)"):
        dataset.open_log(tmp_path)


def test_a_missing_log_is_named_and_not_created(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing holds no dataset.json"):
        dataset.open_log(tmp_path / "nothing")
    assert not list(tmp_path.iterdir())


def test_real_frames_are_compressed(tmp_path, breakout_chunk):
    info = INFO | {"games": ["breakout"], "frame_shape": [84, 84], "num_actions": 2}
    log = Log(tmp_path, info)
    log.append(breakout_chunk)
    size = sum(p.stat().st_size for p in pathlib.Path(tmp_path, "frames").rglob("*") if p.is_file())
    assert 0 < size < 0.05 * breakout_chunk.frames.nbytes
    _assert_same(log.read(100, 200), collection.Chunk(*(x[:, 100:200] for x in breakout_chunk)))


def test_vectors_are_stored_and_gathered_as_they_are(tmp_path):
    """Numbers of any size and sign, in stacks of one."""
    rng = np.random.default_rng(0)
    shape = (2, 10, 3)
    chunk = collection.Chunk(
        frames=rng.normal(0, 1e3, (*shape, 8)).astype(np.float32),
        labels=rng.normal(size=(*shape, 4)).astype(np.float32),
        actions=rng.integers(0, 4, shape).astype(np.uint8),
        ages=np.broadcast_to(np.arange(10)[None, :, None], shape).astype(np.uint8),
        usable=np.ones(shape, bool),
    )
    info = INFO | {"frame_shape": [8], "frame_dtype": "float32", "num_actions": 4}
    Log(tmp_path, info).append(chunk)
    again = dataset.open_log(tmp_path)
    _assert_same(again.read(0, 10), chunk)
    assert again.read(0, 10).frames.dtype == np.float32
    buffer = windows.WindowBuffer(2, 3, 6, (8,), 4, meshes.create(), depth=1, frame_dtype="float32")
    buffer.append(chunk)
    rows = jnp.asarray(rng.integers(0, 18, (2, 7)))
    seen, labels = windows.gather(buffer.window, jnp.arange(2), rows)
    assert seen.shape == (2, 7, 1, 8) and seen.dtype == jnp.float32
    places = np.asarray(buffer.window.frames).reshape(2, 18, 8)
    for game in (0, 1):
        kept = chunk.frames[game, 4:].reshape(18, 8)
        assert {x.tobytes() for x in places[game]} == {x.tobytes() for x in kept}
        for row, vector, label in zip(rows[game], seen[game, :, 0], labels[game], strict=True):
            np.testing.assert_array_equal(vector, places[game, row])
            (time, env) = np.argwhere((chunk.frames[game] == np.asarray(vector)).all(-1))[0]
            np.testing.assert_array_equal(label, chunk.labels[game, time, env])


def test_the_description_is_readable_json(tmp_path):
    Log(tmp_path, INFO).append(_log_chunk(5))
    fields = json.loads((tmp_path / "dataset.json").read_text())
    assert fields == {"version": 2, "length": 5, "info": INFO}


# --- What is lost, or was never there.


def _lost(directory, match, start=0, stop=None):
    log = dataset.open_log(directory)
    with pytest.raises(ValueError, match=match) as caught:
        log.read(start, log.length if stop is None else stop)
    assert "\n" not in str(caught.value) and "collect again" in str(caught.value)


def _file_of(directory, name, block):
    (path,) = (x for x in pathlib.Path(directory, name, f"c/1/{block}").rglob("*") if x.is_file())
    return path


@pytest.mark.parametrize("name", collection.Chunk._fields)
@pytest.mark.parametrize("damage", ["missing", "empty", "torn"])
def test_lost_chunks_are_named_and_not_read_as_zeros(tmp_path, name, damage):
    Log(tmp_path, INFO).append(_log_chunk(150))
    file = _file_of(tmp_path, name, 1)
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"" if damage == "empty" else data[:-3])
    _lost(tmp_path, rf"the {name} of steps 64 to 127 are lost or damaged")
    _lost(tmp_path, rf"the {name} of steps 100 to 119 are", 100, 120)
    log = dataset.open_log(tmp_path)
    _assert_same(
        log.read(0, 64),
        _log_chunk(150)._replace(
            **{key: value[:, :64] for key, value in _log_chunk(150)._asdict().items()}
        ),
    )
    if name == "actions":
        with pytest.raises(ValueError, match="the actions of steps 64 to 99 are lost"):
            log.actions(100)
    file.write_bytes(data)
    _assert_same(log.read(0, 150), _log_chunk(150))


@pytest.mark.parametrize(("length", "first"), [(151, 150), (190, 150), (200, 150), (1000, 150)])
def test_a_length_beyond_what_is_stored_is_refused(tmp_path, length, first):
    Log(tmp_path, INFO).append(_log_chunk(150))
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"length": length}))
    found = f"the labels of steps {first} to {first}" if length <= 192 else "of steps 192 to "
    _lost(tmp_path, found)


def test_a_lost_chunk_is_not_filled_up_by_what_is_appended(tmp_path):
    Log(tmp_path, INFO).append(_log_chunk(70))
    _file_of(tmp_path, "labels", 1).unlink()
    Log(tmp_path, INFO).append(_log_chunk(10, seed=1))
    _lost(tmp_path, "the labels of steps 64 to 64 are lost")


@pytest.mark.parametrize("steps", [1, 64, 130])
def test_zeros_are_stored_like_anything_else(tmp_path, steps):
    zeros = collection.Chunk(*(np.zeros_like(x) for x in _log_chunk(steps)))
    Log(tmp_path, INFO).append(zeros)
    _assert_same(dataset.open_log(tmp_path).read(0, steps), zeros)


def _as_first_version(directory, chunk):
    """A log as the first version wrote it: no chunk of zeros, labels filled up with zeros."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "_VERSION", 1)
        log = Log(directory, INFO)
        log.append(chunk)
    fields = json.loads((directory / "dataset.json").read_text())
    assert fields.pop("version") == 1
    (directory / "dataset.json").write_text(json.dumps(fields))
    for name, array in chunk._asdict().items():
        for block in range(-(-array.shape[1] // 64)):
            if not array[1, 64 * block : 64 * (block + 1)].any():
                _file_of(directory, name, block).unlink()


def test_logs_of_the_first_version_are_read_and_continued(tmp_path):
    chunk = _log_chunk(100)
    for array in (chunk.actions, chunk.usable):
        array[1, 64:] = 0
    _as_first_version(tmp_path, chunk)
    log = Log(tmp_path, INFO)
    _assert_same(log.read(0, 100), chunk)
    assert log.states(100) is None
    log.append(_log_chunk(40, seed=1))
    whole = _joined(chunk, _log_chunk(40, seed=1))
    _assert_same(dataset.open_log(tmp_path).read(0, 140), whole)


def test_what_a_log_of_the_first_version_lost_is_refused(tmp_path):
    _as_first_version(tmp_path, _log_chunk(100))
    path = tmp_path / "dataset.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"length": 101}))
    _lost(tmp_path, "the labels of steps 100 to 100 are lost")
    path.write_text(json.dumps(fields))
    _file_of(tmp_path, "frames", 0).unlink()
    _lost(tmp_path, "the frames of steps 0 to 63 are lost")


@pytest.mark.parametrize("stop", [1, 64, 65, 100])
def test_lost_ages_of_the_first_version_are_refused(tmp_path, stop):
    """Read as zeros they would make every stack one frame, four times."""
    chunk = _log_chunk(100)
    chunk.ages[chunk.ages == 0] = 1
    chunk.ages[1, [0, 7, 64, 99]] = 0  # games that begin are none that are lost
    _as_first_version(tmp_path, chunk)
    _assert_same(dataset.open_log(tmp_path).read(0, 100), chunk)
    file = _file_of(tmp_path, "ages", int(stop > 64))
    data = file.read_bytes()
    file.unlink()
    _lost(tmp_path, "the ages of steps [0-9]+ to [0-9]+ are lost or damaged", stop - 1, stop)
    file.write_bytes(data)
    _file_of(tmp_path, "ages", int(stop <= 64)).unlink()
    if stop in (1, 100):  # far from what is lost
        dataset.open_log(tmp_path).read(stop - 1, stop)


def test_labels_that_are_not_finite_are_refused(directory):
    log = Log(directory, INFO)
    chunk = _log_chunk(5)
    chunk.labels[1, 3, 2, 0] = np.nan
    with pytest.raises(ValueError, match="outputs of an expert are NaN or infinite in steps 0"):
        log.append(chunk)
    assert log.length == 0


def test_what_cannot_be_written_is_one_line_and_leaves_the_log(tmp_path):
    log = Log(tmp_path, INFO)
    log.append(_log_chunk(64))
    shutil.rmtree(tmp_path / "ages")
    (tmp_path / "ages").write_text("not a directory")
    with pytest.raises(OSError, match="its ages cannot be written") as caught:
        log.append(_log_chunk(10, seed=1))
    assert "\n" not in str(caught.value)
    assert log.length == 64


KEYED = INFO | {"frame_shape": [8], "frame_dtype": "float32", "action_shape": [6]}


def _keyed_chunk(steps, seed=0):
    """Actions are six numbers of any size."""
    rng = np.random.default_rng(seed)
    chunk = _log_chunk(steps, seed)
    return chunk._replace(
        frames=rng.normal(size=(2, steps, 3, 8)).astype(np.float32),
        actions=rng.normal(0, 1e3, (2, steps, 3, 6)).astype(np.float32),
    )


def test_actions_of_several_numbers_are_stored_as_they_are(directory):
    log = Log(directory, KEYED)
    parts = [_keyed_chunk(steps, seed=steps) for steps in (50, 80)]
    for part in parts:
        log.append(part, np.full((2, 3), 7, np.uint32))
    whole = _joined(*parts)
    _assert_same(log.read(0, 130), whole)
    np.testing.assert_array_equal(log.actions(60), whole.actions[:, :60])
    past = log.past()
    assert past.actions.shape == (2, 130, 3, 6) and past.actions.dtype == np.float32
    np.testing.assert_array_equal(past.actions, whole.actions)
    np.testing.assert_array_equal(past.states, np.full((2, 3), 7))
    if directory is not None:
        again = dataset.open_log(directory)
        assert again.info == KEYED
        _assert_same(again.read(0, 130), whole)
        more = Log(directory, KEYED)
        more.append(_keyed_chunk(5, seed=1))
        _assert_same(more.read(130, 135), _keyed_chunk(5, seed=1))


def test_actions_of_another_shape_are_refused(tmp_path):
    log = Log(tmp_path, KEYED)
    log.append(_keyed_chunk(5))
    indices = _keyed_chunk(5)._replace(actions=np.zeros((2, 5, 3), np.uint8))
    with pytest.raises(ValueError, match=r"actions of shape \(2, 5, 3\), expected \(2, 5, 3, 6\)"):
        log.append(indices)
    with pytest.raises(ValueError, match=r"actions of shape .*, expected \(2, 5, 3\)"):
        Log(None, INFO).append(_log_chunk(5)._replace(actions=_keyed_chunk(5).actions))
    with pytest.raises(
        ValueError, match=r"holds a dataset with action_shape \[6\], expected \[7\]"
    ):
        Log(tmp_path, KEYED | {"action_shape": [7]})
    assert log.length == dataset.open_log(tmp_path).length == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_envs", "4"),
        ("num_envs", -3),
        ("num_envs", True),
        ("seed", None),
        ("seed", "0"),
        ("seed", -1),
        ("seed", 2**31),
        ("num_envs", 10**12),
        ("num_actions", 0),
        ("num_actions", 6.0),
        ("frame_shape", []),
        ("frame_shape", [0]),
        ("frame_shape", [4, 5, 6]),
        ("action_shape", 6),
        ("action_shape", [0]),
        ("action_shape", [6, 6]),
        ("action_shape", ["6"]),
        ("action_shape", [10**9]),
        ("action_shape", None),
        ("frame_dtype", "int64"),
        ("frame_dtype", None),
        ("frame_shape", [4, -5]),
        ("frame_shape", "84"),
        ("frame_shape", [10**9, 10**9]),
        ("games", []),
        ("games", "pong"),
        ("games", ["pong", 3]),
        ("games", ["pong", "pong"]),
        ("length", "5"),
        ("length", -1),
        ("length", 10**30),
        ("length", 5.0),
        ("length", None),
        ("version", 3),
        ("version", "2"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path, field, value):
    Log(tmp_path, INFO).append(_log_chunk(5))
    path = tmp_path / "dataset.json"
    fields = json.loads(path.read_text())
    (fields if field in fields else fields["info"])[field] = value
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"dataset.json is damaged: {field} is .*, expected") as e:
        dataset.open_log(tmp_path)
    assert "\n" not in str(e.value) and len(str(e.value)) < 400
