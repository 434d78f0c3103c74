"""Tests for the replay memory: what is drawn is what was played, and nothing else."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import meshes
from jaxdistill.learn import replay
from jaxdistill.learn.replay import Piece

FOUR, ONE = meshes.create(), meshes.create(jax.devices()[:1])


def _played(steps, *, depth, num_tasks=2, num_envs=3, flat=False, seed=0, began=0):
    """Random episodes with random ends, as pools give them.

    Returns a piece of all steps, and `{(task, time, env): transition}` written down as a plain loop
    would, from the stacks before and after each action. Frames say where and when they are from.
    The first `began` steps are played and left out.
    """
    rng = np.random.default_rng(seed)
    shape = (num_tasks, began + steps, num_envs)
    piece = Piece(
        frames=np.zeros((*shape, 4), np.float32 if flat else np.uint8),
        ages=np.zeros(shape, np.int32),
        actions=rng.integers(0, 18, shape).astype(np.int32),
        rewards=rng.normal(size=shape).astype(np.float32),
        ended=np.zeros(shape, bool),
        valid=np.ones(shape, bool),
    )
    transitions = {}
    for task, env in np.ndindex(num_tasks, num_envs):

        def frame(time, task=task, env=env):
            return np.array([task, time // 256, time % 256, env], np.uint8)

        def stack(episode):
            return np.stack([episode[max(0, len(episode) - depth + i)] for i in range(depth)])

        # As EnvPool does it, an episode's first frame fills its first stack.
        episode, over = [frame(0)] * depth, False
        for time in range(began + steps):
            at = (task, time, env)
            piece.frames[at], piece.ages[at] = episode[-1], len(episode) - depth
            if over:  # the action is ignored, and the next episode begins
                piece.valid[at], piece.rewards[at] = False, 0
                episode, over = [frame(time + 1)] * depth, False
                continue
            before = stack(episode)
            episode.append(frame(time + 1))
            over, cut, life_lost = rng.random(3) < (0.15, 0.5, 0.1)
            piece.ended[at] = (over and not cut) or life_lost
            transitions[task, time - began, env] = (
                before,
                piece.actions[at],
                piece.rewards[at],
                piece.ended[at],
                stack(episode),
            )
    piece = Piece(*(x[:, began:] for x in piece))
    frames = piece.frames if flat else piece.frames.reshape(*piece.ages.shape, 2, 2)
    return piece._replace(frames=frames), transitions


def _pieces(piece, *lengths):
    edges = np.cumsum(lengths)
    parts = [np.split(x, edges, axis=1)[: len(lengths)] for x in piece]
    return [Piece(*arrays) for arrays in zip(*parts, strict=True)]


def _memory(piece, steps, depth, devices=ONE, spare=0):
    num_tasks, _, num_envs = piece.ages.shape
    return replay.create(
        devices,
        num_tasks=num_tasks,
        num_envs=num_envs,
        capacity=steps * num_tasks * num_envs + spare,
        frame_shape=piece.frames.shape[3:],
        dtype=piece.frames.dtype,
        depth=depth,
    )


@functools.partial(jax.jit, static_argnums=2)
def _draw(memory, key, rows):
    tasks, drawn = replay.sample(memory, key, rows)
    return tasks, replay.gather(memory, tasks, drawn)


def _place(batch, began=0):
    """Where each drawn transition is from, by its newest frame: `(task, time, env)`."""
    newest = np.asarray(batch.observations)[:, -1].reshape(-1, 4).astype(int)
    return [(task, 256 * high + low - began, env) for task, high, low, env in newest.tolist()]


def _expected(transitions, written, steps, depth, began=0):
    """The transitions that can be drawn, by the definition."""
    found = {}
    for (task, time, env), transition in transitions.items():
        frames = transition[0].reshape(depth, 4).astype(int)
        oldest = int((256 * frames[:, 1] + frames[:, 2] - began).min())
        # Followed by something, not so old that stacks may be cut, and whole.
        if written - (steps - depth + 1) <= time < written - 1 and oldest >= 0:
            found[task, time, env] = transition
    return found


def _check(memory, transitions, began=0, rows=4000):
    """Draws: each is as it was played, and all of `transitions` are drawn."""
    assert memory.counts.sum() == len(transitions)
    batch = jax.device_get(_draw(memory, jax.random.key(3), rows)[1])
    assert batch.usable.all()
    places = _place(batch, began)
    assert set(places) == transitions.keys()
    for i, place in enumerate(places):
        before, action, reward, ended, after = transitions[place]
        np.testing.assert_array_equal(batch.observations[i].reshape(before.shape), before)
        np.testing.assert_array_equal(batch.next_observations[i].reshape(after.shape), after)
        assert (batch.actions[i], batch.rewards[i], batch.ended[i]) == (action, reward, ended)


@pytest.mark.parametrize(
    ("steps", "depth", "flat", "lengths"),
    [
        # Fewer steps than the stack, as long as the ring allows, wrapping anywhere, several times.
        (24, 4, False, (1, 2, 23, 7, 23, 1, 1, 7, 23)),
        (12, 1, True, (1, 2, 7, 11, 1, 1, 7, 11, 11)),
        (12, 2, True, (1, 11, 7, 1, 7)),
        # The smallest: one step of each environment can be drawn.
        (5, 4, False, (1, 1, 1, 1, 1, 1, 4, 1, 4, 1, 1)),
        (2, 1, True, (1,) * 7),
    ],
    ids=str,
)
def test_drawn_transitions_are_those_of_a_plain_list(steps, depth, flat, lengths):
    piece, transitions = _played(sum(lengths), depth=depth, flat=flat)
    memory = _memory(piece, steps, depth)
    written = fullest = 0
    for part in _pieces(piece, *lengths):
        memory = replay.append(memory, part)
        written += part.ages.shape[1]
        expected = _expected(transitions, written, steps, depth)
        counts = [sum(task == t for t, _, _ in expected) for task in (0, 1)]
        assert memory.counts.tolist() == counts
        fullest = max(fullest, len(expected))
        if expected:
            _check(memory, expected)
    assert int(memory.written) == sum(lengths)
    assert fullest > 0.6 * 6 * (steps - depth)
    ends = [x for x in transitions.values() if x[3]]
    assert ends or steps < 6, "nothing ended: the test shows less than it should"


def test_a_memory_that_begins_within_episodes_draws_whole_stacks_only():
    piece, transitions = _played(12, depth=4, began=9, seed=2)
    memory = _memory(piece, 20, 4)
    for part in _pieces(piece, 2, 10):
        memory = replay.append(memory, part)
    expected = _expected(transitions, 12, 20, 4, began=9)
    missing = {key for key in transitions if 0 <= key[1] < 11} - expected.keys()
    assert missing, "every stack was whole: the test shows nothing"
    assert {time for _, time, _ in missing} <= {0, 1, 2}
    _check(memory, expected, began=9)


@pytest.mark.parametrize("depth", [1, 4])
def test_nothing_follows_the_last_step_of_pools_that_were_replaced(depth):
    first, transitions = _played(8, depth=depth, num_tasks=1)
    second, others = _played(8, depth=depth, num_tasks=1, seed=1)
    assert first.valid[:, 7].any()
    # The second pools' frames say times 8 to 16.
    second.frames.reshape(*second.ages.shape, 4)[..., 2] += 8
    later = np.array([0, 0, 8, 0], np.uint8)
    for (task, time, env), (before, *rest, after) in others.items():
        transitions[task, time + 8, env] = (before + later, *rest, after + later)
    memory = _memory(first, 32, depth)
    for piece in (first, second):
        memory = replay.append(memory, piece)
    expected = _expected(transitions, 16, 32, depth)
    _check(memory, {key: value for key, value in expected.items() if key[1] != 7})


def test_what_is_not_valid_is_never_drawn():
    piece, transitions = _played(30, depth=4)
    piece.valid[:, 10:20] = False  # openings, say
    memory = replay.append(_memory(piece, 40, 4), piece)
    expected = _expected(transitions, 30, 40, 4)
    _check(memory, {key: x for key, x in expected.items() if not 10 <= key[1] < 20})


def test_nothing_is_drawn_from_a_memory_without_transitions():
    piece, _ = _played(2, depth=4)
    memory = _memory(piece, 10, 4)
    for part in (None, *_pieces(piece, 1)):
        memory = memory if part is None else replay.append(memory, part)
        assert memory.counts.tolist() == [0, 0]
        assert not _draw(memory, jax.random.key(0), 8)[1].usable.any()


def test_a_task_without_transitions_leaves_the_heap_to_the_others():
    piece, transitions = _played(20, depth=1, flat=True)
    piece.valid[0] = False
    memory = replay.append(_memory(piece, 30, 1), piece)
    tasks, batch = _draw(memory, jax.random.key(0), 200)
    assert (tasks == 1).all() and batch.usable.all()
    _check(memory, {k: x for k, x in _expected(transitions, 20, 30, 1).items() if k[0] == 1})


def test_all_transitions_are_drawn_equally_often():
    piece, _ = _played(40, depth=1, flat=True)
    piece.valid[1, :30] = False
    memory = replay.append(_memory(piece, 50, 1), piece)
    counts = np.asarray(memory.counts)
    assert 0 < 2 * counts[1] < counts[0]
    rows = 60_000
    tasks, batch = _draw(memory, jax.random.key(1), rows)
    places = np.array(_place(batch))
    np.testing.assert_array_equal(tasks, places[:, 0])
    _, often = np.unique(places, axis=0, return_counts=True)
    expected = rows / counts.sum()
    assert len(often) == counts.sum()
    # Five standard deviations of a binomial.
    np.testing.assert_allclose(often, expected, atol=5 * np.sqrt(expected))


def test_draws_depend_on_the_key_alone():
    piece, _ = _played(40, depth=4)
    memory = replay.append(_memory(piece, 50, 4), piece)
    first, again, other = (_place(_draw(memory, jax.random.key(i), 64)[1]) for i in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("total", [16, 24, 61], ids=["not full", "just full", "wrapped"])
@pytest.mark.parametrize("depth", [1, 4])
def test_a_memory_filled_anew_draws_what_the_uninterrupted_one_does(total, depth):
    steps = 24
    piece, _ = _played(total + 8, depth=depth)
    more = Piece(*(x[:, total:] for x in piece))
    newest = Piece(*(x[:, max(0, total - steps) :] for x in piece))
    whole = _pieces(piece, *[8] * (total // 8), *[total % 8] * (total % 8 > 0))
    anew = _pieces(newest, 7, min(total, steps) - 7)
    batches = []
    for parts in (whole, anew):
        memory = _memory(piece, steps, depth)
        for part in parts:
            memory = replay.append(memory, part)
        drawn = [_draw(memory, jax.random.key(5), 256)]
        memory = replay.append(memory, more)
        drawn.append(_draw(memory, jax.random.key(6), 256))
        batches.append(drawn)
    jax.tree.map(np.testing.assert_array_equal, *batches)


def test_four_devices_hold_and_draw_what_one_does():
    piece, _ = _played(40, depth=4)
    drawn = []
    for devices in (FOUR, ONE):
        memory = _memory(piece, 24, 4, devices)
        for part in _pieces(piece, 20, 20):
            memory = replay.append(memory, part)
        for leaf in jax.tree.leaves(memory):
            assert leaf.sharding.is_equivalent_to(meshes.replicated(devices), leaf.ndim)
        drawn.append(
            _draw(memory, jax.device_put(jax.random.key(0), meshes.replicated(devices)), 64)
        )
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get(drawn))


@pytest.mark.parametrize("spare", [0, 5])
def test_a_memory_takes_no_more_than_its_capacity(spare):
    piece, _ = _played(1, depth=4)
    memory = _memory(piece, 50, 4, spare=spare)  # six environments: five more are none
    capacity = 50 * 6 + spare
    frames = 4 * 300  # a frame has four bytes, and is there once
    assert memory.frames.nbytes == frames <= 4 * capacity
    rest = sum(x.nbytes for x in jax.tree.leaves(memory)) - frames
    # Age, action, ended, usable: a byte each; reward and row: four each. And five numbers.
    assert rest == 12 * 300 + 4 * 5
    grown = replay.append(memory, piece)
    assert sum(x.nbytes for x in jax.tree.leaves(grown)) == frames + rest


def test_appending_takes_the_old_memory_over():
    piece, _ = _played(2, depth=1)
    memory = _memory(piece, 5, 1)
    replay.append(memory, piece)
    assert memory.frames.is_deleted()


def test_a_memory_does_not_keep_what_it_was_given():
    piece, transitions = _played(20, depth=1)
    memory = jax.block_until_ready(replay.append(_memory(piece, 30, 1), piece))
    for array in piece:
        array[...] = 0
    _check(memory, _expected(transitions, 20, 30, 1))


# --- Real pools.


def _recorded(steps, actions, depth):
    """A piece of one task's recorded play: `steps[t]` is what `actions[t]` answers."""
    before, after = steps[:-1], steps[1:]
    lost = np.stack([a.valid & (a.lives < b.lives) for b, a in zip(before, after, strict=True)])
    over = np.stack([step.over & ~step.truncated for step in after])
    return Piece(
        frames=np.stack([step.observations[:, -1] for step in before])[None],
        ages=np.stack([step.ages for step in before])[None],
        actions=np.asarray(actions)[None],
        rewards=np.clip([step.rewards for step in after], -1, 1)[None],
        ended=(over | lost)[None],
        valid=np.stack([step.valid for step in after])[None],
    )


def _everything(memory):
    """All drawable transitions of the only task, with their times and environments."""
    count, num_envs = int(memory.counts[0]), memory.ages.shape[2]
    rows = memory.rows[0, :count]
    batch = jax.device_get(replay.gather(memory, jnp.zeros(count, int), rows))
    rows = np.asarray(rows)
    return rows // num_envs, rows % num_envs, batch


def test_breakouts_stacks_are_what_envpool_showed_before_and_after(breakout_play):
    steps = [
        step._replace(observations=seen)
        for step, seen in zip(breakout_play.steps, breakout_play.observations, strict=True)
    ]
    piece = _recorded(steps, breakout_play.actions, depth=4)
    memory = _memory(piece, 604, 4)
    for part in _pieces(piece, 300, 300):
        memory = replay.append(memory, part)
    time, env, batch = _everything(memory)
    wanted = piece.valid[0].copy()
    wanted[-1] = False  # not followed yet
    assert sorted(zip(time.tolist(), env.tolist(), strict=True)) == [
        tuple(place) for place in np.argwhere(wanted).tolist()
    ]
    seen = breakout_play.observations
    np.testing.assert_array_equal(batch.observations, seen[time, env])
    np.testing.assert_array_equal(batch.next_observations, seen[time + 1, env])
    assert batch.ended.sum() > 5 and not batch.ended.all()


def test_a_landing_cut_by_its_limit_is_followed_by_its_own_last_observation():
    pytest.importorskip("Box2D")
    from jaxdistill.tasks import lander

    pool = lander.LanderPool(lander.STANDARD, 2, seed=3, max_steps=7)
    rng = np.random.default_rng(0)
    steps, actions = [pool.last], rng.integers(0, 4, (40, 2))
    for action in actions:
        step = pool.step(action)
        steps.append(step._replace(observations=step.observations.copy()))
    piece = _recorded(steps, actions, depth=1)
    memory = replay.append(_memory(piece, 50, 1), piece)
    time, env, batch = _everything(memory)
    cut = np.stack([step.truncated for step in steps[1:]])[time, env]
    assert cut.sum() == 10 and not batch.ended.any()  # 40 steps: 5 times 7 played and 1 in vain
    after = np.stack([step.observations for step in steps[1:]])[time, env]
    np.testing.assert_array_equal(batch.next_observations, after)
    begun = np.stack([step.observations for step in steps[2:]])[time[cut], env[cut]]
    moved = np.abs(after[cut] - begun).max(axis=(1, 2))
    assert (moved > 0.1).all(), "the next episode begins elsewhere: the test shows nothing"


# --- What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tasks": 0}, "num_tasks is 0"),
        ({"num_envs": -1}, "num_envs is -1"),
        ({"depth": 0}, "depth is 0"),
        ({"depth": 256}, "depth is 256"),
        ({"capacity": 29}, "capacity of 29 is too small, expected at least 30"),
        ({"capacity": 11, "depth": 1}, "capacity of 11 is too small, expected at least 12"),
    ],
    ids=str,
)
def test_a_memory_that_cannot_be_is_refused_in_one_line(changes, message):
    fields = {
        "num_tasks": 2,
        "num_envs": 3,
        "capacity": 30,
        "frame_shape": (2,),
        "dtype": jnp.uint8,
        "depth": 4,
    }
    replay.create(ONE, **fields)
    with pytest.raises(ValueError, match=message) as caught:
        replay.create(ONE, **(fields | changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: Piece(*(x[:, :5] for x in p)), "a piece of 5 steps, expected 1 to 4"),
        (lambda p: Piece(*(x[:, :0] for x in p)), "a piece of 0 steps"),
        (lambda p: Piece(*(x[:1, :2] for x in p)), r"expected \(2, 2, 3, 2, 2\)"),
        (lambda p: Piece(*(x[:, :2, :1] for x in p)), r"expected \(2, 2, 3, 2, 2\)"),
        (
            lambda p: Piece(*(x[:, :2] for x in p))._replace(rewards=p.rewards[:, :3]),
            r"rewards of shape \(2, 3, 3\), expected \(2, 2, 3\)",
        ),
        (
            lambda p: Piece(*(x[:, :2] for x in p))._replace(
                frames=p.frames[:, :2].astype(np.float32)
            ),
            "frames are float32, expected uint8",
        ),
    ],
    ids=["long", "empty", "tasks", "environments", "rewards", "dtype"],
)
def test_a_piece_that_does_not_fit_is_refused_in_one_line(change, message):
    piece, _ = _played(6, depth=4)
    memory = _memory(piece, 5, 4)
    with pytest.raises(ValueError, match=message) as caught:
        replay.append(memory, change(piece))
    assert "\n" not in str(caught.value)
    assert int(memory.written) == 0, "the memory is as it was"


def test_what_a_memory_takes_is_what_it_is_made_of():
    """The most that is taken for one that fits is what the machine has for each device."""
    devices, shape = meshes.create(), (6, 7)
    memory = replay.create(
        devices, num_tasks=2, num_envs=3, capacity=600, frame_shape=shape, dtype="float32", depth=4
    )
    counters = memory.ends.nbytes + memory.counts.nbytes + memory.written.nbytes
    size = sum(x.nbytes for x in jax.tree.leaves(memory)) - counters
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // devices.size
    most = there // (size // 600)
    replay.check_fits(devices, most, shape, "float32")
    with pytest.raises(ValueError, match=rf"replay_size is .* GB; expected at most {most}$"):
        replay.check_fits(devices, most + 1, shape, "float32")
