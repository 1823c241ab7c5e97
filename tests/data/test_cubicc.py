"""CUBICC: families by the last word of the species, an example a caption, a training vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from raw_files import pixels

from holderjax import data
from holderjax.cli import main
from holderjax.data import cubicc
from holderjax.data.text import words

SPECIES = {
    "001": "009.Brewer_Blackbird",
    "2": "066.Western_Gull",
    "3": "086.Pacific_Loon",
    "4": "146.Forsters_Tern",
    "5": "199.Winter_Wren",
}
# Picture -> species, in training, captions.
BIRDS = {
    "1": ("001", 1, ["a black bird with a yellow eye", "the bird is black, with a beak"]),
    "2": ("001", 0, ["a black bird, with an unheard-of zygodactyl foot"]),
    "3": ("2", 1, ["a white bird with a yellow beak.", " ".join(["bird"] * 40)]),
    "4": ("3", 1, ["a loon loon loon loon is left out"]),
    "5": ("4", 0, ["this bird isn't black", "a white bird", "a bird"]),
    "6": ("5", 1, ["a bird"]),
}


def picture_name(key):
    return f"{SPECIES[BIRDS[key][0]]}/Bird_{key}_{int(key) * 11}.jpg"


@pytest.fixture
def raw(tmp_path):
    tree = tmp_path / "raw" / "CUB_200_2011"
    tree.mkdir(parents=True)
    tables = {
        "images": {key: picture_name(key) for key in BIRDS},
        "classes": SPECIES,
        "image_class_labels": {key: bird[0] for key, bird in BIRDS.items()},
        "train_test_split": {key: bird[1] for key, bird in BIRDS.items()},
    }
    for name, table in tables.items():
        (tree / f"{name}.txt").write_text("".join(f"{k} {v}\n" for k, v in table.items()))
    for key, (_, _, captions) in BIRDS.items():
        picture = tree / "images" / picture_name(key)
        text = (tmp_path / "raw" / "text_c10" / picture_name(key)).with_suffix(".txt")
        for file in (picture, text):
            file.parent.mkdir(parents=True, exist_ok=True)
        # One is grey, as a few of the official ones are; the sides differ.
        image = Image.fromarray(pixels(int(key), 80 + int(key), 100, 3))
        (image.convert("L") if key == "6" else image).save(picture, quality=95)
        text.write_text("\n".join(captions) + "\n\n")
    return tmp_path / "raw"


def expected_picture(raw, key):
    with Image.open(raw / "CUB_200_2011" / "images" / picture_name(key)) as image:
        return np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS))


@pytest.mark.parametrize(
    ("species", "expected"),
    [
        ("009.Brewer_Blackbird", "blackbird"),
        ("066.Western_Gull", "gull"),
        ("144.Common_Tern", "tern"),
        ("099.Ovenbird", None),
        ("089.Hooded_Merganser", None),
        ("053.Western_Grebe", None),
        ("200.Common_Yellowthroat", None),
        ("193.Bewick_Wren", "wren"),
    ],
)
def test_the_family_is_the_last_word(species, expected):
    found = cubicc.family(species)
    assert (None if found is None else cubicc.FAMILIES[found]) == expected


def test_an_example_is_a_picture_with_one_of_its_captions(raw):
    data.prepare("cubicc", raw)
    dataset = data.load("cubicc")
    assert dataset.modalities == {"image": (64, 64, 3), "caption": (32,)}
    assert dataset.num_classes == 8
    vocabulary = dataset.vocabularies["caption"]
    for part, training in ((dataset.train, 1), (dataset.test, 0)):
        found = []
        for image, ids, label in zip(*part.arrays.values(), part.labels, strict=True):
            (key,) = (k for k in BIRDS if (expected_picture(raw, k) == image).all())
            assert BIRDS[key][1] == training
            assert cubicc.FAMILIES[label] == SPECIES[BIRDS[key][0]].rsplit("_")[-1].lower()
            found.append((key, vocabulary.decode(ids)))
        expected = [
            (key, " ".join(w if w in vocabulary.symbols else "<unk>" for w in words(caption)[:32]))
            for key, (species, in_training, captions) in BIRDS.items()
            if in_training == training and species != "3"
            for caption in captions
        ]
        assert sorted(found) == sorted(expected)


def test_the_vocabulary_is_of_the_training_captions_and_kept_with_the_data(raw):
    data.prepare("cubicc", raw)
    # At least three times in the training captions; the loon's are not among them.
    assert data.load("cubicc").vocabularies["caption"] == data.Vocabulary(
        ("", "<unk>", "bird", "a", "with"), " "
    )


def test_captions_are_padded_and_cut(raw):
    vocabulary = data.Vocabulary(("", "<unk>", "bird"), " ")
    ids = cubicc.encode([["a", "bird"], ["bird"] * 40], vocabulary)
    assert ids.dtype == np.int32
    assert ids.tolist() == [[1, 2] + [0] * 30, [2] * 32]


def test_examples_are_in_an_order_of_the_seed(raw):
    captions = {}
    for seed in (0, 0, 1):
        data.prepare("cubicc", raw, seed=seed, replace=True)
        captions.setdefault(seed, []).append(data.load("cubicc").fingerprint)
    assert len(set(captions[0])) == 1
    assert captions[1] != captions[0][:1]


def test_words_are_lower_case_and_without_punctuation():
    assert words("This bird isn't Black-and-white, 12cm.") == [
        *("this", "bird", "isn't", "black", "and", "white", "12cm")
    ]


def test_captions_in_another_encoding_lose_only_the_strange_characters(raw):
    file = (raw / "text_c10" / picture_name("6")).with_suffix(".txt")
    file.write_bytes(b"a bird\xff with a\x92 bird\n")
    data.prepare("cubicc", raw)
    dataset = data.load("cubicc")
    (row,) = np.flatnonzero(dataset.train.labels == cubicc.FAMILIES.index("wren"))
    text = dataset.vocabularies["caption"].decode(dataset.train.arrays["caption"][row])
    assert text == "a bird with a bird"


def rewrite(name, change):
    def damage(raw):
        file = raw / "CUB_200_2011" / name
        file.write_text("\n".join(change(file.read_text().splitlines())))

    return damage


def text_of(key):
    return lambda raw: (raw / "text_c10" / picture_name(key)).with_suffix(".txt")


def image_of(key):
    return lambda raw: raw / "CUB_200_2011" / "images" / picture_name(key)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            lambda r: (r / "CUB_200_2011/classes.txt").unlink(),
            FileNotFoundError,
            "no file .*classes",
        ),
        (
            lambda r: (r / "text_c10").rename(r / "t"),
            FileNotFoundError,
            "neither text_c10 nor text",
        ),
        (lambda r: text_of("5")(r).unlink(), FileNotFoundError, r"no captions .*Bird_5_55\.txt"),
        (
            lambda r: text_of("5")(r).write_text("\n"),
            ValueError,
            r"Bird_5_55\.txt holds no caption",
        ),
        (lambda r: image_of("3")(r).unlink(), FileNotFoundError, r"no picture .*Bird_3_33\.jpg"),
        (
            lambda r: image_of("3")(r).write_bytes(image_of("3")(r).read_bytes()[:900]),
            ValueError,
            r"Bird_3_33\.jpg is not readable as a picture",
        ),
        (
            rewrite("train_test_split.txt", lambda lines: lines[:-1]),
            ValueError,
            r"train_test_split\.txt holds 5 pictures, expected the 6 of images.txt; .* picture 6",
        ),
        (
            rewrite("image_class_labels.txt", lambda lines: [*lines, "7 001"]),
            ValueError,
            r"image_class_labels\.txt holds 7 pictures, expected the 6 .* picture 7",
        ),
        (
            rewrite("image_class_labels.txt", lambda lines: ["1 77", *lines[1:]]),
            ValueError,
            "picture 1 is of class 77, which classes.txt does not have",
        ),
        (
            rewrite("train_test_split.txt", lambda lines: ["1 2", *lines[1:]]),
            ValueError,
            "expected 0 or 1 for picture 1, got '2'",
        ),
        (
            rewrite("images.txt", lambda lines: [*lines, lines[0]]),
            ValueError,
            r"images\.txt holds 7 lines of 6 different ids",
        ),
        (
            rewrite("images.txt", lambda lines: [lines[0], "2", *lines[2:]]),
            ValueError,
            r"images\.txt, line 2: expected two columns, got 1",
        ),
        (
            rewrite("train_test_split.txt", lambda lines: [f"{i} 1" for i in range(1, 7)]),
            ValueError,
            "no test pictures of the families blackbird, gull",
        ),
    ],
)
def test_damage_is_named_and_prepares_nothing(raw, damage, error, message):
    damage(raw)
    with pytest.raises(error, match=message):
        data.prepare("cubicc", raw)
    assert not data.is_prepared("cubicc")


def test_it_is_shown_with_its_captions_and_never_fetched(raw, tmp_path, capsys):
    assert main(["data", "prepare", "cubicc"]) == 2
    assert "Put into a folder DIR: CUB_200_2011" in capsys.readouterr().err
    assert main(["data", "prepare", "cubicc", "--from", str(raw)]) == 0
    assert main(["data", "show", "cubicc", "--out", str(tmp_path / "birds.png")]) == 0
    assert (tmp_path / "birds.png").stat().st_size > 0
