"""CelebAMask-HQ: faces in the order of their indices, the union of the parts but skin."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from raw_files import pixels

from holderjax import data
from holderjax.data import celebamask

FACES = 20
# In the file's order, which is not the chosen ones'; the others are left out.
NAMES = ["Young", *reversed(celebamask.ATTRIBUTES), "Big_Nose"]


def values(index):
    return np.random.default_rng(index).choice([-1, 1], len(NAMES))


def parts(index):
    """Which parts a face shows, each a rectangle of a 256x256 mask."""
    rng = np.random.default_rng([1, index])
    shown = rng.choice(celebamask.PARTS, 3, replace=False)
    corners = {part: rng.integers(0, 200, 2) for part in shown}
    return {
        part: (*corner, *(corner + rng.integers(10, 55, 2))) for part, corner in corners.items()
    }


def mask_file(raw, index, part):
    return raw / "CelebAMask-HQ-mask-anno" / str(index // 8) / f"{index:05d}_{part}.png"


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.setattr(celebamask, "MASKS_PER_FOLDER", 8)
    folder = tmp_path / "CelebAMask-HQ"
    (folder / "CelebA-HQ-img").mkdir(parents=True)
    lines = [str(FACES), " ".join(NAMES) + " "]
    for i in range(FACES):
        Image.fromarray(pixels(i, 140, 140, 3)).save(folder / "CelebA-HQ-img" / f"{i}.jpg")
        lines.append(f"{i}.jpg  " + " ".join(map(str, values(i))))
        boxes = {"skin": (0, 0, 256, 256), **parts(i)}
        for part, (top, left, bottom, right) in boxes.items():
            mask = np.zeros((256, 256, 3), np.uint8)
            mask[top:bottom, left:right] = 255
            file = mask_file(folder, i, part)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(file)
    (folder / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_faces_are_split_by_their_indices_and_read_with_their_masks_and_attributes(raw):
    data.prepare("celebamask-hq", raw)
    dataset = data.load("celebamask-hq")
    assert dataset.modalities == {
        "image": (128, 128, 3),
        "face_mask": (128, 128, 1),
        "attributes": (18,),
    }
    assert dataset.num_classes == 0
    assert (len(dataset.train), len(dataset.test)) == (16, 2)
    assert dataset.train.arrays["attributes"].dtype == np.float32
    for part, first in ((dataset.train, 0), (dataset.test, 18)):
        for row in range(len(part)):
            index = first + row
            with Image.open(raw / "CelebA-HQ-img" / f"{index}.jpg") as image:
                small = image.resize((128, 128), Image.Resampling.LANCZOS)
                np.testing.assert_array_equal(part.arrays["image"][row], small)
            union = np.zeros((256, 256), bool)
            for top, left, bottom, right in parts(index).values():
                union[top:bottom, left:right] = True
            mask = part.arrays["face_mask"][row]
            assert set(np.unique(mask)) == {0, 255}
            # A pixel of the small mask is one of the two by two that it stands for.
            squares = union.reshape(128, 2, 128, 2).mean((1, 3))[..., None]
            assert (mask[squares == 1] == 255).all()
            assert (mask[squares == 0] == 0).all()
            has = dict(zip(NAMES, values(index) == 1, strict=True))
            expected = [has[name] for name in celebamask.ATTRIBUTES]
            np.testing.assert_array_equal(part.arrays["attributes"][row], expected)


def test_thirty_thousand_faces_are_split_as_the_benchmark_has_it(monkeypatch, raw):
    monkeypatch.setattr(
        celebamask, "read_attributes", lambda file: np.zeros((30_000, 18), np.float32)
    )
    monkeypatch.setattr(celebamask, "_check_files", lambda folder, number: None)
    source = celebamask.read(raw)
    sizes = {split: examples.size for split, examples in source.splits.items()}
    assert sizes == {"train": 24_000, "validation": 3_000, "test": 3_000}


def rewrite(change):
    def damage(raw):
        file = raw / celebamask.ATTRIBUTE_FILE
        file.write_text("\n".join(change(file.read_text().splitlines())))

    return damage


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def face(index):
    return lambda raw: raw / "CelebA-HQ-img" / f"{index}.jpg"


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda r: (r / celebamask.ATTRIBUTE_FILE).unlink(), FileNotFoundError, "no file .*anno"),
        (lambda r: (r / "CelebA-HQ-img").rename(r / "x"), FileNotFoundError, "no folder .*HQ-img"),
        (lambda r: face(19)(r).unlink(), FileNotFoundError, r"no picture .*19\.jpg, expected 20"),
        (lambda r: truncate(face(19)(r)), ValueError, r"19\.jpg is not readable as a picture"),
        (
            lambda r: (r / celebamask.MASKS / "2").rename(r / "x"),
            FileNotFoundError,
            "no folder .*mask-anno/2",
        ),
        (
            lambda r: [f.unlink() for f in (r / celebamask.MASKS / "1").glob("00009_*")],
            FileNotFoundError,
            r"mask-anno/1 holds no mask 00009_PART\.png",
        ),
        (
            lambda r: truncate(mask_file(r, 4, next(iter(parts(4))))),
            ValueError,
            r"00004_\w+\.png is not readable as a picture",
        ),
        (rewrite(lambda lines: lines[:-1]), ValueError, "announces 20 faces, but describes 19"),
        (rewrite(lambda lines: lines[:2]), ValueError, "fewer than three lines"),
        (
            rewrite(lambda lines: [lines[0], lines[1].replace("Bald", "Bold"), *lines[2:]]),
            ValueError,
            "line 2: the attribute Bald is missing",
        ),
        (
            rewrite(lambda lines: [*lines[:4], lines[4].rsplit(" ", 1)[0], *lines[5:]]),
            ValueError,
            r"line 5: expected 2\.jpg and 20 values of -1 or 1, got 2\.jpg and 19",
        ),
        (
            rewrite(lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]]),
            ValueError,
            r"line 5: expected 2\.jpg .* got 3\.jpg",
        ),
        (
            rewrite(lambda lines: [*lines[:4], lines[4].replace("-1", "0"), *lines[5:]]),
            ValueError,
            r"line 5: expected 2\.jpg",
        ),
    ],
)
def test_damage_is_named_and_prepares_nothing(raw, damage, error, message):
    damage(raw)
    with pytest.raises(error, match=message):
        data.prepare("celebamask-hq", raw)
    assert not data.is_prepared("celebamask-hq")


def test_skin_alone_is_an_empty_mask(raw):
    for part in parts(3):
        mask_file(raw, 3, part).unlink()
    assert celebamask.read_mask(raw, 3).sum() == 0


def test_it_has_no_seed_and_is_shown(raw, tmp_path):
    with pytest.raises(ValueError, match=r"unknown option .*'seed'"):
        data.prepare("celebamask-hq", raw, seed=1)
    data.prepare("celebamask-hq", raw)
    data.show(data.load("celebamask-hq"), tmp_path / "faces.png", rows=2)
    assert (tmp_path / "faces.png").stat().st_size > 0
