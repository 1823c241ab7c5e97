"""Convolutions of images whose gradient is as fast on a CPU as it should be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from holderjax.networks import convolution_cpu
from holderjax.networks.layers import add_bias

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# Flax's own default.
LECUN = nnx.initializers.lecun_normal()


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k C F"], stride: int
) -> Float[Array, "B h w F"]:
    """A convolution, padded such that size / stride is left, rounded up.

    On a CPU it is a product of matrices, and its gradient two more: XLA's own, which accelerators
    get, takes up to twice as long there, and five times for the gradient inside a compiled loop, as
    training steps are.

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
        cpu=_in_float32(partial(convolution_cpu.convolve, stride=stride)),
        default=partial(_convolve, stride=stride),
    )


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of narrower numbers; the results are as narrow as those. A CPU has no fast sums of them."""

    def widened(*arrays: Array) -> Any:
        narrow = arrays[0].dtype
        wide = jnp.promote_types(narrow, jnp.float32)
        found = function(*(a.astype(wide) for a in arrays))
        return jax.tree.map(lambda a: a.astype(narrow), found)

    return widened


def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        convolution_cpu.paddings(x, len(kernel), stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    def gradients(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        return jax.vjp(partial(_convolve, stride=stride), x, kernel)[1](cotangent)

    return jax.lax.platform_dependent(
        *saved,
        cotangent,
        cpu=_in_float32(partial(convolution_cpu.gradients, stride=stride)),
        default=gradients,
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
        return y if self.bias is None else add_bias(y, self.bias[...])
