"""Reads what ``flax.serialization`` writes: msgpack, in which arrays are extensions.

The top is a map. An array is an extension of type 1 that holds `(shape, dtype's name, bytes)`, a
NumPy scalar one of type 3, a complex number one of type 2; an array of over a gigabyte is a map of
its chunks. Lists have become maps from "0", "1", ...

Msgpack is data and nothing else, but a few bytes of it may say that a list has four thousand
million entries. So nothing is made before its bytes are there, and what it takes is counted (see
`limits`).
"""

from __future__ import annotations

import math
import struct
from typing import Any

import ml_dtypes
import numpy as np

from jaxdistill.experts.limits import (
    CONTAINER_BYTES,
    ITEM_BYTES,
    MAX_DEPTH,
    MAX_KEY_LENGTH,
    MAX_OPERATIONS,
    Budget,
    Unreadable,
)

_AGAIN = "download it again, or save it again with flax.serialization"
_CHUNKED = "__msgpack_chunked_array__"
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3

_DTYPES: dict[str, np.dtype] = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}

# First bytes of what has a fixed size, and how to unpack what follows.
_NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
# First bytes of what says its length, and how many bytes say it.
_LENGTHS = {
    first + width: (kind, 2**width)
    for first, kind in ((0xC4, "bytes"), (0xC7, "extension"), (0xD9, "text"))
    for width in range(3)
} | {0xDC: ("list", 2), 0xDD: ("list", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)}
_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


def is_flax(head: bytes) -> bool:
    """Whether a file that begins so is a msgpack map whose first key is text."""
    first = head[:1]
    if not first or not (0x81 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF)):
        return False
    key = head[{0xDE: 3, 0xDF: 5}.get(first[0], 1) :][:1]
    return bool(key) and (0xA0 <= key[0] <= 0xBF or key[0] in (0xD9, 0xDA))


def decode(data: bytes, budget: Budget) -> Any:
    """The tree in a file: dicts, lists and plain values, with arrays of their own memory.

    Raises:
      Unreadable: it is damaged, is no such file, or asks for more than one of its size may.
    """
    reader = _Reader(data, budget)
    tree = reader.value(0)
    if reader.place != len(data):
        raise Unreadable(f"goes on after its end: it is damaged; {_AGAIN}")
    return tree


class _Reader:
    """Reads one value after another; `place` is where the next one begins."""

    def __init__(
        self, data: bytes | memoryview, budget: Budget, operations: list[int] | None = None
    ):
        self.data = memoryview(data)
        self.budget = budget
        self.place = 0
        # In a list, since what is inside an extension counts for the whole file.
        self.operations = operations or [MAX_OPERATIONS]

    def take(self, count: int) -> memoryview:
        end = self.place + count
        if end > len(self.data):
            left = len(self.data) - self.place
            raise Unreadable(
                f"ends too soon: {count} bytes should follow and {left} are left; {_AGAIN}"
            )
        taken = self.data[self.place : end]
        self.place = end
        return taken

    def value(self, depth: int) -> Any:
        self.operations[0] -= 1
        if self.operations[0] < 0:
            raise Unreadable(f"holds over {MAX_OPERATIONS} values; save only the parameters")
        if depth > MAX_DEPTH:
            raise Unreadable(f"is nested deeper than {MAX_DEPTH}; save only the parameters")
        (first,) = self.take(1)
        if first <= 0x7F:
            return first
        if first >= 0xE0:
            return first - 256
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _NUMBERS:
            form = _NUMBERS[first]
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        if first in _EXTENSIONS:
            return self.extension(_EXTENSIONS[first])
        if first in _LENGTHS:
            kind, width = _LENGTHS[first]
            length = int.from_bytes(self.take(width), "big")
        elif first <= 0x8F:
            kind, length = "map", first & 0x0F
        elif first <= 0x9F:
            kind, length = "list", first & 0x0F
        elif first <= 0xBF:
            kind, length = "text", first & 0x1F
        else:
            raise Unreadable(f"has a byte of no meaning, {first:#x}: it is damaged; {_AGAIN}")
        if kind == "bytes":
            return bytes(self.take(length))
        if kind == "text":
            return self.text(length)
        if kind == "extension":
            return self.extension(length)
        if kind == "list":
            return self.sequence(length, depth)
        return self.mapping(length, depth)

    def text(self, length: int) -> str:
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise Unreadable(f"has text that is not UTF-8: it is damaged; {_AGAIN}") from error

    def holds(self, length: int, least: int, what: str) -> None:
        """Refuses more entries than there can be, before any is made."""
        left = len(self.data) - self.place
        if length * least > left:
            raise Unreadable(f"has a {what} of {length} entries in {left} bytes; {_AGAIN}")
        self.budget.objects.spend(CONTAINER_BYTES + 4 * ITEM_BYTES * length)

    def sequence(self, length: int, depth: int) -> list[Any]:
        self.holds(length, 1, "list")
        return [self.value(depth + 1) for _ in range(length)]

    def mapping(self, length: int, depth: int) -> Any:
        self.holds(length, 2, "map")
        made: dict[str, Any] = {}
        for _ in range(length):
            key = self.value(depth + 1)
            if not isinstance(key, str) or len(key) > MAX_KEY_LENGTH:
                kind = type(key).__name__
                raise Unreadable(
                    f"has a key that is no text of up to {MAX_KEY_LENGTH} characters ({kind}); "
                    "expected the names of parameters"
                )
            made[key] = self.value(depth + 1)
        return self.joined(made) if _CHUNKED in made else made

    def extension(self, length: int) -> Any:
        (kind,) = struct.unpack(">b", self.take(1))
        inner = _Reader(self.take(length), self.budget, self.operations)
        if kind not in (_ARRAY, _COMPLEX, _SCALAR):
            raise Unreadable(f"has an extension of type {kind}, which Flax never writes; {_AGAIN}")
        parts = inner.parts()
        if kind == _COMPLEX:
            if len(parts) != 2 or not all(isinstance(part, (int, float)) for part in parts):
                raise Unreadable(f"has a complex number that is none; {_AGAIN}")
            return complex(*parts)
        array = self.array(parts)
        return array[()] if kind == _SCALAR else array

    def parts(self) -> list[Any]:
        """The flat list that an extension holds; what is long in it stays where it is."""
        (first,) = self.take(1)
        if not 0x90 <= first <= 0x9F:
            raise Unreadable(f"has an extension that holds no list; {_AGAIN}")
        parts: list[Any] = []
        for _ in range(first & 0x0F):
            width = {0xC4: 1, 0xC5: 2, 0xC6: 4}.get(self.data[self.place], 0) if self.left else 0
            if width:
                self.take(1)
                parts.append(self.take(int.from_bytes(self.take(width), "big")))
            else:
                parts.append(self.value(1))
        return parts

    @property
    def left(self) -> int:
        return len(self.data) - self.place

    def array(self, parts: list[Any]) -> np.ndarray:
        shape: Any
        shape, name, data = parts if len(parts) == 3 else (None, None, None)
        if isinstance(name, memoryview):  # written without the type of text
            name = bytes(name[:40]).decode("latin-1")
        sizes = isinstance(shape, list) and len(shape) <= 64
        if not sizes or not all(type(n) is int and 0 <= n < 2**62 for n in shape):
            raise Unreadable(f"has an array whose shape cannot be; {_AGAIN}")
        if not isinstance(name, str) or name not in _DTYPES or not isinstance(data, memoryview):
            raise Unreadable(
                "has an array of a dtype that NumPy cannot hold; expected floats or whole numbers"
            )
        dtype = _DTYPES[name]
        if math.prod(shape) * dtype.itemsize != len(data):
            raise Unreadable(
                f"has an array whose shape does not fit its {len(data)} bytes; {_AGAIN}"
            )
        self.budget.objects.spend(CONTAINER_BYTES)
        self.budget.arrays.spend(len(data))
        seen = np.dtype(np.uint8) if name == "bool" else dtype.newbyteorder("<")
        flat = np.frombuffer(data, seen)
        return flat.reshape(shape).astype(dtype.newbyteorder("="), order="C", copy=True)

    def joined(self, made: dict[str, Any]) -> np.ndarray:
        """The array that was cut into chunks."""
        shape, chunks = made.get("shape"), made.get("chunks")
        if not isinstance(shape, dict) or not isinstance(chunks, dict):
            raise Unreadable(f"has an array in chunks without shape or chunks; {_AGAIN}")
        sizes: list[Any] = [shape.get(str(i)) for i in range(len(shape))]
        parts: list[Any] = [chunks.get(str(i)) for i in range(len(chunks))]
        if not all(isinstance(part, np.ndarray) and part.ndim == 1 for part in parts) or not parts:
            raise Unreadable(f"has an array in chunks that are none; {_AGAIN}")
        self.budget.arrays.spend(sum(part.nbytes for part in parts))
        flat = np.concatenate(parts)
        if not all(type(n) is int and n >= 0 for n in sizes) or len(sizes) > 64:
            raise Unreadable(f"has an array whose shape cannot be; {_AGAIN}")
        if math.prod(sizes) != flat.size:
            raise Unreadable(f"has an array whose shape does not fit its chunks; {_AGAIN}")
        return flat.reshape(sizes)
