"""Aggregators by name: from experts and a mask to a pooled posterior and its density."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from holderjax.pooling import PooledPosterior, holder_log_prob, holder_pool

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class Aggregator(NamedTuple):
    """How the experts of the observed modalities become one posterior.

    Attributes:
      pool: (experts [M, ..., D], mask=[M, ...]) to a `PooledPosterior`.
      log_prob: (experts, z, mask=...) to the density of that posterior, without its components
        where the aggregator has a cheaper form.
    """

    pool: Callable[..., PooledPosterior]
    log_prob: Callable[..., Float[Array, ...]]


def holder(order: int = 2) -> Aggregator:
    """Exact Hölder pooling of any order; order 1 is the mixture of experts."""
    return Aggregator(partial(holder_pool, order=order), partial(holder_log_prob, order=order))


AGGREGATORS: dict[str, Callable[..., Aggregator]] = {"holder": holder}
