"""MNIST-SVHN pairs images of the same digit; the text is that digit's name."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io
from raw_files import (
    MNIST_LABELS,
    SVHN_LABELS,
    idx_bytes,
    mnist_images,
    save_svhn,
    svhn_images,
    write_mnist,
    write_svhn,
)

from holderjax.data import mnist_svhn
from holderjax.data.svhn import read_svhn
from holderjax.data.text import DIGIT_NAMES, LETTERS, NAME_LENGTH, digit_names


@pytest.fixture
def raw(tmp_path):
    write_mnist(tmp_path / "raw")
    write_svhn(tmp_path / "raw")
    return tmp_path / "raw"


def whole(examples):
    return dict(examples.block(slice(0, examples.size)))


@pytest.mark.parametrize("split", ["train", "test"])
def test_svhn_s_label_10_is_the_digit_0_and_its_examples_come_first(raw, split):
    images, labels = read_svhn(raw, split)
    np.testing.assert_array_equal(images, svhn_images(split))
    np.testing.assert_array_equal(labels, SVHN_LABELS[split])
    assert images.flags.c_contiguous


def test_a_pair_is_of_one_class_and_no_image_occurs_more_often_than_there_are_rounds():
    first = np.repeat(np.arange(4), [5, 2, 3, 1])
    second = np.repeat(np.arange(1, 5), [4, 3, 2, 7])
    ones, others = mnist_svhn.pair_between(first, second, 6, np.random.default_rng(0))
    np.testing.assert_array_equal(first[ones], second[others])
    # Class 0 has no partner, and neither has class 4.
    np.testing.assert_array_equal(np.bincount(first[ones]), [0, 6 * 2, 6 * 3, 6 * 1])
    # Of the set that has fewer of a class, every image takes part in every round.
    np.testing.assert_array_equal(np.bincount(ones, minlength=11)[5:], [6] * 6)
    assert np.bincount(others).max() <= 6


def test_a_digit_meets_different_partners_and_rounds_are_in_random_order():
    labels = np.zeros(200, int)
    ones, others = mnist_svhn.pair_between(labels, labels, 3, np.random.default_rng(0))
    partners = np.stack([others[np.argsort(ones, kind="stable")]]).reshape(200, 3)
    assert np.mean([len(set(row)) for row in partners]) > 2.8
    assert not np.array_equal(ones[:200], ones[200:400])
    assert abs(np.corrcoef(ones[:200], np.arange(200))[0, 1]) < 0.25


@pytest.mark.parametrize("text", [False, True])
def test_every_example_shows_one_digit(raw, text):
    source = mnist_svhn.read(raw, text=text, train_repeats=3, test_repeats=2)
    for split, rounds in (("train", 3), ("test", 2)):
        examples = source.splits[split]
        arrays = whole(examples)
        assert list(arrays) == ["mnist", "svhn", "text"][: 2 + text]
        counts = [
            np.bincount(labels[split], minlength=10) for labels in (MNIST_LABELS, SVHN_LABELS)
        ]
        np.testing.assert_array_equal(np.bincount(examples.labels), rounds * np.minimum(*counts))
        for i, label in enumerate(examples.labels):
            mnist = mnist_images(split)[MNIST_LABELS[split] == label][..., None]
            svhn = svhn_images(split)[SVHN_LABELS[split] == label]
            assert (arrays["mnist"][i] == mnist).all((1, 2, 3)).any()
            assert (arrays["svhn"][i] == svhn).all((1, 2, 3)).any()
            if text:
                assert LETTERS.decode(arrays["text"][i]) == DIGIT_NAMES[label]


def test_the_text_does_not_change_the_images(raw):
    without, with_text = (mnist_svhn.read(raw, text=text) for text in (False, True))
    for name, array in whole(without.splits["train"]).items():
        np.testing.assert_array_equal(array, whole(with_text.splits["train"])[name])


def test_examples_follow_the_seed(raw):
    first, again, other = (
        whole(mnist_svhn.read(raw, text=True, seed=seed).splits["train"]) for seed in (4, 4, 5)
    )
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert (array != other[name]).any()


def test_names_start_at_every_offset_at_which_they_fit():
    labels = np.repeat(np.arange(10), 300)
    texts = digit_names(labels, np.random.default_rng(0))
    assert texts.shape == (3000, NAME_LENGTH)
    assert texts.dtype == np.int32
    for label, name in enumerate(DIGIT_NAMES):
        offsets = {int(np.flatnonzero(ids)[0]) for ids in texts[labels == label]}
        assert offsets == set(range(NAME_LENGTH - len(name) + 1))
        for ids in texts[labels == label]:
            # No letter is parted from the next by a padding.
            start = int(np.flatnonzero(ids)[0])
            assert LETTERS.decode(ids[start : start + len(name)]) == name


def test_the_alphabet_is_what_the_documentation_says():
    assert LETTERS.symbols == ("", *"efghinorstuvwxz")


def damage_content(array="X", **changes):
    def damage(file):
        content = scipy.io.loadmat(file)
        content = {name: content[name] for name in ("X", "y")} | changes
        scipy.io.savemat(file, {name: x for name, x in content.items() if x is not None})

    return damage


def cut(keep):
    return lambda file: file.write_bytes(file.read_bytes()[:keep])


Y = np.ones((15, 1), np.uint8)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: f.unlink(), FileNotFoundError, r"holds no train_32x32\.mat"),
        (cut(0), ValueError, "is not readable as a MATLAB file"),
        (cut(100), ValueError, "is not readable as a MATLAB file"),
        (cut(2000), ValueError, "is not readable as a MATLAB file"),
        (cut(-10), ValueError, "is not readable as a MATLAB file|holds no array y"),
        (lambda f: f.write_text("<html>not found</html>" * 20), ValueError, "is not readable"),
        (damage_content(X=None), ValueError, "holds no array X"),
        (damage_content(y=None), ValueError, "holds no array y"),
        (damage_content(X=np.ones((32, 32, 15), np.uint8)), ValueError, r"X: \(32, 32, 15\)"),
        (damage_content(X=np.ones((28, 28, 3, 15), np.uint8)), ValueError, r"X: \(28, 28, 3, 15\)"),
        (
            damage_content(X=np.ones((32, 32, 3, 15))),
            ValueError,
            "of float64, expected .* of uint8",
        ),
        (damage_content(y=Y[:-1]), ValueError, "holds 14 labels, expected 15"),
        (damage_content(y=Y * 11), ValueError, "holds the label 11, expected 1 to 10"),
        (damage_content(y=Y * 0), ValueError, "holds the label 0, expected 1 to 10"),
    ],
)
def test_a_damaged_svhn_file_is_refused_by_name(raw, damage, error, message):
    damage(raw / "train_32x32.mat")
    with pytest.raises(error, match=message) as caught:
        mnist_svhn.read(raw, text=False)
    assert str(raw) in str(caught.value)
    assert "train_32x32.mat" in str(caught.value)


def test_a_flipped_byte_in_svhn_s_file_is_refused(raw):
    file = raw / "train_32x32.mat"
    content = bytearray(file.read_bytes())
    content[20_000] ^= 0xFF
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"train_32x32\.mat is not readable"):
        mnist_svhn.read(raw, text=False)


def test_mnist_s_files_are_checked_as_well(raw):
    (raw / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((14, 32, 32), np.uint8)))
    with pytest.raises(ValueError, match=r"train images of \(32, 32\) pixels, expected \(28, 28\)"):
        mnist_svhn.read(raw, text=False)
    (raw / "train-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="neither train-images-idx3-ubyte nor"):
        mnist_svhn.read(raw, text=False)


def test_files_without_a_common_digit_are_refused(raw):
    images = svhn_images("test")[:3]
    save_svhn(raw / "test_32x32.mat", images, np.array([1, 1, 1]))
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((2, 28, 28), np.uint8)))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.array([2, 2], np.uint8)))
    with pytest.raises(ValueError, match="test images have no digit in common"):
        mnist_svhn.read(raw, text=False)


@pytest.mark.parametrize("option", ["train_repeats", "test_repeats"])
def test_no_rounds_are_refused(raw, option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        mnist_svhn.read(raw, text=False, **{option: 0})
