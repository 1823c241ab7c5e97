"""Reading IDX, the format of MNIST's files."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

# Two zero bytes, 8 for unsigned bytes, the number of axes.
_IMAGES, _LABELS = 0x00000803, 0x00000801


def read_mnist(
    folder: Path, split: str
) -> tuple[UInt8[np.ndarray, "N H W"], Int[np.ndarray, " N"]]:
    """Images and labels of ``split``, "train" or "test", from MNIST's four IDX files.

    Each file may be gzipped or not, under the names that it is distributed with
    (``train-images-idx3-ubyte``, ``t10k-labels-idx1-ubyte.gz``, ...).

    Raises:
        FileNotFoundError: naming the file looked for.
        ValueError: naming the damaged file and what it should hold.
    """
    stem = {"train": "train", "test": "t10k"}[split]
    image_file = _find(folder, f"{stem}-images", "idx3-ubyte")
    label_file = _find(folder, f"{stem}-labels", "idx1-ubyte")
    images = read_idx(image_file, _IMAGES)
    labels = read_idx(label_file, _LABELS)
    if len(images) != len(labels):
        raise ValueError(
            f"{label_file} holds {len(labels)} labels, expected {len(images)}, one for each image "
            f"of {image_file.name}"
        )
    if labels.max(initial=0) > 9:
        raise ValueError(f"{label_file} holds the label {labels.max()}, expected digits 0 to 9")
    return images, labels.astype(np.int32)


def read_idx(path: Path, magic: int) -> UInt8[np.ndarray, "..."]:
    """The array in an IDX file of unsigned bytes, gzipped if the name ends in ``.gz``.

    A header of big-endian 32-bit integers (magic number, length of each axis), then the bytes.

    Raises:
        ValueError: for another magic number, and for too few or too many bytes.
    """
    content = _content(path)
    axes = magic & 0xFF
    header = 4 * (1 + axes)
    if len(content) < header:
        raise ValueError(f"{path} ends inside its header: {len(content)} bytes of {header}")
    found, *shape = struct.unpack_from(f">{1 + axes}I", content)
    if found != magic:
        raise ValueError(
            f"{path} starts with {found:#010x}, expected {magic:#010x}: not an IDX file of "
            f"unsigned bytes with {axes} axes"
        )
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - header != expected:
        raise ValueError(
            f"{path} holds {len(content) - header} bytes of data, expected "
            f"{' x '.join(map(str, shape))} = {expected}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find(folder: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}{joint}{kind}{end}" for end in ("", ".gz") for joint in ("-", ".")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} holds neither {names[0]} nor {names[0]}.gz")


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error
