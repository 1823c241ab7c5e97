"""Diagonal Laplace densities, for mixtures of experts: no other pool of them has a closed form."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from holderjax.pooling.gaussian import LocationScale, check_broadcast, sum_over_dims

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DiagLaplace(LocationScale):
    """A batch of products of Laplace densities, a pytree with the methods of `DiagGaussian`.

    Attributes:
      mean: locations, [..., D].
      log_scale: logarithms of the scales b, [..., D]; the variance is 2 b^2.
    """

    mean: Float[Array, "... D"]
    log_scale: Float[Array, "... D"]

    @property
    def log_var(self) -> Float[Array, "... D"]:
        return log(2) + 2 * self.log_scale

    @property
    def variance(self) -> Float[Array, "... D"]:
        return jnp.exp(self.log_var)

    def log_prob(self, z: Float[Array, "... D"]) -> Float[Array, "..."]:
        """The log-density, summed over D; ``z`` broadcasts against the batch axes."""
        check_broadcast(jnp.shape(z), self.mean.shape)
        scaled = jnp.abs(z - self.mean) * jnp.exp(-self.log_scale)
        return -sum_over_dims(scaled + self.log_scale + log(2))

    @staticmethod
    def draw_noise(
        key: PRNGKeyArray, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
    ) -> Array:
        """What `from_noise` takes: draws of location 0 and scale 1."""
        return jax.random.laplace(key, shape, dtype)

    def from_noise(self, noise: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Reparameterised draws."""
        return self.mean + jnp.exp(self.log_scale) * noise

    def kl(self, other: DiagLaplace) -> Float[Array, "..."]:
        r"""KL(self || other) in nats, summed over D.

        With distance :math:`\delta` and scales b and c: :math:`\log(c/b) + \delta/c
        + (b/c)\, e^{-\delta/b} - 1`.
        """
        check_broadcast(self.mean.shape, other.mean.shape)
        distance = jnp.abs(self.mean - other.mean)
        log_ratio = self.log_scale - other.log_scale
        near = jnp.exp(log_ratio - distance * jnp.exp(-self.log_scale))
        return sum_over_dims(distance * jnp.exp(-other.log_scale) - log_ratio + near - 1.0)


def scale_normalized_laplace(
    mean: Float[Array, "... D"], raw: Float[Array, "... D"]
) -> DiagLaplace:
    """Scales D softmax(raw) + 1e-6, whose mean is 1 (the official code of MMVAE)."""
    log_scale = jnp.logaddexp(log(raw.shape[-1]) + jax.nn.log_softmax(raw, axis=-1), log(1e-6))
    return DiagLaplace(mean, log_scale)
