"""Laplace densities against SciPy, quadrature and draws."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from holderjax.pooling import mixture_of_experts
from holderjax.pooling.laplace import DiagLaplace, scale_normalized_laplace

KEY = jax.random.key(0)
MEAN = jnp.array([[0.3, -1.0, 2.0], [0.0, 0.5, -0.2]])
LOG_SCALE = jnp.array([[-1.0, 0.2, 0.7], [0.0, -3.0, 1.5]])
EXPERTS = DiagLaplace(MEAN, LOG_SCALE)


def test_density_and_variance_are_scipys():
    z = jnp.array([0.1, 0.4, -0.3])
    reference = stats.laplace(np.asarray(MEAN), np.exp(LOG_SCALE))
    np.testing.assert_allclose(EXPERTS.log_prob(z), reference.logpdf(z).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(EXPERTS.variance, reference.var(), rtol=1e-5)


locations = st.floats(-3, 3)
log_scales = st.floats(-2, 2)


@given(locations, log_scales, locations, log_scales)
def test_kl_is_the_integral(mean, log_scale, other_mean, other_log_scale):
    p = stats.laplace(mean, np.exp(log_scale))
    ends = [mean - 60 * p.std(), *sorted((mean, other_mean)), mean + 60 * p.std()]

    def log_ratio(x):
        # SciPy takes the logarithm of a density that is zero far out.
        b, c = np.exp(log_scale), np.exp(other_log_scale)
        return np.log(c / b) - abs(x - mean) / b + abs(x - other_mean) / c

    expected = sum(
        quad(lambda x: p.pdf(x) * log_ratio(x), a, b, limit=200)[0]
        for a, b in pairwise(ends)
        if a < b
    )
    ours = DiagLaplace(jnp.array([mean]), jnp.array([log_scale]))
    other = DiagLaplace(jnp.array([other_mean]), jnp.array([other_log_scale]))
    assert ours.kl(other) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_kl_of_the_same_is_zero_and_extremes_stay_finite():
    assert float(jnp.abs(EXPERTS.kl(EXPERTS)).max()) < 1e-6
    narrow = DiagLaplace(jnp.zeros(3), jnp.full(3, -30.0))
    value, gradient = jax.value_and_grad(
        lambda x: DiagLaplace(x, narrow.log_scale).kl(DiagLaplace(jnp.zeros(3), jnp.zeros(3)))
    )(jnp.ones(3))
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_draws_have_its_distribution():
    drawn = np.asarray(EXPERTS.sample(KEY, (4000,)))
    for m in range(2):
        for d in range(3):
            reference = stats.laplace(MEAN[m, d], np.exp(LOG_SCALE[m, d]))
            assert stats.kstest(drawn[:, m, d], reference.cdf).pvalue > 1e-4


def test_normalised_scales_have_mean_one():
    q = scale_normalized_laplace(MEAN, LOG_SCALE)
    expected = 3 * np.exp(LOG_SCALE) / np.exp(LOG_SCALE).sum(-1, keepdims=True) + 1e-6
    np.testing.assert_allclose(np.exp(q.log_scale), expected, rtol=1e-5)
    extreme = scale_normalized_laplace(MEAN[0], jnp.array([0.0, 200.0, -200.0]))
    np.testing.assert_allclose(np.exp(extreme.log_scale), [1e-6, 3.0, 1e-6], rtol=1e-4)


def test_a_mixture_of_them_is_a_posterior_like_any_other():
    mask = jnp.array([[True, True], [True, False]]).T[:, :, None]
    experts = jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (2, 2, 3)), EXPERTS)
    pooled = mixture_of_experts(experts, mask=mask[..., 0])
    z = jnp.array([0.1, 0.4, -0.3])
    each = EXPERTS.log_prob(z)
    expected = [jax.nn.logsumexp(each) - np.log(2), each[0]]
    np.testing.assert_allclose(pooled.log_prob(z), jnp.array(expected), rtol=1e-5)
    drawn = np.asarray(pooled.sample(KEY, (20_000,)))
    np.testing.assert_allclose(drawn.mean(0), pooled.mean(), atol=0.12)
    np.testing.assert_allclose(drawn.var(0), pooled.variance(), rtol=0.1)
