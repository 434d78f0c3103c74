"""Recurrent experts: what they carry is a game's own, whoever drives it and whoever opens it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import meshes, networks
from jaxdistill.experts.expert import Expert
from jaxdistill.learn import dataset
from jaxdistill.play import clips, collection, evaluation, lessons, protocols, rollouts
from jaxdistill.play.lessons import Lesson
from jaxdistill.tasks.views import View

KEY = jax.random.key(0)
UP, DOWN = 2, 5
ALL = tuple(range(18))
COUNTING = networks.Network(convs=(), core=networks.Core("gru", 1))


def _counting(game, view):
    """An expert that counts: of what it sees it knows nothing, and UP is right for three steps.

    Its reset gate and its input are nothing, its update gate is 1/2 and its new state 1: after the
    k-th step of a game it carries 1 - 1/2^k.
    """
    outputs, bias = np.zeros((1, 18)), np.zeros(18)
    outputs[0, DOWN], bias[UP] = 1, 0.9  # DOWN once more than 0.9 is carried
    params = {
        "core_input": {"kernel": np.zeros((np.prod(view.shape), 3)), "bias": np.array([0, 0, 99])},
        "core_hidden": {"kernel": np.zeros((1, 3)), "bias": np.zeros(3)},
        "action": {"kernel": outputs, "bias": bias},
    }
    params = {"params": jax.tree.map(np.float32, params)}
    return Expert("counting", COUNTING, params, "q", ALL, view, game)


def _wanted(age):
    """What it does in a state: 1/2, 3/4 and 7/8 are carried in the first three, then 15/16."""
    return UP if age < 3 else DOWN


def test_every_game_begins_with_nothing_carried_also_when_pools_drop_out(scripted_pool):
    lengths = ([6, 1], [3], [20])
    pools = [scripted_pool([[(length, 1.0)] for length in pool]) for pool in lengths]
    policy = rollouts.expert_actor([_counting("freeway", View(2, 2, 1))], epsilon=0.0)
    seats = [np.arange(2), np.arange(2, 3), np.arange(3, 4)]
    evaluation.play_games(pools, policy, KEY, meshes.create(), indices=[0, 0, 0], seats=seats)
    # The longest game goes on when all other pools have gone.
    assert [len(pool.sent) for pool in pools] == [6, 3, 20]
    for pool, own in zip(pools, lengths, strict=True):
        wanted = [[_wanted(age) for age in range(n)] + [-1] * (max(own) - n) for n in own]
        assert np.stack(pool.sent, 1).tolist() == wanted


class _AnyState(protocols.Opening):
    def begins(self, seat, start):
        return True


def _always(action):
    return lambda observations, *_: (tuple(np.full(len(x), action) for x in observations), None)


def test_what_others_open_is_seen_and_remembered(scripted_pool):
    pool = scripted_pool([[(8, 1.0)], [(1, 1.0), (7, 1.0)]])
    counting = [_counting("freeway", View(2, 2, 1))]
    own, first = (rollouts.expert_actor(counting, epsilon=0.0) for _ in range(2))
    opening = _AnyState(_always(7), 2, _always(8), protocols.REPORTING)
    play = functools.partial(evaluation.play_games, indices=[0], seats=[np.arange(2)])
    play([pool], own, KEY, meshes.create(), opening=opening)
    assert pool.sent[2][0] == UP and pool.sent[3][0] == DOWN, "two of its four steps were others'"
    # The first game of the other slot ends in its opening: it counts from the next one's beginning.
    assert [int(sent[1]) for sent in pool.sent[2:7]] == [7, 7, UP, DOWN, DOWN]

    pool = scripted_pool([[(8, 1.0)], [(1, 1.0), (7, 1.0)]])
    opening = _AnyState(first, 4, _always(8), protocols.REPORTING)
    play([pool], _always(6), KEY, meshes.create(), opening=opening)
    assert [int(sent[0]) for sent in pool.sent[:5]] == [UP, UP, UP, DOWN, 6]
    assert [int(sent[1]) for sent in pool.sent[2:7]] == [UP, UP, UP, DOWN, 6]


# --- collecting, in a real game that is cut every few steps

VIEW, LENGTH, ENVS = View(42, 42, 1), 5, 4
RANDOM = networks.Network(convs=(), core=networks.Core("lstm", 3))


class _Short(Lesson):
    def pool(self, *arguments, **options):
        return super().pool(*arguments, **(options | {"max_steps": LENGTH}))


@pytest.fixture(scope="module")
def expert():
    """An LSTM of random numbers, that says something else wherever it has been elsewhere."""
    params = networks.init(RANDOM, KEY, VIEW.shape)
    return Expert(
        "recurrent",
        RANDOM,
        jax.tree.map(lambda x: np.asarray(9 * x + 0.1), params),
        "q",
        ALL,
        VIEW,
        "freeway",
    )


def _collector(expert, past=None, devices=1):
    student = networks.Network(convs=())
    config = collection.CollectorConfig(
        lessons=[_Short(0, expert.task, VIEW, 3, expert)],
        network=student,
        num_envs=ENVS,
        expert_epsilon=0.3,
        student_epsilon=1.0,
        change_drivers=True,
        key=KEY,
        mesh=meshes.create(jax.devices()[:devices]),
    )
    return collection.Collector(config, past), networks.init(student, KEY, VIEW.shape)


@pytest.fixture(scope="module")
def whole(expert):
    """18 steps in every environment, half of which the student drives."""
    collector, student = _collector(expert)
    return [collector.collect(9, student, 0.5) for _ in range(2)]


def test_every_state_is_labelled_in_its_order_whoever_drives(expert, whole):
    frames, ages, labels = (
        np.concatenate([getattr(chunk, name)[0] for chunk in whole])
        for name in ("frames", "ages", "labels")
    )
    assert ages[:8, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1], "games of five steps"
    step = jax.jit(functools.partial(networks.advance, RANDOM))
    carry = expert.carry(ENVS)
    for seen, age, label in zip(frames, ages, labels, strict=True):
        carry = tuple(jnp.where(age[:, None] == 0, 0, part) for part in carry)
        wanted, carry = step(expert.params, jnp.asarray(seen)[:, None], carry)
        np.testing.assert_allclose(label, wanted, rtol=1e-4, atol=1e-5)
    # What is carried matters: two states that look alike are told apart by what was before.
    alone, _ = step(expert.params, jnp.asarray(frames[-1])[:, None], expert.carry(ENVS))
    assert np.abs(labels[-1] - alone).max() > 1e-2


def test_a_collector_that_goes_on_remembers_games_in_progress_to_the_bit(expert, whole):
    info = {"games": ["x"], "num_envs": ENVS, "frame_shape": [42, 42], "num_actions": 18}
    collector, student = _collector(expert)
    collector.collect(9, student, 0.5)
    for states in (collector.states(), None):  # games before those in progress are skipped, or not
        log = dataset.Log(None, info)
        log.append(whole[0], states)
        collector, student = _collector(expert, log.past())
        rest = collector.collect(9, student, 0.5)
        for name, array in rest._asdict().items():
            np.testing.assert_array_equal(array, getattr(whole[1], name), err_msg=name)


def test_on_four_devices_it_carries_the_same(expert, whole):
    collector, student = _collector(expert, devices=4)
    for chunk in whole:
        again = collector.collect(9, student, 0.5)
        np.testing.assert_array_equal(again.actions, chunk.actions)
        np.testing.assert_allclose(again.labels, chunk.labels, rtol=1e-5, atol=1e-6)


# --- watching, and where it cannot be used


def test_a_clip_shows_an_expert_that_remembers(monkeypatch):
    expert = _counting("freeway", View(42, 42, 1))
    (lesson,) = lessons.of_experts([expert], 0)
    played, play = [], rollouts.play

    def spy(*arguments, **options):
        for turn in play(*arguments, **options):
            played.append(int(turn.actions[0][0]))
            yield turn

    monkeypatch.setattr(rollouts, "play", spy)
    clips.record(lesson, rollouts.expert_actor([expert], epsilon=0.0), steps=5)
    assert played == [UP] * 3 + [DOWN] * 2


def test_single_states_are_refused(expert):
    with pytest.raises(ValueError, match="a recurrent network answers by what it carries"):
        expert.suite_outputs(np.zeros((1, *VIEW.shape), np.uint8))
