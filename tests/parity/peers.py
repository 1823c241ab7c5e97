"""The same linear model in MultiVae: networks, weights and noise of a model of `holderjax`."""

from __future__ import annotations

from collections import deque
from math import prod

import jax
import jax.numpy as jnp
import multivae.models as peers
import numpy as np
import torch
from multivae.data.datasets.base import IncompleteDataset, MultimodalBaseDataset
from multivae.models.nn.base_architectures import BaseMultilatentEncoder
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn.base_architectures import BaseDecoder

from holderjax.models.objective import split_key
from holderjax.networks import HEADS

FEATURES = 3  # of linear_models.LinearEncoder


class Encoder(BaseMultilatentEncoder):
    """Two linear layers to the parameters of z; two more to those of w, where there is one."""

    def __init__(self, shape, latent_dim, private_dim):
        super().__init__()
        self.latent_dim, self.style_dim = latent_dim, private_dim
        self.encoder = torch.nn.Linear(prod(shape), FEATURES)
        self.head = torch.nn.Linear(FEATURES, 2 * latent_dim)
        if private_dim:
            self.private_encoder = torch.nn.Linear(prod(shape), FEATURES)
            self.private_head = torch.nn.Linear(FEATURES, 2 * private_dim)

    def forward(self, x):
        x = x.reshape(len(x), -1)
        # Copies: MultiVae's MVAE overwrites the log-variances of absent modalities.
        mean, log_var = self.head(self.encoder(x)).chunk(2, dim=-1)
        output = ModelOutput(embedding=mean.clone(), log_covariance=log_var.clone())
        if self.style_dim:
            mean, log_var = self.private_head(self.private_encoder(x)).chunk(2, dim=-1)
            output["style_embedding"], output["style_log_covariance"] = mean, log_var
        return output


class Decoder(BaseDecoder):
    """One linear layer from the latents."""

    def __init__(self, in_features, shape):
        super().__init__()
        self.shape = shape
        self.decoder = torch.nn.Linear(in_features, prod(shape))

    def forward(self, z):
        return ModelOutput(reconstruction=self.decoder(z).reshape(len(z), *self.shape))


def peer_of(model, params, name, **options):
    """MultiVae's model `name` with the networks, likelihoods and weights of ours.

    Args:
      model: ours, with linear networks.
      params: of ours; they are copied.
      name: of the class in multivae.models.
      **options: of its config.
    """
    modalities, private = model.modalities, model.private_dim
    config = getattr(peers, f"{name}Config")(
        n_modalities=len(modalities),
        latent_dim=model.latent_dim,
        input_dims={n: m.shape for n, m in modalities.items()},
        uses_likelihood_rescaling=True,
        rescale_factors={n: m.weight for n, m in modalities.items()},
        decoders_dist=dict.fromkeys(modalities, "normal"),
        decoder_dist_params={n: {"scale": m.likelihood.scale} for n, m in modalities.items()},
        **options,
    )
    peer = getattr(peers, name)(
        config,
        {n: Encoder(m.shape, model.latent_dim, private) for n, m in modalities.items()},
        {n: Decoder(model.latent_dim + private, m.shape) for n, m in modalities.items()},
    )
    with torch.no_grad():
        for tensor, leaf in pairs(peer, params):
            tensor.copy_(leaf)
    return peer


def pairs(peer, tree, log_var_factor=2.0):
    """The peer's parameters, each with its counterpart in a tree of ours, in MultiVae's layout.

    Args:
      peer: from `peer_of`.
      tree: our parameters, or with ``log_var_factor=0.5`` their gradients: MultiVae has the
        log-variance of r_n where we have log tau_n, half of it.
      log_var_factor: multiplies the leaves of log tau_n.
    """
    found = []
    auxiliary = getattr(peer, "logvars_priors", None) or getattr(peer, "r_logvars_priors", None)
    for name, net in tree["modalities"].items():
        for part in net:
            if part == "log_auxiliary_scale":
                # DMVAE has no auxiliary priors: every modality is decoded from its own w.
                if auxiliary is not None:
                    found.append((auxiliary[name], to_torch(log_var_factor * net[part][None])))
                continue
            layer = getattr(peer.decoders[name] if part == "decoder" else peer.encoders[name], part)
            found.append((layer.weight, to_torch(net[part]["linear"]["kernel"].T)))
            found.append((layer.bias, to_torch(net[part]["linear"]["bias"])))
    if "prior" in tree:
        prior = tree["prior"]
        found.append((peer._pc_params, to_torch(prior["logits"])))
        for key, clusters in (("mean", peer.mean_clusters), ("log_var", peer.logvar_clusters)):
            found += [(c, to_torch(prior[key][i][None])) for i, c in enumerate(clusters)]
    return found


def to_torch(x):
    """A copy as a tensor."""
    return torch.from_numpy(np.array(x))


def dataset(batch):
    """The batch as MultiVae takes it, with its mask if there is one."""
    names = [name for name in batch if name != "mask"]
    data = {name: to_torch(batch[name]) for name in names}
    if "mask" not in batch:
        return MultimodalBaseDataset(data)
    masks = {name: to_torch(batch["mask"][:, i]) for i, name in enumerate(names)}
    return IncompleteDataset(data, masks)


def noise_of(model, key, size, components, views=1):
    """The noise that our objective draws, by what it is for.

    Args:
      model: ours.
      key: as given to `Model.loss`.
      size: of the batch.
      components: K of the posterior.
      views: V of the bound.

    Returns:
      Of z, [S, K, V, B, D], and of each modality's w, [S, K, V, B, P], by name.
    """
    keys = jax.vmap(split_key, out_axes=1)(jax.random.split(key, size))[2]
    dim, private = model.latent_dim, model.private_dim
    shape = (model.system.importance_samples, components, views)
    shape = (*shape, dim + private * len(model.modalities))
    draw = HEADS[model.system.family].distribution(jnp.zeros(1), jnp.zeros(1)).draw_noise
    noise = jax.vmap(lambda key: draw(key, shape), out_axes=3)(keys)
    parts = jnp.split(noise[..., dim:], len(model.modalities), axis=-1)
    z = to_torch(noise[..., :dim])
    return z, {name: to_torch(w) for name, w in zip(model.modalities, parts, strict=True)}


def feed(monkeypatch, noise):
    """Let MultiVae's densities draw this noise, in this order; returns what it has not drawn."""
    queue = deque(noise)

    def rsample(self, sample_shape=()):
        drawn = queue.popleft()
        expected = tuple(self._extended_shape(torch.Size(sample_shape)))
        assert drawn.shape == expected, f"MultiVae asks for {expected}, next is {drawn.shape}"
        return self.loc + self.scale * drawn

    monkeypatch.setattr(torch.distributions.Normal, "rsample", rsample)
    monkeypatch.setattr(torch.distributions.Laplace, "rsample", rsample)
    return queue
