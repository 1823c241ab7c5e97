"""MultiVae's MMVAE+ on PolyMNIST, with the networks of `holderjax.networks` in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import multivae.models as peers
import numpy as np
import torch
from multivae.models.nn.base_architectures import BaseMultilatentEncoder
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn.base_architectures import BaseDecoder
from torch import nn

SHAPE, LATENT = (28, 28, 3), 32
NAMES = tuple(f"m{i}" for i in range(5))
WIDTHS = (64, 128, 256)  # of `ResidualEncoder`, from 28 pixels to 7


def perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU after all but the last."""
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def mlp_encoder() -> nn.Module:
    """`MlpEncoder` and a head."""
    return nn.Sequential(nn.Flatten(), perceptron(int(np.prod(SHAPE)), 400, 400, 2 * LATENT))


def mlp_decoder() -> nn.Module:
    """`MlpDecoder`."""
    shape = (SHAPE[-1], *SHAPE[:-1])
    return nn.Sequential(
        perceptron(2 * LATENT, 256, 256, int(np.prod(SHAPE))), nn.Unflatten(1, shape)
    )


class Block(nn.Module):
    """`ResidualBlock`."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        hidden = min(width_in, width_out)
        self.first = nn.Conv2d(width_in, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, width_out, 3, padding=1)
        changes = width_in != width_out
        self.shortcut = nn.Conv2d(width_in, width_out, 1, bias=False) if changes else nn.Identity()
        self.activate = nn.LeakyReLU(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.second(self.activate(self.first(self.activate(x))))
        return self.shortcut(x) + 0.1 * residual


def residual_encoder() -> nn.Module:
    """`ResidualEncoder` and a head."""
    layers: list[nn.Module] = [nn.Conv2d(SHAPE[-1], WIDTHS[0], 3, padding=1)]
    for i, pair in enumerate(pairwise((WIDTHS[0], *WIDTHS))):
        layers += [nn.AvgPool2d(3, 2, 1)] if i else []
        layers.append(Block(*pair))
    layers += [nn.Flatten(), nn.LeakyReLU(0.2), nn.Linear(7 * 7 * WIDTHS[-1], 2 * LATENT)]
    return nn.Sequential(*layers)


def residual_decoder() -> nn.Module:
    """`ResidualDecoder`."""
    layers: list[nn.Module] = [
        nn.Linear(2 * LATENT, 7 * 7 * WIDTHS[-1]),
        nn.Unflatten(1, (WIDTHS[-1], 7, 7)),
    ]
    for i, pair in enumerate(pairwise((*reversed(WIDTHS), WIDTHS[0]))):
        layers += [nn.Upsample(scale_factor=2)] if i else []
        layers.append(Block(*pair))
    layers += [nn.LeakyReLU(0.2), nn.Conv2d(WIDTHS[0], SHAPE[-1], 3, padding=1)]
    return nn.Sequential(*layers)


NETWORKS = {"mlp": (mlp_encoder, mlp_decoder), "resnet": (residual_encoder, residual_decoder)}


class Encoder(BaseMultilatentEncoder):
    """An encoder and its head, once for z and once for w."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.latent_dim = self.style_dim = LATENT
        self.z, self.w = make(), make()

    def forward(self, x: torch.Tensor) -> ModelOutput:
        (mean, log_var), (style, style_log_var) = (net(x).chunk(2, -1) for net in (self.z, self.w))
        return ModelOutput(
            embedding=mean,
            log_covariance=log_var,
            style_embedding=style,
            style_log_covariance=style_log_var,
        )


class Decoder(BaseDecoder):
    """A decoder of z and w."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.net = make()

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.net(z))


def mmvae_plus(network: str) -> peers.MMVAEPlus:
    """The model of one importance sample, with Gaussian posteriors and Laplace likelihoods.

    Args:
        network: a key of `NETWORKS`.
    """
    encoder, decoder = NETWORKS[network]
    return peers.MMVAEPlus(
        peers.MMVAEPlusConfig(
            n_modalities=len(NAMES),
            latent_dim=LATENT,
            modalities_specific_dim=LATENT,
            input_dims={name: (SHAPE[-1], *SHAPE[:-1]) for name in NAMES},
            decoders_dist=dict.fromkeys(NAMES, "laplace"),
            decoder_dist_params={name: {"scale": 0.75} for name in NAMES},
            prior_and_posterior_dist="normal",
            loss="iwae_looser",
            learn_modality_prior=True,
            learn_shared_prior=False,
            K=1,
        ),
        {name: Encoder(encoder) for name in NAMES},
        {name: Decoder(decoder) for name in NAMES},
    )


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Images in bytes, [N, H, W, C], as MultiVae takes them: floats in [0, 1], [N, C, H, W]."""
    return {
        name: torch.from_numpy(np.moveaxis(x, -1, 1).astype(np.float32) / 255)
        for name, x in arrays.items()
    }
