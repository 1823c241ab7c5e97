"""Are the true latents found? Non-linear views of a mixture (Hirt et al. 2024, section 5.2).

python experiments/identifiable.py [--steps 2000 --seeds 3 ...] [--smoke]

For every aggregator, under the masked and under the mixture (joint) bound, all with a learned
mixture prior: the mean correlation coefficient (MCC) of the true latents with the mean of the
posterior given everything, as it is and after an affine map, and given one view alone; and the
importance-weighted log-likelihood of held-out data, in nats an example.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from population import Training, compare

from holderjax import models
from holderjax.cli import guarded
from holderjax.data.identifiable import random_identifiable
from holderjax.evaluation.identifiability import affine_mean_correlation, mean_correlation
from holderjax.networks import MlpDecoder, MlpEncoder

AGGREGATORS = {
    "PoE": "mvae",
    "MoE": "mmvae",
    "Hölder": "holder",
    "SumPooling": "masked-sum",
    "SelfAttention": "masked-attention",
}
NOISE = 0.2


@dataclass(frozen=True)
class Config(Training):
    """Sizes of the simulation; steps are sized for two CPU cores."""

    out: Path = Path("runs/identifiable.json")
    size: int = 5000
    views: int = 5
    latent_dim: int = 2
    clusters: int = 5
    likelihood_samples: int = 256


def score(
    held_out: dict, true: np.ndarray, samples: int, model: models.Model, params: dict
) -> dict[str, float]:
    """The scores of one seed's parameters."""
    infer = jax.jit(model.infer)
    everything = infer(params, held_out)[0]
    alone = [infer(params, held_out, mask)[0] for mask in np.eye(len(held_out), dtype=bool)]
    likelihood = jax.jit(partial(model.log_likelihood, num_samples=samples))
    return {
        "MCC": mean_correlation(true, everything),
        "affine MCC": affine_mean_correlation(true, everything),
        "affine MCC given one": float(np.mean([affine_mean_correlation(true, z) for z in alone])),
        "log-likelihood": float(likelihood(params, held_out, jax.random.key(0)).mean()),
    }


def main(config: Config) -> None:
    """Train and score every row."""
    source = random_identifiable(
        np.random.default_rng(0),
        config.views,
        config.latent_dim,
        config.clusters,
        noise=NOISE,
    )
    views = jax.tree.map(jnp.asarray, source.draw(config.size, np.random.default_rng(1))[0])
    held_out, true, _ = source.draw(1000, np.random.default_rng(2))
    encoder, decoder = partial(MlpEncoder, hidden=(128, 128)), partial(MlpDecoder, hidden=(64,))
    modalities = {
        name: models.Modality((x.shape[1],), encoder, decoder, models.Gaussian(NOISE))
        for name, x in views.items()
    }
    rows = {
        f"{name}, {bound}": models.build(
            system,
            modalities,
            latent_dim=config.latent_dim,
            prior="mixture",
            clusters=config.clusters,
            bound=bound,
            kl="mixture",
            importance_samples=1,
        )
        for name, system in AGGREGATORS.items()
        for bound in ("masked", "joint")
    }
    scores = partial(score, held_out, true, config.likelihood_samples)
    compare(rows, views, config, scores, {})


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    sys.exit(guarded(lambda: main(config)))
