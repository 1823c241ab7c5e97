"""HELVAE's Gaussian approximation of the symmetric Hölder pool, and its mixture over subsets."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from holderjax.pooling.experts import subset_log_weights, subsets
from holderjax.pooling.gaussian import DiagGaussian
from holderjax.pooling.holder import holder_pool
from holderjax.pooling.inputs import present_experts
from holderjax.pooling.mixture import PooledPosterior


def hellinger(experts: DiagGaussian, *, weights: Any = None, mask: Any = None) -> PooledPosterior:
    r"""The Gaussian with the mean and the variance of the exact pool of order 2.

    .. math::
      \mu = \sum_k \pi_k m_k, \qquad v = \sum_k \pi_k \big(v_k + (m_k - \mu)^2\big)

    over the unimodal and pairwise components of `holder_pool` (HELVAE, Vo and Valera 2026).

    Args:
      experts: Gaussians [M, ..., D].
      weights: [M] or [M, ...], non-negative; uniform if None.
      mask: [M] or [M, ...] bool, True where the expert is present.

    Returns:
      One component, K = 1, whose members are all M experts.
    """
    pool = holder_pool(experts, weights=weights, mask=mask)
    moments = DiagGaussian(pool.mean()[None], pool.log_variance()[None])
    members = jnp.ones((1, experts.mean.shape[0]), bool)
    return PooledPosterior(moments, jnp.zeros_like(moments.mean[..., 0]), members)


def mixture_of_hellinger(experts: DiagGaussian, *, mask: Any = None) -> PooledPosterior:
    """The uniform mixture of `hellinger` over every non-empty subset (MoHELVAE).

    Args:
      experts: Gaussians [M, ..., D].
      mask: [M] or [M, ...] bool; a subset takes part where all its experts are present.

    Returns:
      K = 2^M - 1 components in the order of `holderjax.pooling.experts.subsets`.
    """
    experts, _, present = present_experts(experts, None, mask)
    members = subsets(experts.mean.shape[0])
    pools = jax.vmap(lambda subset: hellinger(experts, mask=subset).components)(members)
    components = jax.tree.map(lambda x: x[:, 0], pools)
    return PooledPosterior(components, subset_log_weights(members, present), members)
