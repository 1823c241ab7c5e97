"""Priors over the shared latent z, each as a Gaussian mixture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from holderjax.networks import HEADS
from holderjax.pooling import DiagGaussian, GaussianMixture
from holderjax.pooling.laplace import DiagLaplace

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def standard(family: str, shape: tuple[int, ...]) -> DiagGaussian | DiagLaplace:
    """N(0, I), or Laplace(0, 1), of the given shape."""
    return HEADS[family].distribution(jnp.zeros(shape), jnp.zeros(shape))


class ZPrior(Protocol):
    """p(z)."""

    def __call__(self) -> GaussianMixture:
        """As a mixture: components [C, D]."""
        ...


class StandardPrior(nnx.Module):
    """p(z) = N(0, I), or Laplace(0, 1), a mixture of one."""

    def __init__(self, dim: int, family: str) -> None:
        self.dim = dim
        self.family = family

    def __call__(self) -> GaussianMixture:
        return GaussianMixture(standard(self.family, (1, self.dim)), jnp.zeros(1))


class MixturePrior(nnx.Module):
    """p(z) = sum_c omega_c N(nu_c, diag s_c), all learned (CMVAE, Palumbo et al. 2024, section 3).

    With the family ``laplace`` the clusters are Laplace densities.

    Means start uniform in [-1, 1], as in the authors' code: equal ones would receive equal
    gradients for ever, and draws from N(0, I) differ so much in length that the cluster nearest to
    the origin takes every example at once.
    """

    def __init__(self, clusters: int, dim: int, family: str, *, rngs: nnx.Rngs) -> None:
        self.family = family
        self.logits = nnx.Param(jnp.zeros(clusters))
        self.mean = nnx.Param(
            jax.random.uniform(rngs.params(), (clusters, dim), minval=-1.0, maxval=1.0)
        )
        self.log_var = nnx.Param(jnp.zeros((clusters, dim)))

    def __call__(self) -> GaussianMixture:
        components = HEADS[self.family].distribution(self.mean[...], self.log_var[...])
        return GaussianMixture(components, jax.nn.log_softmax(self.logits[...]))


def responsibilities(prior: GaussianMixture, z: Float[Array, "... D"]) -> Float[Array, "C ..."]:
    """p(c | z), the exact posterior over the prior's clusters."""
    weighted = jax.vmap(lambda component, log_weight: log_weight + component.log_prob(z))
    return jax.nn.softmax(weighted(prior.components, prior.log_weights), axis=0)


PRIORS: dict[str, Callable[..., ZPrior]] = {
    "normal": lambda clusters, dim, family, rngs: StandardPrior(dim, family),
    "mixture": lambda clusters, dim, family, rngs: MixturePrior(clusters, dim, family, rngs=rngs),
}
