"""Weights merged without learning: numbers worked out by hand, and units put in order again."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import networks
from jaxdistill.learn import weight_merging, windows
from jaxdistill.learn.weight_merging import Merge, Seen, Slope, States
from jaxdistill.tasks.views import Vector


def tree(*numbers):
    """Parameters of two tensors, the last number alone in the second."""
    first, last = np.float32(numbers[:-1]), np.float32(numbers[-1:])
    return {"params": {"a": {"kernel": first}, "b": {"bias": last}}}


def flat(params):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)]).tolist()


def test_the_mean_and_sums_of_changes():
    one, two, three = tree(1, 2, 3), tree(3, -2, 0), tree(5, 6, 3)
    assert flat(weight_merging.mean([one, two, three])) == [3.0, 2.0, 2.0]
    # 1 + 0.5 (0 + 2 + 4), 2 + 0.5 (0 - 4 + 4), 3 + 0.5 (0 - 3 + 0)
    assert flat(weight_merging.task_arithmetic(one, [one, two, three], 0.5)) == [4.0, 2.0, 1.5]


def test_a_weight_counts_as_much_as_its_policy_depends_on_it():
    """Over their means, 2 and 20, the Fisher informations are 1, 2, 0 and 2, 1, 0."""
    merged = weight_merging.fisher_mean(
        [tree(3, 6, 1), tree(0, 0, 5)], [tree(2, 4, 0), tree(40, 20, 0)]
    )
    # 3 x 1/3, 6 x 2/3, and the mean of the third, which counts for nobody.
    np.testing.assert_allclose(flat(merged), [1.0, 4.0, 3.0], rtol=1e-6)
    nothing = tree(0, 0, 0)
    equal = weight_merging.fisher_mean([tree(3, 6, 1), tree(0, 0, 5)], [nothing, nothing])
    np.testing.assert_allclose(flat(equal), [1.5, 3.0, 3.0])


def test_a_taylor_step_is_its_equation():
    """rate (H + damping)^-1 (damping (v - w) - g), weight by weight."""
    slope = Slope(jnp.zeros(()), tree(2, -4, 1), tree(1, 3, 0))
    params, towards = tree(1, 1, 1), tree(3, 0, 2)
    step = weight_merging.taylor_step(params, towards, slope, damping=1.0, rate=0.5)
    # 1 + (2 - 2) / 4, 1 + (-1 + 4) / 8, 1 + (1 - 1) / 2
    np.testing.assert_allclose(flat(step), [1.0, 1.375, 1.0])
    # 1000 x 3: 1 + (6000 - 2) / 3001, 1 + (-3000 + 4) / 3003, 1 + (3000 - 1) / 3000
    known = weight_merging.taylor_step(params, towards, slope, damping=None)
    expected = [1 + 5998 / 3001, 1 - 2996 / 3003, 1 + 2999 / 3000]
    np.testing.assert_allclose(flat(known), expected, atol=1e-6)
    # The change (3, 4) of one tensor is cut to a length of 1, that of the other is short.
    level = Slope(jnp.zeros(()), tree(0, 0, 0), tree(0, 0, 0))
    cut = weight_merging.taylor_step(
        tree(0, 0, 0), tree(6, 8, 1), level, damping=1.0, rate=0.5, clip_norm=1.0
    )
    np.testing.assert_allclose(flat(cut), [0.6, 0.8, 0.5], rtol=1e-6)


def test_the_damping_is_a_thousand_times_the_largest_curvature():
    assert float(weight_merging.damping_of(tree(0.5, 2, 0.25))) == 2000.0
    assert float(weight_merging.damping_of(tree(0, 0, 0))) == pytest.approx(1e-5)


# Two games, 4 steps of 2 environments each, seen as one number; two actions, of which the second
# game has the second alone.
NETWORK, VIEW = networks.Network(convs=(), num_outputs=2), Vector(1)
STATES = np.float32([[[1, 2], [3, 4], [5, 6], [7, 8]], [[-1, -2], [-3, -4], [-5, -6], [-7, -8]]])
PLAYED = np.int32([[0, 1, 0, 1, 0, 1, 0, 1], [1] * 8])
REWARDS = np.float32([[0, 1, 0, 0, 0, 0, 9, 9], [1, 0, 0, 0, 2, 0, 9, 9]])
ENDED = np.array([[0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]], bool)


def seen(labels=None, usable=None):
    games, steps, envs = STATES.shape
    rows = [np.arange(8) if usable is None else np.asarray(x) for x in usable or (None, None)]
    window = windows.Window(
        frames=jnp.asarray(STATES[..., None]),
        ages=jnp.zeros(STATES.shape, jnp.uint8),
        labels=jnp.zeros((games, steps, envs, 2)) if labels is None else jnp.asarray(labels),
        rows=jnp.asarray([np.pad(x, (0, 8 - len(x))) for x in rows], jnp.int32),
        counts=jnp.asarray([len(x) for x in rows], jnp.int32),
        depth=1,
    )
    masks = jnp.asarray([[True, True], [False, True]])
    return Seen(window, masks, *map(jnp.asarray, (PLAYED, REWARDS, ENDED)))


def linear(*numbers):
    """Q(x) = kernel x + bias, from both kernels and both biases."""
    kernel, bias = np.float32([numbers[:2]]), np.float32(numbers[2:])
    return {"params": {"action": {"kernel": kernel, "bias": bias}}}


def td(merge, **options):
    return States(seen(), weight_merging.td_loss(NETWORK, VIEW, merge.discount), merge, **options)


def test_the_td_error_is_of_valid_actions_and_stops_at_ends():
    merge = Merge(discount=0.5, batch_size=6)
    states, params = td(merge), linear(0.5, -1.0, 0.0, 0.25)

    def q(x):
        return np.array([0.5 * x, -x + 0.25])

    wanted, gradients = [], []
    for game in (0, 1):
        errors, slopes = [], np.zeros(4)
        for row in range(6):  # the last two were not followed up
            x, after = STATES[game].ravel()[[row, row + 2]]
            action = PLAYED[game, row]
            best = q(after)[1] if game else q(after).max()
            target = REWARDS[game, row] + (0 if ENDED[game, row] else 0.5 * best)
            error = q(x)[action] - target
            errors.append(0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5)
            slopes[[action, 2 + action]] += np.clip(error, -1, 1) * np.array([x, 1])
        wanted.append(np.mean(errors))
        gradients.append(slopes / 6)
    for game in (0, 1):
        slope = states.slope(params, [game])
        assert float(slope.loss) == pytest.approx(wanted[game])
        assert states.loss(params, [game]) == pytest.approx(wanted[game])
        own = np.concatenate([gradients[game][2:], gradients[game][:2]])  # biases come first
        np.testing.assert_allclose(flat(slope.gradient), own, rtol=1e-5)
        np.testing.assert_allclose(flat(slope.curvature), own**2, rtol=1e-5)  # of one batch
    both = states.slope(params, [0, 1])
    assert float(both.loss) == pytest.approx(np.mean(wanted))
    # Over two batches: the mean of squares, not the square of the mean.
    halves = [states._value(params, states._seen, batch) for batch in states.batches([0, 1])]
    assert len(halves) == 2 and float(both.loss) == pytest.approx(np.mean(halves))
    grads = [jax.grad(states._value)(params, states._seen, b) for b in states.batches([0, 1])]
    squares = np.mean([np.square(flat(g)) for g in grads], axis=0)
    np.testing.assert_allclose(flat(both.curvature), squares, rtol=1e-5)


def test_batches_hold_equally_many_rows_of_each_game_and_each_once():
    merge, gone = Merge(batch_size=4), []
    loss = weight_merging.td_loss(NETWORK, VIEW, 0.9)
    states = States(
        seen(usable=([0, 1, 2, 3, 5, 7], [0, 4, 5, 6])), loss, merge, advance=gone.append
    )
    batches = states.batches([1, 0])
    rows = [(int(g), int(r)) for b in batches for g, r in zip(b.games, b.rows, strict=True)]
    # 6 and 7 are of the last step; game 1 has three rows left, so three of game 0 are taken.
    assert len(batches) == 1 and len(set(rows)) == 4
    assert {row for game, row in rows if game == 1} <= {0, 4, 5}
    assert {row for game, row in rows if game == 0} <= {0, 1, 2, 3, 5}
    assert states.batches([1, 0]) is batches and states.games == (0, 1)
    small = States(seen(usable=([0], [0])), loss, merge)
    assert [len(b.rows) for b in small.batches([0, 1])] == [2], "fewer rows than a batch are one"
    states.slope(linear(0, 0, 0, 0), [1, 0])
    assert gone == [4]
    other = States(seen(), loss, Merge(batch_size=12), seed=1).batches([0, 1])[0]
    assert (other.rows != States(seen(), loss, Merge(batch_size=12)).batches([0, 1])[0].rows).any()


def test_a_game_of_which_nothing_can_be_learnt_is_named():
    """Row 6 is of the last step, and nothing was seen after it."""
    merge, loss = Merge(), weight_merging.td_loss(NETWORK, VIEW, 0.9)
    for usable in ([6], []):
        with pytest.raises(ValueError, match=r"^pong: none of its 8 steps in 2 .*initial_steps$"):
            States(seen(usable=([0], usable)), loss, merge, names=["breakout", "pong"])
        with pytest.raises(ValueError, match=r"^game 2 of 2: none of its 8 steps"):
            States(seen(usable=([0], usable)), loss, merge)


def test_a_loss_against_labels_is_the_distillations_own():
    labels = np.random.default_rng(0).normal(size=(2, 4, 2, 2)).astype(np.float32)
    loss = weight_merging.imitation_loss(NETWORK, VIEW, "mse", 1.0)
    states = States(seen(labels), loss, Merge(batch_size=6))
    x, params = STATES[1].ravel()[:6], linear(9.0, -1.0, 9.0, 0.25)
    # In game 1 the second output alone counts.
    wanted = np.mean(np.square(-x + 0.25 - labels[1].reshape(8, 2)[:6, 1]))
    assert states.loss(params, [1]) == pytest.approx(wanted)


def test_the_fisher_information_of_a_policy():
    """Of a bias p (1 - p), of a kernel x^2 as much; nothing where there is one valid action."""
    world, count = seen(), 4096
    frames = jnp.full((2, count + 1, 1, 1), 2.0)
    window = dataclasses.replace(
        world.window,
        frames=frames,
        ages=jnp.zeros((2, count + 1, 1), jnp.uint8),
        rows=jnp.tile(jnp.arange(count + 1), (2, 1)),
        counts=jnp.asarray([count + 1] * 2),
    )
    params = linear(0.3, -0.2, 0.0, 0.1)  # outputs 0.6 and -0.3, over a temperature of 0.5
    loss = weight_merging.likelihood_loss(NETWORK, VIEW, 0.5)
    states = States(dataclasses.replace(world, window=window), loss, Merge(batch_size=16))
    found = flat(weight_merging.fisher(states, params, 0))
    p = 1 / (1 + np.exp(-1.8))
    np.testing.assert_allclose(found[:2], [4 * p * (1 - p)] * 2, rtol=0.2)  # 1 / 0.5^2
    np.testing.assert_allclose(found[2:], 4 * np.asarray(found[:2]), rtol=1e-4)
    assert flat(weight_merging.fisher(states, params, 1)) == [0.0] * 4


EXPERTS = {0: linear(1.0, 0.5, 0.0, 0.2), 1: linear(-0.5, 0.3, 0.1, 0.0), 2: None}


def test_htcl_draws_in_one_expert_after_another():
    merge = Merge(batch_size=4, damping=2.0, rate=0.7, clip_norm=0.4, catch_up_rounds=0)
    states, (one, two) = td(merge), (EXPERTS[0], EXPERTS[1])
    options = {"damping": 2.0, "rate": 0.7, "clip_norm": 0.4}

    def step(params, towards, games):
        slope = states.slope(params, games)
        return flat(weight_merging.taylor_step(params, towards, slope, **options))

    merged = weight_merging.htcl(states, {0: one, 1: two}, one, 0, merge)
    np.testing.assert_allclose(flat(merged), step(one, two, [0, 1]), rtol=1e-6)
    merged = weight_merging.htcl(states, {0: one, 1: two}, two, 1, merge)
    np.testing.assert_allclose(flat(merged), step(two, one, [1, 0]), rtol=1e-6)
    # Begun as none of them: both are drawn in, the first by its own states alone.
    fresh = linear(0.1, 0.2, 0.3, 0.4)
    slope = states.slope(fresh, [0])
    middle = weight_merging.taylor_step(fresh, one, slope, **options)
    merged = weight_merging.htcl(states, {0: one, 1: two}, fresh, None, merge)
    np.testing.assert_allclose(flat(merged), step(middle, two, [0, 1]), rtol=1e-6)


def test_catch_up_rounds_lower_the_loss_or_change_nothing():
    still = Merge(batch_size=4, damping=2.0, catch_up_rounds=0)
    one, two = EXPERTS[0], EXPERTS[1]

    def merged(**changes):
        merge = dataclasses.replace(still, **changes)
        states = td(merge)
        result = weight_merging.htcl(states, {0: one, 1: two}, one, 0, merge)
        return flat(result), states.loss(result, [0, 1])

    before, loss = merged()
    once, less = merged(catch_up_rounds=1, catch_up_rate=0.01)
    twice, least = merged(catch_up_rounds=2, catch_up_rate=0.01)
    assert least < less < loss and before != once != twice
    # So far that the loss rises: it is undone.
    assert merged(catch_up_rounds=3, catch_up_rate=50.0)[0] == before
    # The step goes towards a copy that has gone through all batches once, clipped at a norm of 10.
    states = td(dataclasses.replace(still, catch_up_rate=0.01))
    start = weight_merging.htcl(states, {0: one, 1: two}, one, 0, still)
    copy = flat(states.learnt(start, [0, 1]))
    moved = np.abs(np.subtract(copy, flat(start)))
    assert 0.02 < moved.max() < 0.0301, "three steps of Adam at 0.01"


def test_one_step_from_the_mean_and_several():
    merge = Merge(batch_size=4, damping=3.0, rate=0.8, rounds=2, round_decay=0.25)
    states, experts = td(merge), [EXPERTS[0], EXPERTS[1]]
    middle = np.mean([flat(x) for x in experts], axis=0)
    slope = states.slope(weight_merging.mean(experts), [0, 1])
    gradient, curvature = map(np.asarray, (flat(slope.gradient), flat(slope.curvature)))
    once = flat(weight_merging.taylor_one_shot(states, experts, 3.0))
    np.testing.assert_allclose(once, middle - gradient / (curvature + 3), rtol=1e-5)
    first = middle - 0.8 * gradient / (curvature + 3)
    slope = states.slope(linear(*first[2:], *first[:2]), [0, 1])
    gradient, curvature = map(np.asarray, (flat(slope.gradient), flat(slope.curvature)))
    second = first + 0.2 * (3 * (middle - first) - gradient) / (curvature + 3)
    found = flat(weight_merging.taylor_iterative(states, experts, merge))
    np.testing.assert_allclose(found, second, rtol=1e-5)


PICTURES = networks.Network(
    convs=(networks.ConvLayer(5, 4, 2), networks.ConvLayer(6, 3, 1)),
    hidden=(9,),
    head="dueling",
    action_hidden=(7,),
    value_hidden=(10,),
    num_outputs=4,
    layer_norm=True,
)
NUMBERS = networks.Network(convs=(), hidden=(11, 12), num_outputs=3)


@pytest.mark.parametrize(
    ("network", "shape", "names"),
    [
        (PICTURES, (2, 10, 10), ["conv1", "conv2", "fc1", "action_fc1", "value_fc1"]),
        (NUMBERS, (1, 6), ["fc1", "fc2"]),
    ],
    ids=("pictures", "numbers"),
)
def test_alignment_undoes_any_order_of_units(network, shape, names):
    rng = np.random.default_rng(3)
    wanted = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), shape))
    params = jax.tree.map(lambda x: 0.4 * rng.normal(size=x.shape).astype(np.float32), wanted)
    batches = rng.normal(size=(4, 16, *shape)).astype(np.float32)
    assert [layer.name for layer in weight_merging.hidden_layers(network)] == names
    sizes = {name: params["params"][name]["bias"].size for name in names}
    orders = {name: rng.permutation(size) for name, size in sizes.items()}
    copy = weight_merging.permuted(network, params, orders)
    for name in names:
        bias = params["params"][name]["bias"]
        np.testing.assert_array_equal(copy["params"][name]["bias"], bias[orders[name]])
    forward = jax.jit(functools.partial(networks.forward, network))
    outputs = [np.asarray(forward(x, batches[0])) for x in (params, copy)]
    np.testing.assert_allclose(*outputs, atol=1e-4)
    (back,) = weight_merging.aligned(network, params, [copy], batches)
    merged = weight_merging.mean([params, back])
    for tree in (back, merged):
        jax.tree.map(np.testing.assert_array_equal, tree, dict(params))
    # Without it the mean is another network.
    apart = forward(weight_merging.mean([params, copy]), batches[0])
    assert np.abs(apart - outputs[0]).max() > 0.1


def test_a_critic_that_is_not_run_is_left_as_it_is():
    network = NUMBERS.clone(head="actor_critic", value_hidden=(5,))
    names = [layer.name for layer in weight_merging.hidden_layers(network)]
    assert names == ["fc1", "fc2"]
    assert weight_merging.hidden_layers(network)[1].takers == ("action", "value_fc1")


@pytest.mark.parametrize("name", ["impala", "skills", "mlp_one_hot"])
def test_networks_of_other_parts_are_not_aligned(name):
    with pytest.raises(ValueError, match="convolutions and dense layers alone"):
        weight_merging.hidden_layers(networks.create(name))
