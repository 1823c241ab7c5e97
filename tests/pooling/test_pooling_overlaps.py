"""The overlaps of all pairs, by whichever way and in however many parts they are computed."""

from __future__ import annotations

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pooling_cases import quick_jit

from holderjax.pooling import DiagGaussian, holder_log_normalizer, holder_pool, log_bhattacharyya
from holderjax.pooling.gaussian import log_overlap, quick_log_overlap
from holderjax.pooling.holder import MOST_IN_TABLE, MOST_ROWS

STEP = -1e-3, 1e-3


def experts_of(count, dim, spread=3.0, batch=2):
    keys = jax.random.split(jax.random.key(count * dim), 2)
    return DiagGaussian(*(spread * jax.random.normal(key, (count, batch, dim)) for key in keys))


def log_overlaps(experts):
    """By the formula in numpy, in float64: [P, B]."""
    mean, log_var = (np.asarray(x, np.float64) for x in (experts.mean, experts.log_var))
    i, j = np.array(list(combinations(range(len(mean)), 2)), int).reshape(-1, 2).T
    total = np.exp(log_var[i]) + np.exp(log_var[j])
    bracket = np.log(2) + 0.5 * (log_var[i] + log_var[j]) - np.log(total)
    return (0.5 * bracket - np.square(mean[i] - mean[j]) / (4 * total)).sum(axis=-1)


def log_masses(experts):
    """Of the components of the uniform pool: [K, B]."""
    count, batch, _ = experts.mean.shape
    of_experts = np.zeros((count, batch))
    return np.concatenate([of_experts, np.log(2) + log_overlaps(experts)]) - 2 * np.log(count)


def log_normalizer(experts):
    return -np.log(np.exp(log_masses(experts)).sum(axis=0))


COUNTS = [1, 2, 3, 22, *(most + n for most in (MOST_ROWS, MOST_IN_TABLE) for n in range(3))]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("dim", [3, 24])
def test_weights_are_those_of_the_formula(count, dim):
    experts = experts_of(count, dim, spread=1.0)
    found = quick_jit(holder_pool)(experts).log_weights
    expected = log_masses(experts) + log_normalizer(experts)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("count", COUNTS[2:])
def test_the_normalizer_is_that_of_the_formula(count):
    """With weights and masks of each entry, one of them of a single expert."""
    experts, rng = experts_of(count, 24, spread=0.5), np.random.default_rng(count)
    weights = np.float32(rng.uniform(0.0, 1.0, (count, 2)))
    mask = np.stack([rng.random(count) < 0.7, np.arange(count) == 1], axis=1)
    found = quick_jit(holder_log_normalizer)(experts, weights=weights, mask=mask)
    log_weights = np.log(weights[mask[:, 0], 0] / weights[mask[:, 0], 0].sum())
    i, j = np.array(list(combinations(range(len(log_weights)), 2))).T
    present = jax.tree.map(lambda x: x[mask[:, 0]], experts)
    of_pairs = log_overlaps(present)[:, 0] + log_weights[i] + log_weights[j]
    total = np.exp(2 * log_weights).sum() + 2 * np.exp(of_pairs).sum()
    np.testing.assert_allclose(found, [-np.log(total), 0.0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [4, MOST_ROWS + 2, MOST_IN_TABLE + 1, MOST_IN_TABLE + 2])
def test_gradients_are_the_same_forwards_and_backwards(count):
    experts = experts_of(count, 16, spread=1.0)
    direction = experts_of(count, 16, spread=0.1)

    def total(experts):
        return holder_log_normalizer(experts).sum()

    gradient = quick_jit(jax.grad(total))(experts)
    forwards = quick_jit(lambda e, d: jax.jvp(total, (e,), (d,))[1])(experts, direction)
    products = jax.tree.map(lambda g, d: jnp.vdot(g, d), gradient, direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), forwards, rtol=1e-4)
    ends = (jax.tree.map(lambda e, d, s=s: np.float64(e) + s * d, experts, direction) for s in STEP)
    below, above = (log_normalizer(end).sum() for end in ends)
    np.testing.assert_allclose(forwards, (above - below) / (STEP[1] - STEP[0]), rtol=1e-3)


@pytest.mark.parametrize("dim", [1, 7, 8, 16, 24, 32, 64, 512])
@pytest.mark.parametrize("spread", [0.1, 3.0, 20.0])
def test_any_size_and_spread(dim, spread):
    p, q = (jax.tree.map(lambda x, i=i: x[i], experts_of(2, dim, spread)) for i in range(2))
    both = DiagGaussian(*(jnp.stack([getattr(e, f) for e in (p, q)]) for f in ("mean", "log_var")))
    found = log_bhattacharyya(p, q)
    np.testing.assert_allclose(found, log_overlaps(both)[0], rtol=1e-5, atol=1e-6 * dim)
    np.testing.assert_array_equal(log_bhattacharyya(p, p), 0.0)
    assert (found <= 0).all()


@pytest.mark.parametrize("dim", [1, 7, 16, 64, 512])
@pytest.mark.parametrize("spread", [0.1, 3.0, 40.0])
def test_quick_overlaps_are_the_same_unless_they_are_nothing(dim, spread):
    experts = experts_of(2, dim, spread, 100)
    experts = DiagGaussian(0.1 * experts.mean, np.clip(experts.log_var, -85, 85))
    p, q = zip(experts.mean, experts.variance, strict=True)
    found = np.asarray(quick_log_overlap(*p, *q))
    expected = log_overlaps(experts)[0]
    nothing = found == -np.inf
    assert (expected[nothing] < np.log(5e-10)).all()
    np.testing.assert_allclose(found[~nothing], expected[~nothing], rtol=1e-5, atol=2e-6 * dim)
    assert nothing.any() == (spread == 40.0)


@pytest.mark.parametrize("log_var", [-1e3, -90.0, 90.0, 1e3])
def test_quick_overlaps_of_variances_beyond_their_type_are_numbers(log_var):
    beyond, inside = DiagGaussian(jnp.zeros(16), jnp.full(16, log_var)), experts_of(1, 16, batch=1)
    same = quick_log_overlap(beyond.mean, beyond.variance, beyond.mean, beyond.variance)
    np.testing.assert_allclose(same, 0.0, atol=1e-5)
    other = quick_log_overlap(beyond.mean, beyond.variance, inside.mean, inside.variance)
    assert (other == -np.inf).all()


@pytest.mark.parametrize("num_parts", [1, 2, 4, 8])
def test_parts_are_a_matter_of_rounding(num_parts):
    p, q = (jax.tree.map(lambda x, i=i: x[i], experts_of(2, 64)) for i in range(2))
    found = log_overlap(p, q, num_parts)
    np.testing.assert_allclose(found, log_overlap(p, q), rtol=1e-5)


@pytest.mark.parametrize("count", [3, MOST_IN_TABLE + 1])
def test_float32_stays_float32_where_float64_is_allowed(count):
    experts = experts_of(count, 16)
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(lambda e: holder_log_normalizer(e).sum())(experts)
    assert {x.dtype for x in jax.tree.leaves((value, gradient))} == {jnp.dtype("float32")}
