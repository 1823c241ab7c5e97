"""Probes on latents whose content is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holderjax import data, models
from holderjax.evaluation.representation import linear_accuracy, representations

NAMES = ("a", "b", "c")


class Latents:
    """z holds the class of the observed modalities, w_a holds it too, the other w do not."""

    modalities = dict.fromkeys(NAMES)

    def infer(self, params, batch, mask):
        weights = jnp.asarray(mask, jnp.float32) / mask.sum()
        z = sum(w * batch[name] for w, name in zip(weights, NAMES, strict=True))
        return z, {name: batch[name] * (name == "a") for name in NAMES}


def split(count, seed):
    """Classes 0, 1, 2 as one-hot vectors in a and b; noise in c."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    seen = np.eye(3, dtype=np.float32)[labels]
    noise = rng.normal(size=(count, 3)).astype(np.float32)
    return data.Split({"a": seen, "b": seen, "c": noise}, labels.astype(np.int32))


def test_accuracies_say_what_the_latents_hold():
    found = linear_accuracy(Latents(), None, split(300, 0), split(200, 1))
    assert found["joint"] > 0.8
    assert found["z"]["a"] == found["z"]["b"] == 1.0
    assert found["z"]["c"] < 0.5
    assert found["w"]["a"] == 1.0
    assert max(found["w"]["b"], found["w"]["c"]) < 0.5


@pytest.mark.parametrize("system", ["holder", "holder+", "holder++"])
def test_representations_are_the_means_of_the_models_own_posteriors(system):
    modality = models.Modality((2,), likelihood=models.Gaussian(1.0))
    options = {"latent_dim": 3, "private_dim": 2}
    model = models.build(system, dict.fromkeys(NAMES, modality), **options)
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(5, 2)).astype(np.float32) for name in NAMES}
    found = representations(model, params, arrays, batch_size=2)
    np.testing.assert_allclose(found["joint"], model.encode(params, arrays).mean(), rtol=1e-4)
    only_b = model.encode(params, {"b": arrays["b"]}, np.array([False, True, False]))
    np.testing.assert_allclose(found["z"]["b"], only_b.mean(), rtol=1e-4)
    if system == "holder":
        assert found["w"] == {}
    else:
        assert {name: w.shape for name, w in found["w"].items()} == dict.fromkeys(NAMES, (5, 2))
        # w of a modality is read from that modality, and from z in the hierarchical system alone.
        moved = arrays | {"a": arrays["a"] + 1}
        other = representations(model, params, moved, batch_size=5)["w"]
        assert np.abs(other["a"] - found["w"]["a"]).max() > 1e-3
        same = np.allclose(other["b"], found["w"]["b"], rtol=1e-4, atol=1e-5)
        assert same == (system == "holder+")
