"""PyTorch files and pickles, written without PyTorch.

A PyTorch file is a zip archive of stored (not packed) records: a pickle in which every tensor is a
call of `torch._utils._rebuild_tensor_v2` on a storage that is named there, and one record per
storage. Pickles are written opcode by opcode, so equal input gives equal bytes, and what they name
need not be installed here.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdistill import disk

_STORAGES: dict[np.dtype, str] = {np.dtype("<f4"): "FloatStorage", np.dtype("<f2"): "HalfStorage"}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's first date


@dataclasses.dataclass(frozen=True)
class Name:
    """Something that a reader of the pickle imports, such as a class."""

    module: str
    attribute: str


@dataclasses.dataclass(frozen=True)
class Call:
    """What a reader of the pickle makes by calling `function`."""

    function: Name
    arguments: tuple[Any, ...] = ()


def save(tree: Any, path: str | os.PathLike[str]) -> None:
    """Writes nested dicts, lists, tuples, scalars and float arrays as a PyTorch file.

    The file appears whole or not at all; its folder is made if needed. An array that occurs twice
    is stored once.

    Raises:
      ValueError: the file exists, or a value is of another kind.
      OSError: it cannot be written.
    """
    disk.check_free(path)
    disk.write_files({path: dumps(tree)}, alone=False, folder=True)


def dumps(tree: Any) -> bytes:
    """The bytes of a PyTorch file; see `save`."""
    arrays: list[np.ndarray] = []
    data = _pickled(tree, arrays)
    return archive(
        {
            "archive/data.pkl": data,
            "archive/byteorder": b"little",
            **{f"archive/data/{key}": array.tobytes() for key, array in enumerate(arrays)},
            "archive/version": b"3\n",
        }
    )


def archive(members: Mapping[str, bytes]) -> bytes:
    """The bytes of a zip whose members are stored as they are, without the time of day."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return buffer.getvalue()


def pickled(value: Any) -> bytes:
    """A pickle of plain values, of `Name`s and `Call`s.

    Raises:
      ValueError: a value is of another kind.
    """
    return _pickled(value, None)


def _pickled(value: Any, arrays: list[np.ndarray] | None) -> bytes:
    return b"\x80\x02" + _opcodes(value, arrays) + pickle.STOP


def _opcodes(value: Any, arrays: list[np.ndarray] | None) -> bytes:
    """Opcodes that push `value`; arrays go to `arrays`, whose places are their keys."""
    if arrays is not None and isinstance(value, np.ndarray) and value.dtype in _STORAGES:
        return _tensor(value, arrays)
    if value is None:
        return pickle.NONE
    if isinstance(value, (bool, np.bool_)):
        return pickle.NEWTRUE if value else pickle.NEWFALSE
    if isinstance(value, (int, np.integer)):
        return _integer(int(value))
    if isinstance(value, (float, np.floating)):
        return pickle.BINFLOAT + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return pickle.BINUNICODE + struct.pack("<I", len(data)) + data
    if isinstance(value, Mapping):
        items = b"".join(_opcodes(part, arrays) for pair in value.items() for part in pair)
        return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    if isinstance(value, (list, tuple)):
        items = b"".join(_opcodes(item, arrays) for item in value)
        if isinstance(value, tuple):
            return pickle.MARK + items + pickle.TUPLE
        return pickle.EMPTY_LIST + pickle.MARK + items + pickle.APPENDS
    if isinstance(value, Name):
        return pickle.GLOBAL + f"{value.module}\n{value.attribute}\n".encode()
    if isinstance(value, Call):
        return _opcodes(value.function, arrays) + _opcodes(value.arguments, arrays) + pickle.REDUCE
    kind = getattr(value, "dtype", type(value).__name__)
    raise ValueError(f"a {kind} cannot be written to a PyTorch file; expected plain values")


def _integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(data) > 255:
        raise ValueError("an integer of over 255 bytes cannot be written to a PyTorch file")
    return pickle.LONG1 + bytes([len(data)]) + data


def _tensor(array: np.ndarray, arrays: list[np.ndarray]) -> bytes:
    """`torch._utils._rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())`."""
    key = next((key for key, known in enumerate(arrays) if known is array), len(arrays))
    if key == len(arrays):
        arrays.append(array)
    stride = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
    kind = Name("torch", _STORAGES[array.dtype])
    storage = _opcodes(("storage", kind, str(key), "cpu", int(array.size)), None)
    hooks = Call(Name("collections", "OrderedDict"))
    rest = (_opcodes(part, None) for part in (0, array.shape, stride, False, hooks))
    return (
        _opcodes(Name("torch._utils", "_rebuild_tensor_v2"), None)
        + pickle.MARK
        + storage
        + pickle.BINPERSID
        + b"".join(rest)
        + pickle.TUPLE
        + pickle.REDUCE
    )
