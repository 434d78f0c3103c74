"""Tests for networks as they are applied: in pieces, with their values, of fresh parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import (
    KNOWING,
    RESIDUAL,
    STREAMS,
    TINY,
    TINY_INPUT,
    applied,
    random_params,
    some_pixels,
    values_of,
)

from jaxdistill import networks
from jaxdistill.networks.applying import CPU_CHUNK


@pytest.mark.parametrize("batch", [1, CPU_CHUNK - 1, CPU_CHUNK, CPU_CHUNK + 1, 70])
def test_forward_is_the_network_and_has_its_gradient(tiny_params, batch):
    x = some_pixels(batch, *TINY_INPUT)
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
    params, x = random_params(network, TINY_INPUT), some_pixels(batch, *TINY_INPUT)
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
    params, x = random_params(network, TINY_INPUT), some_pixels(37, *TINY_INPUT)
    outputs, values = jax.jit(lambda p, x: networks.forward_with_values(network, p, x))(params, x)
    np.testing.assert_allclose(outputs, applied(network, params, x), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(values, values_of(network, params, x), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="a linear head has no state value"):
        networks.forward_with_values(TINY.clone(head="linear"), params, x)


def test_forward_is_the_same_function_outside_jit(tiny_params):
    x = some_pixels(33, *TINY_INPUT)
    np.testing.assert_allclose(
        networks.forward(TINY, tiny_params, x), applied(TINY, tiny_params, x), rtol=1e-4, atol=1e-6
    )


def test_fresh_parameters_are_by_their_key():
    """The program that draws them is kept; its key is not in it."""
    first, again, other = (
        jax.tree.leaves(networks.init(TINY, jax.random.key(k), TINY_INPUT)) for k in (0, 0, 1)
    )
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    kernels = [(a, b) for a, b in zip(first, other, strict=True) if a.ndim > 1]
    assert len(kernels) == 4 and all((a != b).any() for a, b in kernels)


@pytest.mark.parametrize("network", KNOWING.values(), ids=KNOWING)
@pytest.mark.parametrize("batch", [2, 33])
def test_a_network_that_knows_its_game_must_be_told(network, batch):
    params = random_params(network, TINY_INPUT)
    with pytest.raises(ValueError, match="depend on the game; give `games`"):
        jax.eval_shape(lambda: networks.forward(network, params, some_pixels(batch, *TINY_INPUT)))


def test_a_linear_head_has_no_value(tiny_params):
    with pytest.raises(ValueError, match="no state value"):
        networks.forward_with_values(TINY, tiny_params, jnp.zeros((1, *TINY_INPUT)))
