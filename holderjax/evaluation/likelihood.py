"""The held-out log-likelihood, estimated by importance weighting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from holderjax import data
from holderjax.evaluation.examples import over_batches

if TYPE_CHECKING:
    from jaxtyping import PRNGKeyArray

    from holderjax.models import Model

# Each example takes as many samples besides.
BATCH_SIZE = 64


def mean_log_likelihood(
    model: Model,
    params: Any,
    arrays: Mapping[str, np.ndarray],
    key: PRNGKeyArray,
    num_samples: int,
    batch_size: int = BATCH_SIZE,
) -> float:
    """The mean of `Model.log_likelihood` over examples, in nats.

    Args:
      model: whose likelihood.
      params: its parameters.
      arrays: examples by modality, [N, *shape].
      key: PRNG key.
      num_samples: importance samples for each example; the estimate is a lower bound on average,
        and tighter with more of them.
      batch_size: the most examples that are on the device at once.

    Returns:
      Nats an example.

    Raises:
      ValueError: for less than one sample.
    """
    if num_samples < 1:
        raise ValueError(f"likelihood_samples: expected at least 1, got {num_samples}")

    @jax.jit
    def program(params: Any, batch: Any, key: PRNGKeyArray) -> Any:
        return model.log_likelihood(params, data.to_float(batch), key, num_samples=num_samples)

    each = over_batches(
        lambda b, batch: program(params, batch, jax.random.fold_in(key, b)),
        *(arrays, tuple(model.modalities), batch_size, "log-likelihoods"),
    )
    return float(each.mean())
