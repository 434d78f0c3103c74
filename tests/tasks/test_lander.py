"""The lander variants on the real physics: their pools' books, their wind, how episodes end."""

import sys

import numpy as np
import pytest

from jaxdistill.tasks import lander

pytest.importorskip("Box2D")


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
        worlds = pool._envs.envs
        pool.step(
            np.array([heuristic(w, x) for w, x in zip(worlds, pool.last.observations, strict=True)])
        )
        for i in np.flatnonzero(pool.last.over):
            landed = tuple(bool(facts[i]) for facts in vars(pool.landing).values())
            ended.setdefault(i, (pool.last.scores[i], pool.last.ages[i], *landed))
    returns, lengths, at_rest, on_pad, crashed = zip(*ended.values(), strict=True)
    return np.mean(returns), np.mean(lengths), sum(at_rest), sum(on_pad), sum(crashed)


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


@pytest.mark.parametrize("variant", lander.LANDERS.values(), ids=lambda v: v.name)
def test_seed_and_actions_say_everything(variant):
    pool, actions, steps = _recorded(variant, steps=150)
    again = lander.LanderPool(variant, 3, seed=3)
    for a, b in zip(again.replay(actions), pool.last, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(vars(again.landing).values(), vars(pool.landing).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="replay needs a fresh pool"):
        again.replay(actions)
    other = lander.LanderPool(variant, 3, seed=6)
    assert (other.last.observations != steps[0].observations).any()
    # Environment i draws from the seed plus i, whatever is beside it.
    alone = lander.LanderPool(variant, 1, seed=5)
    for row, step in zip(actions[:100], steps[1:], strict=False):
        np.testing.assert_array_equal(alone.step(row[2:]).observations[0], step.observations[2])


def test_wind_pushes_and_gravity_pulls():
    """With the engines off, the first 30 steps of the same fall."""
    falls = {}
    for variant in lander.LANDERS.values():
        pool = lander.LanderPool(variant, 4, seed=8)
        steps = [pool.last, *(pool.step(np.zeros(4, int)) for _ in range(30))]
        falls[variant.name] = _column(steps, "observations")
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


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 4], "actions [0, 4] are not all among 0 (none)"),
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


def test_without_box2d_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(ValueError, match=r"lander/windy needs Box2D .*jaxdistill\[lander\]"):
        lander.LanderPool(lander.WINDY, 1, seed=0)
