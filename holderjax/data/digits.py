"""The embedded default: real handwritten digits over real pictures, with nothing to download.

scikit-learn's 1,797 digits (8x8, sixteen grey levels; Alpaydin and Kaynak's optical recognition
set) enlarged to 16x16, over patches of five pictures that are part of scikit-image, by PolyMNIST's
recipe.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, UInt8

from holderjax.data.compose import compose
from holderjax.data.dataset import Dataset, Split

NUM_TEST = 297
# How often every training digit occurs in each modality, with partners and patches drawn anew (as
# the field does for MNIST-SVHN). With one tuple a digit, models learn the 1,500 tuples by heart: z
# identifies the example, and the bound of held-out tuples falls 160 nats behind.
TUPLES_PER_DIGIT = 8

# Chosen to look distinct and to stay clear of mid-grey, where an inverted colour is no contrast.
# Halved or more, so that a 16x16 patch has texture. Name in skimage.data -> factor.
PICTURES = {"coffee": 2, "hubble_deep_field": 2, "chelsea": 2, "rocket": 2, "retina": 4}


def load(seed: int = 0) -> Dataset:
    """Five modalities ``m0`` .. ``m4`` of 16x16x3 bytes; 12,000 training and 297 test examples.

    The training examples are made of 1,500 source digits, the test examples of the other 297.

    Args:
        seed: pairing of the modalities and positions of the patches. Which source digits are test
            digits does not depend on it: no test digit is seen in training under any seed.

    Returns:
        The data set, the same for the same seed.
    """
    inks, labels = source_digits()
    backgrounds = pictures()
    splits = []
    for indices, tuples, rng in zip(
        split_sources(labels),
        (TUPLES_PER_DIGIT, 1),
        np.random.default_rng(seed).spawn(2),
        strict=True,
    ):
        draws = [compose(inks[indices], labels[indices], backgrounds, rng) for _ in range(tuples)]
        arrays = {name: np.concatenate([draw[name] for draw in draws]) for name in draws[0]}
        splits.append(Split(arrays, np.tile(labels[indices], tuples)))
    return Dataset("digits", *splits, num_classes=10)


def source_digits() -> tuple[Bool[np.ndarray, "1797 16 16"], Int[np.ndarray, "1797"]]:
    """Ink and label of every source digit.

    Enlarged by cubic splines, outside taken as empty, then cut. The cut is higher where there is
    much ink around, lower where there is little: it opens the holes of heavy sixes and closes the
    rings of faint zeros, both of which one cut for all, at half the ink, gets wrong.
    """
    from scipy.ndimage import gaussian_filter, zoom
    from sklearn.datasets import load_digits

    digits = load_digits()
    ink = zoom(digits.images / 16, (1, 2, 2), order=3, mode="grid-constant", grid_mode=True)
    around = gaussian_filter(ink, (0, 2, 2), mode="constant")
    return ink > 0.25 + 0.7 * around, digits.target.astype(np.int32)


def split_sources(
    labels: Int[np.ndarray, " N"],
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
    """Indices of the training and of the test source digits; stratified, and always the same."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(labels)), test_size=NUM_TEST, stratify=labels, random_state=0
    )
    return train, test


def pictures() -> list[UInt8[np.ndarray, "height width 3"]]:
    """The five backgrounds, in the order of the modalities."""
    from PIL import Image
    from skimage import data

    return [
        np.asarray(Image.fromarray(getattr(data, name)()).reduce(factor))
        for name, factor in PICTURES.items()
    ]
