"""Atari: the table of games, and pools on real EnvPool, with a scripted one for the accounting."""

import dataclasses
import itertools
import os
import subprocess
import sys

import envpool
import numpy as np
import pytest

from jaxdistill import meshes, tasks
from jaxdistill.tasks import atari
from jaxdistill.tasks.task import Step
from jaxdistill.tasks.views import Vector, View

PONG, BREAKOUT, FREEWAY = (tasks.get(name) for name in ("pong", "breakout", "freeway"))


_PLAY = """
import envpool, hashlib, numpy
pool = envpool.make("Breakout-v5", env_type="gymnasium", num_envs=2, seed=3)
said, actions = [pool.reset()[0]], numpy.random.default_rng(0).integers(0, 4, (200, 2))
said += [part for row in actions for part in pool.step(row)[:4]]
played = hashlib.sha256(b"".join(part.tobytes() for part in said)).hexdigest()
"""


def test_emulators_that_tests_make_quickly_play_as_those_of_users():
    here: dict = {}
    exec(_PLAY, here)
    users = subprocess.run(
        [sys.executable, "-c", f"{_PLAY}\nprint(played)"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert users.stdout.strip() == here["played"]


def test_there_are_104_sorted_unique_games():
    names = tuple(atari.games())
    assert len(names) == 104
    assert list(names) == sorted(set(names))
    assert len({tasks.get(name).env_id for name in names}) == 104


def test_there_are_18_action_names():
    assert atari.NUM_ACTIONS == len(atari.ACTION_NAMES) == len(set(atari.ACTION_NAMES)) == 18
    # Spot checks against ALE's `enum Action`.
    assert atari.ACTION_NAMES[0] == "NOOP"
    assert atari.ACTION_NAMES[3] == "RIGHT"
    assert atari.ACTION_NAMES[11] == "RIGHTFIRE"
    assert atari.ACTION_NAMES[17] == "DOWNLEFTFIRE"


@pytest.mark.parametrize("name", tuple(atari.games()))
def test_actions_are_sorted_ale_ids_and_the_mask_holds_them(name):
    game = tasks.get(name)
    assert list(game.actions) == sorted(set(game.actions))
    assert all(0 <= action < atari.NUM_ACTIONS for action in game.actions)
    assert game.mask.shape == (18,)
    assert game.mask.dtype == bool
    assert tuple(np.flatnonzero(game.mask)) == game.actions


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("pong", "NOOP FIRE RIGHT LEFT RIGHTFIRE LEFTFIRE"),
        ("breakout", "NOOP FIRE RIGHT LEFT"),
        ("freeway", "NOOP UP DOWN"),
        ("skiing", "NOOP RIGHT LEFT"),
        ("lost_luggage", "NOOP UP RIGHT LEFT DOWN UPRIGHT UPLEFT DOWNRIGHT DOWNLEFT"),
        ("space_invaders", "NOOP FIRE RIGHT LEFT RIGHTFIRE LEFTFIRE"),
        ("backgammon", "FIRE RIGHT LEFT"),
        ("seaquest", " ".join(atari.ACTION_NAMES)),
    ],
)
def test_known_actions(name, actions):
    assert [atari.ACTION_NAMES[a] for a in tasks.get(name).actions] == actions.split()


def test_the_mask_is_the_callers_own():
    game = tasks.get("pong")
    game.mask[:] = False
    assert game.mask.sum() == 6
    assert hash(game) == hash(dataclasses.replace(game))


@pytest.mark.parametrize("name", tuple(atari.games()))
def test_envpool_agrees_on_the_action_count(name):
    game = tasks.get(name)
    assert envpool.make_spec(game.env_id).action_space.n == len(game.actions)


def test_57_games_have_both_scores():
    table = [*atari.games().values()]
    assert all((g.random_score is None) == (g.human_score is None) for g in table)
    scored = [g for g in table if g.human_score is not None]
    assert len(scored) == 57
    assert all(g.random_score < g.human_score for g in scored)


@pytest.mark.parametrize(
    ("name", "random", "human"),
    [
        ("alien", 227.8, 7127.7),
        ("breakout", 1.7, 30.5),
        ("double_dunk", -18.6, -16.4),
        ("freeway", 0.0, 29.6),
        ("pong", -20.7, 14.6),
        ("skiing", -17098.1, -4336.9),
        ("video_pinball", 16256.9, 17667.9),
        ("zaxxon", 32.5, 9173.3),
    ],
)
def test_published_scores(name, random, human):
    game = tasks.get(name)
    assert (game.random_score, game.human_score) == (random, human)
    assert game.human_normalised(random) == 0.0
    assert game.human_normalised(human) == 1.0


def test_human_normalised_by_hand():
    # (145.7 - 1.7) / (30.5 - 1.7) = 144 / 28.8
    assert tasks.get("breakout").human_normalised(145.7) == pytest.approx(5.0)
    assert tasks.get("adventure").human_normalised(1.0) is None


@pytest.fixture(scope="module")
def pong():
    """A pool of two, for tests that only ask whether it refuses."""
    return atari.AtariPool(PONG, 2, seed=1)


def _play(pool, actions):
    return [pool.step(row) for row in actions]


def _assert_same(a, b):
    for name, x, y in zip(Step._fields, a, b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)
        assert x.dtype == y.dtype, name


def test_shapes_and_types_of_a_step(pong):
    step = pong.last
    expected = {
        "observations": ((2, 4, 84, 84), np.uint8),
        "rewards": ((2,), np.float32),
        "valid": ((2,), np.bool_),
        "over": ((2,), np.bool_),
        "truncated": ((2,), np.bool_),
        "lives": ((2,), np.int32),
        "scores": ((2,), np.float64),
        "ages": ((2,), np.int32),
    }
    actual = {name: (x.shape, x.dtype) for name, x in step._asdict().items()}
    assert actual == {name: (shape, np.dtype(kind)) for name, (shape, kind) in expected.items()}


def test_before_the_first_step_nothing_has_happened(breakout_play):
    first = breakout_play.steps[0]
    assert not (first.valid.any() or first.over.any() or first.truncated.any())
    assert not (first.rewards.any() or first.scores.any() or first.ages.any())
    assert (first.lives == 5).all()


def test_the_recorded_games_are_worth_testing_on(breakout_play):
    over = np.stack([step.over for step in breakout_play.steps])
    rewards = np.stack([step.rewards for step in breakout_play.steps])
    assert (over.sum(axis=0) >= 2).all()
    assert (rewards.sum(axis=0) >= 1).all()


def test_a_row_is_invalid_exactly_after_its_game_was_over(breakout_play):
    for before, after in itertools.pairwise(breakout_play.steps):
        np.testing.assert_array_equal(after.valid, ~before.over)


def test_scores_are_the_sums_of_each_games_rewards(breakout_play):
    steps = breakout_play.steps
    for slot in range(3):
        starts = [t for t, step in enumerate(steps) if step.ages[slot] == 0]
        ends = [t for t, step in enumerate(steps) if step.over[slot]]
        for start, end in zip(starts, ends, strict=False):
            rewards = [steps[t].rewards[slot] for t in range(start + 1, end + 1)]
            assert steps[end].scores[slot] == sum(rewards)
            assert steps[start].scores[slot] == steps[start].rewards[slot] == 0
            assert steps[end].lives[slot] == 0  # five lives are one game


def test_ages_count_the_steps_of_a_game(breakout_play):
    age = np.zeros(3, int)
    for before, after in itertools.pairwise(breakout_play.steps):
        age = np.where(before.over, 0, age + 1)
        np.testing.assert_array_equal(after.ages, age)


def test_a_lost_life_is_not_the_end_of_a_game(breakout_play):
    steps = breakout_play.steps
    lost = [(step.lives < before.lives) & step.valid for before, step in itertools.pairwise(steps)]
    over = [step.over for step in steps[1:]]
    assert np.sum(lost) == 5 * np.sum(over) + sum(5 - steps[-1].lives)


def test_what_a_pool_handed_out_is_never_written_to_again(breakout_play):
    for step, copy in zip(breakout_play.steps, breakout_play.observations, strict=True):
        np.testing.assert_array_equal(step.observations, copy)


def test_replaying_the_actions_brings_a_new_pool_to_the_same_state_and_future(breakout_play):
    # Another number of threads: still the same.
    again = atari.AtariPool(BREAKOUT, 3, seed=11, threads=1)
    for row, step in zip(breakout_play.actions[:500], breakout_play.steps[1:501], strict=True):
        _assert_same(again.step(row), step)


def test_games_that_are_over_may_be_skipped(breakout_play):
    """The game in progress alone is played again, and everything after it is the same."""
    steps = breakout_play.steps
    over = np.stack([step.over for step in steps[:400]])
    counts = over.sum(axis=0)
    begun = np.array([np.flatnonzero(column)[-1] + 1 for column in over.T])
    assert (counts >= 1).all() and len(set(begun)) == 3
    pool = atari.AtariPool(BREAKOUT, 3, seed=11)
    pool.skip(counts)
    handed_out = []
    for time in range(begun.min(), 400):
        rows = np.flatnonzero(begun <= time)
        handed_out.append((pool.last.observations, pool.last.observations.copy()))
        np.testing.assert_array_equal(
            pool.last.observations[rows], breakout_play.observations[time][rows]
        )
        pool.step(breakout_play.actions[time][rows], rows)
    assert all((array == copy).all() for array, copy in handed_out)
    # From here on all step; a game that began with the very last step is what was skipped to.
    for time in range(400, 550):
        _assert_same(pool.last._replace(valid=steps[time].valid), steps[time])
        pool.step(breakout_play.actions[time])


def test_states_tell_emulators_apart_and_the_same_ones_alike():
    pools = [atari.AtariPool(PONG, 2, seed=7) for _ in range(2)]
    first = pools[0].states
    assert first.dtype == np.uint32 and first.shape == (2,)
    np.testing.assert_array_equal(first, pools[1].states)
    pools[0].step(np.array([3, 0]))
    pools[1].step(np.array([3, 4]))
    same = pools[0].states == pools[1].states
    assert same[0] and (pools[0].states != first).all()
    # One environment steps: the other's memory stays.
    before = pools[0].states
    pools[0].step(np.array([4]), np.array([1]))
    assert (pools[0].states == before).tolist() == [True, False]


def test_the_same_seed_and_actions_give_the_same_steps_and_another_seed_others():
    actions = np.random.default_rng(3).choice(PONG.actions, (50, 2))
    first, again, other = (_play(atari.AtariPool(PONG, 2, seed=s), actions) for s in (7, 7, 1007))
    for a, b in zip(first, again, strict=True):
        _assert_same(a, b)
    assert any((a.observations != b.observations).any() for a, b in zip(first, other, strict=True))


def test_actions_are_ale_ids():
    # Freeway's actions are NOOP 0, UP 2 and DOWN 5: only a chicken that walks up ever scores.
    pool = atari.AtariPool(FREEWAY, 2, seed=0)
    for _ in range(300):
        pool.step(np.array([2, 5]))
    assert pool.last.scores[0] >= 2
    assert pool.last.scores[1] == 0


def test_right_is_right_and_left_is_left():
    pool = atari.AtariPool(BREAKOUT, 2, seed=0)
    for _ in range(20):
        step = pool.step(np.array([3, 4]))
    # The paddle is the only thing in its rows between the walls.
    rows = step.observations[:, -1, 75:77, 5:79].astype(float).sum(axis=1)
    right, left = (rows * np.arange(rows.shape[1])).sum(axis=1) / rows.sum(axis=1)
    assert right > left + 20


def test_every_action_reaches_envpool_at_its_place_in_the_minimal_set(scripted_envpool):
    player = scripted_envpool([[(0.0, False, False, 0)] * 6])
    pool = atari.AtariPool(PONG, 6, seed=0)
    pool.send(np.array([12, 11, 4, 3, 1, 0]))  # Pong's actions are 0, 1, 3, 4, 11, 12
    np.testing.assert_array_equal(player.sent, [[5, 4, 3, 2, 1, 0]])


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (
            np.array([0, 2]),
            r"actions \[0, 2\] are not all among its valid ones: 0 \(NOOP\), 1 \(FIRE\), 3 ",
        ),
        (np.array([0, 18]), "are not all among"),
        (np.array([0, 10_000]), "are not all among"),
        (np.array([-1, 0]), "are not all among"),
        (np.array([0]), r"expected 2 integer actions, got int64 of shape \(1,\)"),
        (np.array([0, 0, 0]), r"of shape \(3,\)"),
        (np.array([[0, 0]]), r"of shape \(1, 2\)"),
        (np.array(0), r"of shape \(\)"),
        (np.array([0.0, 1.0]), "expected 2 integer actions, got float64"),
        (np.array([False, True]), "got bool"),
    ],
)
def test_bad_actions_are_refused_before_the_emulator_sees_them(pong, actions, message):
    before = pong.last
    with pytest.raises(ValueError, match=f"pong: .*{message}"):
        pong.step(actions)
    assert pong.last is before


def test_a_refused_action_leaves_the_pool_usable(pong):
    age = pong.last.ages.copy()
    with pytest.raises(ValueError, match=r"valid ones: .* 12 \(LEFTFIRE\)$"):
        pong.send(np.array([0, 17]))
    np.testing.assert_array_equal(pong.step(np.array([0, 1], np.uint8)).ages, age + 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([2], r"rows are \[2\], expected indices of environments from 0 to 1, each once"),
        ([-1], r"rows are \[-1\], expected"),
        ([0, 0], r"rows are \[0, 0\], expected"),
        ([1, 0, 1], r"rows are \[1, 0, 1\], expected"),
        ([True, False], r"rows are bool of shape \(2,\), expected"),
        ([0.0], r"rows are float64 of shape \(1,\), expected"),
        ([[0, 1]], r"rows are int64 of shape \(1, 2\), expected"),
        (1, r"rows are int64 of shape \(\), expected"),
    ],
)
def test_bad_rows_are_refused_before_the_emulator_sees_them(pong, rows, message):
    before, actions = pong.last, np.zeros(np.size(rows), int)
    with pytest.raises(ValueError, match=f"pong: {message}") as error:
        pong.step(actions, rows)
    assert pong.last is before and "\n" not in str(error.value)


def test_rows_come_in_any_order_and_as_any_integers(pong):
    ages = pong.last.ages.copy()
    for rows in ([1], np.array([1, 0], np.uint8), (0,)):
        pong.step(np.zeros(len(rows), int), rows)
    np.testing.assert_array_equal(pong.last.ages, ages + 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0, expected at least 1"),
        ({"num_envs": -3}, "num_envs is -3"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"view": Vector(8)}, r"shows View\(height=84, .*\), not Vector\(size=8\)"),
    ],
)
def test_what_would_crash_envpool_is_refused(options, message):
    with pytest.raises(ValueError, match=f"pong:? {message}"):
        atari.AtariPool(PONG, **({"num_envs": 1, "seed": 0} | options))


def test_the_step_limit_truncates():
    pool = atari.AtariPool(PONG, 2, seed=0, max_steps=20)
    steps = _play(pool, np.zeros((65, 2), int))
    over = [t for t, step in enumerate(steps, 1) if step.over.any()]
    assert over == [20, 41, 62]  # the reset takes a step of its own
    for t in over:
        step = steps[t - 1]
        assert step.over.all() and step.truncated.all()
        np.testing.assert_array_equal(step.ages, [20, 20])
    assert not any(step.truncated.any() for t, step in enumerate(steps, 1) if t not in over)


def test_a_system_that_does_not_say_which_cores_are_free_is_played_on_all(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert meshes.cores() == os.cpu_count()
    assert atari.AtariPool(PONG, 1, seed=0).last.ages == 0
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert meshes.cores() == 1


def test_the_view_is_what_the_pool_shows():
    view = View(height=42, width=50, stack=2)
    area = atari.AtariPool(PONG, 1, seed=0, view=view).last.observations
    linear = atari.AtariPool(
        PONG, 1, seed=0, view=View(height=42, width=50, stack=2, resize="linear")
    ).last.observations
    assert area.shape == linear.shape == (1, *view.shape)
    assert (area != linear).any()


def test_rewards_are_the_games_own_and_a_life_is_not_a_game():
    game = tasks.get("carnival")
    pool = atari.AtariPool(game, 2, seed=3)
    steps = _play(pool, np.random.default_rng(0).choice(game.actions, (40, 2)))
    assert {20.0} <= {reward for step in steps for reward in step.rewards.tolist()}


def test_observations_are_envpools_own():
    pool = atari.AtariPool(PONG, 1, seed=5)
    raw = envpool.make(
        PONG.env_id, env_type="gymnasium", num_envs=1, seed=5, episodic_life=False, noop_max=30
    )
    np.testing.assert_array_equal(pool.last.observations, raw.reset()[0])
    for action, index in ((11, 4), (0, 0), (3, 2), (12, 5)):
        np.testing.assert_array_equal(
            pool.step(np.array([action])).observations, raw.step(np.array([index]))[0]
        )


# A script: one row per step and environment, (reward, ended, cut, lives).
_QUIET = (1.0, False, False, 5)
_SCRIPT = [
    [(1.0, False, False, 5), _QUIET],
    [(20.0, False, False, 4), _QUIET],  # a life lost: the game goes on, its reward unclipped
    [(3.0, True, False, 0), _QUIET],  # the last life: over
    [(100.0, False, False, 5), _QUIET],  # the reset; whatever it reports was not played
    [(4.0, False, False, 5), _QUIET],
    [(-5.0, False, True, 5), _QUIET],  # the step limit: truncated
    [(100.0, True, True, 0), _QUIET],  # the reset, with even more junk
    [(7.0, True, True, 0), _QUIET],  # ends by itself on the very last step: over, not truncated
    [(0.0, False, False, 5), _QUIET],
]


def test_scripted_games_are_accounted_for_by_hand(scripted_envpool):
    scripted_envpool(_SCRIPT)
    pool = atari.AtariPool(BREAKOUT, 2, seed=0)
    steps = _play(pool, np.zeros((9, 2), int))

    def column(name, slot=0):
        return [getattr(step, name)[slot].item() for step in steps]

    yes, no = True, False
    assert column("rewards") == [1, 20, 3, 0, 4, -5, 0, 7, 0]
    assert column("valid") == [yes, yes, yes, no, yes, yes, no, yes, no]
    assert column("over") == [no, no, yes, no, no, yes, no, yes, no]
    assert column("truncated") == [no, no, no, no, no, yes, no, no, no]
    assert column("scores") == [1, 21, 24, 0, 4, -1, 0, 7, 0]
    assert column("ages") == [1, 2, 3, 0, 1, 2, 0, 1, 0]
    assert column("lives") == [5, 4, 0, 5, 5, 5, 0, 0, 5]
    # The neighbour is none the wiser.
    assert column("scores", 1) == column("ages", 1) == list(range(1, 10))
    assert all(column("valid", 1)) and not any(column("over", 1) + column("truncated", 1))


def test_a_game_without_lives_ends_when_the_emulator_says(scripted_envpool):
    scripted_envpool([[(1.0, False, False, 0)], [(-1.0, True, False, 0)]], lives=0)
    pool = atari.AtariPool(PONG, 1, seed=0)
    assert [s.over.item() for s in _play(pool, np.zeros((2, 1), int))] == [False, True]
