"""The classifiers learn the real images, once, and survive a damaged cache."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_models import NUM_CLASSES, noisy_split

from holderjax import data
from holderjax.evaluation import classifiers
from holderjax.evaluation.classifiers import (
    RECIPE,
    Recipe,
    accuracy,
    augment,
    cache_path,
    load_classifier,
    load_classifiers,
)

TINY = Recipe(widths=(2, 2, 2), hidden=4, steps=4, steps_per_dispatch=2, batch_size=4)
STILL = Recipe(rotation=0.0, scale=0.0, shift=0.0)
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDERJAX_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def tiny_data():
    return data.Dataset("tiny", noisy_split(20), noisy_split(10, seed=1), NUM_CLASSES)


@pytest.fixture
def no_training(monkeypatch):
    def train(*_, **__):
        raise AssertionError("trained again")

    return lambda: monkeypatch.setattr(classifiers, "train_classifier", train)


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"m{i}" for i in range(5)])
def test_every_modality_of_digits_is_recognised(name):
    digits = data.load("digits")
    judge = load_classifier(digits, name)
    assert accuracy(judge, digits.test.arrays[name], digits.test.labels) >= 0.92


def test_the_second_time_nothing_is_trained(tiny_data, no_training):
    first = load_classifiers(tiny_data, TINY)
    no_training()
    second = load_classifiers(tiny_data, TINY)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_training_is_reproducible_and_moves_every_parameter(tiny_data, cache):
    first = load_classifier(tiny_data, "m0", TINY)
    cache_path(tiny_data, "m0", TINY).unlink()
    jax.tree.map(np.testing.assert_array_equal, first, load_classifier(tiny_data, "m0", TINY))
    start = classifiers.new_classifier((4, 4, 3), NUM_CLASSES, TINY, KEY)
    for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(first), strict=True):
        assert not np.array_equal(before, after)


@pytest.mark.parametrize(
    "damage", ["cut short", "one byte flipped", "emptied", "another network's"]
)
def test_a_damaged_file_is_replaced_with_a_warning(tiny_data, damage, caplog, no_training):
    first = load_classifier(tiny_data, "m0", TINY)
    path = cache_path(tiny_data, "m0", TINY)
    whole = path.read_bytes()
    if damage == "another network's":
        other = dataclasses.replace(TINY, hidden=5)
        classifiers.write_classifier(
            path, classifiers.new_classifier((4, 4, 3), NUM_CLASSES, other, KEY)
        )
    else:
        flipped = bytearray(whole)
        # The first array: its header is 128 bytes long.
        flipped[whole.index(b"NUMPY") + 130] ^= 255
        path.write_bytes(
            {"cut short": whole[:-50], "one byte flipped": flipped, "emptied": b""}[damage]
        )
    jax.tree.map(np.testing.assert_array_equal, first, load_classifier(tiny_data, "m0", TINY))
    assert "is damaged" in caplog.text
    no_training()
    jax.tree.map(np.testing.assert_array_equal, first, load_classifier(tiny_data, "m0", TINY))


def test_the_cache_tells_data_modalities_and_recipes_apart(tiny_data):
    other_data = data.Dataset("tiny", noisy_split(20, seed=2), noisy_split(10), NUM_CLASSES)
    paths = {
        cache_path(tiny_data, "m0", TINY),
        cache_path(tiny_data, "m1", TINY),
        cache_path(other_data, "m0", TINY),
        cache_path(tiny_data, "m0", dataclasses.replace(TINY, steps=6)),
    }
    assert len(paths) == 4


def test_modalities_that_are_no_images_have_no_classifier(tiny_data):
    vector = np.zeros((4, 3), np.float32)
    mixed = data.Dataset.from_arrays(
        "mixed",
        {"v": vector, "m0": np.zeros((4, 4, 4, 1), np.uint8)},
        {"v": vector, "m0": np.zeros((4, 4, 4, 1), np.uint8)},
        np.arange(4),
        np.arange(4),
    )
    assert list(load_classifiers(mixed, TINY)) == ["m0"]
    with pytest.raises(ValueError, match="'v' should be an image, uint8"):
        load_classifier(mixed, "v", TINY)
    only = data.Dataset.from_arrays("v", {"v": vector}, {"v": vector}, np.arange(4), np.arange(4))
    with pytest.raises(ValueError, match="at least one image, uint8"):
        load_classifiers(only, TINY)
    with pytest.raises(ValueError, match="no labels"):
        load_classifiers(data.Dataset.from_arrays("v", {"v": vector}, {"v": vector}), TINY)


def test_what_a_decoder_gives_beyond_black_and_white_is_judged_as_it_looks():
    judge = classifiers.new_classifier((4, 4, 3), NUM_CLASSES, TINY, KEY)
    images = jax.random.normal(KEY, (2, 3, 4, 4, 3))
    np.testing.assert_array_equal(judge(images), judge(jnp.clip(images, 0, 1)))
    assert judge(images).shape == (2, 3, NUM_CLASSES)


def test_augmentation_by_nothing_changes_nothing():
    images = jax.random.uniform(KEY, (3, 6, 5, 2))
    np.testing.assert_allclose(augment(KEY, images, STILL), images, atol=1e-6)


def test_augmentation_moves_each_image_by_itself_and_invents_no_values():
    image = jnp.broadcast_to(jax.random.uniform(KEY, (1, 6, 6, 1)), (8, 6, 6, 1))
    moved = augment(KEY, image, RECIPE)
    assert jnp.std(moved, axis=0).max() > 0.01
    assert moved.min() >= image.min() - 1e-6
    assert moved.max() <= image.max() + 1e-6
