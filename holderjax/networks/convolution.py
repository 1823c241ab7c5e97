"""Convolutions of images, and to images, that are as fast on a CPU as they should be.

There they are products of matrices, and so are their gradients. XLA's own, which accelerators get,
take up to twice as long there, their gradients five times, and those of transposed convolutions
ten to eighty times inside a compiled loop, as training steps are. There, those by kernels of 3x3 of
images of 16 pixels or more, if 4 divides their sides, round about five times as much as a plain sum
does (`holderjax.networks.winograd`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from holderjax.networks import convolution_cpu

if TYPE_CHECKING:
    from jaxtyping import Array, Float


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k l C F"],
    strides: tuple[int, int],
    slope: float = 1.0,
) -> Float[Array, "B h w F"]:
    """A convolution, padded such that size / stride is left, rounded up.

    Args:
      x: images.
      kernel: with as much padding before as after, or one less before, at stride 1.
      strides: of height and width.
      slope: above zero, of a leaky ReLU that the images go through first; 1 is none. On a CPU a
        few images at a time do, while they are in the cache.

    Returns:
      Images of ``ceil(H / strides[0])`` by ``ceil(W / strides[1])``.
    """
    return _value(convolution_cpu.convolution, _convolve, x, kernel, strides, slope)


def _convolve(x: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        convolution_cpu.paddings(x, kernel.shape[:2], strides),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_transposed(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k l C F"],
    strides: tuple[int, int],
    slope: float = 1.0,
) -> Float[Array, "B h w F"]:
    """`jax.lax.conv_transpose` with its padding "SAME".

    Args:
      x: images.
      kernel: each side at least as long as its stride.
      strides: of height and width.
      slope: as in `convolve`.

    Returns:
      Images of ``H strides[0]`` by ``W strides[1]``.
    """
    way = convolution_cpu.transposed_convolution
    return _value(way, _convolve_transposed, x, kernel, strides, slope)


def _convolve_transposed(x: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    return jax.lax.conv_transpose(x, kernel, strides, "SAME")


def convolve_doubled(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k C F"], slope: float = 1.0
) -> Float[Array, "B 2H 2W F"]:
    """`convolve`, at stride 1, of images twice as large: each pixel is repeated in both directions.

    Multiplies four numbers for nine where the kernel is 3x3: pixels that are alike meet the sum of
    the elements that they would meet one by one, and what is left is a transposed convolution.

    Args:
      x: images, before they are doubled.
      kernel: of an odd side.
      slope: as in `convolve`.
    """
    for axis in (0, 1):
        none = jnp.zeros_like(jax.lax.slice_in_dim(kernel, 0, 1, axis=axis))
        earlier = jnp.concatenate([kernel, none], axis)
        kernel = earlier + jnp.concatenate([none, kernel], axis)
    return convolve_transposed(x, kernel, (2, 2), slope)


# Jitted, as is `_gradients`, so that layers of one shape are traced once and not each.
@partial(jax.jit, static_argnums=(0, 1, 4, 5))
def _value(
    way: Callable[..., convolution_cpu.Way],
    elsewhere: Callable[..., Array],
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    slope: float,
) -> Array:
    def on_cpu(x: Array, kernel: Array) -> Array:
        return way(x, kernel, strides).convolve(x, kernel, slope)

    def of_elsewhere(x: Array, kernel: Array) -> Array:
        return elsewhere(convolution_cpu.activation(slope)(x), kernel, strides)

    return _by_platform(on_cpu, of_elsewhere, x, kernel)


def _value_and_saved(
    convolution: Callable[..., Array],
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    slope: float,
) -> tuple[Array, tuple[Array, Array]]:
    # A CPU never has the activated images whole; elsewhere they are in memory anyway.
    activate = convolution_cpu.activation(slope)
    kept = jax.lax.platform_dependent(x, cpu=lambda x: x, default=activate)
    return convolution(x, kernel, strides, slope), (kept, kernel)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _gradients(
    way: Callable[..., convolution_cpu.Way],
    elsewhere: Callable[..., Array],
    strides: tuple[int, int],
    slope: float,
    saved: tuple[Array, Array],
    cotangent: Array,
) -> tuple[Array, Array]:
    def on_cpu(x: Array, kernel: Array, cotangent: Array) -> Any:
        return way(x, kernel, strides).gradients(x, kernel, cotangent, slope)

    def of_elsewhere(activated: Array, kernel: Array, cotangent: Array) -> Any:
        _, pull = jax.vjp(partial(elsewhere, strides=strides), activated, kernel)
        activated_gradient, kernel_gradient = pull(cotangent)
        # It is that of the images, whose signs these have.
        _, to_images = jax.vjp(convolution_cpu.activation(slope), activated)
        return *to_images(activated_gradient), kernel_gradient

    return _by_platform(on_cpu, of_elsewhere, *saved, cotangent)


def _by_platform(on_cpu: Callable[..., Any], elsewhere: Callable[..., Any], *arrays: Array) -> Any:
    def in_float32(*arrays: Array) -> Any:
        # Of narrower numbers; the results are as narrow as those. A CPU has no fast sums of them.
        narrow = arrays[0].dtype
        wide = jnp.promote_types(narrow, jnp.float32)
        found = on_cpu(*(a.astype(wide) for a in arrays))
        return jax.tree.map(lambda a: a.astype(narrow), found)

    return jax.lax.platform_dependent(*arrays, cpu=in_float32, default=elsewhere)


convolve.defvjp(
    partial(_value_and_saved, convolve),
    partial(_gradients, convolution_cpu.convolution, _convolve),
)
convolve_transposed.defvjp(
    partial(_value_and_saved, convolve_transposed),
    partial(_gradients, convolution_cpu.transposed_convolution, _convolve_transposed),
)
