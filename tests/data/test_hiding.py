"""Modalities that are absent at random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holderjax.data import Dataset, Split, hide

SIZE = 400


def complete(size=SIZE, modalities=3):
    arrays = {f"m{m}": np.full((size, 2), m, np.uint8) for m in range(modalities)}
    test = {name: x[:2] for name, x in arrays.items()}
    return Dataset("toy", Split(arrays), Split(test))


def test_each_modality_is_absent_in_its_share_of_the_examples():
    ratios = (0.0, 0.3, 0.6)
    hidden = hide(complete(20_000), ratios, seed=1)
    np.testing.assert_allclose(1 - hidden.train.observed.mean(axis=0), ratios, atol=0.015)
    assert hidden.train.observed.any(axis=1).all()
    assert hidden.test.observed is None


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3), st.integers(0, 99))
def test_absences_follow_from_the_seed_and_leave_something(ratios, seed):
    first, again = (hide(complete(), ratios, seed).train.observed for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.any(axis=1).all()
    assert not first[:, np.array(ratios) == 0].size or first[:, np.array(ratios) == 0].all()


def test_absences_are_independent_and_differ_between_seeds():
    observed = hide(complete(20_000), (0.5, 0.5, 0.0), seed=3).train.observed
    np.testing.assert_allclose(np.mean(observed[:, 0] & observed[:, 1]), 0.25, atol=0.015)
    other = hide(complete(20_000), (0.5, 0.5, 0.0), seed=4).train.observed
    np.testing.assert_allclose(np.mean(observed[:, 0] & other[:, 0]), 0.25, atol=0.015)


def test_one_ratio_is_for_all_and_the_data_stays_what_it_is():
    dataset = complete()
    hidden = hide(dataset, (0.5,))
    assert (hidden.train.observed.mean(axis=0) > 0.3).all()
    assert hidden.fingerprint == dataset.fingerprint
    assert list(hidden.train.inputs) == ["m0", "m1", "m2", "mask"]
    assert list(dataset.train.inputs) == ["m0", "m1", "m2"]


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ((), "expected one share, or one for each of m0, m1, m2, got 0"),
        ((0.1, 0.2), "expected one share, or one for each of m0, m1, m2, got 2"),
        ((1.0,), "expected shares of at least 0 and below 1, got 1.0"),
        ((0.1, -0.2, 0.1), "expected shares of at least 0 and below 1, got -0.2"),
        ((float("nan"),), "expected shares of at least 0 and below 1, got nan"),
    ],
)
def test_ratios_out_of_range_are_named(ratios, message):
    with pytest.raises(ValueError, match=message):
        hide(complete(), ratios)


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        (np.ones((5, 3)), "observed must be a bool array, got float64"),
        (np.ones((5, 2), bool), r"observed must be \[5, 3\], got \(5, 2\)"),
        (np.zeros((5, 3), bool), "every example needs at least one modality"),
    ],
)
def test_a_mask_must_fit_its_split(observed, message):
    with pytest.raises(ValueError, match=message):
        Split(complete(5).train.arrays, observed=observed)
