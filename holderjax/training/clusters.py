"""A mixture prior fitted to the latents that a model has learned so far.

Trained from scratch, a few clusters take all examples before z means anything, and keep them. As
Jiang et al. 2017 (VaDE, section 3.4) do after pretraining, the clusters are therefore set to those
of the latents once these carry something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from holderjax.data import batches, to_float
from holderjax.models import Model

if TYPE_CHECKING:
    from jaxtyping import PRNGKeyArray

EXAMPLES = 4096
BATCH_SIZE = 512
# Of k-means; the best of them counts.
INITIALISATIONS = 10
# Keeps clusters of few examples from collapsing onto them.
LEAST_VARIANCE = 1e-3


def check_clusters(model: Model, num_examples: int) -> None:
    """Raise ValueError for a model without clusters, and for fewer examples than clusters."""
    if model.system.prior != "mixture":
        raise ValueError(
            f"fit_clusters: expected a system with a mixture prior, got {model.system.prior!r}"
        )
    if num_examples < model.system.clusters:
        raise ValueError(
            f"fit_clusters: expected at least {model.system.clusters} examples, one a cluster, "
            f"got {num_examples}"
        )


def fit_clusters(
    model: Model, params: Any, arrays: Mapping[str, np.ndarray], key: PRNGKeyArray
) -> Any:
    """The parameters with the mixture prior fitted to the latents, by k-means on their means.

    Means of q(z | X) lie closer to their class than draws do, which a mixture takes from one expert
    at a time. Each cluster gets its share of the examples, their mean, and the variance of their
    latents: that of the means and the mean of the posteriors' own.

    Args:
      model: with a mixture prior.
      params: its parameters.
      arrays: `data.Split.inputs`, [N, *shape] by modality; the first `EXAMPLES`.
      key: PRNG key, of the initialisations.

    Returns:
      Parameters with other weights and means, and other variances where the family is Gaussian.

    Raises:
      ValueError: for a system without clusters, and for fewer examples than clusters.
    """
    from sklearn.cluster import KMeans

    system, count = model.system, min(EXAMPLES, len(next(iter(arrays.values()))))
    check_clusters(model, count)

    @jax.jit
    def moments(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        batch = to_float(batch)
        posterior = model.encode(params, batch)
        return posterior.mean(), posterior.variance()

    parts = []
    first = {name: x[:count] for name, x in arrays.items()}
    for size, batch in batches(first, tuple(first), BATCH_SIZE):
        parts.append([np.asarray(x, np.float64)[:size] for x in moments(params, batch)])
    mean, variance = (np.concatenate(x) for x in zip(*parts, strict=True))
    seed = int(jax.random.bits(key, dtype=jnp.uint32))
    assigned = KMeans(system.clusters, n_init=INITIALISATIONS, random_state=seed).fit_predict(mean)
    clusters = [assigned == c for c in range(system.clusters)]
    fitted = {
        "logits": np.log([members.mean() for members in clusters]),
        "mean": [mean[members].mean(axis=0) for members in clusters],
    }
    if system.family == "gaussian":
        spread = [
            mean[members].var(axis=0) + variance[members].mean(axis=0) for members in clusters
        ]
        fitted["log_var"] = np.log(np.maximum(spread, LEAST_VARIANCE))
    prior = {name: np.asarray(value, np.float32) for name, value in fitted.items()}
    return {**params, "prior": {**params["prior"], **prior}}
