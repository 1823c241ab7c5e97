"""Local devices as one axis: the only file that names `jax.pmap`."""

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
    """The first ``count`` local devices, or all of them.

    Raises:
      ValueError: if there are fewer, or if the batch does not divide among them.
    """
    available = jax.local_devices()
    if count is not None and count > len(available):
        raise ValueError(f"devices: expected at most {len(available)} (those here), got {count}")
    devices = available[:count]
    if batch_size % len(devices):
        raise ValueError(
            f"batch_size: expected a multiple of the {len(devices)} devices, got {batch_size}"
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


def shares(indices: Int[np.ndarray, "*S B"], count: int) -> Int[np.ndarray, "devices *S b"]:
    """Contiguous shares of every batch, one for each of ``count`` devices."""
    return np.moveaxis(indices.reshape(*indices.shape[:-1], count, -1), -2, 0)


def shard(indices: Int[np.ndarray, "*S B"], devices: Sequence[jax.Device]) -> jax.Array:
    """The `shares` of every batch, [devices, *S, B / devices], on their devices."""
    return put(shares(indices, len(devices)), devices)


def parallel(steps: Callable[..., Any], devices: Sequence[jax.Device]) -> Callable[..., Any]:
    """`step.make_steps` over the devices: state, examples and indices have a leading device axis.

    The state is donated: its buffers become those of the new one.
    """
    return jax.pmap(
        steps,
        axis_name=AXIS,
        in_axes=(0, 0, 0, None, None),
        devices=devices,
        donate_argnums=(0,),
    )


def put(stacked: np.ndarray, devices: Sequence[jax.Device]) -> jax.Array:
    """An array [devices, ...], split along the first axis."""
    mesh = Mesh(np.array(devices), (AXIS,))
    return jax.device_put(stacked, NamedSharding(mesh, PartitionSpec(AXIS)))
