"""Data sets that TFDS has prepared, by their TFDS name."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np

from holderjax.data.dataset import RESERVED, Dataset

logger = logging.getLogger(__name__)

PREFIX = "tfds:"
# The first of these that there is becomes the test split.
TEST_SPLITS = ("test", "validation")
LABEL = "label"


def load(name: str, data_dir: str | None = None) -> Dataset:
    """A prepared TFDS data set, read into memory without TensorFlow.

    Every feature of numbers of a fixed shape is a modality, in alphabetical order: bytes are
    images, what TFDS calls bool is binary, anything else becomes float32. The feature ``label``, if
    it is a class, gives the classes. All other features (strings, lists, several classes) are left
    out, with a warning that names them.

    Args:
        name: as TFDS writes it, ``NAME[/CONFIG][:VERSION]``.
        data_dir: where TFDS keeps its data; its own default (``TFDS_DATA_DIR``,
            ``~/tensorflow_datasets``) if not given.

    Returns:
        The splits ``train`` and ``test``, or ``validation`` if there is no ``test``.

    Raises:
        FileNotFoundError: if it is not prepared, saying how to.
        ValueError: if it is in another format than array records, or no feature can be a modality.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    try:
        builder = builder_from_files(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"TFDS has not prepared {name!r} in {data_dir or tfds.core.constants.DATA_DIR}. Where "
            f"TensorFlow is installed: import tensorflow_datasets as tfds; "
            f"tfds.builder({name!r}, file_format='array_record').download_and_prepare()"
        ) from error
    held_out = [split for split in TEST_SPLITS if split in builder.info.splits]
    if "train" not in builder.info.splits or not held_out:
        raise ValueError(
            f"{name}: expected the splits train and test (or validation), got "
            f"{', '.join(builder.info.splits)}"
        )
    features = dict(builder.info.features.items())
    names = sorted(key for key, feature in features.items() if _is_modality(key, feature))
    if not names:
        raise ValueError(f"{name}: no feature is of numbers of a fixed shape, got {features}")
    labels = [LABEL] if isinstance(features.get(LABEL), tfds.features.ClassLabel) else []
    if left := sorted(set(features) - {*names, *labels}):
        logger.warning("%s: the features %s are no modalities here", name, ", ".join(left))
    train, test = (
        _read(name, builder, split, [*names, *labels]) for split in ("train", held_out[0])
    )
    classes = [arrays.pop(LABEL, None) for arrays in (train, test)]
    dataset = Dataset.from_arrays(name, train, test, *classes)
    # Not every class need occur.
    return dataclasses.replace(dataset, num_classes=features[LABEL].num_classes if labels else 0)


def _is_modality(key: str, feature: Any) -> bool:
    import tensorflow_datasets as tfds

    if key == RESERVED or isinstance(feature, tfds.features.ClassLabel):
        return False
    # A feature of several parts has dicts here.
    shape, dtype = feature.shape, feature.np_dtype
    return (
        isinstance(shape, tuple)
        and None not in shape
        and not isinstance(dtype, dict)
        and np.dtype(dtype).kind in "fiub"
    )


def _read(name: str, builder: Any, split: str, keys: list[str]) -> dict[str, np.ndarray]:
    try:
        records = builder.as_data_source(split)
    except NotImplementedError as error:
        raise ValueError(f"{name}: expected the file format array_record; {error}") from error
    rows = [records[i] for i in range(len(records))]
    return {key: np.stack([np.asarray(row[key]) for row in rows]) for key in keys}
