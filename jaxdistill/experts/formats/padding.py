"""The padding of convolutions, which a file need not say, and the grid that they end in."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from jaxdistill import networks
from jaxdistill.experts.formats.kernels import Reader
from jaxdistill.experts.formats.layers import Conv, Plan, brief
from jaxdistill.tasks.views import AnyView, View

_MOST_TRIED = 100_000  # convolutions, of all the paddings that are tried

Paddings = tuple[int | str, ...]
"""One for each convolution, as in `layers.Conv`."""


def geometry(
    reader: Reader, kernels: Sequence[np.ndarray], channels: int | None, view: AnyView | None
) -> tuple[tuple[networks.ConvLayer, ...], tuple[int, int, int] | None, list[str]]:
    """The convolutions with their padding, and the (C, H, W) that all ends in (None without any).

    Args:
      kernels: `(k, k, I, O)` of each convolution.
      channels: that all ends in, residual sections too.

    Returns:
      Also notes: what was assumed.

    Raises:
      ValueError: no padding, or more than one, agrees with the first dense layer.
    """
    plan, where = reader.plan, reader.where
    if not plan.convs and not plan.sections:
        return (), None, []
    if not isinstance(view, View):
        raise ValueError(f"{where}: has convolutions; expected a view of the screen")
    assert channels is not None
    torso = _Torso(plan, kernels, channels, view, reader.inputs())
    paddings, notes = _paddings(torso, where)
    rows, columns = torso.end(paddings)
    if not torso.fits(paddings):
        first = plan.first_dense[0].weight
        got = f"{channels}x{rows}x{columns} = {channels * rows * columns} features"
        raise ValueError(
            f"{where}: {brief([first])} has shape {reader.arrays[first].shape}, but the "
            f"convolutions make {got if rows else 'nothing'} of a {view.height}x{view.width} view; "
            "check the view, strides and paddings"
        )
    return _padded(torso, paddings, where), (channels, rows, columns), notes


@dataclasses.dataclass(frozen=True, eq=False)
class _Torso:
    """Convolutions that see a view, and what they have to end in.

    Attributes:
      kernels, channels: see `geometry`.
      width: how many numbers the first dense layer takes.
    """

    plan: Plan
    kernels: Sequence[np.ndarray]
    channels: int
    view: View
    width: int

    @property
    def convs(self) -> list[tuple[Conv, int]]:
        """Each with the size of its kernel."""
        sizes = (kernel.shape[0] for kernel in self.kernels)
        return list(zip(self.plan.convs, sizes, strict=True))

    def end(self, paddings: Paddings) -> tuple[int, int]:
        """Rows and columns that all ends in; (0, 0) where a kernel does not fit."""
        height_width = [self.view.height, self.view.width]
        for (conv, kernel), padding in zip(self.convs, paddings, strict=True):
            height_width = [convolved(n, kernel, conv.stride, padding) for n in height_width]
            if min(height_width) < 1:
                return (0, 0)
        for _ in self.plan.sections:
            height_width = [(n + 1) // 2 for n in height_width]
        return (height_width[0], height_width[1])

    def fits(self, paddings: Paddings) -> bool:
        """Whether the first dense layer takes what all ends in."""
        rows, columns = self.end(paddings)
        return self.channels * rows * columns == self.width


def _paddings(torso: _Torso, where: str) -> tuple[Paddings, list[str]]:
    """What the plan says, with 0 or the only one that fits where it says nothing; notes."""
    plan = torso.plan
    usual = tuple(conv.padding or 0 for conv in plan.convs)
    unknown = [conv.weights.key for conv in plan.convs if conv.padding is None]
    if torso.fits(usual) or not unknown:
        return usual, []
    choices = itertools.product(
        *(
            range(size // 2 + 1) if conv.padding is None else (conv.padding,)
            for conv, size in torso.convs
        )
    )
    most = _MOST_TRIED // len(plan.convs)
    fitting = [paddings for paddings in itertools.islice(choices, most) if torso.fits(paddings)]
    first = plan.first_dense[0].weight
    if len(fitting) > 1:
        raise ValueError(
            f"{where}: {len(fitting)} paddings agree with the {torso.width} inputs of {first}; "
            f"say which: give padding for {brief(unknown)}"
        )
    if not fitting:
        return usual, []
    return fitting[0], [f"padding {list(fitting[0])}: the only one that agrees with {first}"]


def _padded(torso: _Torso, paddings: Paddings, where: str) -> tuple[networks.ConvLayer, ...]:
    """The convolutions as our networks have them."""
    convs: list[networks.ConvLayer] = []
    for (conv, size), kernel, padding in zip(torso.convs, torso.kernels, paddings, strict=True):
        height, width = networks.grid(convs, torso.view.height, torso.view.width)
        zeros, across = (_zeros(n, size, conv.stride, padding) for n in (height, width))
        if zeros != across:
            raise ValueError(
                f"{where}: 'same' padding is not the same for {height} rows and {width} columns"
            )
        convs.append(networks.ConvLayer(kernel.shape[3], size, conv.stride, zeros // 2, zeros % 2))
    return tuple(convs)


def convolved(size: int, kernel: int, stride: int, padding: int | str) -> int:
    """How many rows or columns a convolution makes of `size`; below 1 where it does not fit."""
    return (size + _zeros(size, kernel, stride, padding) - kernel) // stride + 1


def _zeros(size: int, kernel: int, stride: int, padding: int | str) -> int:
    """What is added to `size` pixels on both sides together, by a number or by `SAME`."""
    if isinstance(padding, int):
        return 2 * padding
    return max(0, (-(-size // stride) - 1) * stride + kernel - size)
