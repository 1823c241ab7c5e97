"""Several processes as one run, on one host or many: all of them compute, the first one writes."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

Result = TypeVar("Result")

AUTOMATIC = "auto"
# After so long without a sign of life a process is given up, and the others end.
PATIENCE_SECONDS = 30


class ProcessLost(Exception):
    """Another process of the run has ended, or could not begin."""


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Become one of the processes of a run; before anything else asks JAX for devices.

    Args:
      coordinator: the first process's address, ``HOST:PORT``; ``auto`` where the cluster tells JAX
        (SLURM, Open MPI, Kubernetes, TPU pods); None for a run of one process.
      processes: how many there are.
      process: which this one is, from 0.

    Raises:
      ValueError: for arguments that do not go together, where no cluster is found, or where the
        processes have different numbers of devices.
    """
    if coordinator is None:
        if processes is not None or process is not None:
            raise ValueError("processes: expected --coordinator HOST:PORT (or auto) beside them")
        return
    place: dict[str, Any] = {}
    if coordinator == AUTOMATIC:
        if processes is not None or process is not None:
            raise ValueError("coordinator: auto finds --processes and --process out by itself")
    else:
        if not coordinator.rpartition(":")[2].isdecimal():
            raise ValueError(f"coordinator: expected HOST:PORT or auto, got {coordinator!r}")
        if processes is None or process is None or not 0 <= process < processes:
            raise ValueError(
                "coordinator: expected --processes N and --process I with 0 <= I < N beside it, "
                f"got {processes} and {process}"
            )
        place = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": process,
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(
            **place,
            heartbeat_timeout_seconds=PATIENCE_SECONDS,
            # One that ends alone, with an error, waits for the others before it counts as lost.
            shutdown_timeout_seconds=PATIENCE_SECONDS,
        )
    except ValueError as error:
        raise ValueError(f"coordinator: no cluster found ({error})") from error
    own, everyones = jax.local_device_count(), jax.device_count()
    if own * jax.process_count() != everyones:
        raise ValueError(
            f"coordinator: expected as many devices in each of the {jax.process_count()} "
            f"processes, got {own} of {everyones} in process {jax.process_index()}"
        )
    # JAX's own message about a lost process comes with a stack trace.
    print(
        f"process {jax.process_index()} of {jax.process_count()}, {own} of "
        f"{everyones} devices; if one process ends, the others do within "
        f"{3 * PATIENCE_SECONDS} s: start all of them again with --resume",
        file=sys.stderr,
        flush=True,
    )


def writes() -> bool:
    """Whether this process is the one that writes: the first."""
    return jax.process_index() == 0


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process; all of them must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def of_first(tree: Any) -> Any:
    """The first process's pytree of arrays, in all of them; the others give shapes and types."""
    if jax.process_count() == 1:
        return tree
    return jax.device_get(multihost_utils.broadcast_one_to_all(tree))


def in_first(call: Callable[[], Result]) -> Result | None:
    """``call()`` in the process that writes, and None in the others.

    Raises:
      ProcessLost: in the others, if it raises an error there.
    """
    result, failure = None, None
    if writes():
        try:
            result = call()
        except Exception as error:
            failure = error
    if anywhere(failure is not None):
        raise failure or ProcessLost("the first process could not go on: it says why")
    return result


def check_same(what: str, value: str) -> None:
    """Check that all processes have the first one's ``value``, which people call ``what``.

    Raises:
      ValueError: in those that have not.
      ProcessLost: in the others.
    """
    digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    other = not np.array_equal(of_first(digest), digest)
    if anywhere(other):
        if other:
            raise ValueError(
                f"process {jax.process_index()} has other {what} than the first process"
            )
        raise ProcessLost(f"the processes of the run have different {what}")
