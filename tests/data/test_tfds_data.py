"""What TFDS has prepared becomes modalities, as far as its features can."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.utils import file_utils

from holderjax import data
from holderjax.data import tfds_data
from holderjax.training.config import TrainConfig, build_model, data_facts

SIZES = {"train": 9, "validation": 4, "test": 5}


def example(i: int) -> dict:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), i, np.uint8)).save(file, "PNG")
    return {
        "photo": file.getvalue(),
        "level": np.array([i, 1.5], np.float64),
        "seen": np.array([i % 2 == 0, True, False]),
        "title": f"number {i}",
        "kind": i % 2,
        "label": i % 3,
    }


def prepare(folder, file_format="array_record", splits=tuple(SIZES), keys=()):
    """A prepared data set of these splits, with all features or these."""

    class Info(tfds.core.DatasetInfo):
        def initialize_from_bucket(self):
            """Nobody is asked."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "tiny_pairs"

        def _info(self):
            features = {
                "photo": tfds.features.Image(shape=(4, 5, 3)),
                "level": tfds.features.Tensor(shape=(2,), dtype=np.float64),
                "seen": tfds.features.Tensor(shape=(3,), dtype=np.bool_),
                "title": tfds.features.Text(),
                "kind": tfds.features.ClassLabel(num_classes=2),
                "label": tfds.features.ClassLabel(num_classes=4),
            }
            chosen = {key: features[key] for key in keys or features}
            return Info(
                builder=self,
                features=tfds.features.FeaturesDict(chosen),
                disable_shuffling=True,
            )

        def _split_generators(self, manager):
            return {split: self._generate_examples(SIZES[split]) for split in splits}

        def _generate_examples(self, size):
            for i in range(size):
                yield i, {key: x for key, x in example(i).items() if key in (keys or example(0))}

    Builder(data_dir=folder, file_format=file_format).download_and_prepare()


def test_features_become_modalities_classes_and_yes_and_no(tmp_path, caplog):
    prepare(tmp_path)
    with caplog.at_level(logging.WARNING):
        found = tfds_data.load("tiny_pairs", str(tmp_path))
    assert "kind, title are no modalities" in caplog.text
    assert found.modalities == {"level": (2,), "photo": (4, 5, 3), "seen": (3,)}
    assert (found.name, found.num_classes, found.binary) == ("tiny_pairs", 4, ("seen",))
    for split, size in ((found.train, 9), (found.test, 5)):
        i = np.arange(size)
        np.testing.assert_array_equal(split.labels, i % 3)
        np.testing.assert_array_equal(split.arrays["photo"][:, 0, 0, 0], i)
        np.testing.assert_array_equal(split.arrays["level"], np.stack([i, 0 * i + 1.5], 1))
        assert split.arrays["level"].dtype == np.float32
        np.testing.assert_array_equal(split.arrays["seen"][:, 0], i % 2 == 0)
    model = build_model(TrainConfig(out=tmp_path), data_facts(found))
    assert list(model.modalities) == ["level", "photo", "seen"]


def test_it_is_a_name_like_any_other(tmp_path, monkeypatch):
    prepare(tmp_path, splits=("train", "validation"), keys=("level", "photo"))
    monkeypatch.setattr(file_utils, "_REGISTERED_DATA_DIRS", set())
    tfds.core.add_data_dir(str(tmp_path))
    found = data.load("tfds:tiny_pairs:1.0.0")
    assert (len(found.train), len(found.test), found.num_classes) == (9, 4, 0)
    TrainConfig(out=tmp_path, data="tfds:tiny_pairs").validate()


def test_what_is_not_there_is_said_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tfds\.builder\('mnist', file_format="):
        tfds_data.load("mnist", str(tmp_path))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"splits": ("train",)}, "expected the splits train and test"),
        ({"keys": ("title", "label")}, "no feature is of numbers"),
    ],
)
def test_what_cannot_be_read_is_refused(options, expected, tmp_path):
    prepare(tmp_path, **options)
    with pytest.raises(ValueError, match=expected):
        tfds_data.load("tiny_pairs", str(tmp_path))
