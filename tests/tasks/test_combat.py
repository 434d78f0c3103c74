"""The combat tasks in their pools: scripts and random play, seeds, ends, what is skipped."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxdistill import tasks
from jaxdistill.tasks import combat
from jaxdistill.tasks.combat import environments, scripts, views
from jaxdistill.tasks.views import Vector, View

NUM_ENVS = 32
SCRIPTED, RANDOM = slice(0, 16), slice(16, NUM_ENVS)
MORTAL = combat.duel(health=10)


@functools.cache
def _script(name):
    return jax.jit(jax.vmap(scripts.SCRIPTS.get(name, scripts.duel)))


def _whole(task, own, other=0.0):
    """Actions `(N, 9)` of a task's own entries; the others, which it has not, are all `other`."""
    actions = np.full((len(own), 9), other, np.float32)
    actions[:, task.actions] = own
    return actions


def _actions(pool, key):
    """The first half of the slots is played by the script, the others at random."""
    own = np.array(scripts.at_random(pool.environment, key, pool.num_envs))
    scripted = _script(pool.environment.name)(pool.episodes)
    own[SCRIPTED] = np.asarray(scripted)[SCRIPTED]
    return _whole(pool.task, own)


@functools.cache
def _played(task, steps=None):
    """A pool, its actions and its steps; by default one episode of every slot."""
    pool = task.pool(NUM_ENVS, seed=3)
    actions, played = [], [pool.last]
    for step in range(steps or task.max_steps):
        actions.append(_actions(pool, jax.random.PRNGKey(step)))
        played.append(pool.step(actions[-1]))
    return pool, np.stack(actions), played


def _column(steps, name):
    return np.stack([getattr(step, name) for step in steps])


def _same(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _seen(task, observations):
    """`(..., D)`, what the task's own policy sees of what the pool shows."""
    return task.view.see(observations[..., 0, :])


# Measured over 256 episodes of each, the scripts' mean returns are 134, -5.0, 63 and 3053 (by the
# level of hits), those of random play -64, -212, -87 and -646. Bounds are wide: these are 16 of
# each.


def test_walking():
    pool, _, steps = _played(combat.MOVEMENT)
    returns, facts = steps[-1].scores, pool.facts
    assert steps[-1].over.all() and steps[-1].truncated.all()
    assert returns[SCRIPTED].mean() > 110 and -90 < returns[RANDOM].mean() < -40
    share = facts["near"]
    np.testing.assert_array_equal(share, np.asarray(pool.episodes.near) / 300)
    assert share[SCRIPTED].mean() > 0.65 and 0.05 < share[RANDOM].mean() < 0.3


def test_time_in_the_band_counts_after_the_first_hundred_ticks():
    _, actions, _ = _played(combat.MOVEMENT)
    pool, near = combat.MOVEMENT.pool(NUM_ENVS, seed=3), np.zeros(NUM_ENVS)
    for tick, row in enumerate(actions[:130], start=1):
        pool.step(row)
        state = jax.device_get(pool.episodes)
        x, _, z = (state.target.position - state.agent.position).T
        here = (np.hypot(x, z) >= 2) & (np.hypot(x, z) <= 3.5)
        if tick > 100:
            near = near + here
        np.testing.assert_array_equal(pool.facts["near"], near / max(tick - 100, 1))
    assert here.any() and not here.all()


def test_aiming():
    pool, _, steps = _played(combat.AIMING)
    returns, facts = steps[-1].scores, pool.facts
    # A few begin with a look far away and a walk past, and cost more than all others.
    assert returns[SCRIPTED].mean() > -9 and np.median(returns[SCRIPTED]) > -5.5
    assert -230 < returns[RANDOM].mean() < -190
    assert facts["yaw_error"][SCRIPTED].mean() < 4
    assert 75 < facts["yaw_error"][RANDOM].mean() < 110
    on_body = facts["on_body"]
    assert on_body[SCRIPTED].mean() > 0.9 and on_body[RANDOM].mean() < 0.05


def test_the_mean_yaw_error_is_of_every_tick():
    """In degrees, from what is seen after each: the sine and cosine of the error."""
    pool = combat.AIMING.pool(NUM_ENVS, seed=3)
    errors = []
    for row in _played(combat.AIMING)[1][:20]:
        sine, cosine, *_ = _seen(combat.AIMING, pool.step(row).observations).T
        errors.append(np.degrees(np.abs(np.arctan2(sine, cosine))))
        np.testing.assert_allclose(pool.facts["yaw_error"], np.mean(errors, axis=0), rtol=1e-3)


def test_clicking():
    pool, _, steps = _played(combat.CLICKING)
    returns, facts = steps[-1].scores, pool.facts
    assert returns[SCRIPTED].mean() > 55 and -100 < returns[RANDOM].mean() < -75
    hits = facts["dealt"]
    assert 22 < hits[SCRIPTED].mean() < 28 and 22 < hits[RANDOM].mean() < 28
    clicks = np.asarray(pool.episodes.clicks)
    assert hits[SCRIPTED].sum() > 0.75 * clicks[SCRIPTED].sum()
    assert hits[RANDOM].sum() < 0.12 * clicks[RANDOM].sum()
    assert clicks[RANDOM].mean() == pytest.approx(300, abs=15)
    np.testing.assert_allclose(facts["hit_rate"], hits / clicks)
    fresh = combat.CLICKING.pool(2, seed=3)
    np.testing.assert_array_equal(fresh.facts["hit_rate"], [0, 0])


def test_duel():
    """With 100 health nobody dies in 400 ticks; the script wins all by hits, and to ten."""
    pool, _, steps = _played(combat.DUEL)
    facts = pool.facts
    assert steps[-1].truncated.all() and (np.asarray(pool.episodes.tick) == 400).all()
    assert facts["dealt"][SCRIPTED].mean() > 28 and facts["taken"][SCRIPTED].mean() < 4
    assert facts["won"][SCRIPTED].all() and facts["won_to_ten"][SCRIPTED].all()
    assert facts["dealt"][RANDOM].mean() < 1 and 10 < facts["taken"][RANDOM].mean() < 16
    assert facts["lost"][RANDOM].all() and not facts["won"][RANDOM].any()
    # 1 for a hit dealt and -1 for one taken.
    np.testing.assert_array_equal(steps[-1].scores, facts["dealt"] - facts["taken"])


def test_the_level_of_hits_is_another_reward_of_the_same_duel():
    """The reference's: of the totals so far 0.5 and -0.25, and 0.015 of the health that is left."""
    hits, actions, steps = _played(combat.DUEL)
    pool, same, levels = _played(combat.DUEL_LEVEL)
    np.testing.assert_allclose(actions, same, atol=1e-5)  # two programs, compiled each for itself
    for name, numbers in hits.facts.items():
        np.testing.assert_allclose(pool.facts[name], numbers, rtol=1e-4, atol=1e-4)
    level = 0.515 * pool.facts["dealt"] - 0.265 * pool.facts["taken"]
    np.testing.assert_allclose(levels[-1].rewards, level, atol=1e-4)
    assert levels[-1].scores[SCRIPTED].mean() > 2500
    assert (levels[-1].scores != steps[-1].scores).all()


def test_who_was_first_to_ten_stays_first():
    pool = combat.DUEL.pool(NUM_ENVS, seed=3)
    start = pool.episodes
    for dealt, taken, before, after in (
        (9, 3, 0, 0),
        (10, 3, 0, 1),
        (3, 10, 0, -1),
        (10, 10, 0, 0),  # in one tick
        (12, 10, 1, 1),
        (12, 10, -1, -1),
    ):
        counts = {"hits_dealt": dealt, "hits_taken": taken, "first_to_ten": before}
        counts = {name: np.full(NUM_ENVS, count, np.int32) for name, count in counts.items()}
        pool.episodes = start.replace(**counts)
        pool.step(np.zeros((NUM_ENVS, 9)))
        facts, case = pool.facts, (dealt, taken, before)
        assert (facts["won_to_ten"] == (after > 0)).all(), case
        assert (facts["lost_to_ten"] == (after < 0)).all(), case
        for name, sign in (("won", 1), ("drawn", 0), ("lost", -1)):
            assert (facts[name] == (np.sign(dealt - taken) == sign)).all(), case


def test_a_duel_of_health_ten_ends_by_death_and_the_next_begins():
    _, _, steps = _played(MORTAL, 450)
    over, valid, ages = (_column(steps, name) for name in ("over", "valid", "ages"))
    np.testing.assert_array_equal(valid[1:], ~over[:-1])
    assert over[:, SCRIPTED].any(axis=0).all()
    # Not one of the ends was the step limit's, unless it came with the 400th tick.
    assert (ages[_column(steps, "truncated")] == 400).all()
    dead = over & ~_column(steps, "truncated")
    assert dead[:, SCRIPTED].sum() >= 32 and (ages[dead] >= 100).any() and (ages[dead] < 400).all()
    # The script deals its tenth hit first. +1 for a hit, -1 for one taken.
    scores = _column(steps, "scores")
    assert (scores[dead][ages[dead] > 0] <= 10).all()
    assert scores[:, SCRIPTED][dead[:, SCRIPTED]].mean() > 7
    assert set(np.unique(_column(steps, "rewards"))) <= {-1.0, 0.0, 1.0}
    for slot in range(NUM_ENVS):
        score, age = 0.0, 0
        for step in steps[1:]:
            score = score + float(step.rewards[slot]) if step.valid[slot] else 0.0
            age = age + 1 if step.valid[slot] else 0
            assert step.rewards[slot] == 0 or step.valid[slot]
            assert (step.scores[slot], step.ages[slot]) == (score, age)
    # Half of 20 is what both see of ten; where an episode begins, both have it all.
    health = _seen(MORTAL, _column(steps, "observations"))[..., 12:14]
    np.testing.assert_array_equal(health[~valid], 0.5)
    assert (health[dead].min(axis=-1) == 0).all()


def test_facts_of_a_duel_that_has_ended():
    pool = MORTAL.pool(NUM_ENVS, seed=3)
    ended = {}
    for row in _played(MORTAL, 450)[1]:
        step = pool.step(row)
        if step.over.any():
            facts = pool.facts | {"clicks": np.asarray(pool.episodes.clicks), "ages": step.ages}
            for i in np.flatnonzero(step.over):
                ended.setdefault(int(i), {name: x[i] for name, x in facts.items()})
    wins = [facts for i, facts in ended.items() if i < 16]
    assert len(wins) == 16
    for facts in wins:
        assert (facts["dealt"], facts["won"], facts["won_to_ten"]) == (10, 1, 1)
        assert facts["drawn"] == facts["lost"] == facts["lost_to_ten"] == 0
        assert facts["taken"] < 10 and facts["clicks"] >= 10 and facts["ages"] >= 91
        assert facts["hit_rate"] == 10 / facts["clicks"]
    # Ten hits are first to ten as they end the duel, and the bot's are the bot's.
    lost = [facts for i, facts in ended.items() if i >= 16 and facts["taken"] == 10]
    assert lost and all(f["lost"] == f["lost_to_ten"] == 1 and not f["won"] for f in lost)


def test_facts_are_those_of_the_suite_and_each_task_tells_some():
    told = set()
    for task in combat.COMBATS.values():
        pool = _played(task)[0]
        assert tuple(pool.facts) == task.suite.facts
        assert all(x.shape == (NUM_ENVS,) and x.dtype == float for x in pool.facts.values())
        assert set(task.facts) < set(task.suite.facts)
        told |= set(task.facts)
    assert told == set(combat.COMBAT.facts)


@pytest.mark.parametrize("task", combat.COMBATS.values(), ids=lambda task: task.name)
def test_seed_and_actions_say_everything(task):
    pool, actions, steps = _played(task)
    again = task.pool(NUM_ENVS, seed=3)
    assert _same(again.last, steps[0])
    # What is no part of a task's actions changes nothing.
    own = actions[..., task.actions]
    for row in own:
        again.step(_whole(task, row, other=1.0))
    assert _same(again.last, steps[-1]) and _same(again.episodes, pool.episodes)
    np.testing.assert_array_equal(again.states, pool.states)
    # Environment i begins from the seed plus i.
    other = task.pool(NUM_ENVS, seed=4)
    np.testing.assert_array_equal(other.last.observations[:-1], steps[0].observations[1:])
    assert (other.last.observations != steps[0].observations).any(axis=(1, 2)).all()
    assert len(np.unique(steps[0].observations, axis=0)) == NUM_ENVS


@pytest.mark.parametrize("task", [combat.MOVEMENT, MORTAL], ids=lambda task: task.name)
def test_skipping_games_and_playing_on_is_as_if_all_had_been_played(task):
    """As a run resumes: the games that are over are left out, those in progress played again.

    Each environment by itself, from where its own game began.
    """
    length = task.max_steps + 50
    pool, actions, steps = _played(task, length)
    over = _column(steps, "over")[:-1]
    again = task.pool(NUM_ENVS, seed=3)
    again.skip(over.sum(axis=0))
    begun = np.where(over.any(axis=0), length - np.argmax(over[::-1], axis=0), 0)
    assert over.any(axis=0).all() and (task is combat.MOVEMENT or len(set(begun)) > 8)
    checked = 0
    for time in range(begun.min(), length):
        rows = np.flatnonzero(begun <= time)
        before = again.last
        for a, b in zip(before, steps[time], strict=True):
            np.testing.assert_array_equal(a[rows], b[rows])
        last = again.step(actions[time][rows], rows)
        still = np.setdiff1d(np.arange(NUM_ENVS), rows)
        assert all((x[still] == y[still]).all() for x, y in zip(last, before, strict=True))
        checked += len(still)
    assert _same(again.last, steps[-1]) and _same(again.episodes, pool.episodes)
    np.testing.assert_array_equal(again.states, pool.states)
    assert checked or task is combat.MOVEMENT


def test_some_may_step_alone_and_in_any_order():
    both, one = (MORTAL.pool(NUM_ENVS, seed=3) for _ in range(2))
    actions = _played(MORTAL, 450)[1]
    for row in actions[:5]:
        both.step(row)
        one.step(row)
    rows = np.array([3, 31, 1])
    others = np.setdiff1d(np.arange(NUM_ENVS), rows)
    before, states = one.last, one.states
    step = one.step(actions[5][rows], rows)
    wanted = both.step(actions[5])
    for name, got in step._asdict().items():
        np.testing.assert_array_equal(got[rows], getattr(wanted, name)[rows])
        np.testing.assert_array_equal(got[others], getattr(before, name)[others])
    np.testing.assert_array_equal(one.states[rows], both.states[rows])
    np.testing.assert_array_equal(one.states[others], states[others])
    assert (one.states[rows] != states[rows]).all()


def test_a_checksum_is_of_all_that_an_episode_is():
    pool = combat.DUEL.pool(NUM_ENVS, seed=3)
    for row in _played(combat.DUEL)[1][:30]:
        pool.step(row)
    before, whole = pool.states, jax.device_get(pool.episodes)
    assert before.dtype == np.uint32 and len(set(before.tolist())) == NUM_ENVS
    leaves, tree = jax.tree.flatten(whole)
    for at, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(whole)):
        changed = leaf.copy()
        changed[1] = ~changed[1] if leaf.dtype == bool else changed[1] + 1
        pool.episodes = tree.unflatten([*leaves[:at], changed, *leaves[at + 1 :]])
        differ = np.flatnonzero(pool.states != before)
        assert differ.tolist() == [1], jax.tree_util.keystr(path)


def test_an_episode_is_what_seed_environment_and_its_number_say():
    """Nothing of any earlier one is left, and none need have been."""
    _, _, steps = _played(combat.MOVEMENT, 450)
    assert _column(steps, "over").sum(axis=0).tolist() == [1] * NUM_ENVS
    ended = combat.MOVEMENT.pool(NUM_ENVS, seed=3)
    for row in _played(combat.MOVEMENT)[1]:
        ended.step(row)
    before = jax.device_get(ended.episodes)
    assert before.over.all() and before.target_turn.any() and before.target.sprinting.any()
    assert not ended.step(np.ones((NUM_ENVS, 9))).rewards.any()
    begun = jax.device_get(ended.episodes)
    seeds = jax.vmap(jax.random.PRNGKey)(3 + np.arange(NUM_ENVS))
    reset = jax.jit(jax.vmap(functools.partial(environments.reset, environments.MOVEMENT)))

    @functools.cache
    def number(episode):
        fresh = reset(jax.vmap(jax.random.fold_in, (0, None))(seeds, episode))
        return fresh.replace(seed=seeds, episode=np.full(NUM_ENVS, episode))

    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(begun), jax.tree.leaves(number(1)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=jax.tree_util.keystr(path))
    assert not (begun.tick.any() or begun.target_turn.any() or begun.target.yaw.any())
    assert not (begun.target.sprinting.any() or begun.target.velocity.any())
    assert (begun.agent.yaw != before.agent.yaw).all()
    skipped = combat.MOVEMENT.pool(NUM_ENVS, seed=3)
    skipped.skip(np.arange(NUM_ENVS) % 3)
    for episode in range(3):
        rows = np.arange(NUM_ENVS) % 3 == episode
        yaws = np.asarray(number(episode).agent.yaw)[rows]
        np.testing.assert_allclose(np.asarray(skipped.episodes.agent.yaw)[rows], yaws, atol=1e-6)
    # Not what another environment plays with one game more.
    assert len(np.unique(np.concatenate([number(k).agent.yaw for k in range(3)]))) == 3 * NUM_ENVS


def test_what_is_shown_is_every_view_of_the_state():
    for task in (combat.CLICKING, combat.DUEL):
        pool = task.pool(NUM_ENVS, seed=3)
        for row in _played(task)[1][:25]:
            shown = pool.step(row).observations
        assert shown.shape == (NUM_ENVS, 1, 74) and shown.dtype == np.float32
        assert combat.COMBAT.view == Vector(74) == pool.view
        document = views.document_clicking if task is combat.CLICKING else views.duel
        for name, view in (
            ("duel", views.duel),
            ("movement", views.movement),
            ("aiming", views.aiming),
            ("clicking", views.clicking),
            ("document", document),
        ):
            seen = views.part(name).see(shown)[:, 0]
            wanted = jax.jit(jax.vmap(view))(pool.episodes)
            np.testing.assert_allclose(seen, wanted, atol=1e-6, err_msg=name)
    own = {name: task.view for name, task in combat.COMBATS.items()}
    assert own == {
        "combat/movement": views.part("movement"),
        "combat/aiming": views.part("aiming"),
        "combat/clicking": views.part("clicking"),
        "combat/duel": views.part("duel"),
        "combat/duel_level": views.part("duel"),
    }


def test_episodes_begin_where_they_should():
    for task, low, high in (
        (combat.MOVEMENT, 6, 12),
        (combat.AIMING, 6, 12),
        (combat.CLICKING, 2, 3.5),
        (combat.DUEL, 6, 12),
    ):
        state = jax.device_get(task.pool(NUM_ENVS, seed=0).episodes)
        way = state.target.position - state.agent.position
        distance = np.linalg.norm(way, axis=1)
        assert low <= distance.min() < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < distance.max() <= high
        bearing = np.arctan2(way[:, 2], way[:, 0])
        widest = np.pi / 4 if task is combat.CLICKING else np.pi
        assert 0.8 * widest < np.abs(bearing).max() <= widest
        assert (bearing > 0).any() and (bearing < 0).any()
        for body in (state.agent, state.target):
            assert body.on_ground.all() and not body.velocity.any() and (body.health == 100).all()
            assert not (
                body.invulnerable.any() or body.sprinting.any() or body.position[:, 1].any()
            )
        looks = task in (combat.MOVEMENT, combat.AIMING)
        assert state.agent.yaw.any() == state.agent.pitch.any() == looks
        assert state.target.yaw.any() == (task is combat.AIMING)


def test_turns_are_cut_to_what_one_can_turn_and_no_look_goes_past_upright():
    pool = combat.DUEL.pool(NUM_ENVS, seed=3)
    action = np.zeros((NUM_ENVS, 9))
    action[:, 7], action[:, 8] = 0.2, 9.0
    for turns in range(1, 6):
        pool.step(action)
        agent = pool.episodes.agent
        np.testing.assert_allclose(agent.yaw, 0.2 * turns, atol=1e-6)
        np.testing.assert_allclose(agent.pitch, min(np.radians(27 * turns), np.pi / 2), atol=2e-4)
    # Upright still has a front: what is ahead is not behind.
    assert (np.cos(pool.episodes.agent.pitch) > 0).all()


def test_an_experts_turns_are_cut_to_what_its_task_allows():
    """27 degrees in the duel, 36 where one learns to aim; keys' logits are left alone."""
    outputs = np.array([[5.0, -9, 0, 0, 0, 0, 3, 0.6, -2.0]])
    for task, turn in ((combat.DUEL, 27), (combat.AIMING, 36)):
        widest = np.radians(turn)
        limited = np.asarray(task.limited(outputs))
        np.testing.assert_array_equal(limited[:, :7], outputs[:, :7])
        np.testing.assert_allclose(limited[0, 7:], [min(0.6, widest), -widest], rtol=1e-6)


def test_keys_are_down_above_one_half():
    pools = [combat.MOVEMENT.pool(NUM_ENVS, seed=3) for _ in range(3)]
    for pool, value in zip(pools, (0.5, 0.51, True), strict=True):
        pool.step(np.full((NUM_ENVS, 9), value) * (np.arange(9) == 0))
    idle, walking, pressed = (np.asarray(pool.episodes.agent.velocity) for pool in pools)
    assert not idle.any() and walking.any(axis=1).all()
    np.testing.assert_array_equal(walking, pressed)


def test_a_shorter_limit():
    assert dataclasses.replace(environments.DUEL, max_steps=7) == environments.duel(max_steps=7)
    pool = combat.CLICKING.pool(2, seed=0, max_steps=3)
    over = [pool.step(np.zeros((2, 9))).over.tolist() for _ in range(8)]
    assert np.flatnonzero(np.array(over)[:, 0]).tolist() == [2, 6]


def test_a_duels_name_says_its_health_and_reward():
    assert combat.duel() == combat.DUEL and combat.duel(reward="level") == combat.DUEL_LEVEL
    names = [combat.duel(*x).name for x in ((10,), (2.5, "level"))]
    assert names == ["combat/duel_10hp", "combat/duel_level_2.5hp"]
    assert [combat.find(name) for name in names] == [combat.duel(10), combat.duel(2.5, "level")]
    assert combat.find("combat/duel") is None and combat.find("combat/dual_10hp") is None
    assert np.asarray(MORTAL.pool(1, seed=0).episodes.target.health).tolist() == [10]


def test_the_threads_of_a_pool_are_xlas():
    """Asked for several or for one: the same play."""
    one, several = (combat.DUEL.pool(2, seed=5, threads=threads) for threads in (1, 8))
    assert _same(one.last, several.last)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: combat.duel(health=0), "combat/duel_0hp: health is 0, expected at least 1"),
        (lambda: combat.duel(health=float("nan")), "health is nan, expected at least 1"),
        (lambda: combat.find("combat/duel_0hp"), "health is 0, expected at least 1"),
        (lambda: combat.find("combat/duel_-3hp"), "health is -3, expected at least 1"),
        (
            lambda: combat.duel(reward="kills"),
            "no reward 'kills', expected one of ['hits', ",
        ),
        (lambda: combat.AIMING.pool(0, seed=0), "combat/aiming: num_envs is 0"),
        (
            lambda: combat.AIMING.pool(1, seed=0, max_steps=0),
            "combat/aiming: max_steps is 0, expected at least 1",
        ),
        (
            lambda: combat.AIMING.pool(1, seed=0, view=Vector(8)),
            "combat/aiming shows Vector(size=74), not Vector(size=8)",
        ),
        (
            lambda: combat.AIMING.pool(1, seed=0, view=View()),
            "combat/aiming shows Vector(size=74), not View(",
        ),
    ],
)
def test_settings_there_are_not_are_refused(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((NUM_ENVS, 8)), "expected 32 actions of 9 numbers, got float64 of shape (32, 8)"),
        (np.zeros(NUM_ENVS), "of shape (32,)"),
        (np.zeros((NUM_ENVS - 1, 9)), "of shape (31, 9)"),
        (np.full((NUM_ENVS, 9), "w"), "got <U1"),
        (np.full((NUM_ENVS, 9), np.nan), "are not finite"),
    ],
)
def test_actions_there_are_not_are_refused(actions, message):
    pool = combat.DUEL.pool(NUM_ENVS, seed=0)
    before = pool.states
    with pytest.raises(ValueError) as caught:
        pool.send(actions)
    assert message in str(caught.value) and str(caught.value).startswith("combat/duel: ")
    np.testing.assert_array_equal(pool.states, before)
    with pytest.raises(ValueError, match=r"combat/duel: expected 2 actions of 9 numbers, got .* 3"):
        pool.send(np.zeros((3, 9)), np.array([0, 1]))


def test_a_skill_under_a_name_of_one_s_own_is_that_skill(own_tasks):
    """It is no duel: what is seen, told and pressed are those of its environment."""
    for task in combat.COMBATS.values():
        name = task.name.replace("combat/", "combat/long_")
        tasks.add(dataclasses.replace(task, name=name, max_steps=800))
        own = tasks.get(name)
        assert (own.facts, own.view, own.max_steps) == (task.facts, task.view, 800)
        np.testing.assert_array_equal(own.seen, task.seen)
