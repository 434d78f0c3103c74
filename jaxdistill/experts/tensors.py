"""What stands for the tensors, arrays and objects of a pickle until its arrays are made.

`unpickling` makes these beside containers and scalars, and `arrays` makes NumPy arrays of all but
`Opaque`. They hold what a file said and do nothing. PyTorch's dtypes and kinds of storage are here
as well, in NumPy's words.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import ml_dtypes
import numpy as np

from jaxdistill.experts.limits import AGAIN, Unreadable


@dataclasses.dataclass(eq=False)
class Opaque:
    """Stands in for an object that was not rebuilt; keeps what the file would have given it.

    Attributes:
      name: dotted name of the class or function the file asked for.
      args: what it would have been called with.
      state: what its attributes would have been set from, usually a dict.
      mapping: what would have been stored in it by key.
      items: what would have been appended to it.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    mapping: dict[Any, Any] = dataclasses.field(default_factory=dict)
    items: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Global:
    """A name the file mentions; never looked up anywhere but in our own tables."""

    name: str


@dataclasses.dataclass(eq=False)
class Storage:
    """A run of elements that tensors view; `start` and `numel` count elements of `dtype`."""

    key: str
    dtype: np.dtype
    start: int
    numel: int


@dataclasses.dataclass(eq=False)
class Tensor:
    """A view of a storage; offset and stride count elements of `dtype`."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: np.dtype
    conjugate: bool
    negative: bool


@dataclasses.dataclass(eq=False)
class Dtype:
    """A NumPy dtype as pickled: 'f8', then '<' when its state arrives."""

    code: str
    order: str = "="

    def resolve(self, kinds: str) -> np.dtype | None:
        """The dtype, or None if it is not one of `kinds` (objects and records never are)."""
        if not re.fullmatch(rf"[{kinds}]\d{{0,6}}", self.code) or self.order not in "<>=|":
            return None
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


@dataclasses.dataclass(eq=False)
class Array:
    """A NumPy array as pickled: made empty, filled when its state arrives.

    `axes` says which axis of `shape` is its first, its second and so on; None in their order.
    """

    shape: tuple[int, ...] = (0,)
    dtype: Dtype = dataclasses.field(default_factory=lambda: Dtype("u1"))
    fortran: bool = False
    data: Any = b""
    axes: tuple[int, ...] | None = None
    cast: np.dtype | None = None


TORCH_DTYPES: dict[str, np.dtype] = {
    f"torch.{name}": np.dtype(dtype)
    for name, dtype in {
        "float64": np.float64,
        "double": np.float64,
        "float32": np.float32,
        "float": np.float32,
        "float16": np.float16,
        "half": np.float16,
        "bfloat16": ml_dtypes.bfloat16,
        "int64": np.int64,
        "long": np.int64,
        "int32": np.int32,
        "int": np.int32,
        "int16": np.int16,
        "short": np.int16,
        "int8": np.int8,
        "uint8": np.uint8,
        "uint16": np.uint16,
        "uint32": np.uint32,
        "uint64": np.uint64,
        "bool": np.bool_,
        "complex64": np.complex64,
        "cfloat": np.complex64,
        "complex128": np.complex128,
        "cdouble": np.complex128,
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
        "float8_e5m2": ml_dtypes.float8_e5m2,
        "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
        "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
    }.items()
}

# Quantised tensors are not rebuilt, but their storages have to be stepped over.
_STORAGE_DTYPES: dict[str, np.dtype] = {
    name + "Storage": np.dtype(dtype)
    for name, dtype in {
        "Double": np.float64,
        "Float": np.float32,
        "Half": np.float16,
        "BFloat16": ml_dtypes.bfloat16,
        "Long": np.int64,
        "Int": np.int32,
        "Short": np.int16,
        "Char": np.int8,
        "Byte": np.uint8,
        "Bool": np.bool_,
        "ComplexFloat": np.complex64,
        "ComplexDouble": np.complex128,
        "QInt8": np.int8,
        "QUInt8": np.uint8,
        "QInt32": np.int32,
        "QUInt4x2": np.uint8,
        "QUInt2x4": np.uint8,
        "Untyped": np.uint8,
    }.items()
}


def storage_of(saved_id: Any) -> Any:
    """What a pickle's persistent id stands for: a storage, or a class beside its source text."""
    if not isinstance(saved_id, tuple) or len(saved_id) < 2:
        raise Unreadable(f"refers to something that is not a storage; {AGAIN}")
    if saved_id[0] == "module":
        return saved_id[1]
    # The location ('cpu', 'cuda:0', 'mps') says where it was; everything is read to the host.
    tag, kind, key, _location, numel, *view = saved_id
    module, _, storage = kind.name.rpartition(".")
    if tag != "storage" or module.split(".")[0] != "torch" or storage not in _STORAGE_DTYPES:
        raise Unreadable(f"has a storage of unknown kind {kind.name!r}; save the state_dict again")
    start = 0
    if view and view[0] is not None:
        _key, start, numel = view[0]
    if not isinstance(key, str) or not is_count(start) or not is_count(numel):
        raise Unreadable(f"describes a storage by what cannot be; {AGAIN}")
    return Storage(key, _STORAGE_DTYPES[storage], start, numel)


def no_storage(saved_id: Any) -> Any:
    """Refuses any persistent id, where a pickle may not refer to a storage."""
    raise Unreadable(f"refers to a storage where none can be; {AGAIN}")


def is_count(value: Any) -> bool:
    """Whether a value of a file can be a number of elements."""
    return type(value) is int and 0 <= value < 2**62


def is_shape(values: Any) -> bool:
    """Whether a value of a file can be the shape of an array."""
    # NumPy has at most 64 dimensions.
    return isinstance(values, (tuple, list)) and len(values) <= 64 and all(map(is_count, values))


def as_bytes(data: Any) -> bytes:
    """Bytes, also where Python 2 pickled them as text."""
    return data.encode("latin-1") if isinstance(data, str) else bytes(memoryview(data))


def key_name(key: Any) -> str:
    """A key of a mapping as a word of a path."""
    if isinstance(key, Opaque):
        return f"<{key.name}>"
    if isinstance(key, (str, int, float, bytes, type(None), np.generic)):
        return str(key)
    return f"<{type(key).__name__}>"
