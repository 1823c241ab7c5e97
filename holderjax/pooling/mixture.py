"""Gaussian mixtures, and the one posterior type that every aggregator returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from holderjax.pooling.gaussian import DiagGaussian, log_sum_exp
from holderjax.pooling.laplace import DiagLaplace

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


def gather(stacked: Array, index: Int[Array, "..."], batch_ndim: int) -> Array:
    """``stacked[index[b], b]`` for every batch index b, without touching the other entries.

    Args:
      stacked: [K, *batch, *rest].
      index: [*samples, *batch], integers below K.
      batch_ndim: the number of batch axes.

    Returns:
      [*samples, *batch, *rest].
    """
    batch_shape = stacked.shape[1 : 1 + batch_ndim]
    grid = jnp.meshgrid(*(jnp.arange(n) for n in batch_shape), indexing="ij")
    return stacked[(index, *grid)]


def draw_components(
    key: PRNGKeyArray, log_weights: Float[Array, "K ..."], shape: tuple[int, ...] = ()
) -> Int[Array, "..."]:
    """Independent draws in proportion to the weights, never one of weight zero.

    One uniform number a draw, found among the cumulative weights. `jax.random.categorical` takes
    K Gumbel variables for each, which with the many components of a pool cost more than the pool.

    Args:
      key: PRNG key.
      log_weights: of the K components of each entry of a batch, up to a constant; -inf for none.
      shape: sample axes.

    Returns:
      Indices below K, [*shape, ...]. No gradient passes through them.
    """
    log_weights = jax.lax.stop_gradient(log_weights)
    weights = jax.nn.softmax(log_weights, axis=0)
    # Rounding may lift the sum at a weight of zero; there nothing may be found.
    cumulative = jnp.where(weights > 0, jnp.cumsum(weights, axis=0), 0.0)
    uniform = jax.random.uniform(key, (*shape, *log_weights.shape[1:]), weights.dtype)
    sought = uniform * jnp.max(cumulative, axis=0)
    return jnp.argmax(jnp.moveaxis(cumulative, 0, -1) > sought[..., None], axis=-1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GaussianMixture:
    """A batch of mixtures of K diagonal Gaussians, a pytree.

    Attributes:
      components: Gaussians with ``mean`` and ``log_var`` of shape [K, ..., D]; Laplace densities
        where a mixture of experts is asked for them.
      log_weights: normalised log-weights, [K, ...]; -inf removes a component.
    """

    components: DiagGaussian | DiagLaplace
    log_weights: Float[Array, "K ..."]

    def log_prob(self, z: Float[Array, "... D"]) -> Float[Array, "..."]:
        """log sum_k pi_k N(z; mean_k, variance_k); ``z`` broadcasts against the batch axes."""
        weighted = jax.vmap(lambda component, log_weight: log_weight + component.log_prob(z))
        return log_sum_exp(weighted(self.components, self.log_weights))

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...] = ()) -> Float[Array, "... D"]:
        """Draws, [*shape, ..., D]; reparameterised given the component."""
        key_component, key_noise = jax.random.split(key)
        return self.choose(draw_components(key_component, self.log_weights, shape)).sample(
            key_noise
        )

    def choose(self, index: Int[Array, "..."]) -> DiagGaussian | DiagLaplace:
        """For every batch entry its component of that index: ``components[index[b], b]``.

        Args:
          index: [*samples, *batch], integers below K.

        Returns:
          [*samples, *batch, D].
        """
        batch_ndim = self.log_weights.ndim - 1
        return jax.tree.map(lambda x: gather(x, index, batch_ndim), self.components)

    def mean(self) -> Float[Array, "... D"]:
        """sum_k pi_k mean_k, [..., D]."""
        mean = jnp.sum(self._weights * self.components.mean, axis=0)
        # A second pass over what the first one rounded off: components far from the origin and
        # close to each other would otherwise gain its square as variance.
        return mean + jnp.sum(self._weights * (self.components.mean - mean), axis=0)

    def variance(self) -> Float[Array, "... D"]:
        """sum_k pi_k (variance_k + (mean_k - mean)^2), [..., D]."""
        return jnp.exp(self.log_variance())

    def log_variance(self) -> Float[Array, "... D"]:
        """The logarithm of `variance`, [..., D].

        Everything is divided by the largest pi_k variance_k first: a variance of exp(-40) on its
        way back would overflow gradients of float32.
        """
        log_weights = self.log_weights[..., None]
        inside = log_weights + self.components.log_var
        largest = jax.lax.stop_gradient(jnp.max(inside, axis=0))
        between = (self.components.mean - self.mean()) * jnp.exp(0.5 * (log_weights - largest))
        return largest + jnp.log(jnp.sum(jnp.exp(inside - largest) + jnp.square(between), axis=0))

    @property
    def _weights(self) -> Float[Array, "K ... 1"]:
        return jnp.exp(self.log_weights)[..., None]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PooledPosterior(GaussianMixture):
    """A mixture whose components know the experts that they were made of.

    Attributes:
      members: [K, M] bool, ``members[k, j]`` where expert j takes part in component k.
    """

    members: Bool[Array, "K M"]
