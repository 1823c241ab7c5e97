"""CUBICC: pictures of birds and captions, in eight families.

Palumbo, Manduchi, Laguna, Chopard, Vogt. Deep Generative Clustering with Multimodal Diffusion
Variational Autoencoders. ICLR 2024. The pictures: Wah, Branson, Welinder, Perona, Belongie. The
Caltech-UCSD Birds-200-2011 Dataset. 2011. The captions: Reed, Akata, Lee, Schiele. Learning Deep
Representations of Fine-Grained Visual Descriptions. CVPR 2016.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from holderjax.data.examples import Examples, Source
from holderjax.data.images import read_images, squeezed
from holderjax.data.text import UNKNOWN, Vocabulary, build_vocabulary, words

FAMILIES = ("blackbird", "gull", "jay", "oriole", "tanager", "tern", "warbler", "wren")
SIDE = 64
LENGTH = 32
# A word that occurs less often in the training captions is an unknown one.
LEAST_OCCURRENCES = 3
CAPTION_FOLDERS = ("text_c10", "text")


@dataclasses.dataclass(frozen=True)
class _Bird:
    """A picture, its captions in words, its family and its split."""

    picture: Path
    captions: Sequence[Sequence[str]]
    family: int
    split: str


def family(species: str) -> int | None:
    """Index in ``FAMILIES`` of a species like ``084.Red_legged_Kittiwake``; None for another.

    The family is the last word of the name: a "Western Gull" is no tern.
    """
    last = species.rsplit("_", 1)[-1].rsplit(".", 1)[-1].lower()
    return FAMILIES.index(last) if last in FAMILIES else None


def read(folder: Path, *, seed: int = 0) -> Source:
    """Modalities ``image`` 64x64x3, bytes, and ``caption``, 32 ids of words; labels: the family.

    An example is a picture with one of its captions. The pictures are squeezed to squares.
    Captions are cut, or padded with 0, to 32 words; the vocabulary is that of the training
    captions.

    Args:
        folder: with ``CUB_200_2011`` (``images.txt``, ``image_class_labels.txt``, ``classes.txt``,
            ``train_test_split.txt``, ``images/``) and the captions, one a line, in
            ``text_c10/SPECIES/PICTURE.txt`` (or ``text/...``).
        seed: of the order of the examples.

    Raises:
        FileNotFoundError: naming the missing file.
        ValueError: naming the damaged file and what was expected.
    """
    birds = _birds(folder)
    streams = np.random.default_rng(seed).spawn(2)
    training = [caption for b in birds if b.split == "train" for caption in b.captions]
    vocabulary = build_vocabulary(training, LEAST_OCCURRENCES)
    return Source(
        {
            split: _examples(folder, [b for b in birds if b.split == split], split, vocabulary, rng)
            for split, rng in zip(("train", "test"), streams, strict=True)
        },
        num_classes=len(FAMILIES),
        vocabularies={"caption": vocabulary},
    )


def encode(captions: Sequence[Sequence[str]], vocabulary: Vocabulary) -> Int[np.ndarray, "N 32"]:
    """Captions as ids of words, int32: cut, or padded with 0, to 32."""
    ids = {word: i for i, word in enumerate(vocabulary.symbols)}
    encoded = np.zeros((len(captions), LENGTH), np.int32)
    for row, caption in zip(encoded, captions, strict=True):
        found = [ids.get(word, UNKNOWN) for word in caption[:LENGTH]]
        row[: len(found)] = found
    return encoded


def _examples(
    folder: Path,
    birds: Sequence[_Bird],
    split: str,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
) -> Examples:
    if not birds:
        raise ValueError(f"{folder} has no {split} pictures of the families {', '.join(FAMILIES)}")
    owners = np.repeat(np.arange(len(birds)), [len(bird.captions) for bird in birds])
    captions = encode([caption for bird in birds for caption in bird.captions], vocabulary)
    order = rng.permutation(len(owners))
    owners, captions = owners[order], captions[order]
    # Each picture is read once, for all its captions.
    pictures = read_images([bird.picture for bird in birds], squeezed(SIDE))
    return Examples(
        len(owners),
        lambda rows: {"image": pictures[owners[rows]], "caption": captions[rows]},
        np.array([bird.family for bird in birds], np.int32)[owners],
    )


def _birds(folder: Path) -> list[_Bird]:
    tree = folder / "CUB_200_2011"
    pictures = _table(tree / "images.txt")
    species = _table(tree / "classes.txt")
    species_of = _table(tree / "image_class_labels.txt", pictures)
    training = _table(tree / "train_test_split.txt", pictures)
    texts = _captions_folder(folder)
    birds = []
    for key, name in pictures.items():
        if species_of[key] not in species:
            raise ValueError(
                f"{tree / 'image_class_labels.txt'}: picture {key} is of class {species_of[key]}, "
                "which classes.txt does not have"
            )
        if training[key] not in ("0", "1"):
            raise ValueError(
                f"{tree / 'train_test_split.txt'}: expected 0 or 1 for picture {key}, got "
                f"{training[key]!r}"
            )
        label = family(species[species_of[key]])
        if label is not None:
            captions = _read_captions((texts / name).with_suffix(".txt"))
            split = "train" if training[key] == "1" else "test"
            birds.append(_Bird(tree / "images" / name, captions, label, split))
    return birds


def _table(file: Path, keys: dict[str, str] | None = None) -> dict[str, str]:
    """The second column of a file by its first; with the very keys of another, if given."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise ValueError(f"{file}, line {number}: expected two columns, got {len(row)}")
    table = {key: value for key, value in rows}
    if len(table) != len(rows) or not rows:
        raise ValueError(f"{file} holds {len(rows)} lines of {len(table)} different ids")
    if keys is not None and (wrong := sorted(table.keys() ^ keys.keys())):
        raise ValueError(
            f"{file} holds {len(table)} pictures, expected the {len(keys)} of images.txt; they "
            f"differ in picture {wrong[0]}"
        )
    return table


def _captions_folder(folder: Path) -> Path:
    for name in CAPTION_FOLDERS:
        if (folder / name).is_dir():
            return folder / name
    raise FileNotFoundError(f"{folder} holds neither {' nor '.join(CAPTION_FOLDERS)}, the captions")


def _read_captions(file: Path) -> list[list[str]]:
    if not file.is_file():
        raise FileNotFoundError(f"there are no captions {file}")
    # A few captions hold characters of another encoding, which are part of no word.
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    captions = [found for line in lines if (found := words(line))]
    if not captions:
        raise ValueError(f"{file} holds no caption, expected one a line")
    return captions
