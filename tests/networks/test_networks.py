"""Tests for the networks: sizes, names, arithmetic by hand, and the CPU's own convolution."""

import dataclasses
import json

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import networks, tasks
from jaxdistill.experts.expert import to_suite
from jaxdistill.networks import Atoms, ConvLayer, Network, Stream, convolutions
from jaxdistill.networks.network import CPU_CHUNK
from jaxdistill.tasks import atari

TINY = Network(convs=(ConvLayer(4, 8, 4), ConvLayer(4, 4, 2)), hidden=(16,), num_outputs=5)
TINY_INPUT = (3, 20, 20)
# Two games, of which the second has fewer actions; every way to know them.
ACTIONS = ((0, 1, 4), (3, 2))
CONTROLLERS = TINY.clone(controllers=True, action_hidden=(8,), game_actions=ACTIONS)
EMBEDDING = TINY.clone(
    head="dueling", hidden=(), value_hidden=(7,), task_embedding=2, game_actions=ACTIONS
)
BOTH = CONTROLLERS.clone(hidden=(), layer_norm=True, task_embedding=2)
ONE_HOT = TINY.clone(one_hot=True, game_actions=ACTIONS)
RESIDUAL = TINY.clone(convs=(), residual=(4,))
# Two streams whose outputs lie among each other's.
STREAMS = TINY.clone(streams=(Stream(8, (4, 0)), Stream(6, (2, 1, 3), bounded=True)))
KNOWING = {
    "controllers": CONTROLLERS,
    "embedding": EMBEDDING,
    "both": BOTH,
    "one_hot": ONE_HOT,
    "streams": STREAMS.clone(
        hidden=(), head="actor_critic", value_hidden=(7,), one_hot=True, game_actions=ACTIONS
    ),
}


def _init(network, shape):
    return jax.jit(lambda key: networks.init(network, key, shape))(jax.random.key(0))


def _apply(network, params, x, method=None):
    return jax.jit(lambda p, x: network.apply(p, x, method=method))(params, x)


def _values(network, params, x):
    features = _apply(network, params, x, "features")
    return _apply(network, params, features, "outputs_and_values")[1]


_forward = jax.jit(networks.forward, static_argnums=0)


def _random(network, shape):
    """Parameters that are all different, and large enough that every layer counts."""
    generator = np.random.default_rng(3)
    return jax.tree.map(
        lambda x: jnp.asarray(generator.normal(size=x.shape) * 0.2, jnp.float32),
        _shapes(network, shape),
    )


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


def _then(name):
    """A game as DeepMind's emulator had it in 2015: Pong had no actions with FIRE."""
    game = tasks.get(name)
    return dataclasses.replace(game, actions=(0, 3, 4)) if name == "pong" else game


TEN_GAMES = (
    *("beam_rider", "breakout", "enduro", "freeway", "ms_pacman", "pong", "qbert", "riverraid"),
    *("seaquest", "space_invaders"),
)


@pytest.mark.parametrize(
    ("name", "chosen", "outputs", "parameters"),
    [
        ("multi_task", ("freeway", "pong", "qbert"), 12, 1_882_668),
        ("multi_task_large", TEN_GAMES, 85, 6_756_721),
    ],
)
def test_multi_task_students_have_the_published_sizes(name, chosen, outputs, parameters):
    network = networks.for_tasks(networks.create(name), [_then(game) for game in chosen])
    assert sum(len(actions) for actions in network.game_actions) == outputs
    assert networks.count(_shapes(network, (4, 84, 84))) == parameters


def test_a_task_embedding_adds_its_vectors_and_what_they_are_multiplied_with():
    chosen = [tasks.get(name) for name in ("pong", "freeway", "qbert")]
    network = networks.for_tasks(networks.create("dueling_task"), chosen)
    # 3 vectors of 32; 32 more inputs for the 512 units of either stream.
    added = 3 * 32 + 2 * 32 * 512
    assert networks.count(_shapes(network, (4, 84, 84))) == 3_300_019 + added


LANDERS = [tasks.get(f"lander/{name}") for name in ("standard", "windy", "heavy")]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mlp", 35_716),
        ("mlp_task_embedding", 37_788),
        ("mlp_one_hot", 36_484),
        # A scale and a shift for each of 256 + 128 units.
        ("mlp_layer_norm", 35_716 + 2 * 384),
        ("mlp_task_embedding_layer_norm", 37_788 + 2 * 384),
        ("mlp_one_hot_layer_norm", 36_484 + 2 * 384),
    ],
)
def test_networks_of_three_landers_have_the_published_sizes(name, parameters):
    network = networks.for_tasks(networks.create(name), LANDERS)
    assert networks.count(_shapes(network, (1, 8))) == parameters
    assert network.num_outputs == 4


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "parameters"),
    [
        # 21 * 256 + 257 * 256 + 257 * 128 shared; streams 129 * 64 + 65 * 6, 129 * 32 + 33 * 2 and
        # 129 * 16 + 17 * 1.
        ("skills", 20, 9, 104_064 + 8_646 + 4_194 + 2_081),
        # And 129 * 128 + 129 * 64 + 65 * 1 of the value.
        ("skills_actor_critic", 20, 9, 118_985 + 24_833),
        # Twice 21 * 128 + 129 * 128; and 129 * 6, 129 * 1.
        ("mlp_actor_critic", 20, 6, 2 * 19_200 + 774 + 129),
        # Twice 6 * 64 + 65 * 64; and 65 * 2, 65 * 1. Twice 10 * 64 + 65 * 64; and twice 65 * 1.
        ("mlp_actor_critic_small", 5, 2, 2 * 4_544 + 130 + 65),
        ("mlp_actor_critic_small", 9, 1, 2 * 4_800 + 65 + 65),
    ],
)
def test_networks_of_skills_have_the_published_sizes(name, inputs, outputs, parameters):
    network = networks.create(name, num_outputs=outputs)
    assert networks.count(_shapes(network, (1, inputs))) == parameters


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


def test_names_and_shapes_of_the_residual_network():
    network = networks.create("impala")
    shapes = _shapes(network, (4, 84, 84))["params"]

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
        (ConvLayer(3, 4, 2, 1, 1), (9, 9)),
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

    mine, theirs = both(convolutions._matmul_convolve), both(convolutions._convolve)
    assert mine[0].shape[1:3] == networks.grid([layer], *size)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), mine, theirs)


def test_the_cpu_convolution_takes_floats_of_another_width_than_its_kernel():
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (2, 8, 6, 3)).astype(np.float32)  # exact in bfloat16
    kernel = rng.integers(-4, 5, (4, 4, 3, 2)).astype(jnp.bfloat16)

    def gradients(convolve):
        def last(kernel, x):
            return convolve(x, kernel, ConvLayer(2, 4, 2))[:, -1, -1].astype(jnp.float32).sum()

        return jax.jit(jax.grad(last, (0, 1)))(kernel, x)

    mine = gradients(convolutions._matmul_convolve)
    assert [g.dtype for g in mine] == [jnp.bfloat16, jnp.float32]
    jax.tree.map(np.testing.assert_array_equal, mine, gradients(convolutions._convolve))


@pytest.mark.parametrize("batch", [1, CPU_CHUNK - 1, CPU_CHUNK, CPU_CHUNK + 1, 70])
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


@pytest.mark.parametrize(
    "network",
    [*KNOWING.values(), RESIDUAL, STREAMS],
    ids=[*KNOWING, "residual", "streams_alone"],
)
def test_forward_is_every_network_and_has_its_gradient(network):
    batch = 37
    params, x = _random(network, TINY_INPUT), _pixels(batch, *TINY_INPUT)
    rows = np.random.default_rng(2).integers(0, 2, batch)
    weights = np.random.default_rng(2).normal(size=(batch, 5)).astype(np.float32)

    def both(function):
        def weighted(params):
            y = function(params, x, rows)
            return (y * weights).sum(), y

        (_, y), gradient = jax.jit(jax.value_and_grad(weighted, has_aux=True))(params)
        return y, gradient

    mine = both(lambda *arguments: networks.forward(network, *arguments))
    theirs = both(network.apply)
    assert mine[0].shape == (batch, 5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), mine, theirs)


@pytest.mark.parametrize(
    "network",
    [
        TINY.clone(head="actor_critic", value_hidden=(7,)),
        TINY.clone(head="dueling", value_hidden=(7,)),
        STREAMS.clone(head="actor_critic", value_hidden=(7,)),
    ],
    ids=["actor_critic", "dueling", "streams"],
)
def test_values_beside_outputs_are_those_of_the_network(network):
    params, x = _random(network, TINY_INPUT), _pixels(37, *TINY_INPUT)
    outputs, values = jax.jit(lambda p, x: networks.forward_with_values(network, p, x))(params, x)
    np.testing.assert_allclose(outputs, _apply(network, params, x), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(values, _values(network, params, x), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="a linear head has no state value"):
        networks.forward_with_values(TINY.clone(head="linear"), params, x)


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
    params = _random(network, (12,))
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


@pytest.mark.parametrize("name", ["skills", "skills_actor_critic"])
def test_skills_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    network = networks.create(name)
    params = _random(network, (1, 20))
    layers = params["params"]

    def linear(layer):
        kernel = torch.from_numpy(np.array(layers[layer]["kernel"]))
        module = torch.nn.Linear(*kernel.shape)
        module.weight.data = kernel.T.contiguous()
        module.bias.data = torch.from_numpy(np.array(layers[layer]["bias"]))
        return module

    def mlp(*names):
        modules = [module for name in names for module in (linear(name), torch.nn.ReLU())]
        return torch.nn.Sequential(*modules[:-1])

    x = np.random.default_rng(5).uniform(-1, 1, (64, 20)).astype(np.float32)
    with torch.no_grad():
        shared = torch.relu(mlp("fc1", "fc2", "fc3")(torch.from_numpy(x)))
        keys, look, click = (mlp(f"stream{i}_fc1", f"stream{i}")(shared) for i in (1, 2, 3))
        if name == "skills":
            look = torch.tanh(look)
        wanted = torch.cat([keys, click, look], dim=1).numpy()
        if name == "skills_actor_critic":
            value = mlp("value_fc1", "value_fc2", "value")(shared)[:, 0].numpy()
            _, values = networks.forward_with_values(network, params, x[:, None])
            np.testing.assert_allclose(values, value, rtol=1e-5, atol=1e-5)
    assert np.abs(wanted).max() > 0.5
    outputs = networks.forward(network, params, x[:, None])
    np.testing.assert_allclose(outputs, wanted, rtol=1e-5, atol=1e-5)


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


def test_kernels_of_convolutions_begin_as_flax_draws_them():
    """To the bit, though they are drawn as matrices."""
    x, key = jnp.zeros((1, 9, 9, 3)), jax.random.key(7)
    mine = convolutions.Conv(ConvLayer(8, 3, 1), jnp.float32)
    theirs = nn.Conv(8, (3, 3), kernel_init=convolutions.HIDDEN_INIT)
    kernels = [jax.jit(one.init)(key, x)["params"]["kernel"] for one in (mine, theirs)]
    assert kernels[0].shape == (3, 3, 3, 8)
    np.testing.assert_array_equal(*kernels)


def test_fresh_parameters_are_by_their_key():
    """The program that draws them is kept; its key is not in it."""
    first, again, other = (
        jax.tree.leaves(networks.init(TINY, jax.random.key(k), TINY_INPUT)) for k in (0, 0, 1)
    )
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    kernels = [(a, b) for a, b in zip(first, other, strict=True) if a.ndim > 1]
    assert len(kernels) == 4 and all((a != b).any() for a, b in kernels)


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
    params = _random(network, TINY_INPUT)
    assert {name for name in params["params"]["section1"] if "norm" in name} == {
        f"block{block}_norm{i}" for block in (1, 2) for i in (1, 2)
    }
    params["params"]["section_norm1"] = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
    features = _apply(network, params, _pixels(2, *TINY_INPUT), "features")
    features = np.asarray(features).reshape(2, 10, 10, 4)
    np.testing.assert_allclose(features.mean(-1), 0, atol=1e-4)
    np.testing.assert_allclose(features.std(-1), 1, atol=0.02)


@pytest.mark.parametrize("torch_pool", [False, True], ids=["SAME", "torch"])
@pytest.mark.parametrize("size", [(6, 7), (1, 2)], ids=str)
def test_the_maximum_is_flaxs_and_has_its_gradient(size, torch_pool):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)

    def both(pool):
        def weighted(x):
            y = pool(x)
            return (y * jnp.sin(jnp.arange(y.size)).reshape(y.shape)).sum(), y

        (_, y), gradient = jax.jit(jax.value_and_grad(weighted, has_aux=True))(x)
        return y, gradient

    padding = ((1, 1), (1, 1)) if torch_pool else "SAME"
    mine = both(lambda x: convolutions._max_pool(x, 1 if torch_pool else None))
    theirs = both(lambda x: nn.max_pool(x, (3, 3), (2, 2), padding))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), mine, theirs)


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


EXPERTS_ONLY = {
    "atoms": TINY.clone(atoms=Atoms(-10.0, 10.0, 51)),
    "fractions": TINY.clone(fractions=32),
    "input_clip": TINY.clone(input_clip=5.0),
    "torch_pool": RESIDUAL.clone(torch_pool=True),
    "extra": Network(convs=(ConvLayer(2, 4, 2, 1, 1),), num_outputs=5),
}


@pytest.mark.parametrize("network", EXPERTS_ONLY.values(), ids=EXPERTS_ONLY)
def test_what_only_experts_have_survives_json_and_changes_no_other_description(network):
    fields = networks.to_dict(network)
    again = networks.from_dict(json.loads(json.dumps(fields)))
    assert again == network and hash(again) == hash(network)
    plain = networks.to_dict(Network())
    assert not {"atoms", "fractions", "input_clip", "torch_pool"} & plain.keys()
    assert all(
        layer.keys() == {"features", "kernel", "stride", "padding"} for layer in plain["convs"]
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"atoms": {"low": 1.0, "high": -1.0, "count": 2}}, "not below the largest"),
        ({"atoms": {"low": -1.0, "high": 1.0, "count": 1}}, "not below the largest"),
        ({"atoms": {"low": -1.0, "high": 1.0, "count": 2.5}}, "whole numbers"),
        ({"atoms": {"low": -1.0, "high": float("inf"), "count": 2}}, "finite numbers"),
        ({"input_clip": -1.0}, "finite numbers"),
        ({"fractions": -1}, "whole numbers"),
        ({"fractions": 2, "head": "dueling"}, "a head of type linear"),
        ({"torch_pool": 1}, "true or false"),
    ],
    ids=str,
)
def test_a_description_of_a_distribution_that_cannot_be_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        networks.from_dict(networks.to_dict(Network(hidden=(3,))) | fields)


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
    params, x = _random(CONTROLLERS, TINY_INPUT), _pixels(6, *TINY_INPUT)

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


@pytest.mark.parametrize("network", KNOWING.values(), ids=KNOWING)
def test_what_plays_one_game_is_an_ordinary_network(network):
    params, x = _random(network, TINY_INPUT), _pixels(4, *TINY_INPUT)
    whole = [np.asarray(_forward(network, params, x, game)) for game in (0, 1)]
    assert np.abs(whole[0] - whole[1]).max() > 0.1
    for game in (0, 1):
        alone, own, actions = networks.for_one_game(network, params, game)
        assert not alone.knows_game
        assert jax.tree.map(jnp.shape, own) == jax.tree.map(
            jnp.shape, dict(_shapes(alone, TINY_INPUT))
        )
        assert actions == (ACTIONS[game] if network.controllers else tuple(range(5)))
        outputs = np.asarray(to_suite(_forward(alone, own, x), actions, atari.NUM_ACTIONS))
        np.testing.assert_allclose(outputs[:, :5], whole[game], rtol=1e-3, atol=1e-3)


def test_a_controller_is_not_mistaken_for_another_whose_number_begins_alike():
    network = CONTROLLERS.clone(game_actions=((0, 1),) * 11)
    params = _random(network, TINY_INPUT)
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
    params, x = _random(network, TINY_INPUT), _pixels(4, *TINY_INPUT)
    own, kept = networks.with_outputs(network, params, outputs)
    assert jax.tree.map(jnp.shape, kept) == jax.tree.map(jnp.shape, dict(_shapes(own, TINY_INPUT)))
    whole = np.asarray(_forward(network, params, x))
    np.testing.assert_allclose(_forward(own, kept, x), whole[:, outputs], rtol=1e-5, atol=1e-6)
    if network.head == "actor_critic":
        values = [_values(n, p, x) for n, p in ((network, params), (own, kept))]
        np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-6)


def test_a_wider_network_begins_by_seeing_all_that_the_other_sees():
    narrow = TINY.clone(hidden=())
    wide = narrow.clone(convs=(ConvLayer(6, 8, 4), ConvLayer(7, 4, 2)))
    assert networks.may_take_torso(wide, narrow) and networks.may_take_torso(narrow, narrow)
    taken, own = _random(narrow, TINY_INPUT), _random(wide, TINY_INPUT)
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
        _forward(wide, alike, pixels), _forward(narrow, taken, pixels), rtol=1e-5, atol=1e-5
    )


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


@pytest.mark.parametrize("network", [BOTH, RESIDUAL, STREAMS], ids=["both", "residual", "streams"])
def test_every_network_computes_in_bfloat16(network):
    rough = network.clone(dtype=networks.create("net3", "bfloat16").dtype)
    assert {x.dtype for x in jax.tree.leaves(_shapes(rough, TINY_INPUT))} == {jnp.dtype("float32")}
    params, x = _random(network, TINY_INPUT), _pixels(9, *TINY_INPUT)
    assert _apply(rough, params, x, "features").dtype == jnp.bfloat16
    outputs, precise = (np.asarray(_forward(n, params, x, 1)) for n in (rough, network))
    assert outputs.dtype == np.float32
    assert 0 < np.abs(outputs - precise).max() < 0.05 * np.abs(precise).max()


def test_an_unknown_dtype_lists_the_known_ones():
    with pytest.raises(ValueError, match="'float16' is not one of float32, bfloat16"):
        networks.create("nature", "float16")


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_network_survives_json(name):
    outputs = 9 if name.startswith("skills") else 6
    network = networks.create(name, num_outputs=outputs, activation="elu")
    again = networks.from_dict(json.loads(json.dumps(networks.to_dict(network))))
    assert again == network
    assert hash(again) == hash(network)
    assert again.num_outputs == outputs and again.activation == "elu"


@pytest.mark.parametrize(
    "network",
    [*KNOWING.values(), RESIDUAL, STREAMS],
    ids=[*KNOWING, "residual", "streams_alone"],
)
def test_its_games_survive_json_too(network):
    again = networks.from_dict(json.loads(json.dumps(networks.to_dict(network))))
    assert again == network and hash(again) == hash(network)


def test_a_description_from_before_a_field_was_known_is_read():
    fields = networks.to_dict(networks.create("dueling"))
    for name in ("residual", "controllers", "task_embedding", "one_hot", "game_actions", "streams"):
        del fields[name]
    assert networks.from_dict(fields) == networks.create("dueling")


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        ({"width": 0}, "whole numbers above 0"),
        ({"width": True}, "whole numbers above 0"),
        ({"width": 10**30}, "whole numbers above 0"),
        ({"outputs": [0, 4, -1]}, "whole numbers above 0"),
        ({"outputs": [0.0, 4]}, "whole numbers above 0"),
        ({"outputs": [0, 10**9]}, r"expected each of 0..4 once"),
        ({"outputs": "04"}, "whole numbers above 0"),
        ({"outputs": list(range(5)) * 10**4}, r"and more; expected each of 0..4 once"),
        ({"outputs": []}, "expected each of 0..4 once"),
        ({"bounded": 1}, "bounded are true or false"),
    ],
    ids=str,
)
def test_a_description_of_streams_that_cannot_be_is_refused(stream, words):
    fields = networks.to_dict(STREAMS)
    fields["streams"][0] = fields["streams"][0] | stream
    with pytest.raises(ValueError, match=words) as caught:
        networks.from_dict(fields)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_streams_are_counted_before_their_outputs_are_listed():
    fields = networks.to_dict(STREAMS) | {"num_outputs": 2**31 - 1}  # a list of them would be 16 GB
    with pytest.raises(ValueError, match=r"expected each of 0..2147483646 once"):
        networks.from_dict(fields)


def test_networks_of_one_shape_are_equal_values():
    assert networks.create("nature") == Network(convs=networks.NATURE_CONVS, hidden=(512,))
    assert networks.create("nature") != networks.create("nature", num_outputs=6)


def test_networks_that_compute_in_another_dtype_are_of_one_architecture():
    rough = TINY.clone(dtype=jnp.bfloat16)
    assert rough != TINY and networks.same_architecture(rough, TINY)
    assert not networks.same_architecture(TINY, TINY.clone(activation="elu"))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown network 'resnet'; known: dueling, .*net3"):
        networks.create("resnet")


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
        _shapes(network, shape)


@pytest.mark.parametrize("network", KNOWING.values(), ids=KNOWING)
@pytest.mark.parametrize("batch", [2, 33])
def test_a_network_that_knows_its_game_must_be_told(network, batch):
    params = _random(network, TINY_INPUT)
    with pytest.raises(ValueError, match="depend on the game; give `games`"):
        jax.eval_shape(lambda: networks.forward(network, params, _pixels(batch, *TINY_INPUT)))


def test_a_linear_head_has_no_value(tiny_params):
    with pytest.raises(ValueError, match="no state value"):
        networks.forward_with_values(TINY, tiny_params, jnp.zeros((1, *TINY_INPUT)))
