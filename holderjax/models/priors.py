"""Priors over the shared latent z, each as a Gaussian mixture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from holderjax.pooling import DiagGaussian, GaussianMixture
from holderjax.pooling.gaussian import standard_normal

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class ZPrior(Protocol):
    """p(z)."""

    def __call__(self) -> GaussianMixture:
        """As a mixture: components [C, D]."""
        ...


class NormalPrior(nnx.Module):
    """p(z) = N(0, I), a mixture of one."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def __call__(self) -> GaussianMixture:
        return GaussianMixture(standard_normal((1, self.dim)), jnp.zeros(1))


class MixturePrior(nnx.Module):
    """p(z) = sum_c omega_c N(nu_c, diag s_c), all learned (CMVAE, Palumbo et al. 2024, section 3).

    Means start as draws from N(0, I): equal ones would receive equal gradients for ever.
    """

    def __init__(self, clusters: int, dim: int, *, rngs: nnx.Rngs) -> None:
        self.logits = nnx.Param(jnp.zeros(clusters))
        self.mean = nnx.Param(jax.random.normal(rngs.params(), (clusters, dim)))
        self.log_var = nnx.Param(jnp.zeros((clusters, dim)))

    def __call__(self) -> GaussianMixture:
        components = DiagGaussian(self.mean[...], self.log_var[...])
        return GaussianMixture(components, jax.nn.log_softmax(self.logits[...]))


def responsibilities(prior: GaussianMixture, z: Float[Array, "... D"]) -> Float[Array, "C ..."]:
    """p(c | z), the exact posterior over the prior's clusters."""
    weighted = jax.vmap(lambda component, log_weight: log_weight + component.log_prob(z))
    return jax.nn.softmax(weighted(prior.components, prior.log_weights), axis=0)


PRIORS: dict[str, Callable[..., ZPrior]] = {
    "normal": lambda clusters, dim, rngs: NormalPrior(dim),
    "mixture": lambda clusters, dim, rngs: MixturePrior(clusters, dim, rngs=rngs),
}
