"""Encoders, decoders and permutation-invariant networks as Flax NNX modules, and heads.

An encoder is built as ``Encoder(shape, rngs=rngs)``, maps [B, *shape] to [B, features] and tells
``features``. A decoder is built as ``Decoder(in_features, shape, rngs=rngs)`` and maps
[B, in_features] to [B, *shape]. Bring your own by writing two such classes.
"""

from holderjax.networks.conv import ConvDecoder, ConvEncoder
from holderjax.networks.heads import HEADS, ConditionalHead, GaussianHead, LaplaceHead
from holderjax.networks.invariant import SelfAttention, SumPooling
from holderjax.networks.mlp import MlpDecoder, MlpEncoder
from holderjax.networks.residual import ResidualDecoder, ResidualEncoder
from holderjax.networks.text import TextDecoder, TextEncoder

NETWORKS = {
    "mlp": (MlpEncoder, MlpDecoder),
    "conv": (ConvEncoder, ConvDecoder),
    "resnet": (ResidualEncoder, ResidualDecoder),
}

__all__ = [
    "HEADS",
    "NETWORKS",
    "ConditionalHead",
    "ConvDecoder",
    "ConvEncoder",
    "GaussianHead",
    "LaplaceHead",
    "MlpDecoder",
    "MlpEncoder",
    "ResidualDecoder",
    "ResidualEncoder",
    "SelfAttention",
    "SumPooling",
    "TextDecoder",
    "TextEncoder",
]
