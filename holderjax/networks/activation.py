"""The leaky ReLU, and its gradient by what a convolution keeps anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def leaky_relu(x: Float[Array, "..."], slope: float) -> Float[Array, "..."]:
    """x, times ``slope`` > 0 where it is below zero; a slope of 1 changes nothing."""
    return leaky_relu_gradient(x, x, slope)


def leaky_relu_gradient(
    signs: Float[Array, "..."], cotangent: Float[Array, "..."], slope: float
) -> Float[Array, "..."]:
    """The gradient to x, where ``signs`` is x itself or the value, which has x's signs."""
    if not slope > 0.0:
        raise ValueError(f"slope: expected a number above zero, got {slope}")
    return cotangent if slope == 1.0 else jnp.where(signs >= 0, cotangent, slope * cotangent)
