"""What the pooling functions accept, and how they refuse the rest."""

import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pooling_cases import AGGREGATORS, WEIGHTED, quick_jit, random_experts, take

import holderjax.pooling
from holderjax.pooling import (
    DiagGaussian,
    geometric_mean,
    holder_log_normalizer,
    holder_log_prob,
    holder_pool,
    holder_sample,
    log_bhattacharyya,
    product_of_experts,
)

THREE = random_experts(0, 3, 2)
BATCHED = random_experts(0, 3, 4, 2)
POINT = np.zeros(2, np.float32)

POOLING = {
    **AGGREGATORS,
    "holder_log_prob": lambda experts, **options: holder_log_prob(experts, POINT, **options),
    "holder_log_normalizer": holder_log_normalizer,
    "holder_sample": lambda experts, **options: holder_sample(
        jax.random.key(0), experts, **options
    ),
}
TAKES_WEIGHTS = [*WEIGHTED, "holder_log_prob", "holder_log_normalizer", "holder_sample"]


def refuses(*fragments):
    """A ValueError whose message holds all the fragments, in this order."""
    return pytest.raises(ValueError, match=".*".join(map(re.escape, fragments)))


@pytest.mark.parametrize("name", POOLING)
@pytest.mark.parametrize(
    ("mean", "log_var", "fragments"),
    [
        ((3, 2), (3, 4), ["(3, 2)", "(3, 4)"]),
        ((3, 2), (2, 2), ["(3, 2)", "(2, 2)"]),
        ((3,), (3,), ["[M, ..., D]", "(3,)"]),
        ((0, 2), (0, 2), ["(0, 2)"]),
        ((3, 0), (3, 0), ["(3, 0)"]),
    ],
)
def test_experts_of_the_wrong_shape(name, mean, log_var, fragments):
    with refuses("experts", *fragments):
        POOLING[name](DiagGaussian(np.zeros(mean, np.float32), np.zeros(log_var, np.float32)))


@pytest.mark.parametrize("name", POOLING)
@pytest.mark.parametrize(
    ("experts", "mask", "fragments"),
    [
        (THREE, np.ones(4, bool), ["(3,)", "(4,)"]),
        (THREE, np.array(True), ["(3,)", "()"]),
        (THREE, np.ones((3, 1), bool), ["(3,)", "(3, 1)"]),
        (BATCHED, np.ones((3, 5), bool), ["(3, 4)", "(3, 5)"]),
        (BATCHED, np.ones((4, 3), bool), ["(3, 4)", "(4, 3)"]),
        (THREE, np.ones(3, int), ["booleans", "int"]),
        (THREE, [1.0, 0.0, 1.0], ["booleans", "float"]),
    ],
)
def test_a_mask_of_the_wrong_shape_or_type(name, experts, mask, fragments):
    with refuses("mask", *fragments):
        POOLING[name](experts, mask=mask)


@pytest.mark.parametrize("name", sorted(set(POOLING) - {"product with prior"}))
def test_a_mask_with_no_expert(name):
    with refuses("mask", "no expert", "[False, False, False]"):
        POOLING[name](THREE, mask=[False, False, False])
    one_entry_empty = np.arange(4) != 2
    with refuses("mask", "no expert", "[[True, True, False, True]"):
        POOLING[name](BATCHED, mask=np.tile(one_entry_empty, (3, 1)))


@pytest.mark.parametrize("name", TAKES_WEIGHTS)
@pytest.mark.parametrize(
    ("weights", "mask", "fragments"),
    [
        ([1.0, -0.5, 1.0], None, ["non-negative", "-0.5"]),
        ([1.0, np.nan, 1.0], None, ["finite", "nan"]),
        ([1.0, np.inf, 1.0], None, ["finite", "inf"]),
        ([0.0, 0.0, 0.0], None, ["positive", "[0.0, 0.0, 0.0]"]),
        ([0.0, 0.0, 1.0], [True, True, False], ["positive", "[0.0, 0.0, 1.0]"]),
        ([1.0, 1.0], None, ["(3,)", "(2,)"]),
        ([[1.0], [1.0], [1.0]], None, ["(3,)", "(3, 1)"]),
    ],
)
def test_weights_that_are_none(name, weights, mask, fragments):
    with refuses("weights", *fragments):
        POOLING[name](THREE, weights=weights, mask=mask)


@pytest.mark.parametrize("order", [0, -1, 1.5, 2.0, "2", None])
@pytest.mark.parametrize(
    "function", [holder_pool, holder_log_normalizer, partial(holder_log_prob, z=POINT)]
)
def test_orders_that_are_no_positive_integer(function, order):
    with refuses("order", "n >= 1", repr(order)):
        function(THREE, order=order)


@pytest.mark.parametrize("size", [1, 3])
def test_the_latent_size_never_broadcasts(size):
    """Least of all from one, which array arithmetic would let pass."""
    z = np.zeros(size, np.float32)
    other = DiagGaussian(np.zeros((3, size), np.float32), np.zeros((3, size), np.float32))
    with refuses(f"({size},)", "(2,)"):
        holder_log_prob(THREE, z)
    with refuses(f"({size},)", "(3, 2)"):
        THREE.log_prob(z)
    for function in (geometric_mean, log_bhattacharyya, DiagGaussian.kl):
        with refuses("(3, 2)", f"(3, {size})"):
            function(THREE, other)
    with refuses(f"({size},)", "(2,)"):
        product_of_experts(THREE, prior=take(other, 0))


def test_batch_axes_that_do_not_broadcast():
    with refuses("(5, 2)", "(3, 2)"):
        THREE.log_prob(np.zeros((5, 2), np.float32))
    with refuses("(3, 2)", "(4, 2)"):
        log_bhattacharyya(THREE, random_experts(0, 4, 2))


def test_a_traced_negative_weight_is_not_hidden():
    traced = quick_jit(lambda weights: holder_log_prob(THREE, POINT, weights=weights))
    assert np.isnan(traced(np.float32([1.0, -0.5, 1.0])))
    assert np.isnan(traced(np.float32([1.0, np.nan, 1.0])))
    assert np.isfinite(traced(np.float32([1.0, 0.0, 1.0])))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, np.float64, np.int32])
def test_pooling_computes_in_float32(dtype):
    """Whatever the networks run in; NumPy arrays are welcome, also under jit."""
    experts = jax.tree.map(lambda x: np.asarray(np.round(4 * x) / 2).astype(dtype), THREE)
    wide = jax.tree.map(lambda x: x.astype(np.float32), experts)
    for name in ("product with prior", "holder 2", "mixture of products"):
        pool = quick_jit(lambda name=name: AGGREGATORS[name](experts))()
        expected = quick_jit(AGGREGATORS[name])(wide)
        assert pool.components.mean.dtype == pool.log_weights.dtype == jnp.float32
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), pool, expected)
    draw = quick_jit(lambda: holder_sample(jax.random.key(0), experts))()
    assert draw.dtype == jnp.float32


def test_masks_and_weights_may_be_lists():
    listed = holder_log_normalizer(THREE, weights=[2, 1, 1], mask=[True, False, True])
    arrays = holder_log_normalizer(
        THREE, weights=np.float32([2, 1, 1]), mask=np.array([True, False, True])
    )
    assert listed == arrays


def test_x64_may_be_switched_within_a_process():
    experts = random_experts(5, 3, 3, dtype=np.float64)
    for enabled in (False, True, False):
        with jax.enable_x64(enabled):
            draw, log_prob = jax.jit(
                lambda q: (holder_sample(jax.random.key(0), q), holder_log_prob(q, q.mean))
            )(experts)
            assert draw.dtype == log_prob.dtype == (jnp.float64 if enabled else jnp.float32)


def test_the_public_names():
    assert set(holderjax.pooling.__all__) == {
        "DiagGaussian",
        "GaussianMixture",
        "PooledPosterior",
        "log_bhattacharyya",
        "geometric_mean",
        "holder_pool",
        "holder_log_prob",
        "holder_log_normalizer",
        "holder_sample",
        "product_of_experts",
        "mixture_of_experts",
        "mixture_of_products",
        "hellinger",
        "mixture_of_hellinger",
    }


def test_pooling_imports_jax_alone():
    program = """
import sys, jax, jax.numpy
before = set(sys.modules)
import holderjax.pooling
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names) - {"holderjax", "jax", "numpy"}))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []
