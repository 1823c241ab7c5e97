"""Flax's layers in whatever type they are given, their gradients summed in float32.

A bias gets a gradient from every pixel of a batch. In bfloat16, which has 8 bits, a sum stops
growing after some hundred terms. Of Flax's options each takes those that it heeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from holderjax.networks.convolution import convolve, convolve_doubled, convolve_transposed

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

# Flax's own default.
LECUN = nnx.initializers.lecun_normal()


def add_bias(y: Float[Array, "... F"], bias: Float[Array, " F"]) -> Float[Array, "... F"]:
    """y + bias, in y's type."""
    wide = bias.astype(jnp.promote_types(bias.dtype, jnp.float32))
    # Widened before it is broadcast: then what sums the gradient is as wide.
    return y + jnp.broadcast_to(wide, y.shape).astype(y.dtype)


class Linear(nnx.Linear):
    """x W + b."""

    def __init__(self, width_in: int, width_out: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(width_in, width_out, rngs=rngs)

    def __call__(self, x: Float[Array, "... M"]) -> Float[Array, "... N"]:
        return add_bias(x @ self.kernel[...], self.bias[...])


class Conv(nnx.Conv):
    """Of images, with a square kernel [k, k, C, F], by `convolve`."""

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

    def __call__(
        self, x: Float[Array, "B H W C"], *, slope: float = 1.0, scale: float = 1.0
    ) -> Float[Array, "B h w F"]:
        """``scale`` times the convolution of what a leaky ReLU of that ``slope`` makes of x."""
        # The parameters are fewer numbers to scale than the result and its gradient.
        y = self._products(x, scale * self.kernel[...], slope)
        return y if self.bias is None else add_bias(y, scale * self.bias[...])

    def _products(
        self, x: Float[Array, "B H W C"], kernel: Float[Array, "k k C F"], slope: float
    ) -> Float[Array, "B h w F"]:
        return convolve(x, kernel, (self.strides, self.strides), slope)


class DoublingConv(Conv):
    """A `Conv` of stride 1, of images twice as large: [B, H, W, C] to [B, 2H, 2W, F]."""

    def _products(
        self, x: Float[Array, "B H W C"], kernel: Float[Array, "k k C F"], slope: float
    ) -> Float[Array, "B 2H 2W F"]:
        return convolve_doubled(x, kernel, slope)


class ConvTranspose(nnx.ConvTranspose):
    """To images ``stride`` times as large, with a square kernel [k, k, C, F]."""

    def __init__(
        self, width_in: int, width_out: int, side: int, stride: int, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(width_in, width_out, (side, side), strides=stride, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        y = convolve_transposed(x, self.kernel[...], (self.strides, self.strides))
        return add_bias(y, self.bias[...])


class _AlongTexts:
    """As if they were images of one column, by ``convolution``, with a kernel [k, C, F]."""

    convolution: Callable[[Array, Array, tuple[int, int]], Array]

    def __init__(
        self, width_in: int, width_out: int, side: int, stride: int, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(width_in, width_out, (side,), strides=stride, rngs=rngs)

    def __call__(self, x: Float[Array, "B L C"]) -> Float[Array, "B l F"]:
        y = self.convolution(x[:, :, None], self.kernel[...][:, None], (self.strides, 1))
        return add_bias(y[:, :, 0], self.bias[...])


class TextConv(_AlongTexts, nnx.Conv):
    """To texts of ``ceil(L / stride)``."""

    convolution = staticmethod(convolve)


class TextConvTranspose(_AlongTexts, nnx.ConvTranspose):
    """To texts ``stride`` times as long."""

    convolution = staticmethod(convolve_transposed)


class Embed(nnx.Embed):
    """A row of the embedding for each id."""

    def __init__(self, num_symbols: int, width: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(num_symbols, width, rngs=rngs)

    def __call__(self, ids: Int[Array, "B L"]) -> Float[Array, "B L F"]:
        table = self.embedding[...]
        # A product, and its gradient another: that of a lookup is summed in the table's type.
        return jax.nn.one_hot(ids, len(table), dtype=table.dtype) @ table
