"""Tests for deep Q-learning: targets by hand, PyTorch's update, and what it must not bootstrap."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import meshes, networks
from jaxdistill.learn import dqn, learner, replay
from jaxdistill.networks import Network

FOUR, ONE = meshes.create(), meshes.create(jax.devices()[:1])


def _difference(a, b):
    return max(
        np.abs(np.asarray(x) - np.asarray(y)).max()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def _key(devices, seed=0):
    return jax.device_put(jax.random.key(seed), meshes.replicated(devices))


def _memory(devices, *, num_tasks, steps, frame_shape, dtype=jnp.float32, depth=1, num_envs=1):
    return replay.create(
        devices,
        num_tasks=num_tasks,
        num_envs=num_envs,
        capacity=steps * num_tasks * num_envs,
        frame_shape=frame_shape,
        dtype=dtype,
        depth=depth,
    )


# --- Targets.


@pytest.mark.parametrize(
    ("double", "expected"),
    [
        # gamma = 1/2. The target's largest valid values are 6, 4 and 5.
        (False, (1 + 3, 2 + 2, 4.0)),
        # Actions chosen: 1, 0 and 2, which the target says are worth -2, 4 and 5.
        (True, (1 - 1, 2 + 2, 4.0)),
    ],
    ids=["plain", "double"],
)
def test_targets_by_hand(double, expected):
    next_values = jnp.array([[6.0, -2.0, 100.0], [4.0, 3.0, 7.0], [1.0, 2.0, 5.0]])
    choosing = jnp.array([[2.0, 4.0, 18.0], [9.0, 8.0, 10.0], [1.0, 2.0, 3.0]])
    masks = jnp.array([[1, 1, 0], [1, 1, 0], [1, 1, 1]], bool)
    actual = dqn.targets(
        jnp.array([1.0, 2.0, 4.0]),
        jnp.array([False, False, True]),
        next_values,
        masks,
        discount=0.5,
        choosing=choosing if double else None,
    )
    np.testing.assert_allclose(actual, expected)


# --- One update by hand: Q(s, a) = w_a s + b_a, of one transition from s = 1 to s' = 2.

LINEAR = Network(convs=(), num_outputs=3)
SGD = optax.sgd(1.0)


def _linear(*weights):
    kernel = jnp.array([weights], jnp.float32)
    return {"params": {"action": {"kernel": kernel, "bias": jnp.zeros(len(weights))}}}


def _one_transition(devices, *, ended=False, valid=True, num_tasks=1, following=100.0):
    """It was cut by a time limit, after which an episode begins at `following`."""
    memory = _memory(devices, num_tasks=num_tasks, steps=5, frame_shape=(1,))
    shape = (num_tasks, 3, 1)
    ones = np.ones((num_tasks, 1), np.float32)
    piece = replay.Piece(
        frames=(ones * [1.0, 2.0, following]).astype(np.float32).reshape(*shape, 1),
        ages=(ones * [0, 1, 0]).astype(np.int32).reshape(shape),
        actions=np.zeros(shape, np.int32),
        rewards=(ones * [0.5, 0.0, 0.0]).astype(np.float32).reshape(shape),
        ended=(ones * [ended, 0, 0]).astype(bool).reshape(shape),
        valid=(ones * [valid, 0, 1]).astype(bool).reshape(shape),
    )
    return replay.append(memory, piece)


def _of_one_task(memory, task):
    """The memory of two, of which the other has nothing to draw."""
    usable, counts = memory.usable.at[1 - task].set(False), memory.counts.at[1 - task].set(0)
    return dataclasses.replace(memory, usable=usable, counts=counts)


@functools.cache
def _linear_update(devices, masks=((True, True, False),), **options):
    options = {"batch": 4, "minibatches": 1, "discount": 0.5} | options
    return dqn.make_update(LINEAR, SGD, devices, masks=jnp.array(masks), **options)


def _linear_state(devices):
    """Online 1, 2, 9; target 3, -1, 50: Q(s, 0) = 1, Q(s', .) = 2, 4, 18 and 6, -2, 100."""
    state = dqn.create_state(_linear(1.0, 2.0, 9.0), SGD, devices)
    target = jax.device_put(_linear(3.0, -1.0, 50.0), meshes.replicated(devices))
    return dataclasses.replace(state, target=target)


@pytest.mark.parametrize(
    ("options", "ended", "target", "loss", "slope"),
    [
        # Cut, so bootstrapped: 0.5 + 6/2 from the episode's own last observation; off by 2.5.
        ({}, False, 3.5, 6.25, -5.0),
        # Double: the online network chooses action 1, and the target values it: 0.5 - 2/2.
        ({"double": True}, False, -0.5, 2.25, 3.0),
        # Ended: the reward alone.
        ({}, True, 0.5, 0.25, 1.0),
        ({"double": True}, True, 0.5, 0.25, 1.0),
    ],
    ids=str,
)
def test_an_update_by_hand(options, ended, target, loss, slope):
    memory = _one_transition(FOUR, ended=ended)
    update = _linear_update(FOUR, **options)
    state, metrics = update(_linear_state(FOUR), memory, _key(FOUR))
    assert metrics.keys() == {"loss", "target", "q", "gradient_norm"}
    assert float(metrics["target"]) == pytest.approx(target)
    assert float(metrics["loss"]) == pytest.approx(loss)
    assert float(metrics["q"]) == pytest.approx(1.0)
    # Of kernel and bias of action 0 alike, as s = 1.
    assert float(metrics["gradient_norm"]) == pytest.approx(abs(slope) * math.sqrt(2))
    action = state.train.params["params"]["action"]
    np.testing.assert_allclose(action["kernel"], [[1 - slope, 2, 9]], rtol=1e-6)
    np.testing.assert_allclose(action["bias"], [-slope, 0, 0], rtol=1e-6)
    assert int(state.train.step) == 1
    assert _difference(state.target, _linear(3.0, -1.0, 50.0)) == 0, "an update moves no target"


def test_where_the_next_episode_begins_is_nothing_to_a_cut_one():
    learnt = []
    for following in (100.0, -7.0):
        memory = _one_transition(FOUR, following=following)
        learnt.append(_linear_update(FOUR)(_linear_state(FOUR), memory, _key(FOUR))[0].train)
    assert _difference(*learnt) == 0


def test_nothing_is_learnt_from_a_memory_without_transitions():
    memory = _one_transition(FOUR, valid=False)
    assert memory.counts.tolist() == [0]
    state, metrics = _linear_update(FOUR)(_linear_state(FOUR), memory, _key(FOUR))
    assert _difference(state.train.params, _linear(1.0, 2.0, 9.0)) == 0
    assert {float(x) for x in metrics.values()} == {0.0}


@pytest.mark.parametrize("double", [False, True])
def test_every_task_bootstraps_from_its_own_valid_actions(double):
    # Of Q(s', .) = 6, -2, 100 in the target and 2, 4, 18 online the tasks may take actions 0 and 2,
    # and 1 alone.
    masks = ((True, False, True), (False, True, False))
    update = _linear_update(FOUR, masks, double=double)
    for task, target in enumerate((0.5 + 50, 0.5 - 1)):
        memory = _of_one_task(_one_transition(FOUR, num_tasks=2), task)
        _, metrics = update(_linear_state(FOUR), memory, _key(FOUR))
        assert float(metrics["target"]) == pytest.approx(target)


def test_a_network_that_knows_its_task_is_told_it():
    # Only the second task has a transition: the first's vector must not move.
    network = Network(convs=(), num_outputs=2, task_embedding=3, game_actions=((0, 1),) * 2)
    params = networks.init(network, jax.random.key(0), (1, 1))
    memory = _of_one_task(_one_transition(FOUR, num_tasks=2), 1)
    update = dqn.make_update(
        network, SGD, FOUR, masks=jnp.ones((2, 2), bool), batch=4, minibatches=1, discount=0.5
    )
    state, metrics = update(dqn.create_state(params, SGD, FOUR), memory, _key(FOUR))
    first, second = (network.apply(params, jnp.full((1, 1, 1), 2.0), task).max() for task in (0, 1))
    assert abs(first - second) > 1e-2
    assert float(metrics["target"]) == pytest.approx(0.5 + 0.5 * float(second), rel=1e-5)
    moved = np.abs(
        state.train.params["params"]["task_embedding"]["embedding"]
        - params["params"]["task_embedding"]["embedding"]
    ).max(axis=1)
    assert moved[0] == 0 and moved[1] > 1e-4


# --- Many updates of two tasks with stacks of three.

NETWORK = Network(convs=(), hidden=(16, 8), num_outputs=4)
MASKS = np.array([[1, 1, 0, 1], [0, 1, 1, 1]], bool)


@functools.cache
def _transform(rate=1e-2):
    return learner.optimiser(
        "adam_l2", learning_rate=rate, updates=1, schedule="constant", clip_norm=1e9
    )


@functools.cache
def _params():
    return networks.init(NETWORK, jax.random.key(0), (3, 2))


def _state(devices, **options):
    return dqn.create_state(_params(), _transform(), devices, **options)


def _filled(devices):
    rng = np.random.default_rng(0)
    shape = (2, 20, 4)
    piece = replay.Piece(
        frames=rng.normal(size=(*shape, 2)).astype(np.float32),
        ages=np.broadcast_to(np.arange(20)[None, :, None] % 7, shape),
        actions=np.where(rng.random(shape) < 0.5, 1, 3),
        rewards=rng.normal(size=shape).astype(np.float32),
        ended=rng.random(shape) < 0.2,
        valid=np.broadcast_to(np.arange(20)[None, :, None] % 7 < 6, shape),
    )
    memory = _memory(devices, num_tasks=2, steps=24, frame_shape=(2,), depth=3, num_envs=4)
    return replay.append(memory, piece)


@functools.cache
def _update(devices, **options):
    options = {"batch": 16, "minibatches": 3, "discount": 0.9} | options
    return dqn.make_update(NETWORK, _transform(), devices, masks=jnp.asarray(MASKS), **options)


@pytest.mark.parametrize("double", [False, True])
def test_updates_are_pytorchs(double):
    torch = pytest.importorskip("torch")

    def module(params):
        layers = [params["params"][name] for name in ("fc1", "fc2", "action")]
        net = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(6, 16),
            torch.nn.ReLU(),
            torch.nn.Linear(16, 8),
            torch.nn.ReLU(),
            torch.nn.Linear(8, 4),
        )
        for linear, layer in zip(net[1::2], layers, strict=True):
            linear.weight.data = torch.tensor(np.asarray(layer["kernel"]).T.copy())
            linear.bias.data = torch.tensor(np.asarray(layer["bias"]))
        return net

    # Far apart, and a head large enough that values are not all near 0.
    params, other = (
        jax.tree.map(lambda x: 2 * x, networks.init(NETWORK, jax.random.key(i), (3, 2)))
        for i in (0, 1)
    )
    online, target = module(params), module(other)
    optimiser = torch.optim.Adam(online.parameters(), lr=1e-2)
    distance = torch.nn.MSELoss()
    memory, key = _filled(FOUR), _key(FOUR, 4)
    state = dqn.create_state(params, _transform(), FOUR)
    state = dataclasses.replace(state, target=jax.device_put(other, meshes.replicated(FOUR)))

    @jax.jit
    def draw(memory, key):
        tasks, rows = replay.sample(memory, key, 16)
        return tasks, replay.gather(memory, tasks, rows)

    step = 0
    for _ in range(2):
        state, metrics = _update(FOUR, double=double)(state, memory, key)
        expected = []
        for _ in range(3):
            tasks, batch = draw(memory, jax.random.fold_in(key, step))
            seen, action, reward, ended, after, _ = (torch.tensor(np.asarray(x)) for x in batch)
            invalid = torch.tensor(~MASKS[np.asarray(tasks)])
            with torch.no_grad():
                judged = target(after).masked_fill(invalid, -torch.inf)
                values = judged.max(1).values
                if double:
                    best = online(after).masked_fill(invalid, -torch.inf).argmax(1, keepdim=True)
                    values = judged.gather(1, best)[:, 0]
                wanted = reward + 0.9 * values * (1 - ended.float())
            q = online(seen).gather(1, action.long()[:, None])[:, 0]
            loss = distance(q, wanted)
            optimiser.zero_grad()
            loss.backward()
            norm = torch.stack([p.grad.norm() for p in online.parameters()]).norm()
            expected.append([x.item() for x in (loss, wanted.mean(), q.mean(), norm)])
            optimiser.step()
            step += 1
        names = ("loss", "target", "q", "gradient_norm")
        actual = [float(metrics[name]) for name in names]
        np.testing.assert_allclose(actual, np.mean(expected, axis=0), rtol=1e-4)
        state = dqn.copy_target(state)
        target.load_state_dict(online.state_dict())

    for linear, name in zip(online[1::2], ("fc1", "fc2", "action"), strict=True):
        layer = state.train.params["params"][name]
        np.testing.assert_allclose(layer["kernel"], linear.weight.data.numpy().T, atol=2e-5)
        np.testing.assert_allclose(layer["bias"], linear.bias.data.numpy(), atol=2e-5)
    assert _difference(state.train.params, params) > 0.01


def test_four_devices_learn_what_one_learns():
    assert (FOUR.size, ONE.size) == (4, 1)
    results = []
    for devices in (FOUR, ONE):
        state, memory = _state(devices), _filled(devices)
        for _ in range(2):
            state, metrics = _update(devices, double=True)(state, memory, _key(devices))
            state = dqn.copy_target(state)
        results.append(jax.device_get((state.train.params, state.target, metrics)))
    assert _difference(*results) < 1e-5
    assert _difference(results[0][0], _params()) > 1e-2, "nothing was learnt at all"


def test_two_calls_of_three_are_one_of_six():
    memory, key = _filled(FOUR), _key(FOUR)
    halves = _state(FOUR)
    for _ in range(2):
        halves, _ = _update(FOUR)(halves, memory, key)
    whole, _ = _update(FOUR, minibatches=6)(_state(FOUR), memory, key)
    assert int(halves.train.step) == int(whole.train.step) == 6
    assert _difference(halves, whole) < 1e-6


def test_every_minibatch_draws_rows_of_its_own():
    memory, key = _filled(FOUR), _key(FOUR)
    still = optax.set_to_zero()
    update = dqn.make_update(
        NETWORK, still, FOUR, masks=jnp.asarray(MASKS), batch=16, minibatches=1, discount=0.9
    )
    state, rows = dqn.create_state(_params(), still, FOUR), []
    for _ in range(3):
        state, metrics = update(state, memory, key)
        rows.append(float(metrics["loss"]))
    assert len(set(rows)) == 3
    again, metrics = update(dqn.create_state(_params(), still, FOUR), memory, key)
    assert float(metrics["loss"]) == rows[0]
    assert _difference(again.train.params, _params()) == 0


def test_a_target_stays_until_it_is_copied():
    memory, key = _filled(FOUR), _key(FOUR)
    state, _ = _update(FOUR)(_state(FOUR), memory, key)
    assert _difference(state.target, _params()) == 0
    assert _difference(state.train.params, _params()) > 1e-3
    state = dqn.copy_target(state)
    copied = jax.device_get(state.target)
    assert _difference(copied, state.train.params) == 0
    for leaf in jax.tree.leaves(state):
        assert leaf.sharding.is_equivalent_to(meshes.replicated(FOUR), leaf.ndim)
    # Neither what is learnt later nor the memory it is learnt in is the target's.
    state, _ = _update(FOUR)(state, memory, key)
    assert _difference(state.target, copied) == 0
    assert _difference(state.train.params, copied) > 1e-3


def test_the_average_plays_where_one_is_kept():
    memory, key = _filled(FOUR), _key(FOUR)
    state, _ = _update(FOUR, minibatches=1, ema_decay=0.3)(_state(FOUR, averaged=True), memory, key)
    # The first step's rate is 9/10.
    expected = jax.tree.map(lambda a, b: a + 0.9 * (b - a), _params(), state.train.params)
    assert _difference(state.train.eval_params, expected) < 1e-6
    plain = _state(FOUR)
    assert plain.train.eval_params is plain.train.params


def test_a_chain_cut_by_a_time_limit_is_valued_as_if_it_went_on():
    """Three places in a row: 0 goes left, 1 right, and right of the last pays 1 and ends.

    With gamma = 1/2 going right is worth 1/4, 1/2 and 1, going left half of what is best there.
    Play is random and cut every three steps, where values taken for ended would be too small.
    """
    rng = np.random.default_rng(0)
    shape = (1, 400, 4)
    piece = replay.Piece(
        frames=np.zeros((*shape, 3), np.float32),
        ages=np.zeros(shape, int),
        actions=rng.integers(0, 2, shape),
        rewards=np.zeros(shape, np.float32),
        ended=np.zeros(shape, bool),
        valid=np.ones(shape, bool),
    )
    for env in range(4):
        place, age, over = 0, 0, False
        for time in range(400):
            at = (0, time, env)
            piece.frames[at][place], piece.ages[at] = 1, age
            if over:
                piece.valid[at] = False
                place, age, over = rng.integers(0, 3), 0, False
                continue
            right = bool(piece.actions[at])
            piece.ended[at] = piece.rewards[at] = place == 2 and right
            place, age = min(2, max(0, place + (1 if right else -1))), age + 1
            over = bool(piece.ended[at]) or age == 3
    network = Network(convs=(), num_outputs=2)
    transform = optax.adam(0.02)
    memory = replay.append(
        _memory(FOUR, num_tasks=1, steps=401, frame_shape=(3,), num_envs=4), piece
    )
    params = networks.init(network, jax.random.key(0), (1, 3))
    state = dqn.create_state(params, transform, FOUR)
    update = dqn.make_update(
        network, transform, FOUR, masks=jnp.ones((1, 2), bool), batch=64, minibatches=50,
        discount=0.5,
    )  # fmt: skip
    for _ in range(12):
        state, _ = update(state, memory, _key(FOUR))
        state = dqn.copy_target(state)
    values = network.apply(state.train.eval_params, jnp.eye(3)[:, None])
    np.testing.assert_allclose(values, [[1 / 8, 1 / 4], [1 / 8, 1 / 2], [1 / 4, 1]], atol=0.01)


# --- What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch is 0, expected at least 1"),
        ({"minibatches": 0}, "minibatches is 0, expected at least 1"),
        ({"discount": 1.5}, "discount is 1.5, expected 0 to 1"),
        ({"discount": -0.1}, "discount is -0.1, expected 0 to 1"),
        ({"batch": 6}, "batch 6 is not divisible by 4 devices"),
    ],
    ids=str,
)
def test_an_update_that_cannot_be_is_refused_in_one_line(changes, message):
    options = {"masks": jnp.asarray(MASKS), "batch": 16, "minibatches": 1, "discount": 0.9}
    with pytest.raises(ValueError, match=message) as caught:
        dqn.make_update(NETWORK, _transform(), FOUR, **(options | changes))
    assert "\n" not in str(caught.value)
