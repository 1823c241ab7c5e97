"""Flax's layers in whatever type they are given, their gradients summed in float32.

A bias gets a gradient from every pixel of a batch. In bfloat16, which has 8 bits, a sum stops
growing after some hundred terms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


def add_bias(y: Float[Array, "... F"], bias: Float[Array, " F"]) -> Float[Array, "... F"]:
    """y + bias, in y's type."""
    wide = bias.astype(jnp.promote_types(bias.dtype, jnp.float32))
    # Widened before it is broadcast: then what sums the gradient is as wide.
    return y + jnp.broadcast_to(wide, y.shape).astype(y.dtype)


class Linear(nnx.Linear):
    """x W + b."""

    def __call__(self, x: Float[Array, "... M"]) -> Float[Array, "... N"]:
        return add_bias(x @ self.kernel[...], self.bias[...])


class TextConv(nnx.Conv):
    """A convolution along the text."""

    def __call__(self, x: Float[Array, "B L C"]) -> Float[Array, "B l F"]:
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...],
            (self.strides,),
            self.padding,
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        return add_bias(y, self.bias[...])


class ConvTranspose(nnx.ConvTranspose):
    """A transposed convolution of images or along texts."""

    def __call__(self, x: Float[Array, "B ... C"]) -> Float[Array, "B ... F"]:
        strides = (self.strides,) * (x.ndim - 2)
        y = jax.lax.conv_transpose(x, self.kernel[...], strides, self.padding)
        return add_bias(y, self.bias[...])


class Embed(nnx.Embed):
    """A row of the embedding for each id."""

    def __call__(self, ids: Int[Array, "B L"]) -> Float[Array, "B L F"]:
        table = self.embedding[...]
        # A product, and its gradient another: that of a lookup is summed in the table's type.
        return jax.nn.one_hot(ids, len(table), dtype=table.dtype) @ table
