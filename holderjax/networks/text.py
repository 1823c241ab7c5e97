"""A convolutional pair for short texts: ids of symbols in, logits of symbols out.

Along the text, as the field's pairs for captions and for the names of digits are (Shi et al. 2019,
appendix; Sutter et al. 2021, appendix).
"""

from __future__ import annotations

from math import ceil, log2
from typing import TYPE_CHECKING

import jax
from flax import nnx

from holderjax.networks.conv import halvings
from holderjax.networks.layers import Embed, Linear, TextConv, TextConvTranspose

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

WIDTH = 128
# Positions that are left where the encoder flattens.
POSITIONS = 4


class TextEncoder(nnx.Module):
    """An embedding, then convolutions of stride 2 with ReLU: ids [B, L] to [B, features].

    Not built from a shape alone: pass ``functools.partial(TextEncoder, num_symbols=K)`` as a
    modality's encoder.
    """

    def __init__(
        self, shape: tuple[int, ...], *, num_symbols: int, width: int = WIDTH, rngs: nnx.Rngs
    ) -> None:
        if len(shape) != 1:
            raise ValueError(f"shape: a text network needs [L], got {shape}")
        sizes = halvings(shape[0], _layers(shape[0]))
        self.features = sizes[-1] * width
        self.embedding = Embed(num_symbols, width, rngs=rngs)
        self.layers = nnx.Dict(
            {
                f"conv{i}": TextConv(width, width, 4, stride=2, rngs=rngs)
                for i in range(len(sizes) - 1)
            }
        )

    def __call__(self, ids: Int[Array, "B L"]) -> Float[Array, "B F"]:
        x = self.embedding(ids)
        for layer in self.layers.values():
            x = jax.nn.relu(layer(x))
        return x.reshape(x.shape[0], -1)


class TextDecoder(nnx.Module):
    """A linear layer, then transposed convolutions of stride 2: [B, F] to logits [B, L, K]."""

    def __init__(
        self, in_features: int, shape: tuple[int, ...], *, width: int = WIDTH, rngs: nnx.Rngs
    ) -> None:
        if len(shape) != 2:
            raise ValueError(f"shape: a text network makes logits [L, K], got {shape}")
        length, num_symbols = shape
        self.sizes = tuple(reversed(halvings(length, _layers(length))))
        self.width = width
        self.input = Linear(in_features, self.sizes[0] * width, rngs=rngs)
        self.layers = nnx.Dict(
            {
                f"conv{i}": TextConvTranspose(width, width, 4, stride=2, rngs=rngs)
                for i in range(len(self.sizes) - 1)
            }
        )
        self.output = Linear(width, num_symbols, rngs=rngs)

    def __call__(self, x: Float[Array, "B F"]) -> Float[Array, "B L K"]:
        x = self.input(x).reshape(-1, self.sizes[0], self.width)
        for layer, size in zip(self.layers.values(), self.sizes[1:], strict=True):
            # Doubling overshoots where the encoder halved an odd length.
            x = layer(jax.nn.relu(x))[:, :size]
        return self.output(jax.nn.relu(x))


def _layers(length: int) -> int:
    """How many times a text is halved until at most `POSITIONS` are left."""
    return max(0, ceil(log2(length / POSITIONS)))
