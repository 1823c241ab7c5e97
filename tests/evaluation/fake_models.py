"""A tiny world whose classes can be read off the pixels, and models of it that are no networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from holderjax import data
from holderjax.models import Modality

NUM_CLASSES = 5
SHAPE = (4, 4, 3)
NAMES = ("m0", "m1", "m2")


def image_of(classes: Any) -> Any:
    """Flat images whose brightness says their class, [..., 4, 4, 3]."""
    brightness = (jnp.asarray(classes) + 0.5) / NUM_CLASSES
    return jnp.broadcast_to(brightness[..., None, None, None], (*brightness.shape, *SHAPE))


@jax.tree_util.Partial
def read_class(images: Any) -> Any:
    """Logits of the class that the brightness says: a classifier that makes no mistakes."""
    brightness = images.mean(axis=(-3, -2, -1))
    return -jnp.abs(brightness[..., None] * NUM_CLASSES - 0.5 - jnp.arange(NUM_CLASSES))


JUDGES = dict.fromkeys(NAMES, read_class)


@dataclass(frozen=True)
class FakeModel:
    """A model whose generation is any function of (key, batch, mask) or, from the prior, of key."""

    from_batch: Callable[[Any, Mapping[str, Any], Any], Mapping[str, Any]]
    from_prior: Callable[[Any], Mapping[str, Any]]
    names: tuple[str, ...] = NAMES

    @property
    def modalities(self) -> dict[str, Any]:
        return {name: Modality(SHAPE) for name in self.names}

    def generate(self, params, key, batch, observed, num_samples=1):
        mask = jnp.broadcast_to(observed, (len(self.names),))
        keys = jax.random.split(key, num_samples)
        return jax.vmap(lambda key: self.from_batch(key, batch, mask))(keys)

    def encodings(self, params, batch):
        return batch

    def latents(self, params, encodings, key, mask, num_samples=1):
        return self.generate(params, key, encodings, mask, num_samples), {}

    def decode(self, params, name, z, w):
        return z[name]

    def sample(self, params, key, num_samples):
        return jax.vmap(self.from_prior)(jax.random.split(key, num_samples))


def random_classes(key, *shape):
    """An independent random class for each modality."""
    keys = jax.random.split(key, len(NAMES))
    return {
        name: image_of(jax.random.randint(k, shape, 0, NUM_CLASSES))
        for name, k in zip(NAMES, keys, strict=True)
    }


# Ignores what it is given.
RANDOM = FakeModel(
    lambda key, batch, mask: random_classes(key, len(batch["m0"])), lambda key: random_classes(key)
)
# Knows the real images of what it was not given.
ORACLE = FakeModel(
    lambda key, batch, mask: dict(batch),
    lambda key: dict.fromkeys(NAMES, image_of(jax.random.randint(key, (), 0, NUM_CLASSES))),
)
# Shows class 2 in every picture.
CONSTANT = FakeModel(
    lambda key, batch, mask: dict.fromkeys(NAMES, image_of(jnp.full(len(batch["m0"]), 2))),
    lambda key: dict.fromkeys(NAMES, image_of(2)),
)


def mean_of_observed(key, batch, mask):
    """Every modality is the mean of the observed images: depends on each of them, on no key."""
    stack = jnp.stack([batch[name] for name in NAMES])
    mean = jnp.einsum("m,m...->...", mask.astype(jnp.float32), stack) / mask.sum()
    return dict.fromkeys(NAMES, mean)


def noisy_split(size: int, seed: int = 0) -> data.Split:
    """Images whose brightness often says another class than their label's, so judges do err."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(NUM_CLASSES, size=size).astype(np.int32)
    arrays = {}
    for name in NAMES:
        shown = np.where(rng.random(size) < 0.3, rng.integers(NUM_CLASSES, size=size), labels)
        arrays[name] = np.asarray(np.round(255 * image_of(shown))).astype(np.uint8)
    return data.Split(arrays, labels)
