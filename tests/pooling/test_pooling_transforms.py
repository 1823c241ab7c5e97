"""Every public function gives the same result plain, under jit, and under vmap over the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pooling_cases import PUBLIC, quick_jit, random_experts, take

BATCH = 3


def inputs():
    experts = random_experts(0, 3, BATCH, 2)
    z = random_experts(1, BATCH, 2).mean
    weights = np.float32([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]).T
    mask = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0]], bool).T
    return experts, z, weights, mask


def equal(value, expected):
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", PUBLIC)
def test_jit_and_plain_agree(name):
    experts, z, weights, mask = inputs()
    key = jax.random.key(0)
    plain = PUBLIC[name](experts, z, key, weights, mask)
    jax.tree.map(equal, jax.jit(PUBLIC[name])(experts, z, key, weights, mask), plain)
    # Concrete arguments beside traced experts, as in a training step with a fixed mask.
    closed = quick_jit(lambda q: PUBLIC[name](q, z, key, weights, mask))(experts)
    jax.tree.map(equal, closed, plain)


@pytest.mark.parametrize("name", PUBLIC)
def test_vmap_over_the_batch_is_a_loop_over_the_batch(name):
    experts, z, weights, mask = inputs()
    keys = jax.random.split(jax.random.key(0), BATCH)
    one = quick_jit(PUBLIC[name])
    loop = [
        one(take(experts, np.s_[:, b]), z[b], keys[b], weights[:, b], mask[:, b])
        for b in range(BATCH)
    ]
    axes = (1, 0, 0, 1, 1)
    together = quick_jit(jax.vmap(PUBLIC[name], axes))(experts, z, keys, weights, mask)
    jax.tree.map(lambda x, *entries: equal(x, jnp.stack(entries)), together, *loop)


@pytest.mark.parametrize("name", PUBLIC)
def test_batch_axes_are_a_loop_over_the_batch(name):
    """Without vmap as well; draws aside, whose key is one for the whole batch."""
    experts, z, weights, mask = inputs()
    key = jax.random.key(0)
    batched = jax.tree.leaves(quick_jit(PUBLIC[name])(experts, z, key, weights, mask))
    vmapped = quick_jit(jax.vmap(PUBLIC[name], (1, 0, None, 1, 1)))
    looped = jax.tree.leaves(vmapped(experts, z, key, weights, mask))
    drawn = {"two experts": 1, "holder 3 at linear cost": 0}.get(name, 2)
    assert len(batched) == len(looped) > drawn
    for value, expected in list(zip(batched, looped, strict=True))[: len(batched) - drawn]:
        equal(value, expected)


@pytest.mark.parametrize("name", PUBLIC)
def test_results_do_not_depend_on_how_many_batch_axes_there_are(name):
    experts, z, weights, mask = inputs()
    key = jax.random.key(0)
    split = jax.tree.map(lambda x: x[:, None], experts)
    flat = jax.eval_shape(PUBLIC[name], experts, z, key, weights, mask)
    deep = jax.eval_shape(PUBLIC[name], split, z[None], key, weights[:, None], mask[:, None])
    assert jax.tree.map(lambda x: (1, *x.shape), flat) == jax.tree.map(lambda x: x.shape, deep)
