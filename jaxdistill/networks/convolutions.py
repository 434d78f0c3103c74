"""Convolutions, in the form that each backend likes, and the residual sections made of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "elu": nn.elu,
    "tanh": nn.tanh,
    "leaky_relu": lambda x: nn.leaky_relu(x, 0.01),
    "silu": nn.silu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "selu": nn.selu,
    "sigmoid": nn.sigmoid,
    "none": lambda x: x,
}

CONVOLVED = "convolved"  # what a piece of the batch keeps for its backward pass; see `forward`


@dataclasses.dataclass(frozen=True)
class ConvLayer:
    """One convolution: output channels, square kernel, stride, and zero padding on every side."""

    features: int
    kernel: int
    stride: int = 1
    padding: int = 0


HIDDEN_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
# A small head starts every action nearly equal, so early targets are not drowned by noise. A
# residual block whose end is small starts as the identity, so features do not grow with depth.
SMALL_INIT = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")


class Conv(nn.Module):
    """One convolution with its bias: `(B, H, W, C)` -> `(B, H', W', features)`."""

    layer: ConvLayer
    dtype: Any
    kernel_init: Callable[..., jax.Array] = HIDDEN_INIT

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Pixels in uint8 are scaled to 0..1."""
        k = self.layer.kernel
        shape = (k, k, x.shape[-1], self.layer.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.layer.features,))
        height, width = (size + 2 * self.layer.padding for size in x.shape[1:3])
        if min(height, width) < k:
            raise ValueError(f"a {k}x{k} convolution does not fit an input of {height}x{width}")
        convolve = _matmul_convolve if jax.default_backend() == "cpu" else _convolve
        y = convolve(x, kernel, self.layer)
        return checkpoint_name(y, CONVOLVED) + bias.astype(self.dtype)


class Section(nn.Module):
    """Convolution, maximum, two residual blocks: `(B, H, W, C)` -> `(B, ~H / 2, ~W / 2, F)`."""

    features: int
    activation: str
    layer_norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Ends with a sum, without an activation."""
        layer = ConvLayer(self.features, 3, 1, 1)
        x = _max_pool(Conv(layer, self.dtype, name="conv")(x))
        for block in ("block1", "block2"):
            y = x
            for i, init in ((1, HIDDEN_INIT), (2, SMALL_INIT)):
                if self.layer_norm:
                    y = nn.LayerNorm(dtype=self.dtype, name=f"{block}_norm{i}")(y)
                y = ACTIVATIONS[self.activation](y)
                y = Conv(layer, self.dtype, init, name=f"{block}_conv{i}")(y)
            x = x + y
        return x


def _max_pool(x: jax.Array) -> jax.Array:
    """3x3 maxima at stride 2, padded as TensorFlow's "SAME": `(B, H, W, C)` -> half of H and W.

    Maxima of shifted slices: on CPU the gradient of XLA's windowed maximum takes several times as
    long.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        pad = [(0, 0)] * 4
        pad[axis] = (size % 2, 2)
        padded = jnp.pad(x, pad, constant_values=-jnp.inf)
        shifted = [lax.slice_in_dim(padded, i, i + size, 2, axis) for i in range(3)]
        x = functools.reduce(jnp.maximum, shifted)
    return x


def pixels(x: jax.Array, dtype: Any) -> jax.Array:
    """uint8 pixels scaled to 0..1; anything else only cast."""
    if x.dtype == jnp.uint8:
        return x.astype(dtype) * jnp.asarray(1 / 255, dtype)
    return x.astype(dtype)


def _convolve(x: jax.Array, kernel: jax.Array, layer: ConvLayer) -> jax.Array:
    pad = (layer.padding, layer.padding)
    return lax.conv_general_dilated(
        pixels(x, kernel.dtype),
        kernel,
        (layer.stride, layer.stride),
        (pad, pad),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _matmul_convolve(x: jax.Array, kernel: jax.Array, layer: ConvLayer) -> jax.Array:
    """The same convolution as one matrix product, which XLA's CPU backend does far faster.

    A strided kernel becomes, after space-to-depth by the stride, an m x m kernel of stride 1 with
    m = kernel / stride. Each input pixel is multiplied with all m^2 taps at once and the products
    are added where they belong: nothing is copied m^2 times. Unstrided kernels have too many taps
    for that, and gather patches instead.
    """
    k, s, pad = layer.kernel, layer.stride, layer.padding
    if x.dtype == jnp.uint8:  # the kernel is smaller than the pixels it scales
        kernel = kernel / 255
    if pad:
        x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    batch, height, width, channels = x.shape
    rows, columns = (height - k) // s + 1, (width - k) // s + 1
    if s == 1 or k % s:
        patches = jnp.concatenate(
            [
                x[:, i : i + s * (rows - 1) + 1 : s, j : j + s * (columns - 1) + 1 : s]
                for i in range(k)
                for j in range(k)
            ],
            axis=-1,
        )
        flat = patches.astype(kernel.dtype).reshape(batch * rows * columns, -1)
        return (flat @ kernel.reshape(flat.shape[-1], -1)).reshape(batch, rows, columns, -1)

    m = k // s
    used_rows, used_columns = rows + m - 1, columns + m - 1
    x = _space_to_depth(x[:, : used_rows * s, : used_columns * s], s)
    x = x.astype(kernel.dtype).reshape(-1, channels * s * s)
    taps = kernel.reshape(m, s, m, s, channels, -1).transpose(4, 1, 3, 0, 2, 5)
    products = x @ taps.reshape(x.shape[-1], -1)
    return _add_shifted(products.reshape(batch, used_rows, used_columns, -1), m)


def _space_to_depth(x: jax.Array, s: int) -> jax.Array:
    """`(B, H, W, C)` -> `(B, H / s, W / s, C * s * s)`, channels as (channel, row, column)."""
    batch, height, width, channels = x.shape
    blocks = x.transpose(0, 3, 1, 2).reshape(batch, channels, height // s, s, width // s, s)
    if x.dtype == jnp.uint8 and s == 4:
        # Four neighbouring pixels move as one word: a quarter of the scattered reads.
        words = lax.bitcast_convert_type(blocks, jnp.uint32).transpose(0, 2, 4, 1, 3)
        blocks = lax.bitcast_convert_type(words, jnp.uint8)
    else:
        blocks = blocks.transpose(0, 2, 4, 1, 3, 5)
    return blocks.reshape(batch, height // s, width // s, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _add_shifted(products: jax.Array, m: int) -> jax.Array:
    """`y[p, q] = sum over i, j < m of products[p + i, q + j, tap (i, j)]`, taps outermost last.

    `(B, H, W, m * m * F)` -> `(B, H - m + 1, W - m + 1, F)`. Its gradient gathers shifted copies;
    the one JAX would derive adds m^2 padded arrays, which is slow.
    """
    batch, height, width, _ = products.shape
    rows, columns = height - m + 1, width - m + 1
    taps = products.reshape(batch, height, width, m, m, -1)
    shifted = [taps[:, i : i + rows, j : j + columns, i, j] for i in range(m) for j in range(m)]
    return functools.reduce(jnp.add, shifted)


def _add_shifted_forward(products: jax.Array, m: int) -> tuple[jax.Array, None]:
    return _add_shifted(products, m), None


def _add_shifted_backward(m: int, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    edge = m - 1
    padded = jnp.pad(gradient, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    height, width = gradient.shape[1] + edge, gradient.shape[2] + edge
    copies = [
        padded[:, edge - i : edge - i + height, edge - j : edge - j + width]
        for i in range(m)
        for j in range(m)
    ]
    return (jnp.concatenate(copies, axis=-1),)


_add_shifted.defvjp(_add_shifted_forward, _add_shifted_backward)
