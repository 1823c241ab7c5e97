"""Statements about pooling that hold for any experts, over M 1..8 and D 1..16, in float64."""

from functools import lru_cache, partial
from math import log

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from pooling_cases import (
    AGGREGATORS,
    SHAPES,
    SUBSETS,
    WEIGHTED,
    log_density,
    quick_jit,
    random_experts,
    take,
)

from holderjax.pooling import (
    DiagGaussian,
    GaussianMixture,
    geometric_mean,
    holder_log_normalizer,
    holder_log_prob,
    holder_pool,
    log_bhattacharyya,
    mixture_of_experts,
    product_of_experts,
)

# A test runs a few examples of each shape: about fifty in all.
few = settings(max_examples=6)
any_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"M{s[0]}-D{s[1]}")
any_aggregator = pytest.mark.parametrize("name", sorted(AGGREGATORS))


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def equal(value, expected, tolerance=1e-9):
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)


def identical(value, expected):
    np.testing.assert_array_equal(value, np.broadcast_to(expected, value.shape))


def numbers(low, high, *shape):
    return hnp.arrays(np.float64, shape, elements=st.floats(low, high, allow_subnormal=False))


def experts_of(*shape):
    return st.builds(DiagGaussian, numbers(-4, 4, *shape), numbers(-3, 3, *shape))


def weights_of(num_experts):
    return numbers(0.05, 1, num_experts)


def points(experts):
    """Each expert's mean, and a point that is nobody's: [M + 1, D]."""
    return np.concatenate([experts.mean, np.full_like(experts.mean[:1], 0.3)])


def repeated(one, times):
    return jax.tree.map(lambda x: np.repeat(x, times, axis=0), one)


def both_ways(experts, z, weights, mask, order):
    """The pool as a mixture, and as the density that builds no component."""
    options = {"order": order, "weights": weights, "mask": mask}
    pool = holder_pool(experts, **options)
    return {
        "pool": pool,
        "moments": (pool.mean(), pool.variance()),
        "log_prob": GaussianMixture.log_prob(pool, z),
        "linear_cost_log_prob": holder_log_prob(experts, z, **options),
        "log_normalizer": holder_log_normalizer(experts, **options),
    }


@partial(quick_jit, static_argnames="order")
def pooled(experts, z, weights, order=2):
    return both_ways(experts, z, weights, None, order)


@lru_cache
def aggregate(name):
    """Everything that an aggregator says about the experts and the points z, in one program."""

    def values(experts, z, mask, weights):
        options = {"weights": weights} if name in WEIGHTED else {}
        pool = AGGREGATORS[name](experts, mask=mask, **options)
        described = pool.mean(), pool.variance(), pool.log_prob(z)
        return sum(x.sum() for x in described), (pool, described)

    def with_gradient(experts, z, mask=None, weights=None):
        mask = np.ones(experts.mean.shape[:-1], bool) if mask is None else mask
        weights = np.ones(experts.mean.shape[:-1]) if weights is None else weights
        gradient, (pool, described) = program(experts, z, mask, weights)
        return pool, described, gradient

    program = quick_jit(jax.grad(values, has_aux=True))
    return with_gradient


@any_shape
@few
@given(data=st.data())
def test_permuting_experts_permutes_components_and_nothing_else(shape, data):
    experts, weights = data.draw(experts_of(*shape)), data.draw(weights_of(shape[0]))
    order = np.array(data.draw(st.permutations(range(shape[0]))))
    z = points(experts)
    original = pooled(experts, z, weights)
    permuted = pooled(take(experts, order), z, weights[order])

    pool, pool_permuted = original.pop("pool"), permuted.pop("pool")
    rows = [row.tobytes() for row in np.asarray(pool.members)[:, order]]
    where = np.array([rows.index(row.tobytes()) for row in np.asarray(pool_permuted.members)])
    assert sorted(where) == list(range(len(where)))
    pool, pool_permuted = jax.tree.map(np.asarray, (pool, pool_permuted))
    equal(pool_permuted.log_weights, pool.log_weights[where])
    jax.tree.map(equal, pool_permuted.components, take(pool.components, where))
    jax.tree.map(equal, permuted, original)


@any_aggregator
@few
@given(experts=experts_of(4, 3), order=st.permutations(range(4)))
def test_no_aggregator_depends_on_the_order_of_experts(name, experts, order):
    z = points(experts)
    _, described, gradient = aggregate(name)(experts, z)
    _, permuted, gradient_permuted = aggregate(name)(take(experts, np.array(order)), z)
    jax.tree.map(equal, permuted, described)
    gradient = jax.tree.map(lambda x: np.asarray(x)[np.array(order)], gradient)
    jax.tree.map(partial(equal, tolerance=1e-7), gradient_permuted, gradient)


@any_shape
@few
@given(data=st.data())
def test_identical_experts_give_that_expert_back(shape, data):
    one, weights = data.draw(experts_of(1, shape[1])), data.draw(weights_of(shape[0]))
    experts = repeated(one, shape[0])
    z = points(experts)
    result = pooled(experts, z, weights)
    identical(result["pool"].components.mean, one.mean)
    identical(result["pool"].components.log_var, one.log_var)
    equal(result["moments"], (one.mean[0], np.exp(one.log_var[0])))
    equal(result["log_prob"], log_density(one, z))
    equal(result["linear_cost_log_prob"], log_density(one, z))
    equal(result["log_normalizer"], 0.0)


@pytest.mark.parametrize(
    "name", ["mixture of experts", "holder 3", "hellinger", "mixture of hellinger"]
)
@given(one=experts_of(1, 3))
def test_every_mean_of_identical_experts_is_that_expert(name, one):
    z = points(repeated(one, 4))
    _, (mean, variance, log_prob), _ = aggregate(name)(repeated(one, 4), z)
    equal(mean, one.mean[0])
    equal(variance, np.exp(one.log_var[0]))
    equal(log_prob, log_density(one, z))


@given(one=experts_of(1, 3))
def test_the_product_of_identical_experts_is_narrower(one):
    _, (mean, variance, _), _ = aggregate("product")(repeated(one, 4), points(repeated(one, 4)))
    equal(mean, one.mean[0])
    equal(variance, np.exp(one.log_var[0]) / 4)


@any_shape
@few
@given(data=st.data())
def test_far_apart_experts_give_the_mixture_of_experts(shape, data):
    experts, weights = data.draw(experts_of(*shape)), data.draw(weights_of(shape[0]))
    far = DiagGaussian(experts.mean + 1000.0 * np.arange(shape[0])[:, None], experts.log_var)
    z = points(far)
    result = pooled(far, z, weights)
    # Pairs vanish, so the squares of the weights are all that is left of the power.
    w = np.square(weights) / np.square(weights).sum()
    equal(np.exp(result["pool"].log_weights[: shape[0]]), w)
    assert (result["pool"].log_weights[shape[0] :] < -100).all()
    with_weights = np.log(w)[:, None] + log_density(take(far, np.s_[:, None]), z)
    mixture = np.logaddexp.reduce(with_weights, axis=0)
    equal(result["log_prob"], mixture)
    equal(result["linear_cost_log_prob"], mixture)


@partial(quick_jit, static_argnames="order")
def masked_with_gradient(experts, z, weights, mask, order=2):
    def value(experts, weights):
        result = both_ways(experts, z, weights, mask, order)
        pool = result.pop("pool")
        return sum(x.sum() for x in jax.tree.leaves(result)), (pool, result)

    gradient, (pool, result) = jax.grad(value, argnums=(0, 1), has_aux=True)(experts, weights)
    return pool, result, gradient


@pytest.mark.parametrize("held", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("shape", [(1, 16), (6, 2)])
@given(data=st.data())
def test_a_masked_expert_was_never_passed(shape, held, data):
    num_experts = shape[0]
    experts, weights = data.draw(experts_of(*shape)), data.draw(weights_of(num_experts))
    there = np.ones(num_experts + 2, bool)
    there[data.draw(st.permutations(range(num_experts + 2)))[:2]] = False
    padded = jax.tree.map(lambda x: np.full((num_experts + 2, shape[1]), held), experts)
    padded.mean[there], padded.log_var[there] = experts.mean, experts.log_var
    padded_weights = np.full(num_experts + 2, 0.7)
    padded_weights[there] = weights
    z = points(experts)

    pool, result, gradient = jax.tree.map(
        np.asarray, masked_with_gradient(padded, z, padded_weights, there)
    )
    alone, expected, gradient_alone = masked_with_gradient(
        experts, z, weights, np.ones(num_experts, bool)
    )
    left = pool.log_weights > -np.inf
    assert np.isfinite(pool.components.mean).all()
    jax.tree.map(equal, take(pool.components, left), alone.components)
    equal(pool.log_weights[left], alone.log_weights)
    identical(pool.members[left][:, there], alone.members)
    assert not pool.members[left][:, ~there].any()
    jax.tree.map(equal, result, expected)
    jax.tree.map(lambda x, y: equal(x[there], y, 1e-7), gradient, gradient_alone)
    assert all((x[~there] == 0).all() for x in jax.tree.leaves(gradient))


@any_aggregator
@few
@given(experts=experts_of(3, 3), position=st.integers(0, 3))
def test_no_aggregator_notices_a_masked_expert(name, experts, position):
    padded = jax.tree.map(lambda x: np.insert(x, position, np.nan, axis=0), experts)
    there = np.arange(4) != position
    # Four points, as the programs for four experts take five.
    z = points(experts)
    _, described, gradient = aggregate(name)(padded, np.concatenate([z, z[:1]]), there)
    _, expected, gradient_alone = aggregate(name)(experts, np.concatenate([z, z[:1]]))
    jax.tree.map(equal, described, expected)
    jax.tree.map(lambda x, y: equal(np.asarray(x)[there], y, 1e-7), gradient, gradient_alone)
    assert all((x[position] == 0).all() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", sorted(set(AGGREGATORS) - {"product with prior"}))
@given(experts=experts_of(1, 5))
@few
def test_a_single_expert_is_returned_unchanged(name, experts):
    pool = single(name)(experts)
    identical(pool.components.mean, experts.mean)
    equal(pool.components.log_var, experts.log_var, 1e-14)
    assert pool.log_weights.tolist() == [0.0]
    assert pool.members.tolist() == [[True]]


@lru_cache
def single(name):
    return quick_jit(AGGREGATORS[name])


@any_shape
@few
@given(data=st.data())
def test_bhattacharyya_is_symmetric_at_most_one_and_one_on_the_diagonal(shape, data):
    p = data.draw(experts_of(*shape))
    log_s, middle = jax.tree.map(
        np.asarray, all_pairs(take(p, np.s_[:, None]), take(p, np.s_[None]))
    )
    assert log_s.shape == (shape[0], shape[0])
    assert np.isfinite(log_s).all()
    assert (log_s <= 0).all()
    equal(log_s, log_s.T, 1e-12)
    identical(np.diagonal(log_s), 0.0)
    jax.tree.map(lambda x: equal(x, x.swapaxes(0, 1), 1e-12), middle)
    jax.tree.map(identical, take(middle, np.diag_indices(shape[0])), p)


@quick_jit
def all_pairs(p, q):
    return log_bhattacharyya(p, q), geometric_mean(p, q)


@any_shape
@few
@given(data=st.data())
def test_the_mixture_and_the_linear_cost_density_agree(shape, data):
    experts, weights = data.draw(experts_of(*shape)), data.draw(weights_of(shape[0]))
    z = data.draw(numbers(-6, 6, shape[0] + 1, shape[1]))
    for order in (1, 2):
        result = pooled(experts, z, weights, order=order)
        equal(result["log_prob"], result["linear_cost_log_prob"])


@pytest.mark.parametrize(("order", "shape"), [(3, (5, 2)), (4, (3, 6))])
@given(data=st.data())
def test_the_densities_agree_at_higher_orders(order, shape, data):
    experts, weights = data.draw(experts_of(*shape)), data.draw(weights_of(shape[0]))
    result = pooled(experts, points(experts), weights, order=order)
    equal(result["log_prob"], result["linear_cost_log_prob"])


@any_shape
@few
@given(data=st.data())
def test_order_one_is_the_mixture_of_experts(shape, data):
    experts, weights = data.draw(experts_of(*shape)), data.draw(weights_of(shape[0]))
    z = points(experts)
    result = pooled(experts, z, weights, order=1)
    jax.tree.map(identical, result["pool"].components, experts)
    identical(result["pool"].members, np.eye(shape[0], dtype=bool))
    equal(np.exp(result["pool"].log_weights), weights / weights.sum())
    equal(result["log_normalizer"], 0.0)
    joint = np.log(weights / weights.sum())[:, None] + log_density(take(experts, np.s_[:, None]), z)
    equal(result["linear_cost_log_prob"], np.logaddexp.reduce(joint, axis=0))


@pytest.mark.parametrize("shape", [(2, 5), (3, 2)])
@given(seed=st.integers(0, 10**6), data=st.data())
def test_growing_order_approaches_the_normalised_weighted_product(shape, seed, data):
    # Experts close enough to each other for n = 4 to be large: the error goes with their distance.
    experts = jax.tree.map(lambda x: 0.1 * x, random_experts(seed, *shape, dtype=np.float64))
    weights = data.draw(weights_of(shape[0]))
    w = weights[:, None] / weights.sum()
    precision = (w * np.exp(-experts.log_var)).sum(axis=0)
    mean = (w * np.exp(-experts.log_var) * experts.mean).sum(axis=0) / precision
    z = mean + np.linspace(-1, 1, 5)[:, None] / np.sqrt(precision)
    product = log_density(DiagGaussian(mean, -np.log(precision)), z)
    first, second, fourth = (
        np.asarray(density(experts, z, weights, order=order)) - product for order in (1, 2, 4)
    )
    # The error falls like 1/n, so that extrapolating from two orders leaves next to nothing.
    size = np.abs(first).max()
    assert np.abs(second).max() < 0.75 * size
    assert np.abs(fourth).max() < 0.4 * size
    assert np.abs(2 * fourth - second).max() < 0.1 * size


@partial(quick_jit, static_argnames="order")
def density(experts, z, weights, order):
    return holder_log_prob(experts, z, order=order, weights=weights)


@pytest.mark.parametrize("name", sorted(WEIGHTED))
@given(experts=experts_of(4, 3), weights=weights_of(4), scale=st.floats(1e-3, 1e3))
def test_weights_need_not_be_normalised(name, experts, weights, scale):
    z = points(experts)
    _, described, _ = aggregate(name)(experts, z, weights=weights)
    _, scaled, _ = aggregate(name)(experts, z, weights=weights * scale)
    jax.tree.map(equal, scaled, described)


@pytest.mark.parametrize("name", sorted(WEIGHTED))
@given(experts=experts_of(4, 3), position=st.integers(0, 3))
def test_an_expert_of_weight_zero_is_absent(name, experts, position):
    there = np.arange(4) != position
    z = points(experts)
    _, masked, _ = aggregate(name)(experts, z, mask=there)
    _, weightless, _ = aggregate(name)(experts, z, weights=there.astype(float))
    jax.tree.map(equal, weightless, masked)


@any_aggregator
def test_a_mask_may_differ_between_batch_entries_and_be_empty_where_traced(name):
    """Entry b of a batch is pooled as its own experts; with none, the prior is left."""
    masks = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0]], bool)
    experts = random_experts(1, 3, 6, 3, dtype=np.float64)
    held = jax.tree.map(lambda x: np.where(masks.T[..., None], x, np.nan), experts)
    weights = np.random.default_rng(3).uniform(0.1, 1, (3, 6))
    z = random_experts(2, 4, 1, 3, dtype=np.float64).mean
    pool, described, gradient = aggregate(name)(held, z, masks.T, weights)
    assert pool.log_weights.shape == (pool.members.shape[0], 6)
    mean, variance, log_prob = (np.asarray(x) for x in described)
    for b in range(5):
        entry = take(experts, np.s_[:, b])
        _, alone, gradient_alone = aggregate(name)(entry, z[:, 0], masks[b], weights[:, b])
        jax.tree.map(equal, (mean[b], variance[b], log_prob[:, b]), alone)
        jax.tree.map(lambda x, y, b=b: equal(x[:, b], y, 1e-7), gradient, gradient_alone)

    prior = DiagGaussian(np.zeros(3), np.zeros(3))
    if name == "product with prior":
        prior = DiagGaussian(np.full(3, 0.5), np.full(3, 1.0))
    equal(mean[5], prior.mean)
    equal(variance[5], np.exp(prior.log_var))
    equal(log_prob[:, 5], log_density(prior, z[:, 0]))
    assert all((x[:, 5] == 0).all() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_linear_cost_density_of_no_expert_is_the_prior(order):
    experts = random_experts(1, 3, 4, dtype=np.float64)
    z = np.linspace(-3, 3, 4)
    empty = quick_jit(lambda mask: holder_log_prob(experts, z, order=order, mask=mask))
    equal(empty(np.zeros(3, bool)), log_density(DiagGaussian(np.zeros(4), np.zeros(4)), z))


def test_a_concrete_mask_with_no_expert_leaves_the_prior_expert():
    experts = random_experts(1, 3, 4, dtype=np.float64)
    prior = take(random_experts(2, 1, 4, dtype=np.float64), 0)
    pool = product_of_experts(experts, prior=prior, mask=np.zeros(3, bool))
    jax.tree.map(equal, pool.components, take(prior, None))


@pytest.mark.parametrize("name", sorted(SUBSETS))
def test_a_subset_takes_part_where_all_its_experts_are_present(name):
    experts, mask = random_experts(1, 4, 3, dtype=np.float64), np.array([True, False, True, True])
    pool, *_ = aggregate(name)(experts, points(experts), mask)
    takes_part = ~np.asarray(pool.members)[:, ~mask].any(axis=1)
    equal(np.exp(pool.log_weights), takes_part / 7)


def test_the_mixture_of_experts_holds_the_experts():
    experts = random_experts(1, 4, 2, dtype=np.float64)
    pool = mixture_of_experts(experts)
    jax.tree.map(identical, pool.components, experts)
    equal(pool.log_weights, np.full(4, -np.log(4)))


def test_the_overlap_of_two_experts_has_the_derivatives_of_its_formula():
    # Written out as in the docstring, in float64, also where the variances are equal.
    def formula(mean_p, log_var_p, mean_q, log_var_q):
        variances = jnp.exp(log_var_p) + jnp.exp(log_var_q)
        inside = 0.5 * (log(2) + 0.5 * (log_var_p + log_var_q) - jnp.log(variances))
        return jnp.sum(inside - jnp.square(mean_p - mean_q) / (4 * variances))

    def overlap(mean_p, log_var_p, mean_q, log_var_q):
        return log_bhattacharyya(DiagGaussian(mean_p, log_var_p), DiagGaussian(mean_q, log_var_q))

    with jax.enable_x64(True):
        point = [
            jnp.asarray(x, jnp.float64)
            for x in ([0.3, -2.0, 1.0], [0.5, -1.0, 2.0], [0.3, 1.0, -0.5], [0.5, 2.0, -2.0])
        ]
        for derivative in (jax.jacfwd, jax.jacrev, jax.hessian):
            found, expected = (
                derivative(f, argnums=(0, 1, 2, 3))(*point) for f in (overlap, formula)
            )
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12),
                found,
                expected,
            )
