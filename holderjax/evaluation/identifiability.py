"""How well inferred latents match the true ones (Hirt et al. 2024, section 5.2)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def mean_correlation(true: Float[np.ndarray, "N D"], found: Float[np.ndarray, "N E"]) -> float:
    """MCC: the mean absolute correlation of the best one-to-one match of coordinates.

    Args:
      true: latents that made the data, with D coordinates.
      found: inferred ones, E >= D coordinates, none of them constant.

    Returns:
      A number in [0, 1]; 1 if each true coordinate is an affine function of one inferred one.

    Raises:
      ValueError: for different numbers of examples, and for fewer coordinates than true ones.
    """
    from scipy.optimize import linear_sum_assignment

    true, found = np.asarray(true, np.float64), np.asarray(found, np.float64)
    if len(true) != len(found) or found.shape[1] < true.shape[1]:
        raise ValueError(
            f"latents: expected [N, D] and [N, E] with E >= D, got {true.shape} and {found.shape}"
        )
    dim = true.shape[1]
    correlation = np.abs(np.corrcoef(true.T, found.T)[:dim, dim:])
    return float(correlation[linear_sum_assignment(correlation, maximize=True)].mean())


def affine_mean_correlation(
    true: Float[np.ndarray, "N D"], found: Float[np.ndarray, "N E"]
) -> float:
    """The weak MCC: the same after the best affine map of the inferred latents.

    That is the mean multiple correlation of the true coordinates with all inferred ones. It is what
    identifiability up to an affine map promises.

    Args:
      true: as in `mean_correlation`.
      found: as there.

    Returns:
      A number in [0, 1].
    """
    true = np.asarray(true, np.float64)
    design = np.column_stack([np.asarray(found, np.float64), np.ones(len(found))])
    mapped = design @ np.linalg.lstsq(design, true, rcond=None)[0]
    explained = ((mapped - true.mean(axis=0)) ** 2).sum(axis=0)
    return float(np.sqrt(explained / ((true - true.mean(axis=0)) ** 2).sum(axis=0)).mean())
