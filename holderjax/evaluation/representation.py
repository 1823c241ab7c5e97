"""What the latents know: the class, as a linear classifier reads it.

The shared latent should hold the class that the modalities share, the private ones should not
(Hölder++, section 5): accuracy on z, higher is better; on w, lower is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from holderjax import data
from holderjax.evaluation.examples import first_examples, over_batches

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from holderjax.models import Model

# Examples that a probe is fitted on, at most.
FIT_EXAMPLES = 4000
BATCH_SIZE = 512


def linear_accuracy(
    model: Model, params: Any, train: data.Split, test: data.Split
) -> dict[str, Any]:
    """Test accuracy of logistic regression on the means of the latents.

    Features are standardised; nothing is tuned.

    Args:
      model: whose latents to probe.
      params: its parameters.
      train: labelled examples to fit on, the first `FIT_EXAMPLES` of them.
      test: labelled examples to judge on.

    Returns:
      Accuracies: ``joint``, of z given every modality; ``z`` by modality, of z given it alone; and
      ``w`` by modality, empty for systems without private latents.
    """
    fitted = first_examples(train, min(len(train), FIT_EXAMPLES))
    inputs = representations(model, params, fitted.arrays)
    held_out = representations(model, params, test.arrays)

    def probe(x: np.ndarray, x_test: np.ndarray) -> float:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        return float(classifier.fit(x, fitted.labels).score(x_test, test.labels))

    return jax.tree.map(probe, inputs, held_out)


def representations(
    model: Model, params: Any, arrays: Mapping[str, np.ndarray], batch_size: int = BATCH_SIZE
) -> dict[str, Any]:
    """Means of the latents of every example: ``joint`` [N, D], ``z`` and ``w`` by modality.

    Args:
      model: whose latents to compute.
      params: its parameters.
      arrays: examples by modality, [N, *shape].
      batch_size: the most examples that are on the device at once.

    Returns:
      NumPy arrays: z given everything, z given each modality alone, w of each.
    """
    names = tuple(model.modalities)

    @jax.jit
    def program(params: Any, batch: Any, mask: Array) -> tuple[Float[Array, "D B"], Any]:
        batch = data.to_float(batch)
        return jax.tree.map(jnp.transpose, model.infer(params, batch, mask))

    everything = np.ones(len(names), bool)
    alone = dict(zip(names, np.eye(len(names), dtype=bool), strict=True))

    def infer(_: int, batch: Any) -> dict[str, Any]:
        joint, w = program(params, batch, everything)
        z = {name: program(params, batch, mask)[0] for name, mask in alone.items()}
        return {"joint": joint, "z": z, "w": w}

    found = over_batches(infer, arrays, names, batch_size, "latents")
    return jax.tree.map(np.transpose, found)
