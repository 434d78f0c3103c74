"""Tests for networks made from others: for tasks, games and outputs, and by a torso."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import (
    ACTIONS,
    BOTH,
    CONTROLLERS,
    KNOWING,
    LANDERS,
    RESIDUAL,
    STREAMS,
    TINY,
    TINY_INPUT,
    forward,
    random_params,
    shapes_of,
    some_pixels,
    values_of,
)

from jaxdistill import networks, tasks
from jaxdistill.experts.expert import to_suite
from jaxdistill.networks import ConvLayer, Network, Stream
from jaxdistill.tasks import atari


def test_a_head_of_streams_is_refused_for_another_number_of_outputs():
    words = (
        r"other tasks than lander/standard, with its 4 outputs: its streams have outputs "
        r"\[0, 1, 2, 3, 4, 5, 7, 8, 6\]; expected each of 0..3 once"
    )
    with pytest.raises(ValueError, match=words):
        networks.for_tasks(networks.create("skills"), LANDERS)
    four = Network(convs=(), streams=(Stream(8, (0, 2)), Stream(8, (1, 3))), num_outputs=9)
    assert networks.for_tasks(four, LANDERS) == four.clone(num_outputs=4)


@pytest.mark.parametrize("name", ["dueling", "impala", "multi_task"])
def test_a_network_that_looks_at_screens_is_refused_where_there_are_none(name):
    with pytest.raises(
        ValueError,
        match=r"looks at screens, and lander/standard shows Vector\(size=8\); choose one of mlp, ",
    ) as caught:
        networks.for_tasks(networks.create(name), LANDERS)
    named = str(caught.value).partition("choose one of ")[2].split(", ")
    for other in named:
        networks.for_tasks(networks.create(other), LANDERS)
    assert {name for name in networks.NETWORKS if name.startswith("mlp")} <= set(named)


@pytest.mark.parametrize("network", KNOWING.values(), ids=KNOWING)
def test_what_plays_one_game_is_an_ordinary_network(network):
    params, x = random_params(network, TINY_INPUT), some_pixels(4, *TINY_INPUT)
    whole = [np.asarray(forward(network, params, x, game)) for game in (0, 1)]
    assert np.abs(whole[0] - whole[1]).max() > 0.1
    for game in (0, 1):
        alone, own, actions = networks.for_one_game(network, params, game)
        assert not alone.knows_game
        assert jax.tree.map(jnp.shape, own) == jax.tree.map(
            jnp.shape, dict(shapes_of(alone, TINY_INPUT))
        )
        assert actions == (ACTIONS[game] if network.controllers else tuple(range(5)))
        outputs = np.asarray(to_suite(forward(alone, own, x), actions, atari.NUM_ACTIONS))
        np.testing.assert_allclose(outputs[:, :5], whole[game], rtol=1e-3, atol=1e-3)


def test_a_controller_is_not_mistaken_for_another_whose_number_begins_alike():
    network = CONTROLLERS.clone(game_actions=((0, 1),) * 11)
    params = random_params(network, TINY_INPUT)
    _, alone, _ = networks.for_one_game(network, params, 0)
    assert set(alone["params"]) == {"conv1", "conv2", "fc1", "action_fc1", "action"}
    np.testing.assert_array_equal(
        alone["params"]["action"]["kernel"], params["params"]["controller1"]["kernel"]
    )


def test_a_network_that_does_not_know_its_game_is_the_same_for_all(tiny_params):
    for names, outputs in ((["pong"], 18), (["pong", "breakout"], 18), (["lander/heavy"], 4)):
        chosen = [tasks.get(name) for name in names]
        flat = TINY.clone(convs=())
        assert networks.for_tasks(flat, chosen) == flat.clone(num_outputs=outputs)
    network, params, actions = networks.for_one_game(TINY, tiny_params, 3)
    assert (network, params, actions) == (TINY, tiny_params, (0, 1, 2, 3, 4))


@pytest.mark.parametrize(
    ("network", "outputs"),
    [
        (TINY, (3, 0)),
        (STREAMS, (0, 1, 2, 3, 4)),
        (STREAMS, (4, 1, 3)),
        (STREAMS, (3, 2)),
        (STREAMS.clone(layer_norm=True), (3, 1)),
        (
            STREAMS.clone(head="actor_critic", value_hidden=(7,)).clone(
                activation=("relu", "relu", "relu", "tanh", "elu", "sigmoid")
            ),
            (1, 2),
        ),
    ],
    ids=str,
)
def test_a_network_of_some_outputs_gives_those(network, outputs):
    params, x = random_params(network, TINY_INPUT), some_pixels(4, *TINY_INPUT)
    own, kept = networks.with_outputs(network, params, outputs)
    assert jax.tree.map(jnp.shape, kept) == jax.tree.map(
        jnp.shape, dict(shapes_of(own, TINY_INPUT))
    )
    whole = np.asarray(forward(network, params, x))
    np.testing.assert_allclose(forward(own, kept, x), whole[:, outputs], rtol=1e-5, atol=1e-6)
    if network.head == "actor_critic":
        values = [values_of(n, p, x) for n, p in ((network, params), (own, kept))]
        np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-6)


def test_a_wider_network_begins_by_seeing_all_that_the_other_sees():
    narrow = TINY.clone(hidden=())
    wide = narrow.clone(convs=(ConvLayer(6, 8, 4), ConvLayer(7, 4, 2)))
    assert networks.may_take_torso(wide, narrow) and networks.may_take_torso(narrow, narrow)
    taken, own = random_params(narrow, TINY_INPUT), random_params(wide, TINY_INPUT)
    begun = networks.with_torso(own, taken)
    for name in ("conv1", "conv2"):
        for part in ("kernel", "bias"):
            new, fresh = begun["params"][name][part][..., 4:], own["params"][name][part][..., 4:]
            np.testing.assert_array_equal(new, fresh, err_msg="the others are its own, and see all")
    assert begun["params"]["action"] is own["params"]["action"]

    # Its outputs are the narrow one's, once they are made of the features that both have.
    head = taken["params"]["action"]
    kernel = jnp.pad(head["kernel"], ((0, 3), (0, 0)))  # a pixel of 4 features, here of 7
    alike = {"params": begun["params"] | {"action": head | {"kernel": kernel}}}
    pixels = np.random.default_rng(0).integers(0, 256, (2, *TINY_INPUT), dtype=np.uint8)
    np.testing.assert_allclose(
        forward(wide, alike, pixels), forward(narrow, taken, pixels), rtol=1e-5, atol=1e-5
    )


def _convolved(params, strides, pixels):
    """The features of every layer, `(B, rows, columns, F)` each."""
    x, features = jnp.moveaxis(pixels, 1, -1) / 255.0, []
    for i, stride in enumerate(strides, 1):
        layer = params["params"][f"conv{i}"]
        x = jax.lax.conv_general_dilated(
            x,
            layer["kernel"],
            (stride, stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + layer["bias"])
        features.append(x)
    return features


def test_ten_layers_side_by_side_follow_each_other_whatever_the_order_of_their_names():
    widths = ((1, 2) * 5, (2, 1) * 5)
    others = [
        TINY.clone(hidden=(), convs=tuple(ConvLayer(width, 1, 1) for width in each))
        for each in widths
    ]
    own = TINY.clone(hidden=(), convs=networks.side_by_side(*others))
    assert len(own.convs) == 10 and networks.may_take_torso(own, *others)
    # Positive: of so few features some layer's would be 0 all over.
    taken = [jax.tree.map(jnp.abs, random_params(other, TINY_INPUT)) for other in others]
    by_name = {"params": dict(sorted(random_params(own, TINY_INPUT)["params"].items()))}
    begun, pixels = networks.with_torso(by_name, *taken), some_pixels(2, *TINY_INPUT)
    both = _convolved(begun, (1,) * 10, pixels)[-1]
    alone = [_convolved(params, (1,) * 10, pixels)[-1] for params in taken]
    assert min(np.abs(x).max() for x in alone) > 0
    np.testing.assert_allclose(both, np.concatenate(alone, axis=-1), rtol=1e-4, atol=1e-5)


def test_a_student_begins_by_seeing_what_several_experts_see_side_by_side():
    """One of larger kernels, one of smaller and one of fewer layers, in more features."""
    deep, shape = TINY.clone(hidden=()), (3, 36, 36)
    others = [
        deep,
        deep.clone(convs=(ConvLayer(2, 8, 4), ConvLayer(3, 3, 2))),
        deep.clone(convs=(ConvLayer(1, 8, 4),)),
    ]
    own = deep.clone(convs=(ConvLayer(9, 8, 4), ConvLayer(8, 4, 2)))
    assert networks.may_take_torso(own, *others)
    taken = [random_params(other, shape) for other in others]
    fresh = random_params(own, shape)
    begun = networks.with_torso(fresh, *taken)
    pixels = some_pixels(2, *shape)
    first, second = _convolved(begun, (4, 2), pixels)
    for index, (start, then) in enumerate(((0, 0), (4, 4), (6, None))):
        theirs = _convolved(taken[index], (4, 2)[: len(others[index].convs)], pixels)
        features = theirs[0].shape[-1]
        np.testing.assert_allclose(
            first[..., start : start + features], theirs[0], rtol=1e-4, atol=1e-5
        )
        if then is not None:
            rows, columns, features = theirs[1].shape[1:]
            same = second[:, :rows, :columns, then : then + features]
            np.testing.assert_allclose(
                same, theirs[1][:, : same.shape[1], : same.shape[2]], rtol=1e-4, atol=1e-4
            )
    for name, known in (("conv1", 7), ("conv2", 7)):
        for part in ("kernel", "bias"):
            new = begun["params"][name][part][..., known:]
            np.testing.assert_array_equal(new, fresh["params"][name][part][..., known:])
    assert not networks.may_take_torso(
        own.clone(convs=(ConvLayer(6, 8, 4), ConvLayer(8, 4, 2))), *others
    )
    assert not networks.may_take_torso(
        own.clone(convs=(ConvLayer(9, 8, 4), ConvLayer(6, 4, 2))), *others
    )
    padded = own.clone(convs=(ConvLayer(9, 8, 4), ConvLayer(8, 4, 2, 1)))
    assert not networks.may_take_torso(padded, *others)


@pytest.mark.parametrize(
    ("own", "other"),
    [
        (TINY, TINY.clone(convs=(ConvLayer(6, 8, 4), ConvLayer(4, 4, 2)))),  # narrower
        (TINY.clone(convs=(ConvLayer(6, 8, 4), ConvLayer(4, 3, 2))), TINY),  # another kernel
        (TINY.clone(convs=(ConvLayer(6, 8, 4),)), TINY),
        (TINY.clone(convs=(ConvLayer(6, 8, 4), ConvLayer(4, 4, 2)), activation="elu"), TINY),
        (BOTH.clone(convs=(ConvLayer(6, 8, 4), ConvLayer(4, 4, 2))), BOTH),  # means over channels
        (RESIDUAL.clone(residual=(6,)), RESIDUAL),
        (Network(convs=(), hidden=(4,)), Network(convs=(), hidden=(4,))),  # has none
    ],
)
def test_convolutions_that_would_see_otherwise_are_not_taken(own, other):
    assert not networks.may_take_torso(own, other)
