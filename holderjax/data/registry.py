"""The data sets that are known by name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from holderjax.data import digits, polymnist
from holderjax.data.dataset import Dataset
from holderjax.naming import unknown


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """A row of the table of data sets.

    Attributes:
        name: what ``load`` and the command line call it.
        description: one line for people.
        modalities: their names and shapes, in words.
        needs: what has to be on disk.
        loader: called with the options of ``load``.
    """

    name: str
    description: str
    modalities: str
    needs: str
    loader: Callable[..., Dataset]


DATASETS = {
    row.name: row
    for row in (
        DatasetInfo(
            "digits",
            "1,797 handwritten digits over five pictures (1,500 in 12,000 train, 297 test)",
            "m0..m4: 16x16x3",
            "nothing: scikit-learn and scikit-image hold it",
            digits.load,
        ),
        DatasetInfo(
            "polymnist",
            "MNIST over five pictures (60,000 train, 10,000 test)",
            "m0..m4: 28x28x3",
            "root: the official tree of PNGs; or mnist: the four IDX files, "
            "and backgrounds: a folder of pictures",
            polymnist.load,
        ),
    )
}


def load(name: str, **options: Any) -> Dataset:
    """The data set called ``name``, read into memory.

    Args:
        name: a key of ``DATASETS``.
        **options: what its loader takes (``DATASETS[name].loader``).

    Raises:
        ValueError: for an unknown name or option, or damaged files.
        FileNotFoundError: for files that are not where they should be.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    loader = DATASETS[name].loader
    taken = inspect.signature(loader).parameters
    for option in options:
        if option not in taken:
            raise unknown(f"option of data set {name!r},", option, taken)
    return loader(**options)
