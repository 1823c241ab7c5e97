"""Convolutions and their gradients as products of matrices, which is what a CPU does best.

In four ways. By *patches*: beside each other is laid all that a pixel of the result is a sum over,
k^2 C numbers, or, where convolutions are transposed, what a block of pixels is. By *shifts*: only
what lies in its own row is, k C numbers; the product is k F wide, and each F of them are added to
another row. By *shares*: nothing is; the product is k^2 F wide, and all is added to where it
belongs, the reverse of patches. By *tiles*: sums of pixels are, for products that are smaller
(`holderjax.networks.winograd`). For a few images at a time, so that what was laid out stays in the
cache; but gradients by shares at once, as they lay out less than the images themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import dynamic_index_in_dim, dynamic_update_index_in_dim, optimization_barrier

from holderjax.networks import winograd

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# What a core's cache holds, about: what leaves it costs more than its product.
CACHE_BYTES = 1 << 22


class Way(NamedTuple):
    """How one convolution is computed.

    Attributes:
      convolve: images [B, H, W, C], kernel [k, l, C, F] and the slope of the leaky ReLU that the
        images go through first to images [B, h, w, F].
      gradients: images, kernel, the result's cotangent and the slope to the gradients of the first
        two. What was activated and laid out is made again.
    """

    convolve: Callable[[Array, Array, float], Array]
    gradients: Callable[[Array, Array, Array, float], tuple[Array, Array]]


def convolution(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k l C F"], strides: tuple[int, int]
) -> Way:
    """Of `holderjax.networks.convolution.convolve`, for arrays of these shapes."""
    if _can_be_turned(kernel, strides):
        if _shares_are_few(kernel):
            return Way(_convolve_shares, _gradients_shares)
        if _tiles_are_fewer(x, kernel):
            return Way(_convolve_tiles, _gradients_tiles)
        if _shifts_are_less(kernel):
            return Way(_convolve_shifts, _gradients_shifts)
    return _by_patches(_patches_of_pixels(x, kernel, strides), _matrix)


def transposed_convolution(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k l C F"], strides: tuple[int, int]
) -> Way:
    """Of `holderjax.networks.convolution.convolve_transposed`, for arrays of these shapes."""
    patches, taps = _patches_of_blocks(x, kernel, strides)
    return _by_patches(patches, partial(_block_matrix, taps=taps))


def activation(slope: float) -> Callable[[Array], Array]:
    """A leaky ReLU, [...] to [...], none if the slope is 1; as that is above zero, signs stay.

    A product, as its gradient is one then: of `jax.nn.leaky_relu` that is a sum of two selections.
    """
    if not slope > 0.0:
        raise ValueError(f"slope: expected a number above zero, got {slope}")
    return (lambda x: x) if slope == 1.0 else (lambda x: x * jnp.where(x >= 0.0, 1.0, slope))


def paddings(
    x: Float[Array, "B H W C"], sides: tuple[int, int], strides: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """Before and after, of height and width."""
    each = zip(sides, strides, _sizes(x, strides), x.shape[1:3], strict=True)
    return tuple(
        ((side - 1) // 2, max(0, (count - 1) * stride + side // 2 + 1 - size))
        for side, stride, count, size in each
    )


def _sizes(x: Float[Array, "B H W C"], strides: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the result."""
    return -(-x.shape[1] // strides[0]), -(-x.shape[2] // strides[1])


def _can_be_turned(kernel: Array, strides: tuple[int, int]) -> bool:
    """Whether the gradient to images is a convolution like this one, with `_turned`'s kernel."""
    side, other = kernel.shape[:2]
    # An odd side sees as many neighbours on the left as on the right.
    return strides == (1, 1) and side == other and side % 2 == 1 and side > 1


def _turned(kernel: Float[Array, "k k C F"]) -> Float[Array, "k k F C"]:
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _shares_are_few(kernel: Array) -> bool:
    """Whether there are no more of them than numbers in the images."""
    side, _, width_in, width = kernel.shape
    return side**2 * width <= width_in


def _shifts_are_less(kernel: Array) -> bool:
    """Whether they are fewer numbers than patches."""
    side, _, width_in, width = kernel.shape
    return width_in + width <= side * width_in


def _tiles_are_fewer(x: Array, kernel: Array) -> bool:
    """Whether there are any, and products large enough to save what their sums take longer."""
    side, _, width_in, width = kernel.shape
    whole = all(size % winograd.TILE == 0 and size >= 16 for size in x.shape[1:3])
    return side == 3 and whole and min(width_in, width) >= 32


def _convolve_shares(x: Array, kernel: Array, slope: float) -> Array:
    matrix = _matrix(_turned(kernel)).T

    def one_part(x: Array) -> Array:
        # As many images as a part has.
        y, patches = _patches_of_result(x, kernel)
        shares = activation(slope)(x) @ matrix
        (y,) = jax.linear_transpose(lambda y: _lay_out(y, patches), y)(shares)
        return y

    return _map(one_part, _in_parts(x, x.shape[1] * x.shape[2] * sum(matrix.shape)))


def _gradients_shares(
    x: Array, kernel: Array, cotangent: Array, slope: float
) -> tuple[Array, Array]:
    _, patches = _patches_of_result(x, kernel)
    matrix = _matrix(_turned(kernel))
    laid_out = _lay_out(cotangent, patches)
    activated, to_images = jax.vjp(activation(slope), x)
    total = jnp.einsum("bhwp,bhwc->pc", laid_out, activated)
    kernel_gradient = _turned(total.reshape(*kernel.shape[:2], -1, kernel.shape[2]))
    return *to_images(laid_out @ matrix), kernel_gradient


def _patches_of_result(x: Array, kernel: Array) -> tuple[jax.ShapeDtypeStruct, _Patches]:
    """The result's shape, and what its gradient to images would be laid out as."""
    y = jax.ShapeDtypeStruct((*x.shape[:-1], kernel.shape[-1]), x.dtype)
    return y, _patches_of_pixels(y, kernel, (1, 1))


def _convolve_shifts(x: Array, kernel: Array, slope: float) -> Array:
    side, _, width_in, width = kernel.shape
    matrix = _shift_matrix(kernel)
    parts = _in_parts(x, x.shape[1] * x.shape[2] * side * (width_in + width))

    def one_part(x: Array) -> Array:
        return _add_rows(_shifts(activation(slope)(x), side, 2) @ matrix, side)

    return _map(one_part, parts)


def _gradients_shifts(
    x: Array, kernel: Array, cotangent: Array, slope: float
) -> tuple[Array, Array]:
    side, _, width_in, width = kernel.shape
    # The one to images is a convolution too, with the kernel turned around.
    matrix = optimization_barrier(_shift_matrix(_turned(kernel)))

    def one_part(total: Array, part: tuple[Array, Array]) -> tuple[Array, Array]:
        x, cotangent = part
        beside = _shifts(cotangent, side, 2)
        activated, to_images = jax.vjp(activation(slope), x)
        total = total + jnp.einsum("bhwx,bhwy->xy", _shifts(activated, side, 1), beside)
        return total, *to_images(_add_rows(beside @ matrix, side))

    x_parts = _in_parts(x, x.shape[1] * x.shape[2] * side * (2 * width_in + width))
    parts = x_parts, cotangent.reshape(*x_parts.shape[:-1], width)
    zeros = jnp.zeros((side * width_in, side * width), x.dtype)
    total, x_gradient = jax.lax.scan(one_part, zeros, parts)
    # A column further in the image is one back in the cotangent.
    total = total.reshape(side, width_in, side, width)[:, :, ::-1]
    return x_gradient.reshape(x.shape), total.swapaxes(1, 2)


def _convolve_tiles(x: Array, kernel: Array, slope: float) -> Array:
    matrices = winograd.kernel_to_tiles(kernel)

    def one_part(x: Array) -> Array:
        tiles = winograd.images_to_tiles(activation(slope)(x))
        return winograd.tiles_to_images(tiles @ matrices, x.shape)

    return _map(one_part, _in_parts(x, _tile_numbers(x, kernel)))


def _gradients_tiles(
    x: Array, kernel: Array, cotangent: Array, slope: float
) -> tuple[Array, Array]:
    # The one to images is a convolution too, with the kernel turned around.
    matrices = winograd.kernel_to_tiles(_turned(kernel))

    def one_part(total: Array, part: tuple[Array, Array]) -> tuple[Array, Array]:
        x, cotangent = part
        activated, to_images = jax.vjp(activation(slope), x)
        tiles = winograd.images_to_tiles(activated)
        cotangent_tiles = winograd.cotangent_to_tiles(cotangent)
        total = total + jnp.einsum("pnc,pnf->pcf", tiles, cotangent_tiles)
        result = winograd.images_to_tiles(cotangent) @ matrices
        return total, *to_images(winograd.tiles_to_images(result, x.shape))

    x_parts = _in_parts(x, _tile_numbers(x, kernel))
    parts = x_parts, cotangent.reshape(*x_parts.shape[:-1], -1)
    zeros = jnp.zeros((winograd.PRODUCTS, *kernel.shape[2:]), x.dtype)
    total, x_gradient = jax.lax.scan(one_part, zeros, parts)
    to_kernel = jax.linear_transpose(winograd.kernel_to_tiles, kernel)
    return x_gradient.reshape(x.shape), *to_kernel(total)


def _tile_numbers(x: Array, kernel: Array) -> int:
    """Of an image: of its tiles, and of the products."""
    tiles = x.shape[1] * x.shape[2] // winograd.TILE**2
    return winograd.PRODUCTS * tiles * sum(kernel.shape[2:])


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


class _Patches(NamedTuple):
    """What is laid beside each other, and what pixels come of it, along height and width each.

    Attributes:
      sides: of a patch.
      strides: from one patch to the next.
      paddings: of the images, before and after.
      block: pixels of the result that come of a patch.
      skipped: pixels of the first block that lie before the result.
      sizes: of the result.
    """

    sides: tuple[int, int]
    strides: tuple[int, int]
    paddings: tuple[tuple[int, int], ...]
    block: tuple[int, int]
    skipped: tuple[int, int]
    sizes: tuple[int, int]


def _patches_of_pixels(x: Array, kernel: Array, strides: tuple[int, int]) -> _Patches:
    sides = kernel.shape[:2]
    ends = paddings(x, sides, strides)
    return _Patches(sides, strides, ends, (1, 1), (0, 0), _sizes(x, strides))


def _matrix(kernel: Float[Array, "k l C F"]) -> Float[Array, "klC F"]:
    return kernel.reshape(-1, kernel.shape[-1])


def _patches_of_blocks(
    x: Array, kernel: Array, strides: tuple[int, int]
) -> tuple[_Patches, list[np.ndarray]]:
    """Of transposed convolutions, and the taps along each axis (`_taps`)."""
    taps, ends, skipped = zip(*map(_taps, kernel.shape[:2], strides), strict=True)
    height, width = x.shape[1:3]
    sides = tuple(len(each) for each in taps)
    sizes = height * strides[0], width * strides[1]
    return _Patches(sides, (1, 1), ends, strides, skipped, sizes), taps


def _taps(side: int, stride: int) -> tuple[Float[np.ndarray, "a p k"], tuple[int, int], int]:
    """How a transposed convolution goes along one axis.

    Returns:
      Ones where element k of the kernel meets neighbour a of those that pixel p of a block is a sum
      over; how many neighbours lie before and after the image; how many pixels of the first block
      lie before the result, which is what makes neighbours few.
    """
    # As in `jax.lax.conv_transpose`: pixel p and element k meet where stride divides this.
    first = side - 1 if stride > side - 1 else -(-(side + stride - 2) // 2)
    ways = []
    for skipped in range(stride):
        places = [(p - skipped + k - first, p, k) for p in range(stride) for k in range(side)]
        meetings = [(place // stride, p, k) for place, p, k in places if place % stride == 0]
        least, most = min(meetings)[0], max(meetings)[0]
        ways.append((most - least, skipped, least, meetings))
    span, skipped, least, meetings = min(ways)
    taps = np.zeros((span + 1, stride, side), np.float32)
    for neighbour, p, k in meetings:
        taps[neighbour - least, p, k] = 1.0
    # Where some pixels are skipped there is one block more.
    return taps, (-least, least + span + (skipped > 0)), skipped


def _block_matrix(
    kernel: Float[Array, "k l C F"], taps: list[np.ndarray]
) -> Float[Array, "abC pqF"]:
    rows, columns = (jnp.asarray(each, kernel.dtype) for each in taps)
    matrix = jnp.einsum("apk,bql,klcf->abcpqf", rows, columns, kernel)
    return matrix.reshape(len(rows) * len(columns) * kernel.shape[2], -1)


def _by_patches(patches: _Patches, to_matrix: Callable[[Array], Array]) -> Way:
    """With ``to_matrix`` of the kernel, [what is laid out, what comes of it]."""
    how = {"patches": patches, "to_matrix": to_matrix}
    return Way(partial(_convolve_patches, **how), partial(_gradients_patches, **how))


def _convolve_patches(
    x: Array,
    kernel: Array,
    slope: float,
    patches: _Patches,
    to_matrix: Callable[[Array], Array],
) -> Array:
    matrix = to_matrix(kernel)
    parts = _in_parts(x, _patch_numbers(x, matrix, patches))

    def one_part(x: Array) -> Array:
        return _to_pixels(_lay_out(activation(slope)(x), patches) @ matrix, patches)

    return _map(one_part, parts)


def _gradients_patches(
    x: Array,
    kernel: Array,
    cotangent: Array,
    slope: float,
    patches: _Patches,
    to_matrix: Callable[[Array], Array],
) -> tuple[Array, Array]:
    matrix, to_kernel = jax.vjp(to_matrix, kernel)
    # Folded into the product, the transposition would make that take twice as long.
    transposed = optimization_barrier(matrix.T)

    def one_part(total: Array, part: tuple[Array, Array]) -> tuple[Array, Array]:
        x, cotangent = part
        laid_out, to_images = jax.vjp(lambda x: _lay_out(activation(slope)(x), patches), x)
        blocks = jax.ShapeDtypeStruct((*laid_out.shape[:-1], matrix.shape[1]), x.dtype)
        (cotangent,) = jax.linear_transpose(lambda y: _to_pixels(y, patches), blocks)(cotangent)
        total = total + jnp.einsum("bhwf,bhwp->fp", cotangent, laid_out)
        return total, *to_images(cotangent @ transposed)

    # In one part, XLA would compute what the cotangent comes of inside its transposition, where it
    # takes ten times as long.
    x_parts = _in_parts(x, _patch_numbers(x, matrix, patches), fewest=2)
    parts = x_parts, cotangent.reshape(*x_parts.shape[:2], *cotangent.shape[1:])
    total, x_gradient = jax.lax.scan(one_part, jnp.zeros_like(transposed), parts)
    return x_gradient.reshape(x.shape), *to_kernel(total.T)


def _patch_numbers(x: Array, matrix: Array, patches: _Patches) -> int:
    """Of an image: of what is laid out, and of the product."""
    height, width = _counts(x, patches)
    return height * width * sum(matrix.shape)


def _counts(x: Array, patches: _Patches) -> tuple[int, int]:
    """Of patches."""
    each = zip(x.shape[1:3], patches.paddings, patches.sides, patches.strides, strict=True)
    height, width = (
        (before + size + after - side) // stride + 1 for size, (before, after), side, stride in each
    )
    return height, width


def _lay_out(x: Float[Array, "b H W C"], patches: _Patches) -> Float[Array, "b h w klC"]:
    (down, across), (height, width) = patches.strides, _counts(x, patches)
    x = jnp.pad(x, ((0, 0), *patches.paddings, (0, 0)))
    each = [x[:, :, i : i + width * across : across] for i in range(patches.sides[1])]
    # In two steps: XLA would compile a loop for each element of the kernel.
    x = optimization_barrier(jnp.concatenate(each, axis=-1))
    each = [x[:, i : i + height * down : down] for i in range(patches.sides[0])]
    return jnp.concatenate(each, axis=-1)


def _to_pixels(y: Float[Array, "b h w pqF"], patches: _Patches) -> Float[Array, "b H W F"]:
    """Each block where it belongs."""
    (batch, height, width, _), (down, across) = y.shape, patches.block
    y = y.reshape(batch, height, width, down, across, -1).swapaxes(2, 3)
    y = y.reshape(batch, height * down, width * across, -1)
    (top, left), (height, width) = patches.skipped, patches.sizes
    return y[:, top : top + height, left : left + width]


def _in_parts(
    x: Float[Array, "B H W C"], numbers: int, fewest: int = 1
) -> Float[Array, "parts b H W C"]:
    """So few images at a time that what becomes of them, so many numbers each, stays in the cache.

    There are no fewer than ``fewest`` parts, if there are as many images.
    """
    total = len(x) * numbers * x.dtype.itemsize
    fewest = min(len(x), max(fewest, -(-total // CACHE_BYTES)))
    # All of one size: what is left over would be another program.
    count = next(n for n in range(fewest, len(x) + 1) if len(x) % n == 0)
    return x.reshape(count, -1, *x.shape[1:])


def _map(
    function: Callable[[Array], Array], parts: Float[Array, "parts b H W C"]
) -> Float[Array, "B h w F"]:
    """The function of each part, four of them in a turn.

    One core alone writes what comes of a part into the whole, and XLA begins nothing beside that in
    a loop of few operations. In one of many, the other core takes another part meanwhile.
    """
    together = next(n for n in (4, 2, 1) if len(parts) % n == 0)
    turns = len(parts) // together

    def one_turn(turn: Array, y: Array) -> Array:
        for i in range(together):
            place = turn + i * turns
            part = function(dynamic_index_in_dim(parts, place, keepdims=False))
            y = dynamic_update_index_in_dim(y, part, place, 0)
        return y

    each = jax.eval_shape(function, parts[0])
    y = jnp.zeros((len(parts), *each.shape), each.dtype)
    y = jax.lax.fori_loop(0, turns, one_turn, y)
    return y.reshape(-1, *each.shape[1:])
