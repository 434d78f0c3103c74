"""The one-axis device mesh that everything data-parallel runs on."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
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
