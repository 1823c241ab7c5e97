"""Aggregators by name: from experts and a mask to a pooled posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from holderjax.models.systems import System
from holderjax.networks import HEADS, SelfAttention, SumPooling
from holderjax.pooling import (
    PooledPosterior,
    hellinger,
    holder_pool,
    mixture_of_experts,
    mixture_of_hellinger,
    mixture_of_products,
    product_of_experts,
)
from holderjax.pooling.gaussian import standard_normal

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

# Where training starts. Cross-reconstruction must be learnable at once: with experts as wide as
# p(z), decoders first see noise, z collapses onto its prior, and the plateau lasts thousands of
# steps.
INITIAL_EXPERT_LOG_VAR = -4.0


class Aggregator(nnx.Module):
    """How the experts of the observed modalities become one posterior.

    Experts are what the heads return, stacked: Gaussians [M, ..., D], unless `head` says otherwise.
    """

    def __init__(self, dim: int, family: str = "gaussian") -> None:
        self.dim = dim
        self.family = family

    def head(self, features: int, rngs: nnx.Rngs) -> nnx.Module:
        """What turns an encoder's features [B, F] into an expert: a density [B, D]."""
        head = HEADS[self.family]
        return head(features, self.dim, initial_log_var=INITIAL_EXPERT_LOG_VAR, rngs=rngs)

    def pool(self, experts: Any, mask: Bool[Array, "M ..."]) -> PooledPosterior:
        """The posterior of the experts [M, ..., D] that are present; they broadcast to the mask."""
        raise TypeError(f"{type(self).__name__} does not say how to pool")


class ClosedForm(Aggregator):
    """A function of `holderjax.pooling` without parameters."""

    def __init__(self, function: Callable[..., PooledPosterior], dim: int) -> None:
        super().__init__(dim)
        self.function = function

    def pool(self, experts: Any, mask: Bool[Array, "M ..."]) -> PooledPosterior:
        """See `Aggregator`."""
        return self.function(_broadcast(experts, mask), mask=mask)


class Holder(Aggregator):
    """Exact Hölder pooling of any order, with uniform or learned weights; order 1 is MoE.

    Learned weights are w = softmax(logits), one logit per modality, uniform at the start. Absent
    modalities leave the softmax. At order 1 experts may be Laplace densities.
    """

    def __init__(
        self, order: int, weights: str, num_modalities: int, dim: int, family: str = "gaussian"
    ) -> None:
        super().__init__(dim, family)
        self.order = order
        self.logits = nnx.Param(jnp.zeros(num_modalities)) if weights == "learned" else None

    def weights(self) -> Float[Array, " M"] | None:
        """The weights w, or None where they are uniform."""
        return None if self.logits is None else jax.nn.softmax(self.logits[...])

    def pool(self, experts: Any, mask: Bool[Array, "M ..."]) -> PooledPosterior:
        """See `Aggregator`."""
        experts = _broadcast(experts, mask)
        if self.order == 1:
            return mixture_of_experts(experts, weights=self.weights(), mask=mask)
        return holder_pool(experts, order=self.order, weights=self.weights(), mask=mask)


class Learned(Aggregator):
    """A permutation-invariant network over the encoders' features (Hirt et al. 2024, section 3).

    Features pass a linear layer of the modality's own first, so that encoders of any width can
    meet: experts are [M, ..., hidden].
    """

    def __init__(
        self,
        network: Callable[..., nnx.Module],
        num_modalities: int,
        dim: int,
        *,
        hidden: int = 256,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(dim)
        self.hidden = hidden
        self.num_modalities = num_modalities
        self.network = network(hidden, dim, initial_log_var=INITIAL_EXPERT_LOG_VAR, rngs=rngs)

    def head(self, features: int, rngs: nnx.Rngs) -> nnx.Module:
        """Features to what the network reads, [B, hidden]."""
        return nnx.Linear(features, self.hidden, rngs=rngs)

    def pool(self, experts: Any, mask: Bool[Array, "M ..."]) -> PooledPosterior:
        """See `Aggregator`; one component that has seen all. The empty set gives N(0, I)."""
        q = self.network(experts, mask)
        someone = mask.any(axis=0)[..., None]
        component = jax.tree.map(lambda x: jnp.where(someone, x, 0.0)[None], q)
        members = jnp.ones((1, self.num_modalities), bool)
        return PooledPosterior(component, jnp.zeros(component.mean.shape[:-1]), members)


def _broadcast(experts: Any, mask: Bool[Array, "M ..."]) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*mask.shape, x.shape[-1])), experts)


def _product_with_prior(experts: Any, mask: Bool[Array, "M ..."]) -> PooledPosterior:
    prior = standard_normal(experts.mean.shape[-1:])
    return product_of_experts(experts, prior=prior, mask=mask)


Build = Callable[[System, int, int, nnx.Rngs], Aggregator]

# Called with the row, the number of modalities M, the size D of z, and where to draw parameters.
AGGREGATORS: dict[str, Build] = {
    "poe": lambda row, m, d, rngs: ClosedForm(_product_with_prior, d),
    "moe": lambda row, m, d, rngs: Holder(1, row.expert_weights, m, d, row.family),
    "mopoe": lambda row, m, d, rngs: ClosedForm(mixture_of_products, d),
    "hellinger": lambda row, m, d, rngs: ClosedForm(hellinger, d),
    "mohellinger": lambda row, m, d, rngs: ClosedForm(mixture_of_hellinger, d),
    "holder": lambda row, m, d, rngs: Holder(row.order, row.expert_weights, m, d),
    "sum": lambda row, m, d, rngs: Learned(SumPooling, m, d, rngs=rngs),
    "attention": lambda row, m, d, rngs: Learned(SelfAttention, m, d, rngs=rngs),
}


def count_components(row: System, num_modalities: int) -> int:
    """K, the number of components of the row's posterior given M modalities."""

    def posterior() -> PooledPosterior:
        rngs = nnx.Rngs(0)
        aggregator = AGGREGATORS[row.aggregator](row, num_modalities, 1, rngs)
        expert = aggregator.head(1, rngs)(jnp.zeros((1, 1)))
        experts = jax.tree.map(lambda x: jnp.stack([x] * num_modalities), expert)
        return aggregator.pool(experts, jnp.ones((num_modalities, 1), bool))

    return len(jax.eval_shape(posterior).log_weights)
