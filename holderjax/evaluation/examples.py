"""Examples for an evaluation: some of a split, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from holderjax import data

if TYPE_CHECKING:
    from jaxtyping import Array


def first_examples(split: data.Split, count: int | None) -> data.Split:
    """The first examples of a split, all of them if ``count`` is None."""
    if count is None:
        return split
    if not 1 <= count <= len(split):
        raise ValueError(f"examples: expected 1 to {len(split)}, got {count}")
    labels = None if split.labels is None else split.labels[:count]
    return data.Split({name: x[:count] for name, x in split.arrays.items()}, labels)


def batches(
    arrays: Mapping[str, np.ndarray], names: Sequence[str], batch_size: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Batches of one size in order, and how many examples of each count: the rest is padding."""
    total = len(arrays[names[0]])
    # Equal parts: 297 examples at 256 a batch would otherwise be padded by 215.
    size = -(-total // -(-total // batch_size))
    for first in range(0, total, size):
        index = np.arange(first, first + size)
        yield (
            min(size, total - first),
            {name: arrays[name][np.minimum(index, total - 1)] for name in names},
        )


def join(parts: Sequence[Array], counts: Sequence[int]) -> np.ndarray:
    """Concatenate along the last axis, the examples', without the padding."""
    pairs = zip(parts, counts, strict=True)
    return np.concatenate([np.asarray(part)[..., :count] for part, count in pairs], axis=-1)
