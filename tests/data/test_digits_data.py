"""The embedded digits are what PolyMNIST's recipe makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from holderjax import data
from holderjax.data import digits
from holderjax.data.compose import compose, composite, pair_within_class


@pytest.fixture(scope="module")
def dataset():
    return data.load("digits")


@pytest.fixture(scope="module")
def sources():
    return digits.source_digits()


def as_numbers(pixels):
    """One number a pixel; that of the inverted colour is its difference to 0xFFFFFF."""
    return pixels.astype(int) @ [0x10000, 0x100, 1]


def possible_inks(image, picture):
    """Every ink that, over some patch of the picture, gives this image.

    Under the ink a patch's colours are inverted, elsewhere they are the patch's own.
    """
    size = len(image)
    windows = np.lib.stride_tricks.sliding_window_view(as_numbers(picture), (size, size))
    image = as_numbers(image)
    # By the first pixel alone, most places are out.
    corner = windows[:, :, 0, 0]
    places = np.argwhere((corner == image[0, 0]) | (0xFFFFFF - corner == image[0, 0]))
    patches = windows[tuple(places.T)]
    inverted = patches != image
    return inverted[(np.where(inverted, 0xFFFFFF - patches, patches) == image).all((1, 2))]


def test_the_sizes_are_as_stated(dataset):
    assert dataset.modalities == {f"m{m}": (16, 16, 3) for m in range(5)}
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (12_000, 297, 10)
    assert all(array.dtype == np.uint8 for array in dataset.train.arrays.values())


def test_the_same_seed_gives_the_same_data(dataset):
    again, other = data.load("digits"), data.load("digits", seed=1)
    assert again.fingerprint == dataset.fingerprint
    assert other.fingerprint != dataset.fingerprint
    np.testing.assert_array_equal(other.test.labels, dataset.test.labels)


def test_every_tuple_of_a_training_digit_has_partners_and_patches_of_its_own(dataset):
    for images in dataset.train.arrays.values():
        assert len(np.unique(images.reshape(12_000, -1), axis=0)) > 11_800
    # Were the pairing repeated, tuples of one patch would come 1,500 examples apart.
    first, second = (dataset.train.arrays["m0"][i : i + 1500] for i in (0, 1500))
    assert not np.array_equal(first, second)


def test_no_source_digit_is_in_both_splits(sources):
    _, labels = sources
    train, test = digits.split_sources(labels)
    assert sorted([*train, *test]) == list(range(1797))
    for label in range(10):
        share = (labels[test] == label).sum() / (labels == label).sum()
        assert share == pytest.approx(297 / 1797, abs=0.005)


@pytest.mark.parametrize("split", ["train", "test"])
def test_each_image_is_a_digit_of_its_split_and_class_over_its_picture(dataset, sources, split):
    sources, labels = sources
    indices = digits.split_sources(labels)[["train", "test"].index(split)]
    candidates = {sources[i].tobytes(): labels[i] for i in indices}
    part = getattr(dataset, split)
    chosen = np.random.default_rng(0).choice(len(part), 25, replace=False)
    for m, picture in enumerate(digits.pictures()):
        for i in chosen:
            inks = possible_inks(part.arrays[f"m{m}"][i], picture)
            assert any(candidates.get(ink.tobytes()) == part.labels[i] for ink in inks)


def test_the_modalities_of_an_example_share_only_the_label():
    labels = np.random.default_rng(0).integers(0, 10, 500)
    sources = pair_within_class(labels, 5, np.random.default_rng(1))
    np.testing.assert_array_equal(labels[sources], np.tile(labels, (5, 1)))
    for modality in sources:
        np.testing.assert_array_equal(np.sort(modality), np.arange(500))
    assert all(len(set(example)) == 5 for example in sources.T)


def test_a_digit_s_partners_are_uniform_within_its_class():
    # Over many pairings, the first digit of a class of 6 meets each of the other 5 equally often.
    labels = np.zeros(6, int)
    rng = np.random.default_rng(2)
    pairings = []
    for _ in range(1000):
        first, second = pair_within_class(labels, 2, rng)
        pairings.append(second[np.argsort(first)])
    # One digit's partner does not settle the others': more pairings occur than there are partners.
    assert len(np.unique(pairings, axis=0)) > 50
    counts = np.bincount([partners[0] for partners in pairings], minlength=6)
    assert counts[0] == 0
    assert np.abs(counts[1:] - 200).max() < 5 * np.sqrt(200 * 4 / 5)


def test_a_class_smaller_than_the_modalities_is_still_paired():
    labels = np.array([0, 1, 1, 2])
    sources = pair_within_class(labels, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(labels[sources], np.tile(labels, (5, 1)))


def test_patches_come_from_all_over_the_picture():
    # Each pixel of the picture tells its own place.
    rows, columns = np.indices((6, 9))
    picture = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
    inks = np.zeros((400, 4, 4), bool)
    inks[:, 1, 2] = True
    images = composite(inks, picture, np.random.default_rng(0))
    assert {tuple(image[0, 0, :2]) for image in images} == {
        (r, c) for r in range(3) for c in range(6)
    }
    np.testing.assert_array_equal(images[:, 3, 3] - images[:, 0, 0], np.tile([3, 3, 0], (400, 1)))
    np.testing.assert_array_equal(images[:, 1, 2], 255 - (images[:, 0, 0] + [1, 2, 0]))


def test_a_picture_smaller_than_a_digit_is_refused():
    small = np.zeros((16, 15, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 16x16 pixels, got 16x15"):
        compose(np.zeros((1, 16, 16), bool), np.zeros(1, int), [small], np.random.default_rng(0))


def test_digits_are_legible_in_every_modality(dataset):
    from sklearn.svm import SVC

    for name in dataset.modalities:
        train, test = (
            part.arrays[name][:1500].reshape(-1, 768) / 255
            for part in (dataset.train, dataset.test)
        )
        classifier = SVC(C=10).fit(train, dataset.train.labels[:1500])
        assert classifier.score(test, dataset.test.labels) >= 0.92, name
