"""Every aggregator against numerical integrals and naive loops, in float64."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pooling_cases import (
    GRID,
    densities,
    integrate,
    multisets,
    quick_jit,
    random_experts,
    take,
)

from holderjax.pooling import (
    DiagGaussian,
    GaussianMixture,
    geometric_mean,
    hellinger,
    holder_log_normalizer,
    holder_log_prob,
    holder_pool,
    log_bhattacharyya,
    mixture_of_experts,
    mixture_of_hellinger,
    mixture_of_products,
    product_of_experts,
)


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def equal(value, expected, tolerance=1e-9):
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)


def moments(values):
    """Mean and variance of an unnormalised density on GRID."""
    mass = integrate(values)
    mean = integrate(values * GRID) / mass
    return mean, integrate(values * np.square(GRID - mean)) / mass


def random_weights(seed, *shape):
    return np.random.default_rng([seed, 7]).uniform(0.1, 1.0, shape)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_holder_pool_is_the_power_mean_of_densities(order):
    experts = random_experts(order, 4, 1, dtype=np.float64)
    weights = random_weights(order, 4)
    w = weights / weights.sum()
    power_mean = (w[:, None] * densities(experts) ** (1 / order)).sum(axis=0) ** order
    mass = integrate(power_mean)
    expected = np.log(power_mean[9000:11001:200] / mass)
    points = GRID[9000:11001:200, None]

    @quick_jit
    def compute(experts):
        options = {"order": order, "weights": weights}
        pool = holder_pool(experts, **options)
        return (
            holder_log_normalizer(experts, **options),
            holder_log_prob(experts, points, **options),
            pool.log_prob(points),
            GaussianMixture.log_prob(pool, points),
            pool.mean()[0],
            pool.variance()[0],
        )

    for value, reference in zip(
        compute(experts), (-np.log(mass), *[expected] * 3, *moments(power_mean)), strict=True
    ):
        equal(value, reference)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_each_component_is_its_term_of_the_multinomial(order):
    experts = random_experts(10 + order, 3, 1, dtype=np.float64)
    weights = random_weights(order, 3)
    roots = densities(experts) ** (1 / order)
    terms = []
    for copies, coefficient in multisets(3, order):
        k = np.array(copies)
        values = coefficient * np.prod(weights**k) * np.prod(roots ** k[:, None], axis=0)
        terms.append((integrate(values), *moments(values)))
    total = sum(mass for mass, _, _ in terms)

    pool = quick_jit(lambda e: holder_pool(e, order=order, weights=weights))(experts)
    mean, log_var = pool.components.mean[:, 0], pool.components.log_var[:, 0]
    computed = np.stack([np.exp(pool.log_weights), mean, np.exp(log_var)], axis=1)
    expected = np.array([(mass / total, mean, variance) for mass, mean, variance in terms])
    equal(np.sort(computed, axis=0), np.sort(expected, axis=0))
    equal(computed[computed[:, 0].argsort()], expected[expected[:, 0].argsort()])


def test_components_of_order_two_come_unimodal_first_then_pairs():
    experts = random_experts(3, 4, 2, dtype=np.float64)
    pool = quick_jit(holder_pool)(experts)
    pairs = [(j, j) for j in range(4)] + list(combinations(range(4), 2))
    assert [tuple(np.flatnonzero(row)[[0, -1]]) for row in pool.members] == pairs
    first, second = np.array(pairs).T
    expected = quick_jit(geometric_mean)(take(experts, first), take(experts, second))
    equal(pool.components.mean, expected.mean)
    equal(pool.components.log_var, expected.log_var)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_members_of_a_component_are_the_experts_that_shape_it(order):
    experts = random_experts(4, 3, 2, dtype=np.float64)
    pool = partial(holder_pool, order=order)
    jacobian = quick_jit(jax.jacobian(lambda q: pool(q).components.mean.sum(axis=-1)))(experts)
    shaped = (np.abs(jacobian.mean) > 0).any(axis=-1)  # [K, M, D] -> [K, M]
    np.testing.assert_array_equal(quick_jit(pool)(experts).members, shaped)


def test_bhattacharyya_and_geometric_mean_of_two_densities():
    pair = random_experts(5, 2, 1, dtype=np.float64)
    root = np.sqrt(densities(pair).prod(axis=0))
    p, q = take(pair, 0), take(pair, 1)
    equal(log_bhattacharyya(p, q), np.log(integrate(root)))
    mean, variance = moments(root)
    equal(geometric_mean(p, q).mean, [mean])
    equal(geometric_mean(p, q).variance, [variance])


@pytest.mark.parametrize("with_prior", [False, True])
def test_product_of_experts_is_the_normalised_product(with_prior):
    experts = random_experts(6, 4, 1, dtype=np.float64)
    prior = DiagGaussian(jnp.array([0.7]), jnp.array([0.3])) if with_prior else None
    factors = list(densities(experts)) + (list(densities(take(prior, None))) if with_prior else [])
    mean, variance = moments(np.prod(factors, axis=0))
    pool = product_of_experts(experts, prior=prior)
    equal(pool.components.mean, [[mean]])
    equal(pool.components.variance, [[variance]])
    assert pool.members.tolist() == [[True] * 4]


def test_mixture_of_experts_is_the_weighted_sum():
    experts, weights = random_experts(7, 4, 1, dtype=np.float64), random_weights(7, 4)
    pool = mixture_of_experts(experts, weights=weights)
    mixture = (weights / weights.sum()) @ densities(experts)
    equal(np.exp(pool.log_prob(GRID[:, None])), mixture)
    np.testing.assert_array_equal(pool.members, np.eye(4, dtype=bool))


@pytest.mark.parametrize("weights", [None, [0.2, 0.5, 0.1]])
def test_hellinger_has_the_moments_of_the_pool(weights):
    experts = random_experts(8, 3, 1, dtype=np.float64)
    w = np.ones(3) if weights is None else np.array(weights)
    mean, variance = moments((w @ np.sqrt(densities(experts))) ** 2)
    pool = quick_jit(lambda e: hellinger(e, weights=weights))(experts)
    equal(pool.components.mean, [[mean]])
    equal(pool.components.variance, [[variance]])
    assert pool.members.tolist() == [[True] * 3]


def subsets_by_size(num_experts):
    for size in range(1, num_experts + 1):
        yield from combinations(range(num_experts), size)


def test_mixture_of_products_loops_over_subsets():
    experts = random_experts(9, 4, 3, dtype=np.float64)
    means, precision = np.asarray(experts.mean), np.exp(-np.asarray(experts.log_var))
    pool = quick_jit(mixture_of_products)(experts)
    assert pool.log_weights.shape == (15,)
    for k, chosen in enumerate(subsets_by_size(4)):
        s = list(chosen)
        total = precision[s].sum(axis=0)
        equal(pool.components.variance[k], 1 / total)
        equal(pool.components.mean[k], (precision[s] * means[s]).sum(axis=0) / total)
        equal(pool.log_weights[k], -np.log(15))
        assert np.flatnonzero(pool.members[k]).tolist() == s


def test_mixture_of_hellinger_loops_over_subsets():
    experts = random_experts(10, 4, 1, dtype=np.float64)
    roots = np.sqrt(densities(experts))
    pool = quick_jit(mixture_of_hellinger)(experts)
    assert pool.log_weights.shape == (15,)
    for k, chosen in enumerate(subsets_by_size(4)):
        s = list(chosen)
        mean, variance = moments(roots[s].sum(axis=0) ** 2)
        equal(pool.components.mean[k], [mean])
        equal(pool.components.variance[k], [variance])
        equal(pool.log_weights[k], -np.log(15))
        assert np.flatnonzero(pool.members[k]).tolist() == s


def test_hellinger_of_subsets_in_several_dimensions():
    experts = random_experts(11, 3, 4, dtype=np.float64)
    pool = quick_jit(mixture_of_hellinger)(experts)
    for k, chosen in enumerate(subsets_by_size(3)):
        alone = quick_jit(hellinger)(take(experts, np.array(chosen))).components
        equal(pool.components.mean[k], alone.mean[0])
        equal(pool.components.log_var[k], alone.log_var[0])


def test_kl_of_gaussians_is_the_integral():
    p, q = random_experts(12, 3, 1, dtype=np.float64), random_experts(13, 3, 1, dtype=np.float64)
    grid = GRID[:, None, None]
    log_ratio = p.log_prob(grid) - q.log_prob(grid)
    each = integrate((np.exp(p.log_prob(grid)) * log_ratio).T)
    equal(p.kl(q), each)
    rows = [DiagGaussian(x.mean.reshape(1, 3), x.log_var.reshape(1, 3)) for x in (p, q)]
    equal(rows[0].kl(rows[1]), [each.sum()])
    equal(p.kl(p), np.zeros(3), 1e-15)


def test_log_prob_of_a_gaussian_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    p = random_experts(14, 5, dtype=np.float64)
    z = np.random.default_rng(14).normal(size=(7, 5))
    expected = stats.multivariate_normal(p.mean, np.diag(p.variance)).logpdf(z)
    equal(p.log_prob(z), expected)


def test_moments_of_a_mixture_are_integrals():
    components = random_experts(15, 5, 1, dtype=np.float64)
    weights = random_weights(15, 5)
    mixture = GaussianMixture(components, jnp.log(weights / weights.sum()))
    mean, variance = moments(weights @ densities(components))
    equal(mixture.mean(), [mean])
    equal(mixture.variance(), [variance])
    assert mixture.mean().shape == mixture.variance().shape == (1,)
