"""The layers are Flax's in value; what many numbers add to one parameter is summed in float32."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from holderjax.networks.layers import (
    Conv,
    ConvTranspose,
    Embed,
    Linear,
    TextConv,
    TextConvTranspose,
)

SIZES = 2, 3
TEXT = {"kernel_size": (4,), "strides": 2}
# Ours, Flax's, and the shape of an example.
LAYERS = [
    (Linear, nnx.Linear, (5, 2)),
    (partial(TextConv, side=4, stride=2), partial(nnx.Conv, **TEXT), (7, 2)),
    (partial(TextConvTranspose, side=4, stride=2), partial(nnx.ConvTranspose, **TEXT), (7, 2)),
    (
        partial(ConvTranspose, side=3, stride=2),
        partial(nnx.ConvTranspose, kernel_size=(3, 3), strides=2),
        (4, 5, 2),
    ),
    (partial(Conv, side=3), partial(nnx.Conv, kernel_size=(3, 3)), (4, 5, 2)),
    (Embed, nnx.Embed, (6,)),
]


def example(shape, batch, make):
    if make is Embed:
        return jax.random.randint(jax.random.key(1), (batch, *shape), 0, SIZES[0])
    return jax.random.normal(jax.random.key(1), (batch, *shape))


@pytest.mark.parametrize(("make", "flax", "shape"), LAYERS)
def test_values_and_gradients_are_flax_s(make, flax, shape):
    x = example(shape, 4, make)

    def loss(state, layer):
        return jnp.sum(jnp.sin(nnx.merge(nnx.graphdef(layer), state)(x)))

    ours, theirs = (each(*SIZES, rngs=nnx.Rngs(0)) for each in (make, flax))
    state = nnx.state(theirs)
    if "bias" in state:
        state["bias"] = state["bias"].replace(jnp.array([0.1, -0.2, 0.3]))
    found, expected = (jax.value_and_grad(loss)(state, layer) for layer in (ours, theirs))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("make", "flax", "shape"), LAYERS)
def test_sums_of_bfloat16_are_taken_in_float32(make, flax, shape):
    layer = make(*SIZES, rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)
    state = jax.tree.map(lambda p: p.astype(jnp.bfloat16), state)
    x = example(shape, 512, make)
    x = x if make is Embed else jnp.ones_like(x, jnp.bfloat16)
    y, pull = jax.vjp(lambda s: nnx.merge(graph, s)(x), state)
    assert y.dtype == jnp.bfloat16
    (gradient,) = pull(jnp.ones_like(y))
    if make is Embed:
        counts = jnp.stack([jnp.sum(x == i) for i in range(SIZES[0])])
        expected = jnp.broadcast_to(counts[:, None], SIZES)
        found = gradient["embedding"][...]
    else:
        expected = jnp.full(SIZES[1], y.size / y.shape[-1])
        found = gradient["bias"][...]
    # Beyond 256, adding one leaves a bfloat16 where it is.
    assert expected.min() > 512
    np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))
