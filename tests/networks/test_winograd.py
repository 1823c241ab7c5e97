"""Convolutions by tiles are convolutions, and round little more than a sum of taps does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holderjax.networks import convolution_cpu
from holderjax.networks.convolution import convolve

SLOPE = 0.2


def arrays(batch=3, height=16, width=20, channels=(32, 40)):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, height, width, channels[0]))
    kernel = jax.random.normal(keys[1], (3, 3, *channels)) / 3 / channels[0] ** 0.5
    return x, kernel, jax.random.normal(keys[2], (*x.shape[:-1], channels[1]))


def by_taps(x, kernel, cotangent):
    """The convolution of the activated images and both of its gradients, in float64."""
    x, kernel, cotangent = (np.asarray(a, np.float64) for a in (x, kernel, cotangent))
    slopes = np.where(x >= 0, 1.0, SLOPE)
    height, width = x.shape[1:3]
    taps = [(i, j) for i in range(3) for j in range(3)]

    def seen(a, i, j):
        padded = np.pad(a, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return padded[:, i : i + height, j : j + width]

    y = sum(seen(x * slopes, i, j) @ kernel[i, j] for i, j in taps)
    to_x = sum(seen(cotangent, 2 - i, 2 - j) @ kernel[i, j].T for i, j in taps)
    to_kernel = [np.einsum("bhwc,bhwf->cf", seen(x * slopes, i, j), cotangent) for i, j in taps]
    return y, to_x * slopes, np.reshape(to_kernel, kernel.shape)


def value_and_gradients(way, x, kernel, cotangent):
    return way.convolve(x, kernel, SLOPE), *way.gradients(x, kernel, cotangent, SLOPE)


# All images at once, and one by one.
@pytest.mark.parametrize("cache_bytes", [1 << 22, 1])
def test_errors_are_near_those_of_a_plain_sum(cache_bytes, monkeypatch):
    monkeypatch.setattr(convolution_cpu, "CACHE_BYTES", cache_bytes)
    x, kernel, cotangent = arrays()
    tiles = convolution_cpu.convolution(x, kernel, (1, 1))
    assert tiles.convolve is convolution_cpu._convolve_tiles
    plain = convolution_cpu.Way(convolution_cpu._convolve_shifts, convolution_cpu._gradients_shifts)
    found = jax.jit(lambda *a: value_and_gradients(tiles, *a))(x, kernel, cotangent)
    others = jax.jit(lambda *a: value_and_gradients(plain, *a))(x, kernel, cotangent)
    for one, other, exact in zip(found, others, by_taps(x, kernel, cotangent), strict=True):
        error, other_error = (np.sqrt(np.mean((y - exact) ** 2)) for y in (one, other))
        assert other_error < 1e-6 * exact.std()
        assert error < 1.5e-6 * exact.std()


def test_it_is_what_a_convolution_is_of_such_images():
    x, kernel, cotangent = arrays(batch=2)
    y, pull = jax.vjp(lambda *a: convolve(*a, (1, 1), SLOPE), x, kernel)
    for one, exact in zip((y, *pull(cotangent)), by_taps(x, kernel, cotangent), strict=True):
        np.testing.assert_allclose(one, exact, rtol=1e-5, atol=1e-5 * exact.std())


@pytest.mark.parametrize(
    ("height", "width", "channels", "stride"),
    [
        *((14, 16, (32, 32), 1), (16, 18, (32, 32), 1), (12, 16, (32, 32), 1)),
        *((16, 16, (3, 64), 1), (16, 20, (32, 40), 2)),
    ],
)
def test_others_are_not(height, width, channels, stride):
    x, kernel, _ = arrays(height=height, width=width, channels=channels)
    way = convolution_cpu.convolution(x, kernel, (stride, stride))
    assert way.convolve is not convolution_cpu._convolve_tiles


def test_a_number_that_is_not_finite_stays_in_its_tiles():
    x = np.ones((1, 16, 16, 2), np.float32)
    x[0, 8, 8, 0] = np.inf
    y = convolution_cpu._convolve_tiles(jnp.asarray(x), jnp.ones((3, 3, 2, 3)), 1.0)
    finite = np.isfinite(y[0]).all(-1)
    assert not finite[7:10, 7:10].any()
    assert finite[:4].all()
    assert finite[12:].all()
    assert finite[:, :4].all()
    assert finite[:, 12:].all()
