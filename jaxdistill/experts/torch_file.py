"""Reads files of weights, above all PyTorch's, without PyTorch and without running anything.

A PyTorch file is a pickle, and a pickle is a small program: read the usual way it may call any
function of any module. Here the program is never handed to Python's unpickler. Its opcodes are
interpreted by :func:`_interpret`, whose only values are containers, scalars and descriptions of
tensors, so nothing named in a file is ever imported, called, or given an attribute. Objects that
are neither tensors nor plain data become an inert :class:`Opaque`; a file that names something
like ``os.system`` is refused, because it was not made to hold weights.

What a file can cost is proportional to its size (see :mod:`limits`): whatever a few bytes may ask
for many times over, copies, keys, names, and views of one storage, is counted and refused beyond
that. SECURITY.md states the bounds.

Five kinds of file are understood: the zip archive of PyTorch 1.6 and later, the older sequence of
pickles followed by raw storages (whatever its extension), safetensors, what ``flax.serialization``
writes (see :mod:`flax_file`), and a plain pickle of NumPy's or JAX's arrays. Each may be packed
once, by gzip or as the one model of a zip archive.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import math
import os
import pickletools
import re
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import safetensors

from jaxdistill.experts import flax_file, limits
from jaxdistill.experts.limits import (
    AGAIN,
    CONTAINER_BYTES,
    ITEM_BYTES,
    MARK_BYTES,
    MAX_DEPTH,
    MAX_KEY_LENGTH,
    MAX_OPERATIONS,
    MEMO_BYTES,
    SET_BYTES,
    Allowance,
    Budget,
    Unreadable,
    allowed,
)
from jaxdistill.settings import one_line

MAX_BYTES = 4 * 2**30
"""Most bytes a file may hold, and its arrays may take in memory, unless the caller says."""

MAX_PICKLE_BYTES = 64 * 2**20
"""Most bytes of pickle; tensors live outside it, so real ones are far smaller."""

MAX_NAME_LENGTH = 10_000
MAX_PLACES = 20_000
MAX_NAME_CHARACTERS = 20_000_000

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


class _NotRebuilt(Exception):
    """A tensor of a kind NumPy has no equal for: it becomes an `Opaque`."""


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """What a file held.

    Attributes:
      tree: nested dicts, lists, tuples and scalars as they were saved, with NumPy arrays (C order,
        native byte order, owning their memory) for tensors. Every kind of mapping is a plain dict.
      skipped: where an `Opaque` stands in `tree` and what it stands for, outermost ones only,
        such as ``"args (argparse.Namespace)"``.
    """

    tree: Any
    skipped: tuple[str, ...] = ()


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


def read(
    source: str | os.PathLike[str] | bytes,
    *,
    name: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> TorchFile:
    """Reads a file of any of the five kinds above; nothing in the file is ever run.

    Args:
      source: a path, or the contents themselves, such as a member of another archive.
      name: what to call the file in messages, where `source` does not say it.
      max_bytes: refuse a file that holds more than this, or whose arrays would take more.

    Raises:
      FileNotFoundError: no such file.
      ValueError: anything else that keeps it from being read: a directory, another kind of file,
        damage, sizes beyond the limits, or a pickle that wants to call something dangerous. The
        message is one line that names the file.
    """
    label = name or ("in-memory file" if isinstance(source, bytes) else os.fspath(source))
    try:
        with _open(source) as stream:
            return _read(stream, max_bytes)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{label}: no such file; expected the path of a file written by torch.save or "
            "flax.serialization, or of a .safetensors file"
        ) from error
    except Unreadable as error:
        raise ValueError(f"{label}: {one_line(str(error))}") from error
    except OSError as error:
        reason = one_line(error.strerror or str(error))
        raise ValueError(f"{label}: cannot be read: {reason}") from error
    except Exception as error:
        # Damage shows itself as almost any exception of zipfile, pickletools, struct or NumPy.
        reason = one_line(f"{type(error).__name__}: {error}")
        raise ValueError(
            f"{label}: damaged, or not a file written by torch.save ({reason}); {AGAIN}"
        ) from error


def state_dicts(tree: Any) -> dict[str, dict[str, np.ndarray]]:
    """Every mapping from names to arrays in a tree, by its dotted path ('' for the tree itself).

    Where arrays are all that is found in a mapping and in the mappings inside it, those are
    flattened into it, names joined by dots, and are listed on their own as well; otherwise only
    the arrays it holds itself are listed. A module that was saved whole counts as the state_dict
    it would have given.
    A 'module.' or '_orig_mod.' that begins every name of a mapping is removed.

    Raises:
      ValueError: the tree repeats itself so often that listing it would not end, or has names
        that are longer than any parameter's.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    names = Allowance(
        MAX_NAME_CHARACTERS + limits.FACTOR * _extent(tree),
        "refers to the same dictionaries too many times",
    )
    _collect(tree, "", (), found, names)
    return found


# --- opening, and telling kinds of file apart


def _open(source: str | os.PathLike[str] | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    mode = os.stat(source).st_mode
    if stat.S_ISDIR(mode):
        raise Unreadable("is a directory; expected a file: give the path of the weights inside it")
    if not stat.S_ISREG(mode):
        raise Unreadable("is not a regular file; expected a file written by torch.save")
    return open(source, "rb")


def _read(stream: BinaryIO, max_bytes: int, packed: str = "") -> TorchFile:
    """Reads a file of any kind; `packed` says what it was packed in, if it was."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(512)
    stream.seek(0)
    if not head:
        raise Unreadable(f"is empty; expected a file written by torch.save: {AGAIN}")
    if size > max_bytes:
        raise Unreadable(f"holds over {max_bytes} bytes, the most that is read (max_bytes)")
    budget = limits.budget(size, max_bytes)
    most = min(max_bytes, allowed(size))
    if head[:2] == b"PK":
        return _read_zip(stream, budget, most, packed)
    if head[:2] == _GZIP:
        return _read_packed("gzip", _unzipped(stream, most), most, packed)
    if _is_safetensors(head, size):
        return _read_safetensors(stream.read())
    if flax_file.is_flax(head):
        return TorchFile(flax_file.decode(stream.read(), budget))
    if other := _other_kind(head):
        raise Unreadable(f"is not a file written by torch.save: it looks like {other}")
    return _read_legacy(stream.read(), budget)


def _read_packed(how: str, inner: io.BytesIO, most: int, packed: str) -> TorchFile:
    """Reads the file inside another, which may unpack to `most` bytes in all."""
    if packed:
        raise Unreadable(f"is packed twice, by {packed} and by {how}; unpack it once")
    return _read(inner, most - inner.getbuffer().nbytes, how)


_GZIP = b"\x1f\x8b"


def _unzipped(stream: BinaryIO, most: int) -> io.BytesIO:
    """What gzip packed, of one part or several."""
    unpacked = io.BytesIO()
    try:
        with gzip.GzipFile(fileobj=stream) as file:
            while piece := file.read(2**20):
                unpacked.write(piece)
                if unpacked.tell() > most:
                    raise Unreadable(
                        f"unpacks to over {most} bytes, more than a file of its size may, like a "
                        "bomb of gzip; refusing to read it"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"is gzip, cut short or damaged ({error}); {AGAIN}") from error
    return unpacked


def _is_safetensors(head: bytes, size: int) -> bool:
    # Eight bytes of header length, then the header, which is JSON.
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= size


_FROM_HDF5 = (
    "import h5py, numpy, safetensors.numpy; t = {}; h5py.File('FILE').visititems(lambda name, x: "
    "t.update({name.replace('/', '.'): numpy.asarray(x)}) if hasattr(x, 'dtype') else None); "
    "safetensors.numpy.save_file(t, 'FILE.safetensors')"
)
_SIGNATURES = {
    b"\x89HDF\r\n\x1a\n": f"HDF5; convert it in Python: {_FROM_HDF5}",
    b"\x93NUMPY": "a NumPy .npy array; save a state_dict with torch.save instead",
    b"BZh": "bzip2; unpack it and give the file inside",
    b"\xfd7zXZ": "xz; unpack it and give the file inside",
    b"7z\xbc\xaf": "a 7z archive; unpack it and give the file inside",
    b"Rar!": "a RAR archive; unpack it and give the file inside",
    b"version https://git-lfs": "a git-lfs pointer; fetch the real file with 'git lfs pull'",
}


def _other_kind(head: bytes) -> str | None:
    """What a file that is not PyTorch's looks like, and what to do about it; None if unknown."""
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    if head[257:262] == b"ustar":
        return (
            "a tar archive; unpack it, or, if a PyTorch older than 0.2 wrote it, "
            "load it in PyTorch and save it again"
        )
    if head[:1] == b"\x08" and (b"pytorch" in head or b"onnx" in head.lower()):
        return "ONNX; save the module's state_dict() with torch.save instead"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page; download the file itself (the 'raw' link)"
    text = head.decode("utf-8-sig", errors="ignore")
    # The last character may have been cut in two.
    if len(text.encode()) > len(head) - 7 and all(c.isprintable() or c in "\t\n\r\f" for c in text):
        return f"text, beginning {text[:40]!r}; {AGAIN}"
    return None


# --- safetensors


_SAFETENSORS_DTYPES: dict[str, Any] = {
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


def _read_safetensors(data: bytes) -> TorchFile:
    # safetensors.numpy has no bfloat16 when reading from bytes, so the dtypes are ours.
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise Unreadable(
            f"is a safetensors file cut short or damaged ({error}); download or save it again"
        ) from error
    tree = {}
    for key, tensor in tensors:
        if tensor["dtype"] not in _SAFETENSORS_DTYPES:
            raise Unreadable(
                f"tensor {key!r} has dtype {tensor['dtype']}, which NumPy cannot hold; "
                "save it as F32"
            )
        dtype = np.dtype(_SAFETENSORS_DTYPES[tensor["dtype"]])
        shape = tuple(tensor["shape"])
        if not _is_shape(shape):
            raise Unreadable(f"tensor {key!r} has a shape that cannot be; {AGAIN}")
        strides = _contiguous_strides(shape)
        tree[key] = _strided(
            memoryview(tensor["data"]), dtype, 0, shape, strides, swap=_swap("little")
        )
    return TorchFile(_with_dots(tree))


def _with_dots(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with dots in its names, where each is a Flax tree's keys joined by commas."""
    if all("," in name and "." not in name for name in tree):
        return {name.replace(",", "."): array for name, array in tree.items()}
    return tree


# --- PyTorch's zip archive


def _read_zip(stream: BinaryIO, budget: Budget, most: int, packed: str) -> TorchFile:
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise Unreadable(f"is a zip archive cut short or damaged ({error}); {AGAIN}") from error
    with archive:
        records = {info.filename: info for info in archive.infolist()}
        if model := _packed_model(records):
            check_members([records[model]], most)
            inner = io.BytesIO(read_member(archive, model))
            return _read_packed("zip", inner, most, packed)
        folder = _archive_folder(records)
        check_members(archive.infolist(), most)
        if records[folder + "data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise Unreadable(f"its data.pkl holds over {MAX_PICKLE_BYTES} bytes; {AGAIN}")

        def record(path: str) -> bytes:
            return read_member(archive, folder + path)

        order = record("byteorder").decode() if folder + "byteorder" in records else "little"
        if order not in ("little", "big"):
            raise Unreadable(f"its byteorder record is {order!r}, expected 'little' or 'big'")
        cache: dict[str, bytes] = {}

        def fetch(key: str) -> bytes:
            if key not in cache:
                cache[key] = record(f"data/{key}")
            return cache[key]

        root = _interpret(io.BytesIO(record("data.pkl")), _storage, budget.objects)
        return _finish(root, fetch, budget, swap=_swap(order))


ENDINGS = (
    *(".pth", ".pt", ".ptm", ".bin", ".ckpt", ".tar", ".pkl"),
    *(".safetensors", ".msgpack", ".cleanrl_model"),
)
"""How the names of files of weights end, before anything packs them."""

_BESIDE_MODELS = ("target", "optim")


def _packed_model(records: dict[str, zipfile.ZipInfo]) -> str | None:
    """The one file of an ordinary archive that holds the model; None for PyTorch's own and others.

    Raises:
      Unreadable: there are several.
    """
    names = {path: path.rpartition("/")[2].lower() for path in records}
    if {"data.pkl", "policy.pth"} & set(names.values()):
        return None
    models = [
        path
        for path, name in names.items()
        if name.endswith(ENDINGS) and not any(word in name for word in _BESIDE_MODELS)
    ]
    plain = [path for path in models if names[path].rpartition(".")[0] == "model"]
    if len(chosen := plain or models) > 1:
        shown = one_line(", ".join(chosen[:8]), 200)
        raise Unreadable(f"is an archive of {len(chosen)} models, {shown}; unpack it and give one")
    return chosen[0] if chosen else None


def _archive_folder(records: dict[str, zipfile.ZipInfo]) -> str:
    """The folder that holds data.pkl, with its slash ('' if it holds it at the top)."""
    pickles = [path for path in records if path.rpartition("/")[2] == "data.pkl"]
    if len(pickles) == 1:
        folder = pickles[0].removesuffix("data.pkl")
        if any(path.startswith((folder + "constants.pkl", folder + "code/")) for path in records):
            raise Unreadable(
                "is TorchScript, a program and not only weights; "
                "save the state_dict instead: torch.save(module.state_dict(), path)"
            )
        return folder
    if "policy.pth" in records:
        kind = "a Stable-Baselines3 archive: the weights are its member policy.pth"
    elif any(path.endswith("/policy.pth") for path in records):
        kind = "a folder of Stable-Baselines3's; zip what is in the folder, and not the folder"
    elif records and all(path.endswith(".npy") for path in records):
        kind = "a NumPy .npz archive; save a state_dict with torch.save instead"
    elif not pickles:
        kind = (
            "a zip archive without data.pkl and without the file of a model; unpack it and give "
            "the file inside"
        )
    else:
        kind = f"a zip archive with {len(pickles)} files named data.pkl, expected one; {AGAIN}"
    raise Unreadable(f"is not a file written by torch.save: it looks like {kind}")


def check_members(members: Iterable[zipfile.ZipInfo], most: int) -> None:
    """Refuses members that unpack to more than `most` bytes, or may take more than they say.

    Raises:
      ValueError: a whole sentence but for the file's name.
    """
    total = 0
    for info in members:
        total += info.file_size
        # Others are unpacked by zipfile without regard to the size asked for.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unreadable(
                f"its record {info.filename!r} is packed in a way that torch.save never uses; "
                "unpack it and pack it again, stored or deflated"
            )
        if total > most:
            raise Unreadable(
                f"unpacks to over {most} bytes with its record {info.filename!r}, more than a file "
                "of its size may, like a zip bomb; refusing to read it"
            )


def read_member(archive: zipfile.ZipFile, path: str) -> bytes:
    """A member that `check_members` has passed; never more of it than the archive says there is.

    Raises:
      ValueError: it is missing, or of another size; a whole sentence but for the file's name.
      Exception: damage, which shows as almost any exception of zipfile or zlib.
    """
    if path not in archive.NameToInfo:
        raise Unreadable(f"its record {path!r} is missing; {AGAIN}")
    info = archive.NameToInfo[path]
    # zipfile stops at the size the directory declares (checked before) and compares checksums.
    with archive.open(info) as file:
        data = file.read(info.file_size)
        if len(data) != info.file_size or file.read(1):
            raise Unreadable(f"its record {path!r} is not {info.file_size} bytes long; {AGAIN}")
    return data


# --- PyTorch's older format: pickles, then storages


def _read_legacy(data: bytes, budget: Budget) -> TorchFile:
    stream = io.BytesIO(data)
    storages: dict[str, _Storage] = {}

    def storage(saved_id: Any) -> Any:
        entry = _storage(saved_id)
        if isinstance(entry, _Storage):
            storages.setdefault(entry.key, entry)
        return entry

    def interpret(storage: Callable[[Any], Any] = _no_storage) -> Any:
        return _interpret(stream, storage, budget.objects)

    # The first pickle may be all there is, with its arrays in it.
    first = _interpret(stream, _no_storage, budget.objects, max(len(data), MAX_PICKLE_BYTES))
    if first != LEGACY_MAGIC:
        return _plain_pickle(first, budget)
    if interpret() != LEGACY_PROTOCOL:
        raise Unreadable(f"has a protocol version other than {LEGACY_PROTOCOL}; {AGAIN}")
    interpret()  # the writer's byte order and sizes; storages ignore them
    root = interpret(storage)
    keys = interpret()
    raw: dict[str, bytes] = {}
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in storages:
            raise Unreadable(f"lists a storage that no tensor uses; {AGAIN}")
        raw[key] = _legacy_storage(stream, len(data), key, storages[key].dtype.itemsize)

    def fetch(key: str) -> bytes:
        if key not in raw:
            raise Unreadable(f"has no storage {key!r} though a tensor uses it; {AGAIN}")
        return raw[key]

    return _finish(root, fetch, budget, swap=_swap("little"))


def _plain_pickle(root: Any, budget: Budget) -> TorchFile:
    """What a pickle of NumPy's or JAX's arrays holds, as Dopamine's checkpoints are."""
    finisher = _Finisher(_no_storage, budget, swap=False)
    tree = finisher.plain(root, ())
    if not finisher.arrays:
        raise Unreadable(
            "is a pickle, but not one written by torch.save, and holds no arrays; "
            "save the state_dict with torch.save(state_dict, path)"
        )
    return TorchFile(tree, tuple(finisher.skipped))


def _legacy_storage(stream: BinaryIO, size: int, key: str, itemsize: int) -> bytes:
    header = stream.read(8)
    left = size - stream.tell()
    if len(header) < 8:
        raise Unreadable(f"ends before storage {key!r}: it is cut short; {AGAIN}")
    (numel,) = struct.unpack("<q", header)
    if not 0 <= numel * itemsize <= left:
        raise Unreadable(
            f"storage {key!r} should hold {numel * itemsize} bytes but {left} are left: "
            f"the file is cut short or damaged; {AGAIN}"
        )
    return stream.read(numel * itemsize)


# --- what the interpreter makes besides containers and scalars


@dataclasses.dataclass(frozen=True)
class _Global:
    """A name the file mentions; never looked up anywhere but in our own tables."""

    name: str


@dataclasses.dataclass(eq=False)
class _Storage:
    """A run of elements that tensors view; `start` and `numel` count elements of `dtype`."""

    key: str
    dtype: np.dtype
    start: int
    numel: int


@dataclasses.dataclass(eq=False)
class _Tensor:
    """A view of a storage; offset and stride count elements of `dtype`."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: np.dtype
    conjugate: bool
    negative: bool


@dataclasses.dataclass(eq=False)
class _Dtype:
    """A NumPy dtype as pickled: 'f8', then '<' when its state arrives."""

    code: str
    order: str = "="

    def resolve(self, kinds: str) -> np.dtype | None:
        """The dtype, or None if it is not one of `kinds` (objects and records never are)."""
        if not re.fullmatch(rf"[{kinds}]\d{{0,6}}", self.code) or self.order not in "<>=|":
            return None
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


@dataclasses.dataclass(eq=False)
class _Array:
    """A NumPy array as pickled: made empty, filled when its state arrives.

    `axes` says which axis of `shape` is its first, its second and so on; None in their order.
    """

    shape: tuple[int, ...] = (0,)
    dtype: _Dtype = dataclasses.field(default_factory=lambda: _Dtype("u1"))
    fortran: bool = False
    data: Any = b""
    axes: tuple[int, ...] | None = None
    cast: np.dtype | None = None


_TORCH_DTYPES: dict[str, np.dtype] = {
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


def _storage(saved_id: Any) -> Any:
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
    if not isinstance(key, str) or not _count(start) or not _count(numel):
        raise Unreadable(f"describes a storage by what cannot be; {AGAIN}")
    return _Storage(key, _STORAGE_DTYPES[storage], start, numel)


def _no_storage(saved_id: Any) -> Any:
    raise Unreadable(f"refers to a storage where none can be; {AGAIN}")


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _is_shape(values: Any) -> bool:
    # NumPy has at most 64 dimensions.
    return isinstance(values, (tuple, list)) and len(values) <= 64 and all(map(_count, values))


# --- names in a file: refused, understood, or left opaque


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Their presence says that the file was made to do something. Nothing would happen, since names
# are never looked up; but its weights are not to be trusted either.
_REFUSED_MODULES = _words(
    "_pickle _posixsubprocess _socket _thread asyncio bdb cProfile code codeop commands ctypes "
    "doctest ftplib http importlib linecache marshal nt os pdb pickle pip platform popen2 posix "
    "profile pty pydoc requests runpy shutil signal site smtplib socket ssl subprocess sys "
    "tempfile timeit trace urllib urllib2 venv webbrowser winreg zipimport"
)
_REFUSED_NAMES = _words(
    "builtins.__import__ builtins.apply builtins.breakpoint builtins.compile builtins.delattr "
    "builtins.eval builtins.exec builtins.execfile builtins.file builtins.getattr "
    "builtins.globals builtins.input builtins.locals builtins.open builtins.reload "
    "builtins.setattr builtins.vars io.FileIO io.open io.open_code _io.FileIO _io.open "
    "_io.open_code operator.attrgetter operator.methodcaller _operator.attrgetter "
    "_operator.methodcaller types.CodeType types.FunctionType types.LambdaType types.MethodType "
    "numpy.load torch.load torch.serialization.load"
)
_REFUSED_PREFIXES = (
    "numpy.f2py.",
    "numpy.testing.",
    "torch.hub.",
    "torch.utils.cpp_extension.",
    "torch.utils.collect_env.",
)

_PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def _global(module: Any, name: Any) -> _Global:
    """A name, refused if no weights would need it.

    Raises:
      Unreadable: for names that run, open or reach something.
    """
    if not all(isinstance(part, str) and len(part) <= MAX_KEY_LENGTH for part in (module, name)):
        raise Unreadable(f"names something by what is not a name; {AGAIN}")
    full = f"{_PYTHON_2_MODULES.get(module, module)}.{name}"
    # "torch" with "serialization.os.system" would reach os as well.
    reached = {full.split(".")[0], *name.split(".")[:-1]}
    if reached & _REFUSED_MODULES or full in _REFUSED_NAMES or full.startswith(_REFUSED_PREFIXES):
        raise Unreadable(
            f"wants to call {full}: this file is not only weights; refusing to read it"
        )
    if full == "torch.storage._load_from_bytes":
        raise Unreadable(
            "its tensors were written by pickle, not by torch.save; "
            "load it in PyTorch and write it with torch.save(state_dict, path)"
        )
    return _Global(full)


def _construct(callee: Any, args: Any, budget: Allowance) -> Any:
    """What calling `callee` gives, from our own table, or an `Opaque`; never a real call."""
    if not isinstance(args, tuple):
        raise Unreadable(f"calls something with arguments that are not a tuple; {AGAIN}")
    if not isinstance(callee, _Global):
        budget.spend(SET_BYTES)
        made_by = callee.name if isinstance(callee, Opaque) else type(callee).__name__
        return Opaque(f"{made_by.removesuffix('()')}()", args)
    if callee.name not in _KNOWN_CALLS:
        budget.spend(SET_BYTES)
        return Opaque(callee.name, args)
    # One long argument may be named in many calls, and each call copies it.
    for arg in args:
        if isinstance(arg, _SIZED):
            budget.spend(len(arg) * (2 if isinstance(arg, _BYTES) else ITEM_BYTES))
    budget.spend(SET_BYTES)
    if callee.name in _NESTED_CALLS:
        inner, args = _NESTED_CALLS[callee.name](*args)
        return _construct(inner, args, budget)
    try:
        if callee.name in _KEYED_CALLS:
            return _KEYED_CALLS[callee.name](budget, *args)
        return _CALLS[callee.name](*args)
    except _NotRebuilt:
        return Opaque(callee.name, args)


_BYTES = (str, bytes, bytearray)
_SIZED = (*_BYTES, list, tuple, dict, set, frozenset)


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> _Tensor:
    return _tensor(storage, offset, size, stride, getattr(storage, "dtype", None), metadata)


def _rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> _Tensor:
    if dtype.name not in _TORCH_DTYPES:
        raise _NotRebuilt
    return _tensor(storage, offset, size, stride, _TORCH_DTYPES[dtype.name], metadata)


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, dtype: Any, metadata: Any
) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise Unreadable(f"has a tensor without a storage; {AGAIN}")
    if not (_is_shape(size) and _is_shape(stride) and len(size) == len(stride) and _count(offset)):
        raise Unreadable(f"has a tensor whose size, stride or offset cannot be; {AGAIN}")
    flags = metadata if isinstance(metadata, dict) else {}
    conjugate, negative = flags.get("conj") is True, flags.get("neg") is True
    return _Tensor(storage, offset, tuple(size), tuple(stride), dtype, conjugate, negative)


def _from_numpy(data: Any, dtype: Any, device: Any, requires_grad: Any) -> _Array:
    if not isinstance(data, _Array) or dtype.name not in _TORCH_DTYPES:
        raise _NotRebuilt
    return dataclasses.replace(data, cast=_TORCH_DTYPES[dtype.name])


def _numpy_scalar(dtype: Any, data: Any = b"") -> Any:
    resolved = dtype.resolve("?biufc") if isinstance(dtype, _Dtype) else None
    if resolved is None:
        raise _NotRebuilt
    return np.frombuffer(_as_bytes(data), resolved, count=1)[0]


def _numpy_from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
    # Since NumPy 2.3 of an array whose axes were put in another order: "K", and that order.
    if axes is not None and not (_is_shape(axes) and sorted(axes) == [*range(len(shape))]):
        raise Unreadable(f"has a NumPy array whose axes have no such order; {AGAIN}")
    return _Array(tuple(shape), dtype, order == "F", data, None if axes is None else tuple(axes))


def _jax_array(_function: Any, _args: Any, state: Any, _aval: Any = None) -> _Array:
    """JAX pickles an array as what NumPy would do to make it again."""
    array = _Array()
    _set_state(array, state)
    return array


def _numpy_dtype(code: Any, align: Any = False, copy: Any = True) -> _Dtype:
    if not isinstance(code, str):
        raise _NotRebuilt
    return _Dtype(code)


def _as_bytes(data: Any) -> bytes:
    """Bytes, also where Python 2 pickled them as text."""
    return data.encode("latin-1") if isinstance(data, str) else bytes(memoryview(data))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _NotRebuilt
    return text.encode("latin-1")


def _bytearray(data: Any = b"", encoding: str = "latin-1") -> bytearray:
    return bytearray(_as_bytes(data))


def _mapping(budget: Allowance, pairs: Any = ()) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
        mapping[_key(key, mapping, budget)] = value
    return mapping


def _default_mapping(budget: Allowance, factory: Any = None, pairs: Any = ()) -> dict[Any, Any]:
    return _mapping(budget, pairs)


def _set(budget: Allowance, items: Any = ()) -> set[Any]:
    made: set[Any] = set()
    for item in items:
        made.add(_key(item, made, budget))
    return made


def _sequence(items: Any = (), maxlen: Any = None) -> list[Any]:
    return list(items)


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not (index is None or isinstance(index, int)):
        raise _NotRebuilt
    return kind if index is None else f"{kind}:{index}"


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.deque": _sequence,
    "builtins.list": _sequence,
    "builtins.tuple": lambda items=(): tuple(items),
    "builtins.bytes": lambda data=b"": _as_bytes(data),
    "builtins.bytearray": _bytearray,
    "builtins.complex": lambda real=0.0, imag=0.0: complex(float(real), float(imag)),
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.core.numeric._frombuffer": _numpy_from_buffer,
    "numpy._core.numeric._frombuffer": _numpy_from_buffer,
    "jax._src.array._reconstruct_array": _jax_array,
    "jax._src.device_array.reconstruct_device_array": _jax_array,
    "jax.interpreters.xla.reconstruct_device_array": _jax_array,
    "torch.Size": lambda items=(): tuple(items),
    "torch.device": _device,
    "torch.serialization._get_layout": lambda name: name,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch.nn.parameter.Parameter": lambda data, *_: data,
    "torch.autograd.variable.Variable": lambda data, *_: data,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": lambda data, *_: data,
    "torch._utils._rebuild_device_tensor_from_numpy": _from_numpy,
    "torch._utils._rebuild_xla_tensor": _from_numpy,
}

# Those that hash what they are given, which is paid for.
_KEYED_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _default_mapping,
    "builtins.dict": _mapping,
    "flax.core.frozen_dict.FrozenDict": _mapping,
    "builtins.set": _set,
    "builtins.frozenset": lambda budget, items=(): frozenset(_set(budget, items)),
}

# Calls of calls: each gives the name that is meant and its arguments.
_NESTED_CALLS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "torch._tensor._rebuild_from_type": lambda function, _class, args, _state: (function, args),
    "torch._tensor._rebuild_from_type_v2": lambda function, _class, args, _state: (function, args),
    "torch.tensor._rebuild_from_type": lambda function, _class, args, _state: (function, args),
    "copyreg._reconstructor": lambda cls, _base, _state: (cls, ()),
}
_KNOWN_CALLS = _CALLS.keys() | _KEYED_CALLS.keys() | _NESTED_CALLS.keys()


# --- the interpreter


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = _words(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
_EMPTY: dict[str, tuple[Callable[[], Any], int]] = {
    "EMPTY_LIST": (list, CONTAINER_BYTES),
    "EMPTY_TUPLE": (tuple, 0),
    "EMPTY_DICT": (dict, CONTAINER_BYTES),
    "EMPTY_SET": (set, SET_BYTES),
}
_TUPLE_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _interpret(
    stream: BinaryIO,
    storage: Callable[[Any], Any],
    budget: Allowance,
    max_bytes: int | None = None,
) -> Any:
    """Follows one pickle to its end and leaves `stream` just after it.

    `pickletools` splits the pickle into opcodes with decoded arguments; what each does to the
    stack is written out here, so that no opcode can reach Python's own objects. (The interpreter's
    unpickler would set attributes on whatever it is told to, size its memo table by an index in
    the file, and hash tuples nested deeper than the C stack.)

    Args:
      stream: the bytes of the pickle, and perhaps more.
      storage: gives the value for a persistent id.
      budget: what objects and copies may take.
      max_bytes: how long it may be, MAX_PICKLE_BYTES if nothing is said.

    Returns:
      Containers and scalars, with `_Tensor`, `_Array`, `_Global`, `Opaque`... among them.
    """
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[int, Any] = {}
    start = stream.tell()
    most = MAX_PICKLE_BYTES if max_bytes is None else max_bytes
    operations: Iterable[tuple[Any, Any, Any]] = pickletools.genops(stream)
    for count, (opcode, arg, position) in enumerate(operations):
        if count >= MAX_OPERATIONS or position - start > most:
            raise Unreadable(
                f"its pickle is over {MAX_OPERATIONS} operations or {most} bytes long; "
                "save only the state_dict"
            )
        match opcode.name:
            case name if name in _LITERALS:
                stack.append(arg)
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                budget.spend(MEMO_BYTES)
                memo[arg] = stack[-1]
            case "MEMOIZE":
                budget.spend(MEMO_BYTES)
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[arg])
            case "MARK":
                budget.spend(MARK_BYTES)
                marked.append(stack)
                stack = []
            case name if name in _TUPLE_LENGTHS:
                length = _TUPLE_LENGTHS[name]
                budget.spend(CONTAINER_BYTES)
                stack[-length:] = [tuple(_last(stack, length))]
            case "TUPLE" | "LIST" | "DICT" | "FROZENSET":
                items, stack = stack, marked.pop()
                budget.spend(CONTAINER_BYTES)
                stack.append(_gather(opcode.name, items, budget))
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _EMPTY:
                make, cost = _EMPTY[name]
                budget.spend(cost)
                stack.append(make())
            case "SETITEMS":
                items, stack = stack, marked.pop()
                _set_items(stack[-1], items, budget)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value], budget)
            case "APPENDS" | "ADDITEMS":
                items, stack = stack, marked.pop()
                _append(stack[-1], items, budget)
            case "APPEND":
                item = stack.pop()
                _append(stack[-1], [item], budget)
            case "GLOBAL":
                stack.append(_global(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_global(module, name))
            case "REDUCE" | "NEWOBJ":
                args, callee = stack.pop(), stack.pop()
                stack.append(_construct(callee, args, budget))
            case "NEWOBJ_EX":
                keywords, args, callee = stack.pop(), stack.pop(), stack.pop()
                stack.append(_construct(callee, (*args, keywords) if keywords else args, budget))
            case "INST":
                items, stack = stack, marked.pop()
                stack.append(_construct(_global(*arg.split(" ", 1)), tuple(items), budget))
            case "OBJ":
                items, stack = stack, marked.pop()
                stack.append(_construct(items[0], tuple(items[1:]), budget))
            case "BUILD":
                state = stack.pop()
                _set_state(stack[-1], state)
            case "BINPERSID":
                stack.append(storage(stack.pop()))
            case "POP":
                # A mark with nothing on it is what is popped then.
                if stack:
                    stack.pop()
                else:
                    stack = marked.pop()
            case "POP_MARK":
                stack = marked.pop()
            case "DUP":
                stack.append(stack[-1])
            case "PROTO" | "FRAME" | "STOP":
                pass
            case other:
                raise Unreadable(f"its pickle uses {other}, which torch.save never does; {AGAIN}")
    return stack.pop()


def _last(stack: list[Any], length: int) -> list[Any]:
    if len(stack) < length:
        raise Unreadable(f"its pickle takes more than it put there; {AGAIN}")
    return stack[-length:]


def _gather(kind: str, items: list[Any], budget: Allowance) -> Any:
    if kind == "TUPLE":
        return tuple(items)
    if kind == "LIST":
        return items
    if kind == "FROZENSET":
        return frozenset(_set(budget, items))
    mapping: dict[Any, Any] = {}
    _set_items(mapping, items, budget)
    return mapping


def _key(key: Any, among: dict[Any, Any] | set[Any], budget: Allowance) -> Any:
    """The key, refused if it cannot be one or would be costly to hash, to compare or to print.

    Python's hashes of text are salted, so that nobody can make many that collide. Its hashes of
    anything else are not, and finding a place for one may mean looking at all that are there: what
    that could take is paid for.
    """
    if isinstance(key, (str, bytes)):
        if len(key) > MAX_KEY_LENGTH:
            raise Unreadable(f"has a dictionary key longer than {MAX_KEY_LENGTH}; {AGAIN}")
        budget.spend(ITEM_BYTES)
        return key
    pending = [key]
    seen = 0
    while pending and seen <= MAX_KEY_LENGTH:
        item = pending.pop()
        seen += len(item) if isinstance(item, _SIZED) else 1
        if isinstance(item, int):
            seen += item.bit_length() // 8
        elif isinstance(item, tuple):
            pending.extend(item)
        elif isinstance(item, (list, dict, set, bytearray)):
            raise Unreadable(f"has a {type(item).__name__} as a dictionary key; {AGAIN}")
    if seen > MAX_KEY_LENGTH:
        raise Unreadable(f"has a dictionary key longer than {MAX_KEY_LENGTH}; {AGAIN}")
    # Numbers below 2^61 are their own hashes; as many of those as there are places differ in them.
    plain = isinstance(key, int) and key.bit_length() <= 60
    collisions = len(among) // 64 if plain else seen * len(among) // 4
    budget.spend(ITEM_BYTES * (1 + seen) + collisions)
    return key


def _set_items(target: Any, items: list[Any], budget: Allowance) -> None:
    if len(items) % 2:
        raise Unreadable(f"has a dictionary key without a value; {AGAIN}")
    mapping = target.mapping if isinstance(target, Opaque) else target
    if not isinstance(mapping, dict):
        raise Unreadable(f"stores by key in a {type(target).__name__}; {AGAIN}")
    for key, value in zip(items[::2], items[1::2], strict=True):
        mapping[_key(key, mapping, budget)] = value


def _append(target: Any, items: list[Any], budget: Allowance) -> None:
    sequence = target.items if isinstance(target, Opaque) else target
    if isinstance(sequence, set):
        for item in items:
            sequence.add(_key(item, sequence, budget))
    elif isinstance(sequence, list):
        sequence.extend(items)
    else:
        raise Unreadable(f"appends to a {type(target).__name__}; {AGAIN}")


def _set_state(target: Any, state: Any) -> None:
    """What BUILD does, for the few kinds it means something for; others keep no attributes."""
    if isinstance(target, Opaque):
        target.state = state
    elif isinstance(target, _Dtype):
        target.order = state[1]
    elif isinstance(target, _Array):
        target.shape, target.dtype, target.fortran, target.data = state[-4:]


# --- from the interpreter's values to arrays


def _finish(root: Any, fetch: Callable[[str], bytes], budget: Budget, *, swap: bool) -> TorchFile:
    finisher = _Finisher(fetch, budget, swap)
    tree = finisher.plain(root, ())
    return TorchFile(tree, tuple(finisher.skipped))


class _Finisher:
    """Turns what `_interpret` made into plain data; owns the storages' bytes.

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
        elif isinstance(value, _Tensor):
            self.done[id(value)] = self._tensor(value)
        elif isinstance(value, _Storage):
            whole = _Tensor(value, 0, (value.numel,), (1,), value.dtype, False, False)
            self.done[id(value)] = self._tensor(whole)
        elif isinstance(value, _Array):
            array = self._array(value)
            if array is not None:
                self.done[id(value)] = array
                self.arrays += 1
            else:
                self._skip(value, "numpy.ndarray of objects", path, value.data)
        elif isinstance(value, _Dtype):
            self.done[id(value)] = value.resolve("?biufcSU") or value.code
        elif isinstance(value, _Global) and value.name in _TORCH_DTYPES:
            self.done[id(value)] = _TORCH_DTYPES[value.name]
        elif isinstance(value, _Global):
            self._skip(value, value.name, path)
        else:
            raise Unreadable(f"holds a {type(value).__name__} where none can be; {AGAIN}")

    def _fill(self, result: dict[Any, Any], value: dict[Any, Any], path: tuple[Any, ...]) -> None:
        for key, item in value.items():
            below = (*path, key)
            if not isinstance(key, str):
                key = self.plain(key, (*path, f"{_name(key)} (key)"))
                # A tensor or storage as a key: keep the entry, under a key that can be one.
                key = Opaque("torch.Tensor") if isinstance(key, np.ndarray) else key
            result[key] = self.plain(item, below)

    def _extend(self, result: list[Any], value: Iterable[Any], path: tuple[Any, ...]) -> None:
        for index, item in enumerate(value):
            result.append(self.plain(item, (*path, index)))

    def _skip(self, value: Any, name: str, path: tuple[Any, ...], content: Any = None) -> None:
        name = one_line(name)
        if not self.inside_opaque:
            place = ".".join(map(_name, path))
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

    def _tensor(self, tensor: _Tensor) -> np.ndarray:
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
        array = _strided(
            data, tensor.dtype, tensor.offset, tensor.size, tensor.stride, swap=self.swap
        )
        # asarray, because NumPy's functions make scalars of arrays without dimensions.
        array = np.asarray(np.conjugate(array)) if tensor.conjugate else array
        return np.asarray(np.negative(array)) if tensor.negative else array

    def _array(self, value: _Array) -> np.ndarray | None:
        """A pickled NumPy array; None for dtypes that hold Python objects or records."""
        dtype = value.dtype.resolve("?biufcSU") if isinstance(value.dtype, _Dtype) else None
        if dtype is None or not isinstance(value.data, (bytes, bytearray, str)):
            return None
        size = math.prod(value.shape) * dtype.itemsize if _is_shape(value.shape) else -1
        if size != len(value.data):
            raise Unreadable(
                f"has a NumPy array whose shape does not fit its {len(value.data)} bytes; {AGAIN}"
            )
        self.budget.arrays.spend(2 * size + math.prod(value.shape) * 16)
        order: Any = "F" if value.fortran else "C"
        flat = np.ndarray(math.prod(value.shape), dtype, _as_bytes(value.data) or None)
        array = flat.reshape(value.shape, order=order)
        return np.array(
            array if value.axes is None else array.transpose(value.axes),
            dtype=value.cast or dtype.newbyteorder("="),
            order="C",
        )


def _swap(order: str) -> bool:
    """Whether bytes written in this order have to be turned round on this machine."""
    return order != sys.byteorder


def _contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _strided(
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


# --- finding state_dicts


def _collect(
    node: Any,
    path: str,
    above: tuple[int, ...],
    found: dict[str, dict[str, np.ndarray]],
    names: Allowance,
) -> tuple[dict[str, np.ndarray], bool]:
    """Adds what is found at and below a node; gives its arrays by name, and if they are all of it.

    `above` holds the ids of the nodes this one is inside, since a tree may contain itself.
    """
    if id(node) in above or not isinstance(node, _NODES):
        return {}, False
    names.spend(_NODE_CHARACTERS + _length(path))
    above = (*above, id(node))
    if isinstance(node, (list, tuple)):
        names.spend(_ENTRY_CHARACTERS * len(node))
        for index, item in enumerate(node):
            if isinstance(item, _NODES):
                _collect(item, _join(path, index), above, found, names)
        return {}, False
    arrays: dict[str, np.ndarray] = {}
    if len(found) > MAX_PLACES:
        raise ValueError(f"holds over {MAX_PLACES} dictionaries of tensors; save only the weights")
    found.setdefault(path, arrays)  # before those inside it
    pure = isinstance(node, dict)
    if isinstance(node, Opaque):
        attributes = _attributes(node)
        if "_parameters" in attributes:
            _module_arrays(node, "", above[:-1], arrays, names)
            _keep(found, path, arrays)
            return arrays, True
        for item in (node.items, node.args):
            _collect(item, path, above, found, names)
        node = {**attributes, **node.mapping}
    names.spend(_ENTRY_CHARACTERS * len(node))
    nested: dict[str, np.ndarray] = {}
    for key, value in node.items():
        if isinstance(value, np.ndarray):
            arrays[_name(key)] = value
        elif not isinstance(value, _NODES):
            pure = False
        else:
            below, only = _collect(value, _join(path, key), above, found, names)
            pure = pure and only
            for name, array in below.items():
                name = f"{_name(key)}.{name}"
                names.spend(_length(name))
                nested[name] = array
    if pure:
        arrays.update(nested)
    _keep(found, path, arrays)
    return arrays, pure


def _keep(
    found: dict[str, dict[str, np.ndarray]], path: str, arrays: dict[str, np.ndarray]
) -> None:
    if found[path] is not arrays:  # a name with dots in it spells the same path
        return
    if arrays:
        found[path] = _without_prefix(arrays)
    else:
        del found[path]


def _module_arrays(
    module: Any,
    prefix: str,
    above: tuple[int, ...],
    arrays: dict[str, np.ndarray],
    names: Allowance,
) -> None:
    """What `state_dict()` of a module saved whole would have held."""
    if id(module) in above or not isinstance(module, Opaque):
        return
    names.spend(_NODE_CHARACTERS + _length(prefix))
    attributes = _attributes(module)
    names.spend(_ENTRY_CHARACTERS * len(attributes))
    transient = attributes.get("_non_persistent_buffers_set")
    for kind in ("_parameters", "_buffers"):
        names.spend(_ENTRY_CHARACTERS * len(_dict(attributes.get(kind))))
        for key, value in _dict(attributes.get(kind)).items():
            dropped = kind == "_buffers" and isinstance(transient, set) and key in transient
            if isinstance(value, np.ndarray) and not dropped:
                names.spend(_length(prefix))
                arrays[prefix + _name(key)] = value
    for key, child in _dict(attributes.get("_modules")).items():
        _module_arrays(child, f"{prefix}{_name(key)}.", (*above, id(module)), arrays, names)


def _attributes(opaque: Opaque) -> dict[Any, Any]:
    """The attributes an object was to have; its state may be those, or those and its slots."""
    parts = opaque.state if isinstance(opaque.state, tuple) else (opaque.state,)
    merged: dict[Any, Any] = {}
    for part in parts:
        merged.update(_dict(part))
    return merged


def _dict(value: Any) -> dict[Any, Any]:
    """The value as a dict; a subclass of dict was left opaque, its entries in `mapping`."""
    if isinstance(value, Opaque):
        return value.mapping
    return value if isinstance(value, dict) else {}


def _without_prefix(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = 0
    while True:
        for prefix in ("module.", "_orig_mod."):
            if all(name.startswith(prefix, start) for name in arrays):
                start += len(prefix)
                break
        else:
            return {name[start:]: array for name, array in arrays.items()}


def _length(name: str) -> int:
    """The name's length and one; refused where no parameter's is so long."""
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(
            f"has names of over {MAX_NAME_LENGTH} characters; save only the state_dict"
        )
    return len(name) + 1


_NODES = (dict, list, tuple, Opaque)

# What is looked at costs as much as a name of so many characters: a container, and each entry.
_NODE_CHARACTERS = 64
_ENTRY_CHARACTERS = 8


def _extent(tree: Any) -> int:
    """How many containers, and entries of them, a tree is made of; each counted once."""
    pending, seen, entries = [tree], set(), 0
    while pending:
        node = pending.pop()
        if isinstance(node, Opaque):
            parts: Iterable[Any] = (node.args, node.state, node.mapping, node.items)
        elif isinstance(node, dict):
            parts = node.values()
        elif isinstance(node, (list, tuple)):
            parts = node
        else:
            continue
        if id(node) not in seen:
            seen.add(id(node))
            entries += 1 + len(parts)  # type: ignore[arg-type]
            pending.extend(parts)
    return entries


# --- words


def _join(path: str, key: Any) -> str:
    return f"{path}.{_name(key)}" if path else _name(key)


def _name(key: Any) -> str:
    if isinstance(key, Opaque):
        return f"<{key.name}>"
    if isinstance(key, (str, int, float, bytes, type(None), np.generic)):
        return str(key)
    return f"<{type(key).__name__}>"
