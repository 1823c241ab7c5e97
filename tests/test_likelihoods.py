"""Likelihoods against SciPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from holderjax.likelihoods import Bernoulli, Categorical, Gaussian, Laplace

RNG = np.random.default_rng(0)
PARAMS = RNG.normal(size=(4, 3, 2)).astype(np.float32) * 3
X = RNG.normal(size=(3, 2)).astype(np.float32)


@pytest.mark.parametrize("scale", [0.75, 2.0])
def test_laplace(scale):
    likelihood = Laplace(scale)
    assert likelihood.param_shape((3, 2)) == (3, 2)
    expected = stats.laplace(PARAMS, scale).logpdf(X)
    np.testing.assert_allclose(likelihood.log_prob(PARAMS, X), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(likelihood.mean(PARAMS), PARAMS)


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_gaussian(scale):
    likelihood = Gaussian(scale)
    assert likelihood.param_shape((3, 2)) == (3, 2)
    expected = stats.norm(PARAMS, scale).logpdf(X)
    np.testing.assert_allclose(likelihood.log_prob(PARAMS, X), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(likelihood.mean(PARAMS), PARAMS)


def test_the_defaults_are_the_field_s():
    assert Laplace() == Laplace(0.75)
    assert Gaussian() == Gaussian(1.0)


def test_bernoulli():
    likelihood = Bernoulli()
    assert likelihood.param_shape((3, 2)) == (3, 2)
    p = 1 / (1 + np.exp(-PARAMS.astype(np.float64)))
    x = (X > 0).astype(int)
    np.testing.assert_allclose(
        likelihood.log_prob(PARAMS, x), stats.bernoulli(p).logpmf(x), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(likelihood.mean(PARAMS), p, rtol=1e-5)
    # Between 0 and 1 it is the cross-entropy.
    np.testing.assert_allclose(
        likelihood.log_prob(PARAMS, 0.25), 0.25 * np.log(p) + 0.75 * np.log(1 - p), rtol=1e-4
    )


def test_bernoulli_is_finite_for_large_logits():
    value, slope = jax.value_and_grad(lambda p: Bernoulli().log_prob(p, 1.0))(-1e4)
    np.testing.assert_allclose((value, slope), (-1e4, 1.0))


def test_categorical():
    likelihood = Categorical(5)
    assert likelihood.param_shape((3, 2)) == (3, 2, 5)
    params = RNG.normal(size=(4, 3, 2, 5)).astype(np.float32) * 3
    x = RNG.integers(0, 5, size=(3, 2))
    p = np.exp(params.astype(np.float64))
    p /= p.sum(axis=-1, keepdims=True)
    expected = stats.multinomial(1, p).logpmf(np.eye(5)[x])
    np.testing.assert_allclose(likelihood.log_prob(params, x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(likelihood.mean(params), p, rtol=1e-4, atol=1e-6)
    decided = likelihood.decide(p)
    np.testing.assert_array_equal(decided, np.eye(5)[p.argmax(axis=-1)])
    np.testing.assert_array_equal(likelihood.as_mean(x), np.eye(5)[x])
    np.testing.assert_array_equal(likelihood.error(p, x), p.argmax(axis=-1) != x)


@pytest.mark.parametrize("kind", [Laplace, Gaussian])
@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_scales_are_positive(kind, scale):
    with pytest.raises(ValueError, match="scale: expected a positive number, got"):
        kind(scale)


def test_a_categorical_has_at_least_two_classes():
    with pytest.raises(ValueError, match="num_classes: expected at least 2, got 1"):
        Categorical(1)


@pytest.mark.parametrize("likelihood", [Laplace(), Gaussian(), Bernoulli(), Categorical(5)])
def test_log_prob_is_elementwise_and_compiles(likelihood):
    params = jnp.zeros((7, 4, *likelihood.param_shape((3, 2))))
    x = jnp.ones((4, 3, 2), int)
    log_prob = likelihood.log_prob(params, x)
    assert log_prob.shape == (7, 4, 3, 2)
    np.testing.assert_allclose(jax.jit(likelihood.log_prob)(params, x), log_prob, rtol=1e-6)
    assert hash(likelihood) == hash(type(likelihood)(*vars(likelihood).values()))
