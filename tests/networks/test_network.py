"""Tests for the network itself: names, arithmetic by hand, and what cannot be built."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import (
    ACTIONS,
    BOTH,
    CONTROLLERS,
    EMBEDDING,
    ONE_HOT,
    RESIDUAL,
    STREAMS,
    TINY,
    TINY_INPUT,
    applied,
    forward,
    fresh_params,
    random_params,
    shapes_of,
    some_pixels,
)

from jaxdistill import networks
from jaxdistill.networks import Atoms, ConvLayer, Network, Stream


def test_names_and_shapes_of_the_residual_network():
    network = networks.create("impala")
    shapes = shapes_of(network, (4, 84, 84))["params"]

    def section(inputs, features):
        layers = {"conv": (3, 3, inputs, features)}
        for block in ("block1", "block2"):
            for i in (1, 2):
                layers[f"{block}_conv{i}"] = (3, 3, features, features)
        return layers

    # 84 -> 42 -> 21 -> 11 pixels.
    wanted = {
        "section1": section(4, 16),
        "section2": section(16, 32),
        "section3": section(32, 32),
        "fc1": (11 * 11 * 32, 256),
        "action": (256, 18),
        "value": (256, 1),
    }
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(
        lambda shape: {"kernel": shape, "bias": shape[-1:]},
        wanted,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    # Sections 592 + 4 * 2320, 4640 + 4 * 9248 and 9248 + 4 * 9248; then the dense layers.
    assert networks.count({"params": shapes}) == (
        9_872 + 41_632 + 46_240 + (3872 * 256 + 256) + 257 * 19
    )


def test_names_and_shapes_of_the_dueling_network():
    shapes = flax.traverse_util.flatten_dict(
        shapes_of(networks.create("dueling"), (4, 84, 84)), sep="/"
    )
    assert {name: (x.shape, str(x.dtype)) for name, x in shapes.items()} == {
        "params/conv1/kernel": ((8, 8, 4, 32), "float32"),
        "params/conv1/bias": ((32,), "float32"),
        "params/conv2/kernel": ((4, 4, 32, 64), "float32"),
        "params/conv2/bias": ((64,), "float32"),
        "params/conv3/kernel": ((3, 3, 64, 64), "float32"),
        "params/conv3/bias": ((64,), "float32"),
        "params/action_fc1/kernel": ((3136, 512), "float32"),
        "params/action_fc1/bias": ((512,), "float32"),
        "params/action/kernel": ((512, 18), "float32"),
        "params/action/bias": ((18,), "float32"),
        "params/value_fc1/kernel": ((3136, 512), "float32"),
        "params/value_fc1/bias": ((512,), "float32"),
        "params/value/kernel": ((512, 1), "float32"),
        "params/value/bias": ((1,), "float32"),
    }


def test_an_actor_critic_is_born_with_its_critic():
    shapes = shapes_of(TINY.clone(head="actor_critic", value_hidden=(7,)), TINY_INPUT)["params"]
    assert shapes["value_fc1"]["kernel"].shape == (16, 7)
    assert shapes["value"]["kernel"].shape == (7, 1)
    assert "value" not in shapes_of(TINY, TINY_INPUT)["params"]


@pytest.mark.parametrize("convs", [TINY.convs, ()], ids=["convolutional", "mlp"])
def test_pixels_are_divided_by_255_and_floats_taken_as_they_are(convs):
    network = TINY.clone(convs=convs)
    shape = TINY_INPUT if convs else (12,)
    params = fresh_params(network, shape)
    pixels = some_pixels(3, *shape)
    floats = pixels.astype(jnp.float32)
    scaled = applied(network, params, floats / 255)
    np.testing.assert_allclose(applied(network, params, pixels), scaled, rtol=1e-4, atol=1e-6)
    unscaled = applied(network, params, floats)
    assert np.abs(np.asarray(unscaled) - np.asarray(scaled)).max() > 0.1


def test_dueling_subtracts_the_mean_advantage_over_all_outputs():
    network = Network(convs=(), head="dueling", num_outputs=3)
    params = {
        "params": {
            "action": {
                "kernel": jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]]),
                "bias": jnp.array([0.0, 0.0, 2.0]),
            },
            "value": {"kernel": jnp.array([[10.0], [1.0]]), "bias": jnp.array([0.5])},
        }
    }
    x = jnp.array([[1.0, 2.0]])
    # Advantages (1, 2, 2 + 2 + 2 = 6), mean 3; value 10 + 2 + 0.5 = 12.5.
    np.testing.assert_allclose(network.apply(params, x), [[10.5, 11.5, 15.5]], rtol=1e-6)
    _, values = networks.forward_with_values(network, params, x)
    np.testing.assert_allclose(values, [12.5], rtol=1e-6)


def test_the_streams_of_the_head_share_hidden_and_have_their_own_layers():
    network = Network(
        convs=(), hidden=(2,), head="actor_critic", action_hidden=(1,), value_hidden=(1,)
    ).clone(num_outputs=2)

    def dense(kernel, bias):
        return {"kernel": jnp.array(kernel), "bias": jnp.array(bias)}

    params = {
        "params": {
            "fc1": dense([[1.0, -1.0]], [0.0, 0.0]),
            "action_fc1": dense([[2.0], [1.0]], [1.0]),
            "action": dense([[1.0, 3.0]], [0.0, -1.0]),
            "value_fc1": dense([[1.0], [5.0]], [0.5]),
            "value": dense([[4.0]], [1.0]),
        }
    }
    # x = 3: shared relu (3, -3) -> (3, 0). Actions: relu(6 + 1) = 7 -> (7, 20). Value:
    # relu(3 + 0.5) = 3.5 -> 15. x = -2: shared (0, 2); actions 2 + 1 = 3 -> (3, 8); value
    # 10 + 0.5 = 10.5 -> 43.
    x = jnp.array([[3.0], [-2.0]])
    np.testing.assert_allclose(network.apply(params, x), [[7.0, 20.0], [3.0, 8.0]])
    _, values = networks.forward_with_values(network, params, x)
    np.testing.assert_allclose(values, [15.0, 43.0])


def _dense(kernel, bias):
    return {"kernel": jnp.array(kernel), "bias": jnp.array(bias)}


STREAMS_BY_HAND = {
    "fc1": _dense([[1.0, -1.0]], [0.0, 0.0]),
    "stream1_fc1": _dense([[2.0], [1.0]], [1.0]),
    "stream1": _dense([[1.0, 3.0]], [0.0, -1.0]),
    "stream2_fc1": _dense([[1.0], [0.5]], [-1.0]),
    "stream2": _dense([[0.25]], [0.5]),
    "value_fc1": _dense([[1.0], [5.0]], [0.5]),
    "value": _dense([[4.0]], [1.0]),
}


def test_the_streams_of_a_head_by_hand():
    network = Network(convs=(), hidden=(2,), head="actor_critic", value_hidden=(1,)).clone(
        streams=(Stream(1, (2, 0)), Stream(1, (1,), bounded=True)), num_outputs=3
    )
    params = {"params": STREAMS_BY_HAND}
    # x = 3: shared relu (3, -3) -> (3, 0). First stream: relu(6 + 1) = 7 -> 7 at output 2, 20 at 0.
    # Second: relu(3 - 1) = 2 -> 0.5 + 0.5 = 1 -> tanh. Value: relu(3 + 0.5) = 3.5 -> 15. x = -2:
    # shared (0, 2); 2 + 1 = 3 -> 3 and 8; relu(1 - 1) = 0 -> 0.5 -> tanh; 10 + 0.5 -> 43.
    x = jnp.array([[3.0], [-2.0]])
    wanted = [[20.0, 0.761594, 7.0], [8.0, 0.462117, 3.0]]
    np.testing.assert_allclose(network.apply(params, x), wanted, rtol=1e-6)
    outputs, values = networks.forward_with_values(network, params, x)
    np.testing.assert_allclose(outputs, wanted, rtol=1e-6)
    np.testing.assert_allclose(values, [15.0, 43.0])
    free = network.clone(streams=(Stream(1, (2, 0)), Stream(1, (1,))))
    np.testing.assert_allclose(free.apply(params, x), [[20.0, 1.0, 7.0], [8.0, 0.5, 3.0]])


def test_every_stream_has_an_activation_of_its_own():
    network = Network(convs=(), hidden=(2,), head="actor_critic", value_hidden=(1,)).clone(
        streams=(Stream(1, (2, 0)), Stream(1, (1,))),
        num_outputs=3,
        activation=("relu", "none", "tanh", "sigmoid"),
    )
    params = {"params": STREAMS_BY_HAND}
    # x = -5: shared (0, 5); 5 + 1 = 6 -> 6 and 17; 2.5 - 1 = 1.5, tanh 0.905148, a quarter of it
    # and 0.5; 25 + 0.5 through the sigmoid is 1 -> 5. x = 0: shared (0, 0); 1 -> 1 and 2; tanh(-1);
    # sigmoid(0.5) = 0.622459.
    x = jnp.array([[-5.0], [0.0]])
    outputs, values = networks.forward_with_values(network, params, x)
    np.testing.assert_allclose(outputs, [[17.0, 0.726287, 6.0], [2.0, 0.309601, 1.0]], rtol=1e-5)
    np.testing.assert_allclose(values, [5.0, 3.489837], rtol=1e-5)
    with pytest.raises(ValueError, match="3 activations for 4 layers"):
        network.clone(activation=("relu", "none", "tanh")).apply(params, x)


def test_layer_norm_of_streams_is_over_the_units_of_each():
    network = STREAMS.clone(layer_norm=True, convs=(), activation="none")
    params = random_params(network, (12,))
    own = {"stream1_fc1", "stream1_fc_norm1", "stream1"}
    own |= {name.replace("1", "2", 1) for name in own}
    assert set(params["params"]) == {"fc1", "fc_norm1"} | own
    # What comes out of the first stream is scale * normal + shift, through its last layer.
    layers = params["params"]
    x = np.random.default_rng(1).normal(size=(4, 12)).astype(np.float32)

    def normal(x, layer):
        x = x @ layers[f"{layer}_fc1"]["kernel"] + layers[f"{layer}_fc1"]["bias"]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * layers[f"{layer}_fc_norm1"]["scale"] + layers[f"{layer}_fc_norm1"]["bias"]

    shared = x @ layers["fc1"]["kernel"] + layers["fc1"]["bias"]
    shared = (shared - shared.mean(-1, keepdims=True)) / np.sqrt(shared.var(-1, keepdims=True))
    shared = shared * layers["fc_norm1"]["scale"] + layers["fc_norm1"]["bias"]
    wanted = normal(shared, "stream1") @ layers["stream1"]["kernel"] + layers["stream1"]["bias"]
    actual = np.asarray(network.apply(params, x))[:, [4, 0]]
    np.testing.assert_allclose(actual, wanted, rtol=1e-3, atol=1e-3)


def test_layer_norm_stands_before_the_activation():
    network = Network(convs=(), hidden=(3,), num_outputs=3, layer_norm=True)
    params = {
        "params": {
            "fc1": {"kernel": jnp.array([[1.0, 2.0, 6.0]]), "bias": jnp.zeros(3)},
            "fc_norm1": {"scale": jnp.array([1.0, 1.0, 2.0]), "bias": jnp.array([0.0, 0.5, 0.0])},
            "action": {"kernel": jnp.eye(3), "bias": jnp.zeros(3)},
        }
    }
    # (1, 2, 6): mean 3, variance (4 + 1 + 9) / 3 = 14/3, deviation 2.160247. Normalised (-0.925820,
    # -0.462910, 1.388730); scaled and shifted (.., 0.037090, 2.777460); the first is cut by relu.
    actual = network.apply(params, jnp.array([[1.0], [100.0]]))
    np.testing.assert_allclose(actual, [[0.0, 0.037090, 2.777460]] * 2, rtol=1e-4, atol=1e-5)


def test_layer_norm_of_convolutions_is_over_the_channels_of_each_pixel():
    network = Network(convs=(ConvLayer(4, 1),), num_outputs=2, layer_norm=True, activation="none")
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    params = fresh_params(network, x.shape[1:])
    kernel = np.asarray(params["params"]["conv1"]["kernel"])[0, 0]
    pixels = np.einsum("bchw,cf->bhwf", x, kernel)
    normal = (pixels - pixels.mean(-1, keepdims=True)) / np.sqrt(pixels.var(-1, keepdims=True))
    features = applied(network, params, x, "features")
    np.testing.assert_allclose(features, normal.reshape(2, -1), rtol=1e-3, atol=1e-3)
    assert set(params["params"]) == {"conv1", "conv_norm1", "action"}


def test_a_residual_section_by_hand():
    network = Network(convs=(), residual=(1,), num_outputs=1)

    def dot(weight, bias):
        """A convolution that only scales and shifts."""
        kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(weight)
        return {"kernel": kernel, "bias": jnp.array([bias])}

    section = {
        "conv": dot(1.0, 1.0),
        "block1_conv1": dot(2.0, -1.0),
        "block1_conv2": dot(-3.0, 0.0),
        "block2_conv1": dot(7.0, 5.0),
        "block2_conv2": dot(4.0, 0.5),
    }
    x = jnp.array([[[[0.0, -3.0], [2.0, 3.0]]]])
    # Shifted by 1, the maximum is 4. First block: relu(2 * 4 - 1) = 7, and 4 - 3 * 7 = -17. Second:
    # relu(-17) = 0, relu(7 * 0 + 5) = 5, and -17 + 4 * 5 + 0.5 = 3.5.
    params = {"params": {"section1": section}}
    np.testing.assert_allclose(network.apply(params, x, method="features"), [[3.5]])
    section["block2_conv2"] = dot(4.0, -5.0)  # -2, which the last activation cuts
    np.testing.assert_allclose(network.apply(params, x, method="features"), [[0.0]])


def test_layer_norm_stands_before_every_activation_of_a_section():
    network = RESIDUAL.clone(layer_norm=True, activation="none")
    params = random_params(network, TINY_INPUT)
    assert {name for name in params["params"]["section1"] if "norm" in name} == {
        f"block{block}_norm{i}" for block in (1, 2) for i in (1, 2)
    }
    params["params"]["section_norm1"] = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
    features = applied(network, params, some_pixels(2, *TINY_INPUT), "features")
    features = np.asarray(features).reshape(2, 10, 10, 4)
    np.testing.assert_allclose(features.mean(-1), 0, atol=1e-4)
    np.testing.assert_allclose(features.std(-1), 1, atol=0.02)


def test_a_categorical_head_by_hand():
    """Logits 0 and log 3 of the returns -1 and 1: probabilities 1/4 and 3/4, a mean of 1/2."""
    network = Network(convs=(), num_outputs=2, atoms=Atoms(-1.0, 1.0, 2))
    bias = jnp.array([0.0, np.log(3.0), 0.0, 0.0])
    params = {"params": {"action": {"kernel": jnp.zeros((1, 4)), "bias": bias}}}
    np.testing.assert_allclose(network.apply(params, jnp.ones((1, 1))), [[0.5, 0.0]], atol=1e-6)
    alone, kept = networks.with_outputs(network, params, [1])
    np.testing.assert_allclose(alone.apply(kept, jnp.ones((1, 1))), [[0.0]], atol=1e-6)
    # Dueling: advantages less their mean, (0, log 3) / 2 and its opposite, beside (0, log 3).
    dueling = network.clone(head="dueling")
    value = {"kernel": jnp.zeros((1, 2)), "bias": bias[:2]}
    params = {"params": {**params["params"], "value": value}}
    first, second = 3**1.5, 3**0.5
    wanted = [[(x - 1) / (x + 1) for x in (first, second)]]
    np.testing.assert_allclose(dueling.apply(params, jnp.ones((1, 1))), wanted, atol=1e-6)
    with pytest.raises(ValueError, match="a categorical head has no state value"):
        networks.forward_with_values(dueling, params, jnp.ones((1, 1)))


def test_implicit_quantiles_by_hand():
    """Features 1 and 2, times (1, 1) and (3, -1): relu of the sums 3 and 1, whose mean is 2."""
    network = Network(convs=(), hidden=(1,), num_outputs=1, fractions=2)
    dense = {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}
    last = {"kernel": jnp.full((1, 1), 10.0), "bias": jnp.ones(1)}
    vectors = jnp.array([[1.0, 1.0], [3.0, -1.0]])
    params = {"params": {"fractions": {"vectors": vectors}, "fc1": dense, "action": last}}
    np.testing.assert_allclose(network.apply(params, jnp.array([[1.0, 2.0]])), [[21.0]])


def test_pixels_are_normalised_each_by_itself():
    network = Network(convs=(ConvLayer(1, 1),), num_outputs=1, input_clip=2.0, activation="none")
    identity = {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.zeros(1)}
    own = {"mean": jnp.array([[[0.5, 0.5, 1.0]]]), "scale": jnp.array([[[1.0, 10.0, 1.0]]])}
    params = {"params": {"input": own, "conv1": identity}}
    shown = jnp.array([[[[255, 255, 0]]]], jnp.uint8)
    features = network.apply(params, shown, method="features")
    np.testing.assert_allclose(features, [[0.5, 2.0, -1.0]])  # 5 is cut to 2


def test_controllers_by_hand():
    network = Network(convs=(), controllers=True, action_hidden=(1,), num_outputs=5)
    network = network.clone(game_actions=ACTIONS)

    def dense(kernel, bias):
        return {"kernel": jnp.array(kernel), "bias": jnp.array(bias)}

    params = {
        "params": {
            "controller1_fc1": dense([[2.0]], [1.0]),
            "controller1": dense([[1.0, -1.0, 3.0]], [0.0, 5.0, 0.0]),
            "controller2_fc1": dense([[-1.0]], [2.5]),
            "controller2": dense([[2.0, 4.0]], [0.0, 1.0]),
        }
    }
    # The first game, 2 * 3 + 1 = 7: (7, 5 - 7, 21) for actions 0, 1, 4. The second, 2.5 - 2 = 0.5:
    # (1, 3) for actions 3, 2; and with 3, relu(2.5 - 3) = 0: (0, 1).
    x, rows = jnp.array([[3.0], [2.0], [3.0]]), jnp.array([0, 1, 1])
    wanted = [[7.0, -2.0, 0.0, 0.0, 21.0], [0.0, 0.0, 3.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]]
    np.testing.assert_allclose(network.apply(params, x, rows), wanted)
    np.testing.assert_allclose(network.apply(params, x, 1)[1:], wanted[1:])  # one for all rows


def test_a_task_embedding_by_hand():
    network = Network(convs=(), task_embedding=1, num_outputs=2, game_actions=ACTIONS)
    params = {
        "params": {
            "task_embedding": {"embedding": jnp.array([[1.0], [-2.0]])},
            "action": {"kernel": jnp.array([[1.0, 0.0], [10.0, 1.0]]), "bias": jnp.array([0.5, 0])},
        }
    }
    # (3, 1) and (3, -2) times the kernel, and 0.5.
    actual = network.apply(params, jnp.array([[3.0], [3.0]]), jnp.array([0, 1]))
    np.testing.assert_allclose(actual, [[13.5, 1.0], [-16.5, -2.0]])


def test_a_one_hot_vector_by_hand():
    network = Network(convs=(), num_outputs=2, one_hot=True, game_actions=((0,), (1,)))
    kernel = jnp.array([[1.0, 0.0], [10.0, 1.0], [-2.0, 3.0]])
    params = {"params": {"action": {"kernel": kernel, "bias": jnp.array([0.5, 0])}}}
    # (3, 1, 0) and (3, 0, 1) times the kernel, and 0.5.
    actual = network.apply(params, jnp.array([[3.0], [3.0]]), jnp.array([0, 1]))
    np.testing.assert_allclose(actual, [[13.5, 1.0], [1.5, 3.0]])


def test_rows_of_a_game_teach_its_own_controller_and_what_is_shared():
    params, x = random_params(CONTROLLERS, TINY_INPUT), some_pixels(6, *TINY_INPUT)

    @jax.jit
    def gradient(rows):
        return jax.grad(lambda p: networks.forward(CONTROLLERS, p, x, rows).sum())(params)

    def taught(rows):
        layers = gradient(jnp.array(rows))["params"].items()
        return {name for name, layer in layers if any(np.any(leaf) for leaf in layer.values())}

    shared = {"conv1", "conv2", "fc1"}
    one, two = ({f"controller{i}", f"controller{i}_fc1"} for i in (1, 2))
    assert taught([0] * 6) == shared | one
    assert taught([1] * 6) == shared | two
    assert taught([0, 1] * 3) == shared | one | two


def test_features_are_flattened_by_row_column_channel():
    network = Network(convs=(ConvLayer(2, 1),), num_outputs=1, activation="none")
    x = jnp.arange(8.0).reshape(1, 2, 2, 2)  # channel 0 holds 0..3, channel 1 holds 4..7
    params = fresh_params(network, x.shape[1:])
    params["params"]["conv1"]["kernel"] = jnp.eye(2).reshape(1, 1, 2, 2)
    features = applied(network, params, x, "features")
    np.testing.assert_allclose(features, [[0, 4, 1, 5, 2, 6, 3, 7]])


def test_a_bfloat16_torso_keeps_float32_parameters_and_outputs(tiny_params):
    network = TINY.clone(dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(shapes_of(network, TINY_INPUT))} == {
        jnp.dtype("float32")
    }
    x = some_pixels(2, *TINY_INPUT)
    assert applied(network, tiny_params, x, "features").dtype == jnp.bfloat16
    outputs, precise = (applied(n, tiny_params, x) for n in (network, TINY))
    assert outputs.dtype == jnp.float32
    assert 0 < np.abs(np.asarray(outputs - precise)).max() < 0.02


@pytest.mark.parametrize("network", [BOTH, RESIDUAL, STREAMS], ids=["both", "residual", "streams"])
def test_every_network_computes_in_bfloat16(network):
    rough = network.clone(dtype=networks.create("net3", "bfloat16").dtype)
    assert {x.dtype for x in jax.tree.leaves(shapes_of(rough, TINY_INPUT))} == {
        jnp.dtype("float32")
    }
    params, x = random_params(network, TINY_INPUT), some_pixels(9, *TINY_INPUT)
    assert applied(rough, params, x, "features").dtype == jnp.bfloat16
    outputs, precise = (np.asarray(forward(n, params, x, 1)) for n in (rough, network))
    assert outputs.dtype == np.float32
    assert 0 < np.abs(outputs - precise).max() < 0.05 * np.abs(precise).max()


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (TINY.clone(head="duelling"), TINY_INPUT, "'duelling' is not one of linear, dueling"),
        (TINY.clone(activation="swish"), TINY_INPUT, "'swish' is not one of elu"),
        (CONTROLLERS.clone(head="dueling"), TINY_INPUT, "controllers have a linear head"),
        (CONTROLLERS.clone(game_actions=()), TINY_INPUT, "need the games; see for_tasks"),
        (EMBEDDING.clone(one_hot=True), TINY_INPUT, "a learnt vector per game or a one-hot one"),
        (ONE_HOT.clone(game_actions=()), TINY_INPUT, "need the games; see for_tasks"),
        (STREAMS.clone(head="dueling"), TINY_INPUT, "has a dueling head or streams, not both"),
        (STREAMS.clone(action_hidden=(4,)), TINY_INPUT, "has action_hidden or streams, not both"),
        (
            STREAMS.clone(controllers=True, game_actions=ACTIONS),
            TINY_INPUT,
            "has controllers or streams, not both",
        ),
        (
            STREAMS.clone(num_outputs=6),
            TINY_INPUT,
            r"\[4, 0, 2, 1, 3\]; expected each of 0..5 once",
        ),
        (
            STREAMS.clone(streams=(Stream(3, (4, 0, 2)), Stream(2, (2, 1)))),
            TINY_INPUT,
            r"\[4, 0, 2, 2, 1\]; expected each of 0..4 once",
        ),
        (
            STREAMS.clone(streams=(*STREAMS.streams, Stream(3, ()))),
            TINY_INPUT,
            "a stream has no outputs",
        ),
        (TINY, (20, 20), r"takes \(B, C, H, W\), got shape \(1, 20, 20\)"),
        (TINY, (3, 20, 7), "8x8 convolution does not fit an input of 20x7"),
    ],
)
def test_what_cannot_be_built_says_why(network, shape, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(network, shape)
