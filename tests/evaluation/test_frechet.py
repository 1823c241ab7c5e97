"""The Fréchet distance against SciPy and closed forms, and whose samples it is taken of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_models import NAMES, NUM_CLASSES, FakeModel, image_of
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from holderjax.evaluation.frechet import frechet_distance, frechet_distances

RNG = np.random.default_rng(0)


def by_scipy(first, second):
    c1, c2 = np.cov(first.T), np.cov(second.T)
    root = sqrtm(c1 @ c2)
    return ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root.real)


@given(st.integers(2, 12), st.integers(0, 10_000))
def test_distance_is_scipys(dim, seed):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(60, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)
    second = rng.normal(size=(45, dim)) @ rng.normal(size=(dim, dim))
    assert frechet_distance(first, second) == pytest.approx(by_scipy(first, second), rel=1e-6)
    assert frechet_distance(second, first) == pytest.approx(frechet_distance(first, second))


def test_fewer_examples_than_features_is_no_trouble():
    few = RNG.normal(size=(20, 300))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(few, few + 0.5) == pytest.approx(300 * 0.25)
    # Scaled about the mean: every standard deviation grows by half.
    grown = few.mean(0) + 1.5 * (few - few.mean(0))
    expected = 0.25 * few.var(0, ddof=1).sum()
    assert frechet_distance(few, grown) == pytest.approx(expected, rel=1e-9)
    # A constant set is a point.
    point = np.zeros((5, 300))
    expected = (few.mean(0) ** 2).sum() + few.var(0, ddof=1).sum()
    assert frechet_distance(few, point) == pytest.approx(expected)


def test_bad_features_are_refused():
    with pytest.raises(ValueError, match="with N, P >= 2"):
        frechet_distance(np.zeros((1, 3)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="with N, P >= 2"):
        frechet_distance(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="got NaN or infinity"):
        frechet_distance(np.full((4, 3), np.nan), np.zeros((4, 3)))


@jax.tree_util.Partial
def brightness(images):
    """Two features: brightness, and its square."""
    mean = images.mean(axis=(-3, -2, -1))
    return jnp.stack([mean, mean**2], axis=-1)


def test_samples_given_all_others_are_compared_with_real_ones():
    classes = RNG.integers(0, NUM_CLASSES, 700)
    arrays = {name: np.asarray(255 * image_of(classes)).astype(np.uint8) for name in NAMES}

    def faithful(key, batch, mask):
        """The mean of what is observed, in every modality; black if the target was observed."""
        seen = sum(m * batch[n] for m, n in zip(mask, NAMES, strict=True)) / mask.sum()
        return {n: jnp.where(m, 0.0, seen) for m, n in zip(mask, NAMES, strict=True)}

    def white(key):
        return dict.fromkeys(NAMES, jnp.ones_like(image_of(0)))

    extractors = dict.fromkeys(NAMES, brightness)
    key = jax.random.key(0)
    found = frechet_distances(FakeModel(faithful, white), None, extractors, arrays, key, 300)
    assert found["conditional"] == pytest.approx(dict.fromkeys(NAMES, 0.0), abs=1e-6)
    real = np.asarray(brightness(arrays["m0"] / 255.0))
    expected = ((real.mean(0) - 1) ** 2).sum() + real.var(0, ddof=1).sum()
    assert found["unconditional"] == pytest.approx(dict.fromkeys(NAMES, expected), rel=1e-4)
