"""Examples of an evaluation: some of a split, and what came of its batches."""

from __future__ import annotations

from collections.abc import Sequence
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


def join(parts: Sequence[Array], counts: Sequence[int]) -> np.ndarray:
    """Concatenate along the last axis, the examples', without the padding."""
    pairs = zip(parts, counts, strict=True)
    return np.concatenate([np.asarray(part)[..., :count] for part, count in pairs], axis=-1)
