"""Convolutions and their gradients are XLA's, whatever they are computed by."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from holderjax.networks import convolution, convolution_cpu
from holderjax.networks.convolution import convolve, convolve_doubled, convolve_transposed
from holderjax.networks.layers import Conv


def forget_what_was_traced():
    for traced in (convolution._value, convolution._gradients):
        traced.clear_cache()


@pytest.fixture(autouse=True)
def traced_anew():
    """Whatever a test changes, what was traced before it is not used in it, nor the other way."""
    forget_what_was_traced()
    yield
    forget_what_was_traced()


def reference(x, kernel, strides):
    """With as much padding as could be, and what it adds cut off."""
    before = [(side - 1) // 2 for side in kernel.shape[:2]]
    after = [side - 1 + by for side, by in zip(kernel.shape[:2], strides, strict=True)]
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        list(zip(before, after, strict=True)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    height, width = (-(-size // by) for size, by in zip(x.shape[1:3], strides, strict=True))
    return y[:, :height, :width]


def assert_same(function, expected, x, kernel):
    """In value and in both gradients."""
    y, pull = jax.vjp(function, x, kernel)
    other, other_pull = jax.vjp(expected, x, kernel)
    assert y.shape == other.shape
    cotangent = jax.random.normal(jax.random.key(2), y.shape)
    for one, two in zip((y, *pull(cotangent)), (other, *other_pull(cotangent)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


# The kernel's side, stride, the image's height, channels of images and of the result. On a CPU,
# those of stride 1 and an odd side are taken by shifts if the channels do not become many more, and
# by shares if they become very few.
CASES = [
    *((4, 2, 8, 2, 3), (4, 2, 7, 2, 3), (4, 1, 5, 2, 3), (3, 2, 7, 2, 3)),
    *((3, 2, 8, 2, 3), (3, 2, 1, 2, 3)),
    *((3, 1, 5, 2, 3), (3, 1, 5, 2, 4), (3, 1, 5, 2, 5), (3, 1, 1, 2, 3)),
    *((1, 1, 4, 2, 3), (1, 1, 4, 3, 2), (5, 1, 6, 3, 2), (5, 1, 1, 2, 3)),
    *((3, 1, 5, 18, 2), (3, 1, 1, 9, 1), (5, 1, 3, 25, 1)),
]


# On a CPU: all eight images at once, as many as 1,000 bytes are laid out for, one by one.
@pytest.mark.parametrize("cache_bytes", [1 << 22, 1000, 1])
@pytest.mark.parametrize(("side", "stride", "size", "width_in", "width"), CASES)
def test_values_and_gradients_are_xla_s(
    side, stride, size, width_in, width, cache_bytes, monkeypatch
):
    monkeypatch.setattr(convolution_cpu, "CACHE_BYTES", cache_bytes)
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (8, size, size + 1, width_in))
    kernel = jax.random.normal(keys[1], (side, side, width_in, width))
    strides = stride, stride
    assert convolve(x, kernel, strides).shape[1:3] == (-(-size // stride), -(-(size + 1) // stride))
    assert_same(lambda *a: convolve(*a, strides), lambda *a: reference(*a, strides), x, kernel)


def convolve_by_one(x, kernel, slope=1.0):
    return convolve(x, kernel, (1, 1), slope)


def transpose_by_two(x, kernel, slope=1.0):
    return convolve_transposed(x, kernel, (2, 2), slope)


# By patches, by shifts and by shares, and of blocks.
@pytest.mark.parametrize("cache_bytes", [1 << 22, 1])
@pytest.mark.parametrize(
    ("function", "width_in", "width"),
    [
        *((convolve_by_one, 2, 5), (convolve_by_one, 2, 3), (convolve_by_one, 18, 2)),
        *((transpose_by_two, 2, 3), (convolve_doubled, 2, 3)),
    ],
)
def test_the_activation_comes_first(function, width_in, width, cache_bytes, monkeypatch):
    monkeypatch.setattr(convolution_cpu, "CACHE_BYTES", cache_bytes)
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (4, 5, 3, width_in)).at[0, 0, 0].set(0.0)
    kernel = jax.random.normal(keys[1], (3, 3, width_in, width))

    def expected(x, kernel):
        return function(jax.nn.leaky_relu(x, 0.2), kernel)

    assert_same(lambda *a: function(*a, 0.2), expected, x, kernel)


@pytest.mark.parametrize("function", [convolve, convolve_transposed])
def test_elsewhere_the_activated_images_are_kept(function, monkeypatch):
    strides = 2, 2
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2, 5, 4, 2)).at[0, 0, 0].set(0.0)
    kernel = jax.random.normal(keys[1], (3, 3, 2, 3))

    def expected(x, kernel):
        return function(jax.nn.leaky_relu(x, 0.2), kernel, strides)

    y, pull = jax.vjp(expected, x, kernel)
    cotangent = jax.random.normal(jax.random.key(2), y.shape)
    others = y, *pull(cotangent)
    # As if this were an accelerator.
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, cpu, default: default(*x))
    forget_what_was_traced()
    y, pull = jax.vjp(lambda *a: function(*a, strides, 0.2), x, kernel)
    for one, other in zip((y, *pull(cotangent)), others, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    kept = [np.asarray(leaf) for leaf in jax.tree.leaves(pull)]
    assert any(k.shape == x.shape and (k == jax.nn.leaky_relu(x, 0.2)).all() for k in kept)


def test_slopes_are_above_zero():
    with pytest.raises(ValueError, match=r"slope: expected a number above zero, got 0\.0"):
        convolve(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 1, 1)), (1, 1), 0.0)


@pytest.mark.parametrize("sides", [(4, 1), (1, 3), (2, 3)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (3, 2)])
def test_kernels_need_not_be_square(sides, strides):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2, 7, 4, 2))
    kernel = jax.random.normal(keys[1], (*sides, 2, 3))
    assert_same(lambda *a: convolve(*a, strides), lambda *a: reference(*a, strides), x, kernel)


@pytest.mark.parametrize("cache_bytes", [1 << 22, 1])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize("sides", [(3, 3), (4, 4), (4, 1), (2, 5), (6, 3)])
def test_transposed_convolutions_are_xla_s(sides, strides, cache_bytes, monkeypatch):
    monkeypatch.setattr(convolution_cpu, "CACHE_BYTES", cache_bytes)
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (4, 5, 3, 2))
    kernel = jax.random.normal(keys[1], (*sides, 2, 3))
    assert_same(
        lambda *a: convolve_transposed(*a, strides),
        lambda *a: jax.lax.conv_transpose(*a, strides, "SAME"),
        x,
        kernel,
    )
    rounded = convolve_transposed(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), strides)
    assert rounded.dtype == jnp.bfloat16


@pytest.mark.parametrize("side", [1, 3, 5])
def test_doubled_images_are_convolved_as_if_pixels_were_repeated(side):
    def repeated(x, kernel):
        return reference(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), kernel, (1, 1))

    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2, 5, 4, 2))
    kernel = jax.random.normal(keys[1], (side, side, 2, 3))
    assert_same(convolve_doubled, repeated, x, kernel)
    kernels = jnp.stack([kernel, 2 * kernel])
    together = jax.vmap(jax.grad(lambda k: jnp.sum(convolve_doubled(x, k) ** 2)))(kernels)
    alone = jax.grad(lambda k: jnp.sum(repeated(x, k) ** 2))(kernel)
    np.testing.assert_allclose(together, jnp.stack([alone, 2 * alone]), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("width_in", "width"), [(2, 3), (2, 5), (18, 2)])
def test_bfloat16_is_summed_in_float32(width_in, width, monkeypatch):
    monkeypatch.setattr(convolution_cpu, "CACHE_BYTES", 1)
    shapes = (600, 3, 3, width_in), (3, 3, width_in, width), (600, 3, 3, width)
    x, kernel, cotangent = (jnp.ones(shape, jnp.bfloat16) for shape in shapes)
    y, pull = jax.vjp(lambda *a: convolve(*a, (1, 1)), x, kernel)
    in_float32 = (a.astype(jnp.float32) for a in (x, kernel))
    expected, pull_float32 = jax.vjp(lambda *a: reference(*a, (1, 1)), *in_float32)
    gradients = zip(pull(cotangent), pull_float32(cotangent.astype(jnp.float32)), strict=True)
    for one, other in ((y, expected), *gradients):
        assert one.dtype == jnp.bfloat16
        # Adding one to 256 leaves bfloat16 where it is; the sums are of up to 5,400 of them.
        np.testing.assert_array_equal(one, other.astype(jnp.bfloat16))


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
    together = jax.vmap(jax.grad(lambda k: jnp.sum(convolve(x, k, (stride, stride)) ** 2)))(kernels)
    for kernel, found in zip(kernels, together, strict=True):
        alone = jax.grad(lambda k: jnp.sum(reference(x, k, (stride, stride)) ** 2))(kernel)
        np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-3)
