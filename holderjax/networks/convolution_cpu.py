"""Convolutions and their gradients as products of matrices, which is what a CPU does best.

In two ways. By *patches*: beside each element of the result is laid all that it is a sum over,
k^2 C numbers. By *shifts*: only what lies in its own row is, k C numbers; the product is k F wide,
and each F of them are added to another row. Either way for a few images at a time, so that what
was laid out stays in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.lax import dynamic_index_in_dim, dynamic_update_index_in_dim, optimization_barrier

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# What a core's cache holds, about: what leaves it costs more than its product.
CACHE_BYTES = 1 << 22


def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k l C F"], strides: tuple[int, int]
) -> Float[Array, "B h w F"]:
    """What `holderjax.networks.convolution.convolve` says."""
    if _shifts_are_less(kernel, strides):
        return _convolve_shifts(x, kernel)
    return _convolve_patches(x, kernel, strides)


def gradients(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k l C F"],
    cotangent: Float[Array, "B h w F"],
    strides: tuple[int, int],
) -> tuple[Float[Array, "B H W C"], Float[Array, "k l C F"]]:
    """Of `convolve`, to images and kernel; what it laid out is made again."""
    if _shifts_are_less(kernel, strides):
        return _gradients_shifts(x, kernel, cotangent)
    return _gradients_patches(x, kernel, cotangent, strides)


def paddings(
    x: Float[Array, "B H W C"], sides: tuple[int, int], strides: tuple[int, int]
) -> list[tuple[int, int]]:
    """Before and after, of height and width."""
    each = zip(sides, strides, _sizes(x, strides), x.shape[1:3], strict=True)
    return [
        ((side - 1) // 2, max(0, (count - 1) * stride + side // 2 + 1 - size))
        for side, stride, count, size in each
    ]


def _sizes(x: Float[Array, "B H W C"], strides: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the result."""
    return -(-x.shape[1] // strides[0]), -(-x.shape[2] // strides[1])


def _shifts_are_less(kernel: Array, strides: tuple[int, int]) -> bool:
    """Whether shifts can be used, and lay out fewer numbers than patches."""
    side, other, width_in, width = kernel.shape
    # An odd side sees as many neighbours on the left as on the right: the gradient is made alike.
    alike = strides == (1, 1) and side == other and side % 2 == 1
    return alike and width_in + width <= side * width_in


def _convolve_shifts(x: Array, kernel: Array) -> Array:
    side, _, width_in, width = kernel.shape
    matrix = _shift_matrix(kernel)
    parts = _in_parts(x, x.shape[1] * x.shape[2] * side * (width_in + width))
    together = next(n for n in (4, 2, 1) if len(parts) % n == 0)
    turns = len(parts) // together

    def one_turn(turn: Array, y: Array) -> Array:
        for i in range(together):
            place = turn + i * turns
            laid_out = _shifts(dynamic_index_in_dim(parts, place, keepdims=False), side, 2)
            y = dynamic_update_index_in_dim(y, _add_rows(laid_out @ matrix, side), place, 0)
        return y

    # One core adds up the rows of a part, as it writes them into the whole: the other one meanwhile
    # takes another part. Not so the loop of `_gradients_shifts`, which has enough to do as it is.
    y = jax.lax.fori_loop(0, turns, one_turn, jnp.zeros((*parts.shape[:-1], width), x.dtype))
    return y.reshape(*x.shape[:-1], width)


def _gradients_shifts(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    side, _, width_in, width = kernel.shape
    # The one to images is a convolution too, with the kernel turned around.
    matrix = optimization_barrier(_shift_matrix(kernel[::-1, ::-1].swapaxes(2, 3)))

    def one_part(total: Array, part: tuple[Array, Array]) -> tuple[Array, Array]:
        x, cotangent = part
        beside = _shifts(cotangent, side, 2)
        total = total + jnp.einsum("bhwx,bhwy->xy", _shifts(x, side, 1), beside)
        return total, _add_rows(beside @ matrix, side)

    x_parts = _in_parts(x, x.shape[1] * x.shape[2] * side * (2 * width_in + width))
    parts = x_parts, cotangent.reshape(*x_parts.shape[:-1], width)
    zeros = jnp.zeros((side * width_in, side * width), x.dtype)
    total, x_gradient = jax.lax.scan(one_part, zeros, parts)
    # A column further in the image is one back in the cotangent.
    total = total.reshape(side, width_in, side, width)[:, :, ::-1]
    return x_gradient.reshape(x.shape), total.swapaxes(1, 2)


def _shifts(x: Float[Array, "b H W C"], side: int, axis: int) -> Float[Array, "b H W kC"]:
    """Beside each element its neighbours along the axis, itself in the middle."""
    each = [_shift(x, i - side // 2, axis) for i in range(side)]
    return optimization_barrier(jnp.concatenate(each, axis=-1))


def _shift(x: Float[Array, "b H W C"], by: int, axis: int) -> Float[Array, "b H W C"]:
    """At each place what is ``by`` further along the axis, zero beyond the end."""
    ends = [(-by, by, 0) if a == axis else (0, 0, 0) for a in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), ends)


def _shift_matrix(kernel: Float[Array, "k k C F"]) -> Float[Array, "kC kF"]:
    """From the shifts in a row of the image to what it adds to each row of the result."""
    side, _, width_in, width = kernel.shape
    return kernel.transpose(1, 2, 0, 3).reshape(side * width_in, side * width)


def _add_rows(shares: Float[Array, "b H W kF"], side: int) -> Float[Array, "b H W F"]:
    """Each row the sum of what its neighbours and itself add to it."""
    each = jnp.split(optimization_barrier(shares), side, axis=-1)
    return sum(_shift(share, i - side // 2, 1) for i, share in enumerate(each))


def _convolve_patches(x: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    matrix = kernel.reshape(-1, kernel.shape[-1])
    parts = _in_parts(x, _patch_numbers(x, kernel, strides))
    y = jax.lax.map(lambda x: _patches(x, kernel.shape[:2], strides) @ matrix, parts)
    return y.reshape(-1, *y.shape[2:])


def _gradients_patches(
    x: Array, kernel: Array, cotangent: Array, strides: tuple[int, int]
) -> tuple[Array, Array]:
    width = kernel.shape[-1]
    # Folded into the product, the transposition would make that take twice as long.
    transposed = optimization_barrier(kernel.reshape(-1, width).T)

    def one_part(total: Array, part: tuple[Array, Array]) -> tuple[Array, Array]:
        x, cotangent = part
        patches, to_image = jax.vjp(lambda x: _patches(x, kernel.shape[:2], strides), x)
        total = total + jnp.einsum("bhwf,bhwp->fp", cotangent, patches)
        return total, *to_image(cotangent @ transposed)

    x_parts = _in_parts(x, _patch_numbers(x, kernel, strides))
    parts = x_parts, cotangent.reshape(*x_parts.shape[:2], *cotangent.shape[1:])
    total, x_gradient = jax.lax.scan(one_part, jnp.zeros_like(transposed), parts)
    return x_gradient.reshape(x.shape), total.T.reshape(kernel.shape)


def _patch_numbers(x: Array, kernel: Array, strides: tuple[int, int]) -> int:
    """How many of an image's patches lie beside the image itself: none for kernels of one."""
    height, width = _sizes(x, strides)
    rows, columns, width_in, _ = kernel.shape
    return height * width * (rows * columns - 1) * width_in


def _patches(
    x: Float[Array, "b H W C"], sides: tuple[int, int], strides: tuple[int, int]
) -> Float[Array, "b h w klC"]:
    """Beside each element of the result all that it is a sum over."""
    (down, across), (height, width) = strides, _sizes(x, strides)
    x = jnp.pad(x, ((0, 0), *paddings(x, sides, strides), (0, 0)))
    each = [x[:, :, i : i + width * across : across] for i in range(sides[1])]
    # In two steps: XLA would compile a loop for each element of the kernel.
    x = optimization_barrier(jnp.concatenate(each, axis=-1))
    each = [x[:, i : i + height * down : down] for i in range(sides[0])]
    return jnp.concatenate(each, axis=-1)


def _in_parts(x: Float[Array, "B H W C"], laid_out: int) -> Float[Array, "parts b H W C"]:
    """So few images at a time that the numbers laid out for each stay in the cache."""
    total = len(x) * laid_out * x.dtype.itemsize
    fewest = min(len(x), max(1, -(-total // CACHE_BYTES)))
    # All of one size: what is left over would be another program.
    count = next(n for n in range(fewest, len(x) + 1) if len(x) % n == 0)
    return x.reshape(count, -1, *x.shape[1:])
