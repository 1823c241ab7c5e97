"""A mixture prior fitted to the latents that a model has learned so far.

Trained from scratch, a few clusters take all examples before z means anything, and keep them. As
Jiang et al. 2017 (VaDE, section 3.4) do after pretraining, the clusters are therefore set to a
Gaussian mixture of the latents once these carry something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from holderjax.data import to_float
from holderjax.models import Model

if TYPE_CHECKING:
    from jaxtyping import PRNGKeyArray

EXAMPLES = 4096
BATCH_SIZE = 512
# Of scikit-learn's EM; the best of them counts.
INITIALISATIONS = 5
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
    """The parameters with the mixture prior fitted to draws from q(z | X), by EM.

    Args:
      model: with a mixture prior.
      params: its parameters.
      arrays: examples by modality, [N, *shape], as the data set holds them; the first `EXAMPLES`.
      key: PRNG key, of the draws and of the fit.

    Returns:
      Parameters with other weights and means, and other variances where the family is Gaussian.

    Raises:
      ValueError: for a system without clusters, and for fewer examples than clusters.
    """
    from sklearn.mixture import GaussianMixture

    system, count = model.system, min(EXAMPLES, len(next(iter(arrays.values()))))
    check_clusters(model, count)
    key_fit, key_z = jax.random.split(key)

    @jax.jit
    def draw(params: Any, key: PRNGKeyArray, batch: Any) -> jax.Array:
        batch = {name: to_float(batch[name]) for name in model.modalities}
        return model.encode(params, batch).sample(key)

    draws = []
    for first in range(0, count, BATCH_SIZE):
        # Whole batches, so that one program serves all of them; the last may overlap.
        first = max(0, min(first, count - BATCH_SIZE))
        batch = {name: x[first : first + BATCH_SIZE] for name, x in arrays.items()}
        draws.append(np.asarray(draw(params, jax.random.fold_in(key_z, first), batch), np.float64))
    fitted = GaussianMixture(
        system.clusters,
        covariance_type="diag",
        reg_covar=LEAST_VARIANCE,
        n_init=INITIALISATIONS,
        random_state=int(jax.random.bits(key_fit, dtype=jnp.uint32)),
    ).fit(np.concatenate(draws))
    prior = dict(params["prior"])
    prior["logits"] = np.log(fitted.weights_).astype(np.float32)
    prior["mean"] = fitted.means_.astype(np.float32)
    if system.family == "gaussian":
        prior["log_var"] = np.log(fitted.covariances_).astype(np.float32)
    return {**params, "prior": prior}
