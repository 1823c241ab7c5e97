"""Products and mixtures of experts, and the mixture of products over subsets (MoPoE)."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from holderjax.pooling.gaussian import DiagGaussian, check_broadcast, log_sum_exp
from holderjax.pooling.inputs import checked_experts, checked_mask, present_experts
from holderjax.pooling.mixture import PooledPosterior

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float


def product_of_experts(
    experts: DiagGaussian, *, prior: DiagGaussian | None = None, mask: Any = None
) -> PooledPosterior:
    r"""The normalised product :math:`\propto \prod_j q_j` (MVAE, Wu and Goodman 2018).

    .. math:: 1/v = \sum_j 1/v_j, \qquad \mu = v \sum_j \mu_j / v_j

    Args:
      experts: Gaussians [M, ..., D].
      prior: a further factor, [..., D] or [D], always present: the prior expert of MVAE.
      mask: [M] or [M, ...] bool, True where the expert is present.

    Returns:
      One component, K = 1, whose members are all M experts.
    """
    experts = checked_experts(experts)
    num_experts, *shape = experts.mean.shape
    if prior is not None:
        if mask is not None:
            mask = checked_mask(mask, experts.mean.shape[:-1])
            mask = jnp.concatenate([mask, jnp.ones_like(mask[:1])])
        check_broadcast(jnp.shape(prior.mean), tuple(shape))
        experts = jax.tree.map(
            lambda x, p: jnp.concatenate([x, jnp.broadcast_to(p, (1, *shape))]), experts, prior
        )
    experts, _, present = present_experts(experts, None, mask)
    product = jax.tree.map(lambda x: x[None], _product(experts, present))
    log_weights = jnp.zeros(product.mean.shape[:-1], product.mean.dtype)
    return PooledPosterior(product, log_weights, jnp.ones((1, num_experts), bool))


def mixture_of_experts(
    experts: DiagGaussian, *, weights: Any = None, mask: Any = None
) -> PooledPosterior:
    r"""The mixture :math:`\sum_j w_j q_j` (MMVAE, Shi et al. 2019); Hölder pooling of order 1.

    Args:
      experts: Gaussians, or Laplace densities, [M, ..., D].
      weights: [M] or [M, ...], non-negative; uniform if None.
      mask: [M] or [M, ...] bool, True where the expert is present.

    Returns:
      K = M components, the experts, each a member of its own component.
    """
    experts, log_weights, _ = present_experts(experts, weights, mask)
    return PooledPosterior(experts, log_weights, jnp.eye(experts.mean.shape[0], dtype=bool))


def mixture_of_products(experts: DiagGaussian, *, mask: Any = None) -> PooledPosterior:
    """The uniform mixture of the products of every non-empty subset (MoPoE, Sutter et al. 2021).

    Args:
      experts: Gaussians [M, ..., D].
      mask: [M] or [M, ...] bool; a subset takes part where all its experts are present.

    Returns:
      K = 2^M - 1 components in the order of `subsets`.
    """
    experts, _, present = present_experts(experts, None, mask)
    members = subsets(experts.mean.shape[0])
    products = jax.vmap(lambda s: _product(experts, _along(s, present)))(members)
    return PooledPosterior(products, subset_log_weights(members, present), members)


def subsets(num_experts: int) -> Bool[Array, "K M"]:
    """Every non-empty subset of the experts, by size, then lexicographically: [2^M - 1, M]."""
    rows = np.zeros((2**num_experts - 1, num_experts), bool)
    chosen = (
        c for size in range(1, num_experts + 1) for c in combinations(range(num_experts), size)
    )
    for row, c in zip(rows, chosen, strict=True):
        row[list(c)] = True
    return jnp.asarray(rows)


def subset_log_weights(
    members: Bool[Array, "K M"], present: Bool[Array, "M ..."]
) -> Float[Array, "K ..."]:
    """Uniform log-weights over the subsets whose experts are all present, -inf for the others."""
    complete = jax.vmap(lambda s: (present | ~_along(s, present)).all(axis=0))(members)
    return jax.nn.log_softmax(jnp.where(complete, 0.0, -jnp.inf), axis=0)


def _along(subset: Bool[Array, "M"], present: Bool[Array, "M ..."]) -> Bool[Array, "M ..."]:
    return subset.reshape(-1, *[1] * (present.ndim - 1))


def _product(experts: DiagGaussian, present: Bool[Array, "M ..."]) -> DiagGaussian:
    """The product over axis 0 of the experts marked present, at least one of them."""
    log_precisions = jnp.where(present[..., None], -experts.log_var, -jnp.inf)
    log_precision = log_sum_exp(log_precisions)
    mean = jnp.sum(jnp.exp(log_precisions - log_precision) * experts.mean, axis=0)
    return DiagGaussian(mean, -log_precision)
