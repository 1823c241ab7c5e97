"""Convolutions and their gradients are XLA's, whatever they are computed by."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from holderjax.networks import convolution
from holderjax.networks.convolution import Conv, convolve


def reference(x, kernel, stride):
    """With as much padding as could be, and what it adds cut off."""
    before = (len(kernel) - 1) // 2
    after = len(kernel) - 1 - before + stride - 1
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((before, after), (before, after)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    height, width = (-(-size // stride) for size in x.shape[1:3])
    return y[:, :height, :width]


CASES = [(4, 2, 8), (4, 2, 7), (3, 1, 5), (3, 2, 7), (3, 2, 8), (1, 1, 4), (3, 2, 1)]


# On a CPU: all six images at once, as many as have 1,000 bytes of patches, one by one.
@pytest.mark.parametrize("patch_bytes", [1 << 22, 1000, 1])
@pytest.mark.parametrize(("side", "stride", "size"), CASES)
def test_values_and_gradients_are_xla_s(side, stride, size, patch_bytes, monkeypatch):
    monkeypatch.setattr(convolution, "PATCH_BYTES", patch_bytes)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (6, size, size + 1, 2))
    kernel = jax.random.normal(keys[1], (side, side, 2, 3))
    y = convolve(x, kernel, stride)
    assert y.shape == (6, -(-size // stride), -(-(size + 1) // stride), 3)
    np.testing.assert_allclose(y, reference(x, kernel, stride), atol=1e-5)
    cotangent = jax.random.normal(keys[2], y.shape)
    found = jax.vjp(lambda *a: convolve(*a, stride), x, kernel)[1](cotangent)
    expected = jax.vjp(lambda *a: reference(*a, stride), x, kernel)[1](cotangent)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(("stride", "bias"), [(1, True), (2, True), (1, False)])
def test_a_layer_is_flax_s_alone_and_over_a_population(stride, bias):
    def layers(seed):
        ours = Conv(2, 3, 3, stride, use_bias=bias, rngs=nnx.Rngs(seed))
        options = {"strides": stride, "padding": 1, "use_bias": bias}
        return ours, nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(seed), **options)

    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 2))

    def gradient(layer, x):
        graph, params = nnx.split(layer)
        loss = lambda params: jnp.sum(nnx.merge(graph, params)(x) ** 2)  # noqa: E731
        return nnx.to_pure_dict(jax.grad(loss)(params))

    ours, flax = layers(0)
    np.testing.assert_allclose(ours(x), flax(x), atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        gradient(ours, x),
        gradient(flax, x),
    )
    kernels = jnp.stack([layers(seed)[0].kernel[...] for seed in range(3)])
    together = jax.vmap(jax.grad(lambda k: jnp.sum(convolve(x, k, stride) ** 2)))(kernels)
    for kernel, found in zip(kernels, together, strict=True):
        alone = jax.grad(lambda k: jnp.sum(reference(x, k, stride) ** 2))(kernel)
        np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-3)
