"""What the linear-cost functions must never build: an array with an entry per component and D."""

from functools import partial
from math import comb, prod

import jax
import jax.numpy as jnp
import pytest
from pooling_cases import random_experts

from holderjax.pooling import holder_log_normalizer, holder_log_prob, holder_pool, holder_sample
from holderjax.pooling.holder import MOST_IN_TABLE

M, D = 8, 11


def arrays(jaxpr):
    """The shape of every array in a jaxpr, and in the jaxprs inside its equations."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)  # a closed jaxpr holds one
    yield from (v.aval.shape for v in (*jaxpr.constvars, *jaxpr.invars))
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in (*equation.invars, *equation.outvars))
        for inner in jax.tree.leaves(tuple(equation.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                yield from arrays(inner)


def is_jaxpr(value):
    return hasattr(value, "eqns")


def component_arrays(function, order, *batch):
    """Shapes in the traced function with K on one axis and D on the last, or as many numbers."""
    num_components = comb(M + order - 1, order)
    shapes = set(arrays(jax.make_jaxpr(function)(random_experts(0, M, *batch, D))))
    assert (M, *batch, D) in shapes  # the walk sees the experts at least
    size = num_components * D * prod(batch)
    return {
        shape
        for shape in shapes
        if (num_components in shape and shape[-1] == D) or prod(shape) >= size
    }


POINT = jnp.zeros(D)
LINEAR = {
    "log_prob": (lambda q: holder_log_prob(q, POINT), 2),
    "log_prob of order 3": (lambda q: holder_log_prob(q, POINT, order=3), 3),
    "log_normalizer": (holder_log_normalizer, 2),
    "sample": (lambda q: holder_sample(jax.random.key(0), q), 2),
    "several samples": (lambda q: holder_sample(jax.random.key(0), q, (3,)), 2),
}
BUILDS = {
    "pool": (holder_pool, 2),
    "pool of order 3": (partial(holder_pool, order=3), 3),
    "density of the pool": (lambda q: holder_pool(q).log_prob(POINT), 2),
    "sample of the pool": (lambda q: holder_pool(q).sample(jax.random.key(0)), 2),
    "pool inside jit": (jax.jit(holder_pool), 2),
    "pool inside scan": (
        lambda q: jax.lax.scan(lambda c, _: (c + holder_pool(q).mean(), None), POINT, None, 2),
        2,
    ),
}


def gradient(function):
    return jax.grad(lambda q: function(q).sum())


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize(("function", "order"), LINEAR.values(), ids=LINEAR)
def test_no_component_is_built(function, order, batch):
    assert not component_arrays(function, order, *batch)


@pytest.mark.parametrize(("function", "order"), LINEAR.values(), ids=LINEAR)
def test_no_component_is_built_in_the_gradient(function, order):
    assert not component_arrays(gradient(function), order)


@pytest.mark.parametrize("transform", [lambda f: f, gradient], ids=["value", "gradient"])
@pytest.mark.parametrize("name", ["log_prob", "log_normalizer", "sample", "weights of the pool"])
def test_not_even_a_number_for_each_pair_of_many_experts(name, transform):
    """The pool itself has them in its weights: the check must see that."""
    count, batch = MOST_IN_TABLE + 2, 4
    function = LINEAR[name][0] if name in LINEAR else lambda q: holder_pool(q).log_weights
    jaxpr = jax.make_jaxpr(transform(function))(random_experts(0, count, batch, D))
    found = any(prod(shape) >= comb(count, 2) * batch for shape in arrays(jaxpr))
    assert found == (name not in LINEAR)


@pytest.mark.parametrize(("function", "order"), BUILDS.values(), ids=BUILDS)
def test_the_check_sees_components_where_they_are_built(function, order):
    found = component_arrays(function, order)
    assert (comb(M + order - 1, order), D) in found
