"""Examples of an evaluation: some of a split, and what came of its batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from holderjax import data
from holderjax.evaluation.progress import track


def first_examples(split: data.Split, count: int | None) -> data.Split:
    """The first examples of a split, all of them if ``count`` is None."""
    if count is None:
        return split
    if not 1 <= count <= len(split):
        raise ValueError(f"examples: expected 1 to {len(split)}, got {count}")
    labels = None if split.labels is None else split.labels[:count]
    return data.Split({name: x[:count] for name, x in split.arrays.items()}, labels)


def over_batches(
    program: Callable[[int, dict[str, np.ndarray]], Any],
    arrays: Mapping[str, np.ndarray],
    names: Sequence[str],
    batch_size: int,
    description: str,
) -> Any:
    """What a program makes of all examples, batch after batch.

    Args:
      program: from a batch's number and the batch, [B, *shape] by modality, to a pytree of arrays
        whose last axis is the examples', [..., B].
      arrays: examples by modality, [N, *shape].
      names: of the modalities to take.
      batch_size: the most examples that are on the device at once.
      description: of the progress bar.

    Returns:
      The program's pytree of NumPy arrays, [..., N].
    """
    batches = list(data.batches(arrays, names, batch_size))
    counts = [count for count, _ in batches]
    parts = [
        jax.device_get(program(b, batch))
        for b, (_, batch) in enumerate(track(batches, description))
    ]

    def join(*each: np.ndarray) -> np.ndarray:
        pairs = zip(each, counts, strict=True)
        return np.concatenate([part[..., :count] for part, count in pairs], axis=-1)

    return jax.tree.map(join, *parts)
