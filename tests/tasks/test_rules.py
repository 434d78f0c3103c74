"""How games of Atari are played and shown, on real emulators: rules, and screens."""

import dataclasses
import itertools
import json

import envpool
import jax
import numpy as np
import pytest

from jaxdistill import tasks
from jaxdistill.tasks import atari
from jaxdistill.tasks.atari import AtariPool, Rules
from jaxdistill.tasks.views import Screen, Shown, View

BREAKOUT, PONG, FREEWAY, SKIING = map(tasks.get, ("breakout", "pong", "freeway", "skiing"))


def _play(game, actions, *, view=None, seed=3, max_steps=27_000):
    pool = AtariPool(game, actions.shape[1], seed=seed, view=view, max_steps=max_steps)
    return pool, [pool.last, *(pool.step(row) for row in actions)]


def _random(game, steps, envs=2, seed=0):
    return np.random.default_rng(seed).choice(game.actions, (steps, envs))


def _states(game, actions, **options):
    pool = AtariPool(game, actions.shape[1], seed=3, **options)
    return np.stack([pool.states, *((pool.step(row), pool.states)[1] for row in actions)])


def test_the_usual_rules_are_the_game_itself():
    assert BREAKOUT.rules == Rules() == atari.USUAL and BREAKOUT.under(Rules()) == BREAKOUT
    assert tasks.under(BREAKOUT, Rules()) is BREAKOUT
    assert BREAKOUT.variant_fields == {} and Rules().to_dict() == {}
    sticky = BREAKOUT.under(Rules(repeat_action_probability=0.25))
    assert sticky.variant_fields == {"rules": {"repeat_action_probability": 0.25}}
    assert sticky.name == "breakout" and sticky.number == BREAKOUT.number and sticky != BREAKOUT


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("fire_after_life=true", Rules(fire_after_life=True)),
        ("noop_max=1&repeat_action_probability=0.25", Rules(0.25, noop_max=1)),
        ("mode=-1&frame_skip=2", Rules(frame_skip=2)),
    ],
)
def test_rules_are_changed_by_a_text(text, wanted):
    assert Rules().changed(text) == wanted
    assert wanted.changed("full_actions=true") == dataclasses.replace(wanted, full_actions=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"found '', expected NAME=VALUE&NAME=VALUE of repeat_action_probability, "),
        ("sticky=1", "found 'sticky=1'"),
        ("noop_max", "found 'noop_max'"),
        ("noop_max=0", r"rules\.noop_max is 0, expected 1 to 1000"),
        ("repeat_action_probability=1", "expected 0 or more, less than 1"),
        ("fire_after_life=yes", "fire_after_life is 'yes', expected bool"),
        ("mode=-2", r"mode is -2, expected -1, or at least 0"),
        ("frame_skip=0", "frame_skip is 0, expected 1 to 60"),
    ],
)
def test_rules_that_cannot_be_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Rules().changed(text)


def test_rules_say_where_they_differ():
    assert Rules(noop_max=1).differences_from(Rules(fire_after_life=True)) == (
        "fire_after_life False (not True), noop_max 1 (not 30)"
    )
    assert Rules().differences_from(Rules()) == ""
    assert json.loads(json.dumps(Rules(mode=2).to_dict())) == {"mode": 2}


# Every rule but those that have a test of their own, and a game in which it can be seen at once.
@pytest.mark.parametrize(
    ("game", "changes"),
    [
        (PONG, {"repeat_action_probability": 0.25}),
        (PONG, {"noop_max": 1}),
        (FREEWAY, {"mode": 3}),
        (PONG, {"difficulty": 1}),
        (PONG, {"frame_skip": 2}),
    ],
)
def test_a_rule_changes_the_same_play(game, changes):
    actions = _random(game, 60)
    rules = Rules(**changes)
    plays = [_states(g, actions) for g in (game, game.under(rules), game.under(rules))]
    assert (plays[0] != plays[1]).any()
    np.testing.assert_array_equal(plays[1], plays[2])


def test_a_mode_that_a_game_does_not_have_is_refused():
    for rules in (Rules(mode=99), Rules(difficulty=99)):
        with pytest.raises(ValueError, match=r"^freeway: Invalid .*99.*-1 is the game's own$"):
            AtariPool(FREEWAY.under(rules), 1, seed=0)
        with pytest.raises(ValueError, match=r"^freeway: Invalid .*99.*-1 is the game's own$"):
            FREEWAY.under(rules).require()
    for rules in (Rules(), Rules(mode=3), Rules(difficulty=1)):
        FREEWAY.under(rules).require()


def test_steps_are_as_many_frames_as_the_rules_say():
    slow = PONG.under(Rules(frame_skip=2))
    assert (PONG.max_steps, slow.max_steps) == (27_000, 54_000)
    assert (PONG.frames_per_second, slow.frames_per_second) == (15, 30)
    actions = np.repeat(_random(PONG, 30), 2, axis=0)
    # Two steps of two frames are one of four.
    twice = _states(slow, actions)[::2]
    np.testing.assert_array_equal(twice, _states(PONG, actions[::2]))


def test_the_full_set_is_all_18_actions():
    full = FREEWAY.under(Rules(full_actions=True))
    assert full.actions == tuple(range(18)) and full.mask.all() and FREEWAY.mask.sum() == 3
    # Up is up, and begins alike: Freeway has no FIRE to begin with.
    plays = [_states(game, np.full((20, 2), 2)) for game in (FREEWAY, full)]
    np.testing.assert_array_equal(*plays)
    AtariPool(full, 1, seed=0).step(np.array([17]))
    with pytest.raises(ValueError, match="not all among its valid ones"):
        AtariPool(FREEWAY, 1, seed=0).step(np.array([17]))


def test_two_games_have_no_full_set():
    sizes = {
        game.name: envpool.make_spec(game.env_id, full_action_space=True).action_space.n
        for game in (SKIING, tasks.get("lost_luggage"), PONG, FREEWAY)
    }
    assert sizes == {"skiing": 9, "lost_luggage": 9, "pong": 18, "freeway": 18}
    with pytest.raises(ValueError, match="skiing has no full set of actions; leave rules"):
        SKIING.under(Rules(full_actions=True))


def test_people_s_scores_are_of_whole_games_by_the_usual_rules():
    assert BREAKOUT.human_normalised(30.5) == 1.0
    little = Rules(repeat_action_probability=0.25, fire_after_life=True, noop_max=1)
    assert BREAKOUT.under(little).human_normalised(30.5) == 1.0
    for other in (
        *(Rules(end_at_life=True), Rules(mode=4), Rules(difficulty=1), Rules(frame_skip=2)),
        *(Rules(full_actions=True), dataclasses.replace(little, end_at_life=True)),
    ):
        assert BREAKOUT.under(other).human_normalised(30.5) is None, other
        assert BREAKOUT.under(other).under(Rules()).human_normalised(30.5) == 1.0
    # Nor do games count that are cut sooner.
    limits = [BREAKOUT.human_normalised(30.5, limit) for limit in (None, 27_000, 26_999, 30_000)]
    assert limits == [1.0, 1.0, None, 1.0]
    assert _variant(BREAKOUT, max_steps=100).human_normalised(30.5) is None
    assert _variant(BREAKOUT).human_normalised(30.5) == 1.0


def _variant(game, **changes):
    return dataclasses.replace(game, name=f"{game.name}/mine", **changes)


def test_a_variant_of_one_s_own_is_its_game():
    actions, short = _random(PONG, 60), _variant(PONG, max_steps=25)
    np.testing.assert_array_equal(_states(short, actions), _states(PONG, actions))
    assert tasks.check(short, max_steps=6, num_envs=2) == []
    assert not _variant(tasks.get("hangman")).pool(1, seed=0).skips
    with pytest.raises(ValueError, match="skiing/mine has no full set of actions"):
        _variant(SKIING).under(Rules(full_actions=True))
    with pytest.raises(ValueError, match=r"^pong/mine: env_id is 'Pnog', expected that of a game"):
        _variant(PONG, env_id="Pnog").pool(1, seed=0)


def test_a_variant_keeps_its_name_and_limit_by_any_rules():
    short = _variant(PONG, max_steps=100)
    sticky = short.under(Rules(repeat_action_probability=0.25))
    assert (sticky.name, sticky.max_steps, sticky.actions) == ("pong/mine", 100, PONG.actions)
    # As many frames as before, in steps of another length.
    assert short.under(Rules(frame_skip=2)).max_steps == 200
    assert short.under(Rules(frame_skip=60)).max_steps == 6
    assert _variant(PONG, max_steps=1).under(Rules(frame_skip=60)).max_steps == 1
    assert PONG.under(Rules(frame_skip=7)).under(Rules()) == PONG
    assert short.under(Rules(frame_skip=2)).under(Rules()) == short


def test_a_variant_of_fewer_actions_presses_what_they_are():
    still = _variant(PONG, actions=(0, 3, 4))
    actions = _random(still, 60)
    np.testing.assert_array_equal(_states(still, actions), _states(PONG, actions))
    sticky = Rules(repeat_action_probability=0.25)
    assert still.under(sticky).actions == (0, 3, 4)
    full = still.under(Rules(full_actions=True))
    assert full.actions == tuple(range(18)) and full.under(Rules()).actions == PONG.actions
    with pytest.raises(
        ValueError, match=r"^pong/mine: actions \[2, 17\] are none of \[0, 1, 3, 4, "
    ):
        _variant(PONG, actions=(0, 2, 17)).pool(1, seed=0)


def test_fire_is_pressed_after_a_lost_life_where_it_is_the_rule():
    """Who never presses FIRE loses one life of five, and all of them where it is pressed."""
    actions = np.random.default_rng(0).choice([0, 3, 4], (400, 2))
    _, usual = _play(BREAKOUT, actions)
    pool, pressed = _play(BREAKOUT.under(Rules(fire_after_life=True)), actions)
    assert not any(step.over.any() for step in usual) and (usual[-1].lives == 4).all()
    assert any(step.over.any() for step in pressed)
    # FIRE stands in the place of the next action, whatever that is.
    lost = next(t for t, step in enumerate(pressed) if step.lives[0] == 4)
    by_hand = actions[: lost + 20, :1].copy()
    by_hand[lost] = 1
    other, by_hand_steps = _play(BREAKOUT, by_hand)
    _, again = _play(BREAKOUT.under(Rules(fire_after_life=True)), actions[: lost + 20, :1])
    np.testing.assert_array_equal(again[-1].observations, by_hand_steps[-1].observations)
    # Also where nobody else may press it.
    others = _variant(BREAKOUT, actions=(0, 3, 4)).under(Rules(fire_after_life=True))
    np.testing.assert_array_equal(_play(others, actions[:, :1])[0].states, pool.states[:1])
    # A game without FIRE is played as it is.
    walks = _random(FREEWAY, 30)
    pressing = FREEWAY.under(Rules(fire_after_life=True))
    np.testing.assert_array_equal(_states(pressing, walks), _states(FREEWAY, walks))
    assert pool.skips and other.skips


def test_a_game_may_end_with_a_life():
    rules = Rules(end_at_life=True, fire_after_life=True)
    actions = _random(BREAKOUT, 300)
    pool, steps = _play(BREAKOUT.under(rules), actions)
    assert not pool.skips
    ended, left = 0, []
    for before, step in itertools.pairwise(steps):
        np.testing.assert_array_equal(step.valid, ~before.over)
        fell = step.valid & (step.lives < before.lives)
        np.testing.assert_array_equal(step.over, fell | (step.valid & (step.lives == 0)))
        assert not step.truncated.any() and not step.scores[~step.valid].any()
        ended += step.over.sum()
        left += step.lives[step.over].tolist()
        # A life begins with its own first frame alone, as a dataset has it.
        for row in np.flatnonzero(step.ages == 0):
            assert (step.observations[row] == step.observations[row, -1]).all()
        for row in np.flatnonzero(step.ages == 2):
            first, second, _, _ = step.observations[row]
            np.testing.assert_array_equal(first, second)
    assert ended >= 8 and set(left) == {0, 1, 2, 3, 4}


def test_a_game_may_end_with_a_life_in_any_form_that_is_shown():
    """The very same games, whoever looks: one by one frames, too."""
    actions = _random(BREAKOUT, 250)
    game = BREAKOUT.under(Rules(end_at_life=True, fire_after_life=True))
    plays = [_play(game, actions, view=v)[1] for v in (None, Screen((5, 4, 1, 0), maximum=False))]
    for one, other in zip(*plays, strict=True):
        for name in ("rewards", "valid", "over", "lives", "scores", "ages"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        for row in np.flatnonzero(other.ages == 0):
            assert (other.observations[row] == other.observations[row, -1]).all()


def test_a_life_begins_with_its_first_frame_also_where_not_every_frame_is_shown():
    """Held against all frames since a life began, in colour and in gray, whoever steps."""
    game = BREAKOUT.under(Rules(end_at_life=True, fire_after_life=True))
    for gray in (True, False):
        newest = Screen((3, 2, 1, 0), gray=gray, maximum=False)
        few = Screen((9, 8, 0), gray=gray, maximum=False)
        every, shown = (AtariPool(game, 2, seed=3, view=view) for view in (newest, few))
        frames = [[first[-1]] for first in every.last.observations]
        rng, second = np.random.default_rng(0), 0
        for turn in range(120):
            rows = [0, 1] if turn % 3 else [1, 0] if turn % 2 else [1]
            action = rng.choice(BREAKOUT.actions, len(rows))
            step, _ = (pool.step(action, rows) for pool in (every, shown))
            for row in rows:
                if step.valid[row]:
                    frames[row].extend(step.observations[row])
                else:
                    frames[row] = [step.observations[row, -1]]
                seen = [frames[row][max(0, len(frames[row]) - 1 - ago)] for ago in few.ago]
                np.testing.assert_array_equal(shown.last.observations[row], seen)
            second += (step.ages == 1).sum()
        assert second >= 3


@pytest.mark.parametrize("view", [None, Screen((5, 4, 1, 0), maximum=False)])
def test_a_whole_game_may_end_while_a_life_waits_to_begin(view):
    """By the step limit, in the step without an action: the next game begins in it."""
    rules = Rules(end_at_life=True, fire_after_life=True)
    actions = np.random.default_rng(0).choice([0, 3, 4], (400, 1))
    _, whole = _play(BREAKOUT.under(rules), actions)
    lost = next(t for t, step in enumerate(whole) if step.over[0])
    pool, steps = _play(BREAKOUT.under(rules), actions[: lost + 1], view=view, max_steps=lost + 1)
    assert steps[lost].over[0] and not steps[lost].truncated[0] and steps[lost].lives[0] == 4
    begun = steps[lost + 1]
    assert (begun.lives[0], begun.ages[0], begun.scores[0]) == (5, 0, 0)
    assert not (begun.valid[0] or begun.over[0] or begun.truncated[0])
    assert (begun.observations[0] == begun.observations[0, -1]).all()
    # It is the second game, as it is where it follows upon the first one's end by itself, and FIRE
    # is not pressed in it: a life has not been lost.
    usual, _ = _play(BREAKOUT, actions[: lost + 2], max_steps=lost + 1)
    np.testing.assert_array_equal(pool.states, usual.states)
    for action in actions[:20]:
        one, other = pool.step(action), usual.step(action)
        np.testing.assert_array_equal(pool.states, usual.states)
        assert (one.valid, one.ages) == (other.valid, other.ages)


def test_with_sticky_actions_no_game_is_skipped():
    sticky = AtariPool(PONG.under(Rules(repeat_action_probability=0.25)), 1, seed=0)
    assert not sticky.skips and AtariPool(PONG, 1, seed=0).skips


def test_a_camera_shows_the_game_by_its_rules():
    actions = np.random.default_rng(1).choice([0, 3, 4], (120, 1))
    rules = Rules(fire_after_life=True, repeat_action_probability=0.25, noop_max=5)
    for game in (BREAKOUT, BREAKOUT.under(rules)):
        pool, camera = AtariPool(game, 1, seed=7), game.camera(seed=7)
        for row in actions:
            pool.step(row)
            camera.step(row[0])
        assert camera.frame.shape == (210, 160, 3)
        np.testing.assert_array_equal(pool.states, camera._pool.states)


def test_a_camera_shows_a_game_as_long_as_its_pool_plays_it():
    """Longer than usual, here where 20 steps are, and shorter."""
    game = dataclasses.replace(PONG, max_steps=20)
    for limit in (30, 10, None):
        pool = game.pool(1, seed=5, max_steps=limit)
        camera = game.camera(seed=5, max_steps=limit)
        for row in _random(PONG, 35, envs=1):
            pool.step(row)
            camera.step(row[0])
            np.testing.assert_array_equal(pool.states, camera._pool.states)


# What is seen of a screen.


def _shown(pool):
    return Shown(pool.last.observations, pool.last.ages, pool.view)


SEEN = jax.jit(lambda shown, view: view.see(shown), static_argnums=1)


@pytest.mark.parametrize("name", ["breakout", "ms_pacman"])
@pytest.mark.parametrize("resize", ["area", "linear"])
def test_a_native_view_is_seen_of_a_screen_as_envpool_makes_it(name, resize):
    """To one grey level, and in nearly every pixel to none; with the ends of games."""
    game, view = tasks.get(name), View(resize=resize)
    screens = game.shown([view, View(crop=(8, 196))])
    assert screens == Screen((12, 8, 4, 0), gray=True)
    actions = _random(game, 60, envs=3)
    options = {"seed": 5, "max_steps": 25}
    own = AtariPool(game, 3, view=view, **options)
    screen = AtariPool(game, 3, view=screens, **options)
    for row in actions:
        wanted = own.last.observations.astype(int)
        seen = np.asarray(SEEN(_shown(screen), view))
        assert np.abs(seen - wanted).max() <= 1
        assert (seen == wanted).mean() > 0.98
        own.step(row), screen.step(row)
        np.testing.assert_array_equal(own.states, screen.states)


@pytest.mark.parametrize("maximum", ["before", "none"])
def test_colours_give_the_emulators_own_luminance(maximum):
    """Bit by bit, whatever is seen beside it: Enduro's cars pass over roads of other colours."""
    game, plain = tasks.get("enduro"), View(210, 160, 2, resize="nearest", maximum=maximum)
    mean = dataclasses.replace(plain, gray="mean")
    pools = [AtariPool(game, 2, seed=1, view=game.shown([plain, x])) for x in (plain, mean)]
    assert [pool.view.gray for pool in pools] == [True, False]
    for row in _random(game, 25):
        by_us, by_ale = (np.asarray(SEEN(_shown(pool), plain)) for pool in pools[::-1])
        np.testing.assert_array_equal(by_us, by_ale)
        for pool in pools:
            pool.step(row)


def test_single_frames_and_their_maximum_are_the_same_game():
    """Stepped frame by frame, partly and whole, over the ends of games by themselves and cut."""
    view, single = View(resize="nearest"), View(maximum="none")
    whole, parts = BREAKOUT.shown([view]), BREAKOUT.shown([view, single])
    assert whole.maximum and parts.ago == (13, 12, 9, 8, 5, 4, 1, 0)
    pools = [AtariPool(BREAKOUT, 3, seed=2, view=v, max_steps=150) for v in (whole, parts)]
    rng, ends = np.random.default_rng(0), 0
    for turn in range(330):
        rows = None if turn % 3 else np.array([2, 0])
        action = rng.choice(BREAKOUT.actions, 3 if rows is None else 2)
        one, other = (pool.step(action, rows) for pool in pools)
        for name in ("rewards", "valid", "over", "truncated", "lives", "scores", "ages"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
        going = ~one.over  # a last frame is looked at by nobody
        seen = [np.asarray(SEEN(_shown(pool), view)) for pool in pools]
        np.testing.assert_array_equal(seen[0][going], seen[1][going])
        np.testing.assert_array_equal(pools[0].states, pools[1].states)
        ends += one.over.sum()
    assert ends >= 4
    assert (np.asarray(SEEN(_shown(pools[1]), single)) != seen[1]).any()


def test_consecutive_frames_are_those_of_the_emulator():
    view = View(210, 160, 3, spacing=1, maximum="none")
    game, single = PONG, PONG.under(Rules(frame_skip=1))
    pool = AtariPool(game, 1, seed=4, view=view)
    frames = AtariPool(single, 1, seed=4, view=View(210, 160, 1))
    assert pool.view == Screen((2, 1, 0), gray=True, maximum=False)
    latest = [frames.last.observations[0, 0]] * 3
    for row in _random(game, 20, envs=1):
        np.testing.assert_array_equal(np.asarray(SEEN(_shown(pool), view))[0], latest[-3:])
        pool.step(row)
        latest += [frames.step(row).observations[0, 0] for _ in range(4)]


def test_games_are_skipped_whatever_is_shown():
    """Of a fresh pool that shows single frames, too."""
    view = BREAKOUT.shown([View(maximum="none"), View()])
    actions = _random(BREAKOUT, 230)
    options = {"seed": 11, "view": view, "max_steps": 100}
    pool = AtariPool(BREAKOUT, 2, **options)
    overs = []
    for row in actions:
        overs.append(pool.last.over)
        pool.step(row)
    over = np.stack(overs)
    begun = np.array([np.flatnonzero(column)[-1] + 1 for column in over.T])
    again = AtariPool(BREAKOUT, 2, **options)
    again.skip(over.sum(axis=0))
    for time in range(begun.min(), len(actions)):
        rows = np.flatnonzero(begun <= time)
        again.step(actions[time][rows], rows)
    np.testing.assert_array_equal(again.last.observations, pool.last.observations)
    np.testing.assert_array_equal(again.states, pool.states)
    np.testing.assert_array_equal(again.last.ages, pool.last.ages)


def test_a_view_that_no_pool_makes_is_seen_of_the_screen():
    pool = AtariPool(PONG, 1, seed=0, view=View(gray="none", crop=(30, 190)))
    assert pool.view == Screen((12, 8, 4, 0)) and pool.last.observations.shape == (
        *(1, 4, 3, 210, 160),
    )
