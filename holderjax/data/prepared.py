"""Data sets that were read from raw files once, and are kept as TFDS array records.

The records are written and read by TensorFlow Datasets, without TensorFlow. A record is a block of
examples: TFDS takes some 0.1 ms a record, which a million single digits would feel at every start.
They are written shard by shard: TFDS's ``GeneratorBasedBuilder`` collects a whole split first, and
needs TensorFlow for more than a gigabyte of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from holderjax.data.cache import cache_dir
from holderjax.data.dataset import LABELS, RESERVED, Dataset, Split
from holderjax.data.examples import Examples, Source
from holderjax.data.text import Vocabulary

# Of the layout of the records; another version is prepared anew.
VERSION = "1.1.0"
BLOCK = 64
# TFDS holds the blocks of a shard in memory until it is written.
SHARD_BYTES = 1 << 27

# Name -> shape of one example, type.
Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]


def location(name: str) -> Path:
    """Where the prepared records of data set ``name`` are, or would be."""
    return _root() / _identifier(name) / VERSION


def is_prepared(name: str) -> bool:
    """Whether ``load`` finds the data set."""
    return location(name).is_dir()


def options(name: str) -> dict[str, Any]:
    """What the prepared data set was made with: the options of its reader.

    Raises:
        FileNotFoundError: if it is not prepared.
        ValueError: if its description is damaged.
    """
    file = _existing(name) / "metadata.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(name, error) from error


def state(name: str) -> str:
    """For people: "no", "damaged", or "yes" with the options that it was prepared with."""
    if not is_prepared(name):
        return "no"
    try:
        chosen = options(name)
    except ValueError:
        return "damaged"
    return ", ".join(["yes", *(f"{key} {value}" for key, value in chosen.items())])


def write(name: str, source: Source, made_with: Mapping[str, Any]) -> Path:
    """Keep the examples of ``source`` as the data set ``name``, in the place of what was there.

    Everything is written into a folder beside it, which is renamed once it is whole: whatever
    stops this leaves what was there, or nothing.

    Args:
        name: of the data set.
        source: its examples.
        made_with: the options of their reader, JSON values; kept for people.

    Returns:
        The folder.

    Raises:
        ValueError, FileNotFoundError: from the source's blocks, naming the file at fault.
        OSError: if the records cannot be written.
    """
    final = location(name)
    unfinished = _root() / f".{_identifier(name)}.partial"
    # Left by a preparation that was killed.
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        # TFDS announces a download, which this is not.
        with contextlib.redirect_stdout(io.StringIO()):
            made = _generate(name, source, made_with, unfinished)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            final.rename(unfinished / "replaced")
        made.rename(final)
    # ArrayRecord's error, for one, of a full disk.
    except RuntimeError as error:
        raise OSError(f"{final} could not be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return final


def load(name: str) -> Dataset:
    """The training and the test examples of a prepared data set, read into memory.

    Raises:
        FileNotFoundError: if it is not prepared, saying how to.
        ValueError: naming the damaged folder.
    """
    builder = _builder(name)
    splits = {}
    try:
        metadata = builder.info.metadata
        for split in ("train", "test"):
            splits[split] = _read(builder.as_data_source(split), metadata["sizes"][split], metadata)
        vocabularies = {
            modality: Vocabulary.from_json(entry)
            for modality, entry in metadata["vocabularies"].items()
        }
        return Dataset(
            name,
            splits["train"],
            splits["test"],
            num_classes=metadata["num_classes"],
            vocabularies=vocabularies,
            binary=tuple(metadata["binary"]),
        )
    # ArrayRecord reports damage as a RuntimeError; the others are of damaged descriptions.
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise _damaged(name, error) from error


def _root() -> Path:
    return cache_dir() / "datasets"


def _identifier(name: str) -> str:
    """TFDS takes letters, digits and underscores alone."""
    return name.replace("-", "_")


def _damaged(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"{location(name)} is damaged ({error}); prepare it anew: "
        f"holderjax data prepare {name} --replace"
    )


def _existing(name: str) -> Path:
    folder = location(name)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name} is not prepared: there is no {folder}; run holderjax data prepare {name}"
        )
    return folder


def _builder(name: str) -> Any:
    folder = _existing(name)
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(folder)
    # Whatever a parser makes of a damaged file.
    except Exception as error:
        raise _damaged(name, error) from error


def _generate(name: str, source: Source, made_with: Mapping[str, Any], folder: Path) -> Path:
    """Write the records with TFDS; returns the folder that holds them."""
    import tensorflow_datasets as tfds

    shapes = _shapes(source.splits["train"])
    identifier = _identifier(name)

    class Info(tfds.core.DatasetInfo):
        """Of a data set that TFDS's servers do not know: asking them leaves a folder in /tmp."""

        def initialize_from_bucket(self) -> None:
            """Not asked."""

    class Builder(tfds.core.ShardBasedBuilder, skip_registration=True):
        """The records of one data set."""

        VERSION = tfds.core.Version(VERSION)
        name = identifier

        def _info(self) -> Any:
            return Info(
                builder=self,
                description=f"holderjax: {name}",
                # Bytes as they are: TFDS's default spends a variable-length integer on each.
                features=tfds.features.FeaturesDict(
                    {
                        key: tfds.features.Tensor(
                            shape=(None, *shape), dtype=dtype, encoding=tfds.features.Encoding.BYTES
                        )
                        for key, (shape, dtype) in shapes.items()
                    }
                ),
                disable_shuffling=True,
                metadata=tfds.core.MetadataDict(
                    modalities=[key for key in shapes if key != LABELS],
                    sizes={split: examples.size for split, examples in source.splits.items()},
                    num_classes=source.num_classes,
                    vocabularies={
                        modality: vocabulary.to_json()
                        for modality, vocabulary in source.vocabularies.items()
                    },
                    binary=list(source.binary),
                    options=dict(made_with),
                ),
            )

        def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, Any]:
            return {split: _shards(examples, shapes) for split, examples in source.splits.items()}

    builder = Builder(data_dir=folder, file_format="array_record")
    builder.download_and_prepare(download_dir=folder / "downloads")
    return Path(builder.data_dir)


def _shapes(examples: Examples) -> Shapes:
    first = _block(examples, slice(0, 1))
    return {name: (array.shape[1:], array.dtype) for name, array in first.items()}


def _shards(examples: Examples, shapes: Shapes) -> list[Callable[[], Iterator[tuple[int, Any]]]]:
    """One generator of (row, block) for each shard."""
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values())
    length = BLOCK * max(1, SHARD_BYTES // (BLOCK * size))
    return [
        partial(_blocks, examples, start, min(start + length, examples.size))
        for start in range(0, examples.size, length)
    ]


def _blocks(examples: Examples, start: int, stop: int) -> Iterator[tuple[int, Any]]:
    for row in range(start, stop, BLOCK):
        yield row, _block(examples, slice(row, min(row + BLOCK, stop)))


def _block(examples: Examples, rows: slice) -> dict[str, np.ndarray]:
    block = dict(examples.block(rows))
    for name in (LABELS, RESERVED):
        if name in block:
            raise ValueError(f"no modality may be called {name!r}")
    labels = {} if examples.labels is None else {LABELS: examples.labels[rows]}
    return block | labels


def _read(records: Any, size: int, metadata: Mapping[str, Any]) -> Split:
    names = [*metadata["modalities"], *([LABELS] if metadata["num_classes"] else [])]
    arrays: dict[str, np.ndarray] = {}
    row = 0
    for record in records:
        if not arrays:
            arrays = {
                name: np.empty((size, *record[name].shape[1:]), record[name].dtype)
                for name in names
            }
        rows = slice(row, row + len(record[names[0]]))
        for name in names:
            arrays[name][rows] = record[name]
        row = rows.stop
    if row != size:
        raise ValueError(f"{row} examples, expected {size}")
    labels = arrays.pop(LABELS, None)
    return Split(arrays, labels)
