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

    Accelerators compute all members at once. A CPU computes one after the other: there, products of
    a batch of matrices are slower than as many products of two. A single member runs the unbatched
    program everywhere, and is then bit for bit what it was before there were populations.

    Args:
      function: of one member.
      size: P.
      in_axes: 0 for arguments that each member has its own of, None for those that all share.
    """
    if size > 1 and jax.default_backend() != "cpu":
        return jax.vmap(function, in_axes)

    def in_turn(*args: Any) -> Any:
        own = {i: arg for i, arg in enumerate(args) if in_axes[i] is not None}

        def of_one(own: dict[int, Any]) -> Any:
            return function(*(own.get(i, arg) for i, arg in enumerate(args)))

        if size > 1:
            return jax.lax.map(of_one, own)
        return jax.tree.map(lambda x: x[None], of_one(take(own, 0)))

    return in_turn


def stack(members: Sequence[Any]) -> Any:
    """Pytrees of arrays on the host to one pytree, [P, ...]."""
    return jax.tree.map(lambda *x: np.stack(x), *members)


def take(population: Any, i: int) -> Any:
    """Member ``i`` of a pytree [P, ...]."""
    return jax.tree.map(lambda x: x[i], population)
