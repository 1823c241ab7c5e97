"""Convolutions of images whose gradient is as fast on a CPU as it should be."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# Flax's own default.
LECUN = nnx.initializers.lecun_normal()
# What a core's cache holds, about: patches that leave it cost more than their product.
PATCH_BYTES = 1 << 22


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k C F"], stride: int
) -> Float[Array, "B h w F"]:
    """A convolution, padded such that size / stride is left, rounded up.

    On a CPU it is the product of patches and a matrix, for a few images at a time, and its gradient
    two more: XLA's own, which accelerators get, takes up to twice as long there, and five times for
    the gradient inside a compiled loop, as training steps are.

    Args:
      x: images.
      kernel: square.
      stride: in both directions.

    Returns:
      Images of ``ceil(H / stride)`` by ``ceil(W / stride)``.
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_convolve_patches, stride=stride),
        default=partial(_convolve, stride=stride),
    )


def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        _paddings(x, kernel, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _convolve_patches(x: Array, kernel: Array, stride: int) -> Array:
    """The same as products."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    y = jax.lax.map(lambda x: _patches(x, kernel, stride) @ matrix, _in_parts(x, kernel, stride))
    return y.reshape(-1, *y.shape[2:])


def _gradients_patches(
    x: Array, kernel: Array, cotangent: Array, stride: int
) -> tuple[Array, Array]:
    """Of `_convolve_patches`, to image and kernel; the patches are made again."""
    width = kernel.shape[-1]
    # Folded into the product, the transposition would make that take twice as long.
    transposed = jax.lax.optimization_barrier(kernel.reshape(-1, width).T)
    x_parts = _in_parts(x, kernel, stride)

    def one_part(total: Array, part: tuple[Array, Array]) -> tuple[Array, Array]:
        x, cotangent = part
        patches, to_image = jax.vjp(lambda x: _patches(x, kernel, stride), x)
        total = total + jnp.einsum("bhwf,bhwp->fp", cotangent, patches)
        return total, *to_image(cotangent @ transposed)

    parts = x_parts, cotangent.reshape(*x_parts.shape[:2], *cotangent.shape[1:])
    total, x_gradient = jax.lax.scan(one_part, jnp.zeros_like(transposed), parts)
    return x_gradient.reshape(x.shape), total.T.reshape(kernel.shape)


def _in_parts(x: Array, kernel: Array, stride: int) -> Array:
    """Images [parts, b, H, W, C], so few that their patches fit into the cache."""
    height, width = _sizes(x, stride)
    side, _, width_in, _ = kernel.shape
    # What the patches are beside the image itself: nothing for kernels of one element.
    extra = len(x) * height * width * (side**2 - 1) * width_in * x.dtype.itemsize
    fewest = min(len(x), max(1, -(-extra // PATCH_BYTES)))
    # All of one size: what is left over would be another program.
    count = next(n for n in range(fewest, len(x) + 1) if len(x) % n == 0)
    return x.reshape(count, -1, *x.shape[1:])


def _patches(x: Array, kernel: Array, stride: int) -> Float[Array, "b h w p"]:
    """What every element of the result is a sum over."""
    side, (height, width) = kernel.shape[0], _sizes(x, stride)
    x = jnp.pad(x, ((0, 0), *_paddings(x, kernel, stride), (0, 0)))
    rows = [x[:, :, i : i + width * stride : stride] for i in range(side)]
    # In two steps: XLA would compile a loop for each element of the kernel.
    x = jax.lax.optimization_barrier(jnp.concatenate(rows, axis=-1))
    return jnp.concatenate([x[:, i : i + height * stride : stride] for i in range(side)], axis=-1)


def _sizes(x: Array, stride: int) -> tuple[int, int]:
    """Height and width of the result."""
    return -(-x.shape[1] // stride), -(-x.shape[2] // stride)


def _paddings(x: Array, kernel: Array, stride: int) -> list[tuple[int, int]]:
    """Before and after, of height and width."""
    side = kernel.shape[0]
    before = (side - 1) // 2
    return [
        (before, max(0, (result - 1) * stride + side - size - before))
        for size, result in zip(x.shape[1:3], _sizes(x, stride), strict=True)
    ]


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    def gradients(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        return jax.vjp(partial(_convolve, stride=stride), x, kernel)[1](cotangent)

    return jax.lax.platform_dependent(
        *saved, cotangent, cpu=partial(_gradients_patches, stride=stride), default=gradients
    )


convolve.defvjp(_forward, _backward)


class Conv(nnx.Conv):
    """Flax's convolution with a square kernel [k, k, C, F], by `convolve`."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        side: int,
        stride: int = 1,
        *,
        use_bias: bool = True,
        kernel_init: nnx.Initializer = LECUN,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            width_in,
            width_out,
            (side, side),
            strides=stride,
            use_bias=use_bias,
            kernel_init=kernel_init,
            rngs=rngs,
        )
        self.stride = stride

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        y = convolve(x, self.kernel[...], self.stride)
        return y if self.bias is None else y + self.bias[...]
