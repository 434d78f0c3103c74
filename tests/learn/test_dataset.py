"""Tests for the dataset: stacks are what was seen, rings forget the oldest, logs survive a kill."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import meshes
from jaxdistill.learn import dataset
from jaxdistill.learn.dataset import Log, WindowBuffer
from jaxdistill.play import collection

MESH = meshes.create()
INFO = {
    "games": ["pong", "breakout"],
    "num_envs": 3,
    "frame_shape": [4, 5],
    "num_actions": 6,
    "seed": 0,
}


@pytest.fixture(scope="module")
def breakout_chunk(breakout_play):
    """The recorded games as the chunk a collector would make of them; labels name their row."""
    before = breakout_play.steps[:-1]
    time, slot = np.meshgrid(np.arange(600), np.arange(3), indexing="ij")
    return collection.Chunk(
        frames=breakout_play.observations[None, :-1, :, -1],
        labels=np.stack([time, slot], axis=-1)[None].astype(np.float32),
        actions=breakout_play.actions[None].astype(np.uint8),
        ages=np.minimum(np.stack([step.ages for step in before]), 255)[None].astype(np.uint8),
        usable=~np.stack([step.over for step in before])[None],
    )


def _split(chunk, *lengths):
    edges = np.cumsum(lengths)[:-1]
    pieces = [np.split(x, edges, axis=1) for x in chunk]
    return [collection.Chunk(*parts) for parts in zip(*pieces, strict=True)]


def _made_up(steps, *, num_games=2, num_envs=3, frame_shape=(1, 4), num_actions=2, seed=0):
    """Games of random lengths whose frames and labels say where they are from."""
    rng = np.random.default_rng(seed)
    shape = (num_games, steps, num_envs)
    ends = rng.random(shape) < 0.15
    ages = np.zeros(shape, int)
    for t in range(1, steps):
        ages[:, t] = np.where(ends[:, t - 1], 0, ages[:, t - 1] + 1)
    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    game, time, env = (place[..., i] for i in range(3))
    frames = np.stack([game, time // 256, time % 256, env], axis=-1).astype(np.uint8)
    labels = np.repeat(10.0 * time[..., None] + env[..., None], num_actions, axis=-1)
    return collection.Chunk(
        frames=np.broadcast_to(frames[..., None, :], (*shape, *frame_shape)).copy(),
        labels=labels.astype(np.float32),
        actions=rng.integers(0, 18, shape).astype(np.uint8),
        ages=np.minimum(ages, 255).astype(np.uint8),
        usable=~ends,
    )


def _rows(window):
    return [np.asarray(window.rows)[g, : int(window.counts[g])] for g in range(len(window.counts))]


_gather = jax.jit(dataset.gather)
BOTH = jnp.arange(2)


def _expected(chunk, written, steps, depth):
    """Per game: {(time, env): times in its stack}, that a window may offer, by brute force."""
    per_game = []
    for ages, usable in zip(chunk.ages, chunk.usable, strict=True):
        rows = {}
        for time in range(max(0, written - steps), written):
            for env in np.flatnonzero(usable[time]):
                first = time - int(ages[time, env])
                stack = [max(time - back, first) for back in range(depth - 1, -1, -1)]
                if stack[0] >= written - steps:
                    rows[time, int(env)] = stack
        per_game.append(rows)
    return per_game


def _offered(window):
    """Per game: {(time, env): times in its stack}, that a window offers."""
    per_game = []
    games = jnp.arange(len(window.counts))
    everything = [np.asarray(x) for x in _gather(window, games, window.rows)]
    for game, count in enumerate(window.counts.tolist()):
        stacks, labels = (x[game, :count] for x in everything)
        assert stacks.shape[1] == window.depth
        assert (stacks[..., 0] == game).all()
        times = 256 * stacks[:, :, 0, 1].astype(int) + stacks[:, :, 0, 2]
        envs = stacks[:, :, 0, 3]
        assert (envs == envs[:, -1:]).all()
        np.testing.assert_array_equal(labels[:, 0], 10 * times[:, -1] + envs[:, -1])
        keys = list(zip(times[:, -1].tolist(), envs[:, -1].tolist(), strict=True))
        assert len(set(keys)) == len(keys), "a row is offered twice"
        per_game.append(dict(zip(keys, times.tolist(), strict=True)))
    return per_game


def test_stacks_of_single_frames_are_what_envpool_showed(breakout_play, breakout_chunk):
    buffer = WindowBuffer(1, 3, 600, (84, 84), 2, meshes.create(jax.devices()[:1]))
    for part in _split(breakout_chunk, 250, 1, 349):
        buffer.append(part)
    # Every row, unusable ones too: last observations of a game are stacks like any other.
    rows = np.arange(600 * 3)[None]
    stacks, labels = _gather(buffer.window, jnp.arange(1), jnp.asarray(rows))
    shown = breakout_play.observations[:-1].reshape(1800, 4, 84, 84)
    np.testing.assert_array_equal(stacks[0], shown)
    np.testing.assert_array_equal(labels[0], breakout_chunk.labels[0].reshape(-1, 2))
    usable = np.flatnonzero(~np.stack([step.over for step in breakout_play.steps[:-1]]))
    assert len(usable) <= 1800 - 6  # several games ended
    np.testing.assert_array_equal(_rows(buffer.window)[0], usable)


@pytest.mark.parametrize(
    ("steps", "depth", "lengths"),
    [
        (40, 4, (7, 33, 1, 12, 40, 95, 3, 39)),  # fits exactly, wraps, more than twice the window
        (40, 4, (41, 1, 1)),
        (9, 4, (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)),
        (20, 1, (15, 15, 15)),
        (20, 2, (15, 15, 15)),
        (4, 4, (3, 1, 2, 9)),
        # The right behaviour of a window with fewer steps than a stack has frames: it offers what
        # it holds whole stacks of, the first frames of games.
        (2, 4, (1, 1, 1, 5)),
    ],
    ids=str,
)
def test_a_window_offers_exactly_the_rows_whose_whole_stack_it_holds(steps, depth, lengths):
    chunk = _made_up(sum(lengths))
    buffer = WindowBuffer(2, 3, steps, (1, 4), 2, MESH, depth)
    written = 0
    for part in _split(chunk, *lengths):
        buffer.append(part)
        written += part.frames.shape[1]
        expected = _expected(chunk, written, steps, depth)
        assert _offered(buffer.window) == expected
    assert any(expected)


def test_the_devices_are_never_given_memory_that_a_window_writes_to_again(monkeypatch):
    """A CPU device may take an array as it lies there, and read it later."""
    given, put = [], meshes.put

    def recording(devices, tree):
        given.extend(jax.tree.leaves(tree))
        return put(devices, tree)

    monkeypatch.setattr(meshes, "put", recording)
    buffer = WindowBuffer(1, 3, 20, (1, 4), 2, MESH)
    buffer.append(_made_up(10, num_games=1))
    assert len(given) == 5
    for array in given:
        assert not np.shares_memory(array, buffer._ages)
        assert not np.shares_memory(array, buffer._usable)


def test_an_empty_window_offers_nothing():
    assert (np.asarray(WindowBuffer(2, 3, 5, (1, 4), 2, MESH).window.counts) == 0).all()


# 80 and 97: the uninterrupted window is given a chunk longer than itself. Its rows must still lie
# where they would lie in a resumed one, or the two draw different minibatches.
@pytest.mark.parametrize("tail", [(40,), (13, 27)], ids=str)
@pytest.mark.parametrize("total", [55, 80, 97])
def test_a_window_refilled_from_its_tail_is_the_uninterrupted_one(total, tail):
    chunk = _made_up(total)
    whole = WindowBuffer(2, 3, 40, (1, 4), 2, MESH)
    for part in _split(chunk, 25, total - 25):
        whole.append(part)
    resumed = WindowBuffer(2, 3, 40, (1, 4), 2, MESH)
    resumed.skip(total - 40)
    for part in _split(collection.Chunk(*(x[:, total - 40 :] for x in chunk)), *tail):
        resumed.append(part)
    jax.tree.map(np.testing.assert_array_equal, resumed.window, whole.window)

    more = collection.Chunk(*(x[:, :7] for x in chunk))
    whole.append(more)
    resumed.append(more)
    jax.tree.map(np.testing.assert_array_equal, resumed.window, whole.window)


def test_a_window_does_not_keep_what_it_was_given():
    chunk = _made_up(10)
    buffer = WindowBuffer(2, 3, 10, (1, 4), 2, MESH)
    buffer.append(chunk)
    wanted = _offered(buffer.window)
    for array in chunk:
        array[...] = 0
    assert _offered(buffer.window) == wanted


def test_the_window_is_whole_on_every_device():
    buffer = WindowBuffer(2, 3, 10, (1, 4), 2, MESH)
    buffer.append(_made_up(10))
    assert MESH.size == 4
    for leaf in jax.tree.leaves(buffer.window):
        assert leaf.sharding.is_equivalent_to(meshes.replicated(MESH), leaf.ndim)


def test_only_usable_rows_are_drawn_and_all_of_them_equally_often():
    chunk = _made_up(60)
    chunk.usable[1, 5:] = False  # one game has far fewer rows than the other
    buffer = WindowBuffer(2, 3, 40, (1, 4), 2, MESH)
    buffer.append(collection.Chunk(*(x[:, :30] for x in chunk)))
    drawn = np.asarray(dataset.sample(buffer.window, jax.random.key(0), BOTH, 10_000))
    assert drawn.shape == (2, 10_000)
    for rows, usable in zip(drawn, _rows(buffer.window), strict=True):
        values, counts = np.unique(rows, return_counts=True)
        np.testing.assert_array_equal(values, np.sort(usable))
        mean = 10_000 / len(usable)
        assert abs(counts - mean).max() < 5 * np.sqrt(mean)
    assert len(_rows(buffer.window)[1]) < 15 < 60 < len(_rows(buffer.window)[0])
    again = dataset.sample(buffer.window, jax.random.key(0), BOTH, 10_000)
    np.testing.assert_array_equal(again, drawn)
    other = dataset.sample(buffer.window, jax.random.key(1), BOTH, 10_000)
    assert (np.asarray(other) != drawn).any()


def test_gather_pairs_each_games_frames_with_its_own_labels():
    buffer = WindowBuffer(2, 3, 40, (1, 4), 2, MESH)
    buffer.append(_made_up(40))
    rows = dataset.sample(buffer.window, jax.random.key(0), BOTH, 64)
    stacks, labels = _gather(buffer.window, BOTH, rows)
    assert stacks.shape == (2, 64, 4, 1, 4) and stacks.dtype == jnp.uint8
    assert labels.shape == (2, 64, 2)
    newest = np.asarray(stacks)[:, :, -1, 0].astype(int)
    np.testing.assert_array_equal(newest[..., 0], [[0] * 64, [1] * 64])
    np.testing.assert_array_equal(labels[..., 0], 10 * newest[..., 2] + newest[..., 3])
    np.testing.assert_array_equal(3 * newest[..., 2] + newest[..., 3], rows)


def test_a_game_may_be_drawn_from_twice():
    buffer = WindowBuffer(2, 3, 40, (1, 4), 2, MESH)
    buffer.append(_made_up(40))
    games = jnp.array([1, 0, 1])
    rows = dataset.sample(buffer.window, jax.random.key(0), games, 64)
    assert rows.shape == (3, 64) and (rows[0] != rows[2]).any()
    stacks, labels = _gather(buffer.window, games, rows)
    newest = np.asarray(stacks)[:, :, -1, 0].astype(int)
    np.testing.assert_array_equal(newest[..., 0], np.repeat([[1], [0], [1]], 64, axis=1))
    np.testing.assert_array_equal(labels[..., 0], 10 * newest[..., 2] + newest[..., 3])
    others, rows = dataset.sample_others(buffer.window, jax.random.key(0), games, 64)
    assert rows.shape == (3, 64) and (rows[0] != rows[2]).any()
    np.testing.assert_array_equal(others, np.repeat([[0], [1], [0]], 64, axis=1))


def test_a_row_of_another_game_is_never_of_its_own():
    """Every usable row of every other game is drawn, each game alike often, each row of it too."""
    chunk = _made_up(60, num_games=3)
    chunk.usable[1, 5:] = False  # one game has far fewer rows than the others
    buffer = WindowBuffer(3, 3, 40, (1, 4), 2, MESH)
    buffer.append(collection.Chunk(*(x[:, :30] for x in chunk)))
    three = jnp.arange(3)
    drawn = dataset.sample_others(buffer.window, jax.random.key(0), three, 20_000)
    games, rows = map(np.asarray, drawn)
    assert games.shape == rows.shape == (3, 20_000)
    usable = _rows(buffer.window)
    for own in range(3):
        assert set(np.unique(games[own])) == {0, 1, 2} - {own}
        for other in {0, 1, 2} - {own}:
            drawn = rows[own, games[own] == other]
            assert len(drawn) == pytest.approx(10_000, abs=5 * np.sqrt(20_000) / 2)
            values, counts = np.unique(drawn, return_counts=True)
            np.testing.assert_array_equal(values, np.sort(usable[other]))
            mean = len(drawn) / len(values)
            assert abs(counts - mean).max() < 5 * np.sqrt(mean)
    again = dataset.sample_others(buffer.window, jax.random.key(0), three, 20_000)
    assert all((a == b).all() for a, b in zip(again, (games, rows), strict=True))
    other_rows = dataset.sample_others(buffer.window, jax.random.key(1), three, 20_000)[1]
    assert (np.asarray(other_rows) != rows).any()


def test_of_two_games_the_other_is_meant():
    buffer = WindowBuffer(2, 3, 40, (1, 4), 2, MESH)
    buffer.append(_made_up(40))
    games, rows = dataset.sample_others(buffer.window, jax.random.key(0), BOTH, 64)
    np.testing.assert_array_equal(games, [[1] * 64, [0] * 64])
    stacks = dataset.stacks(buffer.window.frames, buffer.window.ages, games, rows, 4)
    np.testing.assert_array_equal(stacks[:, :, -1, 0, 0], games)


# --- The log.


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
    buffer = WindowBuffer(2, 3, 6, (8,), 4, MESH, depth=1, frame_dtype="float32")
    buffer.append(chunk)
    rows = jnp.asarray(rng.integers(0, 18, (2, 7)))
    seen, labels = dataset.gather(buffer.window, BOTH, rows)
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
