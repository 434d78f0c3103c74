"""Tensors of a file, checked, and laid out the way our networks have them."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxdistill.experts.formats.layers import Arrays, Conv, Plan, Weights, brief


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """Reads the tensors of a plan's layers; ValueError, from each method, if one does not fit.

    Attributes:
      arrays: tensors by name.
      where: what messages call the file.
    """

    arrays: Arrays
    plan: Plan
    where: str

    def tensor(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """See the function `tensor`."""
        return tensor(self.arrays, name, shape, self.where)

    def inputs(self) -> int:
        """How many numbers the first dense layer takes."""
        return self.dense(self.plan.first_dense[0], None).shape[1]

    def dense(self, layer: Weights, inputs: int | None) -> np.ndarray:
        """`(outputs, inputs)`, as PyTorch has it; `inputs` None fits any number."""
        if self.plan.flax:
            return _half(self.tensor(layer.weight, (inputs, None)).T, layer)
        return _half(self.tensor(layer.weight, (None, inputs)), layer)

    def bias(self, layer: Weights, outputs: int) -> np.ndarray:
        """`(outputs,)`; zeros for a layer that has none."""
        if layer.bias is None:
            return np.zeros(outputs, np.float32)
        if layer.half is not None:
            outputs = self.arrays[layer.weight].shape[-1 if self.plan.flax else 0]
        return _half(self.tensor(layer.bias, (outputs,)), layer)

    def conv(self, conv: Conv, channels: int | None) -> np.ndarray:
        """`(k, k, I, O)`, as Flax has it, from PyTorch's `(O, I, k, k)`; `channels` is I."""
        name, size = conv.weights.weight, conv.kernel
        if self.plan.flax:
            weight = self.tensor(name, (size, size, channels, None))
        else:
            weight = self.tensor(name, (None, channels, size, size)).transpose(2, 3, 1, 0)
        padding = conv.padding if isinstance(conv.padding, int) else 0
        if padding >= weight.shape[0]:
            raise ValueError(
                f"{self.where}: {brief([name])} has kernels of {weight.shape[0]}x{weight.shape[1]},"
                f" but padding {padding}; expected less than a kernel"
            )
        if weight.shape[0] != weight.shape[1]:
            raise ValueError(
                f"{self.where}: {name} has shape {self.arrays[name].shape}, expected a square "
                f"kernel (O, I, k, k)"
            )
        return weight

    def block(self, weights: Weights, channels: int) -> np.ndarray:
        """A residual block's kernel `(3, 3, C, C)`, of as many outputs as inputs."""
        kernel = self.conv(Conv(weights, 1, 3, 1), channels)
        if kernel.shape[3] != channels:
            raise ValueError(
                f"{self.where}: {brief([weights.weight])} has {kernel.shape[3]} outputs, expected "
                f"{channels}, those of its residual section"
            )
        return kernel

    def rows_first(self, weight: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
        """Inputs in the order (H, W, C) of our networks, whatever the file's network flattens.

        Args:
          weight: `(N, C*H*W)`.
          grid: (C, H, W).
        """
        plan = self.plan
        if plan.flax if plan.rows_first is None else plan.rows_first:
            return weight
        return weight.reshape(-1, *grid).transpose(0, 2, 3, 1).reshape(len(weight), -1)


def _half(array: np.ndarray, layer: Weights) -> np.ndarray:
    """The outputs of a file's layer that are this one's; they come first."""
    if layer.half is None:
        return array
    middle = len(array) // 2
    return array[middle:] if layer.half else array[:middle]


def tensor(arrays: Arrays, name: str, shape: tuple[int | None, ...], where: str) -> np.ndarray:
    """A tensor as float32, of this shape (None fits any size)."""
    array = arrays[name]
    fits = len(array.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or 0 in array.shape:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        wanted += "," if len(shape) == 1 else ""
        raise ValueError(f"{where}: {brief([name])} has shape {array.shape}, expected ({wanted})")
    if array.dtype.kind != "f" and not array.dtype.name.startswith(("bfloat", "float")):
        raise ValueError(
            f"{where}: {brief([name])} has dtype {array.dtype}, expected floating point"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{where}: {brief([name])} holds NaN or infinite weights; the expert is broken"
        )
    return array
