"""Every public function gives the same result plain, under jit, and under vmap over the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pooling_cases import PUBLIC, quick_jit, random_experts, take

from holderjax.pooling import holder_pool, holder_sample

BATCH = 3
# How many of a function's results, at the end, depend on draws: they differ where keys differ.
DRAWN = {"two experts": 1, "holder 2 at linear cost": 2, "holder 3 at linear cost": 0}


def inputs():
    experts = random_experts(0, 3, BATCH, 2)
    z = random_experts(1, BATCH, 2).mean
    weights = np.float32([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]).T
    mask = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0]], bool).T
    return experts, z, jax.random.key(0), weights, mask


def equal(value, expected):
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", PUBLIC)
def test_plain_jit_and_vmap_agree(name):
    plain = jax.tree.leaves(PUBLIC[name](*inputs()))
    jitted = jax.tree.leaves(jax.jit(PUBLIC[name])(*inputs()))
    vmapped = jax.tree.leaves(quick_jit(jax.vmap(PUBLIC[name], (1, 0, None, 1, 1)))(*inputs()))
    assert len(plain) == len(jitted) == len(vmapped)
    for value, expected in zip(jitted, plain, strict=True):
        equal(value, expected)
    fixed = len(plain) - DRAWN.get(name, 2)
    assert fixed >= 2
    for value, expected in zip(vmapped[:fixed], plain[:fixed], strict=True):
        equal(value, expected)


@pytest.mark.parametrize(
    "sample",
    [
        lambda key, experts: holder_sample(key, experts, (4,)),
        lambda key, experts: holder_pool(experts).sample(key, (4,)),
        lambda key, experts: experts.sample(key, (4,)),
    ],
    ids=["holder_sample", "mixture", "gaussian"],
)
def test_draws_under_vmap_are_a_loop_over_keys(sample):
    experts = inputs()[0]
    keys = jax.random.split(jax.random.key(1), BATCH)
    one = quick_jit(sample)
    loop = [one(keys[b], take(experts, np.s_[:, b])) for b in range(BATCH)]
    equal(quick_jit(jax.vmap(sample, (0, 1)))(keys, experts), jnp.stack(loop))


@pytest.mark.parametrize("name", PUBLIC)
def test_further_batch_axes_change_nothing_but_shapes(name):
    experts, z, key, weights, mask = inputs()
    split = jax.tree.map(lambda x: x[:, None], experts)
    flat = jax.eval_shape(PUBLIC[name], experts, z, key, weights, mask)
    deep = jax.eval_shape(PUBLIC[name], split, z[None], key, weights[:, None], mask[:, None])
    assert jax.tree.map(lambda x: (1, *x.shape), flat) == jax.tree.map(lambda x: x.shape, deep)
