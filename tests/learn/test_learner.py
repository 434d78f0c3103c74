"""Tests for the update: its arithmetic, its sharding, and what it leaves alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import meshes, networks
from jaxdistill.learn import learner, losses, windows
from jaxdistill.networks import ConvLayer, Network
from jaxdistill.play import collection
from jaxdistill.tasks.actions import Factored, entropy, greedy, regret
from jaxdistill.tasks.views import Vector

NETWORK = Network(convs=(ConvLayer(4, 8, 4), ConvLayer(4, 4, 2)), hidden=(16,), num_outputs=6)
FRAME = (20, 20)
MASKS = np.array([[1, 1, 0, 1, 0, 0], [0, 1, 1, 1, 1, 1]], bool)
FOUR, ONE = meshes.create(), meshes.create(jax.devices()[:1])


def _window(devices, *, labels_seed=0, steps=30, usable=None):
    """Two made-up games of four environments."""
    rng = np.random.default_rng(0)
    shape = (2, steps, 4)
    ages = np.broadcast_to(np.minimum(np.arange(steps) % 12, 255)[:, None], shape).astype(np.uint8)
    chunk = collection.Chunk(
        frames=rng.integers(0, 256, (*shape, *FRAME)).astype(np.uint8),
        labels=np.random.default_rng(labels_seed).normal(size=(*shape, 6)).astype(np.float32),
        actions=np.zeros(shape, np.uint8),
        ages=ages,
        usable=np.ones(shape, bool) if usable is None else usable,
    )
    buffer = windows.WindowBuffer(2, 4, steps, FRAME, 6, devices)
    buffer.append(chunk)
    return buffer.window


@functools.cache
def _fresh_params():
    return jax.jit(lambda key: networks.init(NETWORK, key, (4, *FRAME)))(jax.random.key(0))


@functools.cache
def _transform(rate=1e-3):
    return learner.optimiser("adamw", learning_rate=rate, updates=100, weight_decay=1e-4)


def _state(devices):
    return learner.create_state(_fresh_params(), _transform(), devices)


@functools.cache
def _update(devices, loss="kl", minibatches=3, batch_per_game=8, rate=1e-3):
    return learner.make_update(
        NETWORK,
        _transform(rate),
        devices,
        objective=learner.Objective(
            loss=loss, masks=jnp.asarray(MASKS), temperatures=jnp.array([0.5, 1.0])
        ),
        minibatches=learner.Minibatches(per_game=batch_per_game, number=minibatches),
    )


def _key(devices, seed=0):
    return jax.device_put(jax.random.key(seed), meshes.replicated(devices))


def _difference(a, b):
    return max(
        np.abs(np.asarray(x) - np.asarray(y)).max()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_four_devices_learn_what_one_learns(loss):
    assert (FOUR.size, ONE.size) == (4, 1)
    results = []
    for devices in (FOUR, ONE):
        state, window = _state(devices), _window(devices)
        for seed in range(2):
            state, metrics = _update(devices, loss)(state, window, _key(devices, seed))
        results.append((state.params, metrics))
    (many, many_metrics), (one, one_metrics) = results
    assert _difference(many, one) < 1e-5
    assert _difference(many, _fresh_params()) > 1e-3, "nothing was learnt at all"
    assert many_metrics.keys() == one_metrics.keys()
    for name, value in many_metrics.items():
        np.testing.assert_allclose(value, one_metrics[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_two_calls_of_three_are_one_of_six():
    window, key = _window(FOUR), _key(FOUR)
    halves = _state(FOUR)
    for _ in range(2):
        halves, _ = _update(FOUR)(halves, window, key)
    whole, _ = _update(FOUR, minibatches=6)(_state(FOUR), window, key)
    assert int(halves.step) == int(whole.step) == 6
    assert _difference(halves.params, whole.params) < 1e-6
    assert _difference(halves.opt_state, whole.opt_state) < 1e-6


def test_the_average_that_plays_follows_by_hand():
    # Rates 9/10, 9/11, 9/12, ... until 1 - decay is larger: at step 3 with a decay of 0.3.
    window, key = _window(FOUR), _key(FOUR)
    update = learner.make_update(
        NETWORK,
        _transform(),
        FOUR,
        objective=learner.Objective(loss="kl", masks=jnp.asarray(MASKS), temperatures=jnp.ones(2)),
        minibatches=learner.Minibatches(per_game=8, number=1),
        ema_decay=0.3,
    )
    state = learner.create_state(_fresh_params(), _transform(), FOUR, averaged=True)
    expected = jax.device_get(_fresh_params())
    assert _difference(state.eval_params, expected) == 0
    for rate in (0.9, 9 / 11, 0.75, 0.7, 0.7):
        state, _ = update(state, window, key)
        expected = jax.tree.map(lambda a, b, r=rate: a + r * (b - a), expected, state.params)
        assert _difference(state.eval_params, expected) < 1e-6
    assert _difference(state.eval_params, state.params) > 1e-4
    plain, _ = update(_state(FOUR), window, key)
    assert plain.eval_params is plain.params


def test_every_minibatch_draws_rows_of_its_own():
    # Were the step left out of the key, a second call with the same key would see the same rows:
    # with a rate of 0 it would then report the very same loss.
    window, state = _window(FOUR), learner.create_state(_fresh_params(), _transform(0.0), FOUR)
    update = _update(FOUR, rate=0.0)
    state, first = update(state, window, _key(FOUR))
    state, second = update(state, window, _key(FOUR))
    assert float(first["loss"]) != float(second["loss"])
    assert _difference(state.params, _fresh_params()) == 0
    again, _ = update(_state(FOUR), window, _key(FOUR))
    again, repeated = update(again, window, _key(FOUR))
    assert float(second["loss"]) == float(repeated["loss"])


def test_exactly_so_many_optimiser_steps_are_taken():
    state, window = _state(FOUR), _window(FOUR)
    assert int(state.step) == 0
    for calls in range(1, 4):
        state, _ = _update(FOUR)(state, window, _key(FOUR))
        assert int(state.step) == 3 * calls
        counts = optax.tree_utils.tree_get_all_with_path(state.opt_state, "count")
        assert {int(count) for _, count in counts} == {3 * calls}


def test_the_loss_falls_where_there_is_something_to_learn():
    # A handful of states, so that the labels can simply be learnt by heart.
    usable = np.zeros((2, 30, 4), bool)
    usable[:, 3:6] = True
    window = _window(FOUR, usable=usable)
    state, key, history = learner.create_state(_fresh_params(), _fast(), FOUR), _key(FOUR), []
    update = learner.make_update(
        NETWORK,
        _fast(),
        FOUR,
        objective=learner.Objective(
            loss="kl", masks=jnp.asarray(MASKS), temperatures=jnp.array([0.5, 1.0])
        ),
        minibatches=learner.Minibatches(per_game=32, number=50),
    )
    for _ in range(4):
        state, metrics = update(state, window, key)
        history.append(learner.host_metrics(metrics, ("a", "b")))
    first, last = history[0], history[-1]
    assert last["loss"] < 0.25 * first["loss"]
    for game in ("a", "b"):
        assert last[f"game_loss/{game}"] < 0.4 * first[f"game_loss/{game}"]
        assert last[f"agreement/{game}"] > first[f"agreement/{game}"] + 0.1


@functools.cache
def _fast():
    return learner.optimiser("adamw", learning_rate=1e-2, updates=200)


def test_the_student_depends_on_the_labels_and_leaves_them_alone():
    window, other = _window(FOUR), _window(FOUR, labels_seed=1)
    before = jax.tree.map(np.array, window)
    state, metrics = _update(FOUR)(_state(FOUR), window, _key(FOUR))
    jax.tree.map(np.testing.assert_array_equal, window, before)
    other_state, other_metrics = _update(FOUR)(_state(FOUR), other, _key(FOUR))
    assert abs(float(metrics["loss"]) - float(other_metrics["loss"])) > 1e-3
    assert _difference(state.params, other_state.params) > 1e-3


def test_metrics_by_hand_on_a_single_state():
    # One usable row per game, so every minibatch is that row, and a rate of 0 keeps the student.
    usable = np.zeros((2, 30, 4), bool)
    usable[0, 7, 2] = usable[1, 20, 1] = True
    window = _window(FOUR, usable=usable)
    state = learner.create_state(_fresh_params(), _transform(0.0), FOUR)
    _, metrics = _update(FOUR, rate=0.0)(state, window, _key(FOUR))
    places = ([0, 1], [7, 20], [2, 1])  # game, time, environment
    labels = window.labels[places]
    frames = np.stack([window.frames[g, t - 3 : t + 1, n] for g, t, n in zip(*places, strict=True)])
    outputs = jax.jit(NETWORK.apply)(_fresh_params(), frames)
    temperature = np.array([[0.5], [1.0]])
    expected = {
        "game_loss": losses.kl(outputs, labels, MASKS, temperature),
        "agreement": greedy(outputs, MASKS) == greedy(labels, MASKS),
        "regret": regret(outputs, labels, MASKS),
        "student_entropy": entropy(outputs, MASKS),
        "expert_entropy": entropy(labels / temperature, MASKS),
    }
    expected["loss"] = expected["game_loss"].mean()

    @jax.jit
    @jax.grad
    def gradient_of(params):
        return losses.kl(NETWORK.apply(params, frames), labels, MASKS, temperature).mean()

    gradient = gradient_of(_fresh_params())
    squares = [np.square(x).sum() for x in jax.tree.leaves(gradient)]
    expected["gradient_norm"] = np.sqrt(sum(squares))
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_student_of_q_values_is_as_undecided_as_they_are_at_the_temperature():
    """Its outputs, a tenth of a nat apart at most, are nearly even as they stand."""
    usable = np.zeros((2, 30, 4), bool)
    usable[0, 7, 2] = usable[1, 20, 1] = True  # every minibatch is one row a game
    window = _window(FOUR, usable=usable)
    frames = np.stack([window.frames[0, 4:8, 2], window.frames[1, 17:21, 1]])
    outputs = jax.jit(NETWORK.apply)(_fresh_params(), frames)
    temperature = np.array([[0.01], [0.02]])
    for name, first, own in (
        ("q_kl", None, outputs / temperature),
        ("kl", None, outputs),
        ("q_values", "nll", outputs / temperature),
        ("kl", "q_kl", outputs),  # what it turns into counts
    ):
        update = learner.make_update(
            NETWORK,
            _transform(0.0),
            FOUR,
            objective=learner.Objective(
                loss=name,
                first_loss=first,
                first_updates=(9, 9) if first else (),
                masks=jnp.asarray(MASKS),
                temperatures=jnp.asarray(temperature[:, 0]),
            ),
            minibatches=learner.Minibatches(per_game=4, number=1),
        )
        state = learner.create_state(_fresh_params(), _transform(0.0), FOUR)
        _, metrics = update(state, window, _key(FOUR))
        np.testing.assert_allclose(metrics["student_entropy"], entropy(own, MASKS), rtol=1e-3)
    even = np.log(MASKS.sum(axis=1))
    assert (entropy(outputs / temperature, MASKS) < even - 0.2).all()


def test_a_game_of_a_larger_share_has_so_many_more_rows_and_so_much_more_say():
    transform, temperature = optax.sgd(0.1), jnp.array([0.5, 1.0])
    key, window = _key(ONE), _window(ONE)
    games = jnp.array([0, 0, 0, 1])
    rows = windows.sample(window, jax.random.fold_in(key, 0), games, 8)
    stacks, labels = windows.gather(window, games, rows)
    stacks, labels = stacks.reshape(32, 4, *FRAME), labels.reshape(32, 6)
    of = jnp.repeat(games, 8)

    @jax.jit
    def loss(params):
        outputs = NETWORK.apply(params, stacks)
        return losses.kl(outputs, labels, MASKS[of], temperature[of][:, None])

    # All rows have the same say: three quarters of them are of the first game.
    gradient = jax.jit(jax.grad(lambda params: loss(params).mean()))(_fresh_params())
    wanted = jax.tree.map(lambda x, g: x - 0.1 * g, _fresh_params(), gradient)
    values = loss(_fresh_params())
    for devices in (ONE, FOUR):
        update = learner.make_update(
            NETWORK,
            transform,
            devices,
            objective=learner.Objective(
                loss="kl", masks=jnp.asarray(MASKS), temperatures=temperature
            ),
            minibatches=learner.Minibatches(per_game=8, shares=(3, 1), number=1),
        )
        state = learner.create_state(_fresh_params(), transform, devices)
        state, metrics = update(state, _window(devices), _key(devices))
        assert _difference(state.params, wanted) < 1e-6
        np.testing.assert_allclose(metrics["loss"], values.mean(), rtol=1e-5)
        by_game = [values[:24].mean(), values[24:].mean()]
        np.testing.assert_allclose(metrics["game_loss"], by_game, rtol=1e-5)
    assert _difference(wanted, _fresh_params()) > 1e-3


def test_a_student_that_knows_its_game_is_told_the_game_of_every_row():
    network = Network(convs=(), controllers=True, num_outputs=6)
    network = network.clone(game_actions=tuple(tuple(np.flatnonzero(mask)) for mask in MASKS))
    usable = np.zeros((2, 30, 4), bool)
    usable[0, 7, 2] = usable[1, 20, 1] = True
    window = _window(FOUR, usable=usable)
    params = networks.init(network, jax.random.key(0), (4, *FRAME))
    update = learner.make_update(
        network,
        _transform(0.0),
        FOUR,
        objective=learner.Objective(loss="mse", masks=jnp.asarray(MASKS), temperatures=jnp.ones(2)),
        minibatches=learner.Minibatches(per_game=8, number=1),
    )
    state = learner.create_state(params, _transform(0.0), FOUR)
    _, metrics = update(state, window, _key(FOUR))
    places = ([0, 1], [7, 20], [2, 1])  # game, time, environment
    frames = np.stack([window.frames[g, t - 3 : t + 1, n] for g, t, n in zip(*places, strict=True)])
    outputs = network.apply(params, frames, np.arange(2))
    wanted = losses.LOSSES["mse"].function(outputs, window.labels[places], MASKS, jnp.ones((2, 1)))
    np.testing.assert_allclose(metrics["game_loss"], wanted, rtol=1e-4)


def test_the_loss_turns_from_the_first_into_the_last():
    window = _window(FOUR)
    played = {}
    for loss, first in (("mse", None), ("nll", None), ("mse", "nll")):
        update = learner.make_update(
            NETWORK,
            _transform(0.0),
            FOUR,
            objective=learner.Objective(
                loss=loss,
                first_loss=first,
                first_updates=(4, 0),  # the second game has its loss from the start
                masks=jnp.asarray(MASKS),
                temperatures=jnp.ones(2),
            ),
            minibatches=learner.Minibatches(per_game=8, number=1),
        )
        state, rows = _state(FOUR), []
        for _ in range(6):
            state, metrics = update(state, window, _key(FOUR))
            rows.append(np.asarray(metrics["game_loss"]))
        played[first or loss, loss] = np.stack(rows)
    turned = np.stack([[0, 0.25, 0.5, 0.75, 1, 1], np.ones(6)], axis=1)
    wanted = (1 - turned) * played["nll", "nll"] + turned * played["mse", "mse"]
    np.testing.assert_allclose(played["nll", "mse"], wanted, rtol=1e-4)


# --- What an expert cannot know of.

ANGLE = Factored(("angle",))
SEEN = jnp.array([[True, False, False], [True, False, True]])


@functools.cache
def _vectors(devices):
    """Two tasks, 1 and 2; numbers are 10 times the task, and the row's own, twice.

    Around them stands what is not to be seen; labels are the task.
    """
    shape = (2, 30, 4)
    task = np.broadcast_to(np.array([1, 2])[:, None, None], shape)
    own = np.arange(240).reshape(shape)
    frames = np.stack([own, 10 * task, own, own, own], axis=-1) + 0.0
    frames[..., [0, 4]] = 1e6
    chunk = collection.Chunk(
        frames=frames.astype(np.float32),
        labels=task[..., None].astype(np.float32),
        actions=np.zeros((*shape, 1), np.float32),
        ages=np.zeros(shape, np.uint8),
        usable=np.ones(shape, bool),
    )
    buffer = windows.WindowBuffer(2, 4, 30, (5,), 1, devices, depth=1, frame_dtype="float32")
    buffer.append(chunk)
    return buffer.window


def _tell(weights, seen, devices=FOUR, calls=1, rate=0.0):
    """State and metrics of updates of a network that adds what it sees by these weights."""
    network = Network(convs=(), num_outputs=1)
    kernel = np.array(weights, np.float32)[:, None]
    params = {"params": {"action": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}}
    update = learner.make_update(
        network,
        _transform(rate),
        devices,
        objective=learner.Objective(
            loss="squared", masks=jnp.ones((2, 1), bool), temperatures=jnp.ones(2), form=ANGLE
        ),
        minibatches=learner.Minibatches(per_game=16, number=2),
        view=Vector(3, start=1, of=5),
        seen=seen,
    )
    state = learner.create_state(params, _transform(rate), devices)
    for _ in range(calls):
        state, metrics = update(state, _vectors(devices), _key(devices))
    return state, metrics


def test_what_an_expert_cannot_know_of_is_another_tasks():
    """A tenth of the first number is the task: its squared distance from the label tells whose."""
    own, foreign = [0, 0], [(2 - 1) ** 2, (1 - 2) ** 2]
    told = {"known": SEEN.at[:, 0].set(True), "none": SEEN.at[:, 0].set(False)}
    for seen, wanted in (
        (None, own),
        (told["known"], own),
        (told["none"], foreign),
        (jnp.array([[True] * 3, [False] * 3]), [own[0], foreign[1]]),
    ):
        _, metrics = _tell([0.1, 0, 0], seen)
        np.testing.assert_allclose(metrics["game_loss"], wanted, rtol=1e-5, atol=1e-10)
        error = np.degrees(np.sqrt(wanted))
        np.testing.assert_allclose(metrics["angle_error"], error, rtol=1e-5, atol=1e-4)


def test_what_is_foreign_is_of_one_state():
    """Two numbers of it are of the same row, and one that is known is of the own."""
    weights = [0, 1, -1]  # the difference of two numbers that are equal in every row
    _, metrics = _tell(weights, jnp.zeros((2, 3), bool))
    np.testing.assert_allclose(metrics["game_loss"], [1, 4])  # 0 against the labels
    _, metrics = _tell(weights, SEEN)
    assert metrics["game_loss"][0] == 1
    assert metrics["game_loss"][1] > 1000, "rows of two tasks are at least 1 and mostly 100 apart"
    _, metrics = _tell(weights, None)
    np.testing.assert_allclose(metrics["game_loss"], [1, 4])


def test_every_minibatch_takes_other_foreign_rows():
    """By the step: a resumed run draws what the whole one would have."""
    weights, seen = [0, 1e-3, 0], jnp.zeros((2, 3), bool)
    once, first = _tell(weights, seen)
    _, same = _tell(weights, seen)
    _, second = _tell(weights, seen, calls=2)
    assert float(first["loss"]) == float(same["loss"]) != float(second["loss"])
    assert int(once.step) == 2


def test_four_devices_take_the_foreign_rows_that_one_takes():
    learnt = [_tell([0.01, 0.003, -0.002], SEEN, devices, 2, 1e-2) for devices in (FOUR, ONE)]
    (four, metrics), (one, same) = learnt
    assert _difference(four.params, one.params) < 1e-5
    for name, value in metrics.items():
        np.testing.assert_allclose(value, same[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_network_sees_its_part_of_a_windows_frames():
    """What stands around it would show as a million."""
    _, metrics = _tell([0.1, 0, 0], None)
    np.testing.assert_allclose(metrics["loss"], 0, atol=1e-10)
    _, metrics = _tell([0, 1, 0], None)
    assert 1 < metrics["loss"] < 240**2


def test_entropy_is_taken_off_the_loss():
    """With all weight on it the student comes to choose evenly among each game's valid actions."""
    usable = np.zeros((2, 30, 4), bool)
    usable[:, 3] = True  # so few states that their labels are learnt by heart
    window, played = _window(FOUR, usable=usable), {}
    for weight in (0.0, 100.0):
        update = learner.make_update(
            NETWORK,
            _transform(3e-3),
            FOUR,
            objective=learner.Objective(
                loss="nll",
                masks=jnp.asarray(MASKS),
                temperatures=jnp.ones(2),
                entropy_weight=weight,
            ),
            minibatches=learner.Minibatches(per_game=8, number=30),
        )
        state = learner.create_state(
            jax.tree.map(lambda x: 3 * x, _fresh_params()), _transform(3e-3), FOUR
        )
        for _ in range(2):
            state, metrics = update(state, window, _key(FOUR))
        played[weight] = np.asarray(metrics["student_entropy"])
        # What is reported as the loss is the loss.
        np.testing.assert_allclose(metrics["loss"], metrics["game_loss"].mean(), rtol=1e-5)
    even = np.log(MASKS.sum(axis=1))
    assert (played[0.0] < even - 0.1).all()
    np.testing.assert_allclose(played[100.0], even, atol=0.02)


def test_the_state_is_donated_and_the_parameters_it_was_made_of_are_not():
    given = jax.device_put(_fresh_params(), meshes.replicated(FOUR))
    state = learner.create_state(given, _transform(), FOUR)
    new, _ = _update(FOUR)(state, _window(FOUR), _key(FOUR))
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
    assert not any(x.is_deleted() for x in jax.tree.leaves((given, new)))
    assert _difference(given, _fresh_params()) == 0


def test_an_update_transfers_nothing_and_is_compiled_once(monkeypatch):
    update = learner.make_update(
        NETWORK,
        _transform(),
        FOUR,
        objective=learner.Objective(loss="mse", masks=jnp.asarray(MASKS), temperatures=jnp.ones(2)),
        minibatches=learner.Minibatches(per_game=4, number=1),
    )
    state, windows, keys = _state(FOUR), [_window(FOUR), _window(FOUR)], [_key(FOUR), _key(FOUR, 1)]
    state, _ = update(state, windows[0], keys[0])
    monkeypatch.setattr(networks, "forward", None)  # who traces again, fails
    with jax.transfer_guard("disallow"):
        for window, key in zip(windows * 2, keys * 2, strict=True):
            state, metrics = update(state, window, key)
    assert int(state.step) == 5
    assert np.isfinite(metrics["loss"])


def test_a_fresh_state_is_whole_on_every_device_and_stays_so():
    state = _state(FOUR)
    new, _ = _update(FOUR)(_state(FOUR), _window(FOUR), _key(FOUR))
    for leaf in jax.tree.leaves((state, new)):
        assert leaf.sharding.is_equivalent_to(meshes.replicated(FOUR), leaf.ndim)


def test_a_sharded_gradient_is_the_gradient_of_the_mean_over_the_whole_batch():
    # loss = mean over rows of (w x - s)^2, so the gradient is mean 2 x (w x - s).
    def loss(params, shared, batch):
        value = jnp.mean(jnp.square(params["w"] * batch - shared))
        return value, {"loss": value, "rows": batch.mean()}

    batch = np.arange(16.0, dtype=np.float32).reshape(2, 8)
    gradient, metrics = jax.jit(learner.sharded_gradient(loss, FOUR))(
        {"w": jnp.float32(0.5)}, jnp.float32(3.0), batch
    )
    error = 0.5 * batch - 3
    np.testing.assert_allclose(gradient["w"], (2 * batch * error).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], np.square(error).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["rows"], 7.5)


@pytest.mark.parametrize(
    ("loss", "rows", "message"),
    [
        ("cubic", 8, "loss 'cubic' is not one of kl, "),
        ("kl", 6, "batch per game 6 is not divisible by 4 devices"),
    ],
)
def test_what_cannot_be_learnt_is_refused(loss, rows, message):
    with pytest.raises(ValueError, match=message):
        _update(FOUR, loss, batch_per_game=rows)


# --- The optimisers, against their papers' equations written out.


def _run(transform, start, gradients):
    params = {"w": jnp.asarray(start, jnp.float32)}
    state, path = transform.init(params), []
    for gradient in gradients:
        changes, state = transform.update({"w": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, changes)
        path.append(np.asarray(params["w"]))
    return np.stack(path)


def _adam_by_hand(start, gradients, *, rate, l2=0.0, decoupled=0.0, clip=np.inf):
    w = np.asarray(start, np.float64)
    m, v, path = np.zeros_like(w), np.zeros_like(w), []
    for t, gradient in enumerate(np.asarray(gradients, np.float64), 1):
        norm = np.linalg.norm(gradient)
        gradient = gradient * min(1.0, clip / norm)
        gradient = gradient + l2 * w
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - rate * (step + decoupled * w)
        path.append(w)
    return np.stack(path)


_GRADIENTS = np.array([[3.0, -4.0], [0.3, 0.4], [-1.0, 0.1]], np.float32)


@pytest.mark.parametrize(
    ("name", "decay"), [("adam_l2", {"l2": 0.5}), ("adamw", {"decoupled": 0.5})]
)
@pytest.mark.parametrize("clip", [1e9, 1.0])
def test_three_steps_of_adam_by_hand(name, decay, clip):
    # With the clip at 1 the first gradient, of norm 5, counts a fifth; the second, 0.5, whole.
    transform = learner.optimiser(
        name,
        learning_rate=0.1,
        updates=100,
        schedule="constant",
        clip_norm=clip,
        weight_decay=0.5,
    )
    actual = _run(transform, [1.0, -2.0], _GRADIENTS)
    expected = _adam_by_hand([1.0, -2.0], _GRADIENTS, rate=0.1, clip=clip, **decay)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_the_two_kinds_of_decay_and_the_clip_are_told_apart():
    runs = [
        _adam_by_hand([1.0, -2.0], _GRADIENTS, rate=0.1, clip=clip, **decay)
        for decay in ({"l2": 0.5}, {"decoupled": 0.5})
        for clip in (1e9, 1.0)
    ]
    for i, a in enumerate(runs):
        for b in runs[:i]:
            assert np.abs(a[-1] - b[-1]).max() > 1e-3


@pytest.mark.parametrize(
    ("schedule", "quarter", "end"),
    [
        # 0.1 + 0.9 (1 + cos(pi / 4)) / 2 = 0.868198; 1 - 0.9 / 4 = 0.775.
        ("cosine", 0.868198, 0.1),
        ("linear", 0.775, 0.1),
        ("constant", 1.0, 1.0),
    ],
)
def test_the_rate_falls_to_its_final_fraction(schedule, quarter, end):
    # Under a constant gradient every step of Adam is as long as the rate.
    transform = learner.optimiser(
        "adamw", learning_rate=0.01, updates=8, final_fraction=0.1, schedule=schedule
    )
    path = _run(transform, [0.0], np.ones((12, 1), np.float32))[:, 0]
    rates = -np.diff(path, prepend=0.0)
    np.testing.assert_allclose(rates[[0, 2, 8, 11]], 0.01 * np.array([1, quarter, end, end]), 1e-3)


def test_radam_begins_without_adaptation():
    # RAdam's first steps are plain momentum: the bias-corrected mean of the gradients so far.
    transform = learner.optimiser(
        "radam", learning_rate=0.1, updates=10, schedule="constant", clip_norm=1e9
    )
    actual = _run(transform, [0.0], np.array([[2.0], [4.0]], np.float32))
    # m = 0.2, / 0.1 = 2; then m = 0.18 + 0.4 = 0.58, / 0.19 = 3.052632.
    np.testing.assert_allclose(actual[:, 0], [-0.2, -0.505263], rtol=1e-4)


def test_radam_decays_weights_beside_the_gradient():
    transform = learner.optimiser(
        "radam", learning_rate=0.1, updates=10, schedule="constant", weight_decay=0.5
    )
    actual = _run(transform, [4.0], np.array([[2.0], [0.0]], np.float32))
    # 4 - 0.1 (2 + 0.5 * 4) = 3.6; then m = 0.18, / 0.19 = 0.947368: 3.6 - 0.1 (0.947368 + 1.8).
    np.testing.assert_allclose(actual[:, 0], [3.6, 3.325263], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "sgd"}, "optimiser 'sgd' is not one of adamw, adam_l2, radam"),
        ({"schedule": "step"}, "schedule 'step' is not one of cosine, linear, constant"),
    ],
)
def test_an_unknown_optimiser_or_schedule_lists_the_known(fields, message):
    with pytest.raises(ValueError, match=message):
        learner.optimiser(**({"name": "adamw", "learning_rate": 1.0, "updates": 1} | fields))


def test_metrics_for_the_log_are_floats_with_the_games_names():
    metrics = {"loss": jnp.float32(0.5), "agreement": jnp.array([0.25, 1.0])}
    rows = learner.host_metrics(metrics, ("pong", "freeway"))
    assert rows == {"loss": 0.5, "agreement/pong": 0.25, "agreement/freeway": 1.0}
    assert all(type(x) is float for x in rows.values())
