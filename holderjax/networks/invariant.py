"""Permutation-invariant networks over the set of a batch's observed features.

Hirt et al. 2024, section 3. Features are [M, ..., E] with a mask [M, ...]; absent ones take no
part, whatever they hold. An empty set is mapped like any other, to a constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from holderjax.networks.heads import GaussianHead

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    from holderjax.pooling import DiagGaussian


class SumPooling(nnx.Module):
    """rho(sum_s chi(h_s)), with perceptrons of one hidden layer as chi and rho (Zaheer et al.)."""

    def __init__(
        self, features: int, dim: int, *, hidden: int = 256, initial_log_var: float, rngs: nnx.Rngs
    ) -> None:
        self.inner = nnx.Linear(features, hidden, rngs=rngs)
        self.summed = nnx.Linear(hidden, hidden, rngs=rngs)
        self.outer = nnx.Linear(hidden, hidden, rngs=rngs)
        self.head = GaussianHead(hidden, dim, initial_log_var=initial_log_var, rngs=rngs)

    def __call__(self, h: Float[Array, "M ... E"], mask: Bool[Array, "M ..."]) -> DiagGaussian:
        inside = self.summed(jax.nn.relu(self.inner(h)))
        total = jnp.sum(jnp.where(mask[..., None], inside, 0.0), axis=0)
        return self.head(jax.nn.relu(self.outer(jax.nn.relu(total))))


class SelfAttention(nnx.Module):
    """Pre-norm attention blocks over the set, then a masked sum and a perceptron (Lee et al. 2019).

    The set is small, so attention is written as dense products over it, batch axes inside.
    """

    def __init__(
        self,
        features: int,
        dim: int,
        *,
        hidden: int = 256,
        heads: int = 4,
        blocks: int = 1,
        initial_log_var: float,
        rngs: nnx.Rngs,
    ) -> None:
        self.embed = nnx.Linear(features, hidden, rngs=rngs)
        self.blocks = nnx.Dict(
            {f"block{i}": AttentionBlock(hidden, heads, rngs=rngs) for i in range(blocks)}
        )
        self.outer = nnx.Linear(hidden, hidden, rngs=rngs)
        self.head = GaussianHead(hidden, dim, initial_log_var=initial_log_var, rngs=rngs)

    def __call__(self, h: Float[Array, "M ... E"], mask: Bool[Array, "M ..."]) -> DiagGaussian:
        # Features may broadcast to the mask: several subsets of one set.
        h = self.embed(h)
        for block in self.blocks.values():
            h = block(h, mask)
        total = jnp.sum(jnp.where(mask[..., None], h, 0.0), axis=0)
        return self.head(jax.nn.relu(self.outer(total)))


class AttentionBlock(nnx.Module):
    """h + attention(norm(h)), then h + perceptron(norm(h)): [M, ..., F] to [M, ..., F]."""

    def __init__(self, features: int, heads: int, *, rngs: nnx.Rngs) -> None:
        if features % heads:
            raise ValueError(f"heads: expected a divisor of {features}, got {heads}")
        self.heads = heads
        self.before = nnx.LayerNorm(features, rngs=rngs)
        self.projections = nnx.Linear(features, 3 * features, rngs=rngs)
        # Blocks start as the identity: deep residual sums of random terms train slowly or not.
        zeros = nnx.initializers.zeros
        self.merge = nnx.Linear(features, features, kernel_init=zeros, rngs=rngs)
        self.between = nnx.LayerNorm(features, rngs=rngs)
        self.widen = nnx.Linear(features, features, rngs=rngs)
        self.narrow = nnx.Linear(features, features, kernel_init=zeros, rngs=rngs)

    def __call__(
        self, h: Float[Array, "M ... F"], mask: Bool[Array, "M ..."]
    ) -> Float[Array, "M ... F"]:
        projected = self.projections(self.before(h))
        query, key, value = (
            x.reshape(*x.shape[:-1], self.heads, -1) for x in jnp.split(projected, 3, axis=-1)
        )
        scores = jnp.einsum("m...hf,n...hf->mn...h", query, key) / jnp.sqrt(query.shape[-1])
        # A finite floor: with an empty set, whose output nobody uses, -inf would make NaN.
        scores = jnp.where(mask[None, ..., None], scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("mn...h,n...hf->m...hf", jax.nn.softmax(scores, axis=1), value)
        h = h + self.merge(mixed.reshape(*mixed.shape[:-2], -1))
        return h + self.narrow(jax.nn.relu(self.widen(self.between(h))))
