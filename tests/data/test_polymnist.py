"""PolyMNIST is read whole or refused by name, from both of its sources."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from holderjax import data

LABELS = np.array([3, 0, 7, 3, 3, 0, 7, 7, 1, 0, 3, 9], np.uint8)
TEST_LABELS = LABELS[:5]


def digit_images(number):
    return np.random.default_rng(number).integers(0, 256, (number, 28, 28), dtype=np.uint8)


def idx_bytes(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_mnist(folder, compressed):
    folder.mkdir()
    for stem, labels in (("train", LABELS), ("t10k", TEST_LABELS)):
        for kind, array in (("images-idx3", digit_images(len(labels))), ("labels-idx1", labels)):
            content = idx_bytes(array)
            path = folder / f"{stem}-{kind}-ubyte"
            if compressed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)
    return folder


def write_backgrounds(folder, number=6):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(number):
        pixels = rng.integers(0, 256, (30 + i, 40 - i, 3), dtype=np.uint8)
        # Written last to first: the order of the names counts, not that of the files.
        Image.fromarray(pixels).save(folder / f"{number - i}_picture.{'png' if i % 2 else 'JPG'}")
    (folder / "readme.txt").write_text("no picture")
    return folder


@pytest.fixture
def composed(tmp_path):
    return {
        "mnist": write_mnist(tmp_path / "mnist", compressed=True),
        "backgrounds": write_backgrounds(tmp_path / "backgrounds"),
    }


def tree_pixels(split, modality, index):
    return np.random.default_rng([len(split), modality, index]).integers(
        0, 256, (28, 28, 3), dtype=np.uint8
    )


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "PolyMNIST"
    for split, labels in (("train", LABELS), ("test", TEST_LABELS)):
        for m in range(5):
            (root / split / f"m{m}").mkdir(parents=True)
            for i, label in enumerate(labels):
                image = Image.fromarray(tree_pixels(split, m, i))
                image.save(root / split / f"m{m}" / f"{i}.{label}.png")
    return root


def picture_of(folder, m):
    name = sorted(p.name for p in folder.iterdir() if p.suffix != ".txt")[m]
    with Image.open(folder / name) as image:
        return np.asarray(image.convert("RGB"))


def test_the_tree_is_read_in_the_order_of_its_indices(tree):
    dataset = data.load("polymnist", root=tree)
    assert dataset.modalities == {f"m{m}": (28, 28, 3) for m in range(5)}
    # Twelve examples: index 10 comes after 9, not after 1.
    np.testing.assert_array_equal(dataset.train.labels, LABELS)
    np.testing.assert_array_equal(dataset.test.labels, TEST_LABELS)
    for split, part in (("train", dataset.train), ("test", dataset.test)):
        for m in range(5):
            for i in range(len(part)):
                np.testing.assert_array_equal(part.arrays[f"m{m}"][i], tree_pixels(split, m, i))


def test_fewer_modalities_can_be_read(tree):
    assert list(data.load("polymnist", root=tree, num_modalities=2).modalities) == ["m0", "m1"]


def test_stray_files_in_the_tree_are_no_examples(tree):
    (tree / "train" / "m2" / ".0.3.png").write_bytes(b"left by a file manager")
    (tree / "train" / "m2" / "notes.txt").write_text("notes")
    assert len(data.load("polymnist", root=tree).train) == 12


def truncate(path):
    path.write_bytes(path.read_bytes()[:-400])


def rename(path, name):
    path.rename(path.with_name(name))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / "m3").rename(f / "elsewhere"), FileNotFoundError, "no folder .*m3"),
        (lambda f: f.rename(f.with_name("training")), FileNotFoundError, "no folder .*train"),
        (lambda f: (f / "m1/4.3.png").unlink(), FileNotFoundError, r"m1/4\.3\.png is missing"),
        (lambda f: (f / "m0/4.3.png").unlink(), ValueError, r"m1/4\.3\.png has no counterpart"),
        (
            lambda f: rename(f / "m4/2.7.png", "2.8.png"),
            ValueError,
            r"m4/2\.8\.png has label 8, expected 7 as in m0",
        ),
        (
            lambda f: (f / "m4/2.8.png").write_bytes((f / "m4/2.7.png").read_bytes()),
            ValueError,
            r"m4/2\.8\.png: index 2 has the label 7 as well",
        ),
        (lambda f: rename(f / "m2/1.0.png", "one.png"), ValueError, r"one\.png is not named"),
        (lambda f: truncate(f / "m2/1.0.png"), ValueError, r"m2/1\.0\.png is not readable"),
        (lambda f: (f / "m2/1.0.png").write_bytes(b""), ValueError, r"m2/1\.0\.png is not read"),
        (
            lambda f: Image.new("RGB", (32, 28)).save(f / "m2/1.0.png"),
            ValueError,
            r"m2/1\.0\.png is 28x32 RGB, expected 28x28 RGB",
        ),
        (
            lambda f: Image.new("L", (28, 28)).save(f / "m2/1.0.png"),
            ValueError,
            r"m2/1\.0\.png is 28x28 L, expected 28x28 RGB",
        ),
        (
            lambda f: [path.unlink() for path in (f / "m0").iterdir()],
            FileNotFoundError,
            r"m0 holds no INDEX\.LABEL\.png",
        ),
    ],
)
def test_a_damaged_tree_is_refused_by_the_file_s_name(tree, damage, error, message):
    damage(tree / "train")
    with pytest.raises(error, match=message):
        data.load("polymnist", root=tree)


@pytest.mark.parametrize("keep", [8, 20, 30, 60, 500, 1500, 2300])
def test_a_png_cut_anywhere_is_refused(tree, keep):
    path = tree / "train" / "m2" / "1.0.png"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"m2/1\.0\.png is not readable"):
        data.load("polymnist", root=tree)


def test_composing_follows_the_recipe(composed):
    dataset = data.load("polymnist", **composed)
    np.testing.assert_array_equal(dataset.train.labels, LABELS)
    np.testing.assert_array_equal(dataset.test.labels, TEST_LABELS)
    inks = digit_images(len(LABELS)) > 128
    for m in range(5):
        picture = picture_of(composed["backgrounds"], m).astype(int)
        for image, label in zip(dataset.train.arrays[f"m{m}"], LABELS, strict=True):
            found = [
                (r, c, i)
                for r in range(picture.shape[0] - 27)
                for c in range(picture.shape[1] - 27)
                for patch in [picture[r : r + 28, c : c + 28]]
                for i in np.flatnonzero(label == LABELS)
                if (np.where(inks[i][..., None], 255 - patch, patch) == image).all()
            ]
            assert len(found) == 1


def test_composed_data_follows_its_seed(composed):
    first, again = (data.load("polymnist", **composed) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    assert data.load("polymnist", **composed, seed=1).fingerprint != first.fingerprint


def test_plain_idx_files_are_read_as_compressed_ones(composed, tmp_path):
    plain = write_mnist(tmp_path / "plain", compressed=False)
    first = data.load("polymnist", **composed)
    assert data.load("polymnist", **(composed | {"mnist": plain})).fingerprint == first.fingerprint


def test_too_few_pictures_are_listed(composed):
    with pytest.raises(FileNotFoundError, match=r"6 pictures \(1_picture\.png, .*at least 7"):
        data.load("polymnist", **composed, num_modalities=7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mnist": Path("a")}, "got mnist"),
        ({"root": Path("a"), "backgrounds": Path("b")}, "got root, backgrounds"),
        ({"root": Path("a"), "num_modalities": 0}, "num_modalities must be at least 1, got 0"),
    ],
)
def test_unclear_sources_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data.load("polymnist", **options)


IMAGES = idx_bytes(digit_images(12))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("images-idx3", idx_bytes(LABELS), "starts with 0x00000801, expected 0x00000803"),
        ("images-idx3", b"<html>not found</html>", "expected 0x00000803"),
        ("images-idx3", IMAGES[:10], "ends inside its header: 10 bytes of 16"),
        ("images-idx3", IMAGES[:-5], r"holds 9403 bytes of data, expected 12 x 28 x 28 = 9408"),
        ("images-idx3", IMAGES + b"0", "holds 9409 bytes of data"),
        ("images-idx3", idx_bytes(np.zeros((12, 27, 28), np.uint8)), r"\(27, 28\) pixels"),
        ("labels-idx1", idx_bytes(LABELS[:-1]), "holds 11 labels, expected 12"),
        ("labels-idx1", idx_bytes(LABELS + 1), "holds the label 10, expected digits 0 to 9"),
        ("labels-idx1", idx_bytes(LABELS[:0]), "holds 0 labels, expected 12"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(composed, file, content, message):
    path = composed["mnist"] / f"train-{file}-ubyte.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=message) as caught:
        data.load("polymnist", **composed)
    assert str(composed["mnist"]) in str(caught.value)


@pytest.mark.parametrize("keep", [0, 5, 400, -6])
def test_a_gzip_file_cut_short_is_refused_by_name(composed, keep):
    path = composed["mnist"] / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz"):
        data.load("polymnist", **composed)


def test_a_gzip_file_with_a_flipped_byte_is_refused_by_name(composed):
    path = composed["mnist"] / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz"):
        data.load("polymnist", **composed)


def test_a_missing_idx_file_is_named(composed):
    (composed["mnist"] / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="neither t10k-labels-idx1-ubyte nor"):
        data.load("polymnist", **composed)


def test_unusable_pictures_are_named(composed):
    path = composed["backgrounds"] / "1_picture.png"
    Image.new("RGB", (100, 27)).save(path)
    with pytest.raises(ValueError, match=r"1_picture\.png is 27x100, expected at least 28x28"):
        data.load("polymnist", **composed)
    path.write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    with pytest.raises(ValueError, match=r"1_picture\.png is not readable as a picture"):
        data.load("polymnist", **composed)


REAL = Path(
    os.environ.get("HOLDERJAX_REAL_DATA", Path(__file__).parents[2] / "../shared/data")
).resolve()


@pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason="the real files are not here")
def test_real_mnist_over_real_pictures():
    dataset = data.load(
        "polymnist", mnist=REAL / "mnist", backgrounds=REAL / "polymnist_backgrounds"
    )
    assert (len(dataset.train), len(dataset.test)) == (60000, 10000)
    # The class counts of MNIST's training digits.
    assert np.bincount(dataset.train.labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    for array in dataset.train.arrays.values():
        assert array.shape == (60000, 28, 28, 3)
        assert array.dtype == np.uint8
