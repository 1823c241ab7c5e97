"""Sums over coordinates and over experts, which a CPU takes as products of matrices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holderjax.pooling import DiagGaussian
from holderjax.pooling.gaussian import BLOCK, log_sum_exp, sum_over_dims


def numbers(shape, scale=1.0, dtype=np.float32):
    return (scale * np.random.default_rng(0).standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("dim", [1, 3, 16, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("batch", [(), (1,), (7,), (8,), (3, 4), (0,)])
def test_sums_are_those_of_numpy(dim, batch):
    x = numbers((*batch, dim), scale=100.0)
    found = jax.jit(sum_over_dims)(x)
    np.testing.assert_allclose(found, x.sum(-1), rtol=1e-5, atol=1e-3)
    mapped = sum_over_dims(x) if not batch else jax.vmap(sum_over_dims)(x)
    np.testing.assert_allclose(mapped, found, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_stays_in_its_row(dtype):
    with jax.enable_x64(dtype is np.float64):
        x = numbers((12, 16), dtype=dtype)
        x[1, 3] = np.inf
        x[4, 0], x[4, 7] = np.inf, np.nan
        x[6] = np.nan
        x[9] = np.inf
        x[10] = np.finfo(dtype).max / 1e6
        found = sum_over_dims(jnp.asarray(x))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, x.sum(-1), rtol=1e-5)
        _, pull = jax.vjp(sum_over_dims, jnp.asarray(x))
        cotangent = np.arange(12, dtype=dtype)
        cotangent[2], cotangent[7] = np.inf, np.nan
        (gradient,) = pull(jnp.asarray(cotangent))
        np.testing.assert_array_equal(gradient, np.repeat(cotangent[:, None], 16, axis=1))


def test_minus_infinity_is_taken_for_no_number():
    x = numbers((4, 16))
    x[1, 1] = -np.inf
    found = sum_over_dims(jnp.asarray(x))
    assert np.isnan(found[1])
    assert np.isfinite(np.delete(found, 1)).all()


def test_densities_of_neighbours_do_not_see_each_other():
    mean, log_var, z = numbers((3, 8, 16))
    log_var[2] = -np.inf
    log_var[5] = np.nan
    mean[6] = 1e30
    found = np.asarray(DiagGaussian(jnp.asarray(mean), jnp.asarray(log_var)).log_prob(z))
    good = [0, 1, 3, 4, 7]
    alone = [float(DiagGaussian(mean[i], log_var[i]).log_prob(z[i])) for i in good]
    np.testing.assert_allclose(found[good], alone, rtol=1e-5)
    assert np.isnan(found[5])
    assert found[6] == -np.inf
    assert not np.isfinite(found[2])


def test_derivatives_of_any_order():
    x = numbers((8, 4))

    def of_squares(x):
        return jnp.square(sum_over_dims(jnp.square(x))).sum()

    def plain(x):
        return jnp.square(jnp.square(x).sum(-1)).sum()

    for derivative in (jax.grad, jax.hessian, lambda f: jax.jacfwd(jax.jacfwd(f))):
        found, expected = derivative(of_squares)(x), derivative(plain)(x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1,), (2, 5), (7, 3, 4), (3, 0)])
def test_log_sum_exp_is_that_of_jax(shape):
    x = numbers(shape, scale=50.0)
    if len(x) > 1:
        x[0] = -np.inf
    for f in (lambda g: g, lambda g: jax.grad(lambda x: g(x).sum())):
        found, expected = f(log_sum_exp)(x), f(lambda x: jax.nn.logsumexp(x, axis=0))(x)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_log_sum_exp_of_nothing_and_of_infinities():
    x = np.array([[-np.inf, np.inf, 1.0, np.nan], [-np.inf, 0.0, np.inf, 0.0]], np.float32)
    np.testing.assert_array_equal(log_sum_exp(x), jax.nn.logsumexp(x, axis=0))
