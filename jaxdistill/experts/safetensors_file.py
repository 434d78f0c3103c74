"""Reads what safetensors writes: named arrays behind a header of JSON, which is checked there."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from jaxdistill.experts.arrays import contiguous_strides, is_swapped, strided
from jaxdistill.experts.limits import AGAIN, Unreadable
from jaxdistill.experts.tensors import is_shape

_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "C64": np.complex64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins so is one of safetensors."""
    # Eight bytes of header length, then the header, which is JSON.
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= size


def decode(data: bytes) -> dict[str, np.ndarray]:
    """The arrays in a file, by name, in the order in which they lie there.

    Raises:
      Unreadable: it is damaged, or has a tensor that NumPy cannot hold.
    """
    # safetensors.numpy has no bfloat16 when reading from bytes, so the dtypes are ours.
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise Unreadable(
            f"is a safetensors file cut short or damaged ({error}); download or save it again"
        ) from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tree = {}
    # The library gives them in any order.
    for key, tensor in sorted(tensors, key=lambda x: (header[x[0]]["data_offsets"], x[0])):
        if tensor["dtype"] not in _DTYPES:
            raise Unreadable(
                f"tensor {key!r} has dtype {tensor['dtype']}, which NumPy cannot hold; "
                "save it as F32"
            )
        dtype = np.dtype(_DTYPES[tensor["dtype"]])
        shape = tuple(tensor["shape"])
        if not is_shape(shape):
            raise Unreadable(f"tensor {key!r} has a shape that cannot be; {AGAIN}")
        strides = contiguous_strides(shape)
        tree[key] = strided(
            memoryview(tensor["data"]), dtype, 0, shape, strides, swap=is_swapped("little")
        )
    return _with_dots(tree)


def _with_dots(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with dots in its names, where each is a Flax tree's keys joined by commas."""
    if all("," in name and "." not in name for name in tree):
        return {name.replace(",", "."): array for name, array in tree.items()}
    return tree
