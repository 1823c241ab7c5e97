"""Non-linear views of latents that can be recovered up to an affine map.

Hirt et al. 2024, section 5.2: z comes from a mixture of Gaussians, and every view is a piecewise
linear injective function of it plus Gaussian noise. Such models are identifiable up to an affine
map of z (Kivva et al. 2022), and each cluster's axes are a mixture model's to find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from holderjax.data.dataset import Dataset, Split

SLOPE = 0.2


@dataclass(frozen=True)
class Identifiable:
    """The parameters.

    Attributes:
      means: of the clusters of z, [C, D].
      scales: standard deviations, [C, D].
      layers: by view two matrices: x = leaky_relu(z A) B + noise.
      noise: standard deviation of every element of every view.
    """

    means: Float[np.ndarray, "C D"]
    scales: Float[np.ndarray, "C D"]
    layers: dict[str, tuple[Float[np.ndarray, "D H"], Float[np.ndarray, "H _"]]]
    noise: float

    def draw(
        self, size: int, rng: np.random.Generator
    ) -> tuple[
        dict[str, Float[np.ndarray, "N _"]], Float[np.ndarray, "N D"], Int[np.ndarray, " N"]
    ]:
        """Examples by view, float32, their latents and the clusters that these are from."""
        clusters = rng.integers(0, len(self.means), size)
        z = rng.normal(self.means[clusters], self.scales[clusters])
        views = {}
        for name, (first, second) in self.layers.items():
            hidden = z @ first
            x = np.where(hidden > 0, hidden, SLOPE * hidden) @ second
            views[name] = (x + self.noise * rng.normal(size=x.shape)).astype(np.float32)
        return views, z, clusters


def load(seed: int = 0) -> Dataset:
    """Views ``view0`` .. ``view4`` of `random_identifiable`, whose noise the data set knows.

    Args:
        seed: of the model and of its examples.

    Returns:
        5,000 training and 1,000 test examples, the same for the same seed; their classes are the
        clusters of the latents.
    """
    model = random_identifiable(np.random.default_rng(seed))
    splits = []
    for size in (5000, 1000):
        views, _, clusters = model.draw(size, np.random.default_rng([seed, size]))
        splits.append(Split(views, clusters.astype(np.int32)))
    noise = dict.fromkeys(model.layers, model.noise)
    return Dataset("identifiable", *splits, num_classes=len(model.means), noise=noise)


def random_identifiable(
    rng: np.random.Generator,
    num_views: int = 5,
    latent_dim: int = 2,
    clusters: int = 5,
    size: int = 25,
    hidden: int = 10,
    noise: float = 0.2,
) -> Identifiable:
    """Views of ``size`` elements, with orthonormal rows of weights, which are injective.

    Args:
      rng: of the parameters.
      num_views: how many views.
      latent_dim: D, at most ``hidden``.
      clusters: C of the mixture; their means lie apart.
      size: of each view, at least ``hidden``.
      hidden: units of the layer between.
      noise: standard deviation.

    Returns:
      The model.
    """

    def rows(shape: tuple[int, int]) -> np.ndarray:
        return np.linalg.qr(rng.normal(size=shape[::-1]))[0].T

    means = rng.normal(size=(clusters, latent_dim))
    for _ in range(200):  # clusters on top of each other would be one: push neighbours apart
        apart = means[:, None] - means[None]
        distance = np.linalg.norm(apart, axis=-1) + np.eye(clusters) * 1e9
        means += 0.02 * (apart / distance[..., None] ** 2).sum(axis=1)
        means /= means.std(axis=0)
    layers = {
        f"view{s}": (rows((latent_dim, hidden)) * hidden**0.5, rows((hidden, size)))
        for s in range(num_views)
    }
    scales = rng.uniform(0.15, 0.4, size=(clusters, latent_dim))
    return Identifiable(means - means.mean(axis=0), scales, layers, noise)
