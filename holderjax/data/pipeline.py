"""From arrays in memory to batches: scaling, and which example goes where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Int, PyTree, Shaped


def to_float(x: PyTree) -> PyTree:
    """An array, or a batch of them by modality, as a model takes it.

    Args:
        x: arrays of any shapes.

    Returns:
        Of the same shapes; bytes 0..255 become float32 in [0, 1], floats, ids and masks stay.
    """

    def convert(array: ArrayLike) -> Shaped[jax.Array, "..."]:
        array = jnp.asarray(array)
        return array.astype(jnp.float32) / 255 if array.dtype == jnp.uint8 else array

    return jax.tree.map(convert, x)


def batches(
    arrays: Mapping[str, np.ndarray], names: Sequence[str], batch_size: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """All examples in order, in batches of one size, so that one compiled program serves them.

    Args:
        arrays: by modality, ``[N, *shape]``.
        names: of those to take.
        batch_size: the largest batch.

    Yields:
        How many of a batch's examples count, and the batch, ``[B, *shape]``; the rest of the last
        one is padding, its last example again.
    """
    total = len(arrays[names[0]])
    # Equal parts: 297 examples at 256 a batch would otherwise be padded by 215.
    size = -(-total // -(-total // batch_size))
    for first in range(0, total, size):
        index = np.arange(first, first + size)
        yield (
            min(size, total - first),
            {name: arrays[name][np.minimum(index, total - 1)] for name in names},
        )


def epoch_indices(
    seed: int, num_examples: int, batch_size: int, first_step: int, num_steps: int
) -> Int[np.ndarray, "num_steps batch_size"]:
    """Which examples make up the batches of ``num_steps`` steps from ``first_step`` on.

    The stream of examples is one permutation of all of them after another, epoch e's drawn from
    (seed, e) alone. Position ``p = step * batch_size + i`` reads entry ``p mod N`` of permutation
    ``p // N``; a batch may straddle two epochs. An epoch repeats and drops no example, and any
    step's batch follows from its number: a resumed run sees what an uninterrupted one does.

    Args:
        seed: non-negative; another seed, another stream.
        num_examples: N.
        batch_size: examples in a step.
        first_step: number of the first step, from 0.
        num_steps: how many steps.

    Returns:
        Indices in ``0 .. N - 1``, int32.

    Raises:
        ValueError: for sizes below 1, or a negative seed or step.
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("num_examples", num_examples, 1),
        ("batch_size", batch_size, 1),
        ("first_step", first_step, 0),
        ("num_steps", num_steps, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    start, stop = first_step * batch_size, (first_step + num_steps) * batch_size
    epochs = range(start // num_examples, -(-stop // num_examples))
    stream = [_permutation(seed, epoch, num_examples) for epoch in epochs]
    skipped = epochs.start * num_examples
    flat = np.concatenate(stream)[start - skipped : stop - skipped] if stream else np.empty(0)
    return flat.astype(np.int32).reshape(num_steps, batch_size)


# A dispatch covers part of an epoch or a few of them: the next one starts in the last of these.
@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_examples: int) -> Int[np.ndarray, " N"]:
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    return np.random.Generator(bits).permutation(num_examples).astype(np.int32)
