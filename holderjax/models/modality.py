"""What a user says about one modality, and the networks that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from holderjax.likelihoods import Laplace, Likelihood
from holderjax.models.aggregators import Aggregator
from holderjax.models.priors import standard
from holderjax.models.systems import System
from holderjax.naming import unknown
from holderjax.networks import HEADS, ConditionalHead, GaussianHead, MlpDecoder, MlpEncoder
from holderjax.pooling import DiagGaussian
from holderjax.pooling.laplace import DiagLaplace

if TYPE_CHECKING:
    from jaxtyping import Array, Float


# Narrow auxiliary priors let decoders read z in cross-reconstruction from the first step on; wide
# ones show them noise first, and z collapses onto its prior.
INITIAL_LOG_AUXILIARY_SCALE = -3.0
# Units of the layer of a learned p(w | z).
PRIOR_HIDDEN = 256

NetworkDtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Modality:
    """One modality of a model.

    Attributes:
      shape: of one example, as the batch holds it.
      encoder: built as ``encoder(shape, rngs=rngs)``; see `holderjax.networks`.
      decoder: built as ``decoder(in_features, param_shape, rngs=rngs)``.
      likelihood: p(x | decoder output).
      weight: multiplies the log-likelihood in the objective, as the field does to balance
        modalities of different sizes.
      dtype: what the encoder and the decoder compute in. Parameters, gradients and optimiser stay
        float32, like heads, latents, pooling and likelihoods.
    """

    shape: tuple[int, ...]
    encoder: Callable[..., Any] = MlpEncoder
    decoder: Callable[..., Any] = MlpDecoder
    likelihood: Likelihood = Laplace()  # noqa: RUF009, a frozen row of settings
    weight: float = 1.0
    dtype: NetworkDtype = "float32"

    def __post_init__(self) -> None:
        if not all(isinstance(n, int) and n > 0 for n in self.shape):
            raise ValueError(f"shape: expected positive integers, got {self.shape!r}")
        if not self.weight > 0:
            raise ValueError(f"weight: expected a positive number, got {self.weight!r}")
        if self.dtype not in get_args(NetworkDtype):
            raise unknown("dtype", self.dtype, get_args(NetworkDtype))


class ModalityNetworks(nnx.Module):
    """The encoders, the decoder and the private priors of one modality.

    The shared and the private latents have an encoder each, as in MMVAE+: one trunk would let the
    private latents shape the features that the shared ones read.
    """

    def __init__(
        self,
        modality: Modality,
        system: System,
        aggregator: Aggregator,
        latent_dim: int,
        private_dim: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.dtype = modality.dtype
        self.private_dim = private_dim
        self.family = system.family
        self.decodes_z = system.decoders == "all"
        self.learns_prior = system.private_prior == "conditional"
        self.encoder = modality.encoder(modality.shape, rngs=rngs)
        self.head = aggregator.head(self.encoder.features, rngs)
        self.decoder = modality.decoder(
            latent_dim * self.decodes_z + private_dim,
            modality.likelihood.param_shape(modality.shape),
            rngs=rngs,
        )
        if private_dim:
            self.private_encoder = modality.encoder(modality.shape, rngs=rngs)
            features = self.private_encoder.features
            head = HEADS[self.family]
            self.private_head: GaussianHead | ConditionalHead = (
                ConditionalHead(features, latent_dim, private_dim, head=head, rngs=rngs)
                if system.latents == "hierarchical"
                else head(features, private_dim, rngs=rngs)
            )
            if self.learns_prior:
                self.prior_hidden = nnx.Linear(latent_dim, PRIOR_HIDDEN, rngs=rngs)
                self.prior_head = head(PRIOR_HIDDEN, private_dim, rngs=rngs)
            else:
                # log tau of the auxiliary prior r = N(0, diag tau^2) of shortcut avoidance.
                # The type is given, as a weak one would compile a training step twice.
                self.log_auxiliary_scale = nnx.Param(
                    jnp.full(private_dim, INITIAL_LOG_AUXILIARY_SCALE, jnp.float32)
                )

    def expert(self, x: Float[Array, "B *shape"]) -> Any:
        """What the aggregator reads of x: q(z | x), [B, D], or features."""
        return self.head(self._run(self.encoder, x))

    def private_features(self, x: Float[Array, "B *shape"]) -> Float[Array, "B F"]:
        """What the private head reads of x; computed once per input, not once per component."""
        return self._run(self.private_encoder, x)

    def private_posterior(
        self, features: Float[Array, "B F"], z: Float[Array, "... B D"]
    ) -> DiagGaussian | DiagLaplace:
        """q(w | x), or q(w | x, z) in a hierarchical model: [..., B, P]."""
        if isinstance(self.private_head, ConditionalHead):
            return self.private_head(features, z)
        q = self.private_head(features)
        shape = (*z.shape[:-1], self.private_dim)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, shape), q)

    def private_prior(self, z: Float[Array, "... D"]) -> DiagGaussian | DiagLaplace:
        """p(w) = N(0, I), [P], or the learned p(w | z), [..., P]."""
        if self.learns_prior:
            return self.prior_head(jax.nn.relu(self.prior_hidden(z)))
        return standard(self.family, (self.private_dim,))

    def auxiliary_prior(self, prior: DiagGaussian | DiagLaplace) -> DiagGaussian | DiagLaplace:
        """r, which stands for the private posterior in cross-reconstruction.

        N(0, diag tau^2), [P]; where p(w | z) is learned, that `private_prior` itself, [..., P].
        """
        if self.learns_prior:
            return prior
        log_scale = self.log_auxiliary_scale[...]
        return HEADS[self.family].distribution(jnp.zeros_like(log_scale), 2 * log_scale)

    def decode(
        self, z: Float[Array, "... D"], w: Float[Array, "... P"] | None
    ) -> Float[Array, "... *params"]:
        """Likelihood parameters, computed on all rows at once."""
        parts = [z] if self.decodes_z else []
        if w is not None:
            parts.append(w)
        latents = jnp.concatenate(parts, axis=-1)
        params = self._run(self.decoder, latents.reshape(-1, latents.shape[-1]))
        return params.reshape(*latents.shape[:-1], *params.shape[1:])

    def _run(self, network: nnx.Module, x: Array) -> Array:
        """The network's result, computed in the modality's type."""
        if self.dtype == "float32":
            return network(x)

        def cast(a: Array) -> Array:
            return a.astype(self.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

        graph, params = nnx.split(network)
        params, x = jax.tree.map(cast, (params, x))
        return nnx.merge(graph, params)(x).astype(jnp.float32)
