"""Samples of a model: of the latents given observed subsets, and from the prior."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from holderjax import data

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, PRNGKeyArray

    from holderjax.models import Model

BATCH_SIZE = 256


def fold_in(key: PRNGKeyArray, *numbers: int) -> PRNGKeyArray:
    """One key per tuple of numbers."""
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


def latents_given_subsets(
    model: Model,
    params: Any,
    arrays: Mapping[str, np.ndarray],
    subsets: Bool[np.ndarray, "O M"],
    key: PRNGKeyArray,
) -> Iterator[tuple[int, Any]]:
    """One draw of the latents for every example and observed subset.

    What is drawn given one subset does not depend on which others are asked for.

    Args:
      model: whose latents to draw.
      params: its parameters.
      arrays: examples by modality, [N, *shape].
      subsets: the observed modalities as masks.
      key: PRNG key.

    Yields:
      How many of a batch's examples count, and its latents, leading axes [O, 1, B].
    """
    # Which modalities are observed, as one number: the key of a subset's samples.
    numbers = [sum(seen << i for i, seen in enumerate(mask)) for mask in subsets.tolist()]

    @jax.jit
    def draw(params: Any, keys: PRNGKeyArray, batch: Any) -> Any:
        batch = data.to_float(batch)
        encodings = model.encodings(params, batch)
        return jax.lax.map(
            lambda args: model.latents(params, encodings, *args), (keys, jnp.asarray(subsets))
        )

    for b, (count, batch) in enumerate(data.batches(arrays, tuple(model.modalities), BATCH_SIZE)):
        yield count, draw(params, jnp.stack([fold_in(key, n, b) for n in numbers]), batch)


def prior_samples(
    model: Model, params: Any, key: PRNGKeyArray, count: int, batch_size: int = BATCH_SIZE
) -> Iterator[tuple[int, dict[str, Float[Array, "B *shape"]]]]:
    """Samples of every modality from the prior, in batches of one size.

    Args:
      model: whose prior to sample.
      params: its parameters.
      key: PRNG key.
      count: how many samples.
      batch_size: the most that are on the device at once.

    Yields:
      How many of a batch's samples count, and the samples.
    """
    size = min(batch_size, count)
    draw = jax.jit(lambda params, key: model.sample(params, key, size))
    for first in range(0, count, size):
        yield min(size, count - first), draw(params, jax.random.fold_in(key, first))
