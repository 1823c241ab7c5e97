"""The pool against values that a brute-force quadrature wrote, with no closed form in it."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pooling_cases import quick_jit

from holderjax.pooling import (
    DiagGaussian,
    GaussianMixture,
    hellinger,
    holder_log_normalizer,
    holder_log_prob,
    holder_pool,
)

CASES = json.loads((Path(__file__).parent / "holder_pooling.json").read_text())["cases"]


def name(case):
    return f"M{case['M']}-D{case['D']}-alpha{case['alpha']:.2f}"


@partial(quick_jit, static_argnames="order")
def compute(experts, points, weights, order):
    pool = holder_pool(experts, order=order, weights=weights)
    values = {
        "log_normalizer": [holder_log_normalizer(experts, order=order, weights=weights)],
        "log_prob": [
            holder_log_prob(experts, points, order=order, weights=weights),
            pool.log_prob(points),
            GaussianMixture.log_prob(pool, points),
        ],
        "pooled_mean": [pool.mean()],
        "pooled_variance": [pool.variance()],
    }
    if order == 2:
        moments = hellinger(experts, weights=weights).components
        values["pooled_mean"].append(moments.mean[0])
        values["pooled_variance"].append(moments.variance[0])
    return values


@pytest.mark.parametrize("case", CASES, ids=name)
@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-9), (False, 1e-4)])
def test_every_value_of_the_reference(case, x64, tolerance):
    with jax.enable_x64(x64):
        experts = DiagGaussian(jnp.asarray(case["mean"]), jnp.asarray(case["log_var"]))
        points = jnp.asarray(case["points"])
        assert points.dtype == (jnp.float64 if x64 else jnp.float32)
        order, weights = round(1 / case["alpha"]), jnp.asarray(case["weights"])
        values = compute(experts, points, weights, order)
    for quantity, computed in values.items():
        expected = np.asarray(case[quantity])
        scale = max(1.0, float(np.abs(expected).max()))
        for value in computed:
            assert value.dtype == points.dtype
            np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance * scale)
