"""Draws follow their densities: two-sample tests with fixed keys, which reject the wrong pools."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pooling_cases import quick_jit, random_experts, take
from scipy import special, stats
from scipy.spatial.distance import cdist

from holderjax.pooling import (
    DiagGaussian,
    GaussianMixture,
    holder_pool,
    holder_sample,
    mixture_of_experts,
)
from holderjax.pooling.holder import _draw_pairs
from holderjax.pooling.inputs import present_experts
from holderjax.pooling.mixture import draw_components

# Three experts in the plane, chosen so that one axis tells the wrong pools below from the right.
EXPERTS = DiagGaussian(
    np.float32([[-0.7, -0.9], [-1.3, 0.8], [0.9, 2.1]]),
    np.float32([[-1.1, -2.0], [-0.2, 0.2], [-0.9, 0.7]]),
)
WEIGHTS = np.float32([0.5, 0.3, 0.2])


def sample(draw, seed, number=700):
    return np.asarray(quick_jit(draw, static_argnums=1)(jax.random.key(seed), (number,)))


def linear_cost(weights=WEIGHTS):
    return lambda key, shape: holder_sample(key, EXPERTS, shape, weights=weights)


def mixture(aggregator=holder_pool, experts=EXPERTS, **options):
    return lambda key, shape: aggregator(experts, **options).sample(key, shape)


@pytest.fixture(scope="module")
def pool():
    built = quick_jit(holder_pool)(EXPERTS, weights=WEIGHTS)
    return jax.tree.map(lambda x: np.asarray(x, float), built)


def rejection(x, y, permutations=299):
    """The smaller p-value of Kolmogorov-Smirnov per axis (times D) and the energy distance."""
    marginal = min(stats.ks_2samp(x[:, d], y[:, d]).pvalue for d in range(x.shape[1]))
    both, n = np.concatenate([x, y]), len(x)
    distances = cdist(both, both)
    rng = np.random.default_rng(0)
    sides = np.ones((permutations + 1, len(both)))
    sides[0, n:] = -1
    for row in sides[1:]:
        row[rng.permutation(len(both))[n:]] = -1
    # With equal sizes the energy distance is -s' distances s / n^2 for the signs s.
    energy = -np.einsum("pi,pi->p", sides @ distances, sides)
    joint = (energy >= energy[0]).mean()
    return min(1.0, x.shape[1] * marginal, 2 * joint)


def test_pairs_matter_here(pool):
    assert np.exp(pool.log_weights[3:]).sum() > 0.3


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["uniform", "weighted"])
def test_holder_sample_draws_from_the_pool(weights):
    x, y = sample(linear_cost(weights), 1), sample(mixture(weights=weights), 2)
    assert rejection(x, y) > 0.05


@pytest.mark.parametrize(
    "wrong",
    [
        mixture(mixture_of_experts, weights=WEIGHTS),
        mixture(weights=None),
        mixture(order=4, weights=WEIGHTS),
    ],
    ids=["mixture of experts", "without weights", "another order"],
)
def test_the_two_sample_test_rejects_other_pools(wrong):
    assert rejection(sample(linear_cost(), 1), sample(wrong, 2)) < 0.01


def test_the_energy_distance_sees_what_no_marginal_does():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 500, 2))
    y[:, 1] = 0.8 * y[:, 0] + 0.6 * y[:, 1]
    assert rejection(x, y) < 0.01


@pytest.mark.parametrize(
    "draw", [linear_cost(), mixture(weights=WEIGHTS)], ids=["linear cost", "mixture"]
)
def test_draws_follow_the_distribution_function(draw, pool):
    x = sample(draw, 3, 4000)
    scale = np.exp(0.5 * pool.components.log_var)
    for d in range(2):
        z = (x[:, None, d] - pool.components.mean[:, d]) / scale[:, d]
        uniform = stats.norm.cdf(z) @ np.exp(pool.log_weights)
        assert stats.kstest(uniform, "uniform").pvalue > 0.01


def test_each_entry_of_a_batch_draws_from_its_own_pool():
    """Masks and weights per entry; the last entry has no expert left, under jit, and is N(0, I)."""
    experts = jax.tree.map(lambda x: np.stack([x, x[::-1], x, x], axis=1), EXPERTS)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 0]], bool)
    held = jax.tree.map(lambda x: np.where(mask[..., None], x, np.nan), experts)
    weights = np.stack([WEIGHTS, WEIGHTS, WEIGHTS[::-1], WEIGHTS], axis=1)
    draw = jax.jit(lambda key, mask: holder_sample(key, held, (600,), weights=weights, mask=mask))
    x = np.asarray(draw(jax.random.key(4), mask))
    assert x.shape == (600, 4, 2)
    for b in range(3):
        there = mask[:, b]
        own = mixture(experts=take(experts, (there, b)), weights=weights[there, b])
        assert rejection(x[:, b], sample(own, 5, 600)) > 0.05
    for d in range(2):
        assert stats.kstest(x[:, 3, d], "norm").pvalue > 0.01
    # Entries are drawn independently of each other.
    correlation = np.corrcoef(x.reshape(600, 8).T)
    across = correlation - np.kron(np.eye(4), np.ones((2, 2))) * correlation
    assert np.abs(across).max() < 4 / np.sqrt(600)


def test_the_mixture_draws_components_by_weight_and_never_one_of_weight_zero():
    components = DiagGaussian(jnp.array([[-100.0], [0.0], [jnp.nan]]), jnp.full((3, 1), -10.0))
    two = GaussianMixture(components, np.float32([np.log(0.3), np.log(0.7), -np.inf]))
    x = sample(two.sample, 6, 4000)
    assert np.isfinite(x).all()
    share = (x < -50).mean()
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 4000)


def test_components_are_drawn_in_proportion_to_their_weights():
    """Many components, some of no weight, another order of magnitude in every entry."""
    rng = np.random.default_rng(0)
    log_weights = np.float32(rng.normal(scale=1.5, size=(200, 2)))
    log_weights[rng.random((200, 2)) < 0.2] = -np.inf
    drawn = quick_jit(draw_components, static_argnums=2)(
        jax.random.key(1), log_weights + np.float32([-80.0, 300.0]), (100_000,)
    )
    weights = np.exp(np.float64(log_weights))
    for b in range(2):
        there = weights[:, b] > 0
        found = np.bincount(drawn[:, b], minlength=200)
        assert (found[~there] == 0).all()
        expected = len(drawn) * weights[there, b] / weights[there, b].sum()
        assert stats.chisquare(found[there], expected).pvalue > 0.01


@pytest.mark.parametrize("count", [5, 6])
def test_many_experts_draw_their_pairs_without_a_table(count, monkeypatch):
    """The same shares as of the pool's components; with weights and masks of each entry."""
    monkeypatch.setattr("holderjax.pooling.holder.MOST_IN_TABLE", 1)
    rng = np.random.default_rng(count)
    weights = rng.uniform(0.2, 1.0, (count, 3))
    mask = np.stack([np.arange(count) != 1, np.ones(count), np.arange(count) == 4], axis=1) > 0
    experts, log_weights, _ = present_experts(random_experts(0, count, 3, 2), weights, mask)
    draws = quick_jit(_draw_pairs, static_argnums=3)
    drawn = np.sort(draws(jax.random.key(0), experts, log_weights, (100_000,)), axis=-1)
    log_shares = holder_pool(experts, weights=weights, mask=mask).log_weights
    multisets = [(i, i) for i in range(count)] + list(combinations(range(count), 2))
    numbers = [count * i + j for i, j in multisets]
    for b in range(3):
        found = np.bincount(drawn[:, b] @ [count, 1], minlength=count**2)[numbers]
        there = np.isfinite(log_shares[:, b])
        assert (found[~there] == 0).all()
        expected = len(drawn) * special.softmax(np.float64(log_shares[there, b]))
        assert there.sum() == 1 or stats.chisquare(found[there], expected).pvalue > 0.01


@given(
    st.lists(st.sampled_from([-np.inf, -90.0, -20.0, -1.0, 0.0]), min_size=1, max_size=40).filter(
        lambda x: np.isfinite(x).any()
    ),
    st.integers(0, 1000),
)
def test_no_component_of_weight_zero_is_drawn(log_weights, seed):
    log_weights = np.float32(log_weights)
    drawn = np.asarray(draw_components(jax.random.key(seed), log_weights, (50,)))
    assert np.isfinite(log_weights[drawn]).all()


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("batch", [(), (4,), (2, 2)])
def test_shapes_of_draws(shape, batch):
    experts = DiagGaussian(*(jax.ShapeDtypeStruct((3, *batch, 5), jnp.float32),) * 2)
    key = jax.random.key(0)
    expected = (*shape, *batch, 5)
    linear = jax.eval_shape(lambda e: holder_sample(key, e, shape), experts)
    assert linear.shape == expected
    pool = jax.eval_shape(lambda e: holder_pool(e).sample(key, shape), experts)
    assert pool.shape == expected
    assert jax.eval_shape(lambda e: e.sample(key, shape), experts).shape == (*shape, 3, *batch, 5)


def test_gradients_reach_the_experts_through_the_draw():
    """One expert: z = mean + exp(log_var / 2) noise, so both derivatives are known."""
    one = take(EXPERTS, np.s_[:1])
    draw = jax.jit(lambda experts: holder_sample(jax.random.key(8), experts))
    gradient = jax.jit(jax.grad(lambda experts: draw(experts).sum()))(one)
    np.testing.assert_allclose(gradient.mean[0], [1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(gradient.log_var[0], 0.5 * (draw(one) - one.mean[0]), rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("batch", [(), (2, 4)])
def test_the_pool_makes_the_components_that_are_asked_for(order, batch):
    keys = jax.random.split(jax.random.key(3), 3)
    experts = DiagGaussian(*(jax.random.normal(key, (4, *batch, 5)) for key in keys[:2]))
    pool = quick_jit(holder_pool, static_argnames="order")(experts, order=order)
    index = jax.random.randint(keys[2], (6, *batch), 0, len(pool.log_weights))
    jax.tree.map(
        lambda made, held: np.testing.assert_allclose(made, held, rtol=1e-5, atol=1e-5),
        pool.choose(index),
        GaussianMixture.choose(pool, index),
    )
