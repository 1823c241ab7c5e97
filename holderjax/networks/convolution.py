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


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k C F"], stride: int
) -> Float[Array, "B h w F"]:
    """A convolution, padded such that size / stride is left, rounded up.

    Inside a compiled loop, as training steps are, XLA's gradient of a convolution takes several
    times as long on a CPU as that of one product of patches and a matrix, which is used there.
    Forward, and on accelerators, XLA's own is the fastest.

    Args:
      x: images.
      kernel: square.
      stride: in both directions.

    Returns:
      Images of ``ceil(H / stride)`` by ``ceil(W / stride)``.
    """
    return _convolve(x, kernel, stride)


def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        _paddings(x, kernel, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _convolve_patches(x: Array, kernel: Array, stride: int) -> Array:
    """The same as one product."""
    side = kernel.shape[0]
    height, width = (-(-size // stride) for size in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), *_paddings(x, kernel, stride), (0, 0)))
    patches = [
        x[:, i : i + height * stride : stride, j : j + width * stride : stride]
        for i in range(side)
        for j in range(side)
    ]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def _paddings(x: Array, kernel: Array, stride: int) -> list[tuple[int, int]]:
    """Before and after, of height and width."""
    side = kernel.shape[0]
    before = (side - 1) // 2
    return [
        (before, max(0, (-(-size // stride) - 1) * stride + side - size - before))
        for size in x.shape[1:3]
    ]


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    def gradients(function):
        return lambda x, kernel, y: jax.vjp(partial(function, stride=stride), x, kernel)[1](y)

    return jax.lax.platform_dependent(
        *saved, cotangent, cpu=gradients(_convolve_patches), default=gradients(_convolve)
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
