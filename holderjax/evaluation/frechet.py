r"""The Fréchet distance between real and generated images, in the features of a network.

Between Gaussians with the features' means and covariances (Heusel et al. 2017, equation 6):

.. math:: d^2 = |\mu_1 - \mu_2|^2 + \mathrm{tr}\big(C_1 + C_2 - 2 (C_1 C_2)^{1/2}\big)

With the features of Inception-v3 that is FID. In the features of the project's own classifiers it
is another number, and is called classifier-fd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from holderjax import data
from holderjax.evaluation.coherence import sample_given_others
from holderjax.evaluation.examples import batches
from holderjax.evaluation.progress import track

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray

    from holderjax.models import Model

BATCH_SIZE = 256

# By modality: images in [0, 1], [..., H, W, C], to features [..., F].
Extractors = Mapping[str, Callable[[Any], Any]]


def frechet_distance(first: Float[np.ndarray, "N F"], second: Float[np.ndarray, "P F"]) -> float:
    r"""The squared Fréchet distance of the Gaussians that fit two sets of features.

    With :math:`C_i = A_i^T A_i`, from centred and scaled features :math:`A_i`, the trace of the
    root is the sum of the singular values of :math:`A_1 A_2^T`: no root of a matrix, and sound for
    fewer examples than features, where covariances have no full rank.

    Args:
      first: features of one set, N >= 2.
      second: of the other, P >= 2.

    Returns:
      The distance, at least zero.

    Raises:
      ValueError: for sets of less than two, of different widths, or with values that are not
        finite.
    """
    factors, means = [], []
    for x in (first, second):
        x = np.asarray(x, np.float64)
        if x.ndim != 2 or len(x) < 2 or x.shape[1] != np.shape(first)[1]:
            raise ValueError(
                "features: expected [N, F] and [P, F] with N, P >= 2, "
                f"got {np.shape(first)} and {np.shape(second)}"
            )
        if not np.isfinite(x).all():
            raise ValueError("features: expected finite numbers, got NaN or infinity")
        means.append(x.mean(axis=0))
        # R of a QR decomposition is the same factor with F rows at most.
        factors.append(np.linalg.qr((x - means[-1]) / np.sqrt(len(x) - 1), mode="r"))
    cross = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    spread = sum((a**2).sum() for a in factors) - 2 * cross
    return float(max(((means[0] - means[1]) ** 2).sum() + spread, 0.0))


def real_features(
    extractors: Extractors, arrays: Mapping[str, np.ndarray]
) -> dict[str, Float[np.ndarray, "N F"]]:
    """Features of real images, by modality that has an extractor."""
    program = jax.jit(lambda extract, x: extract(data.to_float(x)))
    return {
        name: np.concatenate(
            [
                np.asarray(program(extract, batch[name]))[:count]
                for count, batch in batches(arrays, (name,), BATCH_SIZE)
            ]
        )
        for name, extract in extractors.items()
    }


def conditional_features(
    model: Model,
    params: Any,
    extractors: Extractors,
    arrays: Mapping[str, np.ndarray],
    key: PRNGKeyArray,
) -> dict[str, Float[np.ndarray, "N F"]]:
    """Features of one sample per example of each modality, given all the others.

    Args:
      model: of at least two modalities.
      params: its parameters.
      extractors: by modality.
      arrays: real examples by modality, [N, *shape].
      key: PRNG key.

    Returns:
      By modality that has an extractor.
    """
    names = tuple(model.modalities)

    @jax.jit
    def program(params: Any, extractors: Any, key: PRNGKeyArray, batch: Any) -> dict[str, Array]:
        batch = {name: data.to_float(x) for name, x in batch.items()}
        encodings = model.encodings(params, batch)
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        return {
            name: extract(sample_given_others(model, params, encodings, name, keys[name])[0])
            for name, extract in extractors.items()
        }

    parts = []
    total = list(batches(arrays, names, BATCH_SIZE))
    for b, (count, batch) in enumerate(track(total, "samples given all others")):
        features = program(params, dict(extractors), jax.random.fold_in(key, b), batch)
        parts.append({name: np.asarray(x)[:count] for name, x in features.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in extractors}


def prior_features(
    model: Model, params: Any, extractors: Extractors, key: PRNGKeyArray, num_samples: int
) -> dict[str, Float[np.ndarray, "S F"]]:
    """Features of samples from the prior, by modality that has an extractor."""
    size = min(BATCH_SIZE, num_samples)

    @jax.jit
    def program(params: Any, extractors: Any, key: Any) -> Any:
        samples = model.sample(params, key, size)
        return {name: extract(samples[name]) for name, extract in extractors.items()}

    parts = [
        jax.device_get(program(params, dict(extractors), jax.random.fold_in(key, i)))
        for i in range(0, num_samples, size)
    ]
    return {name: np.concatenate([p[name] for p in parts])[:num_samples] for name in extractors}


def frechet_distances(
    model: Model,
    params: Any,
    extractors: Extractors,
    arrays: Mapping[str, np.ndarray],
    key: PRNGKeyArray,
    prior_samples: int,
) -> dict[str, dict[str, float]]:
    """Distances of generated images from the real ones, by modality.

    Args:
      model: of at least two modalities.
      params: its parameters.
      extractors: features by modality; those that have none are left out.
      arrays: real examples by modality, [N, *shape].
      key: PRNG key.
      prior_samples: for the unconditional distance.

    Returns:
      ``conditional``, of samples given all other modalities, and ``unconditional``.
    """
    real = real_features(extractors, arrays)
    keys = jax.random.split(key)
    generated = {
        "conditional": conditional_features(model, params, extractors, arrays, keys[0]),
        "unconditional": prior_features(model, params, extractors, keys[1], prior_samples),
    }
    return {
        kind: {name: frechet_distance(real[name], x) for name, x in features.items()}
        for kind, features in generated.items()
    }
