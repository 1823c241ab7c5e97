"""A user's own data: one ``.npz`` file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from holderjax.data.dataset import LABELS, Dataset


def load(file: Path) -> Dataset:
    """The data set in a file that ``numpy.savez`` or ``numpy.savez_compressed`` wrote.

    ``NAME_train`` and ``NAME_test`` hold the modality ``NAME``, ``[N, *shape]``: bytes 0..255 for
    images, anything else as float32. The modalities' order is that of the ``NAME_train``. Classes
    from 0, ``[N]``, may be in ``labels_train`` and ``labels_test``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, the array and what was expected.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is not a whole file of numpy.savez")
    splits: dict[str, dict[str, np.ndarray]] = {"train": {}, "test": {}}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            for key in arrays:
                name, _, split = key.rpartition("_")
                if not name or split not in splits:
                    raise ValueError(
                        f"the array {key!r} is called neither NAME_train nor NAME_test"
                    )
                splits[split][name] = arrays[key]
        return _dataset(file.stem, splits["train"], splits["test"])
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file}: {error}") from error


def _dataset(name: str, train: dict[str, np.ndarray], test: dict[str, np.ndarray]) -> Dataset:
    if odd := sorted(train.keys() ^ test.keys()):
        split, other = ("train", "test") if odd[0] in train else ("test", "train")
        raise ValueError(f"there is {odd[0]}_{split}, but no {odd[0]}_{other}")
    labels = [arrays.pop(LABELS, None) for arrays in (train, test)]
    test = {modality: test[modality] for modality in train}
    return Dataset.from_arrays(name, train, test, *labels)
