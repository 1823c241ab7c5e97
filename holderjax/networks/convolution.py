"""Convolutions of images, and to images, that are as fast on a CPU as they should be.

There they are products of matrices, and so are their gradients. XLA's own, which accelerators get,
take up to twice as long there, their gradients five times, and those of transposed convolutions
ten to eighty times inside a compiled loop, as training steps are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from holderjax.networks import convolution_cpu

if TYPE_CHECKING:
    from jaxtyping import Array, Float


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k l C F"], strides: tuple[int, int]
) -> Float[Array, "B h w F"]:
    """A convolution, padded such that size / stride is left, rounded up.

    Args:
      x: images.
      kernel: with as much padding before as after, or one less before, at stride 1.
      strides: of height and width.

    Returns:
      Images of ``ceil(H / strides[0])`` by ``ceil(W / strides[1])``.
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=_in_float32(partial(convolution_cpu.convolve, strides=strides)),
        default=partial(_convolve, strides=strides),
    )


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of narrower numbers; the results are as narrow as those. A CPU has no fast sums of them."""

    def widened(*arrays: Array) -> Any:
        narrow = arrays[0].dtype
        wide = jnp.promote_types(narrow, jnp.float32)
        found = function(*(a.astype(wide) for a in arrays))
        return jax.tree.map(lambda a: a.astype(narrow), found)

    return widened


def _convolve(x: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        convolution_cpu.paddings(x, kernel.shape[:2], strides),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _forward(x: Array, kernel: Array, strides: tuple[int, int]) -> tuple[Array, Any]:
    return convolve(x, kernel, strides), (x, kernel)


def _backward(strides: tuple[int, int], saved: Any, cotangent: Array) -> tuple[Array, Array]:
    def gradients(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        return jax.vjp(partial(_convolve, strides=strides), x, kernel)[1](cotangent)

    return jax.lax.platform_dependent(
        *saved,
        cotangent,
        cpu=_in_float32(partial(convolution_cpu.gradients, strides=strides)),
        default=gradients,
    )


convolve.defvjp(_forward, _backward)


def convolve_transposed(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k l C F"], strides: tuple[int, int]
) -> Float[Array, "B h w F"]:
    """`jax.lax.conv_transpose` with its padding "SAME".

    Args:
      x: images.
      kernel: each side at least as long as its stride.
      strides: of height and width.

    Returns:
      Images of ``H strides[0]`` by ``W strides[1]``.
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_convolve_to_pixels, strides=strides),
        default=partial(jax.lax.conv_transpose, strides=strides, padding="SAME"),
    )


def _convolve_to_pixels(x: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    """A convolution whose channels are those of all the pixels that come of one."""
    (batch, height, width, _), (down, across) = x.shape, strides
    rows, before_row = _taps(kernel.shape[0], down)
    columns, before_column = _taps(kernel.shape[1], across)
    taps = (jnp.asarray(each, kernel.dtype) for each in (rows, columns))
    kernel = jnp.einsum("apk,bql,klcf->abcpqf", *taps, kernel)
    kernel = kernel.reshape(*kernel.shape[:3], -1)
    # `convolve` begins a place later than this where the side is even.
    x = jnp.pad(x, ((0, 0), (before_row, 0), (before_column, 0), (0, 0)))
    y = convolve(x, kernel, (1, 1))[:, :height, :width]
    y = y.reshape(batch, height, width, down, across, -1)
    return y.swapaxes(2, 3).reshape(batch, height * down, width * across, -1)


def _taps(side: int, stride: int) -> tuple[Float[np.ndarray, "a p k"], int]:
    """Which element k of a kernel meets neighbour a of a pixel in what becomes its part p.

    Returns:
      Ones and zeros, and how many places before those of `convolve` the neighbours begin.
    """
    # As in `jax.lax.conv_transpose`: part p and element k meet where stride divides this.
    first = side - 1 if stride > side - 1 else -(-(side + stride - 2) // 2)
    meetings = [
        ((part + k - first) // stride, part, k)
        for part in range(stride)
        for k in range(side)
        if (part + k - first) % stride == 0
    ]
    least, most = min(meetings)[0], max(meetings)[0]
    taps = np.zeros((most - least + 1, stride, side), np.float32)
    for neighbour, part, k in meetings:
        taps[neighbour - least, part, k] = 1.0
    return taps, -least - (len(taps) - 1) // 2
