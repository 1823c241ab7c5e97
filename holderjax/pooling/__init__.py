"""Pooling of diagonal Gaussian experts into one posterior: pure functions on arrays.

Everything here works under ``jit``, ``vmap`` and ``grad``, keeps weights in log space, and imports
nothing but JAX, so the folder can be lifted out and used alone.
"""

from holderjax.pooling.experts import mixture_of_experts, mixture_of_products, product_of_experts
from holderjax.pooling.gaussian import DiagGaussian, geometric_mean, log_bhattacharyya
from holderjax.pooling.hellinger import hellinger, mixture_of_hellinger
from holderjax.pooling.holder import (
    holder_log_normalizer,
    holder_log_prob,
    holder_pool,
    holder_sample,
)
from holderjax.pooling.mixture import GaussianMixture, PooledPosterior

__all__ = [
    "DiagGaussian",
    "GaussianMixture",
    "PooledPosterior",
    "geometric_mean",
    "hellinger",
    "holder_log_normalizer",
    "holder_log_prob",
    "holder_pool",
    "holder_sample",
    "log_bhattacharyya",
    "mixture_of_experts",
    "mixture_of_hellinger",
    "mixture_of_products",
    "product_of_experts",
]
