"""Examples on their way from raw files to prepared records: made block by block, never all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from holderjax.data.dataset import Split
from holderjax.data.text import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """A split that is not in memory.

    Attributes:
        size: N.
        block: rows (a slice with both ends) -> modality name -> ``[rows, *shape]``; the same for
            the same rows whenever it is asked.
        labels: int32 ``[N]`` classes from 0, or None.
    """

    size: int
    block: Callable[[slice], Mapping[str, np.ndarray]]
    labels: np.ndarray | None = None

    @classmethod
    def of(cls, split: Split) -> Examples:
        """The examples of a split that is in memory."""
        return cls(
            len(split),
            lambda rows: {name: array[rows] for name, array in split.arrays.items()},
            split.labels,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What the raw files of a data set hold, read and checked.

    Attributes:
        splits: "train", "test" and whatever else the data set defines.
        num_classes: as in ``Dataset``.
        vocabularies: as in ``Dataset``.
        binary: as in ``Dataset``.
    """

    splits: Mapping[str, Examples]
    num_classes: int = 0
    vocabularies: Mapping[str, Vocabulary] = dataclasses.field(default_factory=dict)
    binary: tuple[str, ...] = ()
