"""Tests for training experts: targets by hand, exploration, what is masked, and resuming."""

import dataclasses
import functools
import pathlib
import re
import shutil
import sys
import types
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import finetune, train_expert
from jaxdistill import clocks, lock, meshes, metrics, networks, tasks
from jaxdistill import settings as settings_lib
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.learn import (
    beginning,
    checkpoints,
    exploration,
    learner,
    loop,
    origins,
    pqn,
    train_settings,
    windows,
)
from jaxdistill.learn import training as learning
from jaxdistill.learn.algorithm import Beginning, Progress
from jaxdistill.learn.collector import RolloutCollector
from jaxdistill.learn.rollout import Acted, Passes, Rollout
from jaxdistill.networks import ConvLayer, Network
from jaxdistill.play import evaluation, lessons, protocols, records
from jaxdistill.tasks import atari
from jaxdistill.tasks.actions import greedy
from jaxdistill.tasks.task import seed_for
from jaxdistill.tasks.views import Vector, View

NO, YES = False, True


def _settings(**changes):
    fields = {
        "games": ("pong", "breakout"),
        "network": "net3",
        "num_envs": 4,
        "rollout_steps": 8,
        "total_steps": 32 * 3,
        "epochs": 1,
        "batch_per_game": 8,
        "eval_every": 32 * 2,
        "eval_episodes": 2,
        "final_episodes": 4,
        "max_steps": 12,
    }
    return train_settings.Settings(**(fields | changes))


# --- Targets.


@pytest.mark.parametrize("jit", [False, True], ids=["plain", "jit"])
@pytest.mark.parametrize(
    ("ended", "truncated", "expected"),
    [
        # gamma = lambda = 1/2. Nothing follows the last step but its value:
        # G2 = 4 + 30/2 = 19; G1 = 2 + (19/2 + 20/2)/2 = 11.75;
        # G0 = 1 + (11.75/2 + 10/2)/2 = 6.4375.
        ((NO, NO, NO), (NO, NO, NO), (6.4375, 11.75, 19.0)),
        # Ended at 1: G1 = 2, and G0 = 1 + (2/2 + 10/2)/2 = 4.
        ((NO, YES, NO), (NO, NO, NO), (4.0, 2.0, 19.0)),
        # Ended at the end: G2 = 4, G1 = 2 + (4/2 + 20/2)/2 = 8, G0 = 1 + (8/2 + 10/2)/2 = 5.5.
        ((NO, NO, YES), (NO, NO, NO), (5.5, 8.0, 4.0)),
        # Cut at 1: the value follows whole, nothing of G2: G1 = 2 + 20/2 = 12, and
        # G0 = 1 + (12/2 + 10/2)/2 = 6.5.
        ((NO, NO, NO), (NO, YES, NO), (6.5, 12.0, 19.0)),
        # A life lost on the very step that was cut: nothing follows.
        ((NO, YES, NO), (NO, YES, NO), (4.0, 2.0, 19.0)),
    ],
    ids=["plain", "ended", "ended last", "truncated", "both"],
)
def test_q_lambda_targets_by_hand(ended, truncated, expected, jit):
    def targets(*rows):
        return pqn.q_lambda_targets(*rows, discount=0.5, trace=0.5)

    rows = [jnp.array(x) for x in ((1.0, 2.0, 4.0), ended, truncated, (10.0, 20.0, 30.0))]
    function = jax.jit(targets) if jit else targets
    np.testing.assert_allclose(function(*rows), expected, rtol=1e-6)
    # Environments side by side do not mix.
    both = [jnp.stack([x, jnp.zeros_like(x)], axis=1) for x in rows]
    np.testing.assert_allclose(function(*both), np.stack([expected, np.zeros(3)], 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        # One step: r + V/2 = 6, 12, 19. Monte Carlo: 19; 2 + 19/2 = 11.5; 1 + 11.5/2 = 6.75.
        (0.0, (6.0, 12.0, 19.0)),
        (1.0, (6.75, 11.5, 19.0)),
    ],
)
def test_the_trace_runs_from_one_step_to_all(trace, expected):
    no = jnp.zeros(3, bool)
    actual = pqn.q_lambda_targets(
        jnp.array([1.0, 2.0, 4.0]), no, no, jnp.array([10.0, 20.0, 30.0]), discount=0.5, trace=trace
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


# --- Exploration.


def test_epsilon_falls_linearly_and_then_stays():
    chosen = _settings(
        total_steps=32 * 100, epsilon_start=1.0, epsilon_end=0.2, epsilon_fraction=0.5
    )
    assert chosen.iterations == 100
    values = [exploration.epsilon_at(chosen, i) for i in (0, 25, 50, 51, 99)]
    np.testing.assert_allclose(values, [1.0, 0.6, 0.2, 0.2, 0.2])
    held = dataclasses.replace(chosen, hold_exponent=1.6)
    values = [exploration.epsilon_at(held, i) for i in (0, 25, 99)]
    np.testing.assert_allclose(values, [1 / 3, 0.2, 0.2 / 3])


def test_epsilon_falls_by_a_factor_an_episode():
    epsilon = functools.partial(exploration.epsilon_per_episode, start=0.8, end=0.1, decay=0.5)
    assert [epsilon(n) for n in range(5)] == [0.8, 0.4, 0.2, 0.1, 0.1]
    # A public agent's: from 1 by 0.995 an episode, at 0.01 from its 919th on.
    slow = [exploration.epsilon_per_episode(n, 1.0, 0.01, 0.995) for n in (0, 1, 918, 919, 10_000)]
    assert slow[:2] == [1.0, 0.995] and slow[2] > 0.01
    assert slow[3:] == [0.01, 0.01]


VALID = [(0, 1, 3, 4, 11, 12), (0, 2, 5)]


def _explorer(**changes):
    chosen = _settings(games=("pong", "freeway"), total_steps=10**6, **changes)
    return exploration.Explorer(chosen, VALID)


def test_an_explorer_without_epsilon_is_greedy():
    greedy = np.full((2, 4), 2)
    np.testing.assert_array_equal(_explorer()(greedy, 0, 0.0), greedy)


def test_explored_actions_are_each_games_valid_ones_equally_often():
    explorer = _explorer(num_envs=6000, batch_per_game=8)
    actions = explorer(np.full((2, 6000), 17), 0, 1.0)
    for chosen, valid in zip(actions, VALID, strict=True):
        values, counts = np.unique(chosen, return_counts=True)
        assert tuple(values) == valid
        np.testing.assert_allclose(counts / 6000, 1 / len(valid), atol=0.03)


def test_so_many_environments_explore_as_epsilon_says_for_one_step_only():
    explorer = _explorer(num_envs=6000, batch_per_game=8)
    greedy = np.full((2, 6000), 17)
    assert (explorer(greedy, 0, 0.25) != 17).mean() == pytest.approx(0.25, abs=0.02)
    assert (explorer(greedy, 1, 0.0) == 17).all()


def test_an_explored_action_is_held_for_its_zipf_distributed_time():
    explorer = _explorer(num_envs=3000, batch_per_game=8, hold_exponent=1.6)
    greedy = np.full((2, 3000), 17)
    first = explorer(greedy, 0, 1.0)
    lengths = explorer.remaining + 1
    # P(n) = n^-1.6 / zeta(1.6), zeta(1.6) = 2.2858: 0.4375, and 0.1443 for n = 2.
    assert (lengths == 1).mean() == pytest.approx(0.4375, abs=0.03)
    assert (lengths == 2).mean() == pytest.approx(0.1443, abs=0.02)
    assert lengths.min() == 1 and lengths.max() > 100
    for turn in range(1, 8):
        actions = explorer(greedy, turn, 0.0)
        np.testing.assert_array_equal(actions, np.where(lengths > turn, first, 17))


def test_at_exponent_1_6_far_more_steps_explore_than_epsilon_says():
    """Lengths cut at 10,000 steps have a mean of 71.7: what the documents say follows from that."""
    explorer, lengths = _explorer(num_envs=30_000, batch_per_game=8, hold_exponent=1.6), []
    for turn in range(20):
        explorer.remaining[:] = 0
        explorer(np.full((2, 30_000), 17), turn, 1.0)
        lengths.append(explorer.remaining + 1)
    lengths = np.stack(lengths)
    assert lengths.max() == 10_000 and lengths.mean() == pytest.approx(71.7, abs=3)
    chosen = _settings(hold_exponent=1.6, epsilon_fraction=0.0, epsilon_end=0.01)
    begins = exploration.epsilon_at(chosen, 1)
    held = begins * lengths.mean()
    assert held / (held + 1 - begins) == pytest.approx(0.19, abs=0.01)
    assert (
        "19%" in exploration.epsilon_at.__doc__ and "19% at 0.01" in train_settings.Settings.__doc__
    )


def test_a_held_action_is_not_replaced_before_its_time():
    explorer = _explorer(num_envs=3000, batch_per_game=8, hold_exponent=1.6)
    greedy = np.full((2, 3000), 17)
    first = explorer(greedy, 0, 1.0)
    left = explorer.remaining.copy()
    second = explorer(greedy, 1, 1.0)
    np.testing.assert_array_equal(second[left > 0], first[left > 0])
    assert (second[left == 0] != first[left == 0]).mean() > 0.4


def test_exploration_depends_on_seed_and_turn_alone():
    greedy = np.full((2, 500), 17)
    first, again = (_explorer(num_envs=500, batch_per_game=8, hold_exponent=2.0) for _ in range(2))
    other = _explorer(num_envs=500, batch_per_game=8, hold_exponent=2.0, seed=1)
    a, b, c = (e(greedy, 3, 0.7) for e in (first, again, other))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert (first(greedy, 4, 0.7) != a).any()


# --- Learning.

NETWORK = Network(convs=(ConvLayer(4, 8, 4), ConvLayer(4, 4, 2)), hidden=(8,))


def _rollout(games=1):
    """Eight steps of four environments; environment 0 is over at step 2, so step 3 is no step."""
    rng = np.random.default_rng(0)
    shape = (games, 8, 4)
    rollout = Rollout(
        actions=rng.choice([0, 1, 3, 4], shape),
        rewards=rng.choice([-1.0, 0.0, 1.0], shape).astype(np.float32),
        ended=np.zeros(shape, bool),
        truncated=np.zeros(shape, bool),
        valid=np.ones(shape, bool),
        values=np.zeros(shape, np.float32),
        next_values=rng.normal(size=shape).astype(np.float32),
        frames=rng.integers(0, 256, (games, 11, 4, 20, 20)).astype(np.uint8),
        ages=np.full((games, 11, 4), 3, np.uint8),
    )
    rollout.ended[:, 2, 0] = True
    rollout.valid[:, 3, 0] = False
    rollout.rewards[:, 3, 0] = 0
    rollout.ages[:, 3 + 4 :, 0] = [0, 1, 2, 3]  # the three frames before the first step included
    return rollout


def _stacks(rollout, game=0):
    """What was seen before each of a game's 32 steps."""
    rows = np.arange(32)
    frames, ages = jnp.asarray(rollout.frames), jnp.asarray(rollout.ages)
    return windows.stacks(frames, ages, np.full_like(rows, game), rows + 3 * 4, 4)


def _update(chosen, network, transform, devices, experts=()):
    """The update that a training by these settings makes."""
    return pqn.make_update(
        network,
        transform,
        devices,
        objective=pqn.objective_of(chosen, experts),
        passes=Passes(chosen.batch_per_game, chosen.epochs),
    )


@pytest.fixture(scope="module")
def learn_once():
    """`learn(rollout) -> (parameters before, after, metrics)` of one compiled learning phase."""
    devices = meshes.create()
    transform = learner.optimiser("radam", learning_rate=1e-2, updates=100)
    learn = _update(_settings(games=("breakout",), epochs=2), NETWORK, transform, devices)
    params = jax.jit(lambda key: networks.init(NETWORK, key, (4, 20, 20)))(jax.random.key(0))

    def run(rollout):
        state = learner.create_state(params, transform, devices)
        rollout = jax.device_put(rollout, meshes.replicated(devices))
        state, numbers = learn(state, rollout, jax.random.key(1))
        assert int(state.step) == 2 * 4  # epochs x minibatches
        return params, state.params, numbers

    return run


def _difference(a, b):
    return max(
        np.abs(np.asarray(x) - np.asarray(y)).max()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_what_was_not_played_is_not_learnt_from(learn_once):
    before, clean, _ = learn_once(_rollout())
    spoilt = _rollout()
    # Everything that belongs to the reset row alone: its action, what it is said to have earned,
    # the value after it, and the finished game's last frame.
    spoilt.actions[:, 3, 0] = 17
    spoilt.rewards[:, 3, 0] = 1e6
    spoilt.next_values[:, 3, 0] = -1e6
    spoilt.frames[:, 3 + 3, 0] = 255
    _, after, _ = learn_once(spoilt)
    assert _difference(clean, after) == 0
    assert _difference(clean, before) > 1e-3


def test_what_was_played_is_learnt_from(learn_once):
    _, clean, _ = learn_once(_rollout())
    for name, junk in (("actions", 17), ("rewards", 50.0), ("next_values", 50.0), ("frames", 255)):
        other = _rollout()
        time = 3 + 5 if name == "frames" else 5
        getattr(other, name)[:, time, 1] = junk
        assert _difference(learn_once(other)[1], clean) > 1e-6, name


def test_learning_brings_the_chosen_actions_towards_their_targets():
    devices = meshes.create()
    transform = learner.optimiser("radam", learning_rate=1e-2, updates=1000, schedule="constant")
    chosen = _settings(games=("pong", "breakout"), epochs=40)
    learn = _update(chosen, NETWORK, transform, devices)
    params = jax.jit(lambda key: networks.init(NETWORK, key, (4, 20, 20)))(jax.random.key(0))
    state = learner.create_state(params, transform, devices)
    rollout = jax.device_put(_rollout(games=2), meshes.replicated(devices))
    state, first = learn(state, rollout, jax.random.key(1))
    state, second = learn(state, rollout, jax.random.key(2))
    assert float(second["loss"]) < 0.7 * float(first["loss"])
    assert float(first["target"]) == float(second["target"])


def _controllers_alone():
    """No layer is shared: what one game teaches cannot reach the other."""
    chosen = [tasks.get(name) for name in ("pong", "breakout")]
    return networks.for_tasks(Network(convs=(), controllers=True), chosen)


def test_every_game_teaches_its_own_controller():
    devices, network = meshes.create(), _controllers_alone()
    transform = learner.optimiser("radam", learning_rate=1e-2, updates=100, clip_norm=1e9)
    learn = _update(_settings(), network, transform, devices)
    params = networks.init(network, jax.random.key(0), (4, 20, 20))

    def learnt(rollout):
        state = learner.create_state(params, transform, devices)
        rollout = jax.device_put(rollout, meshes.replicated(devices))
        return learn(state, rollout, jax.random.key(1))[0].params["params"]

    rollout = _rollout(games=2)
    rollout.actions[:] = 3  # valid in both
    one = learnt(rollout)
    # Another array: the first may be what a device is still reading.
    rewards = rollout.rewards + np.array([0, 1])[:, None, None]
    other = learnt(dataclasses.replace(rollout, rewards=rewards.astype(np.float32)))
    assert _difference(one["controller1"], other["controller1"]) == 0
    assert _difference(one["controller2"], other["controller2"]) > 1e-3
    assert _difference(one["controller1"], params["params"]["controller1"]) > 1e-3


def test_acting_asks_each_games_own_controller():
    network = _controllers_alone()
    masks = jnp.asarray(np.stack([tasks.get(name).mask for name in ("pong", "breakout")]))
    params, average = (networks.init(network, jax.random.key(i), (4, 20, 20)) for i in (0, 1))
    act = exploration.make_act(_settings(double=True), network, masks)
    seen = np.random.default_rng(0).integers(0, 256, (2, 9, 4, 20, 20)).astype(np.uint8)
    actions, values, _ = act(params, average, tuple(seen), np.zeros((2, 9), bool), ((), ()))
    for game in (0, 1):
        chosen = greedy(network.apply(params, seen[game], game), masks[game])
        np.testing.assert_array_equal(actions[game], chosen)
        judged = network.apply(average, seen[game], game)[np.arange(9), chosen]
        np.testing.assert_allclose(values[game], judged, rtol=1e-4, atol=1e-6)


def test_an_experts_weight_falls_to_nothing():
    chosen = _settings(
        total_steps=32 * 100, expert_weight=2.0, expert_fraction=0.5, experts=(ExpertSource("x"),)
    )
    assert chosen.iterations == 100
    weights = [train_settings.expert_weight_at(chosen, i) for i in (0, 25, 50, 99)]
    assert weights == [2.0, 1.0, 0.0, 0.0]
    alone = dataclasses.replace(chosen, experts=())
    assert train_settings.expert_weight_at(alone, 0) == 0.0


def test_an_expert_is_met_at_the_temperature_of_what_it_holds():
    chosen = _settings(q_temperature=0.1, logits_temperature=2.0)
    for outputs, temperature in (("q", 0.1), ("logits", 2.0)):
        expert = Expert("any", NETWORK, {}, outputs, tuple(range(18)), game="pong")
        assert train_settings.temperature_of(expert, chosen) == temperature


def test_with_an_expert_the_student_learns_to_choose_alike():
    devices = meshes.create()
    transform = learner.optimiser("radam", learning_rate=3e-3, updates=1000, schedule="constant")
    chosen = _settings(games=("pong",), epochs=40, q_temperature=0.1)
    keys = jax.random.split(jax.random.key(0))
    params, other = (
        jax.jit(lambda key: networks.init(NETWORK, key, (4, 20, 20)))(key) for key in keys
    )
    expert = Expert(
        name="random",
        network=NETWORK,
        params=other,
        outputs="q",
        actions=tuple(range(18)),
        game="pong",
    )
    learn = _update(chosen, NETWORK, transform, devices, [expert])

    def run(weight):
        rollout = jax.device_put(_rollout(), meshes.replicated(devices))
        taught = None if weight is None else pqn.Taught([other], jnp.float32(weight))
        state = learner.create_state(params, transform, devices)
        distances = []
        for i in range(3):
            state, numbers = learn(state, rollout, jax.random.key(i), taught)
            distances.append(float(numbers.get("expert_kl", 0)))
        return state.params, distances

    _, distances = run(100.0)
    assert distances[2] < 0.7 * distances[0]
    # Without weight it is Q-learning alone.
    assert _difference(run(0.0)[0], run(None)[0]) < 1e-6


def test_what_an_expert_has_no_output_for_is_not_taught():
    """Pong's 11 and 12 stand as 0 among its Q-values, which nobody has said of them."""
    devices, known = meshes.create(), [0, 1, 3, 4]
    chosen = _settings(games=("pong",), q_temperature=0.1)
    lacking = NETWORK.clone(num_outputs=4)
    params, other = (
        jax.jit(lambda key, net=net: networks.init(net, key, (4, 20, 20)))(jax.random.key(i))
        for i, net in enumerate((NETWORK, lacking))
    )
    # 9 above what is not known, so that it would be worth as good as nothing.
    other["params"]["action"]["bias"] += 9.0
    expert = Expert("four", lacking, other, "q", (4, 0, 3, 1), game="pong")
    transform = optax.sgd(0.0)  # so that all minibatches are learnt from by the same network
    learn = _update(chosen, NETWORK, transform, devices, [expert])
    rollout = _rollout()
    stacks = _stacks(rollout)
    ours, theirs = networks.forward(NETWORK, params, stacks), expert.judge(other, stacks)
    ours, theirs = (jax.nn.log_softmax(x[:, np.array(known)] / 0.1) for x in (ours, theirs))
    apart = (np.exp(theirs) * (theirs - ours)).sum(axis=1)
    wanted = np.where(rollout.valid.reshape(-1), apart, 0).mean()
    taught = pqn.Taught([other], jnp.float32(1.0))
    state = learner.create_state(params, transform, devices)
    rollout = jax.device_put(rollout, meshes.replicated(devices))
    _, numbers = learn(state, rollout, jax.random.key(0), taught)
    assert wanted > 1e-3
    np.testing.assert_allclose(numbers["expert_kl"], wanted, rtol=1e-3)


def test_rewards_and_experts_are_learnt_from_together_by_hand():
    """Half the squared error, and weight * q_temperature * KL over what is valid in each game.

    Pong's expert holds Q-values, Breakout's logits, and each is met at its own temperature.
    """
    devices, transform = meshes.create(), optax.sgd(1.0)
    chosen = _settings(batch_per_game=32, q_temperature=0.5, logits_temperature=2.0)
    keys = jax.random.split(jax.random.key(0), 3)
    params, *others = map(jax.jit(lambda key: networks.init(NETWORK, key, (4, 20, 20))), keys)
    others = [jax.tree.map(lambda x: 3 * x, other) for other in others]
    experts = [
        Expert(game, NETWORK, other, outputs, tuple(range(18)), game=game)
        for game, other, outputs in zip(chosen.games, others, ("q", "logits"), strict=True)
    ]
    rollout = _rollout(games=2)

    def loss(params):
        means = []
        for game, temperature in enumerate((0.5, 2.0)):
            stacks, valid = _stacks(rollout, game), list(experts[game].task.actions)
            ours, theirs = (networks.forward(NETWORK, p, stacks) for p in (params, others[game]))
            names = ("rewards", "ended", "truncated", "next_values")
            targets = pqn.q_lambda_targets(
                *(jnp.asarray(getattr(rollout, name)[game]) for name in names),
                discount=0.99,
                trace=0.65,
            )
            errors = ours[np.arange(32), rollout.actions[game].reshape(-1)] - targets.reshape(-1)
            ours = jax.nn.log_softmax(ours[:, valid] / 0.5)
            theirs = jax.nn.log_softmax(theirs[:, valid] / temperature)
            apart = (jnp.exp(theirs) * (theirs - ours)).sum(axis=1)
            rows = 0.5 * jnp.square(errors) + 0.25 * 0.5 * apart
            means.append(jnp.where(rollout.valid[game].reshape(-1), rows, 0.0).mean())
        return jnp.stack(means).mean()

    wanted = jax.jit(jax.grad(loss))(params)
    learn = _update(chosen, NETWORK, transform, devices, experts)
    state = learner.create_state(params, transform, devices)
    rollout = jax.device_put(rollout, meshes.replicated(devices))
    taught = pqn.Taught(others, jnp.float32(0.25))
    after, _ = learn(state, rollout, jax.random.key(1), taught)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), params, after.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6), moved, wanted)


def _parallel(chosen, params, *experts):
    """Parallel Q-learning of Pong from `params`."""
    task = tasks.get("pong")
    masks = jnp.asarray(task.mask)[None]
    begin = (chosen, [], experts, NETWORK, params, task.view, meshes.create(), masks)
    return pqn.Pqn(Beginning(*begin))


def test_an_expert_is_asked_only_while_it_counts():
    """At the weight that it has in each iteration."""
    params = jax.jit(lambda: networks.init(NETWORK, jax.random.key(0), (4, 20, 20)))()
    expert = Expert("any", NETWORK, params, "q", tuple(range(18)), game="pong")
    chosen = _settings(
        games=("pong",),
        total_steps=32 * 4,
        expert_fraction=0.5,
        q_temperature=0.1,
        experts=(ExpertSource("any"),),
    )
    algorithm, taught, weights = _parallel(chosen, params, expert), [], []
    update = algorithm._update

    def spy(state, rollout, key, given):
        weights.append(given and float(given.weight))
        return update(state, rollout, key, given)

    algorithm._update = spy
    for iteration in range(4):
        numbers = algorithm.learn(_rollout(), Progress(iteration, 0))
        taught.append("expert_kl" in numbers)
    assert taught == [True, True, False, False] and weights == [1.0, 0.5, None, None]


def test_the_average_of_double_q_learning_follows_by_a_tenth_of_the_way():
    params = jax.jit(lambda: networks.init(NETWORK, jax.random.key(0), (4, 20, 20)))()
    algorithm = _parallel(_settings(games=("pong",), double=True, learning_rate=0.05), params)
    algorithm.learn(_rollout(), Progress(0, 0))
    learnt, average = algorithm.acting
    assert _difference(learnt, params) > 1e-3
    wanted = jax.tree.map(lambda old, new: old + 0.1 * (new - old), params, jax.device_get(learnt))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-7), average, wanted)


def test_experts_of_other_games_are_refused(tmp_path):
    network = networks.create("net3")
    params = networks.init(network, jax.random.key(0), (4, 84, 84))
    expert = Expert("tiny", network, params, "q", tuple(range(18)), game="pong")
    expert.save(tmp_path / "expert")
    chosen = _settings(games=("breakout",), experts=(ExpertSource(str(tmp_path / "expert")),))
    with pytest.raises(ValueError, match="experts play pong, the games are breakout"):
        learning.Training.of(chosen, tmp_path / "run")
    mine = dataclasses.replace(chosen, games=("pong",), warm_start=True)
    with learning.Training.of(mine, tmp_path / "mine") as training:
        assert _difference(training.state.params, params) == 0
    other = dataclasses.replace(mine, network="net2")
    with pytest.raises(ValueError, match="not of the shape of network 'net2'"):
        learning.Training.of(other, tmp_path / "other")
    with pytest.raises(ValueError, match="copies one expert, there are 0"):
        learning.Training.of(dataclasses.replace(mine, experts=()), tmp_path / "none")


def test_a_copy_of_fewer_outputs_values_its_own_as_its_expert_does(tmp_path, monkeypatch):
    """A dueling head takes off the mean of all outputs, of those that are never played too."""
    network = Network(convs=(), head="dueling")
    monkeypatch.setitem(networks.NETWORKS, "linear", network)

    def copying(name, actions):
        own = network.clone(num_outputs=len(actions))
        params = networks.init(own, jax.random.key(0), View().shape)
        Expert(name, own, params, "q", actions, game="pong").save(tmp_path / name)
        source = ExpertSource(str(tmp_path / name))
        chosen = {"games": ("pong",), "network": "linear", "opening_steps": 0}
        return _settings(experts=(source,), warm_start=True, **chosen), own, params

    actions = (11, 0, 1, 3, 4, 12)
    chosen, own, params = copying("six", actions)
    seen = np.random.default_rng(0).integers(0, 256, (64, 4, 84, 84)).astype(np.uint8)
    with learning.Training.of(chosen, tmp_path / "run") as training:
        said = networks.forward(training.network, training.state.params, seen)
    values = np.asarray(networks.forward(own, params, seen))
    np.testing.assert_allclose(said[:, list(actions)], values, rtol=1e-4, atol=1e-5)
    assert np.ptp(values, axis=1).min() > 0.01
    lacking, *_ = copying("four", (0, 1, 3, 4))
    message = r"^warm_start: four has no output for RIGHTFIRE, LEFTFIRE, valid in pong; choose one"
    with pytest.raises(ValueError, match=message):
        loop.train(lacking, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_experts_that_see_other_shapes_are_refused_before_anything_is_written(tmp_path):
    network = networks.create("net3")
    for game, view in (("pong", View()), ("breakout", View(height=42, width=42))):
        params = networks.init(network, jax.random.key(0), view.shape)
        expert = Expert(game, network, params, "q", tuple(range(18)), view, game)
        expert.save(tmp_path / game)
    sources = tuple(ExpertSource(str(tmp_path / game)) for game in ("pong", "breakout"))
    message = r"^pong sees \(4, 84, 84\), breakout sees \(4, 42, 42\), and one network learns"
    with pytest.raises(ValueError, match=message):
        loop.train(_settings(experts=sources), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("algorithm", ["pqn", "dqn"])
def test_a_copy_of_logits_learns_no_q_values(tmp_path, algorithm):
    network = networks.create("net3")
    params = networks.init(network, jax.random.key(0), (4, 84, 84))
    Expert("tiny", network, params, "logits", tuple(range(18)), game="pong").save(tmp_path / "it")
    chosen = _settings(
        games=("pong",),
        algorithm=algorithm,
        experts=(ExpertSource(str(tmp_path / "it")),),
        warm_start=True,
        epochs=2,
        total_steps=32 * 100,
    )
    expected = (
        rf"^warm_start: tiny holds logits, and {algorithm} learns Q-values; expected an expert of "
        r"Q-values: choose one, or set algorithm to 'ppo'$"
    )
    with pytest.raises(ValueError, match=expected):
        loop.train(chosen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- Collecting, from a scripted emulator.


@pytest.mark.parametrize(
    ("changes", "rewards"),
    [
        ({}, [1, -1, 0, 1, 0, 0, 0, 1]),  # clipped to 1
        ({"reward_limit": 0.0}, [7, -3, 0, 1, 0, 0, 0, 2]),
        ({"reward_limit": 2.0, "reward_scale": 0.5}, [1, -1, 0, 0.5, 0, 0, 0, 1]),
    ],
    ids=["standard", "unclipped", "scaled"],
)
def test_a_rollout_tells_lost_lives_ends_cuts_and_resets_apart(scripted_envpool, changes, rewards):
    # Per step and environment (reward, ended, cut, lives).
    quiet = (0.0, NO, NO, 5)
    script = [
        [(7.0, NO, NO, 5), quiet],
        [(-3.0, NO, NO, 4), quiet],  # a life lost
        [(0.0, NO, NO, 4), quiet],
        [(1.0, YES, NO, 0), quiet],  # the game lost
        [(9.0, NO, NO, 5), quiet],  # reset, nothing of it counts
        [(0.0, NO, YES, 5), quiet],  # cut
        [(0.0, NO, NO, 5), quiet],  # reset
        [(2.0, NO, NO, 5), quiet],
    ]
    scripted_envpool(script)
    chosen = _settings(games=("breakout",), num_envs=2, batch_per_game=4, total_steps=16, **changes)
    collector = RolloutCollector(chosen, lessons.of_tasks(chosen.tasks, 0), 0, None)
    seen, begins, turns = [], [], []

    class Actor:
        """Says how often it was asked; values what is seen at a hundred times its number."""

        carry = (np.full((1, 2, 1), 7),)

        def act(self, observed):
            turns.append(observed.turn)
            values, asked = self.values(observed), np.full((1, 2), len(turns))
            return Acted(np.full((1, 2), 3), values, log_probabilities=asked)

        def values(self, observed):
            (shown,) = observed.observations
            begins.append(observed.begun[0, 0].item())
            seen.append(np.asarray(shown)[:, 0, 0, 0])
            return 100.0 * np.asarray(shown)[None, :, 0, 0, 0]

    rollout, finished = collector.rollout(Actor(), 2, meshes.create(), clocks.Timer())

    def column(name, slot=0):
        return getattr(rollout, name)[0, :, slot].tolist()

    assert column("rewards") == rewards  # and none at resets
    assert column("ended") == [NO, YES, NO, YES, NO, NO, NO, NO]
    assert column("truncated") == [NO, NO, NO, NO, NO, YES, NO, NO]
    assert column("valid") == [YES, YES, YES, YES, NO, YES, NO, YES]
    assert column("actions") == [3] * 8
    # What follows each step, the last included: painted 1 after the first step and so on.
    assert column("next_values") == [100.0 * n for n in range(1, 9)]
    assert [row.tolist() for row in seen] == [[n, n] for n in range(9)]
    # Where games begin, and what was carried into the first step, whatever was carried on since.
    assert begins == [YES, NO, NO, NO, NO, YES, NO, YES, NO]
    assert rollout.carry == Actor.carry and rollout.labels is None
    # What is remembered of each step stands beside it; turns are counted through iterations.
    assert column("values") == [100.0 * n for n in range(8)]
    assert column("log_probabilities") == [*range(1, 9)]
    assert turns == [*range(2 * 8, 3 * 8)]
    assert collector.log.shape == (1, 8, 2) and (collector.log == 3).all()
    # The three frames before the first step, then what each step was decided on.
    assert rollout.frames.shape == (1, 3 + 8, 2, 84, 84)
    assert rollout.frames[0, :, 0, 0, 0].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert column("ages")[3:] == [0, 1, 2, 3, 4, 0, 1, 0]
    assert finished == [[7.0 - 3 + 1, 0.0]]  # unclipped scores of the two games that ended
    assert not any(column("ended", 1)) and all(column("valid", 1))


# --- Whole trainings, tiny.


def test_exploration_falls_and_every_iteration_explores_and_learns_in_another_order(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(networks.NETWORKS, "linear", Network(convs=()))
    chosen = _settings(
        network="linear",
        total_steps=32 * 4,
        epsilon_end=0.0,
        epsilon_fraction=0.5,
        max_steps=4,
        opening_steps=0,
    )
    asked, keys = [], []
    explore = exploration.Explorer.__call__

    def spy(self, greedy, turn, epsilon):
        asked.append((turn, epsilon))
        actions = explore(self, greedy, turn, epsilon)
        assert epsilon or (actions == greedy).all()
        return actions

    monkeypatch.setattr(exploration.Explorer, "__call__", spy)
    with learning.Training.of(chosen, tmp_path / "run") as training:
        update = training._learner._update

        def spying(state, rollout, key, taught):
            keys.append(str(jax.random.key_data(key)))
            return update(state, rollout, key, taught)

        training._learner._update = spying
        rows = [training.iterate() for _ in range(3)]
    turns, epsilons = zip(*asked, strict=True)
    assert turns == tuple(range(3 * 8))
    assert epsilons == tuple(np.repeat([1.0, 0.5, 0.0], 8))
    assert [row["epsilon"] for row in rows] == [1.0, 0.5, 0.0], "as was explored"
    assert rows[0]["epsilon"] == exploration.epsilon_at(chosen, 0, 0)
    assert len(set(keys)) == 3


def test_networks_are_measured_with_an_epsilon_and_a_step_limit_of_their_own(
    tmp_path, monkeypatch, watcher
):
    """In games that score at every other step, where one step more or another action shows."""
    monkeypatch.setitem(networks.NETWORKS, "linear", Network(convs=()))
    chosen = _settings(
        games=("carnival",),
        network="linear",
        epsilon_end=0.9,
        eval_epsilon=0.0,
        max_steps=40,
        opening_steps=0,
    )
    openings, play = [], evaluation.measure

    def look(chosen, policy, protocol, *arguments, **options):
        openings.append((protocol.opening.steps, protocol.opening.side))
        return play(chosen, policy, protocol, *arguments, **options)

    monkeypatch.setattr(evaluation, "measure", look)
    params = watcher("carnival", 2).params
    with learning.Training.of(chosen, tmp_path / "run") as training:
        means = training._play(params, 5, 1)
        assert training._play(params, 5, 1) == means, "always the same starts"
        other = dataclasses.replace(chosen, max_steps=20)
        training.settings = other
        assert training._play(params, 5, 1)["carnival"] < means["carnival"]
        training.settings = dataclasses.replace(chosen, opening_steps=9)
        assert training._play(params, 5, 1) != means
    assert openings == [(0, protocols.CHOOSING)] * 3 + [(9, protocols.CHOOSING)]
    exploring = dataclasses.replace(chosen, eval_epsilon=0.9, epsilon_end=0.0)
    with learning.Training.of(exploring, tmp_path / "other") as training:
        tried = [training._play(params, 5, purpose) for purpose in (1, 2)]
        assert tried[0] != means and tried[0] != tried[1]
    assert [side for _, side in openings[-2:]] == [protocols.CHOOSING] * 2
    carnival = tasks.get("carnival")
    pool = atari.AtariPool(carnival, 5, seed=seed_for(0, 1, carnival.number), max_steps=40)
    network = Network(convs=())
    while not pool.last.over.all():
        outputs = jax.jit(network.apply)(params, pool.last.observations)
        pool.step(np.asarray(greedy(outputs, jnp.asarray(pool.task.mask))))
    assert means == {"carnival": pool.last.scores.mean()}


def _final(settings, workdir):
    """The latest checkpoint of a run."""
    chosen = [tasks.get(name) for name in settings.games]
    network = networks.for_tasks(networks.create(settings.network), chosen)
    transform = learner.optimiser(
        "radam", learning_rate=1.0, updates=1, schedule="linear", clip_norm=1.0
    )
    params = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), View().shape))
    state = jax.eval_shape(
        lambda p: learner.TrainState(p, transform.init(p), jnp.zeros((), jnp.int32)), params
    )
    place = meshes.replicated(meshes.create())
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        {"train": state, **({"average": params} if settings.double else {})},
    )
    with checkpoints.Checkpoints(workdir / "checkpoints") as saved:
        return saved.restore(saved.latest_step(), like)


# Actions are held and an average kept, so that a resumed run must remember both.
RUN = _settings(double=True, hold_exponent=1.6, learning_rate=0.05)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    best = loop.train(RUN, workdir)
    return workdir, best, _final(RUN, workdir)


def test_a_training_learns_several_games_and_says_how_it_went(whole_run):
    workdir, best, final = whole_run
    assert final.step == RUN.iterations == 3
    assert int(final.state["train"].step) == 3 * 4  # iterations x minibatches
    key = jax.random.fold_in(jax.random.key(RUN.seed), 1)
    fresh = networks.init(networks.create("net3"), key, (4, 84, 84))
    learnt = _difference(final.state["train"].params, fresh)
    # The average follows, by a tenth of the way each time.
    assert 0 < _difference(final.state["average"], fresh) < learnt
    assert learnt > 1e-3
    assert set(best["scores"]) == {"pong", "breakout"}
    assert best["step"] in (64, 96)
    rows = metrics.read(workdir)
    assert [row["step"] for row in rows if "eval/pong" in row] == [64, 96]
    (last,) = (row for row in rows if "loss" in row)
    assert last["step"] == 96 and np.isfinite(last["loss"])
    assert last["score/pong"] == 0  # in games of 12 steps there is no point yet


def test_what_a_training_says_of_its_scores_is_what_its_games_ended_with(tmp_path):
    """As a play of the same actions has them; Carnival gives points early."""
    chosen = _settings(games=("carnival",), rollout_steps=32, total_steps=128 * 3, max_steps=40)
    with learning.Training.of(chosen, tmp_path) as training:
        rows = [training.iterate() for _ in range(3)]
        (log,) = training._collector.log
        pool = training.lessons[0].pool(4, lessons.COLLECT, 0, max_steps=40)
    means, scores = [], []
    for row in np.split(log, 3):
        for step in map(pool.step, row):
            scores.extend(step.scores[step.over])
        means.append(np.mean(scores) if scores else None)
    assert [row.get("score/carnival") for row in rows] == means
    assert means[0] is None and len(set(scores)) > 1 and min(scores) >= 0 < max(scores)


def test_networks_are_chosen_by_scores_on_one_scale():
    """People's where it is known, of Pong -20.7 to 14.6; elsewhere that of random play."""
    names = ("pong", "lander/heavy")
    settings = types.SimpleNamespace(tasks=[tasks.get(name) for name in names], max_steps=None)
    random = records.random_score(settings.tasks[1])
    value = learning.Training._value(
        types.SimpleNamespace(settings=settings), {"pong": -3.05, "lander/heavy": 0.0}, None
    )
    assert random < -100 and value == pytest.approx((0.5 + 1.0) / 2)


@pytest.mark.parametrize("better", ["best", "last"])
def test_at_the_end_the_best_and_the_last_network_play_for_it(tmp_path, monkeypatch, better):
    """The first evaluation is the luckier; many games say which network is the better."""
    chosen = _settings(
        games=("pong",), total_steps=64, eval_every=32, eval_episodes=2, max_steps=None
    )
    final = [2.0, 1.0] if better == "best" else [1.0, 2.0]
    values = {2: iter([5.0, 3.0]), chosen.final_episodes: iter(final)}
    purposes = []

    def play(self, params, episodes, purpose, advance=None):
        purposes.append((episodes, purpose))
        return {"pong": next(values[episodes])}

    monkeypatch.setattr(learning.Training, "_play", play)
    best = loop.train(chosen, tmp_path)
    assert best["step"] == (32 if better == "best" else 64)
    assert best["scores"] == {"pong": 2.0}
    assert purposes == [(2, 1), (2, 1), (4, 4), (4, 4)], "on games that chose neither"
    expert = Expert.load(tmp_path / "experts" / "pong")
    assert expert.advertised_score == 2.0
    last = _final(chosen, tmp_path).state["train"].params
    assert (_difference(expert.params, last) == 0) == (better == "last")
    assert loop.train(chosen, tmp_path) == best  # decided once and for all


def test_a_network_with_controllers_becomes_one_ordinary_expert_per_game(tmp_path, monkeypatch):
    network = Network(convs=(), controllers=True)
    monkeypatch.setitem(networks.NETWORKS, "mine", network)
    chosen = _settings(network="mine", compute_dtype="bfloat16", total_steps=32)
    loop.train(chosen, tmp_path)
    params = _final(chosen, tmp_path).state["train"].params["params"]
    for i, name in enumerate(chosen.games, 1):
        expert = Expert.load(tmp_path / "experts" / name)
        assert expert.actions == tasks.get(name).actions
        assert expert.network == Network(convs=(), num_outputs=len(expert.actions))
        assert expert.params["params"]["action"]["kernel"].dtype == np.float32
        assert _difference(expert.params["params"]["action"], params[f"controller{i}"]) == 0


def _assert_same_run(actual, expected):
    assert actual.step == expected.step
    jax.tree.map(np.testing.assert_array_equal, actual.state, expected.state)
    assert actual.host.keys() == expected.host.keys()
    for name, array in expected.host.items():
        np.testing.assert_array_equal(actual.host[name], array)
    for name in ("best", "recent", "pools_began"):
        assert actual.progress[name] == expected.progress[name]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [({}, 16_384), ({}, 24), ({"max_steps": 6}, 16_384)],
    ids=["no bound", "steps", "games"],
)
def test_games_go_on_across_evaluations_until_their_log_is_long(
    tmp_path, monkeypatch, changes, steps
):
    """One of 20 steps ends, and counts, though there are 8 between two evaluations."""
    monkeypatch.setitem(networks.NETWORKS, "linear", Network(convs=()))
    monkeypatch.setattr(learning, "_LOG_STEPS", steps)
    chosen = _settings(
        **{"games": ("pong",), "network": "linear", "max_steps": 20, "opening_steps": 0} | changes
    )
    with learning.Training.of(chosen, tmp_path / "run") as training:
        (first,) = training._collector.pools
        for _ in range(2):
            training.iterate()
            training.evaluate()
        assert training._collector.pools == [first]
        ended = training._episodes
        training.iterate()
        assert training._collector.pools == [first] and training._episodes == ended + 4
        # 24 steps: a game of 20 and one that begins; or three of 6, each with one that begins.
        assert first.last.ages.tolist() == [3] * 4
        training.evaluate()
        (last,) = training._collector.pools
        if not changes and steps > 24:
            assert last is first and training._collector.began == 0
            assert training._collector.log.shape == (1, 24, 4)
        else:
            assert last is not first and training._collector.began == 3
            assert training._collector.log.shape == (1, 0, 4) and not last.last.ages.any()
            # With seeds of their own, or they would play the first games again.
            fresh = [training.lessons[0].pool(4, lessons.COLLECT, began) for began in (3, 0)]
            np.testing.assert_array_equal(last.states, fresh[0].states)
            assert (last.states != fresh[1].states).any()


def test_a_student_is_shown_each_game_as_it_learnt_it():
    own = {"pong": View(), "breakout": View(resize="linear")}
    small = Network(convs=(ConvLayer(4, 8, 8),), hidden=())
    params = networks.init(small, jax.random.key(0), View().shape)
    student = origins.Pretrained("it", small, params, "logits", View(), {}, own=own)
    chosen = _settings(games=tuple(own), algorithm="ppo", student="run", expert_weight=0.0)
    begin = beginning.of(chosen, meshes.create(), student)
    assert [lesson.view for lesson in begin.lessons] == [*own.values()]


def test_their_log_is_bounded_without_an_evaluation_too(tmp_path, monkeypatch):
    """8 steps an iteration, and four times 4 at most."""
    monkeypatch.setitem(networks.NETWORKS, "linear", Network(convs=()))
    monkeypatch.setattr(learning, "_LOG_STEPS", 4)
    chosen = _settings(games=("pong",), network="linear", opening_steps=0)
    with learning.Training.of(chosen, tmp_path / "run") as training:
        began = [training.iterate() and training._collector.began for _ in range(4)]
        assert began == [0, 2, 2, 4]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_training_stopped_twice_and_resumed_is_the_uninterrupted_one(
    whole_run, tmp_path, monkeypatch, fresh
):
    _, best, final = whole_run
    if fresh:  # games after the evaluation, since the log of 16 steps is too long
        monkeypatch.setattr(learning, "_LOG_STEPS", 16)
        best = loop.train(RUN, tmp_path / "whole")
        final = _final(RUN, tmp_path / "whole")
    assert final.progress["pools_began"] == (2 if fresh else 0)
    tmp_path = tmp_path / "stopped"
    # 1: in the middle of games. 2: after an evaluation, across which they go on or not.
    for stop_at in (1, 2):
        loop.train(RUN, tmp_path, stop_at=stop_at)
        assert _final(RUN, tmp_path).step == stop_at
        assert (tmp_path / "experts" / "pong" / "expert.json").exists() == (stop_at == 2)
    assert loop.train(RUN, tmp_path) == best
    _assert_same_run(_final(RUN, tmp_path), final)


def test_an_average_is_kept_for_double_q_alone(tmp_path, monkeypatch):
    """One that an earlier version wrote all the same is left there, of the best network too."""
    monkeypatch.setitem(networks.NETWORKS, "linear", Network(convs=()))
    chosen = _settings(games=("pong",), network="linear", max_steps=20, opening_steps=0)
    arrays = pqn.Pqn.arrays
    with monkeypatch.context() as patch:
        told = property(lambda self: arrays.fget(self) | {"average": self.train.params})
        patch.setattr(pqn.Pqn, "arrays", told)
        loop.train(chosen, tmp_path / "earlier", stop_at=2)
    learnt = []
    for name in ("earlier", "whole"):
        best = loop.train(chosen, tmp_path / name)
        with learning.Training.of(chosen, tmp_path / name) as training:
            assert training.iteration == 3 and list(training.arrays) == ["train"]
            learnt.append((best, jax.device_get((training.state, training.best_params()))))
    assert learnt[0][0] == learnt[1][0] and _difference(learnt[0][1], learnt[1][1]) == 0
    doubled = dataclasses.replace(chosen, double=True)
    with learning.Training.of(doubled, tmp_path / "two") as training:
        assert list(training.arrays) == ["train", "average"]


def test_a_second_training_beside_one_is_refused(tmp_path):
    with (
        lock.one_writer(tmp_path, "config.json"),
        pytest.raises(ValueError, match=r"is being written to by process"),
    ):
        loop.train(RUN, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {lock.NAME}


def test_a_training_that_diverges_stops_and_goes_on_at_another_rate(tmp_path):
    far = dataclasses.replace(RUN, games=("pong",), learning_rate=1e30, clip_norm=1e30)
    with pytest.raises(ValueError, match=r"^update 4: .* is (nan|inf).*Likely learning_rate"):
        loop.train(far, tmp_path)
    with pytest.raises(ValueError, match=r"would again with these settings: update 4"):
        loop.train(far, tmp_path)
    slower = dataclasses.replace(far, learning_rate=1e-3)
    assert loop.train(slower, tmp_path)["step"] in (64, 96)
    params = _final(slower, tmp_path).state["train"].params
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def test_a_finished_training_is_not_trained_again(whole_run):
    workdir, best, final = whole_run
    before = (workdir / "metrics.jsonl").read_bytes()
    assert loop.train(RUN, workdir) == best
    _assert_same_run(_final(RUN, workdir), final)
    assert (workdir / "metrics.jsonl").read_bytes() == before


# The right behaviour: rows are written every ten iterations, the first checkpoint comes minutes
# later, and a run killed between the two must begin anew instead of refusing its own rows.
def test_a_training_killed_before_its_first_checkpoint_begins_anew(whole_run, tmp_path):
    workdir, best, final = whole_run
    shutil.copytree(workdir, tmp_path / "killed", ignore=shutil.ignore_patterns("checkpoints"))
    assert loop.train(RUN, tmp_path / "killed") == best
    _assert_same_run(_final(RUN, tmp_path / "killed"), final)
    steps = [row["step"] for row in metrics.read(tmp_path / "killed")]
    assert steps == [row["step"] for row in metrics.read(workdir)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"games": ()}, "games is empty"),
        ({"games": ("pnog",)}, "unknown task 'pnog'.*pong"),
        (
            {"games": ("pong", "lander/heavy")},
            r"pong, lander/heavy are of several suites \(atari, ",
        ),
        ({"games": ("lander/heavy",)}, "looks at screens, and lander/heavy shows Vector"),
        ({"reward_limit": -1.0}, "reward_limit is -1.0, expected"),
        ({"reward_scale": 0.0}, "reward_scale is 0.0, expected"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0, expected"),
        ({"network": "resnet"}, "network is 'resnet', expected one of"),
        (
            {"compute_dtype": "float64"},
            "compute_dtype is 'float64', expected one of float32, bfloat16",
        ),
        ({"batch_per_game": 7}, "batch_per_game 7 does not divide the 32 steps"),
        ({"total_steps": 31}, "total_steps 31 is less than the 32"),
        ({"max_steps": 10, "opening_steps": 10}, "opening_steps is 10, expected less than max_ste"),
        ({"max_steps": 10, "opening_steps": None}, "opening_steps is 10, expected less than max_"),
        (
            {"games": ("lander/windy",), "network": "mlp", "opening_steps": 400, "max_steps": None},
            "opening_steps is 400, expected less than max_steps 400",
        ),
        ({"hold_exponent": 0.5}, "hold_exponent is 0.5, expected 0, or above 1"),
    ],
)
def test_bad_settings_name_the_field_and_the_numbers(changes, message):
    with pytest.raises(ValueError, match=message):
        _settings(**changes)


def test_a_batch_that_does_not_split_over_the_devices_is_refused():
    chosen, params = _settings(games=("pong",), batch_per_game=2), {"params": {}}
    with pytest.raises(ValueError, match="batch_per_game 2 is not divisible by 4 devices"):
        _parallel(chosen, params)
    with pytest.raises(ValueError, match="batch_per_task 2 is not divisible by 4 devices"):
        _update(chosen, NETWORK, None, meshes.create())


@pytest.mark.parametrize(
    ("games", "given", "wanted"),
    [
        (("pong",), (None, None), (27_000, 10)),
        (("pong",), (99, 3), (99, 3)),
        (("lander/windy",), (None, None), (400, 0)),
        # Each has its own limit, which no one number says.
        (("lander/windy", "lander/heavy"), (None, None), (None, 0)),
        (("lander/windy", "lander/heavy"), (300, None), (300, 0)),
    ],
)
def test_limits_and_openings_are_the_tasks_where_none_are_given(games, given, wanted):
    network = "mlp" if games[0].startswith("lander") else "net3"
    limit, opening = given
    chosen = _settings(games=games, network=network, max_steps=limit, opening_steps=opening)
    known = train_settings.resolve_defaults(chosen)
    assert (known.max_steps, known.opening_steps) == wanted
    assert train_settings.resolve_defaults(known) == known


@pytest.mark.parametrize(
    ("games", "wanted", "learnt"),
    [
        (("pong",), (1.0, 0.05), [1.0, -1.0]),
        (("lander/windy", "lander/heavy"), (0.0, 0.0), [7.0, -3.0]),
        (("combat/duel",), (0.0, 0.0), [7.0, -3.0]),
    ],
)
def test_rewards_and_epsilon_are_the_suites_where_none_are_given(games, wanted, learnt):
    """As the configs leave them, of which one goes on from students of any."""
    fields = finetune.get_config().to_dict() | {"games": games}
    chosen = settings_lib.build(train_settings.Settings, fields)
    begun = settings_lib.build(train_settings.Settings, train_expert.get_config().to_dict())
    for settings in (chosen, begun):
        assert settings.reward_limit is settings.eval_epsilon is None
    known = train_settings.resolve_defaults(chosen)
    assert (known.reward_limit, known.eval_epsilon) == wanted
    for settings in (chosen, known):
        assert train_settings.learnt_rewards(settings, np.array([7.0, -3.0])).tolist() == learnt
    given = dataclasses.replace(chosen, reward_limit=2.0, eval_epsilon=0.5)
    known = train_settings.resolve_defaults(given)
    assert (known.reward_limit, known.eval_epsilon) == (2.0, 0.5)


def test_games_are_known_by_their_own_names():
    assert _settings(games=("Pong-v5", "SpaceInvaders")).games == ("pong", "space_invaders")


def test_iterations_are_whole_and_make_so_many_updates():
    chosen = _settings(total_steps=32 * 3 + 31, epochs=2)
    assert (chosen.steps_per_iteration, chosen.iterations) == (32, 3)
    # Four minibatches of 8 rows, twice.
    assert (chosen.updates_per_iteration, chosen.updates) == (8, 24)


def test_what_networks_are_chosen_by_by_hand(monkeypatch):
    known = {"pong": -21.0, "carnival": None, "lander/standard": -180.0, "lander/heavy": -160.0}
    monkeypatch.setattr(records, "random_score", lambda task, limit: known[task.name])

    def value(means, begun=None):
        settings = types.SimpleNamespace(tasks=[tasks.get(x) for x in means], max_steps=None)
        return learning.Training._value(types.SimpleNamespace(settings=settings), means, begun)

    # 35.3 points of Pong are 1; of Carnival nothing is known, and a point counts as one.
    assert value({"pong": -3.05, "carnival": 2.5}) == pytest.approx((0.5 + 2.5) / 2)
    # A game that loses is not paid for by one that gains; Carnival is in what it began with.
    begun = {"pong": -20.7, "carnival": 800.0}
    assert value({"pong": -3.05, "carnival": 600.0}, begun) == pytest.approx(-0.25)
    assert value({"pong": -17.17, "carnival": 900.0}, begun) == pytest.approx(0.1)
    assert value({"pong": 14.6, "carnival": 900.0}, begun) == pytest.approx(0.125)
    # Where a score begins near 0 its own size is no unit: ten points less are no disaster.
    begun = {"lander/standard": 240.0, "lander/heavy": 5.0}
    lost_little = value({"lander/standard": 300.0, "lander/heavy": -5.0}, begun)
    lost_much = value({"lander/standard": 40.0, "lander/heavy": 6.0}, begun)
    assert lost_little == pytest.approx(-10 / 160) and lost_much == pytest.approx(-200 / 180)


def test_what_an_earlier_version_valued_otherwise_is_valued_as_now(tmp_path, monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "linear", Network(convs=()))
    chosen = _settings(games=("pong",), network="linear", max_steps=20, opening_steps=0)
    with learning.Training.of(chosen, tmp_path / "run") as training:
        training.iterate()
        training.evaluate()
        value, training.best["value"] = training.best["value"], 1e9
        training.save(chosen=True)
    with learning.Training.of(chosen, tmp_path / "run") as training:
        assert training.best["value"] == value
        training.iterate()
        training.save()
        assert training._saved.best_step() == 1, "which is kept beside the latest"
        training.iterate()
        training.evaluate()
        training.save(chosen=training.best["step"] == training.steps)
        assert training.best["step"] == training.steps, "another that scores as much is newer"
        assert training._saved.best_step() == 3


@pytest.fixture
def corridor(own_tasks, monkeypatch):
    """That of docs/extend.md, which shows a huge number beside the one that is seen."""
    text = pathlib.Path(__file__).parents[2].joinpath("docs", "extend.md").read_text()
    (classes,) = re.findall(r"^```python\n(import dataclasses\n.*?)^tasks\.add", text, re.M | re.S)
    module = types.ModuleType("corridor")
    monkeypatch.setitem(sys.modules, "corridor", module)
    exec(classes, module.__dict__)

    class Wide(module.CorridorPool):
        def _seen(self):
            place = super()._seen()
            return np.concatenate([place, np.full_like(place, 1e30)], axis=-1)

    @dataclasses.dataclass(frozen=True)
    class Two(module.Corridor):
        suite: ClassVar = dataclasses.replace(module.CORRIDOR, view=Vector(2))

        @property
        def view(self):
            return Vector(1, of=2)

        def pool(self, num_envs, *, seed, view=None, max_steps=None, threads=None):
            return Wide(self, num_envs, seed, view, max_steps or self.max_steps)

    tasks.add(Two())


@pytest.mark.usefixtures("corridor")
@pytest.mark.parametrize(
    "how",
    [{"algorithm": "pqn"}, {"algorithm": "pqn", "core": "gru"}, {"algorithm": "dqn"}],
    ids=["pqn", "recurrent", "dqn"],
)
def test_a_network_sees_its_own_part_of_what_pools_show(how, tmp_path):
    beside = {"first_update": 8, "updates_per_step": 0.25} if how["algorithm"] == "dqn" else {}
    chosen = _settings(
        games=("corridor/short",), network="mlp", core_width=4, double=True, **how, **beside
    )
    with learning.Training.of(chosen, tmp_path, meshes.create(jax.devices()[:1])) as training:
        for _ in range(2):
            assert np.isfinite(training.iterate()["loss"])
        training.evaluate()
        (expert,) = training.best_experts()
    assert expert.view == Vector(1, of=2)


@pytest.mark.parametrize(
    ("waited", "evaluates", "saved"),
    [(119, False, []), (121, False, [False]), (59, True, []), (61, True, [True])],
)
def test_all_is_saved_after_two_minutes_and_after_one_before_an_evaluation(
    monkeypatch, waited, evaluates, saved
):
    settings = types.SimpleNamespace(
        eval_every=64 if evaluates else 1000, steps_per_iteration=32, iterations=9
    )
    saves = []
    training = types.SimpleNamespace(
        iteration=2, steps=64, settings=settings, save=lambda *, due: saves.append(due)
    )
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: 100.0 + waited))
    monkeypatch.setattr(loop, "_evaluate", lambda *_: None)
    last = loop._evaluate_or_save(training, metrics.NoWriter(), None, 100.0)
    assert saves == saved
    assert last == (100.0 + waited if saves or evaluates else 100.0)
