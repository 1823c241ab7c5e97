"""What a data set is here: named modalities as arrays in memory, split into train and test."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from holderjax.data.text import Vocabulary

# The batch dict uses this key for the observed-modality mask.
RESERVED = "mask"
# Files of several arrays use this one for the classes.
LABELS = "labels"
TYPES = (np.uint8, np.int32, np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Aligned examples: row i of every modality, and of the labels, belongs to example i.

    Attributes:
        arrays: modality name -> ``[N, *shape]``; uint8 for images (0..255), int32 for ids of words,
            float32 for anything else. The names' order is the modalities' order.
        labels: int32 ``[N]`` classes from 0, or None.
        observed: bool ``[N, M]``, False where a model may not look at a modality; None if it may
            look at everything.
    """

    arrays: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    observed: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.arrays:
            raise ValueError("a split needs at least one modality, got none")
        lengths = {name: _length(name, array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"every modality needs the same number of examples, got {lengths}")
        if len(self) == 0:
            raise ValueError("a split needs at least one example, got none")
        if self.labels is not None:
            _check_labels(self.labels, len(self))
        if self.observed is not None:
            _check_observed(self.observed, len(self), len(self.arrays))

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """What a model gets: the arrays, and under ``mask`` what is observed if not everything."""
        mask = {} if self.observed is None else {RESERVED: self.observed}
        return {**self.arrays, **mask}

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Modality name -> shape of one example."""
        return {name: array.shape[1:] for name, array in self.arrays.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A train and a test split over the same modalities.

    Attributes:
        name: what the data set is called in run folders and tables.
        train: the examples to learn from.
        test: the held-out examples.
        num_classes: labels lie in ``0 .. num_classes - 1``; 0 where there are none.
        vocabularies: of the modalities that are texts, ids of symbols: what the ids stand for.
        binary: the modalities whose values are yes or no, 1 or 0 (255 or 0 in images).
        noise: of the modalities whose noise is Gaussian and known: its standard deviation.
    """

    name: str
    train: Split
    test: Split
    num_classes: int = 0
    vocabularies: Mapping[str, Vocabulary] = dataclasses.field(default_factory=dict)
    binary: tuple[str, ...] = ()
    noise: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if list(self.train.shapes.items()) != list(self.test.shapes.items()):
            raise ValueError(
                "train and test need the same modalities in the same order and of the same shapes, "
                f"got {self.train.shapes} and {self.test.shapes}"
            )
        for split, examples in (("train", self.train), ("test", self.test)):
            for name, array in examples.arrays.items():
                if array.dtype != self.train.arrays[name].dtype:
                    raise ValueError(f"{split} {name!r} is {array.dtype}, unlike train's")
            if (examples.labels is None) != (self.num_classes == 0):
                raise ValueError(
                    f"num_classes is {self.num_classes}, but {split} has "
                    f"{'no' if examples.labels is None else 'some'} labels"
                )
            if examples.labels is not None and examples.labels.max() >= self.num_classes:
                raise ValueError(
                    f"{split} label {examples.labels.max()} is not in 0 .. {self.num_classes - 1}"
                )
            for name, vocabulary in self.vocabularies.items():
                _check_text(f"{split} {name!r}", examples.arrays.get(name), vocabulary)
            for name in self.binary:
                _check_binary(f"{split} {name!r}", examples.arrays.get(name))
        for name, scale in self.noise.items():
            if name not in self.modalities or not scale > 0:
                raise ValueError(
                    f"noise: expected positive numbers of {', '.join(self.modalities)}, "
                    f"got {scale} of {name!r}"
                )

    @classmethod
    def from_arrays(
        cls,
        name: str,
        train: Mapping[str, ArrayLike],
        test: Mapping[str, ArrayLike],
        train_labels: ArrayLike | None = None,
        test_labels: ArrayLike | None = None,
    ) -> Dataset:
        """A data set of your own arrays.

        Args:
            name: what to call it.
            train: modality name -> ``[N, *shape]``; uint8 images in 0..255, anything else becomes
                float32 and reaches the model unscaled. Bool arrays are binary modalities.
            test: the same modalities, held out.
            train_labels: integers ``[N]`` from 0, or None; needed for coherence, never for
                training.
            test_labels: as ``train_labels``; either both or neither.

        Returns:
            The validated data set; as many classes as the largest label says.

        Raises:
            ValueError: naming the modality and what was expected of it.
        """
        labels = [None if x is None else _as_labels(x) for x in (train_labels, test_labels)]
        return cls(
            name,
            Split({key: _as_modality(key, x) for key, x in train.items()}, labels[0]),
            Split({key: _as_modality(key, x) for key, x in test.items()}, labels[1]),
            max((int(x.max()) + 1 for x in labels if x is not None and x.size), default=0),
            binary=tuple(key for key, x in train.items() if np.asarray(x).dtype == bool),
        )

    @property
    def modalities(self) -> dict[str, tuple[int, ...]]:
        """Modality name -> shape of one example."""
        return self.train.shapes

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over names, shapes, types, values and labels; equal data, equal hash."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            labels = {} if split.labels is None else {"labels": split.labels}
            for part, arrays in (("modality", split.arrays), ("label", labels)):
                for name, array in arrays.items():
                    digest.update(f"{part} {name} {array.dtype.str} {array.shape};".encode())
                    digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()


def _length(name: str, array: np.ndarray) -> int:
    if name == RESERVED:
        raise ValueError(f"no modality may be called {name!r}: a batch keeps its mask there")
    if not isinstance(array, np.ndarray) or array.dtype not in TYPES:
        found = getattr(array, "dtype", type(array).__name__)
        raise ValueError(f"modality {name!r} must be a uint8, int32 or float32 array, got {found}")
    if array.ndim == 0:
        raise ValueError(f"modality {name!r} must be [N, *shape], got a single number")
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise ValueError(f"modality {name!r} holds values that are not finite")
    return len(array)


def _check_labels(labels: np.ndarray, num_examples: int) -> None:
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int32:
        found = getattr(labels, "dtype", type(labels).__name__)
        raise ValueError(f"labels must be an int32 array, got {found}")
    if labels.shape != (num_examples,):
        raise ValueError(f"labels must be [{num_examples}], one an example, got {labels.shape}")
    if labels.min() < 0:
        raise ValueError(f"labels must be classes from 0, got {labels.min()}")


def _check_observed(observed: np.ndarray, num_examples: int, num_modalities: int) -> None:
    if not isinstance(observed, np.ndarray) or observed.dtype != bool:
        found = getattr(observed, "dtype", type(observed).__name__)
        raise ValueError(f"observed must be a bool array, got {found}")
    if observed.shape != (num_examples, num_modalities):
        raise ValueError(
            f"observed must be [{num_examples}, {num_modalities}], got {observed.shape}"
        )
    if not observed.any(axis=1).all():
        raise ValueError("observed: every example needs at least one modality")


def _check_text(what: str, ids: np.ndarray | None, vocabulary: Vocabulary) -> None:
    if ids is None:
        raise ValueError(f"{what} has a vocabulary, but there is no such modality")
    if ids.ndim != 2 or ids.dtype != np.int32:
        raise ValueError(
            f"{what} is a text, expected int32 ids [N, length], got {ids.dtype} {ids.shape}"
        )
    for strange in (ids.min(), ids.max()):
        if not 0 <= strange < len(vocabulary.symbols):
            raise ValueError(
                f"{what} holds the id {strange}, but its vocabulary ends at "
                f"{len(vocabulary.symbols) - 1}"
            )


def _check_binary(what: str, values: np.ndarray | None) -> None:
    if values is None:
        raise ValueError(f"{what} is said to be binary, but there is no such modality")
    yes = 255 if values.dtype == np.uint8 else 1
    if not ((values == 0) | (values == yes)).all():
        raise ValueError(f"{what} is binary, expected values of 0 and {yes} alone")


def _as_modality(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "fiub":
        raise ValueError(f"modality {name!r} must hold numbers, got {array.dtype}")
    return array.astype(np.float32)


def _as_labels(values: ArrayLike) -> np.ndarray:
    labels = np.asarray(values)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    return labels.astype(np.int32)
