"""The mixture prior fitted to the latents, alone and inside a run."""

import jax
import numpy as np
import pytest
import tiny_run

from holderjax import data, models
from holderjax.evaluation.clustering import cluster_probabilities, clustering_scores
from holderjax.training import TrainConfig, load_run, train
from holderjax.training.checkpoints import state_digest
from holderjax.training.clusters import fit_clusters

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 700)
BLOBS = np.array([[4.0, 0.0], [-4.0, 3.0], [0.0, -5.0]])[LABELS]
ARRAYS = {
    name: (BLOBS + 0.3 * RNG.normal(size=BLOBS.shape)).astype(np.float32) for name in ("a", "b")
}


def cluster_model(system="cmvae", **options):
    modality = models.Modality((2,), likelihood=models.Gaussian(1.0))
    sizes = {"latent_dim": 3, "private_dim": 2}
    return models.build(system, dict.fromkeys(ARRAYS, modality), **sizes, **options)


@pytest.mark.parametrize("family", ["gaussian", "laplace"])
def test_clusters_of_the_latents_are_found(family):
    model = cluster_model(clusters=3, family=family)
    params = model.init(KEY)
    # Fresh experts are as wide as the clusters are apart, and no two put an example in one place.
    layer = params["modalities"]["a"]["head"]["linear"]
    layer["kernel"] = layer["kernel"].at[:, :3].multiply(20).at[:, 3:].set(0)
    params["modalities"]["b"] = params["modalities"]["a"]
    fitted = fit_clusters(model, params, ARRAYS, KEY)
    probabilities = cluster_probabilities(model, fitted, ARRAYS, KEY)
    scores = clustering_scores(probabilities.argmax(axis=1), LABELS)
    assert scores["accuracy"] > 0.97
    weights = np.sort(np.exp(fitted["prior"]["logits"]))
    np.testing.assert_allclose(weights, np.sort(np.bincount(LABELS) / 700), atol=0.03)
    assert jax.tree.structure(fitted) == jax.tree.structure(params)
    same = jax.tree.map(lambda a, b: (a == b).all(), fitted["modalities"], params["modalities"])
    assert all(jax.tree.leaves(same))
    again = fit_clusters(model, params, ARRAYS, KEY)
    assert state_digest(again) == state_digest(fitted)


def test_what_has_no_clusters_to_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a system with a mixture prior, got 'normal'"):
        fit_clusters(cluster_model("mmvae+"), {}, ARRAYS, KEY)
    few = {name: x[:4] for name, x in ARRAYS.items()}
    with pytest.raises(ValueError, match="expected at least 5 examples, one a cluster, got 4"):
        fit_clusters(cluster_model(clusters=5), {}, few, KEY)
    out = tmp_path / "run"
    with pytest.raises(ValueError, match="expected a system with a mixture prior"):
        train(tiny_run.config(out, system="holder++", fit_clusters=8))
    assert not out.exists()


@pytest.mark.slow
def test_a_run_resumed_where_clusters_are_fitted_ends_the_same(tmp_path):
    options = {"system": "cmvae", "clusters": 3, "fit_clusters": 8}
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(tiny_run.config(whole, **options, steps=12))
    train(tiny_run.config(halves, **options, steps=8))
    before = load_run(halves).params["prior"]
    train(tiny_run.config(halves, **options, steps=12, resume=True))
    one, other = load_run(whole), load_run(halves)
    assert state_digest(one.params) == state_digest(other.params)
    assert np.abs(one.params["prior"]["log_var"] - before["log_var"]).max() > 0.1


@pytest.mark.slow
def test_unsupervised_clusters_of_the_digits_are_well_above_k_means_on_pixels(tmp_path):
    from sklearn.cluster import KMeans

    config = TrainConfig(
        out=tmp_path / "run",
        system="cmvae",
        data="digits",
        steps=1600,
        beta=2.5,
        beta_warmup=400,
        fit_clusters=1200,
        decay="cosine",
        checkpoint_every=400,
    )
    train(config)
    run, digits = load_run(config.out), data.load("digits")
    probabilities = cluster_probabilities(run.model, run.params, digits.test.arrays, KEY)
    ours = clustering_scores(probabilities.argmax(axis=1), digits.test.labels)
    # All five pictures of an example, which k-means needs to see the digit through backgrounds.
    pixels, test_pixels = (
        np.concatenate([x.reshape(len(x), -1) for x in split.arrays.values()], axis=1) / 255
        for split in (digits.train, digits.test)
    )
    k_means = KMeans(10, n_init=10, random_state=0).fit(pixels[:4096])
    theirs = clustering_scores(k_means.predict(test_pixels), digits.test.labels)
    assert ours["accuracy"] > theirs["accuracy"] + 0.05
    assert ours["accuracy"] > 0.83
    assert ours["nmi"] > theirs["nmi"] + 0.05
