"""Devices as one axis: the only file that names `jax.pmap`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from holderjax.training.step import AXIS

if TYPE_CHECKING:
    from jaxtyping import Int


def local_devices(count: int | None, batch_size: int) -> list[jax.Device]:
    """The first ``count`` local devices, or all of them; where several processes train, all.

    Raises:
      ValueError: if there are fewer, or if the batch does not divide among those of all processes.
    """
    available = jax.local_devices()
    if count is not None and count > len(available):
        raise ValueError(f"devices: expected at most {len(available)} (those here), got {count}")
    if count is not None and count < len(available) and jax.process_count() > 1:
        raise ValueError(
            f"devices: expected all {len(available)} of each process, where several train, "
            f"got {count}"
        )
    devices = available[:count]
    total = len(devices) * jax.process_count()
    if batch_size % total:
        raise ValueError(
            f"batch_size: expected a multiple of the {total} devices, got {batch_size}"
        )
    return devices


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """A copy of every array on each device, as [devices, ...] split along the first axis."""
    return jax.tree.map(
        lambda x: put(np.broadcast_to(x, (len(devices), *np.shape(x))), devices), tree
    )


def unreplicate(tree: Any) -> Any:
    """The first device's copy of every array, where it lies."""
    return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)


def fetch(tree: Any) -> Any:
    """The first device's copy of every array, on the host.

    Waits for what makes them, and for nothing else: `unreplicate` would queue behind what the
    device was given since.
    """
    copies = jax.device_get(jax.tree.map(lambda x: x.addressable_shards[0].data, tree))
    return jax.tree.map(lambda x: x[0], copies)


def shares(indices: Int[np.ndarray, "*S B"], count: int) -> Int[np.ndarray, "devices *S b"]:
    """Contiguous shares of every batch: those of this process, of one for each device of all.

    Args:
      indices: batches.
      count: the devices of a process.
    """
    processes, process = jax.process_count(), jax.process_index()
    each = np.moveaxis(indices.reshape(*indices.shape[:-1], processes * count, -1), -2, 0)
    return each[process * count : (process + 1) * count]


def shard(indices: Int[np.ndarray, "*S B"], devices: Sequence[jax.Device]) -> jax.Array:
    """The `shares` of every batch, [devices, *S, B / devices], on their devices."""
    return put(shares(indices, len(devices)), devices)


def parallel(steps: Callable[..., Any], devices: Sequence[jax.Device]) -> Callable[..., Any]:
    """`step.make_steps` over the devices: state, examples and indices have a leading device axis.

    The state is donated: its buffers become those of the new one. Where several processes train,
    each passes and gets what its own devices have, and the named axis is over those of all.
    """
    return jax.pmap(
        steps,
        axis_name=AXIS,
        in_axes=(0, 0, 0, None, None),
        devices=devices if jax.process_count() == 1 else jax.devices(),
        donate_argnums=(0,),
    )


def put(stacked: np.ndarray, devices: Sequence[jax.Device]) -> jax.Array:
    """An array [devices, ...], split along the first axis."""
    mesh = Mesh(np.array(devices), (AXIS,))
    return jax.device_put(stacked, NamedSharding(mesh, PartitionSpec(AXIS)))
