"""Tests for windows: stacks are what was seen, rings forget the oldest, usable rows are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import meshes
from jaxdistill.learn import windows
from jaxdistill.learn.windows import WindowBuffer
from jaxdistill.play import collection

MESH = meshes.create()
BOTH = jnp.arange(2)
_gather = jax.jit(windows.gather)


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


def _split(chunk, *lengths):
    edges = np.cumsum(lengths)[:-1]
    pieces = [np.split(x, edges, axis=1) for x in chunk]
    return [collection.Chunk(*parts) for parts in zip(*pieces, strict=True)]


def _rows(window):
    return [np.asarray(window.rows)[g, : int(window.counts[g])] for g in range(len(window.counts))]


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
    drawn = np.asarray(windows.sample(buffer.window, jax.random.key(0), BOTH, 10_000))
    assert drawn.shape == (2, 10_000)
    for rows, usable in zip(drawn, _rows(buffer.window), strict=True):
        values, counts = np.unique(rows, return_counts=True)
        np.testing.assert_array_equal(values, np.sort(usable))
        mean = 10_000 / len(usable)
        assert abs(counts - mean).max() < 5 * np.sqrt(mean)
    assert len(_rows(buffer.window)[1]) < 15 < 60 < len(_rows(buffer.window)[0])
    again = windows.sample(buffer.window, jax.random.key(0), BOTH, 10_000)
    np.testing.assert_array_equal(again, drawn)
    other = windows.sample(buffer.window, jax.random.key(1), BOTH, 10_000)
    assert (np.asarray(other) != drawn).any()


def test_gather_pairs_each_games_frames_with_its_own_labels():
    buffer = WindowBuffer(2, 3, 40, (1, 4), 2, MESH)
    buffer.append(_made_up(40))
    rows = windows.sample(buffer.window, jax.random.key(0), BOTH, 64)
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
    rows = windows.sample(buffer.window, jax.random.key(0), games, 64)
    assert rows.shape == (3, 64) and (rows[0] != rows[2]).any()
    stacks, labels = _gather(buffer.window, games, rows)
    newest = np.asarray(stacks)[:, :, -1, 0].astype(int)
    np.testing.assert_array_equal(newest[..., 0], np.repeat([[1], [0], [1]], 64, axis=1))
    np.testing.assert_array_equal(labels[..., 0], 10 * newest[..., 2] + newest[..., 3])
    others, rows = windows.sample_others(buffer.window, jax.random.key(0), games, 64)
    assert rows.shape == (3, 64) and (rows[0] != rows[2]).any()
    np.testing.assert_array_equal(others, np.repeat([[0], [1], [0]], 64, axis=1))


def test_a_row_of_another_game_is_never_of_its_own():
    """Every usable row of every other game is drawn, each game alike often, each row of it too."""
    chunk = _made_up(60, num_games=3)
    chunk.usable[1, 5:] = False  # one game has far fewer rows than the others
    buffer = WindowBuffer(3, 3, 40, (1, 4), 2, MESH)
    buffer.append(collection.Chunk(*(x[:, :30] for x in chunk)))
    three = jnp.arange(3)
    drawn = windows.sample_others(buffer.window, jax.random.key(0), three, 20_000)
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
    again = windows.sample_others(buffer.window, jax.random.key(0), three, 20_000)
    assert all((a == b).all() for a, b in zip(again, (games, rows), strict=True))
    other_rows = windows.sample_others(buffer.window, jax.random.key(1), three, 20_000)[1]
    assert (np.asarray(other_rows) != rows).any()


def test_of_two_games_the_other_is_meant():
    buffer = WindowBuffer(2, 3, 40, (1, 4), 2, MESH)
    buffer.append(_made_up(40))
    games, rows = windows.sample_others(buffer.window, jax.random.key(0), BOTH, 64)
    np.testing.assert_array_equal(games, [[1] * 64, [0] * 64])
    stacks = windows.stacks(buffer.window.frames, buffer.window.ages, games, rows, 4)
    np.testing.assert_array_equal(stacks[:, :, -1, 0, 0], games)
