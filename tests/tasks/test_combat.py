"""The combat environments in their pools: scripts and random play, seeds, ends, saved states."""

import dataclasses
import functools
import pickle

import jax
import numpy as np
import pytest

from jaxdistill.tasks import combat
from jaxdistill.tasks.combat import environments, scripts

NUM_ENVS = 32
SCRIPTED, RANDOM = slice(0, 16), slice(16, NUM_ENVS)
MORTAL = combat.duel(health=10, reward="hits")


@functools.cache
def _script(name):
    return jax.jit(jax.vmap(scripts.SCRIPTS[name]))


def _actions(pool, key):
    """The first half of the slots is played by the script, the others at random."""
    actions = np.array(scripts.at_random(pool.environment, key, pool.num_envs))
    scripted = _script(pool.environment.name)(pool.state.states)
    actions[SCRIPTED] = np.asarray(scripted)[SCRIPTED]
    return actions


@functools.cache
def _played(environment, steps=None):
    """A pool, its actions and its steps; by default one episode of every slot."""
    pool = combat.CombatPool(environment, NUM_ENVS, seed=3)
    actions, played = [], [pool.last]
    for step in range(steps or environment.max_steps):
        actions.append(_actions(pool, jax.random.PRNGKey(step)))
        played.append(pool.step(actions[-1]))
    return pool, np.stack(actions), played


def _column(steps, name):
    return np.stack([getattr(step, name) for step in steps])


def _same(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# Measured over 256 episodes of each, the scripts' mean returns are 136, -5.3, 63 and 3053, those of
# random play -64, -212, -87 and -646. Bounds are wide: these are 16 of each.


def test_walking():
    pool, _, steps = _played(combat.MOVEMENT)
    returns, facts = steps[-1].scores, pool.facts
    assert steps[-1].over.all() and steps[-1].truncated.all()
    assert returns[SCRIPTED].mean() > 110 and -90 < returns[RANDOM].mean() < -40
    assert (facts.near_of == 300).all()
    share = facts.near / facts.near_of
    assert share[SCRIPTED].mean() > 0.65 and 0.05 < share[RANDOM].mean() < 0.3


def test_time_in_the_band_counts_after_the_first_hundred_ticks():
    _, actions, _ = _played(combat.MOVEMENT)
    pool, near = combat.CombatPool(combat.MOVEMENT, NUM_ENVS, seed=3), 0
    for tick, row in enumerate(actions[:130], start=1):
        pool.step(row)
        state, facts = pool.state.states, pool.facts
        x, _, z = (state.target.position - state.agent.position).T
        here = (np.hypot(x, z) >= 2) & (np.hypot(x, z) <= 3.5)
        if tick > 100:
            near = near + here
        assert (facts.near == near).all() and (facts.near_of == max(tick - 100, 0)).all()
    assert here.any() and not here.all()


def test_aiming():
    pool, _, steps = _played(combat.AIMING)
    returns, facts = steps[-1].scores, pool.facts
    assert returns[SCRIPTED].mean() > -7 and -230 < returns[RANDOM].mean() < -190
    assert np.degrees(facts.yaw_error[SCRIPTED].mean()) < 4
    assert 75 < np.degrees(facts.yaw_error[RANDOM].mean()) < 110
    on_body = facts.on_body / facts.ticks
    assert on_body[SCRIPTED].mean() > 0.9 and on_body[RANDOM].mean() < 0.05


def test_clicking():
    pool, _, steps = _played(combat.CLICKING)
    returns, facts = steps[-1].scores, pool.facts
    assert returns[SCRIPTED].mean() > 55 and -100 < returns[RANDOM].mean() < -75
    hits = facts.hits_dealt
    assert 22 < hits[SCRIPTED].mean() < 28 and 22 < hits[RANDOM].mean() < 28
    clicks = facts.clicks
    assert hits[SCRIPTED].sum() > 0.75 * clicks[SCRIPTED].sum()
    assert hits[RANDOM].sum() < 0.12 * clicks[RANDOM].sum()
    assert clicks[RANDOM].mean() == pytest.approx(300, abs=15)


def test_duel():
    """With 100 health nobody dies in 400 ticks; the script wins all by hits, and to ten."""
    pool, _, steps = _played(combat.DUEL)
    facts = pool.facts
    assert steps[-1].truncated.all() and (facts.ticks == 400).all()
    assert facts.hits_dealt[SCRIPTED].mean() > 28 and facts.hits_taken[SCRIPTED].mean() < 4
    assert (facts.result[SCRIPTED] == 1).all() and (facts.first_to_ten[SCRIPTED] == 1).all()
    assert facts.hits_dealt[RANDOM].mean() < 1 and 10 < facts.hits_taken[RANDOM].mean() < 16
    assert (facts.result[RANDOM] == -1).all()
    # The reference's reward is a level: here, of the totals so far, 0.5, 0.015 of each, 0.25.
    level = 0.515 * facts.hits_dealt - 0.265 * facts.hits_taken
    np.testing.assert_allclose(steps[-1].rewards, level, atol=1e-4)
    assert steps[-1].scores[SCRIPTED].mean() > 2500


def test_who_was_first_to_ten_stays_first():
    pool = combat.CombatPool(combat.DUEL, NUM_ENVS, seed=3)
    start = pool.state
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
        pool.state = start._replace(states=start.states.replace(**counts))
        pool.step(np.zeros((NUM_ENVS, 9)))
        assert (pool.facts.first_to_ten == after).all(), (dealt, taken, before)
        assert (pool.facts.result == np.sign(dealt - taken)).all()


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
    health = _column(steps, "observations")[..., 12:14]
    np.testing.assert_array_equal(health[~valid], 0.5)
    assert (health[dead].min(axis=-1) == 0).all()


def test_facts_of_a_duel_that_has_ended():
    pool = combat.CombatPool(MORTAL, NUM_ENVS, seed=3)
    ended = {}
    for row in _played(MORTAL, 450)[1]:
        step = pool.step(row)
        facts = pool.facts
        for i in np.flatnonzero(step.over):
            ended.setdefault(int(i), {k: v[i] for k, v in vars(facts).items()} | {"s": step})
    wins = [facts for i, facts in ended.items() if i < 16]
    assert len(wins) == 16
    for facts in wins:
        assert (facts["hits_dealt"], facts["result"], facts["first_to_ten"]) == (10, 1, 1)
        assert facts["hits_taken"] < 10 and facts["clicks"] >= 10 and facts["ticks"] >= 91
    # Ten hits are first to ten as they end the duel, and the bot's are the bot's.
    lost = [facts for i, facts in ended.items() if i >= 16 and facts["hits_taken"] == 10]
    assert lost and all(f["result"] == f["first_to_ten"] == -1 for f in lost)


@pytest.mark.parametrize("environment", combat.ENVIRONMENTS.values(), ids=lambda e: e.name)
def test_seed_and_actions_say_everything(environment):
    pool, actions, steps = _played(environment)
    again = combat.CombatPool(environment, NUM_ENVS, seed=3)
    assert _same(again.last, steps[0])
    assert _same(again.replay(actions), steps[-1]) and _same(again.state, pool.state)
    with pytest.raises(ValueError, match="replay needs a fresh pool"):
        again.replay(actions)
    # Environment i begins from the seed plus i.
    other = combat.CombatPool(environment, NUM_ENVS, seed=4)
    np.testing.assert_array_equal(other.last.observations[:-1], steps[0].observations[1:])
    assert (other.last.observations != steps[0].observations).any(axis=1).all()
    assert len(np.unique(steps[0].observations, axis=0)) == NUM_ENVS


@pytest.mark.parametrize("environment", [combat.MOVEMENT, MORTAL], ids=["movement", "mortal"])
def test_a_state_put_back_goes_on_as_if_nothing_had_been(environment):
    """Over the ends of episodes too: what they begin with next comes from the key in the state."""
    length = environment.max_steps + 50
    pool, actions, steps = _played(environment, length)
    cut = length - 80
    first = combat.CombatPool(environment, NUM_ENVS, seed=3)
    for row in actions[:cut]:
        first.step(row)
    saved = pickle.loads(pickle.dumps(first.state))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(saved))
    first.send(actions[cut])  # of another life: what was sent does not outlive the state
    second = combat.CombatPool(environment, NUM_ENVS, seed=99)
    for resumed in (first, second):
        resumed.state = saved
        with pytest.raises(ValueError, match="receive without send"):
            resumed.receive()
        assert _same(resumed.last, steps[cut])
        for row, wanted in zip(actions[cut:], steps[cut + 1 :], strict=True):
            assert _same(resumed.step(row), wanted)
        assert _same(resumed.state, pool.state)
    with pytest.raises(ValueError, match="replay needs a fresh pool"):
        second.replay(actions)


def test_nothing_survives_a_reset():
    """What an episode begins with is what the key alone says, whatever was before it."""
    _, _, steps = _played(combat.MOVEMENT, 450)
    assert _column(steps, "over").sum(axis=0).tolist() == [1] * NUM_ENVS
    ended = combat.CombatPool(combat.MOVEMENT, NUM_ENVS, seed=3)
    for row in _played(combat.MOVEMENT)[1]:
        ended.step(row)
    before = ended.state.states
    assert before.over.all() and before.target_turn.any() and before.target.sprinting.any()
    assert not ended.step(np.ones((NUM_ENVS, 6))).rewards.any()
    begun = ended.state.states
    fresh = jax.jit(jax.vmap(functools.partial(environments.reset, combat.MOVEMENT)))(before.key)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(begun), jax.tree.leaves(fresh), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=jax.tree_util.keystr(path))
    assert not (begun.tick.any() or begun.target_turn.any() or begun.target.yaw.any())
    assert not (begun.target.sprinting.any() or begun.target.velocity.any())
    assert (begun.agent.yaw != before.agent.yaw).all()


def test_episodes_begin_where_they_should():
    for environment, low, high in (
        (combat.MOVEMENT, 6, 12),
        (combat.AIMING, 6, 12),
        (combat.CLICKING, 2, 3.5),
        (combat.DUEL, 6, 12),
    ):
        state = combat.CombatPool(environment, NUM_ENVS, seed=0).state.states
        way = state.target.position - state.agent.position
        distance = np.linalg.norm(way, axis=1)
        assert low <= distance.min() < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < distance.max() <= high
        bearing = np.arctan2(way[:, 2], way[:, 0])
        widest = np.pi / 4 if environment is combat.CLICKING else np.pi
        assert 0.8 * widest < np.abs(bearing).max() <= widest
        assert (bearing > 0).any() and (bearing < 0).any()
        for body in (state.agent, state.target):
            assert body.on_ground.all() and not body.velocity.any() and (body.health == 100).all()
            assert not (
                body.invulnerable.any() or body.sprinting.any() or body.position[:, 1].any()
            )
        looks = environment in (combat.MOVEMENT, combat.AIMING)
        assert state.agent.yaw.any() == state.agent.pitch.any() == looks
        assert state.target.yaw.any() == (environment is combat.AIMING)


def test_turns_are_cut_to_what_one_can_turn_and_no_look_goes_past_upright():
    pool = combat.CombatPool(combat.DUEL, NUM_ENVS, seed=3)
    action = np.zeros((NUM_ENVS, 9))
    action[:, 7], action[:, 8] = 0.2, 9.0
    for turns in range(1, 6):
        pool.step(action)
        agent = pool.state.states.agent
        np.testing.assert_allclose(agent.yaw, 0.2 * turns, atol=1e-6)
        np.testing.assert_allclose(agent.pitch, min(np.radians(27 * turns), np.pi / 2), atol=2e-4)
    # Upright still has a front: what is ahead is not behind.
    state = pool.state.states
    assert (np.cos(state.agent.pitch) > 0).all()


def test_keys_are_down_above_one_half():
    pools = [combat.CombatPool(combat.MOVEMENT, NUM_ENVS, seed=3) for _ in range(3)]
    for pool, value in zip(pools, (0.5, 0.51, True), strict=True):
        pool.step(np.full((NUM_ENVS, 6), value) * np.array([1, 0, 0, 0, 0, 0]))
    idle, walking, pressed = (pool.state.states.agent.velocity for pool in pools)
    assert not idle.any() and walking.any(axis=1).all()
    np.testing.assert_array_equal(walking, pressed)


def test_a_shorter_limit_and_two_rewards():
    assert dataclasses.replace(combat.DUEL, max_steps=7) == combat.duel(max_steps=7)
    pool = combat.CombatPool(combat.CLICKING, 2, seed=0, max_steps=3)
    over = [pool.step(np.zeros((2, 1))).over.tolist() for _ in range(8)]
    assert np.flatnonzero(np.array(over)[:, 0]).tolist() == [2, 6]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: combat.duel(health=0), "combat/duel: health is 0, expected at least 1"),
        (lambda: combat.duel(health=float("nan")), "health is nan, expected at least 1"),
        (
            lambda: combat.duel(reward="kills"),
            "no reward 'kills', expected one of ['hits', ",
        ),
        (lambda: combat.CombatPool(combat.AIMING, 0, seed=0), "combat/aiming: num_envs is 0"),
        (
            lambda: combat.CombatPool(combat.AIMING, 1, seed=0, max_steps=0),
            "combat/aiming: max_steps is 0, expected at least 1",
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
        (np.zeros((NUM_ENVS, 8)), "expected numbers of shape (32, 9) as actions, got float64 of"),
        (np.zeros(NUM_ENVS), "of shape (32,)"),
        (np.full((NUM_ENVS, 9), "w"), "got <U1"),
        (np.full((NUM_ENVS, 9), np.nan), "are not finite"),
    ],
)
def test_actions_there_are_not_are_refused(actions, message):
    pool = combat.CombatPool(combat.DUEL, NUM_ENVS, seed=0)
    with pytest.raises(ValueError) as caught:
        pool.send(actions)
    assert message in str(caught.value) and str(caught.value).startswith("combat/duel: ")


def test_a_state_of_another_pool_is_refused():
    saved = combat.CombatPool(combat.CLICKING, 2, seed=0, max_steps=3).state
    pool = combat.CombatPool(combat.CLICKING, NUM_ENVS, seed=0)
    before = pool.state
    for wrong in (saved, before._replace(states=None), before.states):
        with pytest.raises(ValueError, match="not the state of a pool of 32"):
            pool.state = wrong
    assert _same(pool.state, before)
