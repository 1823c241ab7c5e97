"""FID's measure: Inception's features, and their fits to real images from the cache."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
from jax.tree_util import Partial

from holderjax import data
from holderjax.evaluation import inception
from holderjax.evaluation.classifiers import DAMAGE, image_modalities
from holderjax.evaluation.frechet import Gaussian, Measure, fit_real
from holderjax.evaluation.inception import Weights
from holderjax.files import replacing

logger = logging.getLogger(__name__)


def fid_measure(weights: Weights, dataset: data.Dataset, split: data.Split) -> Measure:
    """Inception's features of every image modality.

    The fits to real images are kept in the cache folder of the data. A damaged file there is
    replaced, with a warning.

    Args:
      weights: from `load_inception`.
      dataset: whose modalities to measure.
      split: its test examples, or the first of them.

    Returns:
      What `frechet_distances` compares by.

    Raises:
      ValueError: for images of other than one or three channels.
    """
    extractor = Partial(inception.features, weights.params)
    names = image_modalities(split.arrays)
    real = {}
    for name in names:
        path = cache_path(weights, dataset, split, name)
        if path.exists():
            try:
                real[name] = read_gaussian(path)
                continue
            except DAMAGE as error:
                logger.warning("%s is damaged (%s): measuring real images again", path, error)
        real[name] = fit_real(extractor, split.arrays[name])
        with replacing(path) as file:
            np.savez(file, mean=real[name].mean, factor=real[name].factor)
    return Measure(dict.fromkeys(names, extractor), real)


def cache_path(weights: Weights, dataset: data.Dataset, split: data.Split, name: str) -> Path:
    """Where the cache keeps the fit to one modality, of so many test examples of this data."""
    facts = [dataset.fingerprint, "test", len(split), name, weights.digest, inception.VERSION]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return data.cache_dir() / "inception" / f"{dataset.name}-{name}-{key}.npz"


def read_gaussian(path: Path) -> Gaussian:
    """Read a fit that was kept; raises one of `DAMAGE` if it is not whole."""
    with np.load(path, allow_pickle=False) as stored:
        mean, factor = stored["mean"], stored["factor"]
    if mean.shape != (inception.FEATURES,) or factor.shape[1:] != mean.shape:
        raise ValueError(
            f"expected {inception.FEATURES} features, got {mean.shape}, {factor.shape}"
        )
    return Gaussian(mean, factor)
