"""Miniature raw files in the formats that the data sets are distributed in."""

from __future__ import annotations

import struct

import numpy as np
import scipy.io

# Every digit, in unequal numbers; SVHN has more of some and fewer of others.
MNIST_LABELS = {
    "train": np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 3, 7, 1], np.uint8),
    "test": np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0], np.uint8),
}
SVHN_LABELS = {
    "train": np.array([0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 7, 8, 9, 9], np.uint8),
    "test": np.arange(10, dtype=np.uint8).repeat(2),
}


def pixels(seed, *shape):
    """Bytes that no other seed gives."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def mnist_images(split):
    return pixels(len(split), len(MNIST_LABELS[split]), 28, 28)


def svhn_images(split):
    return pixels(10 + len(split), len(SVHN_LABELS[split]), 32, 32, 3)


def idx_bytes(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder):
    folder.mkdir(exist_ok=True)
    for split, stem in (("train", "train"), ("test", "t10k")):
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx_bytes(mnist_images(split)))
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx_bytes(MNIST_LABELS[split]))


def write_svhn(folder):
    folder.mkdir(exist_ok=True)
    for split, labels in SVHN_LABELS.items():
        save_svhn(folder / f"{split}_32x32.mat", svhn_images(split), labels)


def save_svhn(file, images, labels):
    # The official files call the digit 0 by 10, and have the examples on the last axis.
    names = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    scipy.io.savemat(file, {"X": np.moveaxis(images, 0, 3), "y": names}, do_compression=True)
