"""Experts that see a screen in other ways than their student, and games of their own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import meshes, networks, tasks
from jaxdistill.experts.expert import Expert
from jaxdistill.learn import dataset
from jaxdistill.play import collection, lessons, measuring, players, protocols, records, rollouts
from jaxdistill.tasks.atari import AtariPool, Rules
from jaxdistill.tasks.views import Screen, Shown, View

CROPPED = View(crop=(8, 196), gray="mean", resize="linear", steps=((94, 84),))
SINGLE = View(maximum="none")
LINEAR = networks.Network(convs=(), num_outputs=18)
ENVS, KEY, ONE = 2, jax.random.key(0), meshes.create(jax.devices()[:1])
INFO = {"num_envs": ENVS, "frame_shape": [84, 84], "num_actions": 18}


def _expert(game, view, seed=0, **fields):
    params = networks.init(LINEAR, jax.random.key(seed), view.shape)
    params = jax.tree.map(lambda x: np.asarray(30 * x, np.float32), params)
    return Expert(game, LINEAR, params, "q", tuple(range(18)), view, game, **fields)


INVADERS = _expert("space_invaders", CROPPED)
PONG = _expert("pong", SINGLE, 1)
BREAKOUT = _expert("breakout", View(resize="linear"), 2)


def test_a_student_sees_what_envpool_makes_and_pools_show_what_all_need():
    taught = lessons.of_experts([INVADERS, PONG, BREAKOUT], 0)
    assert [lesson.seen for lesson in taught] == [View(), View(), View(resize="linear")]
    assert [lesson.stored for lesson in taught] == [lesson.seen for lesson in taught]
    assert [lesson.view for lesson in taught] == [
        Screen((13, 12, 9, 8, 5, 4, 1, 0), maximum=False),
        Screen((13, 12, 9, 8, 5, 4, 1, 0), gray=True, maximum=False),
        View(resize="linear"),
    ]
    small = View(42, 42, 2)
    assert lessons.default_student_views([_expert("pong", small), INVADERS]) == (small, small)
    assert lessons.default_student_views([_expert("pong", small), BREAKOUT]) == (
        View(),
        BREAKOUT.view,
    )


def test_a_student_may_see_what_its_experts_see():
    experts = [INVADERS, PONG, BREAKOUT]
    taught = lessons.of_experts(experts, 0, lessons.views_of(experts))
    assert [lesson.seen for lesson in taught] == [expert.view for expert in experts]
    assert [lesson.view for lesson in taught] == [
        Screen((12, 8, 4, 0)),
        Screen((12, 8, 4, 0), gray=True, maximum=False),
        View(resize="linear"),
    ]
    for view, message in (
        (View(42, 42), r"pong sees \(4, 42, 42\), space_invaders \(4, 84, 84\), and one network"),
        *(
            (
                view,
                r"pong sees View\(.*, which is more than one gray frame of each step; expected N",
            )
            for view in (
                View(spacing=1),
                View(padding="zero"),
                View(difference=True),
                View(gray="none"),
                View(channels_last=True),
            )
        ),
    ):
        with pytest.raises(ValueError, match=message):
            lessons.views_of([INVADERS, _expert("pong", view)])


def test_what_is_stored_for_a_student_that_sees_as_its_expert_is_what_that_one_sees():
    """A minibatch's stack is what the expert labelled, at a game's beginning and later."""
    experts = [INVADERS, PONG]
    chunk = _collector(experts, seen=lessons.views_of(experts)).collect(9)
    for index, expert in enumerate(experts):
        screen = lessons.of_experts(experts, 3)[index].pool(ENVS, lessons.COLLECT)
        for time in range(9):
            shown = Shown(screen.last.observations, screen.last.ages, screen.view)
            seen = np.asarray(expert.view.see(shown))
            back = np.minimum([[3, 2, 1, 0]], chunk.ages[index, time][:, None])
            rows = np.arange(ENVS)[:, None]
            if time >= back.max():
                np.testing.assert_array_equal(chunk.frames[index, time - back, rows], seen)
            screen.step(chunk.actions[index, time])
    usual = _collector(experts).collect(9)
    assert (usual.frames != chunk.frames).any((1, 2, 3, 4)).all()


def _collector(experts, log=None, seen=None):
    config = collection.CollectorConfig(
        lessons=lessons.of_experts(experts, 3, seen),
        network=LINEAR,
        num_envs=ENVS,
        expert_epsilon=0.3,
        student_epsilon=0.3,
        change_drivers=True,
        key=KEY,
        mesh=ONE,
    )
    return collection.Collector(config, log and log.past())


STUDENT = networks.init(LINEAR, jax.random.key(7), View().shape)


def test_what_is_stored_is_the_students_and_what_is_labelled_is_the_experts():
    """Beside native pools that are given the same actions."""
    experts = [INVADERS, PONG, BREAKOUT]
    chunk = _collector(experts).collect(12, STUDENT, 0.5)
    assert chunk.frames.shape == (3, 12, ENVS, 84, 84) and chunk.frames.dtype == np.uint8
    for index, expert in enumerate(experts):
        lesson = lessons.of_experts(experts, 3)[index]
        own = dataclasses.replace(lesson, view=lesson.seen).pool(ENVS, lessons.COLLECT)
        screen = lesson.pool(ENVS, lessons.COLLECT)
        for time in range(12):
            far = np.abs(chunk.frames[index, time].astype(int) - own.last.observations[:, -1])
            assert far.max() <= (0 if expert is BREAKOUT else 1)  # a grey level of resizing
            shown = screen.last.observations
            if expert is not BREAKOUT:
                shown = Shown(shown, screen.last.ages, screen.view)
            labels = expert.suite_outputs(expert.view.see(shown))
            np.testing.assert_allclose(chunk.labels[index, time], labels, rtol=1e-3, atol=1e-3)
            for pool in (own, screen):
                pool.step(chunk.actions[index, time])


@pytest.mark.parametrize("rules", [Rules(), Rules(0.25, end_at_life=True, fire_after_life=True)])
def test_collecting_goes_on_as_if_it_had_not_been_killed(rules, monkeypatch):
    """Whatever is shown; games are skipped where chance does not go on from one to the next."""
    experts = [BREAKOUT.under(rules), dataclasses.replace(PONG, game="breakout").under(rules)]
    for expert in experts:  # of one game, in two ways
        killed = _collector([expert])
        log = dataset.Log(None, INFO | {"games": ["breakout"]})
        for share in (1.0, 0.5):
            log.append(killed.collect(150, STUDENT, share), killed.states())
        assert log.over().any()
        resumed = _collector([expert], log)
        for one, other in zip(
            killed.collect(8, STUDENT, 0.5), resumed.collect(8, STUDENT, 0.5), strict=True
        ):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(killed.states(), resumed.states())


def test_frames_that_are_not_the_students_are_noticed():
    killed = _collector([PONG])
    chunk = killed.collect(6)
    log = dataset.Log(None, INFO | {"games": ["pong"]})
    log.append(chunk._replace(frames=chunk.frames ^ 1), killed.states())
    with pytest.raises(ValueError, match="pong: what the dataset holds cannot be played again"):
        _collector([PONG], log)


def test_a_network_acts_by_what_it_sees_of_each_games_screen():
    experts = [INVADERS, BREAKOUT]
    taught = lessons.of_experts(experts, 0)
    shown = tuple(rollouts.look([lesson.pool(ENVS, 0)], ONE) for lesson in taught)
    assert isinstance(shown[0], Shown) and not isinstance(shown[1], Shown)
    masks, seats = lessons.masks(taught), (np.arange(ENVS),) * 2
    act = rollouts.network_actor(
        LINEAR, lessons.choices(taught), epsilon=0.0, views=[x.seen for x in taught]
    )
    chosen, _ = act(STUDENT, shown, KEY, (0, 1), seats)
    for index, lesson in enumerate(taught):
        outputs = networks.forward(LINEAR, STUDENT, lesson.seen.see(shown[index]))
        greedy = jnp.where(masks[index], outputs, -jnp.inf).argmax(-1)
        np.testing.assert_array_equal(chosen[index], greedy)


def test_games_are_another_where_rules_or_what_is_shown_are():
    """In which they are kept, and what is counted in them."""
    random = rollouts.random_policy(lessons.choices(lessons.of_experts([PONG], 0)))
    opening = protocols.Opening(random, 3, random, protocols.REPORTING)
    protocol = protocols.Protocol(lessons.REPORT, 0, opening, 20)
    player = players.Player("random", random, (players.RANDOM,))
    sticky = Rules(repeat_action_probability=0.25)
    three = [_expert("pong", View()), PONG, _expert("pong", View()).under(sticky)]
    described = [
        records.described(lesson, protocol, player)
        for expert in three
        for lesson in lessons.of_experts([expert], 0)
    ]
    assert "rules" not in described[0] and described[0]["view"] == View().to_dict() | {"steps": []}
    assert described[1]["view"]["ago"] == [13, 12, 9, 8, 5, 4, 1, 0]
    assert described[2] == described[0] | {"rules": {"repeat_action_probability": 0.25}}
    marks = {players.expert_mark(x, epsilon=0.0, sample_logits=False) for x in three[::2]}
    assert len(marks) == 1, "the same player, in another game"


def test_an_expert_keeps_its_own_game_and_is_measured_in_it(tmp_path):
    own = Rules(fire_after_life=True, full_actions=True)
    expert = _expert("breakout", View(), 2, rules=own)
    expert.save(tmp_path / "expert")
    again = Expert.load(tmp_path / "expert")
    assert again.rules == own and again.task.rules == own and again.mask.all()
    usual = again.under(Rules())
    assert usual.rules == own and usual.task == tasks.get("breakout")
    assert np.flatnonzero(usual.mask).tolist() == [0, 1, 3, 4]
    terms = protocols.Terms(2, epsilon=0.5, seed=0, opening_steps=10, max_steps=60)
    scores = [measuring.measure_alone(x, terms) for x in (again, usual)]
    assert (scores[0].scores != scores[1].scores).any() or (
        scores[0].starts != scores[1].starts
    ).any()
    with pytest.raises(ValueError, match=r"combat/duel knows none of the rules of Atari"):
        tasks.under(tasks.get("combat/duel"), own)
    assert "rules" not in (_saved(BREAKOUT, tmp_path / "plain"))


def _saved(expert, directory):
    expert.save(directory)
    return (directory / "expert.json").read_text()


def test_channels_last_are_for_networks_without_convolutions():
    network = networks.Network(convs=(networks.ConvLayer(1, 8, 8),), num_outputs=18)
    with pytest.raises(ValueError, match="channels_last is for networks without convolutions"):
        view = View(channels_last=True)
        Expert("x", network, {}, "q", tuple(range(18)), view, "pong")


def test_a_pool_of_an_experts_own_game_is_what_its_lesson_plays():
    rules = Rules(noop_max=3, frame_skip=2)
    (lesson,) = lessons.of_experts([_expert("pong", CROPPED, rules=rules)], 4)
    assert lesson.task.rules == rules
    assert lesson.view == Screen(tuple(range(7, -1, -1)), skip=2, maximum=False)
    pool = lesson.pool(1, lessons.REPORT)
    assert isinstance(pool, AtariPool) and pool.task.rules == rules
