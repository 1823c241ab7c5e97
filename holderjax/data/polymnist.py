"""PolyMNIST: MNIST digits, each modality over patches of its own picture.

Sutter, Daunhawer, Vogt. Generalized Multimodal ELBO. ICLR 2021. Either read from the official
tree of PNGs, or composed here from MNIST and a folder of pictures; prepared once, or each time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from holderjax.data import prepared
from holderjax.data.compose import compose
from holderjax.data.dataset import Dataset, Split
from holderjax.data.examples import Examples, Source
from holderjax.data.idx import read_mnist
from holderjax.data.images import at_least, exactly, read_image, read_images

SIDE = 28
# Of 255; a digit's pixel above it is ink.
INK_THRESHOLD = 128
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")


def load(
    root: Path | None = None,
    mnist: Path | None = None,
    backgrounds: Path | None = None,
    num_modalities: int = 5,
    seed: int = 0,
) -> Dataset:
    """Modalities ``m0``, ``m1``, ... of 28x28x3 bytes; 60,000 training and 10,000 test examples.

    Args:
        root: the official tree, ``root/{train,test}/m{0..}/{index}.{label}.png``; or else
        mnist: folder with MNIST's four IDX files, and
        backgrounds: folder with at least ``num_modalities`` pictures, of which the first in
            alphabetical order are taken.
        num_modalities: how many modalities.
        seed: of the pairing and the patches, where the data is composed.

    With no folder, what ``holderjax data prepare polymnist`` made is read; of more modalities than
    asked for, the first ones.

    Returns:
        The data set; composed data is the same for the same seed and files.

    Raises:
        FileNotFoundError: naming the file or folder that is missing.
        ValueError: naming the damaged file and what was expected.
    """
    if num_modalities < 1:
        raise ValueError(f"num_modalities must be at least 1, got {num_modalities}")
    if root is None and mnist is None and backgrounds is None:
        return _load_prepared(num_modalities)
    if root is not None and mnist is None and backgrounds is None:
        train, test = (_read_tree(Path(root) / s, num_modalities) for s in ("train", "test"))
    elif root is None and mnist is not None and backgrounds is not None:
        pictures = _read_pictures(Path(backgrounds), num_modalities)
        rng = np.random.default_rng(seed)
        train, test = (_compose(Path(mnist), split, pictures, rng) for split in ("train", "test"))
    else:
        options = {"root": root, "mnist": mnist, "backgrounds": backgrounds}
        given = [name for name, path in options.items() if path is not None]
        raise ValueError(
            "polymnist needs either its official tree (root) or MNIST's IDX files (mnist) and a "
            f"folder of pictures (backgrounds), got {_listing(given)}"
        )
    return Dataset("polymnist", train, test, num_classes=10)


def read(folder: Path, *, num_modalities: int = 5, seed: int = 0) -> Source:
    """The examples to prepare, from either source.

    Args:
        folder: the official tree, with ``train`` and ``test``; or MNIST's four IDX files beside
            ``backgrounds``, a folder of pictures.
        num_modalities: as in ``load``.
        seed: as in ``load``.

    Raises:
        FileNotFoundError, ValueError: as ``load``.
    """
    options: dict[str, Path]
    if (folder / "train").is_dir():
        options = {"root": folder}
    else:
        options = {"mnist": folder, "backgrounds": folder / "backgrounds"}
    dataset = load(**options, num_modalities=num_modalities, seed=seed)
    return Source(
        {"train": Examples.of(dataset.train), "test": Examples.of(dataset.test)},
        dataset.num_classes,
    )


def _load_prepared(num_modalities: int) -> Dataset:
    dataset = prepared.load("polymnist")
    names = list(dataset.modalities)
    if num_modalities > len(names):
        raise ValueError(
            f"polymnist is prepared with {len(names)} modalities, expected {num_modalities}: "
            f"holderjax data prepare polymnist --modalities {num_modalities} --replace"
        )
    train, test = (
        Split({name: split.arrays[name] for name in names[:num_modalities]}, split.labels)
        for split in (dataset.train, dataset.test)
    )
    return Dataset(dataset.name, train, test, dataset.num_classes)


def _compose(
    mnist: Path, split: str, pictures: list[np.ndarray], rng: np.random.Generator
) -> Split:
    images, labels = read_mnist(mnist, split)
    if images.shape[1:] != (SIDE, SIDE):
        raise ValueError(
            f"{mnist} holds {split} images of {images.shape[1:]} pixels, expected {(SIDE, SIDE)}"
        )
    return Split(compose(images > INK_THRESHOLD, labels, pictures, rng), labels)


def _read_pictures(folder: Path, number: int) -> list[UInt8[np.ndarray, "height width 3"]]:
    names = [name for name in _names(folder) if name.lower().endswith(PICTURE_SUFFIXES)]
    if len(names) < number:
        raise FileNotFoundError(
            f"{folder} holds {len(names)} pictures ({_listing(names)}), expected at least "
            f"{number}, one for each modality"
        )
    return [read_image(folder / name, at_least(SIDE)) for name in names[:number]]


def _read_tree(folder: Path, num_modalities: int) -> Split:
    names = [f"m{m}" for m in range(num_modalities)]
    labels = {name: _index(folder / name) for name in names}
    for name in names[1:]:
        _check_aligned(folder, names[0], labels[names[0]], name, labels[name])
    # The order in which the modalities are aligned: by index.
    order = sorted(labels["m0"])
    arrays = {
        name: read_images(
            [folder / name / f"{i}.{labels[name][i]}.png" for i in order], exactly(SIDE)
        )
        for name in names
    }
    return Split(arrays, np.array([labels["m0"][i] for i in order], np.int32))


def _index(folder: Path) -> dict[int, int]:
    """Label of every index in a modality's folder."""
    labels: dict[int, int] = {}
    for name in _names(folder):
        if not name.endswith(".png"):
            continue
        match = re.fullmatch(r"(0|[1-9]\d*)\.(\d)\.png", name)
        if match is None:
            raise ValueError(f"{folder / name} is not named INDEX.LABEL.png")
        index, label = map(int, match.groups())
        if index in labels:
            raise ValueError(
                f"{folder / name}: index {index} has the label {labels[index]} as well"
            )
        labels[index] = label
    if not labels:
        raise FileNotFoundError(f"{folder} holds no INDEX.LABEL.png")
    return labels


def _check_aligned(
    folder: Path, first: str, expected: dict[int, int], name: str, found: dict[int, int]
) -> None:
    if missing := sorted(expected.keys() - found.keys()):
        file = folder / name / f"{missing[0]}.{expected[missing[0]]}.png"
        raise FileNotFoundError(
            f"{file} is missing, expected every index of {first} ({len(missing)} are missing)"
        )
    if extra := sorted(found.keys() - expected.keys()):
        file = folder / name / f"{extra[0]}.{found[extra[0]]}.png"
        raise ValueError(f"{file} has no counterpart in {first}")
    for index, label in found.items():
        if label != expected[index]:
            raise ValueError(
                f"{folder / name / f'{index}.{label}.png'} has label {label}, expected "
                f"{expected[index]} as in {first}"
            )


def _names(folder: Path) -> list[str]:
    """What the folder holds but for hidden files, in alphabetical order."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
