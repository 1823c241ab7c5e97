"""The pair for texts."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from holderjax.likelihoods import Categorical
from holderjax.networks import TextDecoder, TextEncoder


@pytest.mark.parametrize("length", [1, 4, 5, 8, 13, 32])
def test_texts_of_every_length_have_a_pair(length):
    encoder = TextEncoder((length,), num_symbols=7, width=6, rngs=nnx.Rngs(0))
    decoder = TextDecoder(3, (length, 7), width=6, rngs=nnx.Rngs(0))
    ids = jnp.arange(2 * length).reshape(2, length) % 7
    read = nnx.jit(encoder)
    features = read(ids)
    assert features.shape == (2, encoder.features)
    assert encoder.features <= 4 * 6
    assert decoder(jnp.ones((2, 3))).shape == (2, length, 7)
    for i in range(length):
        # Every symbol of the row matters to the row, and to no other.
        change = jnp.abs(read(ids.at[0, i].set((ids[0, i] + 1) % 7)) - features).max(axis=1)
        assert change[0] > 0
        assert change[1] == 0


def test_every_symbol_depends_on_the_latents():
    decoder = TextDecoder(3, (13, 7), width=6, rngs=nnx.Rngs(0))
    gradient = jax.jacobian(lambda x: decoder(x).sum(axis=-1)[0])(jnp.ones((1, 3)))
    assert (jnp.abs(gradient).max(axis=(1, 2)) > 0).all()


def test_shapes_of_no_text_are_refused():
    with pytest.raises(ValueError, match=r"a text network needs \[L\], got \(4, 4\)"):
        TextEncoder((4, 4), num_symbols=3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"makes logits \[L, K\], got \(4,\)"):
        TextDecoder(2, (4,), rngs=nnx.Rngs(0))


def test_texts_are_learned_by_heart():
    """Through a bottleneck of three numbers, in all their positions."""
    ids = jax.random.randint(jax.random.key(0), (8, 6), 0, 7)
    rngs = nnx.Rngs(0)
    encoder = TextEncoder((6,), num_symbols=7, width=32, rngs=rngs)
    middle = nnx.Linear(encoder.features, 3, rngs=rngs)
    decoder = TextDecoder(3, (6, 7), width=32, rngs=rngs)
    graph, params = nnx.split((encoder, middle, decoder))
    optimizer = optax.adam(1e-2)

    def logits(params):
        encoder, middle, decoder = nnx.merge(graph, params)
        return decoder(middle(encoder(ids)))

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def train(params):
        def step(carry, _):
            params, state = carry
            gradient = jax.grad(lambda p: -Categorical(7).log_prob(logits(p), ids).sum())(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, 200)[0][0]

    np.testing.assert_array_equal(logits(train(params)).argmax(axis=-1), ids)
