"""The linear Gaussian model against dense formulas and its own samples."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from holderjax import data
from holderjax.data.linear_gaussian import LinearGaussian, maximum_likelihood, random_model
from holderjax.likelihoods import Gaussian
from holderjax.training.config import TrainConfig, build_model, data_facts

RNG = np.random.default_rng(0)
MODEL = LinearGaussian(
    {"a": RNG.normal(size=(3, 2)), "b": RNG.normal(size=(4, 2))},
    {"a": RNG.normal(size=3), "b": RNG.normal(size=4)},
    variance=0.7,
)


@pytest.mark.parametrize("names", [("a", "b"), ("b",)])
def test_likelihood_and_posterior_are_those_of_the_joint_normal(names):
    views = {name: RNG.normal(size=(6, len(MODEL.biases[name]))) for name in names}
    w = np.concatenate([MODEL.loadings[name] for name in names])
    mean = np.concatenate([MODEL.biases[name] for name in names])
    x = np.concatenate([views[name] for name in names], axis=1)
    covariance = w @ w.T + 0.7 * np.eye(len(w))
    expected = multivariate_normal(mean, covariance).logpdf(x)
    np.testing.assert_allclose(MODEL.log_likelihood(views), expected, rtol=1e-10)
    gain = w.T @ np.linalg.inv(covariance)
    means, spread = MODEL.posterior(views)
    np.testing.assert_allclose(means, (x - mean) @ gain.T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(spread, np.eye(2) - gain @ w, rtol=1e-8, atol=1e-10)


def test_draws_have_the_model_s_moments():
    views = MODEL.draw(200_000, np.random.default_rng(1))
    x = np.concatenate(list(views.values()), axis=1)
    w = np.concatenate(list(MODEL.loadings.values()))
    np.testing.assert_allclose(x.mean(axis=0), np.concatenate([*MODEL.biases.values()]), atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), w @ w.T + 0.7 * np.eye(7), atol=0.1)


def test_nothing_near_the_maximum_likelihood_is_likelier():
    views = MODEL.draw(500, np.random.default_rng(2))
    best = maximum_likelihood(views, 2, variance=0.7)
    top = best.log_likelihood(views).mean()
    assert top > MODEL.log_likelihood(views).mean()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        moved = {n: w + 0.02 * rng.normal(size=w.shape) for n, w in best.loadings.items()}
        assert LinearGaussian(moved, best.biases, 0.7).log_likelihood(views).mean() < top


def test_random_models_follow_the_protocol():
    model = random_model(np.random.default_rng(3))
    for w in model.loadings.values():
        assert 30 <= len(w) < 60
        np.testing.assert_allclose(w.T @ w, np.eye(5), atol=1e-12)


@pytest.mark.parametrize(("name", "classes"), [("linear-gaussian", 0), ("identifiable", 5)])
def test_simulations_are_data_sets_of_known_noise(name, classes, tmp_path):
    found, again = data.load(name), data.load(name)
    assert found.fingerprint == again.fingerprint != data.load(name, seed=1).fingerprint
    assert (len(found.train), len(found.test), found.num_classes) == (5000, 1000, classes)
    assert list(found.modalities) == [f"view{i}" for i in range(5)]
    model = build_model(TrainConfig(out=tmp_path, data=name), data_facts(found))
    scale = {"linear-gaussian": 1.0, "identifiable": 0.2}[name]
    likelihoods = {modality.likelihood for modality in model.modalities.values()}
    assert likelihoods == {Gaussian(scale)}
    # The noise alone, around what the five latents explain.
    views = found.train.arrays["view0"].astype(float)
    smallest = np.linalg.eigvalsh(np.cov(views.T))[0]
    assert smallest == pytest.approx(scale**2, rel=0.2)


def test_noise_has_to_be_that_of_a_modality():
    split = data.Split({"x": np.zeros((2, 3), np.float32)})
    for noise in ({"y": 1.0}, {"x": 0.0}):
        with pytest.raises(ValueError, match="noise: expected positive numbers of x, got"):
            data.Dataset("d", split, split, noise=noise)
