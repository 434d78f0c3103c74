"""The one-axis device mesh that everything data-parallel runs on, and the processes that share it.

With several processes (`jax.distributed`), each plays its own environments on its own devices, all
are shown what each has collected, and every update runs over the devices of all.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def create(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with one axis, `data`, over `devices` (all of them by default)."""
    devices = list(jax.devices() if devices is None else devices)
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The array's `axis` split over the devices."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, AXIS))


def cores() -> int:
    """How many of the machine's processors this process may use; all where no system says."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local(mesh: Mesh) -> Mesh:
    """The part of the mesh that this process holds: what it plays on."""
    return mesh if jax.process_count() == 1 else create(mesh.local_devices)


def put(mesh: Mesh, tree: Any) -> Any:
    """Values that all processes have alike, whole on every device of all of them."""
    sharding = replicated(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def place(x: Any) -> jax.Array:
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(x)))
        return jax.make_array_from_process_local_data(sharding, np.array(x))

    return jax.tree.map(place, tree)


def take_local(mesh: Mesh, tree: Any) -> Any:
    """`tree`, whole on every device of all processes, on this process's own devices alone."""
    if jax.process_count() == 1:
        return tree
    own = replicated(local(mesh))
    return jax.device_put(jax.tree.map(lambda x: x.addressable_data(0), tree), own)


def gather(tree: Any, axis: int) -> Any:
    """NumPy arrays of all processes, alike in shape, joined along `axis` in every process."""
    if jax.process_count() == 1:
        return tree

    def joined(x: np.ndarray) -> np.ndarray:
        rows = multihost_utils.process_allgather(np.moveaxis(x, axis, 0), tiled=True)
        return np.moveaxis(np.asarray(rows), 0, axis)

    return jax.tree.map(joined, tree)


def leads() -> bool:
    """Whether this is the process that writes files and talks to the user."""
    return jax.process_index() == 0


def agree(flag: bool) -> bool:
    """What the leading process says; where processes could differ, as about the time."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))


def any_of(flag: bool) -> bool:
    """Whether it is so in one process or more."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def broadcast_json(value: Any) -> Any:
    """A JSON value of the leading process, in all of them."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8) if leads() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(text))))
    text = text if leads() else np.zeros(size, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(text)).tobytes())


def meet(place: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


@contextlib.contextmanager
def leader_first(place: str) -> Iterator[None]:
    """What follows is done by the leading process, and by the others once it has done it."""
    if not leads():
        meet(place)
    yield
    if leads():
        meet(place)


def put_rows(mesh: Mesh, rows: np.ndarray) -> jax.Array:
    """`(N, ...)` on the devices: split where N divides evenly, else replicated."""
    even = rows.shape[0] % mesh.size == 0
    return jax.device_put(rows, sharded(mesh) if even else replicated(mesh))


def check_divisible(mesh: Mesh, name: str, size: int) -> None:
    """Raises ValueError, naming both numbers, unless `size` splits evenly over the mesh."""
    if size % mesh.size:
        raise ValueError(
            f"{name} {size} is not divisible by {mesh.size} devices; choose a multiple of it"
        )


def check_fits(mesh: Mesh, name: str, count: int, size: int) -> None:
    """Refuses what no device of this process can hold, before anything is made.

    What else is held beside it is not counted: what passes may still not fit.

    Args:
      name: the setting's that says how many.
      count: what it is.
      size: bytes that each one takes, on every device.

    Raises:
      ValueError: it takes more than a device has, or, on CPU, its share of the machine's memory.
    """
    for device in mesh.local_devices:
        room = _room(device, len(mesh.local_devices))
        if room is not None and count * size > room:
            raise ValueError(
                f"{name} is {count}, which takes {count * size / 1e9:.1f} GB on every device, and "
                f"there are {room / 1e9:.1f} GB; expected at most {room // size}"
            )


def _room(device: jax.Device, beside: int) -> int | None:
    """Bytes that a device has, of `beside` in this process; None where it does not say."""
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // beside
    return (device.memory_stats() or {}).get("bytes_limit")
