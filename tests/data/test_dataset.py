"""A data set refuses what would go wrong later, and its fingerprint tells contents apart."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from holderjax import data
from holderjax.data import Dataset, Split

IMAGES = np.arange(4 * 2 * 2, dtype=np.uint8).reshape(4, 2, 2)
VECTORS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
LABELS = np.array([0, 1, 2, 1], np.int32)


def own_data(**changes):
    given = {
        "train": {"picture": IMAGES, "vector": VECTORS},
        "test": {"picture": IMAGES[:2], "vector": VECTORS[:2]},
        "train_labels": LABELS,
        "test_labels": LABELS[:2],
    }
    return Dataset.from_arrays("own", **(given | changes))


def test_own_arrays_become_a_data_set():
    dataset = own_data(train={"picture": IMAGES, "vector": VECTORS.astype(np.float64).tolist()})
    assert dataset.modalities == {"picture": (2, 2), "vector": (3,)}
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (4, 2, 3)
    assert dataset.train.arrays["picture"] is IMAGES
    np.testing.assert_array_equal(dataset.train.arrays["vector"], VECTORS)
    assert dataset.train.arrays["vector"].dtype == np.float32


def test_labels_are_optional():
    dataset = own_data(train_labels=None, test_labels=None)
    assert dataset.train.labels is None
    assert dataset.num_classes == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"picture": IMAGES, "vector": VECTORS[:3]}}, "same number.*'vector': 3"),
        ({"train": {}}, "at least one modality"),
        ({"train": {"picture": IMAGES[:0], "vector": VECTORS[:0]}}, "at least one example"),
        ({"train": {"picture": IMAGES, "vector": VECTORS[:, :2]}}, r"same shapes.*\(2,\).*\(3,\)"),
        ({"train": {"vector": VECTORS, "picture": IMAGES}}, "same order"),
        ({"train": {"picture": IMAGES / 255, "vector": VECTORS}}, "test 'picture' is uint8"),
        ({"train": {"picture": IMAGES, "vector": np.full((4, 3), np.inf)}}, "'vector'.*not finite"),
        ({"train": {"picture": IMAGES, "vector": np.full(4, "a")}}, "'vector' must hold numbers"),
        ({"train": {"mask": IMAGES}}, "'mask'"),
        ({"train": {"picture": np.uint8(3)}}, "single number"),
        ({"train_labels": LABELS[:3]}, r"\[4\].*\(3,\)"),
        ({"train_labels": LABELS - 1}, "from 0, got -1"),
        ({"train_labels": LABELS * 0.5}, "integers, got float"),
        ({"train_labels": None}, "train has no labels"),
        ({"test_labels": None}, "test has no labels"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        own_data(**changes)


def test_labels_beyond_the_classes_are_refused():
    split = Split({"picture": IMAGES}, LABELS)
    with pytest.raises(ValueError, match=r"label 2 is not in 0 \.\. 1"):
        Dataset("own", split, split, num_classes=2)


def test_a_split_takes_only_what_a_device_takes():
    with pytest.raises(ValueError, match="uint8, int32 or float32 array, got int64"):
        Split({"picture": IMAGES.astype(np.int64)})
    with pytest.raises(ValueError, match="int32 array, got int64"):
        Split({"picture": IMAGES}, LABELS.astype(np.int64))


def test_equal_contents_have_equal_fingerprints():
    reordered = own_data(train={"picture": np.asfortranarray(IMAGES), "vector": VECTORS})
    assert reordered.fingerprint == own_data().fingerprint
    assert len(own_data().fingerprint) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"picture": IMAGES, "vector": -VECTORS}},
        {"train": {"picture": IMAGES[::-1], "vector": VECTORS}},
        {"train": {"picture": IMAGES[:3], "vector": VECTORS[:3]}, "train_labels": LABELS[:3]},
        {"test": {"picture": IMAGES[1:3], "vector": VECTORS[:2]}},
        {"train_labels": LABELS[::-1]},
        {"test_labels": LABELS[1:3]},
        {"train_labels": None, "test_labels": None},
        {
            "train": {"a": IMAGES, "vector": VECTORS},
            "test": {"a": IMAGES[:2], "vector": VECTORS[:2]},
        },
        {
            "train": {"picture": IMAGES.reshape(4, 4), "vector": VECTORS},
            "test": {"picture": IMAGES[:2].reshape(2, 4), "vector": VECTORS[:2]},
        },
    ],
)
def test_any_change_of_contents_changes_the_fingerprint(changes):
    assert own_data(**changes).fingerprint != own_data().fingerprint


def test_unknown_names_are_answered_with_the_closest():
    with pytest.raises(ValueError, match=r"unknown data set 'digit': did you mean 'digits'\?"):
        data.load("digit")
    with pytest.raises(ValueError, match="'background': did you mean 'backgrounds'"):
        data.load("polymnist", background="pictures")


def test_the_table_says_what_each_data_set_needs():
    for name in ("digits", "polymnist"):
        row = data.DATASETS[name]
        assert row.name == name
        assert row.description
        assert row.modalities
        assert row.needs


def test_importing_the_package_loads_no_dataset_library():
    heavy = ["sklearn", "skimage", "PIL", "matplotlib", "scipy.ndimage", "tensorboardX", "rich"]
    check = f"import sys, holderjax.data; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, check=True, text=True
    )
    assert found.stdout.strip() == "[]"


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDERJAX_CACHE", str(tmp_path / "a" / "b"))
    assert data.cache_dir() == tmp_path / "a" / "b"
    assert data.cache_dir().is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="the folder of XDG")
def test_the_cache_follows_the_platform_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("HOLDERJAX_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data.cache_dir() == tmp_path / ".cache" / "holderjax"
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "xdg"))
    assert data.cache_dir() == tmp_path / "xdg" / "holderjax"


@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "no labels"])
def test_showing_writes_a_picture(tmp_path, labels):
    arrays = {"picture": IMAGES, "vector": VECTORS, "colour": np.zeros((4, 5, 5, 3), np.uint8)}
    dataset = Dataset.from_arrays("own", arrays, arrays, labels, labels)
    heights = []
    for rows in (1, 3, 9):
        data.show(dataset, tmp_path / "show.png", rows=rows)
        with Image.open(tmp_path / "show.png") as picture:
            assert picture.format == "PNG"
            heights.append(picture.height)
            assert len(np.unique(np.asarray(picture.convert("L")))) > 2
    assert heights[0] < heights[1] < heights[2]
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        data.show(dataset, tmp_path / "none.png", rows=0)
