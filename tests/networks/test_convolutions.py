"""Tests for convolutions: the CPU's own against XLA's, maxima, first kernels, activations."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import networks
from jaxdistill.networks import ConvLayer, convolutions


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


def test_convolutions_that_may_be_set_can_be_read_back():
    """As every network that is exported is: padding is less than its kernel there."""
    accepted = {}
    for kernel, stride, padding, extra in itertools.product((1, 2, 8), (1, 4), range(9), (0, 1, 7)):
        layer = ConvLayer(32, kernel, stride, padding, extra)
        text = f"32x8/4,{layer}"
        accepted[text] = text in networks.Convolutions()
        assert accepted[text] == (padding + extra < kernel)
        if accepted[text]:
            network = networks.Network(convs=networks.parse_convolutions(text))
            assert network.convs[1] == layer
            assert networks.from_dict(networks.to_dict(network)) == network
    assert set(accepted.values()) == {True, False}
    assert "64x1/1p1" not in networks.Convolutions() and "64x2/1p1" in networks.Convolutions()


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


def test_kernels_of_convolutions_begin_as_flax_draws_them():
    """To the bit, though they are drawn as matrices."""
    x, key = jnp.zeros((1, 9, 9, 3)), jax.random.key(7)
    mine = convolutions.Conv(ConvLayer(8, 3, 1), jnp.float32)
    theirs = nn.Conv(8, (3, 3), kernel_init=convolutions.HIDDEN_INIT)
    kernels = [jax.jit(one.init)(key, x)["params"]["kernel"] for one in (mine, theirs)]
    assert kernels[0].shape == (3, 3, 3, 8)
    np.testing.assert_array_equal(*kernels)


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
