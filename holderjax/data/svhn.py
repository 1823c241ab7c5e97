"""Reading SVHN's cropped digits.

Netzer, Wang, Coates, Bissacco, Wu, Ng. Reading Digits in Natural Images with Unsupervised Feature
Learning. NIPS Workshop 2011.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

SHAPE = (32, 32, 3)


def read_svhn(
    folder: Path, split: str
) -> tuple[UInt8[np.ndarray, "N 32 32 3"], Int[np.ndarray, " N"]]:
    """Images and labels of ``split``, "train" or "test", from ``{split}_32x32.mat``.

    The file holds ``X``, bytes ``[32, 32, 3, N]``, and ``y``, ``[N, 1]`` labels from 1 to 10, where
    10 means the digit 0.

    Raises:
        FileNotFoundError: naming the file looked for.
        ValueError: naming the damaged file and what it should hold.
    """
    from scipy.io import loadmat

    file = folder / f"{split}_32x32.mat"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no {file.name}")
    try:
        content = loadmat(file, variable_names=("X", "y"))
    # SciPy reports damage by errors of half a dozen kinds.
    except Exception as error:
        raise ValueError(f"{file} is not readable as a MATLAB file: {error}") from error
    for name in ("X", "y"):
        if name not in content:
            raise ValueError(f"{file} holds no array {name}, expected X (images) and y (labels)")
    images, labels = content["X"], content["y"].ravel()
    if images.ndim != 4 or images.shape[:3] != SHAPE or images.dtype != np.uint8:
        raise ValueError(
            f"{file} holds X: {images.shape} of {images.dtype}, expected (32, 32, 3, N) of uint8"
        )
    if len(labels) != images.shape[3]:
        raise ValueError(
            f"{file} holds {len(labels)} labels, expected {images.shape[3]}, one for each image"
        )
    if strange := sorted(set(labels.tolist()) - set(range(1, 11))):
        raise ValueError(f"{file} holds the label {strange[0]}, expected 1 to 10")
    return np.ascontiguousarray(np.moveaxis(images, 3, 0)), (labels % 10).astype(np.int32)
