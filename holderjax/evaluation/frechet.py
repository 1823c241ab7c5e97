r"""The Fréchet distance between real and generated images, in the features of a network.

Between Gaussians with the features' means and covariances (Heusel et al. 2017, equation 6):

.. math:: d^2 = |\mu_1 - \mu_2|^2 + \mathrm{tr}\big(C_1 + C_2 - 2 (C_1 C_2)^{1/2}\big)

With the features of Inception-v3 that is FID. In the features of the project's own classifiers it
is another number, and is called classifier-fd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from holderjax import data
from holderjax.evaluation.coherence import Table
from holderjax.evaluation.examples import over_batches
from holderjax.evaluation.progress import track
from holderjax.evaluation.sampling import BATCH_SIZE, latents_given_subsets, prior_samples

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, PRNGKeyArray

    from holderjax.models import Model

# By modality: images in [0, 1], [B, H, W, C], to features [B, F]; callable pytrees.
Extractors = Mapping[str, Callable[[Any], Any]]


@dataclass(frozen=True)
class Gaussian:
    """What a set of features is to the distance.

    Attributes:
      mean: of the features.
      factor: A with :math:`C = A^T A`, R at most F and at most the size of the set.
    """

    mean: Float[np.ndarray, " F"]
    factor: Float[np.ndarray, "R F"]


@dataclass(frozen=True)
class Measure:
    """A network's features, and what they are of real images.

    Attributes:
      extractors: of the features, by modality; those that have none are left out.
      real: fits to the features of real images, by the same names.
    """

    extractors: Extractors
    real: Mapping[str, Gaussian]


@dataclass(frozen=True)
class Distances:
    """Squared Fréchet distances of generated images from the real ones.

    Attributes:
      by_subset: of samples given the observed names, then by target: ``by_subset["m0,m2"]["m1"]``.
      unconditional: of samples from the prior, by modality.
    """

    by_subset: Table
    unconditional: dict[str, float]


def fit(features: Float[np.ndarray, "N F"]) -> Gaussian:
    """The Gaussian of a set's mean and its covariance over N - 1.

    Args:
      features: N >= 2.

    Returns:
      The fit, in float64.

    Raises:
      ValueError: for less than two, and for values that are not finite.
    """
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"features: expected [N, F] with N >= 2, got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("features: expected finite numbers, got NaN or infinity")
    mean = x.mean(axis=0)
    # R of a QR decomposition is the same factor with F rows at most.
    return Gaussian(mean, np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r"))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    r"""The squared Fréchet distance of two Gaussians.

    With :math:`C_i = A_i^T A_i` the trace of the root is the sum of the singular values of
    :math:`A_1 A_2^T`: no root of a matrix, and sound for fewer examples than features, where
    covariances have no full rank.

    Args:
      first: from `fit`.
      second: in the same features.

    Returns:
      The distance, at least zero.

    Raises:
      ValueError: for features of different widths.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"features: expected one width, got {first.mean.shape[0]} and {second.mean.shape[0]}"
        )
    cross = np.linalg.svd(first.factor @ second.factor.T, compute_uv=False).sum()
    spread = (first.factor**2).sum() + (second.factor**2).sum() - 2 * cross
    return float(max(((first.mean - second.mean) ** 2).sum() + spread, 0.0))


@jax.jit
def extract(extractor: Callable[[Any], Any], images: Any) -> Any:
    """Features; modalities of one shape share the compiled program."""
    return extractor(images)


def measure(extractors: Extractors, arrays: Mapping[str, np.ndarray]) -> Measure:
    """With the fits to real images.

    Args:
      extractors: by modality.
      arrays: real examples by modality, [N, *shape].

    Returns:
      What `frechet_distances` compares by.
    """
    return Measure(
        extractors,
        {name: fit_real(extractor, arrays[name]) for name, extractor in extractors.items()},
    )


def fit_real(extractor: Callable[[Any], Any], images: np.ndarray) -> Gaussian:
    """The fit to the features of real images, as a data set holds them, [N, *shape]."""
    features = over_batches(
        lambda _, batch: extract(extractor, data.to_float(batch["images"])).T,
        *({"images": images}, ("images",), BATCH_SIZE, "features of real images"),
    )
    return fit(features.T)


def frechet_distances(
    model: Model,
    params: Any,
    measures: Mapping[str, Measure],
    arrays: Mapping[str, np.ndarray],
    subsets: Bool[np.ndarray, "O M"],
    key: PRNGKeyArray,
    num_prior_samples: int,
) -> dict[str, Distances]:
    """Distances of generated images from the real ones; every measure sees the same samples.

    One sample per example of each modality that is not observed, for every observed subset.

    Args:
      model: of at least two modalities.
      params: its parameters.
      measures: by any name.
      arrays: real examples by modality, [N, *shape].
      subsets: the observed modalities as masks.
      key: PRNG key.
      num_prior_samples: for the unconditional distance.

    Returns:
      By the measures' names.
    """
    names = tuple(model.modalities)
    key_given, key_prior = jax.random.split(key)

    @partial(jax.jit, static_argnums=0)
    def decode(name: str, params: Any, latents: Any) -> Any:
        return model.decode(params, name, *latents)[0]

    # All latents first, which are small; then one subset after the other, so that no more features
    # are held at once than one distance needs.
    drawn = latents_given_subsets(model, params, arrays, subsets, key_given)
    counts, latents = zip(*drawn, strict=True)
    given: dict[str, Table] = {kind: {} for kind in measures}
    for o, mask in enumerate(track(subsets, "Fréchet distances by subset")):
        observed = ",".join(name for name, seen in zip(names, mask, strict=True) if seen)
        for name, seen in zip(names, mask, strict=True):
            if not seen:
                images = (
                    decode(name, params, jax.tree.map(lambda x, o=o: x[o], batch))
                    for batch in latents
                )
                for kind, x in distances_of(measures, name, images, counts).items():
                    given[kind].setdefault(observed, {})[name] = x

    samples = prior_samples(model, params, key_prior, num_prior_samples)
    counts, batches = zip(*((count, jax.device_get(x)) for count, x in samples), strict=True)
    unconditional: dict[str, dict[str, float]] = {kind: {} for kind in measures}
    for name in track(names, "Fréchet distances of prior samples"):
        images = (batch[name] for batch in batches)
        for kind, x in distances_of(measures, name, images, counts).items():
            unconditional[kind][name] = x
    return {kind: Distances(given[kind], unconditional[kind]) for kind in measures}


def distances_of(
    measures: Mapping[str, Measure], name: str, images: Iterable[Any], counts: Sequence[int]
) -> dict[str, float]:
    """How far images of one modality are from the real ones, by each measure that has it.

    Args:
      measures: by any name.
      name: of the modality.
      images: batches in [0, 1], [B, H, W, C].
      counts: how many of each batch count.

    Returns:
      The distances; without those measures that have no features of the modality.
    """
    having = {kind: x for kind, x in measures.items() if name in x.extractors}
    if not having:
        return {}
    parts: dict[str, list[np.ndarray]] = {kind: [] for kind in having}
    for batch, count in zip(images, counts, strict=True):
        for kind, x in having.items():
            parts[kind].append(np.asarray(extract(x.extractors[name], batch))[:count])
    return {
        kind: frechet_distance(x.real[name], fit(np.concatenate(parts[kind])))
        for kind, x in having.items()
    }
