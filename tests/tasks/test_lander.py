"""The lander variants on the real physics: their pools' books, their wind, how episodes end."""

import sys
import types

import numpy as np
import pytest

from jaxdistill.tasks import lander
from jaxdistill.tasks.task import Step
from jaxdistill.tasks.views import Vector, View

pytest.importorskip("Box2D")


variants = pytest.mark.parametrize("variant", lander.LANDERS.values(), ids=lambda v: v.name)


def _recorded(variant, seed=3, steps=200, num_envs=3, **options):
    """Random play: the pool, the actions `(T, N)`, and every step."""
    pool = lander.LanderPool(variant, num_envs, seed=seed, **options)
    actions = np.random.default_rng(0).integers(0, 4, (steps, num_envs))
    return pool, actions, [pool.last, *(pool.step(row) for row in actions)]


def _column(steps, name):
    return np.stack([getattr(step, name) for step in steps])


def _pilot(variant, num_envs, **options):
    """Gymnasium's own pilot plays one episode in every slot: returns, lengths and landings."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    pool = lander.LanderPool(variant, num_envs, seed=1, **options)
    ended: dict[int, tuple] = {}
    while len(ended) < num_envs:
        seen = pool.last.observations[:, 0]
        pool.step(np.array([heuristic(w, x) for w, x in zip(pool._worlds, seen, strict=True)]))
        for i in np.flatnonzero(pool.last.over):
            landed = tuple(pool.facts[name][i] for name in lander.LANDER.facts)
            ended.setdefault(i, (pool.last.scores[i], pool.last.ages[i], *landed))
    assert lander.LANDER.facts == ("rest", "pad", "crash")
    returns, lengths, at_rest, on_pad, crashed = zip(*ended.values(), strict=True)
    return np.mean(returns), np.mean(lengths), sum(at_rest), sum(on_pad), sum(crashed)


@pytest.mark.parametrize(
    ("x", "legs", "over", "pad", "crash"),
    [
        (10.0, (True, True), False, True, False),  # the middle of the screen, which is 20 wide
        (8.0, (True, True), False, True, False),
        (7.9, (True, True), False, False, False),
        (12.1, (True, True), False, False, False),
        (10.0, (True, False), False, False, False),
        (10.0, (True, True), True, False, True),
        (0.0, (False, False), False, False, True),
        (20.5, (False, False), False, False, True),
    ],
)
def test_a_pad_is_landed_on_between_its_flags_with_both_legs(x, legs, over, pad, crash):
    world = types.SimpleNamespace(
        lander=types.SimpleNamespace(position=types.SimpleNamespace(x=x), awake=True),
        legs=[types.SimpleNamespace(ground_contact=touches) for touches in legs],
        helipad_x1=8.0,
        helipad_x2=12.0,
        game_over=over,
    )
    assert lander._landing(world) == (False, pad, crash)
    world.lander.awake = False
    assert lander._landing(world) == (True, pad, crash)


def test_the_pilot_lands_where_it_can_come_to_rest():
    """20 of its episodes gave 264, 136, 257 and 63 when measured apart; the wind allows no rest."""
    returns, lengths, at_rest, _, crashed = _pilot(lander.STANDARD, 6)
    assert returns > 220 and lengths < 400 and (at_rest, crashed) == (6, 0)
    _, lengths, at_rest, on_pad, crashed = _pilot(lander.WINDY, 6, max_steps=600)
    assert lengths > 500 and at_rest == 0 and on_pad + crashed >= 2
    returns, _, at_rest, _, _ = _pilot(lander.WINDY_AIR, 6)
    assert returns > 150 and at_rest >= 4
    returns, _, at_rest, _, crashed = _pilot(lander.HEAVY, 6)
    assert returns < 180 and at_rest + crashed == 6 and crashed >= 2


def test_scores_are_sums_of_rewards_and_the_step_after_an_end_begins_anew():
    _, _, steps = _recorded(lander.STANDARD)
    over, valid, ages = (_column(steps, name) for name in ("over", "valid", "ages"))
    assert over.any(axis=0).all(), "every slot ends an episode"
    np.testing.assert_array_equal(valid[1:], ~over[:-1])
    for slot in range(3):
        score, age = 0.0, 0
        for step in steps[1:]:
            if not step.valid[slot]:
                assert step.rewards[slot] == 0
                score, age = 0.0, 0
            else:
                score, age = score + float(step.rewards[slot]), age + 1
            assert step.scores[slot] == pytest.approx(score, abs=1e-6)
            assert step.ages[slot] == age
    # A crash costs 100 points, and nothing else does.
    np.testing.assert_array_equal(_column(steps, "rewards") == -100, over)
    assert not _column(steps, "truncated").any() and (ages[0] == 0).all()


def test_what_is_over_its_step_limit_is_cut_and_not_ended():
    _, _, steps = _recorded(lander.STANDARD, steps=45, max_steps=20)
    over, cut = _column(steps, "over"), _column(steps, "truncated")
    np.testing.assert_array_equal(over, cut)
    # Twenty steps and one that begins anew, and again.
    assert np.flatnonzero(over[:, 0]).tolist() == [20, 41]
    limits = [lander.LANDERS[f"lander/{n}"].max_steps for n in ("standard", "windy", "heavy")]
    assert limits == [1000, 400, 800]


def _assert_same(a, b):
    for name, x, y in zip(Step._fields, a, b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)
        assert x.dtype == y.dtype, name


def test_shapes_and_types_of_a_step():
    step = lander.LanderPool(lander.HEAVY, 2, seed=1).step(np.array([0, 2], np.uint8))
    assert step.observations.shape == (2, 1, 8) and step.observations.dtype == np.float32
    kinds = {name: x.dtype.name for name, x in step._asdict().items() if name != "observations"}
    assert kinds == {
        "rewards": "float32",
        "valid": "bool",
        "over": "bool",
        "truncated": "bool",
        "lives": "int32",
        "scores": "float64",
        "ages": "int32",
    }


@variants
def test_seed_and_actions_say_everything(variant):
    pool, actions, steps = _recorded(variant, steps=150)
    again = lander.LanderPool(variant, 3, seed=3)
    for row, step in zip(actions, steps[1:], strict=True):
        _assert_same(again.step(row), step)
    np.testing.assert_array_equal(again.states, pool.states)
    for name, numbers in pool.facts.items():
        np.testing.assert_array_equal(again.facts[name], numbers, err_msg=name)
    # Environment i draws from the seed plus i, whatever is beside it.
    alone = lander.LanderPool(variant, 1, seed=5)
    for row, step in zip(actions, steps[1:], strict=True):
        np.testing.assert_array_equal(alone.step(row[2:]).observations[0], step.observations[2])


@variants
def test_every_episode_begins_in_its_own_way_and_another_seed_begins_others(variant):
    """Cut after two steps, so that the fourth episode begins with the ninth step."""

    def begun(seed):
        _, _, steps = _recorded(variant, seed=seed, steps=10, max_steps=2)
        first = [step.observations for step in steps if (step.ages == 0).all()]
        assert len(first) == 4
        return {x.tobytes() for x in np.concatenate(first)}

    assert len(begun(3)) == 4 * 3, "of three environments, and none begins as another"
    assert begun(3) == begun(3)
    assert not begun(3) & begun(6)


def test_wind_changes_neither_the_ground_nor_the_first_push():
    """Though it draws at every step, and episodes have ended: the third ones are looked at."""
    still, windy = (
        _recorded(variant, steps=13, max_steps=5)[0] for variant in (lander.STANDARD, lander.WINDY)
    )
    assert still.last.ages.tolist() == windy.last.ages.tolist() == [1] * 3
    grounds = [[str(world.sky_polys) for world in pool._worlds] for pool in (still, windy)]
    assert grounds[0] == grounds[1] and len(set(grounds[0])) == 3
    # Upwards nothing blows: the push at the start and the fall are all there is.
    shown = [pool.last.observations[:, 0] for pool in (still, windy)]
    np.testing.assert_allclose(shown[0][:, [1, 3]], shown[1][:, [1, 3]], atol=1e-3)
    assert (shown[0][:, 2] != shown[1][:, 2]).all()


@variants
def test_episodes_that_are_over_may_be_skipped(variant):
    """The episodes in progress alone are played again, and everything after is the same."""
    whole, actions, steps = _recorded(variant, steps=240, max_steps=90)
    over = _column(steps[:200], "over")
    counts = over.sum(axis=0)
    begun = np.array([np.flatnonzero(column)[-1] + 1 for column in over.T])
    assert (counts >= 2).all() and len(set(begun)) > 1
    pool = lander.LanderPool(variant, 3, seed=3, max_steps=90)
    pool.skip(counts)
    for time in range(begun.min(), 200):
        rows = np.flatnonzero(begun <= time)
        for name in Step._fields:
            if name != "valid":  # of an episode that was skipped to, nothing was played yet
                np.testing.assert_array_equal(
                    getattr(pool.last, name)[rows], getattr(steps[time], name)[rows], err_msg=name
                )
        pool.step(actions[time][rows], rows)
    _assert_same(pool.last, steps[200])
    for row, step in zip(actions[200:], steps[201:], strict=True):
        _assert_same(pool.step(row), step)
    np.testing.assert_array_equal(pool.states, whole.states)
    for name, numbers in whole.facts.items():
        np.testing.assert_array_equal(pool.facts[name], numbers, err_msg=name)


def test_only_the_rows_that_step_move_and_what_was_handed_out_stays():
    pool = lander.LanderPool(lander.WINDY, 3, seed=2)
    pool.skip(np.array([0, 4, 0]))
    fresh = lander.LanderPool(lander.WINDY, 3, seed=2)
    assert (pool.states == fresh.states).tolist() == [True, False, True]
    before, states, copy = pool.last, pool.states, pool.last.observations.copy()
    assert states.dtype == np.uint32 and len(set(states.tolist())) == 3
    step = pool.step(np.array([2, 3]), np.array([2, 0]))  # in any order
    assert (pool.states == states).tolist() == [False, True, False]
    assert step.ages.tolist() == [1, 0, 1] and step.valid.tolist() == [True, False, True]
    np.testing.assert_array_equal(step.observations[1], before.observations[1])
    np.testing.assert_array_equal(before.observations, copy)
    # As if both had stepped in their own order.
    whole = fresh.step(np.array([3, 0, 2]))
    np.testing.assert_array_equal(step.observations[[0, 2]], whole.observations[[0, 2]])
    np.testing.assert_array_equal(step.rewards[[0, 2]], whole.rewards[[0, 2]])


def test_wind_pushes_and_gravity_pulls():
    """With the engines off, the first 30 steps of the same fall."""
    falls = {}
    for variant in lander.LANDERS.values():
        pool = lander.LanderPool(variant, 4, seed=8)
        steps = [pool.last, *(pool.step(np.zeros(4, int)) for _ in range(30))]
        falls[variant.name] = _column(steps, "observations")[:, :, 0]
    still = falls["lander/standard"]
    sideways, down = still[..., 2], still[..., 3]
    # Without wind the sideways speed stands still. In Box2D's units a step adds wind / mass / 50;
    # pushes of both signs come in about equal number.
    assert np.abs(np.diff(sideways, axis=0)).max() < 2e-3
    pushed = np.diff(falls["lander/windy"][..., 2], axis=0)
    assert (np.abs(pushed) > 2e-3).mean() > 0.8 and 0.3 < (pushed > 0).mean() < 0.7
    # Every environment has gusts of its own, and both windy variants the same ones in the air.
    assert np.abs(np.corrcoef(pushed.T) - np.eye(4)).max() < 0.6
    np.testing.assert_array_equal(falls["lander/windy"], falls["lander/windy_air"])
    # A fall is a quarter faster at -12.5 than at -10.
    heavy = np.diff(falls["lander/heavy"][..., 3], axis=0).mean() / np.diff(down, axis=0).mean()
    assert heavy == pytest.approx(1.25, abs=0.01)


def test_screens_show_the_same_game():
    shown = lander.LanderPool(lander.WINDY, 2, seed=4, render=True)
    plain = lander.LanderPool(lander.WINDY, 2, seed=4)
    first = shown.screens()
    assert first.shape == (2, 400, 600, 3) and first.dtype == np.uint8
    for row in np.random.default_rng(1).integers(0, 4, (60, 2)):
        a, b = shown.step(row), plain.step(row)
    np.testing.assert_array_equal(a.observations, b.observations)
    assert (shown.screens() != first).any()


def test_the_camera_shows_the_episode_that_a_pool_of_one_plays():
    pool = lander.LanderPool(lander.WINDY, 1, seed=4, render=True)
    camera, other = (lander.WINDY.camera(seed=seed) for seed in (4, 5))
    assert camera.frame.shape == (200, 300, 3) and camera.frame.dtype == np.uint8
    np.testing.assert_array_equal(camera.frame, pool.screens()[0, ::2, ::2])
    for action in np.random.default_rng(1).integers(0, 4, 40):
        pool.step(np.array([action]))
        shown = camera.step(int(action))
        other.step(int(action))
        np.testing.assert_array_equal(shown, pool.screens()[0, ::2, ::2])
    assert shown is camera.frame and (other.frame != shown).any()
    assert shown.base is None, "a film of it does not keep four times as many pixels"
    # Its step limit is the pool's: the third step begins another episode.
    cut, whole = (lander.WINDY.camera(seed=4, max_steps=n) for n in (2, None))
    for _ in range(2):
        np.testing.assert_array_equal(cut.step(2), whole.step(2))
    assert (cut.step(2) != whole.step(2)).any()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 4], "actions [0, 4] are not all among its valid ones: 0 (NOOP), 1 (LEFT_ENGINE)"),
        ([-1, 0], "not all among"),
        ([0, 1, 2], "expected 2 integer actions, got int64 of shape (3,)"),
        ([0.0, 1.0], "expected 2 integer actions, got float64"),
    ],
)
def test_actions_there_are_not_are_refused(actions, message):
    pool = lander.LanderPool(lander.HEAVY, 2, seed=0)
    with pytest.raises(ValueError) as caught:
        pool.send(np.array(actions))
    assert message in str(caught.value) and str(caught.value).startswith("lander/heavy: ")


@pytest.mark.parametrize("options", [{"num_envs": 0}, {"num_envs": 1, "max_steps": 0}])
def test_counts_below_one_are_refused(options):
    with pytest.raises(ValueError, match="is 0, expected at least 1"):
        lander.LanderPool(lander.STANDARD, seed=0, **options)


@pytest.mark.parametrize("view", [View(), Vector(9), Vector(7)])
def test_views_of_anything_but_its_eight_numbers_are_refused(view):
    with pytest.raises(ValueError, match=r"lander/heavy shows Vector\(size=8\), not V"):
        lander.LanderPool(lander.HEAVY, 1, seed=0, view=view)


def test_without_box2d_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    lander._world_class.cache_clear()
    with pytest.raises(ValueError, match=r"landers need Box2D .*jaxdistill\[lander\]"):
        lander.LanderPool(lander.WINDY, 1, seed=0)
