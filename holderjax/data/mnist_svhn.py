"""MNIST-SVHN and MNIST-SVHN-Text: images of the same digit from two data sets, and its name.

Shi, Siddharth, Paige, Torr. Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep
Generative Models. NeurIPS 2019. With the text: Sutter, Daunhawer, Vogt. Generalized Multimodal
ELBO. ICLR 2021.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int

from holderjax.data.examples import Examples, Source
from holderjax.data.idx import read_mnist
from holderjax.data.svhn import read_svhn
from holderjax.data.text import LETTERS, digit_names

MNIST_SIDE = 28


def pair_between(
    first: Int[np.ndarray, " N1"],
    second: Int[np.ndarray, " N2"],
    repeats: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, "2 N"]:
    """Pairs of images of the same class, each image in up to ``repeats`` of them.

    In every round each image of the set that has fewer of a class meets another image of the other
    set; rounds draw anew which images of the larger set take part, and the order of the pairs.

    Args:
        first: classes of the first set.
        second: classes of the second set.
        repeats: rounds.
        rng: where the pairing comes from.

    Returns:
        Indices into ``first`` and into ``second``, round after round.
    """
    members = [
        (np.flatnonzero(first == label), np.flatnonzero(second == label))
        for label in np.intersect1d(first, second)
    ]
    rounds = []
    for _ in range(repeats):
        pairs = [_meet(ones, others, rng) for ones, others in members]
        rounds.append(rng.permutation(np.concatenate(pairs, axis=1), axis=1))
    return np.concatenate(rounds, axis=1)


def read(
    folder: Path, *, text: bool, seed: int = 0, train_repeats: int = 20, test_repeats: int = 5
) -> Source:
    """Modalities ``mnist`` 28x28x1 and ``svhn`` 32x32x3, bytes, and ``text``, 8 ids of letters.

    The official files give 56,068 x 20 training and 10,000 x 5 test examples.

    Args:
        folder: with MNIST's four IDX files and SVHN's ``train_32x32.mat`` and ``test_32x32.mat``.
        text: whether there is a third modality.
        seed: of the pairing and the texts' offsets.
        train_repeats: rounds of pairing of the training images.
        test_repeats: rounds of pairing of the test images.

    Raises:
        FileNotFoundError: naming the missing file.
        ValueError: naming the damaged file and what was expected.
    """
    streams = np.random.default_rng(seed).spawn(2)
    rounds = {"train": train_repeats, "test": test_repeats}
    for split, repeats in rounds.items():
        if repeats < 1:
            raise ValueError(f"{split}_repeats must be at least 1, got {repeats}")
    return Source(
        {
            split: _examples(folder, split, repeats, text, rng)
            for (split, repeats), rng in zip(rounds.items(), streams, strict=True)
        },
        num_classes=10,
        vocabularies={"text": LETTERS} if text else {},
    )


def _examples(
    folder: Path, split: str, repeats: int, text: bool, rng: np.random.Generator
) -> Examples:
    mnist, mnist_labels = read_mnist(folder, split)
    if mnist.shape[1:] != (MNIST_SIDE, MNIST_SIDE):
        raise ValueError(
            f"{folder} holds {split} images of {mnist.shape[1:]} pixels, expected "
            f"{(MNIST_SIDE, MNIST_SIDE)}"
        )
    svhn, svhn_labels = read_svhn(folder, split)
    if not np.intersect1d(mnist_labels, svhn_labels).size:
        raise ValueError(f"{folder}: MNIST's and SVHN's {split} images have no digit in common")
    ones, others = pair_between(mnist_labels, svhn_labels, repeats, rng)
    labels = mnist_labels[ones]
    # Drawn after the pairs: with and without the text the images are the same.
    names = {"text": digit_names(labels, rng)} if text else {}
    return Examples(
        len(labels),
        lambda rows: {
            "mnist": mnist[ones[rows]][..., None],
            "svhn": svhn[others[rows]],
            **{name: ids[rows] for name, ids in names.items()},
        },
        labels,
    )


def _meet(
    ones: Int[np.ndarray, " n1"], others: Int[np.ndarray, " n2"], rng: np.random.Generator
) -> Int[np.ndarray, "2 n"]:
    size = min(len(ones), len(others))
    return np.stack([rng.permutation(members)[:size] for members in (ones, others)])
