"""Tiny linear networks of a user's own, and parameters to test with."""

from __future__ import annotations

from functools import partial
from math import prod, sqrt

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from holderjax import models
from holderjax.models import Gaussian, Modality

# These programs run for milliseconds and compile for seconds: let XLA try less.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class LinearEncoder(nnx.Module):
    """[B, *shape] to three features."""

    def __init__(self, shape, *, rngs):
        self.features = 3
        self.linear = nnx.Linear(prod(shape), self.features, rngs=rngs)

    def __call__(self, x):
        return self.linear(x.reshape(x.shape[0], -1))


class LinearDecoder(nnx.Module):
    """[B, in_features] to [B, *shape]."""

    def __init__(self, in_features, shape, *, rngs):
        self.shape = shape
        self.linear = nnx.Linear(in_features, prod(shape), rngs=rngs)

    def __call__(self, latents):
        return self.linear(latents).reshape(-1, *self.shape)


def linear_modality(shape, scale=1.0, weight=1.0):
    return Modality(shape, LinearEncoder, LinearDecoder, Gaussian(scale), weight)


# Shapes, likelihood scales and weights all differ, so that no mix-up of modalities goes unseen.
MODALITIES = {
    "a": linear_modality((2,), scale=0.9),
    "b": linear_modality((1,), scale=0.7, weight=2.0),
    "c": linear_modality((2, 2), scale=1.3, weight=0.5),
}


def linear_model(system, modalities=MODALITIES, latent_dim=2, private_dim=2, **options):
    return models.build(
        system, modalities, latent_dim=latent_dim, private_dim=private_dim, **options
    )


def random_params(model, seed=0, scale=0.8):
    """Every leaf random, biases and log tau too, of a size that keeps outputs near ``scale``."""
    leaves, tree = jax.tree.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    rng = np.random.default_rng(seed)
    drawn = [
        jnp.asarray(
            rng.normal(size=leaf.shape) * scale / sqrt(leaf.shape[0] if leaf.ndim > 1 else 1),
            jnp.float32,
        )
        for leaf in leaves
    ]
    return jax.tree.unflatten(tree, drawn)


def random_batch(model, size, seed=1):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.normal(size=(size, *modality.shape)), jnp.float32)
        for name, modality in model.modalities.items()
    }


def with_leaves(tree, changes):
    """The tree with constants in the leaves whose path, "a/head/linear/bias", ends as given."""

    def change(path, leaf):
        name = "/".join(entry.key for entry in path)
        found = [value for ending, value in changes.items() if f"/{name}".endswith(f"/{ending}")]
        return jnp.broadcast_to(jnp.asarray(found[-1], leaf.dtype), leaf.shape) if found else leaf

    return jax.tree_util.tree_map_with_path(change, tree)


def in_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
