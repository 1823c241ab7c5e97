"""How tight are the bounds? Linear decoders, where the true likelihood is known (Hirt et al. 2024).

python experiments/linear_gaussian.py [--steps 2000 --seeds 3 ...] [--smoke]

For every row: the exact log-likelihood of the learned decoders, against that of the maximum-
likelihood solution; the gap between it and the bound; and KL(q(z|x_S) || p(z|x_S)) for everything
observed and for single views. All in nats an example, on the training data.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from population import Training, compare

from holderjax import models
from holderjax.cli import guarded
from holderjax.data.linear_gaussian import LinearGaussian, maximum_likelihood, random_model
from holderjax.networks import MlpEncoder

# Name in the table -> row and its options. One importance sample, and the tighter estimator of the
# KL: the bounds are compared as such.
ROWS = {
    "masked-sum": ("masked-sum", {}),
    "masked-attention": ("masked-attention", {}),
    "masked PoE": ("mvae", {"bound": "masked"}),
    "masked MoE": ("mmvae", {"bound": "masked", "importance_samples": 1}),
    "PoE (joint)": ("mvae", {"bound": "joint"}),
    "mmvae": ("mmvae", {"importance_samples": 1}),
    "mopoe": ("mopoe", {"kl": "mixture"}),
    "holder": ("holder", {"kl": "mixture"}),
}


class LinearDecoder(nnx.Module):
    """x = W z + b."""

    def __init__(self, in_features: int, shape: tuple[int, ...], *, rngs: nnx.Rngs) -> None:
        # The default scale is three times that of the loadings to be learned.
        init = nnx.initializers.normal(0.1)
        self.linear = nnx.Linear(in_features, shape[0], kernel_init=init, rngs=rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        return self.linear(z)


@dataclass(frozen=True)
class Config(Training):
    """Sizes follow the protocol; steps are sized for two CPU cores."""

    out: Path = Path("runs/linear_gaussian.json")
    size: int = 5000
    views: int = 5
    latent_dim: int = 5


def score(views: dict, best: float, model: models.Model, params: dict) -> dict[str, float]:
    """The scores of one seed's parameters."""
    nets = jax.device_get(params["modalities"])
    layers = {name: nets[name]["decoder"]["linear"] for name in views}
    truth = LinearGaussian(
        {name: layer["kernel"].T.astype(float) for name, layer in layers.items()},
        {name: layer["bias"].astype(float) for name, layer in layers.items()},
    )
    exact = truth.log_likelihood(views).mean()
    loss = jax.jit(lambda key: model.loss(params, views, key)[0])
    bound = -np.mean([loss(key) for key in jax.random.split(jax.random.key(1), 20)])

    @jax.jit
    def divergence(key: jax.Array, mask: jax.Array, mean: jax.Array, root: jax.Array) -> jax.Array:
        q = model.encode(params, views, mask)
        z = q.sample(key, (16,))
        # log p(z | x_S) of a full covariance, through the inverse of its Cholesky factor.
        white = (z - mean) @ root.T
        log_p = -0.5 * jnp.sum(white**2 + jnp.log(2 * jnp.pi), axis=-1)
        return jnp.mean(q.log_prob(z) - log_p - jnp.linalg.slogdet(root)[1])

    def kl(names: tuple[str, ...]) -> float:
        mean, covariance = truth.posterior({name: views[name] for name in names})
        root = np.linalg.inv(np.linalg.cholesky(covariance))
        mask = jnp.array([name in names for name in views])
        return float(divergence(jax.random.key(2), mask, mean, root))

    return {
        "likelihood below the maximum": float(best - exact),
        "gap of the bound": float(exact - bound),
        "KL given all": kl(tuple(views)),
        "KL given one": float(np.mean([kl((name,)) for name in views])),
    }


def main(config: Config) -> None:
    """Train and score every row."""
    source = random_model(np.random.default_rng(0), config.views, config.latent_dim)
    drawn = source.draw(config.size, np.random.default_rng(1))
    # Centred, or Adam would spend its steps on the biases.
    views = {name: jnp.asarray(x - x.mean(axis=0)) for name, x in drawn.items()}
    best = maximum_likelihood(views, config.latent_dim).log_likelihood(views).mean()
    encoder = partial(MlpEncoder, hidden=(256, 256))
    modalities = {
        name: models.Modality((x.shape[1],), encoder, LinearDecoder, models.Gaussian(1.0))
        for name, x in views.items()
    }
    rows = {
        name: models.build(system, modalities, latent_dim=config.latent_dim, **options)
        for name, (system, options) in ROWS.items()
    }
    compare(rows, views, config, partial(score, views, best), {"maximum": float(best)})


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    sys.exit(guarded(lambda: main(config)))
