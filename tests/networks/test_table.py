"""Tests for the table of names: published sizes, and names that are not in it."""

import dataclasses

import jax
import numpy as np
import pytest
from small_networks import LANDERS, random_params, shapes_of

from jaxdistill import networks, tasks
from jaxdistill.networks import Network


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
    assert networks.count(shapes_of(networks.create(name), (4, 84, 84))) == parameters


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
    assert networks.count(shapes_of(network, (4, 84, 84))) == parameters


def test_a_task_embedding_adds_its_vectors_and_what_they_are_multiplied_with():
    chosen = [tasks.get(name) for name in ("pong", "freeway", "qbert")]
    network = networks.for_tasks(networks.create("dueling_task"), chosen)
    # 3 vectors of 32; 32 more inputs for the 512 units of either stream.
    added = 3 * 32 + 2 * 32 * 512
    assert networks.count(shapes_of(network, (4, 84, 84))) == 3_300_019 + added


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
    assert networks.count(shapes_of(network, (1, 8))) == parameters
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
    assert networks.count(shapes_of(network, (1, inputs))) == parameters


@pytest.mark.parametrize("name", ["skills", "skills_actor_critic"])
def test_skills_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    network = networks.create(name)
    params = random_params(network, (1, 20))
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


def test_networks_of_one_shape_are_equal_values():
    assert networks.create("nature") == Network(convs=networks.NATURE_CONVS, hidden=(512,))
    assert networks.create("nature") != networks.create("nature", num_outputs=6)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown network 'resnet'; known: dueling, .*net3"):
        networks.create("resnet")


def test_an_unknown_dtype_lists_the_known_ones():
    with pytest.raises(ValueError, match="'float16' is not one of float32, bfloat16"):
        networks.create("nature", "float16")


def test_a_name_stands_for_the_network_that_it_ever_stood_for():
    """Runs are read back by it: another activation or stride would change who plays."""
    told = {name: networks.to_dict(networks.create(name)) for name in networks.NETWORKS}
    others = {name: x["activation"] for name, x in told.items() if x["activation"] != "relu"}
    assert others == dict.fromkeys(("mlp_actor_critic", "mlp_actor_critic_small"), "tanh")
    said = {
        name: networks.describe_convolutions(networks.create(name).convs)
        for name in ("dueling", "dueling_small", "dqn2013", "net1", "net3", "multi_task_large")
    }
    small = "16x8/4,32x4/2,32x3/1"
    assert said == {
        "dueling": "32x8/4,64x4/2,64x3/1",
        "dueling_small": small,
        "net1": small,
        "dqn2013": "16x8/4,32x4/2",
        "net3": "16x8/4,16x4/2,16x3/1",
        "multi_task_large": "64x8/4,64x4/2,64x3/1",
    }


def test_parameters_are_float32_where_jax_counts_in_float64():
    """They are read back as what they are."""
    seen = networks.Network(convs=networks.create("net3").convs, hidden=(4,), input_clip=5.0)
    with jax.enable_x64(True):
        for network in (seen, seen.clone(fractions=3), networks.create("impala")):
            params = networks.init(network, jax.random.key(0), (4, 84, 84))
            assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
