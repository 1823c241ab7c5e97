"""Likelihoods p(x | decoder output): frozen rows of settings with a log-density and a mean.

``log_prob`` is elementwise over the modality's shape; the objective sums it. All take ``params`` as
the decoder gives them and ``x`` as the batch holds it, with any leading axes that broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


class Likelihood(Protocol):
    """What a modality needs of its likelihood; derive from it for what most of them share."""

    def param_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the decoder's output for one example of the given shape."""
        return shape

    def log_prob(self, params: Array, x: Array) -> Array:
        """Elementwise log p(x | params) in nats, [..., *shape]."""
        ...

    def mean(self, params: Array) -> Array:
        """E[x | params], [..., *shape] (class probabilities for a categorical)."""
        ...

    def as_mean(self, x: Array) -> Array:
        """x in the shape and on the scale of `mean` (one-hot for a categorical)."""
        return x

    def decide(self, mean: Array) -> Array:
        """The value to show for a mean, in its shape (the likeliest class for a categorical)."""
        return mean

    def error(self, mean: Array, x: Array) -> Array:
        """Absolute error, [..., *shape] (0 or 1 for the likeliest class of a categorical)."""
        return jnp.abs(mean - x)


def _check_scale(scale: float) -> None:
    if not scale > 0:
        raise ValueError(f"scale: expected a positive number, got {scale!r}")


@dataclass(frozen=True)
class Laplace(Likelihood):
    """Laplace(params, scale): the field's choice for images in [0, 1] (MMVAE+, appendix)."""

    scale: float = 0.75

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def log_prob(
        self, params: Float[Array, "... *shape"], x: Float[Array, "... *shape"]
    ) -> Float[Array, "... *shape"]:
        return -jnp.abs(x - params) / self.scale - log(2 * self.scale)

    def mean(self, params: Float[Array, "... *shape"]) -> Float[Array, "... *shape"]:
        return params


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """N(params, scale^2)."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def log_prob(
        self, params: Float[Array, "... *shape"], x: Float[Array, "... *shape"]
    ) -> Float[Array, "... *shape"]:
        scaled = (x - params) / self.scale
        return -0.5 * (jnp.square(scaled) + log(2 * pi)) - log(self.scale)

    def mean(self, params: Float[Array, "... *shape"]) -> Float[Array, "... *shape"]:
        return params


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Bernoulli with logits ``params``; x in [0, 1] (masks, attributes)."""

    def log_prob(
        self, params: Float[Array, "... *shape"], x: Float[Array, "... *shape"]
    ) -> Float[Array, "... *shape"]:
        return x * params - jax.nn.softplus(params)

    def mean(self, params: Float[Array, "... *shape"]) -> Float[Array, "... *shape"]:
        return jax.nn.sigmoid(params)


@dataclass(frozen=True)
class Categorical(Likelihood):
    """Categorical over ``num_classes`` with logits ``params``; x holds integers (tokens)."""

    num_classes: int

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(f"num_classes: expected at least 2, got {self.num_classes!r}")

    def param_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape, self.num_classes)

    def log_prob(
        self, params: Float[Array, "... *shape C"], x: Int[Array, "... *shape"]
    ) -> Float[Array, "... *shape"]:
        chosen = jax.nn.one_hot(x, self.num_classes, dtype=params.dtype)
        return jnp.sum(chosen * jax.nn.log_softmax(params, axis=-1), axis=-1)

    def mean(self, params: Float[Array, "... *shape C"]) -> Float[Array, "... *shape C"]:
        return jax.nn.softmax(params, axis=-1)

    def as_mean(self, x: Int[Array, "... *shape"]) -> Float[Array, "... *shape C"]:
        return jax.nn.one_hot(x, self.num_classes)

    def decide(self, mean: Float[Array, "... *shape C"]) -> Float[Array, "... *shape C"]:
        return self.as_mean(mean.argmax(axis=-1))

    def error(
        self, mean: Float[Array, "... *shape C"], x: Int[Array, "... *shape"]
    ) -> Float[Array, "... *shape"]:
        return (mean.argmax(axis=-1) != x).astype(mean.dtype)
