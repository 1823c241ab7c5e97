"""Clustering scores, and the clusters of a mixture prior."""

import jax
import numpy as np
import pytest

from holderjax import models
from holderjax.evaluation.clustering import cluster_probabilities, clustering_scores

KEY = jax.random.key(0)


def test_accuracy_is_that_of_the_best_match():
    labels = np.array([0, 0, 0, 1, 1, 2])
    scores = clustering_scores(np.array([2, 2, 1, 0, 0, 1]), labels)
    assert scores["accuracy"] == pytest.approx(5 / 6)
    assert scores["clusters"] == 3
    perfect = clustering_scores(np.array([4, 4, 4, 0, 0, 7]), labels)
    assert perfect == {"accuracy": 1.0, "nmi": 1.0, "ari": 1.0, "clusters": 3}


def test_clusters_beyond_the_classes_match_nothing():
    scores = clustering_scores(np.arange(6), np.array([0, 0, 0, 1, 1, 1]))
    assert scores["accuracy"] == pytest.approx(2 / 6)


def test_one_cluster_knows_nothing():
    scores = clustering_scores(np.zeros(4, int), np.array([0, 1, 0, 1]))
    assert (scores["accuracy"], scores["nmi"], scores["ari"]) == (0.5, 0.0, 0.0)


def test_probabilities_of_all_examples_come_back_in_order():
    modality = models.Modality((2,), likelihood=models.Gaussian(1.0))
    model = models.build("cmvae", {"a": modality, "b": modality}, latent_dim=2, private_dim=1)
    params = model.init(KEY)
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(7, 2)).astype(np.float32) for name in "ab"}
    whole = cluster_probabilities(model, params, arrays, KEY, batch_size=3)
    assert whole.shape == (7, 10)
    np.testing.assert_allclose(whole.sum(axis=1), 1, rtol=1e-5)
    arrays["a"][3] = arrays["b"][3] = 5.0
    changed = np.abs(cluster_probabilities(model, params, arrays, KEY, batch_size=3) - whole)
    assert (changed.max(axis=1) > 1e-4).nonzero()[0].tolist() == [3]
