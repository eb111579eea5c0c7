"""Where arrays live: batches split over all devices, everything else on each of them.

Everything compiled sees global arrays, so that a batch, a learning rate and a metric mean the same
on one device and on eight, in one process and in several (`jax.distributed`).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"


def mesh_over(batch_size: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over the devices that share a batch.

    devices: all there are, by default; then as many of them are used as divide the batch evenly.

    Raises:
        ValueError: devices were named, or there are several processes, and they do not divide the
            batch; or not every process has as many of them.

    Example:
        >>> mesh_over(256).axis_names
        ('batch',)
    """
    chosen = list(jax.devices() if devices is None else devices)
    if devices is None and jax.process_count() == 1:
        while batch_size % len(chosen):
            chosen.pop()
    shares = Counter(one.process_index for one in chosen)
    if len(shares) != jax.process_count() or len(set(shares.values())) > 1:
        raise ValueError(
            f"{len(chosen)} devices are not as many in each of {jax.process_count()} processes; "
            f"choose them with sharding.take, or leave them out, to use all"
        )
    if batch_size % len(chosen):
        raise ValueError(
            f"batch_size {batch_size} cannot be split over {len(chosen)} devices; "
            f"{_ways_out(batch_size, len(chosen))}"
        )
    return Mesh(np.asarray(chosen), (AXIS,))


def _ways_out(batch_size: int, devices: int) -> str:
    """What to do where so many devices do not divide a batch; a run that goes on keeps its own."""
    nearest = max(round(batch_size / devices), 1) * devices
    processes = jax.process_count()
    fewer = [one for one in range(processes, devices, processes) if batch_size % one == 0]
    way = f"use {fewer[-1]} of them (devices)" if fewer else "start another number of processes"
    return f"{way}, or begin a run with a multiple of {devices}, for example {nearest}"


def take(count: int) -> list[jax.Device]:
    """Choose so many of all devices, the same number in each process.

    Raises:
        ValueError: there are not so many, or the processes do not divide them.

    Example:
        >>> len(take(2))
        2
    """
    processes = jax.process_count()
    if not 1 <= count <= jax.device_count():
        raise ValueError(f"devices is {count}; there are {jax.device_count()}")
    if count % processes:
        raise ValueError(
            f"devices is {count}: {processes} processes take as many each, so give a multiple "
            f"of {processes}, or leave it out, to use all"
        )
    own = [
        [one for one in jax.devices() if one.process_index == process]
        for process in range(processes)
    ]
    return [one for devices in own for one in devices[: count // processes]]


def local_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over this process's devices, or over the given ones.

    Example:
        >>> local_mesh().size == jax.local_device_count()
        True
    """
    return Mesh(np.asarray(list(devices or jax.local_devices())), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """Put a tree of arrays on every device of the mesh; each process brings the same values.

    Example:
        >>> everywhere({"bias": np.zeros(3)}, mesh_over(8))["bias"].shape
        (3,)
    """
    sharding = replicated(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(array: Any) -> jax.Array:
        local = np.asarray(array)
        return jax.make_array_from_callback(local.shape, sharding, lambda index: local[index])

    return jax.tree.map(put, tree)


def rows_of_this_process(batch_size: int, mesh: Mesh) -> slice:
    """The rows of a global batch that this process has to bring.

    Example:
        >>> rows_of_this_process(8, mesh_over(8))
        slice(0, 8, None)
    """
    places = split(mesh).addressable_devices_indices_map((batch_size,))
    ranges = [place[0].indices(batch_size) for place in places.values() if place is not None]
    return slice(min(one[0] for one in ranges), max(one[1] for one in ranges))


def distribute(own: np.ndarray, batch_size: int, mesh: Mesh) -> jax.Array:
    """A global batch, split over the mesh, of which each process gives its `rows_of_this_process`.

    Example:
        >>> distribute(np.zeros((8, 2)), 8, mesh_over(8)).shape
        (8, 2)
    """
    return jax.make_array_from_process_local_data(split(mesh), own, (batch_size, *own.shape[1:]))
