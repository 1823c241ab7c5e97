"""Permutation-invariant networks: the order of the set, absent members, the empty set."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from holderjax.networks import SelfAttention, SumPooling

M, BATCH, FEATURES, DIM = 5, 6, 8, 3


@pytest.fixture(params=[SumPooling, SelfAttention])
def network(request):
    options = {"blocks": 2, "heads": 2} if request.param is SelfAttention else {}
    network = request.param(
        FEATURES, DIM, hidden=16, initial_log_var=-1.0, rngs=nnx.Rngs(0), **options
    )
    # Attention blocks start as the identity, of which every property here would be trivial.
    for i, layer in enumerate(
        layer
        for block in getattr(network, "blocks", {}).values()
        for layer in (block.merge, block.narrow)
    ):
        layer.kernel[...] = 0.3 * jax.random.normal(jax.random.key(i), layer.kernel.shape)
    return network


@pytest.fixture
def h():
    return jax.random.normal(jax.random.key(1), (M, BATCH, FEATURES))


MASK = np.random.default_rng(0).random((M, BATCH)) < 0.6
MASK[0] = True


def close(p, q):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), p, q)


def test_the_order_of_the_set_does_not_matter(network, h):
    order = np.array([3, 0, 4, 1, 2])
    close(network(h[order], MASK[order]), network(h, MASK))


def test_every_member_matters(network, h):
    everything = np.ones((M, BATCH), bool)
    reference = network(h, everything)
    for m in range(M):
        assert not np.allclose(
            network(h.at[m].add(1.0), everything).mean, reference.mean, atol=1e-4
        )


def test_an_absent_member_is_as_if_it_had_never_been_passed(network, h):
    found = jax.jit(lambda h, mask: network(h, mask))(jnp.where(MASK[..., None], h, 1e4), MASK)
    for b in range(BATCH):
        seen = MASK[:, b]
        alone = network(h[seen, b : b + 1], np.ones((seen.sum(), 1), bool))
        close(jax.tree.map(lambda x, b=b: x[b : b + 1], found), alone)


def test_several_subsets_of_one_set_are_pooled_at_once(network, h):
    masks = np.stack([MASK, np.ones_like(MASK), MASK[::-1] | MASK], axis=1)
    found = network(h[:, None], masks)
    assert found.mean.shape == (3, BATCH, DIM)
    for v in range(3):
        close(jax.tree.map(lambda x, v=v: x[v], found), network(h, masks[:, v]))


def test_gradients_are_finite_for_the_empty_set_and_zero_for_the_absent(network, h):
    mask = jnp.asarray(MASK).at[:, 1].set(False)

    def total(h):
        q = network(h, mask)
        return jnp.sum(q.mean) + jnp.sum(q.log_var)

    gradient = jax.grad(total)(h)
    assert jnp.isfinite(gradient).all()
    assert (gradient[~mask] == 0).all()
    assert (jnp.abs(gradient[mask]).max(axis=-1) > 0).all()


def test_heads_must_divide_the_features():
    with pytest.raises(ValueError, match="heads: expected a divisor of 16, got 3"):
        SelfAttention(FEATURES, DIM, hidden=16, heads=3, initial_log_var=0.0, rngs=nnx.Rngs(0))
