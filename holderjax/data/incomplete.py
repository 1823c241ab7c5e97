"""Incomplete data from complete: modalities that are absent at random."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from holderjax.data.dataset import Dataset


def hide(dataset: Dataset, ratios: Sequence[float], seed: int = 0) -> Dataset:
    """The data set with training examples that lack modalities at random.

    Every modality is absent independently of the others and of its values. An example that would be
    left with nothing keeps one of its modalities, drawn uniformly; ratios near one are therefore
    not reached. The test examples stay complete.

    Args:
        dataset: any.
        ratios: the share of the training examples that lack a modality, one for each modality in
            their order, or one for all.
        seed: the same seed, ratios and number of examples give the same absences.

    Returns:
        The data set, with ``train.observed``.

    Raises:
        ValueError: for a wrong number of ratios, and for those outside [0, 1).
    """
    names = list(dataset.modalities)
    if len(ratios) not in (1, len(names)):
        raise ValueError(
            f"missing: expected one share, or one for each of {', '.join(names)}, got {len(ratios)}"
        )
    for ratio in ratios:
        if not 0 <= ratio < 1:
            raise ValueError(f"missing: expected shares of at least 0 and below 1, got {ratio}")
    rng = np.random.default_rng(seed)
    size = len(dataset.train)
    observed = rng.random((size, len(names))) >= np.asarray(ratios)
    kept = rng.integers(len(names), size=size)
    nothing = ~observed.any(axis=1)
    observed[nothing, kept[nothing]] = True
    return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, observed=observed))
