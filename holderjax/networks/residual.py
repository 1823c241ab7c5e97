"""MMVAE+'s residual pair: 3x3 blocks at base width 64 between average pooling (28 -> 14 -> 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from holderjax.networks.conv import image_size
from holderjax.networks.layers import Conv, DoublingConv, Linear

if TYPE_CHECKING:
    from jaxtyping import Array, Float

SMALLEST = 8  # images are halved until they are at most this wide
SLOPE = 0.2  # of the activation below zero


class ResidualBlock(nnx.Module):
    """x + 0.1 f(x), with a 1x1 convolution as the shortcut where the width changes.

    With ``doubles``, of images twice as large, by nearest neighbours. The shortcut does not see the
    difference and comes before; the other convolution need not pay for it (`DoublingConv`).
    """

    def __init__(
        self, width_in: int, width_out: int, *, doubles: bool = False, rngs: nnx.Rngs
    ) -> None:
        hidden = min(width_in, width_out)
        self.doubles = doubles
        first = DoublingConv if doubles else Conv
        self.first = first(width_in, hidden, 3, rngs=rngs)
        self.second = Conv(hidden, width_out, 3, rngs=rngs)
        self.shortcut = (
            Conv(width_in, width_out, 1, use_bias=False, rngs=rngs)
            if width_in != width_out
            else None
        )

    def __call__(self, x: Float[Array, "B H H C"]) -> Float[Array, "B h h D"]:
        residual = self.second(self.first(x, slope=SLOPE), slope=SLOPE, scale=0.1)
        if self.shortcut is not None:
            x = self.shortcut(x)
        if self.doubles:
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return x + residual


class ResidualEncoder(nnx.Module):
    """[B, H, H, C] to [B, features]; the width doubles with every halving of the image."""

    def __init__(
        self, shape: tuple[int, ...], *, width: int = 64, max_width: int = 1024, rngs: nnx.Rngs
    ) -> None:
        size, widths = _levels(image_size(shape), width, max_width)
        self.features = size**2 * widths[-1]
        self.input = Conv(shape[-1], width, 3, rngs=rngs)
        pairs = zip((width, *widths[:-1]), widths, strict=True)
        self.blocks = nnx.Dict(
            {f"block{i}": ResidualBlock(m, n, rngs=rngs) for i, (m, n) in enumerate(pairs)}
        )

    def __call__(self, x: Float[Array, "B H H C"]) -> Float[Array, "B F"]:
        x = self.input(x)
        for i, block in enumerate(self.blocks.values()):
            x = block(x if i == 0 else _halve(x))
        return jax.nn.leaky_relu(x.reshape(x.shape[0], -1), SLOPE)


class ResidualDecoder(nnx.Module):
    """[B, in_features] to [B, H, H, C]; nearest-neighbour upsampling between the blocks."""

    def __init__(
        self,
        in_features: int,
        shape: tuple[int, ...],
        *,
        width: int = 64,
        max_width: int = 1024,
        rngs: nnx.Rngs,
    ) -> None:
        self.size, widths = _levels(image_size(shape), width, max_width)
        if self.size * 2 ** (len(widths) - 1) != shape[0]:
            raise ValueError(
                f"shape: the residual decoder doubles {self.size} pixels {len(widths) - 1} times; "
                f"it cannot reach {shape[0]}"
            )
        self.width = widths[-1]
        self.input = Linear(in_features, self.size**2 * self.width, rngs=rngs)
        pairs = zip(reversed(widths), (*reversed(widths[:-1]), width), strict=True)
        self.blocks = nnx.Dict(
            {
                f"block{i}": ResidualBlock(m, n, doubles=i > 0, rngs=rngs)
                for i, (m, n) in enumerate(pairs)
            }
        )
        self.output = Conv(width, shape[-1], 3, rngs=rngs)

    def __call__(self, x: Float[Array, "B L"]) -> Float[Array, "B H H C"]:
        x = self.input(x).reshape(-1, self.size, self.size, self.width)
        for block in self.blocks.values():
            x = block(x)
        return self.output(x, slope=SLOPE)


def _halve(x: Float[Array, "B H H C"]) -> Float[Array, "B h h C"]:
    """Means of 3x3 pixels, two apart, with zeros around the image.

    Along one axis after the other: on a CPU the gradient takes a sixth of the time of both at once.
    """
    x = nnx.avg_pool(x, (3, 1), strides=(2, 1), padding=((1, 1), (0, 0)))
    return nnx.avg_pool(x, (1, 3), strides=(1, 2), padding=((0, 0), (1, 1)))


def _levels(size: int, width: int, max_width: int) -> tuple[int, tuple[int, ...]]:
    """The smallest image and the width of every block: 28, 64 gives 7 and (64, 128, 256)."""
    widths = [width]
    while size > SMALLEST:
        size = (size + 1) // 2
        widths.append(min(2 * widths[-1], max_width))
    return size, tuple(widths)
