"""A user's own data in one file."""

from __future__ import annotations

import re

import numpy as np
import pytest

from holderjax import data
from holderjax.cli import main
from holderjax.training import TrainConfig

ARRAYS = {
    "photo_train": np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3),
    "sensor_train": np.arange(12).reshape(6, 2),
    # In another order, as nobody thinks of.
    "sensor_test": np.arange(8.0).reshape(4, 2),
    "photo_test": np.zeros((4, 4, 4, 3), np.uint8),
}
LABELS = {"labels_train": np.arange(6) % 3, "labels_test": np.arange(4) % 2}


def save(folder, arrays):
    np.savez_compressed(folder / "mine.npz", **arrays)
    return folder / "mine.npz"


@pytest.mark.parametrize("labels", [{}, LABELS])
def test_the_file_is_read_as_it_was_saved(tmp_path, labels):
    dataset = data.load(str(save(tmp_path, ARRAYS | labels)))
    assert dataset.name == "mine"
    assert list(dataset.modalities.items()) == [("photo", (4, 4, 3)), ("sensor", (2,))]
    for split, part in (("train", dataset.train), ("test", dataset.test)):
        for name, array in part.arrays.items():
            np.testing.assert_array_equal(array, ARRAYS[f"{name}_{split}"])
        if labels:
            np.testing.assert_array_equal(part.labels, LABELS[f"labels_{split}"])
    assert dataset.train.arrays["photo"].dtype == np.uint8
    assert dataset.train.arrays["sensor"].dtype == np.float32
    assert dataset.num_classes == (3 if labels else 0)


def test_it_is_a_name_to_train_with_and_to_show(tmp_path):
    file = save(tmp_path, ARRAYS)
    TrainConfig(out=tmp_path / "run", data=str(file)).validate()
    assert main(["data", "show", str(file), "--out", str(tmp_path / "mine.png")]) == 0
    assert (tmp_path / "mine.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photo": ARRAYS["photo_test"]}, "'photo' is called neither NAME_train nor NAME_test"),
        ({"_train": ARRAYS["photo_test"]}, "'_train' is called neither"),
        ({"sound_test": ARRAYS["photo_test"]}, "there is sound_test, but no sound_train"),
        ({"labels_train": LABELS["labels_train"]}, "labels_train, but no labels_test"),
        ({"photo_test": np.zeros((3, 4, 4, 3), np.uint8)}, "the same number of examples"),
        ({"photo_test": np.zeros((4, 5, 4, 3), np.uint8)}, "of the same shapes"),
        ({"sensor_train": np.full((6, 2), np.nan)}, "'sensor' holds values that are not finite"),
        ({"sensor_train": np.full((6, 2), "x")}, "'sensor' must hold numbers"),
        ({"sensor_train": np.full((6, 2), None)}, "allow_pickle"),
        ({"mask_train": ARRAYS["photo_train"], "mask_test": ARRAYS["photo_test"]}, "'mask'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    file = save(tmp_path, ARRAYS | change)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}.*{message}"):
        data.load(str(file))


@pytest.mark.parametrize("keep", [0, 3, 100, -30])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    file = save(tmp_path, ARRAYS)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"mine\.npz is not a whole file of numpy\.savez"):
        data.load(str(file))


def test_an_array_of_its_own_is_no_data_set(tmp_path):
    with (tmp_path / "mine.npz").open("wb") as file:
        np.save(file, ARRAYS["photo_train"])
    with pytest.raises(ValueError, match="not a whole file"):
        data.load(str(tmp_path / "mine.npz"))


def test_a_flipped_byte_is_refused(tmp_path):
    file = save(tmp_path, ARRAYS)
    content = bytearray(file.read_bytes())
    content[150] ^= 0xFF
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"mine\.npz"):
        data.load(str(file))


def test_a_missing_file_and_an_option_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*mine\.npz"):
        data.load(str(tmp_path / "mine.npz"))
    with pytest.raises(ValueError, match="unknown option"):
        data.load(str(save(tmp_path, ARRAYS)), seed=1)
