"""What the pooling tests share: random experts, every aggregator, and brute force on a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations_with_replacement
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np

from holderjax.pooling import (
    DiagGaussian,
    PooledPosterior,
    geometric_mean,
    hellinger,
    holder_log_normalizer,
    holder_log_prob,
    holder_pool,
    holder_sample,
    log_bhattacharyya,
    mixture_of_experts,
    mixture_of_hellinger,
    mixture_of_products,
    product_of_experts,
)

# Every M of 1..8, and D from 1 to 16.
SHAPES = [(1, 3), (2, 16), (3, 1), (4, 7), (5, 2), (6, 11), (7, 5), (8, 16)]

# These tests compile much more than they compute: at level 0 XLA takes half the time for it.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def product_with_prior(experts: DiagGaussian, **options: object) -> PooledPosterior:
    prior = DiagGaussian(
        jnp.full(experts.mean.shape[-1], 0.5), jnp.full(experts.mean.shape[-1], 1.0)
    )
    return product_of_experts(experts, prior=prior, **options)


WEIGHTED: dict[str, Callable[..., PooledPosterior]] = {
    "mixture of experts": mixture_of_experts,
    "holder 2": holder_pool,
    "holder 3": partial(holder_pool, order=3),
    "hellinger": hellinger,
}
SUBSETS = {
    "mixture of products": mixture_of_products,
    "mixture of hellinger": mixture_of_hellinger,
}
AGGREGATORS = {
    "product": product_of_experts,
    "product with prior": product_with_prior,
    **SUBSETS,
    **WEIGHTED,
}


def random_experts(seed: int, *shape: int, dtype: type = np.float32) -> DiagGaussian:
    """Overlapping experts: means of spread 2, standard deviations from about 0.4 to 2.7."""
    rng = np.random.default_rng(seed)
    mean, log_var = rng.normal(0, 2, shape), rng.uniform(-2, 2, shape)
    return DiagGaussian(mean.astype(dtype), log_var.astype(dtype))


def take(experts: DiagGaussian, index: object) -> DiagGaussian:
    """Index both arrays of the experts."""
    return jax.tree.map(lambda x: x[index], experts)


def log_density(gaussian: DiagGaussian, z: np.ndarray) -> np.ndarray:
    """log N(z; mean, variance), written once more, in NumPy."""
    mean, log_var = np.float64(gaussian.mean), np.float64(gaussian.log_var)
    return -0.5 * (np.square(z - mean) / np.exp(log_var) + log_var + np.log(2 * np.pi)).sum(axis=-1)


def multisets(num_experts: int, order: int) -> Iterator[tuple[list[int], float]]:
    """Copies k_j of each expert, and the multinomial coefficient n! / prod k_j!."""
    for chosen in combinations_with_replacement(range(num_experts), order):
        copies = [chosen.count(j) for j in range(num_experts)]
        yield copies, factorial(order) / np.prod([float(factorial(k)) for k in copies])


GRID = np.linspace(-50.0, 50.0, 20001)


def integrate(values: np.ndarray) -> np.ndarray:
    """The integral over the last axis, GRID: the trapezoid is exact to rounding for these."""
    return np.trapezoid(values, GRID, axis=-1)


def densities(experts: DiagGaussian) -> np.ndarray:
    """N(GRID; mean, variance) for one-dimensional experts [M, 1], in float64: [M, points]."""
    mean, variance = np.float64(experts.mean), np.exp(np.float64(experts.log_var))
    return np.exp(-np.square(GRID - mean) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def _two_experts(experts, z, key, weights, mask):
    p, q = take(experts, 0), take(experts, 1)
    return p.kl(q), log_bhattacharyya(p, q), geometric_mean(p, q), p.log_prob(z), p.sample(key)


def _linear_cost(order, experts, z, key, weights, mask):
    options = {"weights": weights, "mask": mask}
    results = (
        holder_log_prob(experts, z, order=order, **options),
        holder_log_normalizer(experts, order=order, **options),
    )
    if order != 2:
        return results
    draw = holder_sample(key, experts, **options)
    return *results, draw, holder_log_prob(experts, draw, **options)


def _mixture(name, experts, z, key, weights, mask):
    options = {"weights": weights} if name in WEIGHTED else {}
    pool = AGGREGATORS[name](experts, mask=mask, **options)
    draw = pool.sample(key)
    return (
        jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2), pool.components),
        jnp.moveaxis(pool.log_weights, 0, -1),
        (pool.mean(), pool.variance(), pool.log_prob(z), draw, pool.log_prob(draw)),
    )


# All that is public, as functions of (experts, z, key, weights, mask) whose results lead with the
# batch axes.
PUBLIC = {
    "two experts": _two_experts,
    "holder 2 at linear cost": partial(_linear_cost, 2),
    "holder 3 at linear cost": partial(_linear_cost, 3),
    **{name: partial(_mixture, name) for name in AGGREGATORS},
}
