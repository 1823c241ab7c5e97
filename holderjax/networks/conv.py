"""The small convolutional pair of the MoPoE line: three stride-2 convolutions, 32-64-128."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import jax
from flax import nnx

from holderjax.networks.layers import Conv, ConvTranspose, Linear

if TYPE_CHECKING:
    from jaxtyping import Array, Float

WIDTHS = (32, 64, 128)


def image_size(shape: tuple[int, ...]) -> int:
    """The side of a square image [H, H, C]; ValueError for any other shape."""
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ValueError(f"shape: an image network needs [H, H, C], got {shape}")
    return shape[0]


class ConvEncoder(nnx.Module):
    """3x3 convolutions of stride 2 with ReLU, flattened: [B, H, H, C] to [B, features]."""

    def __init__(
        self, shape: tuple[int, ...], *, widths: tuple[int, ...] = WIDTHS, rngs: nnx.Rngs
    ) -> None:
        sizes = halvings(image_size(shape), len(widths))
        self.features = sizes[-1] ** 2 * widths[-1]
        pairs = zip((shape[-1], *widths[:-1]), widths, strict=True)
        self.layers = nnx.Dict(
            {f"conv{i}": Conv(m, n, 3, stride=2, rngs=rngs) for i, (m, n) in enumerate(pairs)}
        )

    def __call__(self, x: Float[Array, "B H H C"]) -> Float[Array, "B F"]:
        for layer in self.layers.values():
            x = jax.nn.relu(layer(x))
        return x.reshape(x.shape[0], -1)


class ConvDecoder(nnx.Module):
    """A linear layer, then 3x3 transposed convolutions of stride 2: [B, L] to [B, H, H, C]."""

    def __init__(
        self,
        in_features: int,
        shape: tuple[int, ...],
        *,
        widths: tuple[int, ...] = WIDTHS,
        rngs: nnx.Rngs,
    ) -> None:
        self.sizes = tuple(reversed(halvings(image_size(shape), len(widths))))
        self.width = widths[-1]
        self.input = Linear(in_features, self.sizes[0] ** 2 * self.width, rngs=rngs)
        channels = (*reversed(widths), shape[-1])
        pairs = pairwise(channels)
        self.layers = nnx.Dict(
            {
                f"conv{i}": ConvTranspose(m, n, 3, stride=2, rngs=rngs)
                for i, (m, n) in enumerate(pairs)
            }
        )

    def __call__(self, x: Float[Array, "B L"]) -> Float[Array, "B H H C"]:
        x = self.input(x).reshape(-1, self.sizes[0], self.sizes[0], self.width)
        for layer, size in zip(self.layers.values(), self.sizes[1:], strict=True):
            # Doubling overshoots where the encoder halved an odd size (7 -> 4 -> 8).
            x = layer(jax.nn.relu(x))[:, :size, :size]
        return x


def halvings(size: int, times: int) -> list[int]:
    """The size before and after each stride-2 convolution: 28, 14, 7, 4."""
    sizes = [size]
    for _ in range(times):
        sizes.append((sizes[-1] + 1) // 2)
    return sizes
