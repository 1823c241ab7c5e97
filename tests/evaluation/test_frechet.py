"""The Fréchet distance against SciPy and closed forms, and whose samples it is taken of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_models import NAMES, NUM_CLASSES, FakeModel, image_of, mean_of_observed
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from holderjax.evaluation.coherence import all_subsets
from holderjax.evaluation.frechet import fit, frechet_distance, frechet_distances, measure

RNG = np.random.default_rng(0)
PROPER = all_subsets(3)[:-1]


def distance(first, second):
    return frechet_distance(fit(first), fit(second))


def by_scipy(first, second):
    c1, c2 = np.cov(first.T), np.cov(second.T)
    root = sqrtm(c1 @ c2)
    return ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root.real)


@given(st.integers(2, 12), st.integers(0, 10_000))
def test_distance_is_scipys(dim, seed):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(60, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)
    second = rng.normal(size=(45, dim)) @ rng.normal(size=(dim, dim))
    assert distance(first, second) == pytest.approx(by_scipy(first, second), rel=1e-6)
    assert distance(second, first) == pytest.approx(distance(first, second))


def test_fewer_examples_than_features_is_no_trouble():
    few = RNG.normal(size=(20, 300))
    assert distance(few, few) == pytest.approx(0, abs=1e-9)
    assert distance(few, few + 0.5) == pytest.approx(300 * 0.25)
    # Scaled about the mean: every standard deviation grows by half.
    grown = few.mean(0) + 1.5 * (few - few.mean(0))
    expected = 0.25 * few.var(0, ddof=1).sum()
    assert distance(few, grown) == pytest.approx(expected, rel=1e-9)
    # A constant set is a point.
    point = np.zeros((5, 300))
    expected = (few.mean(0) ** 2).sum() + few.var(0, ddof=1).sum()
    assert distance(few, point) == pytest.approx(expected)


def test_bad_features_are_refused():
    with pytest.raises(ValueError, match="with N >= 2"):
        fit(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="one width, got 2 and 3"):
        distance(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="got NaN or infinity"):
        fit(np.full((4, 3), np.nan))


@jax.tree_util.Partial
def brightness(images):
    """Two features: brightness, and its square."""
    mean = images.mean(axis=(-3, -2, -1))
    return jnp.stack([mean, mean**2], axis=-1)


@jax.tree_util.Partial
def darkness(images):
    """Another network's one feature."""
    return 1 - images.mean(axis=(-3, -2, -1))[:, None]


def in_one_feature(first, second):
    """The closed form for `darkness`: squared differences of mean and standard deviation."""
    first, second = (1 - images.mean(axis=(1, 2, 3)) for images in (first, second))
    return (first.mean() - second.mean()) ** 2 + (first.std(ddof=1) - second.std(ddof=1)) ** 2


def images_of(*classes):
    return {
        name: np.asarray(255 * image_of(c)).astype(np.uint8)
        for name, c in zip(NAMES, classes, strict=True)
    }


def white(key):
    return dict.fromkeys(NAMES, jnp.ones_like(image_of(0)))


def given_everything(measures, model, arrays, *, subsets=PROPER, prior_samples=300):
    return frechet_distances(
        model, None, measures, arrays, subsets, jax.random.key(0), prior_samples
    )


def test_samples_given_all_others_are_compared_with_real_ones():
    arrays = images_of(*[RNG.integers(0, NUM_CLASSES, 700)] * 3)

    def faithful(key, batch, mask):
        """The mean of what is observed, in every modality; black if the target was observed."""
        seen = sum(m * batch[n] for m, n in zip(mask, NAMES, strict=True)) / mask.sum()
        return {n: jnp.where(m, 0.0, seen) for m, n in zip(mask, NAMES, strict=True)}

    measures = {"fd": measure(dict.fromkeys(NAMES, brightness), arrays)}
    found = given_everything(measures, FakeModel(faithful, white), arrays)["fd"]
    assert found.by_subset == {
        observed: pytest.approx(dict.fromkeys(targets, 0.0), abs=1e-6)
        for observed, targets in {
            **{"m0": ["m1", "m2"], "m1": ["m0", "m2"], "m2": ["m0", "m1"]},
            **{"m0,m1": ["m2"], "m0,m2": ["m1"], "m1,m2": ["m0"]},
        }.items()
    }
    real = np.asarray(brightness(arrays["m0"] / 255.0))
    expected = ((real.mean(0) - 1) ** 2).sum() + real.var(0, ddof=1).sum()
    assert found.unconditional == pytest.approx(dict.fromkeys(NAMES, expected), rel=1e-4)


def test_every_pair_of_a_subset_and_a_target_is_its_own_distance():
    classes = RNG.integers(0, NUM_CLASSES, (3, 600)) // np.array([[1], [2], [5]])
    arrays = images_of(*classes)
    extractors = {"m0": darkness, "m2": darkness}
    model = FakeModel(mean_of_observed, white)
    found = given_everything({"fd": measure(extractors, arrays)}, model, arrays)["fd"]
    assert found.by_subset.keys() == {"m0", "m1", "m2", "m0,m1", "m1,m2"}
    for observed, row in found.by_subset.items():
        images = np.mean([arrays[name] / 255.0 for name in observed.split(",")], axis=0)
        assert row.keys() == {"m0", "m2"} - set(observed.split(","))
        for target, x in row.items():
            assert x == pytest.approx(
                in_one_feature(arrays[target] / 255.0, images), rel=1e-3, abs=1e-6
            )


def test_measures_share_the_samples_and_a_subset_keeps_its_own(monkeypatch):
    """One generation serves all measures, and asking for more subsets changes no distance."""

    def noisy(key, batch, mask):
        noise = jax.random.uniform(key, (3, len(batch["m0"])))
        return {
            n: jnp.broadcast_to(x[:, None, None, None], batch[n].shape)
            for n, x in zip(NAMES, noise, strict=True)
        }

    decoded = []
    decode = FakeModel.decode
    monkeypatch.setattr(FakeModel, "decode", lambda *args: decoded.append(args[2]) or decode(*args))
    arrays = images_of(*RNG.integers(0, NUM_CLASSES, (3, 300)))
    model = FakeModel(noisy, white)
    one = {"fd": measure({"m0": brightness}, arrays)}
    most = PROPER[[5]]
    alone = given_everything(one, model, arrays, subsets=most)
    assert decoded == ["m0"]
    decoded.clear()
    two = {**one, "other": measure({"m0": darkness, "m1": darkness}, arrays)}
    both = given_everything(two, model, arrays)
    assert sorted(decoded) == ["m0", "m1"]
    assert both["fd"].by_subset["m1,m2"] == alone["fd"].by_subset["m1,m2"]
    assert both["fd"].unconditional == alone["fd"].unconditional
    assert both["other"].by_subset.keys() == {"m0", "m1", "m2", "m0,m2", "m1,m2"}
    # Different samples, so different distances.
    values = [x for row in both["fd"].by_subset.values() for x in row.values()]
    assert len(set(values)) == len(values)


def test_few_and_many_prior_samples_are_counted_exactly():
    arrays = images_of(*RNG.integers(0, NUM_CLASSES, (3, 40)))
    measures = {"fd": measure({"m1": darkness}, arrays)}

    def dark(key):
        return dict.fromkeys(NAMES, jnp.broadcast_to(jax.random.uniform(key), (4, 4, 3)))

    model = FakeModel(mean_of_observed, dark)
    found = {
        count: given_everything(measures, model, arrays, prior_samples=count)["fd"].unconditional
        for count in (2, 300)
    }
    keys = jax.random.split(jax.random.key(0))[1]
    for count, x in found.items():
        size = min(count, 256)
        drawn = [
            np.asarray(model.sample(None, jax.random.fold_in(keys, i), size)["m1"])
            for i in range(0, count, size)
        ]
        expected = in_one_feature(arrays["m1"] / 255.0, np.concatenate(drawn)[:count])
        assert x == {"m1": pytest.approx(expected, rel=1e-3)}
