"""CelebAMask-HQ: faces, masks of their parts, attributes.

Lee, Liu, Wu, Luo. MaskGAN: Towards Diverse and Interactive Facial Image Manipulation. CVPR 2020.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from holderjax.data.examples import Examples, Source
from holderjax.data.images import read_image, read_images, squeezed

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 128
PICTURES = "CelebA-HQ-img"
MASKS = "CelebAMask-HQ-mask-anno"
ATTRIBUTE_FILE = "CelebAMask-HQ-attribute-anno.txt"
# Skin is left out: with it, the mask is the face's outline and little else.
PARTS = (
    *("nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth"),
    *("u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)
MASKS_PER_FOLDER = 2000
ATTRIBUTES = (
    *("Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Eyeglasses"),
    *("Gray_Hair", "Heavy_Makeup", "Male", "Mouth_Slightly_Open", "Mustache", "Pale_Skin"),
    *("Receding_Hairline", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Hat"),
)
# In the order of the indices: 24,000, 3,000 and 3,000 of the 30,000 faces. (The data set's authors
# split by CelebA's partition, 24,183 / 2,993 / 2,824; the figures to compare with do not.)
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def read(folder: Path) -> Source:
    """Modalities ``image`` 128x128x3, ``face_mask`` 128x128x1, ``attributes`` 18.

    The mask is 0 or 255, an attribute 0 or 1. (A batch keeps another mask under ``mask``.)

    Args:
        folder: the official one, ``CelebAMask-HQ``.

    Raises:
        FileNotFoundError: naming the missing file.
        ValueError: naming the damaged file and what was expected.
    """
    attributes = read_attributes(folder / ATTRIBUTE_FILE)
    _check_files(folder, len(attributes))
    bounds = np.rint(len(attributes) * np.cumsum([0, *SHARES.values()])).astype(int)
    return Source(
        {
            split: _examples(folder, attributes, range(start, stop))
            for split, start, stop in zip(SHARES, bounds[:-1], bounds[1:], strict=True)
        },
        binary=("face_mask", "attributes"),
    )


def read_attributes(file: Path) -> Float[np.ndarray, "N 18"]:
    """The chosen attributes of every face, 1 where it has them.

    The file holds the number of faces, the attributes' names, and a line for each face: its
    picture's name and -1 or 1 for each attribute.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    if len(rows) < 3 or [] in rows:
        raise ValueError(f"{file} holds an empty line, or fewer than three lines")
    number, names, *lines = rows
    if missing := [name for name in ATTRIBUTES if name not in names]:
        raise ValueError(f"{file}, line 2: the attribute {missing[0]} is missing")
    if number != [str(len(lines))]:
        raise ValueError(f"{file} announces {' '.join(number)} faces, but describes {len(lines)}")
    for i, (picture, *values) in enumerate(lines):
        if picture != f"{i}.jpg" or len(values) != len(names) or set(values) - {"-1", "1"}:
            raise ValueError(
                f"{file}, line {i + 3}: expected {i}.jpg and {len(names)} values of -1 or 1, got "
                f"{picture} and {len(values)}"
            )
    columns = [1 + names.index(name) for name in ATTRIBUTES]
    return np.array([[line[c] == "1" for c in columns] for line in lines], np.float32)


def read_mask(folder: Path, index: int) -> UInt8[np.ndarray, "128 128 1"]:
    """The union of a face's parts, 255 inside; a face has no file of a part that is not seen."""
    union = np.zeros((SIDE, SIDE, 1), bool)
    for part in PARTS:
        file = _mask_file(folder, index, part)
        if file.is_file():
            union |= read_image(file, _small_mask)[..., None] > 0
    return union * np.uint8(255)


def _small_mask(image: Image) -> Image:
    from PIL.Image import Resampling

    return image.convert("L").resize((SIDE, SIDE), Resampling.NEAREST)


def _mask_file(folder: Path, index: int, part: str) -> Path:
    return folder / MASKS / str(index // MASKS_PER_FOLDER) / f"{index:05d}_{part}.png"


def _check_files(folder: Path, number: int) -> None:
    """Everything is there, which is said before the first picture is read."""
    if not (folder / PICTURES).is_dir():
        raise FileNotFoundError(f"there is no folder {folder / PICTURES}")
    pictures = set(os.listdir(folder / PICTURES))
    for index in range(number):
        if f"{index}.jpg" not in pictures:
            raise FileNotFoundError(
                f"there is no picture {folder / PICTURES / f'{index}.jpg'}, expected {number}"
            )
    for start in range(0, number, MASKS_PER_FOLDER):
        masks = folder / MASKS / str(start // MASKS_PER_FOLDER)
        if not masks.is_dir():
            raise FileNotFoundError(f"there is no folder {masks}")
        faces = {name[:5] for name in os.listdir(masks)}
        for index in range(start, min(start + MASKS_PER_FOLDER, number)):
            if f"{index:05d}" not in faces:
                raise FileNotFoundError(f"{masks} holds no mask {index:05d}_PART.png")


def _examples(folder: Path, attributes: np.ndarray, faces: range) -> Examples:
    if not faces:
        raise ValueError(f"{folder / ATTRIBUTE_FILE} describes {len(attributes)} faces, too few")
    pictures = folder / PICTURES

    def block(rows: slice) -> dict[str, np.ndarray]:
        chosen = faces[rows]
        return {
            "image": read_images([pictures / f"{i}.jpg" for i in chosen], squeezed(SIDE)),
            "face_mask": np.stack([read_mask(folder, i) for i in chosen]),
            "attributes": attributes[chosen.start : chosen.stop],
        }

    return Examples(len(faces), block)
