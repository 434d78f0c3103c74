"""The rules of combat: ticks worked out by hand, and ticks recorded from the original program.

`golden/combat.npz` holds single ticks recorded by running the public program that these rules are
those of (github.com/WhoTho/DL-Final-Minecraft-PVP-Bot, its first generation, with the eye and the
sprint-jump that it later corrected): states before and after, what scripts drew, observations,
rewards. Blocks: the four environments, duels of health 3, and bodies placed by hand close together.
"""

import dataclasses
import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.tasks import combat
from jaxdistill.tasks.combat import bot, environments, fight, physics, views
from jaxdistill.tasks.combat.physics import Body
from jaxdistill.tasks.combat.state import begin

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "combat.npz"
BLOCKS = {
    "movement": environments.MOVEMENT,
    "aiming": environments.AIMING,
    "clicking": environments.CLICKING,
    # The bot's duel three times over: what the health began with is in the rows themselves.
    "combined": environments.DUEL_LEVEL,
    "short": environments.DUEL_LEVEL,
    "placed": environments.DUEL_LEVEL,
}

move = jax.jit(physics.move)
attack = jax.jit(fight.attack)
looks_at = jax.jit(fight.looks_at, static_argnums=2)
decide = jax.jit(bot.decide)


def standing(x=0.0, z=0.0, y=0.0, **changes):
    changes = {name: jnp.asarray(value) for name, value in changes.items()}
    return physics.standing(jnp.array([x, y, z]), 100.0).replace(**changes)


def keys(*down):
    return jnp.array([key in down for key in physics.KEYS])


def walk(body, *ticks):
    """Bodies before and after each tick, whose keys are given."""
    bodies = [body]
    for down in ticks:
        bodies.append(move(bodies[-1], keys(*down)))
    return bodies


# Physics


def test_a_jump_rises_to_1_2492_blocks_and_ends_with_the_twelfth_tick():
    bodies = walk(standing(), ["space"], *[[]] * 13)
    heights = [float(body.position[1]) for body in bodies]
    # 0.42, then (v - 0.08) 0.98; the sixth speed would be 0.003 and counts as none.
    by_hand = [0, 0.42, 0.7532, 1.001336, 1.166109, 1.249187, 1.249187, 1.170787, 1.015555]
    np.testing.assert_allclose(heights[:9], by_hand, atol=2e-6)
    assert [bool(body.on_ground) for body in bodies] == [True] + [False] * 11 + [True] * 3
    assert heights[12:] == [0, 0, 0]


def test_keys_held_reach_the_speeds_that_drag_allows():
    """The last step is a / (1 - 0.546) of the key's push a."""
    for down, speed in (
        (["w"], 0.098 / 0.454),  # 0.216
        (["w", "sprint"], 0.1274 / 0.454),  # 0.281
        (["s", "sprint"], -0.1274 / 0.454),  # sprinting backwards too
        (["w", "s"], 0.0),
    ):
        *_, before, after = walk(standing(), *[down] * 40)
        assert float(after.position[2] - before.position[2]) == pytest.approx(speed, abs=1e-6)
    # Two keys push no harder than one of full strength, half each way.
    *_, before, after = walk(standing(), *[["w", "d"]] * 40)
    step = np.asarray(after.position - before.position)
    np.testing.assert_allclose(step, np.array([1, 0, 1]) * 0.1 / 0.454 / math.sqrt(2), atol=1e-6)


def test_one_walks_the_way_one_looks_and_pitch_does_not_matter():
    (_, after) = walk(standing(yaw=math.pi / 2, pitch=1.0), ["w"])
    np.testing.assert_allclose(after.position, [0.098, 0, 0], atol=1e-7)
    (_, after) = walk(standing(yaw=math.pi / 2), ["d"])
    np.testing.assert_allclose(after.position, [0, 0, -0.098], atol=1e-7)


def test_a_sprint_jump_is_boosted_forwards_only():
    for down, first in (
        (["w", "sprint", "space"], 0.1274 + 0.2),
        (["w", "space"], 0.098),
        (["s", "sprint", "space"], -0.1274),
    ):
        _, after, _ = walk(standing(), down, [])
        assert float(after.position[2]) == pytest.approx(first, abs=1e-6)
        # It left the ground in this tick, so the ground still brakes; from the next the air does.
        assert float(after.velocity[2]) == pytest.approx(first * 0.546, abs=1e-6)
    _, first, second, third = walk(standing(), ["w", "sprint", "space"], [], ["w", "sprint"])
    speed = 0.3274 * 0.546
    assert float(second.velocity[2]) == pytest.approx(speed * 0.91, abs=1e-6)
    # In the air a key pushes 0.0196, sprint or not.
    pushed = float(third.position[2] - second.position[2])
    assert pushed == pytest.approx(speed * 0.91 + 0.0196, abs=1e-6)
    assert bool(third.sprinting) and not bool(second.sprinting)


def test_small_speeds_are_none():
    (_, after) = walk(standing(velocity=[0.0049, 0.0, -0.0051]), [])
    np.testing.assert_allclose(after.position, [0, 0, -0.0051], atol=1e-7)


def test_frames_and_angles():
    """Looking along +x, what lies at +x is ahead and what lies at -z is to the right."""
    yaw, pitch = jnp.asarray(math.pi / 2), jnp.asarray(0.0)
    local = physics.to_local(jnp.array([3.0, 2.0, -4.0]), yaw, pitch)
    np.testing.assert_allclose(local, [4, 2, 3], atol=1e-6)
    # Looking up by 30 degrees, the look itself is ahead.
    pitch = jnp.asarray(math.pi / 6)
    look = physics.look(yaw, pitch)
    np.testing.assert_allclose(look, [math.sqrt(3) / 2, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(physics.to_local(look, yaw, pitch), [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(physics.angles(look), [math.pi / 2, math.pi / 6], atol=1e-6)
    assert float(physics.wrap(jnp.asarray(3.5))) == pytest.approx(3.5 - 2 * math.pi)


# Fight


@pytest.mark.parametrize(
    ("x", "z", "met"),
    [
        (0.0, 3.29, True),  # the near wall of the box is 0.3 before its middle
        (0.0, 3.31, False),
        (0.29, 2.0, True),
        (0.31, 2.0, False),
        (0.0, -1.0, False),  # behind
        (0.0, 0.1, True),  # inside it
    ],
)
def test_reach(x, z, met):
    assert bool(looks_at(standing(), standing(x, z), fight.REACH)) == met
    blow = attack(standing(), standing(x, z), jnp.asarray(True))
    assert bool(blow.met) == bool(blow.hit) == met


def test_a_look_over_the_head_and_a_look_from_afar():
    far = standing(z=50.0)
    assert bool(looks_at(standing(), far, jnp.inf))
    # From an eye at 1.62 the head at 1.8, two blocks off, ends at atan(0.18 / 1.7) upwards.
    steep = math.atan(0.18 / 1.7)
    assert bool(looks_at(standing(pitch=steep - 0.01), standing(z=2.0), fight.REACH))
    assert not bool(looks_at(standing(pitch=steep + 0.01), standing(z=2.0), fight.REACH))


@pytest.mark.parametrize(("sprinting", "knock"), [(False, 0.4), (True, 1.0)])
def test_a_hit_knocks_back_and_slows_who_hit(sprinting, knock):
    attacker = standing(velocity=[0.1, -0.2, 0.3], sprinting=sprinting, yaw=math.atan2(3, 4))
    target = standing(1.2, 1.6, velocity=[0.2, -0.5, 0.1])
    blow = attack(attacker, target, jnp.asarray(True))
    assert bool(blow.hit) and int(blow.target.invulnerable) == 10
    # Halved, and pushed along (0.6, 0.8); up by 0.4.
    pushed = [0.1 + 0.6 * knock, 0.15, 0.05 + 0.8 * knock]
    np.testing.assert_allclose(blow.target.velocity, pushed, atol=1e-6)
    np.testing.assert_allclose(blow.attacker.velocity, [0.06, -0.2, 0.18], atol=1e-6)
    assert not bool(blow.attacker.sprinting)
    # Never faster upwards than 0.4.
    blow = attack(attacker, target.replace(velocity=jnp.array([0.0, 0.3, 0.0])), jnp.asarray(True))
    assert float(blow.target.velocity[1]) == pytest.approx(0.4)


def test_who_was_hit_cannot_be_hit_for_ten_ticks():
    attacker, target = standing(velocity=[0.0, 0.0, 0.5], sprinting=True), standing(z=2.0)
    hits = []
    for _ in range(21):
        blow = attack(attacker, target, jnp.asarray(True))
        hits.append(bool(blow.hit))
        # The click slows the attacker all the same, and pushes nobody.
        assert float(blow.attacker.velocity[2]) == pytest.approx(0.3)
        assert blow.hit or not np.asarray(blow.target.velocity).any()
        target = fight.recover(blow.target).replace(velocity=jnp.zeros(3))
    assert np.flatnonzero(hits).tolist() == [0, 10, 20]


def test_no_click_and_a_click_at_nothing_change_nothing():
    attacker = standing(velocity=[0.1, 0.0, 0.1], sprinting=True)
    for target, clicks in ((standing(z=2.0), False), (standing(z=5.0), True)):
        blow = attack(attacker, target, jnp.asarray(clicks))
        assert not blow.met and not blow.hit
        for a, b in zip(
            jax.tree.leaves(blow[:2]), jax.tree.leaves((attacker, target)), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_the_bot_runs_looks_and_clicks_on_every_third_tick():
    other = standing(1.0, 1.0, y=1.0)
    for distance, runs, near in ((1.4, False, True), (1.6, True, True), (3.1, True, False)):
        here = standing(z=distance)
        choices = [decide(here, standing(), jnp.asarray(tick)) for tick in range(6)]
        assert [bool(choice.click) for choice in choices] == [near, False, False] * 2
        assert choices[0].keys.tolist() == [runs, False, False, False, False, runs]
        # From +z towards the origin, along -z.
        assert abs(float(choices[0].yaw)) == pytest.approx(math.pi, abs=1e-6)
    look = decide(standing(), other, jnp.asarray(0))
    assert float(look.yaw) == pytest.approx(math.pi / 4)
    assert float(look.pitch) == pytest.approx(math.atan(1 / math.sqrt(2)))
    assert float(decide(standing(yaw=1.0), standing(0.05), jnp.asarray(0)).yaw) == 1.0


# What is drawn


@pytest.mark.parametrize(
    ("name", "every", "agent", "target"),
    [
        # Chances of forward, left, right, jump and sprint.
        ("movement", 4, None, (0.7, 0.4, 0.4, 0.1, 0.9)),
        ("aiming", 4, (0.6, 0.3, 0.3, 0.0, 0.5), (0.7, 0.4, 0.4, 0.1, 0.9)),
        ("clicking", 5, None, (0.8, 0.4, 0.4, 0.1, 0.5)),
    ],
)
def test_scripts_press_keys_as_often_as_said(name, every, agent, target):
    count = 4096
    draw = jax.jit(jax.vmap(combat.COMBATS[f"combat/{name}"].environment.draw))
    state = begin(jnp.zeros(2, jnp.uint32), standing(), standing(z=3.0))
    held = keys("w", "s", "space")
    state = state.replace(agent_keys=held, target_keys=held)
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), state)
    drawing = jax.random.split(jax.random.PRNGKey(0), count)

    def at(tick, **changes):
        return draw(states.replace(tick=jnp.full(count, tick), **changes), drawing)

    new, old = at(2 * every), at(2 * every + 1)
    assert (np.asarray(old.target_keys) == np.asarray(held)).all()
    for drawn, chances in ((new.agent_keys, agent), (new.target_keys, target)):
        drawn = np.asarray(drawn)
        if chances is None:
            assert (drawn == np.asarray(held)).all()
            continue
        forward, left, right, jump, sprint = chances
        wanted = np.array([forward, left, 1 - forward, right, jump, sprint])
        deviation = np.sqrt(wanted * (1 - wanted) / count)
        assert (np.abs(drawn.mean(axis=0) - wanted) <= 4 * deviation).all()
        assert (drawn[:, 0] != drawn[:, 2]).all() and not (drawn[:, 1] & drawn[:, 3]).any()
    if name != "movement":
        assert not np.asarray(new.knocked).any()
        return
    # One tick in ten, of those one in five hard; not within ten ticks of the last, nor from afar.
    knocked, hard = np.asarray(new.knocked), np.asarray(new.hard)
    assert not knocked.any(), "8 ticks are fewer than 10"
    knocked = np.asarray(at(10).knocked)
    assert knocked.mean() == pytest.approx(0.1, abs=0.02)
    assert hard[knocked].mean() == pytest.approx(0.2, abs=0.08)
    assert not np.asarray(at(15, knocked=jnp.full(count, 6)).knocked).any()
    afar = states.target.replace(position=states.target.position + jnp.array([0.0, 0.0, 1.1]))
    assert not np.asarray(at(10, target=afar).knocked).any()


# What is seen


def test_views_of_one_state():
    """The agent looks along +x; the target, 3 ahead and 4 to its left, looks at it."""
    agent = standing(yaw=math.pi / 2, velocity=[0.6, 0.0, 0.0], health=15.0, invulnerable=7)
    back = math.atan2(-3, -4)
    target = standing(
        3.0, 4.0, yaw=back, velocity=[0.0, 0.4, 0.0], health=5.0, on_ground=False, invulnerable=4
    )
    state = begin(jnp.zeros(2, jnp.uint32), agent, target)
    state = state.replace(previous_look=jnp.array([0.0, 0.0, -1.0]))
    way = [-0.8, 0, 0.6, 0.5, 0, 0, 1, 0.3, 0, 1, 0, 0.2]
    yaw = math.atan2(3, 4) - math.pi / 2
    by_hand = {
        views.movement: [*way, 1, -1, 0.8, 0, -0.6, 1, 0, 0],
        views.aiming: [math.sin(yaw), math.cos(yaw), 0, 1, 5 / 15],
        views.clicking: [yaw / math.pi, 0, 0.5, -1, 0.4, 0.3, 0.4, 0.5, 0],
        views.duel: [*way, 0.75, 0.25, 1, -1, 0.8, 0, -0.6, 0.7],
    }
    for view, numbers in by_hand.items():
        seen = jax.jit(view)(state)
        assert seen.dtype == np.float32
        np.testing.assert_allclose(seen, numbers, atol=1e-6, err_msg=view.__name__)
    # A clicking expert sees where the target is from the agent, wherever both are.
    moved = state.replace(
        agent=agent.replace(position=agent.position + 20),
        target=target.replace(position=target.position + 20),
    )
    for view in by_hand:
        np.testing.assert_allclose(jax.jit(view)(moved), jax.jit(view)(state), atol=1e-6)
    assert (np.abs(jax.jit(views.duel)(moved.replace(agent=agent))) <= 1).all()


def test_what_the_published_recipe_shows_mirrors_depth_and_shows_the_wrong_one_invulnerable():
    """The agent looks along +x; the target, 3 ahead and 4 to its left, is seen in 12 blocks too."""
    agent = standing(yaw=math.pi / 2, velocity=[0.6, 0.0, 0.0], health=15.0, invulnerable=7)
    target = standing(3.0, 4.0, yaw=math.atan2(-3, -4), invulnerable=4, on_ground=False)
    state = begin(jnp.zeros(2, jnp.uint32), agent, target)
    moving = [0, 0, 1, 0.3, 0, 0, 0, 0]
    rest = [*moving, 0.75, 1, 1, -1, 0.8, 0, -0.6, 0.4]
    # By the world's axes the target is along (0.6, 0, 0.8), which is told as (0.6, 0, -0.8): that
    # is to the right of one who looks along +x.
    standing_in_the_air = [*moving, 1, 1, -1, -1, 0.8, 0, -0.6, 0.4]
    by_hand = {
        views.document_movement: [-0.8, 0, 0.6, 0.5, *rest],
        views.document_aiming: [-0.8, 0, -0.6, 0.5, *rest],
        views.document_clicking: [0.8, 0, 0.6, 0.5, *standing_in_the_air],
    }
    for view, numbers in by_hand.items():
        seen = jax.jit(view)(state)
        assert seen.dtype == np.float32
        np.testing.assert_allclose(seen, numbers, atol=1e-6, err_msg=view.__name__)


def test_what_the_published_recipe_shows_of_a_target_straight_ahead():
    """Of aiming it is straight behind; of clicking wherever the agent's own yaw puts it."""
    for yaw, wanted in (
        (0.0, [0, 0, -1]),
        (math.pi / 4, [1, 0, 0]),
        (math.pi / 2, [0, 0, 1]),
        (math.pi / 3, [math.sqrt(3) / 2, 0, 0.5]),
    ):
        ahead = standing(2 * math.sin(yaw), 2 * math.cos(yaw))
        state = begin(jnp.zeros(2, jnp.uint32), standing(yaw=yaw), ahead)
        np.testing.assert_allclose(jax.jit(views.duel)(state)[:3], [0, 0, 1], atol=1e-6)
        np.testing.assert_allclose(
            jax.jit(views.document_aiming)(state)[:4], [0, 0, -1, 0.2], atol=1e-6
        )
        np.testing.assert_allclose(jax.jit(views.document_clicking)(state)[:3], wanted, atol=1e-6)
    # Up by 30 degrees, where the agent looks, too: up and towards -z of the world is that far
    # behind and above. And nothing is farther than 10 blocks.
    above = standing(z=math.sqrt(3) * 6, y=6.0)
    state = begin(jnp.zeros(2, jnp.uint32), standing(pitch=math.pi / 6), above)
    np.testing.assert_allclose(
        jax.jit(views.document_clicking)(state)[:4], [0, math.sqrt(3) / 2, -0.5, 1], atol=1e-6
    )
    np.testing.assert_allclose(jax.jit(views.document_aiming)(state)[:4], [0, 0, -1, 1], atol=1e-6)


def test_entries_that_a_skill_cannot_tell_do_not_change_what_it_sees():
    """A change of a state that shows in the duel's view shows in a skill's where it says so."""
    agent = standing(yaw=0.3, velocity=[0.1, 0.0, 0.2])
    target = standing(1.0, 4.0, yaw=2.0, velocity=[0.0, 0.3, -0.1])
    state = begin(jnp.zeros(2, jnp.uint32), agent, target)
    looked, pushed = {"yaw": -1.0, "pitch": 0.4}, {"velocity": [0.3, 0.2, 0.5]}
    changes = [
        (state.replace(target=target.replace(position=jnp.array([2.0, 1.0, 3.0]))), (0, 1, 2, 3)),
        (state.replace(agent=standing(yaw=0.3, **pushed)), (4, 5, 6, 7)),
        (state.replace(target=standing(1.0, 4.0, yaw=2.0, **pushed)), (8, 9, 10, 11)),
        (state.replace(agent=agent.replace(health=jnp.asarray(5.0))), (12,)),
        (state.replace(target=target.replace(health=jnp.asarray(5.0))), (13,)),
        (state.replace(agent=agent.replace(on_ground=jnp.asarray(False))), (14,)),
        (state.replace(target=target.replace(on_ground=jnp.asarray(False))), (15,)),
        (
            state.replace(
                target=target.replace(**{name: jnp.asarray(x) for name, x in looked.items()})
            ),
            (16, 17, 18),
        ),
        (state.replace(agent=agent.replace(invulnerable=jnp.asarray(5))), (19,)),
    ]
    assert sorted(entry for _, entries in changes for entry in entries) == list(range(20))
    assert views.SEEN.keys() == combat.COMBATS.keys() - {"combat/duel", "combat/duel_level"}
    duel = jax.jit(views.duel)
    for changed, entries in changes:
        differs = np.flatnonzero(duel(changed) != duel(state))
        assert tuple(differs) == entries
        for name, seen in views.SEEN.items():
            view = jax.jit(combat.COMBATS[name].environment.view)
            told = bool((view(changed) != view(state)).any())
            assert told == bool(set(entries) & set(seen)), (name, entries)
            assert set(entries) <= set(seen) or not set(entries) & set(seen)
    # The exception: that the target cannot be hit is no entry of the duel's, and clicking sees it.
    hurt = state.replace(target=target.replace(invulnerable=jnp.asarray(5)))
    assert (duel(hurt) == duel(state)).all()
    clicking = jax.jit(views.clicking)
    assert np.flatnonzero(clicking(hurt) != clicking(state)).tolist() == [4]


# Recorded ticks


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return dict(arrays)


@functools.cache
def _player(environment):
    def play(state, action, draws):
        after, reward = environments.play(environment, state, action, draws)
        choice = bot.decide(state.target, state.agent, state.tick)
        return after, reward, environment.view(after), choice

    return jax.jit(jax.vmap(play))


def _bodies(rows, when):
    def read(name, kind):
        values = rows.get(f"{when}_{name}", np.full((len(rows["tick"]), 2), 100))
        return [jnp.asarray(values[:, i], kind) for i in range(2)]

    kinds = dict.fromkeys(("position", "velocity", "yaw", "pitch", "health"), jnp.float32)
    kinds |= {"on_ground": bool, "sprinting": bool, "invulnerable": jnp.int32}
    columns = {name: read(name, kind) for name, kind in kinds.items()}
    return [Body(**{name: column[i] for name, column in columns.items()}) for i in range(2)]


def _replay(rows, environment, count=160):
    """One tick of every row; rows are padded so that blocks of one environment compile once."""
    given = len(rows["tick"])
    rows = {name: values[np.arange(count) % given] for name, values in rows.items()}
    state = jax.vmap(begin)(jnp.zeros((count, 2), jnp.uint32), *_bodies(rows, "before"))
    names = {
        "target_turn": "before_target_yaw_velocity",
        "knocked": "before_last_knock_tick",
        "hits_dealt": "before_total_hits" if "before_total_hits" in rows else "before_dealt",
        "hits_taken": "before_taken",
    }
    state = state.replace(
        tick=jnp.asarray(rows["tick"], jnp.int32),
        **{
            name: jnp.asarray(rows[column], getattr(state, name).dtype)
            for name, column in names.items()
            if column in rows
        },
    )
    up, no = np.zeros((count, 6), bool), np.zeros(count, bool)
    draws = environments.Draws(
        agent_keys=rows.get("agent_keys", up),
        target_keys=rows["target_keys"],
        knocked=rows.get("knocked", no),
        hard=rows.get("knocked_sprint", no),
    )
    action = rows["action"].reshape(count, -1).astype(np.float32)
    answer = _player(environment)(state, action, draws)
    return state, *answer, rows


@pytest.mark.parametrize("block", BLOCKS)
def test_ticks_agree_with_the_original(golden, block):
    rows = {
        name.removeprefix(f"{block}_"): values
        for name, values in golden.items()
        if name.startswith(f"{block}_")
    }
    before, after, reward, seen, choice, rows = _replay(rows, BLOCKS[block])
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5)
    same = np.testing.assert_array_equal
    close(seen, rows["obs"], err_msg="observations")
    close(reward, rows["reward"], err_msg="rewards")
    for ours, theirs in zip((after.agent, after.target), _bodies(rows, "after"), strict=True):
        for field in dataclasses.fields(Body):
            got, wanted = np.asarray(getattr(ours, field.name)), getattr(theirs, field.name)
            if field.name in ("yaw", "pitch"):
                close(np.sin((got - wanted) / 2), 0, err_msg=field.name)
            elif got.dtype == np.float32:
                close(got, wanted, err_msg=field.name)
            else:
                same(got, wanted, err_msg=field.name)
    if block == "movement":
        close(after.target_turn, rows["after_target_yaw_velocity"])
        close(after.previous_look, rows["after_previous_look"])
        same(after.knocked, rows["after_last_knock_tick"])
        # Nobody was knocked whom we would not have: within 4 blocks, 10 ticks after the last.
        knocked = rows["knocked"]
        way = before.target.position - before.agent.position
        assert (np.linalg.norm(way, axis=1)[knocked] <= 4).all()
        assert (rows["tick"] - rows["before_last_knock_tick"])[knocked].min() >= 10
    if BLOCKS[block] is not environments.AIMING:
        dealt = np.asarray(after.hits_dealt - before.hits_dealt)
        same(dealt, rows.get("agent_hit", np.zeros(len(dealt), bool)))
    if BLOCKS[block] is environments.DUEL_LEVEL:
        same(after.hits_taken - before.hits_taken, rows["target_hit"])
        same(choice.keys, rows["target_keys"])
        same(choice.click, rows["target_click"])
        close(choice.yaw, rows["target_look"][:, 0])
        close(choice.pitch, rows["target_look"][:, 1])
    same(after.over, rows["done"])


def test_recorded_ticks_hold_what_matters(golden):
    """The rows were chosen so that every rule shows in some of them."""
    assert golden["movement_knocked"].sum() >= 12 and golden["movement_knocked_sprint"].sum() >= 4
    assert len(np.unique(golden["clicking_reward"].round(3))) == 7
    assert (golden["placed_agent_hit"] & golden["placed_target_hit"]).sum() >= 12
    assert (~golden["placed_target_keys"][:, 0]).sum() >= 14
    assert (golden["aiming_after_pitch"][:, 0] > 1.55).any()
    for block in ("movement", "aiming", "clicking", "combined", "short", "placed"):
        assert golden[f"{block}_done"].any(), block
