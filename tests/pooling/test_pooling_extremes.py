"""float32 at its limits: log-variances in [-40, 40], means to 1e3, in values and in gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pooling_cases import PUBLIC, quick_jit, take

from holderjax.pooling import (
    DiagGaussian,
    GaussianMixture,
    hellinger,
    holder_log_prob,
    holder_pool,
    log_bhattacharyya,
)

CASES, M, D = 48, 3, 16


def extreme(rng, shape, limit):
    """Uniform numbers, exact limits and zeros, and whole rows that all experts share."""
    uniform = rng.uniform(-limit, limit, shape)
    corner = limit * rng.integers(-1, 2, shape)
    values = np.where(rng.random((shape[0], *[1] * (len(shape) - 1))) < 0.5, uniform, corner)
    shared = rng.random((shape[0], *[1] * (len(shape) - 1))) < 0.3
    return np.where(shared, values[:, :1], values).astype(np.float32)


def inputs(seed=0, log_var=40.0, mean=1e3):
    rng = np.random.default_rng(seed)
    experts = DiagGaussian(extreme(rng, (CASES, M, D), mean), extreme(rng, (CASES, M, D), log_var))
    z = extreme(rng, (CASES, D), mean)
    weights = rng.uniform(0.1, 1, (CASES, M)).astype(np.float32)
    mask = rng.random((CASES, M)) < 0.7
    mask[: CASES // 2] = True
    mask[mask.sum(axis=1) == 0] = True
    return experts, z, weights, mask


@pytest.mark.parametrize("name", PUBLIC)
def test_values_and_gradients_are_finite(name):
    experts, z, weights, mask = inputs()
    keys = jax.random.split(jax.random.key(0), CASES)

    def value_and_gradient(experts, z, key, weights, mask):
        def function(experts, weights):
            return PUBLIC[name](experts, z, key, weights, mask)

        value, pullback = jax.vjp(function, experts, weights)
        return value, pullback(jax.tree.map(jnp.ones_like, value))

    values, gradients = quick_jit(jax.vmap(value_and_gradient))(experts, z, keys, weights, mask)
    for value in jax.tree.leaves(values):
        assert value.dtype == jnp.float32
        # A component that holds an absent expert has a log-weight of -inf, and nothing else has.
        assert np.isfinite(value[mask.all(axis=1)]).all()
        assert not (np.isnan(value) | (value == np.inf)).any()
    for gradient in jax.tree.leaves(gradients):
        assert np.isfinite(gradient).all()


def test_log_bhattacharyya_to_log_variances_of_eighty():
    experts, *_ = inputs(seed=1, log_var=80.0, mean=3.0)
    p, q = take(experts, np.s_[:, 0]), take(experts, np.s_[:, 1])
    value, (at_p, at_q) = quick_jit(
        lambda p, q: (
            log_bhattacharyya(p, q),
            jax.grad(lambda *a: log_bhattacharyya(*a).sum(), (0, 1))(p, q),
        )
    )(p, q)
    for x in jax.tree.leaves((value, at_p, at_q)):
        assert np.isfinite(x).all()
    v, w = (np.exp(np.float64(x.log_var)) for x in (p, q))
    expected = 0.5 * (np.log(2) + (p.log_var + q.log_var) / 2 - np.log(v + w))
    expected -= np.square(np.float64(p.mean) - q.mean) / (4 * (v + w))
    np.testing.assert_allclose(value, expected.sum(axis=-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("log_var", "mean"), [(3.0, 3.0), (10.0, 30.0), (40.0, 1e3)])
def test_float32_densities_are_accurate_to_rounding(log_var, mean):
    experts, z, weights, _ = inputs(seed=2, log_var=log_var, mean=mean)

    def each_way(experts, z, weights):
        pool = holder_pool(experts, weights=weights)
        return (
            holder_log_prob(experts, z, weights=weights),
            pool.log_prob(z),
            GaussianMixture.log_prob(pool, z),
        )

    single = quick_jit(jax.vmap(each_way))(experts, z, weights)
    with jax.enable_x64(True):
        wide = jax.tree.map(np.float64, (experts, z, weights))
        double = quick_jit(jax.vmap(each_way))(*wide)
    for value, expected in zip(single, double, strict=True):
        assert value.dtype == jnp.float32
        assert expected.dtype == jnp.float64
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("mean", "log_var"), [(1e3, -40.0), (700.3, -20.0), (1.234, -40.0)])
def test_identical_experts_far_from_the_origin_keep_their_variance(mean, log_var):
    """Rounding of a mean near 1e3 is 1e-5: squared, still far more than exp(-40)."""
    expert = DiagGaussian(np.full((3, 1), mean, np.float32), np.full((3, 1), log_var, np.float32))
    moments = quick_jit(hellinger)(expert, weights=np.float32([0.5, 0.3, 0.2])).components
    np.testing.assert_array_equal(moments.mean[0], expert.mean[0])
    np.testing.assert_allclose(moments.log_var[0], expert.log_var[0], rtol=1e-6)
