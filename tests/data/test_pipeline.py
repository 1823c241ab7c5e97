"""The stream of batches is one permutation after another, whichever way it is cut."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holderjax.data import epoch_indices, to_float

sizes = st.integers(1, 12)


@given(st.integers(0, 2**40), sizes, sizes)
def test_every_epoch_holds_every_example_once(seed, num_examples, batch_size):
    # As many steps as there are examples: a whole number of epochs.
    stream = epoch_indices(seed, num_examples, batch_size, 0, num_examples).ravel()
    for epoch in stream.reshape(batch_size, num_examples):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_examples))


@given(sizes, sizes, st.lists(st.integers(0, 7), min_size=1, max_size=5), st.integers(0, 50))
def test_a_step_reads_the_same_examples_however_the_run_is_cut(
    num_examples, batch_size, chunks, first
):
    whole = epoch_indices(3, num_examples, batch_size, 0, first + sum(chunks))[first:]
    starts = first + np.cumsum([0, *chunks[:-1]])
    parts = [
        epoch_indices(3, num_examples, batch_size, int(start), steps)
        for start, steps in zip(starts, chunks, strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_epochs_and_seeds_differ():
    stream = epoch_indices(0, 100, 100, 0, 4)
    other = epoch_indices(1, 100, 100, 0, 4)
    orders = [tuple(row) for row in (*stream, *other)]
    assert len(set(orders)) == len(orders)


def test_positions_within_an_epoch_are_uniform():
    # 6 orders of 3 examples, 1,200 epochs: each order 200 times, give or take 5 sigma.
    orders = epoch_indices(7, 3, 3, 0, 1200)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.abs(counts - 200).max() < 5 * np.sqrt(200 * 5 / 6)


def test_the_stream_is_the_one_that_earlier_runs_used():
    # A resumed run continues a stream that another version may have begun.
    assert epoch_indices(0, 6, 4, 2, 2).tolist() == [[5, 3, 2, 0], [3, 0, 2, 4]]
    assert epoch_indices(0, 6, 4, 2, 2).dtype == np.int32


def test_no_steps_are_an_empty_stream():
    assert epoch_indices(0, 5, 3, 4, 0).shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 5, 3, 0, 1), "seed must be at least 0, got -1"),
        ((0, 0, 3, 0, 1), "num_examples must be at least 1, got 0"),
        ((0, 5, 0, 0, 1), "batch_size must be at least 1, got 0"),
        ((0, 5, 3, -2, 1), "first_step must be at least 0, got -2"),
        ((0, 5, 3, 0, -1), "num_steps must be at least 0, got -1"),
    ],
)
def test_impossible_streams_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        epoch_indices(*arguments)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_bytes_become_unit_floats_and_floats_stay(wrap):
    scaled = wrap(to_float)(np.array([[0, 51, 255]], np.uint8))
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(scaled, [[0, 0.2, 1]], rtol=1e-6)
    for values in (np.array([-3.5, 300], np.float32), jnp.array([-3.5, 300], jnp.bfloat16)):
        kept = wrap(to_float)(values)
        assert kept.dtype == values.dtype
        np.testing.assert_array_equal(kept, values)
