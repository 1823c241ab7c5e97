"""The linear Gaussian model of several views, whose likelihood and posterior are known exactly.

Hirt et al. 2024, section 5.1 (after Tipping and Bishop 1999): z ~ N(0, I), and each view is
x_s = W_s z + b_s + noise of variance sigma^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from holderjax.data.dataset import Dataset, Split


@dataclass(frozen=True)
class LinearGaussian:
    """The parameters, in float64.

    Attributes:
      loadings: W_s by view, [D_s, D].
      biases: b_s by view, [D_s].
      variance: sigma^2, of every element of every view.
    """

    loadings: dict[str, Float[np.ndarray, "_ D"]]
    biases: dict[str, Float[np.ndarray, " _"]]
    variance: float = 1.0

    def draw(self, size: int, rng: np.random.Generator) -> dict[str, Float[np.ndarray, "N _"]]:
        """Examples by view, float32."""
        z = rng.normal(size=(size, next(iter(self.loadings.values())).shape[1]))
        return {
            name: (
                z @ w.T + self.biases[name] + self.variance**0.5 * rng.normal(size=(size, len(w)))
            ).astype(np.float32)
            for name, w in self.loadings.items()
        }

    def log_likelihood(self, views: Mapping[str, np.ndarray]) -> Float[np.ndarray, " N"]:
        """log p of the given views, all or some of them, in nats."""
        w, x = self._stacked(views)
        sigma = self.variance
        capacity = np.eye(w.shape[1]) + w.T @ w / sigma
        # Woodbury: the covariance W W^T + sigma^2 I is wide, the latent space is not.
        projected = x @ w
        squared = (x**2).sum(axis=1) / sigma - np.einsum(
            "nd,nd->n", projected, np.linalg.solve(capacity, projected.T).T
        ) / (sigma**2)
        log_det = len(w) * np.log(2 * np.pi * sigma) + np.linalg.slogdet(capacity)[1]
        return -0.5 * (squared + log_det)

    def posterior(
        self, views: Mapping[str, np.ndarray]
    ) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "D D"]]:
        """Means and the covariance of p(z | the given views)."""
        w, x = self._stacked(views)
        covariance = np.linalg.inv(np.eye(w.shape[1]) + w.T @ w / self.variance)
        return x @ w @ covariance / self.variance, covariance

    def _stacked(self, views: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        names = [name for name in self.loadings if name in views]
        centred = [np.asarray(views[name], np.float64) - self.biases[name] for name in names]
        return np.concatenate([self.loadings[name] for name in names]), np.concatenate(
            centred, axis=1
        )


def load(seed: int = 0) -> Dataset:
    """Views ``view0`` .. ``view4`` of `random_model`, whose noise the data set knows.

    Args:
        seed: of the model and of its examples.

    Returns:
        5,000 training and 1,000 test examples, the same for the same seed.
    """
    model = random_model(np.random.default_rng(seed))
    splits = [Split(model.draw(size, np.random.default_rng([seed, size]))) for size in (5000, 1000)]
    return Dataset(
        "linear-gaussian", *splits, noise=dict.fromkeys(model.loadings, model.variance**0.5)
    )


def random_model(
    rng: np.random.Generator, num_views: int = 5, latent_dim: int = 5
) -> LinearGaussian:
    """Views of 30 to 59 elements with orthonormal loadings and unit noise variance."""
    sizes = rng.integers(30, 60, num_views)
    loadings = {
        f"view{s}": np.linalg.qr(rng.normal(size=(n, latent_dim)))[0] for s, n in enumerate(sizes)
    }
    return LinearGaussian(loadings, {name: rng.normal(size=len(w)) for name, w in loadings.items()})


def maximum_likelihood(
    views: Mapping[str, np.ndarray], latent_dim: int, variance: float = 1.0
) -> LinearGaussian:
    """The model that maximises the likelihood, of known variance (Tipping and Bishop, eq. 14).

    W = U (Lambda - sigma^2 I)^(1/2), with the leading eigenvectors and eigenvalues of the views'
    joint covariance.
    """
    x = np.concatenate([np.asarray(v, np.float64) for v in views.values()], axis=1)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    scales = np.sqrt(np.maximum(values[-latent_dim:] - variance, 0.0))
    w = vectors[:, -latent_dim:] * scales
    ends = np.cumsum([v.shape[1] for v in views.values()])[:-1]
    split = {
        what: dict(zip(views, np.split(whole, ends), strict=True))
        for what, whole in (("loadings", w), ("biases", x.mean(axis=0)))
    }
    return LinearGaussian(**split, variance=variance)
