"""Makes NumPy arrays of what stands for them, in C order, native byte order, of their own memory.

`Finisher` turns what a pickle made (see `tensors`) into plain values, skipping the objects that
were not rebuilt. What arrays take is counted (see `limits`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jaxdistill.experts.limits import AGAIN, MAX_DEPTH, SET_BYTES, Budget, Unreadable
from jaxdistill.experts.tensors import (
    TORCH_DTYPES,
    Array,
    Dtype,
    Global,
    Opaque,
    Storage,
    Tensor,
    as_bytes,
    is_shape,
    key_name,
)
from jaxdistill.text import one_line


class Finisher:
    """Turns what `unpickling.interpret` made into plain data; owns the storages' bytes.

    Each object is turned once, so what was shared in the file is shared in the result, and what
    refers to itself still does.
    """

    def __init__(self, fetch: Callable[[str], bytes], budget: Budget, swap: bool):
        self.fetch = fetch
        self.swap = swap
        self.budget = budget
        self.skipped: list[str] = []
        self.done: dict[int, Any] = {}
        self.inside_opaque = 0
        self.arrays = 0  # how many NumPy arrays there are

    def plain(self, value: Any, path: tuple[Any, ...]) -> Any:
        """The plain form of a value found below the keys in `path`, one per container."""
        if isinstance(value, (str, bytes, bytearray, int, float, complex, type(None), np.generic)):
            return value
        if len(path) > MAX_DEPTH:
            raise Unreadable(f"is nested deeper than {MAX_DEPTH}; save only the state_dict")
        if id(value) not in self.done:
            self._turn(value, path)
        return self.done[id(value)]

    def _turn(self, value: Any, path: tuple[Any, ...]) -> None:
        result: Any
        if isinstance(value, dict):
            self.done[id(value)] = result = {}
            self._fill(result, value, path)
        elif isinstance(value, list):
            self.done[id(value)] = result = []
            self._extend(result, value, path)
        elif isinstance(value, tuple):
            result = []
            self._extend(result, value, path)
            self.done[id(value)] = tuple(result)
        elif isinstance(value, (set, frozenset)):
            result = []
            self._extend(result, value, path)
            # Arrays cannot be in a set; a list holds whatever there is.
            hashable = all(not isinstance(item, (np.ndarray, list)) for item in result)
            self.done[id(value)] = type(value)(result) if hashable else result
        elif isinstance(value, Opaque):
            self._skip(value, value.name, path)
        elif isinstance(value, Tensor):
            self.done[id(value)] = self._tensor(value)
        elif isinstance(value, Storage):
            whole = Tensor(value, 0, (value.numel,), (1,), value.dtype, False, False)
            self.done[id(value)] = self._tensor(whole)
        elif isinstance(value, Array):
            array = self._array(value)
            if array is not None:
                self.done[id(value)] = array
                self.arrays += 1
            else:
                self._skip(value, "numpy.ndarray of objects", path, value.data)
        elif isinstance(value, Dtype):
            self.done[id(value)] = value.resolve("?biufcSU") or value.code
        elif isinstance(value, Global) and value.name in TORCH_DTYPES:
            self.done[id(value)] = TORCH_DTYPES[value.name]
        elif isinstance(value, Global):
            self._skip(value, value.name, path)
        else:
            raise Unreadable(f"holds a {type(value).__name__} where none can be; {AGAIN}")

    def _fill(self, result: dict[Any, Any], value: dict[Any, Any], path: tuple[Any, ...]) -> None:
        for key, item in value.items():
            below = (*path, key)
            if not isinstance(key, str):
                key = self.plain(key, (*path, f"{key_name(key)} (key)"))
                # A tensor or storage as a key: keep the entry, under a key that can be one.
                key = Opaque("torch.Tensor") if isinstance(key, np.ndarray) else key
            result[key] = self.plain(item, below)

    def _extend(self, result: list[Any], value: Iterable[Any], path: tuple[Any, ...]) -> None:
        for index, item in enumerate(value):
            result.append(self.plain(item, (*path, index)))

    def _skip(self, value: Any, name: str, path: tuple[Any, ...], content: Any = None) -> None:
        name = one_line(name)
        if not self.inside_opaque:
            place = ".".join(map(key_name, path))
            self.budget.objects.spend(SET_BYTES + len(place))
            self.skipped.append(f"{one_line(place) or 'top level'} ({name})")
        self.done[id(value)] = result = Opaque(name)
        self.inside_opaque += 1
        below = (*path, "()")  # never shown: what is inside an opaque one is not listed
        if isinstance(value, Opaque):
            result.args = self.plain(value.args, below)
            result.state = self.plain(value.state, below)
            self._fill(result.mapping, value.mapping, path)
            self._extend(result.items, value.items, path)
        else:
            result.state = self.plain(content, below)
        self.inside_opaque -= 1

    def _tensor(self, tensor: Tensor) -> np.ndarray:
        storage = tensor.storage
        elements = math.prod(tensor.size)
        held = storage.numel * storage.dtype.itemsize // tensor.dtype.itemsize
        if elements > held:
            raise Unreadable(
                f"has a tensor of size {tensor.size} over a storage of {held} elements: it was "
                "expanded, or is damaged; save its contiguous() copy"
            )
        self.budget.arrays.spend(elements * tensor.dtype.itemsize)
        data = memoryview(self.fetch(storage.key))
        first, itemsize = storage.start * storage.dtype.itemsize, storage.dtype.itemsize
        if first + storage.numel * itemsize > len(data):
            raise Unreadable(
                f"storage {storage.key!r} holds {len(data)} bytes, expected "
                f"{first + storage.numel * itemsize}; {AGAIN}"
            )
        data = data[first : first + storage.numel * itemsize]
        array = strided(
            data, tensor.dtype, tensor.offset, tensor.size, tensor.stride, swap=self.swap
        )
        # asarray, because NumPy's functions make scalars of arrays without dimensions.
        array = np.asarray(np.conjugate(array)) if tensor.conjugate else array
        return np.asarray(np.negative(array)) if tensor.negative else array

    def _array(self, value: Array) -> np.ndarray | None:
        """A pickled NumPy array; None for dtypes that hold Python objects or records."""
        dtype = value.dtype.resolve("?biufcSU") if isinstance(value.dtype, Dtype) else None
        if dtype is None or not isinstance(value.data, (bytes, bytearray, str)):
            return None
        size = math.prod(value.shape) * dtype.itemsize if is_shape(value.shape) else -1
        if size != len(value.data):
            raise Unreadable(
                f"has a NumPy array whose shape does not fit its {len(value.data)} bytes; {AGAIN}"
            )
        self.budget.arrays.spend(2 * size + math.prod(value.shape) * 16)
        order: Any = "F" if value.fortran else "C"
        flat = np.ndarray(math.prod(value.shape), dtype, as_bytes(value.data) or None)
        array = flat.reshape(value.shape, order=order)
        return np.array(
            array if value.axes is None else array.transpose(value.axes),
            dtype=value.cast or dtype.newbyteorder("="),
            order="C",
        )


def is_swapped(order: str) -> bool:
    """Whether bytes written in this order have to be turned round on this machine."""
    return order != sys.byteorder


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Those of an array in C order, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def strided(
    data: bytes | memoryview,
    dtype: np.dtype,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    *,
    swap: bool,
) -> np.ndarray:
    """A contiguous copy of a strided view of `data`; offset and stride count elements.

    Raises:
      Unreadable: the view would reach outside `data`.
    """
    if 0 in size:
        return np.empty(size, dtype)
    elements = len(data) // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= elements:
        raise Unreadable(
            f"has a tensor of size {size}, stride {stride} and offset {offset}, which needs "
            f"{last + 1} elements of a storage of {elements}; {AGAIN}"
        )
    strides = tuple(step * dtype.itemsize for step in stride)
    # Bytes other than 0 and 1 are not booleans NumPy can rely on.
    seen = np.dtype(np.uint8) if dtype == np.bool_ else dtype
    view = np.ndarray(size, seen, data, offset * dtype.itemsize, strides)
    array = np.array(view, order="C")
    if dtype == np.bool_:
        return array.astype(np.bool_)
    if swap and dtype.itemsize > 1:
        width = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
        array = array.reshape(-1).view(f"u{width}").byteswap().view(dtype).reshape(size)
    return array
