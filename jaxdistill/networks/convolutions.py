"""Convolutions, in the form that each backend likes, and the residual sections made of them."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
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
    """One convolution.

    Attributes:
      features: output channels.
      kernel, stride: sizes of a square.
      padding: rows and columns of zeros on every side.
      extra: more of them below and to the right alone, as TensorFlow's "SAME" may want.
    """

    features: int
    kernel: int
    stride: int = 1
    padding: int = 0
    extra: int = 0

    def __str__(self) -> str:
        more = f"+{self.extra}" if self.extra else ""
        padding = f"p{self.padding}{more}" if self.padding or more else ""
        return f"{self.features}x{self.kernel}/{self.stride}{padding}"

    @property
    def pad(self) -> tuple[int, int]:
        """Zeros before and after, in either direction."""
        return (self.padding, self.padding + self.extra)


def grid(layers: Iterable[ConvLayer], height: int, width: int) -> tuple[int, int]:
    """Rows and columns of what convolutions make of a picture; below 1 where one does not fit."""
    for layer in layers:
        height, width = (
            (size + sum(layer.pad) - layer.kernel) // layer.stride + 1 for size in (height, width)
        )
    return height, width


class Convolutions:
    """The texts that say convolutions, as `32x8/4,64x4/2p1`; for settings.

    Of each its features, kernel, stride, and padding if it has any: `p1`, and `p1+1` with one more
    row below and column to the right.
    """

    def __contains__(self, text: str) -> bool:
        return bool(parse_convolutions(text))

    def __str__(self) -> str:
        return (
            "FEATURESxKERNEL/STRIDE of each convolution, as 32x8/4,64x4/2p1 (p: padding, less than "
            "the kernel)"
        )


_SAID = re.compile(r"([1-9]\d{0,3})x([1-9]\d?)/([1-9]\d?)(?:p(\d{1,2})(?:\+(\d{1,2}))?)?")


def parse_convolutions(text: str) -> tuple[ConvLayer, ...]:
    """The layers that `text` says, see `Convolutions`; none if it is no such text."""
    parts = [_SAID.fullmatch(part) for part in text.split(",")]
    known = [part for part in parts if part]
    if len(known) < len(parts):
        return ()
    layers = [ConvLayer(*(int(number or 0) for number in part.groups())) for part in known]
    fit = all(max(layer.pad) < layer.kernel for layer in layers)  # as `from_dict` asks
    return tuple(layers) if fit else ()


def describe_convolutions(layers: Iterable[ConvLayer]) -> str:
    """The text of which `parse_convolutions` makes these layers."""
    return ",".join(map(str, layers))


HIDDEN_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
# A small head starts every action nearly equal, so early targets are not drowned by noise. A
# residual block whose end is small starts as the identity, so features do not grow with depth.
SMALL_INIT = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")

_plain: contextvars.ContextVar[bool] = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """What is traced in its body has convolutions as XLA knows them, whatever it is traced on.

    For programs that run elsewhere; each backend makes of them what it likes best.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


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
        # Drawn as a matrix: the same numbers, and XLA takes a fifth of the time to compile it.
        drawn = (k * k * x.shape[-1], self.layer.features)
        kernel = self.param(
            "kernel", lambda key: self.kernel_init(key, drawn, jnp.float32).reshape(shape)
        )
        kernel = kernel.astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), drawn[1:], jnp.float32)
        height, width = (size + sum(self.layer.pad) for size in x.shape[1:3])
        if min(height, width) < k:
            raise ValueError(f"a {k}x{k} convolution does not fit an input of {height}x{width}")
        plain = _plain.get() or jax.default_backend() != "cpu"
        convolve = _convolve if plain else _matmul_convolve
        y = convolve(x, kernel, self.layer)
        # The bias is in what is kept: adding it to every patch again would cost as much as copying.
        return checkpoint_name(y + bias.astype(self.dtype), CONVOLVED)


class Section(nn.Module):
    """Convolution, maximum, two residual blocks: `(B, H, W, C)` -> `(B, ~H / 2, ~W / 2, F)`."""

    features: int
    activation: str
    layer_norm: bool
    dtype: Any
    torch_pool: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Ends with a sum, without an activation."""
        layer = ConvLayer(self.features, 3, 1, 1)
        x = _max_pool(Conv(layer, self.dtype, name="conv")(x), first=1 if self.torch_pool else None)
        for block in ("block1", "block2"):
            y = x
            for i, init in ((1, HIDDEN_INIT), (2, SMALL_INIT)):
                if self.layer_norm:
                    y = nn.LayerNorm(dtype=self.dtype, name=f"{block}_norm{i}")(y)
                y = ACTIVATIONS[self.activation](y)
                y = Conv(layer, self.dtype, init, name=f"{block}_conv{i}")(y)
            x = x + y
        return x


def _max_pool(x: jax.Array, first: int | None) -> jax.Array:
    """3x3 maxima at stride 2: `(B, H, W, C)` -> half of H and W, rounded up.

    Args:
      first: how far the first window reaches beyond the edge: 1, as PyTorch's padding of 1 has it
        on both sides, or None for TensorFlow's "SAME", in which it does so where a size is odd.

    Maxima of shifted slices: on CPU the gradient of XLA's windowed maximum takes several times as
    long.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        pad = [(0, 0)] * 4
        pad[axis] = (size % 2 if first is None else first, 2)
        padded = jnp.pad(x, pad, constant_values=-jnp.inf)
        shifted = [lax.slice_in_dim(padded, i, i + size, 2, axis) for i in range(3)]
        x = functools.reduce(jnp.maximum, shifted)
    return x


class Normalised(nn.Module):
    """Each pixel less its own mean, over its own deviation, no further from 0 than `clip`.

    `(B, C, H, W)` -> the same, in float32; pixels in uint8 are scaled to 0..1 before.
    """

    clip: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`scale` is one over the deviation."""
        mean = self.param("mean", nn.initializers.zeros_init(), x.shape[1:], jnp.float32)
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[1:], jnp.float32)
        return jnp.clip((pixels(x, jnp.float32) - mean) * scale, -self.clip, self.clip)


def pixels(x: jax.Array, dtype: Any) -> jax.Array:
    """uint8 pixels scaled to 0..1; anything else only cast."""
    if x.dtype == jnp.uint8:
        return x.astype(dtype) * jnp.asarray(1 / 255, dtype)
    return x.astype(dtype)


def _convolve(x: jax.Array, kernel: jax.Array, layer: ConvLayer) -> jax.Array:
    return lax.conv_general_dilated(
        pixels(x, kernel.dtype),
        kernel,
        (layer.stride, layer.stride),
        (layer.pad, layer.pad),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _matmul_convolve(x: jax.Array, kernel: jax.Array, layer: ConvLayer) -> jax.Array:
    """The same convolution as matrix products, which XLA's CPU backend does far faster."""
    k, s, pad = layer.kernel, layer.stride, layer.pad
    if x.dtype == jnp.uint8:  # the kernel is smaller than the pixels it scales
        kernel = kernel / 255
    else:
        x = x.astype(kernel.dtype)
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    height, width = ((size - k) // s * s + k for size in x.shape[1:3])
    return _products(x[:, :height, :width], kernel, s)  # the last places reach the edge


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _products(x: jax.Array, kernel: jax.Array, s: int) -> jax.Array:
    """The convolution of stride `s`, without padding and with nothing left over at the edge.

    A strided kernel becomes, after space-to-depth by the stride, an m x m kernel of stride 1 with
    m = kernel / stride. Each input pixel is multiplied with all m^2 taps at once and the products
    are added where they belong: nothing is copied m^2 times. Unstrided kernels have too many taps
    for that, and gather patches instead.

    The gradient gathers patches for every kernel: its products are then as small as can be.
    """
    k = kernel.shape[0]
    if s == 1 or k % s:
        return _patches(x, k, s).astype(kernel.dtype) @ _for_patches(kernel, s, x.dtype)
    m = k // s
    blocks = _space_to_depth(x, s).astype(kernel.dtype)
    taps = _for_blocks(kernel, s, x.dtype).transpose(2, 0, 1, 3)
    products = blocks @ taps.reshape(blocks.shape[-1], -1)
    products = products.reshape(*blocks.shape[:3], m, m, -1)
    rows, columns = (size - m + 1 for size in blocks.shape[1:3])
    shifted = [products[:, i : i + rows, j : j + columns, i, j] for i in range(m) for j in range(m)]
    return functools.reduce(jnp.add, shifted)


def _products_forward(x: jax.Array, kernel: jax.Array, s: int) -> tuple[jax.Array, Any]:
    return _products(x, kernel, s), (x, kernel)


def _products_backward(
    s: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array | None, jax.Array]:
    x, kernel = saved
    k = kernel.shape[0]
    flat, of_kernel = jax.vjp(lambda kernel: _for_patches(kernel, s, x.dtype), kernel)
    if x.dtype == jnp.uint8:
        patches, of_x = _patches(x, k, s), None
    else:
        patches, of_patches = jax.vjp(lambda x: _patches(x, k, s), x)
        (of_x,) = of_patches(gradient @ flat.T)
    # The side turned round is copied: the gradient, the narrower of the two. The other way this
    # product takes two to three times as long, and without the barrier XLA makes it that way.
    rows = gradient.reshape(-1, gradient.shape[-1])
    patches = patches.astype(rows.dtype).reshape(rows.shape[0], -1)
    return of_x, *of_kernel(lax.optimization_barrier(rows.T @ patches).T)


_products.defvjp(_products_forward, _products_backward)


def _patches(x: jax.Array, k: int, s: int) -> jax.Array:
    """What each output sees: `(B, H, W, C)` -> `(B, H', W', k * k * C)`."""
    rows, columns = ((size - k) // s + 1 for size in x.shape[1:3])
    m = k // s
    if k % s:
        down, across = s * (rows - 1) + 1, s * (columns - 1) + 1
        parts = [x[:, i : i + down : s, j : j + across : s] for i in range(k) for j in range(k)]
    elif x.dtype == jnp.uint8:
        x = _space_to_depth(x, s)
        parts = [x[:, i : i + rows, j : j + columns] for i in range(m) for j in range(m)]
    else:  # neighbours lie side by side, as many as the stride, and are copied together
        x = x.reshape(x.shape[0], rows + m - 1, s, columns + m - 1, -1)
        taps = itertools.product(range(m), range(s), range(m))
        parts = [x[:, i : i + rows, r, j : j + columns] for i, r, j in taps]
    return jnp.concatenate(parts, axis=-1)


def _for_patches(kernel: jax.Array, s: int, dtype: Any) -> jax.Array:
    """The kernel for `_patches` of this dtype: `(k, k, C, F)` -> `(k * k * C, F)`."""
    if dtype == jnp.uint8 and kernel.shape[0] % s == 0:
        kernel = _for_blocks(kernel, s, dtype)
    return kernel.reshape(-1, kernel.shape[-1])


def _for_blocks(kernel: jax.Array, s: int, dtype: Any) -> jax.Array:
    """The kernel for `_space_to_depth` of this dtype: `(k, k, C, F)` -> `(m, m, s * s * C, F)`."""
    m = kernel.shape[0] // s
    kernel = kernel.reshape(m, s, m, s, *kernel.shape[2:])
    kernel = kernel.transpose((0, 2, 4, 1, 3, 5) if dtype == jnp.uint8 else (0, 2, 1, 3, 4, 5))
    return kernel.reshape(m, m, -1, kernel.shape[-1])


def _space_to_depth(x: jax.Array, s: int) -> jax.Array:
    """`(B, H, W, C)` -> `(B, H / s, W / s, s * s * C)`, channels as (row, column, channel).

    Bytes as (channel, row, column): emulators hand them over with each channel by itself.
    """
    batch, height, width, channels = x.shape
    height, width = height // s, width // s
    if x.dtype != jnp.uint8:
        x = x.reshape(batch, height, s, width, s * channels)
        return x.transpose(0, 1, 3, 2, 4).reshape(batch, height, width, -1)
    blocks = x.transpose(0, 3, 1, 2).reshape(batch, channels, height, s, width, s)
    if s == 4:
        # Four neighbouring pixels move as one word: a quarter of the scattered reads.
        words = lax.bitcast_convert_type(blocks, jnp.uint32).transpose(0, 2, 4, 1, 3)
        blocks = lax.bitcast_convert_type(words, jnp.uint8)
    else:
        blocks = blocks.transpose(0, 2, 4, 1, 3, 5)
    return blocks.reshape(batch, height, width, -1)
