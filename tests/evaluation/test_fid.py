"""FID's measure: real images are measured once for each set of them and of weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from holderjax import data
from holderjax.evaluation import fid, inception
from holderjax.evaluation.examples import first_examples
from holderjax.evaluation.fid import fid_measure
from holderjax.evaluation.inception import FEATURES, Weights


def split_of(seed):
    rng = np.random.default_rng(seed)
    arrays = {
        "colour": rng.integers(0, 256, (9, 4, 4, 3)).astype(np.uint8),
        "grey": rng.integers(0, 256, (9, 5, 5, 1)).astype(np.uint8),
        "vector": rng.normal(size=(9, 6)).astype(np.float32),
    }
    return data.Split(arrays, np.zeros(9, np.int32))


def brightness(params, images):
    """One feature beside many that are zero, in place of Inception's."""
    mean = images.mean(axis=(1, 2, 3))[:, None]
    return params * jnp.pad(mean, ((0, 0), (0, FEATURES - 1)))


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """How many images of what shape were measured, since it was last cleared."""
    monkeypatch.setenv("HOLDERJAX_CACHE", str(tmp_path))
    monkeypatch.setattr(inception, "features", brightness)
    shapes, fit_real = [], fid.fit_real
    monkeypatch.setattr(
        fid, "fit_real", lambda f, images: shapes.append(images.shape) or fit_real(f, images)
    )
    return shapes


def test_images_are_measured_once_for_each_set_of_them_and_of_weights(fitted, tmp_path):
    dataset, other = (data.Dataset("tiny", split_of(0), split_of(seed), 1) for seed in (1, 2))
    weights = Weights(np.float32(2), "abc")
    first = fid_measure(weights, dataset, dataset.test)
    assert first.extractors.keys() == first.real.keys() == {"colour", "grey"}
    assert fitted == [(9, 4, 4, 3), (9, 5, 5, 1)]
    images = dataset.test.arrays["grey"] / 255.0
    assert first.real["grey"].mean[0] == pytest.approx(2 * images.mean(), rel=1e-5)
    spread = 4 * images.mean(axis=(1, 2, 3)).var(ddof=1)
    covariance = first.real["grey"].factor.T @ first.real["grey"].factor
    assert covariance[0, 0] == pytest.approx(spread, rel=1e-4)

    fitted.clear()
    again = fid_measure(weights, dataset, dataset.test)
    assert not fitted
    for name, real in first.real.items():
        np.testing.assert_array_equal(again.real[name].mean, real.mean)
        np.testing.assert_array_equal(again.real[name].factor, real.factor)

    fid_measure(Weights(np.float32(4), "abd"), dataset, dataset.test)
    fid_measure(weights, other, other.test)
    fid_measure(weights, dataset, first_examples(dataset.test, 8))
    assert [shape[0] for shape in fitted] == [9, 9, 9, 9, 8, 8]
    assert len(list((tmp_path / "inception").iterdir())) == 8


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:99]),
        lambda path: np.savez(path, mean=np.ones(3), factor=np.ones(3)),
    ],
)
def test_damage_in_the_cache_is_repaired(damage, fitted, tmp_path, caplog):
    dataset = data.Dataset("tiny", split_of(0), split_of(1), 1)
    weights = Weights(np.float32(2), "abc")
    first = fid_measure(weights, dataset, dataset.test)
    (path,) = (tmp_path / "inception").glob("tiny-grey-*")
    damage(path)
    fitted.clear()
    again = fid_measure(weights, dataset, dataset.test)
    assert fitted == [(9, 5, 5, 1)]
    assert f"{path} is damaged" in caplog.text
    np.testing.assert_array_equal(again.real["grey"].factor, first.real["grey"].factor)
    fitted.clear()
    fid_measure(weights, dataset, dataset.test)
    assert not fitted
