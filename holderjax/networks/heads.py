"""Heads: from an encoder's features to a diagonal Gaussian, or Laplace, density."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from holderjax.pooling import DiagGaussian
from holderjax.pooling.laplace import DiagLaplace, scale_normalized_laplace

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class GaussianHead(nnx.Module):
    """q(z | x): one linear layer from features [..., F] to mean and log-variance [..., D].

    Fresh heads give log-variances around ``initial_log_var``.
    """

    distribution = staticmethod(DiagGaussian)

    def __init__(
        self, features: int, dim: int, *, initial_log_var: float = 0.0, rngs: nnx.Rngs
    ) -> None:
        self.linear = nnx.Linear(features, 2 * dim, rngs=rngs)
        self.linear.bias[...] = jnp.repeat(jnp.array([0.0, initial_log_var]), dim)

    def __call__(self, features: Float[Array, "... F"]) -> DiagGaussian | DiagLaplace:
        # Pooling is done in float32, whatever the networks run in.
        mean, raw_scale = jnp.split(self.linear(features).astype(jnp.float32), 2, axis=-1)
        return self.distribution(mean, raw_scale)


class LaplaceHead(GaussianHead):
    """Laplace densities of normalised scale; ``initial_log_var`` cancels in the normalisation."""

    distribution = staticmethod(scale_normalized_laplace)


HEADS: dict[str, type[GaussianHead]] = {"gaussian": GaussianHead, "laplace": LaplaceHead}


class ConditionalHead(nnx.Module):
    """q(w | x, z), the top-down private posterior of Hölder++ (section 3.3).

    A hidden layer mixes features and z; its half that reads the features has no component axis, so
    it is computed once per input: features [B, F] and z [K, B, D] give what ``head`` gives,
    [K, B, P].
    """

    def __init__(
        self,
        features: int,
        context: int,
        dim: int,
        *,
        hidden: int = 256,
        head: type[GaussianHead] = GaussianHead,
        rngs: nnx.Rngs,
    ) -> None:
        self.features = nnx.Linear(features, hidden, rngs=rngs)
        self.context = nnx.Linear(context, hidden, use_bias=False, rngs=rngs)
        self.output = head(hidden, dim, rngs=rngs)

    def __call__(
        self, features: Float[Array, "B F"], z: Float[Array, "K B D"]
    ) -> DiagGaussian | DiagLaplace:
        return self.output(jax.nn.relu(self.features(features) + self.context(z)))
