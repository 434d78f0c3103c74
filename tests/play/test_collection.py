"""Tests for who drives which environment while states are collected."""

import dataclasses
import hashlib
import signal
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import meshes, networks, preemption, tasks
from jaxdistill.experts.expert import Expert, Team
from jaxdistill.learn import dataset
from jaxdistill.play import collection, lessons, rollouts
from jaxdistill.play.lessons import Lesson
from jaxdistill.tasks import atari, combat, lander
from jaxdistill.tasks.combat import views
from jaxdistill.tasks.task import seed_for
from jaxdistill.tasks.views import View

UP, DOWN, ENVS = 2, 5, 4
INFO = {"games": ["x"], "num_envs": ENVS, "frame_shape": [84, 84], "num_actions": 18}
NETWORK = networks.Network(convs=(networks.ConvLayer(1, 8, 8),), hidden=())


def _always(action):
    """Parameters that prefer one of ALE's actions, whatever is seen."""
    params = networks.init(NETWORK, jax.random.key(0), View().shape)

    def only_bias(path, leaf):
        outputs = leaf.shape == (atari.NUM_ACTIONS,)
        return jax.nn.one_hot(action, len(leaf)) if outputs else jnp.zeros_like(leaf)

    return jax.tree_util.tree_map_with_path(only_bias, params)


def _expert(action, game="freeway", outputs="q"):
    params = _always(action)
    return Expert("one", NETWORK, params, outputs, tuple(range(atari.NUM_ACTIONS)), View(), game)


class _Seeded(Lesson):
    """One whose pools have the very seed it was given."""

    def pool_seed(self, *words):
        return self.seed


def _collector(experts, log=None, seeds=(3, 103, 203), **changes):
    fields = {
        "lessons": [
            _Seeded(index, expert.task, expert.view, seed, expert)
            for index, (expert, seed) in enumerate(zip(experts, seeds, strict=False))
        ],
        "network": NETWORK,
        "num_envs": ENVS,
        "expert_epsilon": 0.0,
        "student_epsilon": 0.0,
        "change_drivers": False,
        "key": jax.random.key(0),
        "mesh": meshes.create(jax.devices()[:1]),
    }
    return collection.Collector(
        collection.CollectorConfig(**(fields | changes)), log and log.past()
    )


def test_states_are_collected_in_games_of_their_own():
    taught = lessons.of_experts([_expert(UP), _expert(DOWN)], 3)
    pools = _collector([], lessons=taught).pools
    for index, (lesson, pool) in enumerate(zip(taught, pools, strict=True)):
        alone = atari.AtariPool(lesson.task, ENVS, seed=seed_for(3, lessons.COLLECT, index))
        np.testing.assert_array_equal(pool.last.observations, alone.last.observations)
        reported = lesson.pool(ENVS, lessons.REPORT).last.observations
        assert (pool.last.observations != reported).any()


def _drivers(*, change_drivers, share, calls=6):
    """Whether the expert drove, `(calls, ENVS)`."""
    collector = _collector([_expert(UP)], change_drivers=change_drivers)
    student = _always(DOWN)
    drove = []
    for _ in range(calls):
        chunk = collector.collect(3, student, share)
        assert set(np.unique(chunk.actions)) <= {UP, DOWN}
        assert (chunk.labels.argmax(-1) == UP).all(), "the expert labels whoever drives"
        assert (chunk.actions == chunk.actions[:, :1]).all(), "nobody changes within a call"
        drove.append(chunk.actions[0, 0] == UP)
    return np.stack(drove)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.5, 2), (0.7, 3), (1.0, 4)])
def test_the_experts_drive_the_first_environments(share, count):
    drove = _drivers(change_drivers=False, share=share, calls=2)
    np.testing.assert_array_equal(drove, [np.arange(ENVS) < count] * 2)


def test_drivers_change_between_calls_and_are_as_many():
    drove = _drivers(change_drivers=True, share=0.5, calls=12)
    assert (drove.sum(axis=1) == 2).all()
    assert drove.any(axis=0).all() and not drove.all(axis=0).any(), "each environment has had both"
    np.testing.assert_array_equal(drove, _drivers(change_drivers=True, share=0.5, calls=12))


@pytest.mark.parametrize(
    ("expert_epsilon", "student_epsilon"), [(0.0, 1.0), (1.0, 0.0)], ids=["student", "expert"]
)
def test_experts_and_student_explore_with_their_own_epsilon(expert_epsilon, student_epsilon):
    collector = _collector(
        [_expert(UP)], expert_epsilon=expert_epsilon, student_epsilon=student_epsilon
    )
    actions = collector.collect(60, _always(DOWN), 0.5).actions[0]
    expert, student = actions[:, :2], actions[:, 2:]
    for played, epsilon, own in ((expert, expert_epsilon, UP), (student, student_epsilon, DOWN)):
        if epsilon:
            # A third of uniform draws of Freeway's three actions; its deviation is 0.043.
            assert (played == own).mean() == pytest.approx(1 / 3, abs=0.17)
            assert set(np.unique(played)) == {0, UP, DOWN}
        else:
            assert (played == own).all()


def test_policies_are_sampled_where_states_are_collected_and_q_values_are_not():
    # Of three actions at 0, 1 and 0 softmax gives the second e / (2 + e) = 0.576.
    experts = [_expert(UP, outputs="logits"), _expert(UP), _expert(UP, outputs="logits")]
    actions = _collector(experts).collect(60).actions
    assert (actions[1] == UP).all()
    for sampled in (actions[0], actions[2]):
        assert (sampled == UP).mean() == pytest.approx(0.576, abs=0.13)
    # Two independent draws agree 0.576^2 + 2 0.212^2 = 0.42 of the time.
    assert (actions[0] == actions[2]).mean() < 0.6, "each game draws for itself"


def test_every_step_draws_for_itself_however_the_calls_fall():
    whole = _collector([_expert(UP)], expert_epsilon=1.0).collect(24)
    collector = _collector([_expert(UP)], expert_epsilon=1.0)
    parts = [collector.collect(length) for length in (8, 8, 8)]
    for name, array in whole._asdict().items():
        joined = np.concatenate([getattr(part, name) for part in parts], axis=1)
        np.testing.assert_array_equal(joined, array, err_msg=name)
    assert (parts[0].actions != parts[1].actions).any()
    # And a collector whose games were played to the middle by another one goes on alike.
    log = dataset.Log(None, INFO)
    for part in parts[:2]:
        log.append(part)
    resumed = _collector([_expert(UP)], log, expert_epsilon=1.0)
    assert resumed.steps == 16
    for name, array in resumed.collect(8)._asdict().items():
        np.testing.assert_array_equal(array, getattr(parts[2], name), err_msg=name)


def test_experts_are_sent_to_the_devices_once():
    experts, own = [_expert(UP), _expert(DOWN)], meshes.create()
    collector = _collector(experts, mesh=own)
    for new in (experts, experts[::-1]):
        collector.replace_experts(
            [dataclasses.replace(x, params=jax.device_get(x.params)) for x in new]
        )
        for leaf in jax.tree.leaves(collector._params):
            assert leaf.sharding == meshes.replicated(own)


def test_of_what_was_seen_one_frame_a_step_is_kept(monkeypatch):
    """A view of it would keep the whole stack until the last step of the call."""
    alive, play = [], rollouts.play

    def watched(*arguments, **options):
        shown = []
        for turn in play(*arguments, **options):
            seen = turn.steps[0].observations
            shown.append(weakref.ref(seen))
            alive.append(sum(x() is not None for x in shown))
            del seen
            yield turn

    monkeypatch.setattr(rollouts, "play", watched)
    _collector([_expert(UP)]).collect(12)
    assert max(alive) < 6


def test_pools_share_the_cores_among_them(monkeypatch):
    asked, pool = [], Lesson.pool

    def spy(lesson, *arguments, threads=None, **options):
        asked.append(threads)
        return pool(lesson, *arguments, threads=threads, **options)

    monkeypatch.setattr(Lesson, "pool", spy)
    chunks = []
    # Three pools of four environments; of 96 cores each may have all that it can use.
    for cores, threads in ((2, None), (4, 2), (96, None)):
        monkeypatch.setattr(meshes.os, "sched_getaffinity", lambda _, n=cores: range(n))
        del asked[:]
        chunks.append(_collector([_expert(UP)] * 3, expert_epsilon=1.0).collect(8))
        assert asked == [threads] * 3
    for one, *others in zip(*chunks, strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)


def test_what_is_stored_is_what_was_seen_and_said_there(watcher):
    """Breakout's games end in it, Pong's grow older than a byte can tell."""
    names = ("breakout", "pong")
    experts = [watcher(name, 7) for name in names]
    linear = networks.Network(convs=())
    collector = _collector(experts, network=linear, num_envs=2, expert_epsilon=1.0)
    counted = []
    chunk = collector.collect(270, advance=counted.append)
    assert sum(counted) == 270 * 2 * 2
    for index, (name, expert) in enumerate(zip(names, experts, strict=True)):
        pool = atari.AtariPool(tasks.get(name), 2, seed=3 + 100 * index)
        steps = [pool.last, *(pool.step(row) for row in chunk.actions[index])][:-1]
        newest = np.stack([step.observations[:, -1] for step in steps])
        np.testing.assert_array_equal(chunk.frames[index], newest)
        ages, over = (np.stack([getattr(step, x) for step in steps]) for x in ("ages", "over"))
        np.testing.assert_array_equal(chunk.ages[index], np.minimum(ages, 255))
        np.testing.assert_array_equal(chunk.usable[index], ~over)
        assert over.any() == (name == "breakout") and (ages.max() > 255) == (name == "pong")
        said = expert.suite_outputs(np.concatenate([step.observations for step in steps]))
        np.testing.assert_allclose(chunk.labels[index].reshape(-1, 18), said, atol=1e-4)


def test_a_recorded_play(watcher):
    """Two games, both kinds of expert, drivers that change: every action as it was when recorded.

    Meant to change only where what is collected is meant to change; then record it anew.
    """
    experts = [watcher("asterix", 1), watcher("carnival", 2, "logits")]
    collector = _collector(
        experts,
        network=networks.Network(convs=()),
        expert_epsilon=0.2,
        student_epsilon=0.1,
        change_drivers=True,
        key=jax.random.key(4),
    )
    student = watcher("asterix", 3).params
    chunks = [collector.collect(30, student, share) for share in (1.0, 0.5, 0.25)]
    for pool in collector.pools:
        assert len(np.unique(pool.last.scores)) > 1, "a play in which nothing happens"
    played = np.concatenate([chunk.actions for chunk in chunks], axis=1)
    scores = np.stack([pool.last.scores for pool in collector.pools]).astype(np.int64)
    digest = hashlib.sha256(played.tobytes() + scores.tobytes()).hexdigest()
    assert digest[:16] == "a1be6c56cfe54004", scores


def _random(game, log=None, **changes):
    return _collector([_expert(UP, game)], log, expert_epsilon=1.0, **changes)


def _played(game, *, states=True):
    """A collector of random play, and the log of what it has played: 300 steps per environment."""
    collector, log = _random(game), dataset.Log(None, INFO)
    for length in (130, 170):
        log.append(collector.collect(length), collector.states() if states else None)
    return collector, log


@pytest.fixture
def stepped(monkeypatch):
    """How many environments' steps pools are asked for from now on."""
    steps, send = [], atari.AtariPool.send

    def counting(self, actions, rows=None):
        steps.append(len(actions))
        send(self, actions, rows)

    monkeypatch.setattr(atari.AtariPool, "send", counting)
    return steps


@pytest.mark.parametrize(
    ("game", "states", "forgets"),
    [
        ("breakout", True, True),
        # Without checksums nothing says that skipping was right: all is played again.
        ("breakout", False, False),
        # Its emulator does not forget a game that it begins anew after.
        ("hangman", True, False),
    ],
)
def test_a_resumed_collector_goes_on_as_the_one_that_was_killed(
    game, states, forgets, stepped, monkeypatch
):
    monkeypatch.setattr(atari, "_REMEMBERED", ())  # or Hangman's games were not skipped at all
    killed, log = _played(game, states=states)
    over = log.over()[0]
    assert over.sum(axis=0).min() >= 1, "games have ended in every environment"
    in_progress = np.argmax(over[::-1], axis=0).sum()
    del stepped[:]
    resumed = _random(game, log)
    if forgets:
        assert sum(stepped) == in_progress < ENVS * log.length
    else:
        assert sum(stepped) >= ENVS * log.length
    assert resumed.steps == killed.steps
    np.testing.assert_array_equal(resumed.states(), killed.states())
    for one, other in zip(killed.collect(120), resumed.collect(120), strict=True):
        np.testing.assert_array_equal(one, other)


STICKY = atari.Rules(repeat_action_probability=0.25)


def _lesson(rules):
    (lesson,) = lessons.of_experts([_expert(UP, "breakout")], 3)
    return dataclasses.replace(lesson, task=lesson.task.under(rules))


def _renewed(log=None, *, rules=STICKY, every=100):
    return _random("breakout", log, lessons=[_lesson(rules)], renewed_every=every)


def test_pools_whose_games_cannot_be_skipped_begin_anew_now_and_then():
    chunk = _renewed().collect(230)
    begun = (chunk.ages[0, 1:] == 0) & chunk.usable[0, :-1]
    assert not begun.any(), "the last state before a game is not learnt from"
    for time in (100, 200):
        assert not chunk.ages[0, time].any() and not chunk.usable[0, time - 1].any()
    assert (chunk.ages[0, 99] > 0).all()
    # Their games are no others' of the same environments.
    lesson, collector = _lesson(STICKY), _renewed()
    collector.collect(200)
    fresh = lesson.pool(ENVS, lessons.COLLECT, 2)
    np.testing.assert_array_equal(collector.pools[0].states, fresh.states)
    seeds = {lesson.pool_seed(lessons.COLLECT, *words) for words in ((), (1,), (2,))}
    assert len(seeds) == 3
    # Within a call and across calls alike.
    apart, log = _renewed(), dataset.Log(None, INFO)
    for length in (70, 30, 130):
        log.append(apart.collect(length), apart.states())
    for one, other in zip(chunk, log.read(0, 230), strict=True):
        np.testing.assert_array_equal(one, other)
    # Those that can be are left to play.
    for other in (_renewed(every=0), _renewed(rules=atari.USUAL)):
        ages = other.collect(101).ages[0]
        assert (ages[100] == 100).any()


@pytest.mark.parametrize("length", [70, 100, 230])
def test_what_is_played_again_of_them_is_bounded(length, stepped):
    killed, log = _renewed(), dataset.Log(None, INFO)
    log.append(killed.collect(length), killed.states())
    del stepped[:]
    resumed = _renewed(log)
    assert sum(stepped) == ENVS * (length % 100)
    for one, other in zip(killed.collect(50), resumed.collect(50), strict=True):
        np.testing.assert_array_equal(one, other)


def test_emulators_that_hold_something_else_are_noticed():
    """Though their frames are the same."""
    killed, log = _random("breakout"), dataset.Log(None, INFO)
    log.append(killed.collect(6), killed.states() ^ 1)
    with pytest.raises(ValueError, match="breakout: what the dataset holds cannot be played again"):
        _random("breakout", log)


def test_what_is_played_again_is_stopped_by_a_signal(monkeypatch):
    _, log = _played("breakout")
    monkeypatch.setattr(preemption, "_asked", signal.SIGINT)
    with pytest.raises(preemption.Preempted):
        _random("breakout", log)


def test_a_log_that_does_not_play_again_is_refused(stepped):
    _, log = _played("breakout")
    with pytest.raises(ValueError, match="breakout: what the dataset holds cannot be played again"):
        _random("breakout", log, seeds=[4])


# --- Keys and angles, and experts that play together.

SEEN = views.part("duel")
STUDENT = networks.Network(convs=(), num_outputs=9)
FOUGHT = {
    "games": ["combat/movement", "combat/aiming", "combat/clicking", "combat/duel"],
    "num_envs": ENVS,
    "frame_shape": [74],
    "frame_dtype": "float32",
    "action_shape": [9],
    "num_actions": 9,
}


@pytest.fixture(scope="module")
def fighters(skilled):
    """Three experts, and the team that they are."""
    experts = [skilled(name, seed) for seed, name in enumerate(("movement", "aiming", "clicking"))]
    return [*experts, Team(tuple(experts), "combat/duel")]


def _fight(fighters, log=None, view=SEEN, **changes):
    """A collector of skills and of the duel, whose episodes are cut now and then."""
    seen = [view] * len(fighters)
    fields = {"network": STUDENT, "lessons": lessons.of_experts(fighters, 3, seen)}
    return _collector([], log, **(fields | changes))


def test_every_expert_labels_what_it_sees_and_the_team_plays_by_all(fighters):
    chunk = _fight(fighters).collect(5)
    assert chunk.frames.shape == (4, 5, ENVS, 74) and chunk.frames.dtype == np.float32
    assert chunk.actions.shape == chunk.labels.shape == (4, 5, ENVS, 9)
    assert chunk.actions.dtype == np.float32
    for index, expert in enumerate(fighters):
        shown = chunk.frames[index].reshape(-1, 1, 74)
        said = np.asarray(expert.judge(expert.params, shown))
        np.testing.assert_allclose(chunk.labels[index].reshape(-1, 9), said, rtol=1e-4, atol=1e-5)
        played = chunk.actions[index][..., ~expert.mask]
        assert not played.any(), "keys that are not the task's are not pressed"
        # Angles are their means: nobody has said how far they spread.
        angles = chunk.labels[index][..., 7:] * expert.mask[7:]
        np.testing.assert_array_equal(chunk.actions[index][..., 7:], angles)
    team = chunk.labels[3].reshape(-1, 9)
    for index, expert in enumerate(fighters[:3]):
        own = np.asarray(expert.judge(expert.params, chunk.frames[3].reshape(-1, 1, 74)))
        if index != 1:  # whose angles the duel cuts
            np.testing.assert_allclose(team[:, expert.mask], own[:, expert.mask], rtol=1e-4)


def test_an_experts_angles_are_drawn_where_it_says_how_far_they_spread(skilled):
    still, spread = (skilled("aiming", log_std=x) for x in (None, (-2.0, -2.0)))
    chunks = [_fight([expert], num_envs=64).collect(1) for expert in (still, spread)]
    errors = [(chunk.actions - chunk.labels)[..., 7:] for chunk in chunks]
    assert not errors[0].any()
    assert errors[1].std() == pytest.approx(np.exp(-2), rel=0.2)


def test_experts_that_are_replaced_draw_by_their_own_deviations(skilled):
    wide, narrow, still = (skilled("aiming", log_std=x) for x in ((-2.0, -2.0), (-4.0, -4.0), None))
    collector = _fight([wide], num_envs=64)
    for expert, spread in ((narrow, np.exp(-4)), (still, 0.0), (wide, np.exp(-2))):
        collector.replace_experts([expert])
        chunk = collector.collect(1)
        errors = (chunk.actions - chunk.labels)[..., 7:]
        assert errors.std() == pytest.approx(spread, rel=0.2)


def test_a_student_of_skills_drives_by_what_it_sees_of_them(fighters):
    """It walks where the target is far, and turns by how far ahead its view says that it is."""
    kernel = np.zeros((20, 9), np.float32)
    kernel[3, 0], kernel[2, 7] = 1.0, 0.1
    bias = np.array([-0.8, 0, 0, 0, 0, 0, 0, 0.125, 0], np.float32)
    student = {"params": {"action": {"kernel": kernel, "bias": bias}}}
    part = views.part("document")
    chunk = _fight(fighters, view=part, num_envs=8).collect(3, student, 0.0)
    seen = part.see(chunk.frames)
    walks = (seen[..., 3] > 0.8) & np.array([True, False, False, True])[:, None, None]
    np.testing.assert_array_equal(chunk.actions[..., 0], walks)
    assert walks.any() and not walks[0].all()
    turns = 0.125 + 0.1 * seen[..., 2]
    np.testing.assert_allclose(chunk.actions[[1, 3], ..., 7], turns[[1, 3]], rtol=1e-5)
    assert not chunk.actions[[0, 2], ..., 7].any()
    # Of aiming the published recipe's view is another than the duel's: ahead is behind.
    np.testing.assert_allclose(SEEN.see(chunk.frames)[1, ..., 2], -seen[1, ..., 2], atol=0.05)
    assert np.abs(seen[1, ..., 2]).max() > 0.1
    # Half of the environments are the experts'.
    both = _fight(fighters, view=part, num_envs=8).collect(3, student, 0.5)
    turns = 0.125 + 0.1 * part.see(both.frames)[1, ..., 2]
    own = np.isclose(both.actions[1, ..., 7], turns, rtol=1e-5)
    np.testing.assert_array_equal(own, np.broadcast_to(np.arange(8) >= 4, (3, 8)))


def test_collecting_fights_goes_on_as_if_it_had_not_been_killed(fighters, monkeypatch):
    """Duels end at different times; those in progress are fought again."""
    duel = combat.duel(10)
    team = Team(fighters[3].experts, duel.name)
    taught = lessons.of_experts([team], 3, [SEEN])
    options = {"lessons": taught, "expert_epsilon": 0.2, "change_drivers": True}
    student = networks.init(STUDENT, jax.random.key(8), (1, 20))
    killed, log = _fight([], **options), dataset.Log(None, FOUGHT | {"games": [duel.name]})
    for share in (1.0, 0.5, 0.5):
        log.append(killed.collect(150, student, share), killed.states())
    over = log.over()[0]
    in_progress = np.argmax(over[::-1], axis=0)
    assert over.any(axis=0).all() and len(set(in_progress)) > 1
    stepped, send = [], combat.CombatPool.send

    def counting(self, actions, rows=None):
        stepped.append(len(actions))
        send(self, actions, rows)

    monkeypatch.setattr(combat.CombatPool, "send", counting)
    resumed = _fight([], log, **options)
    assert sum(stepped) == in_progress.sum() < ENVS * log.length
    np.testing.assert_array_equal(resumed.states(), killed.states())
    for one, other in zip(
        killed.collect(40, student, 0.5), resumed.collect(40, student, 0.5), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_collecting_landings_goes_on_as_if_it_had_not_been_killed(monkeypatch):
    """Those in progress are flown again, wind and all."""
    pytest.importorskip("Box2D")  # here: its import warns
    network = networks.Network(convs=(), hidden=(5,), num_outputs=4)
    params = [networks.init(network, jax.random.key(seed), (1, 8)) for seed in range(3)]
    flown = [tasks.get(name) for name in ("lander/standard", "lander/windy")]
    pilots = [
        Expert("one", network, own, "logits", task.actions, task.view, task.name)
        for own, task in zip(params, flown, strict=False)
    ]
    fields = {"games": [task.name for task in flown], "num_envs": ENVS, "frame_shape": [8]}
    log = dataset.Log(None, fields | {"frame_dtype": "float32", "num_actions": 4})
    options = {"lessons": lessons.of_experts(pilots, 3), "network": network, "expert_epsilon": 0.2}
    killed, student = _collector([], **options), params[2]
    for share in (1.0, 0.5):
        log.append(killed.collect(40, student, share), killed.states())
    over = log.over()
    ended = over.any(axis=1)
    assert ended.any(axis=1).all() and not ended.all(axis=1).any(), "in some environments of both"
    in_progress = np.where(ended, np.argmax(over[:, ::-1], axis=1), log.length)
    stepped, send = [], lander.LanderPool.send

    def counting(self, actions, rows=None):
        stepped.append(len(actions))
        send(self, actions, rows)

    monkeypatch.setattr(lander.LanderPool, "send", counting)
    resumed = _collector([], log, **options)
    assert sum(stepped) == in_progress.sum() < over.size
    np.testing.assert_array_equal(resumed.states(), killed.states())
    for one, other in zip(
        killed.collect(60, student, 0.5), resumed.collect(60, student, 0.5), strict=True
    ):
        np.testing.assert_array_equal(one, other)
