"""Tests for the networks: sizes, names, arithmetic by hand, and the CPU's own convolution."""

import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import networks
from jaxdistill.networks import ConvLayer, Network

TINY = Network(convs=(ConvLayer(4, 8, 4), ConvLayer(4, 4, 2)), hidden=(16,), num_outputs=5)
TINY_INPUT = (3, 20, 20)


def _init(network, shape):
    return jax.jit(lambda key: networks.init(network, key, shape))(jax.random.key(0))


def _apply(network, params, x, method=None):
    return jax.jit(lambda p, x: network.apply(p, x, method=method))(params, x)


def _pixels(*shape):
    return jnp.asarray(np.random.default_rng(1).integers(0, 256, shape), jnp.uint8)


@pytest.fixture(scope="module")
def tiny_params():
    return _init(TINY, TINY_INPUT)


def _shapes(network, observation_shape):
    key = jax.random.key(0)
    return jax.eval_shape(lambda: networks.init(network, key, observation_shape))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("dueling", 3_300_019),
        ("nature", 1_693_362),
        ("net1", 427_874),
        ("net2", 113_346),
        ("net3", 61_954),
    ],
)
def test_parameter_counts_are_the_published_ones(name, parameters):
    assert networks.count(_shapes(networks.create(name), (4, 84, 84))) == parameters


def test_names_and_shapes_of_the_dueling_network():
    shapes = flax.traverse_util.flatten_dict(
        _shapes(networks.create("dueling"), (4, 84, 84)), sep="/"
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
    shapes = _shapes(TINY.clone(head="actor_critic", value_hidden=(7,)), TINY_INPUT)["params"]
    assert shapes["value_fc1"]["kernel"].shape == (16, 7)
    assert shapes["value"]["kernel"].shape == (7, 1)
    assert "value" not in _shapes(TINY, TINY_INPUT)["params"]


# Kernel, stride, padding, and sizes of which some leave a rest that no kernel reaches.
@pytest.mark.parametrize("pixels", [True, False], ids=["uint8", "float"])
@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (ConvLayer(3, 8, 4), (20, 20)),
        (ConvLayer(3, 8, 4), (23, 17)),
        (ConvLayer(3, 8, 4, 1), (20, 21)),
        (ConvLayer(3, 4, 2), (9, 9)),
        (ConvLayer(3, 4, 2), (10, 7)),
        (ConvLayer(3, 4, 2, 1), (8, 11)),
        (ConvLayer(3, 3, 1), (7, 7)),
        (ConvLayer(3, 3, 1, 1), (5, 6)),
        (ConvLayer(3, 3, 2), (11, 8)),
        (ConvLayer(3, 3, 2, 1), (42, 9)),
        (ConvLayer(3, 4, 4), (9, 8)),
        (ConvLayer(3, 1, 1), (2, 3)),
        (ConvLayer(3, 2, 3), (9, 8)),
    ],
    ids=str,
)
def test_the_cpu_convolution_is_the_convolution(layer, size, pixels):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, *size, 5)).astype(np.uint8)
    if not pixels:
        x = rng.normal(size=x.shape).astype(np.float32)
    kernel = rng.normal(size=(layer.kernel, layer.kernel, 5, 3)).astype(np.float32)

    def both(convolve):
        def weighted(kernel, x):
            y = convolve(x, kernel, layer)
            # Some fixed weights that differ from place to place.
            return (y * jnp.sin(jnp.arange(y.size)).reshape(y.shape)).sum(), y

        arguments = 0 if pixels else (0, 1)
        gradient = jax.value_and_grad(weighted, arguments, has_aux=True)
        (_, y), gradients = jax.jit(gradient)(kernel, x)
        return y, gradients

    mine, theirs = both(networks._matmul_convolve), both(networks._convolve)
    assert mine[0].shape[1:3] == tuple(
        (n + 2 * layer.padding - layer.kernel) // layer.stride + 1 for n in size
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), mine, theirs)


@pytest.mark.parametrize("batch", [1, 31, 32, 33, 70])
def test_forward_is_the_network_and_has_its_gradient(tiny_params, batch):
    x = _pixels(batch, *TINY_INPUT)
    weights = np.random.default_rng(2).normal(size=(batch, 5)).astype(np.float32)

    def both(function):
        def weighted(params):
            y = function(params, x)
            return (y * weights).sum(), y

        (_, y), gradient = jax.jit(jax.value_and_grad(weighted, has_aux=True))(tiny_params)
        return y, gradient

    mine = both(lambda p, x: networks.forward(TINY, p, x))
    theirs = both(TINY.apply)
    assert mine[0].shape == (batch, 5)
    # The head starts small, so an error must be small beside what differs between examples.
    np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-4, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), mine[1], theirs[1]
    )


def test_forward_is_the_same_function_outside_jit(tiny_params):
    x = _pixels(33, *TINY_INPUT)
    np.testing.assert_allclose(
        networks.forward(TINY, tiny_params, x), _apply(TINY, tiny_params, x), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("convs", [TINY.convs, ()], ids=["convolutional", "mlp"])
def test_pixels_are_divided_by_255_and_floats_taken_as_they_are(convs):
    network = TINY.clone(convs=convs)
    shape = TINY_INPUT if convs else (12,)
    params = _init(network, shape)
    pixels = _pixels(3, *shape)
    floats = pixels.astype(jnp.float32)
    scaled = _apply(network, params, floats / 255)
    np.testing.assert_allclose(_apply(network, params, pixels), scaled, rtol=1e-4, atol=1e-6)
    unscaled = _apply(network, params, floats)
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
    np.testing.assert_allclose(network.apply(params, x, method="value"), [12.5], rtol=1e-6)


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
    np.testing.assert_allclose(network.apply(params, x, method="value"), [15.0, 43.0])


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
    params = _init(network, x.shape[1:])
    kernel = np.asarray(params["params"]["conv1"]["kernel"])[0, 0]
    pixels = np.einsum("bchw,cf->bhwf", x, kernel)
    normal = (pixels - pixels.mean(-1, keepdims=True)) / np.sqrt(pixels.var(-1, keepdims=True))
    features = _apply(network, params, x, "features")
    np.testing.assert_allclose(features, normal.reshape(2, -1), rtol=1e-3, atol=1e-3)
    assert set(params["params"]) == {"conv1", "conv_norm1", "action"}


def test_features_are_flattened_by_row_column_channel():
    network = Network(convs=(ConvLayer(2, 1),), num_outputs=1, activation="none")
    x = jnp.arange(8.0).reshape(1, 2, 2, 2)  # channel 0 holds 0..3, channel 1 holds 4..7
    params = _init(network, x.shape[1:])
    params["params"]["conv1"]["kernel"] = jnp.eye(2).reshape(1, 1, 2, 2)
    features = _apply(network, params, x, "features")
    np.testing.assert_allclose(features, [[0, 4, 1, 5, 2, 6, 3, 7]])


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("relu", [0.0, 2.0]),
        ("elu", [np.exp(-1) - 1, 2.0]),
        ("tanh", [-0.761594, 0.964028]),
        ("leaky_relu", [-0.01, 2.0]),
        ("silu", [-0.268941, 1.761594]),
        ("gelu", [-0.158655, 1.954500]),  # with the normal distribution itself, as PyTorch has it
        ("selu", [-1.111331, 2.101402]),
        ("sigmoid", [0.268941, 0.880797]),
        ("none", [-1.0, 2.0]),
    ],
)
def test_activations_are_pytorchs(activation, expected):
    actual = networks.ACTIVATIONS[activation](jnp.array([-1.0, 2.0]))
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_a_bfloat16_torso_keeps_float32_parameters_and_outputs(tiny_params):
    network = TINY.clone(dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(_shapes(network, TINY_INPUT))} == {
        jnp.dtype("float32")
    }
    x = _pixels(2, *TINY_INPUT)
    assert _apply(network, tiny_params, x, "features").dtype == jnp.bfloat16
    outputs, precise = (_apply(n, tiny_params, x) for n in (network, TINY))
    assert outputs.dtype == jnp.float32
    assert 0 < np.abs(np.asarray(outputs - precise)).max() < 0.02


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_network_survives_json(name):
    network = networks.create(name, num_outputs=6, activation="elu")
    again = networks.from_dict(json.loads(json.dumps(networks.to_dict(network))))
    assert again == network
    assert hash(again) == hash(network)
    assert again.num_outputs == 6 and again.activation == "elu"


def test_networks_of_one_shape_are_equal_values():
    assert networks.create("nature") == Network(convs=networks.NATURE_CONVS, hidden=(512,))
    assert networks.create("nature") != networks.create("nature", num_outputs=6)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown network 'resnet'; known: dueling, .*net3"):
        networks.create("resnet")


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (TINY.clone(head="duelling"), TINY_INPUT, "'duelling' is not one of linear, dueling"),
        (TINY.clone(activation="swish"), TINY_INPUT, "'swish' is not one of elu"),
        (TINY, (20, 20), r"takes \(B, C, H, W\), got shape \(1, 20, 20\)"),
        (TINY, (3, 20, 7), "8x8 convolution does not fit an input of 20x7"),
    ],
)
def test_what_cannot_be_built_says_why(network, shape, message):
    with pytest.raises(ValueError, match=message):
        _shapes(network, shape)


def test_a_linear_head_has_no_value(tiny_params):
    with pytest.raises(ValueError, match="no state value"):
        TINY.apply(tiny_params, jnp.zeros((1, *TINY_INPUT)), method="value")
