r"""Convolutions with kernels of 3x3 by 36 products for a tile of 4x4 pixels, not by 144.

F(4x4, 3x3) of Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (CVPR 2016), 4.3:

.. math:: A^T \big[ (G g G^T) \odot (B^T d B) \big] A

for 6x6 pixels d around a tile and the kernel g, summed over the channels before the last step, so
that each of the 36 is a product of matrices. With a tile e of the cotangent, the kernel's gradient
is :math:`G^T [(B^T d B) \odot (A e A^T)] G`, summed over the tiles.

The matrices interpolate polynomials at 0, :math:`\pm\sqrt{1/2}`, :math:`\pm\sqrt 2` and infinity,
where the paper has 0, 1, -1, 2, -2 and infinity: rounding errors are half of its, about five times
those of a plain sum. A number that is not finite reaches all pixels of its tiles.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax.lax import optimization_barrier, slice_in_dim

if TYPE_CHECKING:
    from jaxtyping import Array, Float

TILE = 4  # pixels, along each axis
PRODUCTS = (TILE + 2) ** 2  # for a tile

_P, _Q = np.sqrt(0.5), np.sqrt(2.0)
# Of each point: its powers up to the third; those up to the second, divided by the product of its
# distances to the others; and the polynomial that is zero at the others.
_A = np.array(
    [
        *([1, 0, 0, 0], [1, _P, 1 / 2, _P / 2], [1, -_P, 1 / 2, -_P / 2]),
        *([1, _Q, 2, 2 * _Q], [1, -_Q, 2, -2 * _Q], [0, 0, 0, 1]),
    ]
)
_G = np.array(
    [
        *([1, 0, 0], [-2 / 3, -2 / 3 * _P, -1 / 3], [-2 / 3, 2 / 3 * _P, -1 / 3]),
        *([1 / 6, _Q / 6, 1 / 3], [1 / 6, -_Q / 6, 1 / 3], [0, 0, 1]),
    ]
)
_BT = np.array(
    [
        *([1, 0, -5 / 2, 0, 1, 0], [0, -_Q, -2, _P, 1, 0], [0, _Q, -2, -_P, 1, 0]),
        *([0, -_P, -1 / 2, _Q, 1, 0], [0, _P, -1 / 2, -_Q, 1, 0], [0, 1, 0, -5 / 2, 0, 1]),
    ]
)


def kernel_to_tiles(kernel: Float[Array, "3 3 C F"]) -> Float[Array, "36 C F"]:
    """``G g G^T``, columns before rows, as everywhere here."""
    g = jnp.asarray(_G, kernel.dtype)
    return jnp.einsum("pj,qi,ijcf->pqcf", g, g, kernel).reshape(PRODUCTS, *kernel.shape[2:])


def images_to_tiles(x: Float[Array, "b H W C"]) -> Float[Array, "36 n C"]:
    """``B^T d B`` of all n tiles, with zeros around the images; 4 divides height and width."""
    x = optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
    for axis in (1, 3):
        # In two steps, each in memory: XLA would compute the first again for each of the second.
        x = optimization_barrier(jnp.stack(_combine(_BT, _of_tiles(x, axis, TILE + 2))))
    return x.reshape(PRODUCTS, -1, x.shape[-1])


def tiles_to_images(y: Float[Array, "36 n F"], shape: tuple[int, ...]) -> Float[Array, "b H W F"]:
    """``A^T m A`` of all tiles m, as images of b, H and W as in ``shape``."""
    batch, height, width, _ = shape
    y = y.reshape(TILE + 2, TILE + 2, batch, height // TILE, width // TILE, -1)
    y = jnp.stack(_combine(_A.T, list(y)), 4)
    y = jnp.stack(_combine(_A.T, list(optimization_barrier(y))), 2)
    return y.reshape(batch, height, width, -1)


def cotangent_to_tiles(y: Float[Array, "b H W F"]) -> Float[Array, "36 n F"]:
    """``A e A^T`` of all tiles e."""
    for axis in (1, 3):
        y = optimization_barrier(jnp.stack(_combine(_A, _of_tiles(y, axis, TILE))))
    return y.reshape(PRODUCTS, -1, y.shape[-1])


def _of_tiles(x: Array, axis: int, count: int) -> list[Array]:
    """The first of every tile along the axis, the second, and so on."""
    last = x.shape[axis] - count
    return [slice_in_dim(x, i, i + last + 1, TILE, axis) for i in range(count)]


def _combine(matrix: np.ndarray, terms: list[Array]) -> list[Array]:
    """Sums of the terms times each row; what is times zero is left out."""
    return [
        reduce(add, (float(c) * term for c, term in zip(row, terms, strict=True) if c))
        for row in matrix
    ]
