"""Reads files of weights, above all PyTorch's, without PyTorch and without running anything.

Five kinds of file are understood: the zip archive of PyTorch 1.6 and later, the older sequence of
pickles followed by raw storages (whatever its extension), safetensors (see `safetensors_file`),
what ``flax.serialization`` writes (see `flax_file`), and a plain pickle of NumPy's or JAX's arrays.
Each may be packed once, by gzip or as the one model of a zip archive (see `archives`).

A pickle is a small program. `unpickling` follows it, and says what keeps anything in it from being
run; it makes containers, scalars and what stands for tensors (`tensors`), of which `arrays` makes
NumPy's. What is read is a tree of plain values; `state_dicts` finds the named arrays in one.

What a file can cost is proportional to its size (see `limits`): whatever a few bytes may ask for
many times over, copies, keys, names, and views of one storage, is counted and refused beyond that.
SECURITY.md states the bounds.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from jaxdistill.experts import (
    archives,
    arrays,
    flax_file,
    limits,
    safetensors_file,
    tensors,
    unpickling,
)
from jaxdistill.experts.limits import AGAIN, Budget, Unreadable, allowed
from jaxdistill.text import one_line

MAX_BYTES = 4 * 2**30
"""Most bytes a file may hold, and its arrays may take in memory, unless the caller says."""

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


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
    if safetensors_file.is_safetensors(head, size):
        return TorchFile(safetensors_file.decode(stream.read()))
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


# --- PyTorch's zip archive


def _read_zip(stream: BinaryIO, budget: Budget, most: int, packed: str) -> TorchFile:
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise Unreadable(f"is a zip archive cut short or damaged ({error}); {AGAIN}") from error
    with archive:
        records = {info.filename: info for info in archive.infolist()}
        if model := archives.packed_model(records):
            archives.check_members([records[model]], most)
            inner = io.BytesIO(archives.read_member(archive, model))
            return _read_packed("zip", inner, most, packed)
        folder = archives.pickle_folder(records)
        archives.check_members(archive.infolist(), most)
        if records[folder + "data.pkl"].file_size > unpickling.MAX_PICKLE_BYTES:
            raise Unreadable(
                f"its data.pkl holds over {unpickling.MAX_PICKLE_BYTES} bytes; {AGAIN}"
            )

        def record(path: str) -> bytes:
            return archives.read_member(archive, folder + path)

        order = record("byteorder").decode() if folder + "byteorder" in records else "little"
        if order not in ("little", "big"):
            raise Unreadable(f"its byteorder record is {order!r}, expected 'little' or 'big'")
        cache: dict[str, bytes] = {}

        def fetch(key: str) -> bytes:
            if key not in cache:
                cache[key] = record(f"data/{key}")
            return cache[key]

        pickled = io.BytesIO(record("data.pkl"))
        root = unpickling.interpret(pickled, tensors.storage_of, budget.objects)
        return _finish(root, fetch, budget, swap=arrays.is_swapped(order))


# --- PyTorch's older format: pickles, then storages


def _read_legacy(data: bytes, budget: Budget) -> TorchFile:
    stream = io.BytesIO(data)
    storages: dict[str, tensors.Storage] = {}

    def storage(saved_id: Any) -> Any:
        entry = tensors.storage_of(saved_id)
        if isinstance(entry, tensors.Storage):
            storages.setdefault(entry.key, entry)
        return entry

    def interpret(storage: Callable[[Any], Any] = tensors.no_storage) -> Any:
        return unpickling.interpret(stream, storage, budget.objects)

    # The first pickle may be all there is, with its arrays in it.
    most = max(len(data), unpickling.MAX_PICKLE_BYTES)
    first = unpickling.interpret(stream, tensors.no_storage, budget.objects, most)
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

    return _finish(root, fetch, budget, swap=arrays.is_swapped("little"))


def _finish(root: Any, fetch: Callable[[str], bytes], budget: Budget, *, swap: bool) -> TorchFile:
    finisher = arrays.Finisher(fetch, budget, swap)
    tree = finisher.plain(root, ())
    return TorchFile(tree, tuple(finisher.skipped))


def _plain_pickle(root: Any, budget: Budget) -> TorchFile:
    """What a pickle of NumPy's or JAX's arrays holds, as Dopamine's checkpoints are."""
    finisher = arrays.Finisher(tensors.no_storage, budget, swap=False)
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
