"""A leading population axis: several runs as one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


def over_population(
    function: Callable[..., Any], size: int, in_axes: tuple[int | None, ...]
) -> Callable[..., Any]:
    """``function`` over arguments and results with a leading axis of ``size`` members.

    A single member runs the unbatched program: batched matrix products and grouped convolutions
    are slower, and it is then bit for bit what it was before there were populations.

    Args:
      function: of one member.
      size: P.
      in_axes: 0 for arguments that each member has its own of, None for those that all share.
    """
    if size > 1:
        return jax.vmap(function, in_axes)

    def single(*args: Any) -> Any:
        own = [
            arg if axis is None else take(arg, 0) for arg, axis in zip(args, in_axes, strict=True)
        ]
        return jax.tree.map(lambda x: x[None], function(*own))

    return single


def stack(members: Sequence[Any]) -> Any:
    """Pytrees of arrays on the host to one pytree, [P, ...]."""
    return jax.tree.map(lambda *x: np.stack(x), *members)


def take(population: Any, i: int) -> Any:
    """Member ``i`` of a pytree [P, ...]."""
    return jax.tree.map(lambda x: x[i], population)
