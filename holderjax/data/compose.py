"""PolyMNIST's recipe: digits over random patches of pictures, paired within their class.

Sutter, Daunhawer, Vogt. Generalized Multimodal ELBO. ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8


def pair_within_class(
    labels: Int[np.ndarray, " N"], num_modalities: int, rng: np.random.Generator
) -> Int[np.ndarray, "M N"]:
    """Which source digit each modality of each example shows; only the label is shared.

    Within a class every modality uses every source digit once. The class is shuffled onto a circle
    and every modality reads it from its own random starting point, so that the modalities of an
    example are different source digits (where the class has at least ``num_modalities``).

    Args:
        labels: class of each source digit; example i has the class of source digit i.
        num_modalities: M.
        rng: where the pairing comes from.

    Returns:
        Indices into ``labels``.
    """
    sources = np.empty((num_modalities, len(labels)), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        size = len(members)
        circle = rng.permutation(members)
        starts = rng.choice(size, num_modalities, replace=size < num_modalities)
        sources[:, members] = circle[(np.arange(size) + starts[:, None]) % size]
    return sources


def composite(
    inks: Bool[np.ndarray, "N H W"],
    picture: UInt8[np.ndarray, "height width 3"],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "N H W 3"]:
    """Each digit over its own random patch of the picture, colours inverted under the ink.

    ``255 - patch`` where there is ink, ``patch`` elsewhere; the patch's corner is uniform over all
    positions in the picture.

    Raises:
        ValueError: if the picture is smaller than a digit.
    """
    num, height, width = inks.shape
    if picture.shape[0] < height or picture.shape[1] < width:
        raise ValueError(
            f"a picture must be at least {height}x{width} pixels, got "
            f"{picture.shape[0]}x{picture.shape[1]}"
        )
    windows = np.lib.stride_tricks.sliding_window_view(picture, (height, width), axis=(0, 1))
    rows = rng.integers(windows.shape[0], size=num)
    columns = rng.integers(windows.shape[1], size=num)
    patches = np.moveaxis(windows[rows, columns], 1, -1)
    # 255 - x is x ^ 255 for bytes: no wider type on the way.
    return patches ^ (inks[..., None] * np.uint8(255))


def compose(
    inks: Bool[np.ndarray, "N H W"],
    labels: Int[np.ndarray, " N"],
    pictures: Sequence[UInt8[np.ndarray, "height width 3"]],
    rng: np.random.Generator,
) -> dict[str, UInt8[np.ndarray, "N H W 3"]]:
    """The modalities ``m0``, ``m1``, ...: modality m's digits over patches of picture m."""
    sources = pair_within_class(labels, len(pictures), rng)
    return {
        f"m{m}": composite(inks[sources[m]], picture, rng) for m, picture in enumerate(pictures)
    }
