"""Two-layer perceptrons, for vectors and for small images."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

import jax
from flax import nnx

from holderjax.networks.layers import Linear

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class MlpEncoder(nnx.Module):
    """Flatten, then hidden layers with ReLU: [B, *shape] to [B, hidden[-1]]."""

    def __init__(
        self, shape: tuple[int, ...], *, hidden: tuple[int, ...] = (400, 400), rngs: nnx.Rngs
    ) -> None:
        self.features = hidden[-1]
        self.layers = _layers((prod(shape), *hidden), rngs)

    def __call__(self, x: Float[Array, "B *shape"]) -> Float[Array, "B F"]:
        x = x.reshape(x.shape[0], -1)
        for layer in self.layers.values():
            x = jax.nn.relu(layer(x))
        return x


class MlpDecoder(nnx.Module):
    """Hidden layers with ReLU, then a linear layer: [B, in_features] to [B, *shape].

    Narrower than the encoder: a step decodes every input once per component, and encodes it once.
    """

    def __init__(
        self,
        in_features: int,
        shape: tuple[int, ...],
        *,
        hidden: tuple[int, ...] = (256, 256),
        rngs: nnx.Rngs,
    ) -> None:
        self.shape = shape
        self.layers = _layers((in_features, *hidden), rngs)
        self.output = Linear(hidden[-1], prod(shape), rngs=rngs)

    def __call__(self, x: Float[Array, "B L"]) -> Float[Array, "B *shape"]:
        for layer in self.layers.values():
            x = jax.nn.relu(layer(x))
        return self.output(x).reshape(-1, *self.shape)


def _layers(sizes: tuple[int, ...], rngs: nnx.Rngs) -> nnx.Dict:
    pairs = pairwise(sizes)
    return nnx.Dict({f"hidden{i}": Linear(m, n, rngs=rngs) for i, (m, n) in enumerate(pairs)})
