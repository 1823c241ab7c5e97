"""How tight are the bounds? Linear decoders, where the true likelihood is known (Hirt et al. 2024).

python experiments/linear_gaussian.py [--steps 2000 --seeds 3 ...]

For every row: the exact log-likelihood of the learned decoders, against that of the maximum-
likelihood solution; the gap between it and the bound; and KL(q(z|x_S) || p(z|x_S)) for everything
observed and for single views. All in nats an example, on the training data. Seeds train side by
side in one program.
"""

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from rich.console import Console
from rich.table import Table

from holderjax import models
from holderjax.data.linear_gaussian import LinearGaussian, maximum_likelihood, random_model
from holderjax.networks import MlpEncoder

# Name in the table -> row and its options. One importance sample: the bounds are compared as such.
ROWS = {
    "masked-sum": ("masked-sum", {}),
    "masked-attention": ("masked-attention", {}),
    "masked PoE": ("mvae", {"bound": "masked"}),
    "masked MoE": ("mmvae", {"bound": "masked", "importance_samples": 1}),
    "PoE (joint)": ("mvae", {"bound": "joint"}),
    "mmvae": ("mmvae", {"importance_samples": 1}),
    "mopoe": ("mopoe", {}),
    "holder": ("holder", {"kl": "mixture"}),
}


class LinearDecoder(nnx.Module):
    """x = W z + b."""

    def __init__(self, in_features: int, shape: tuple[int, ...], *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(in_features, shape[0], rngs=rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        return self.linear(z)


@dataclass(frozen=True)
class Config:
    """Sizes follow the protocol; steps are sized for two CPU cores."""

    out: Path = Path("runs/linear_gaussian.json")
    steps: int = 2000
    batch_size: int = 250
    seeds: int = 3
    size: int = 5000
    views: int = 5
    latent_dim: int = 5
    learning_rate: float = 1e-3


def train(model: models.Model, views: dict, config: Config) -> dict:
    """Parameters of all seeds, [seeds, ...]."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))

    def one(key: jax.Array) -> dict:
        key_init, key_steps = jax.random.split(key)
        params = model.init(key_init)

        def step(carry: tuple, key: jax.Array) -> tuple:
            params, state = carry
            key_batch, key_loss = jax.random.split(key)
            index = jax.random.randint(key_batch, (config.batch_size,), 0, config.size)
            batch = {name: x[index] for name, x in views.items()}
            gradient = jax.grad(lambda p: model.loss(p, batch, key_loss)[0])(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(key_steps, config.steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), config.seeds))


def score(model: models.Model, params: dict, views: dict, best: float) -> dict[str, float]:
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
        "likelihood below the maximum": best - exact,
        "gap of the bound": exact - bound,
        "KL given all": kl(tuple(views)),
        "KL given one": float(np.mean([kl((name,)) for name in views])),
    }


def main(config: Config) -> None:
    """Train and score every row, print the table, write it as JSON."""
    source = random_model(np.random.default_rng(0), config.views, config.latent_dim)
    views = jax.tree.map(jnp.asarray, source.draw(config.size, np.random.default_rng(1)))
    best = maximum_likelihood(views, config.latent_dim).log_likelihood(views).mean()
    encoder = partial(MlpEncoder, hidden=(256, 256))
    modalities = {
        name: models.Modality((x.shape[1],), encoder, LinearDecoder, models.Gaussian(1.0))
        for name, x in views.items()
    }
    table = Table("row", title=f"{config.seeds} seeds, {config.steps} steps; mean ± standard error")
    results = {}
    for name, (system, options) in ROWS.items():
        start = time.perf_counter()
        model = models.build(system, modalities, latent_dim=config.latent_dim, **options)
        params = train(model, views, config)
        each = [
            score(model, jax.tree.map(lambda x, i=i: x[i], params), views, best)
            for i in range(config.seeds)
        ]
        results[name] = {column: [row[column] for row in each] for column in each[0]}
        if not table.rows:
            for column in each[0]:
                table.add_column(column, justify="right")
        cells = [
            f"{np.mean(x):.3f} ± {np.std(x) / max(1, len(x) - 1) ** 0.5:.3f}"
            for x in results[name].values()
        ]
        table.add_row(name, *cells)
        print(f"{name}: {', '.join(cells)} ({time.perf_counter() - start:.0f} s)", flush=True)
    Console().print(table)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    device = jax.devices()[0].device_kind
    facts = {"device": device, "jax": jax.__version__, "config": {**vars(config), "out": ""}}
    config.out.write_text(json.dumps({**facts, "maximum": best, "rows": results}, indent=2) + "\n")
    print(config.out)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
