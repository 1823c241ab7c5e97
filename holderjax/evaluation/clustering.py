"""Clusters of a mixture prior against the classes that nobody told it (CMVAE, section 5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from holderjax import data
from holderjax.evaluation.examples import over_batches

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, PRNGKeyArray

    from holderjax.models import Model

BATCH_SIZE = 512


def cluster_probabilities(
    model: Model,
    params: Any,
    arrays: Mapping[str, np.ndarray],
    key: PRNGKeyArray,
    batch_size: int = BATCH_SIZE,
) -> Float[np.ndarray, "N C"]:
    """p(c | x) of every example, see `Model.clusters`.

    Args:
      model: with a mixture prior.
      params: its parameters.
      arrays: examples by modality, [N, *shape].
      key: PRNG key.
      batch_size: the most examples that are on the device at once.

    Returns:
      [N, C].
    """

    @jax.jit
    def program(params: Any, key: PRNGKeyArray, batch: Any) -> Array:
        batch = data.to_float(batch)
        return model.clusters(params, key, batch).T

    return over_batches(
        lambda b, batch: program(params, jax.random.fold_in(key, b), batch),
        *(arrays, tuple(model.modalities), batch_size, "clusters"),
    ).T


def clustering_scores(
    assigned: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"]
) -> dict[str, float]:
    """Accuracy, NMI and ARI of an assignment to clusters.

    Args:
      assigned: clusters, from 0.
      labels: classes, from 0.

    Returns:
      ``accuracy`` under the best one-to-one match of clusters to classes (a cluster beyond the
      number of classes matches none), ``nmi``, ``ari``, and ``clusters``, the number in use.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    counts = contingency_matrix(labels, assigned)
    matched = counts[linear_sum_assignment(counts, maximize=True)].sum()
    return {
        "accuracy": float(matched / len(labels)),
        "nmi": float(normalized_mutual_info_score(labels, assigned)),
        "ari": float(adjusted_rand_score(labels, assigned)),
        "clusters": len(np.unique(assigned)),
    }
