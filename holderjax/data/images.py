"""Reading pictures, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow decodes outside Python's lock.
_THREADS = 8


def open_image(file: Path) -> Image:
    """A picture, decoded.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file that is damaged.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {file}") from None
    # Pillow reports a damaged PNG as a SyntaxError.
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file} is not readable as a picture: {error}") from error
    return image


def read_image(file: Path, convert: Callable[[Image], Image]) -> UInt8[np.ndarray, "..."]:
    """The pixels of what ``convert`` makes of a picture.

    Args:
        file: of the picture.
        convert: to what is kept; it refuses a picture by a ValueError, "is ..., expected ...".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file that is damaged, or that ``convert`` refuses.
    """
    image = open_image(file)
    try:
        return np.asarray(convert(image))
    except ValueError as error:
        raise ValueError(f"{file} {error}") from error


def read_images(
    files: Sequence[Path], convert: Callable[[Image], Image]
) -> UInt8[np.ndarray, "N ..."]:
    """The pictures of ``files``, in their order; ``convert`` makes all of one size and mode."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.stack(list(pool.map(lambda file: read_image(file, convert), files)))


def exactly(side: int) -> Callable[[Image], Image]:
    """Refuse what is not ``side`` x ``side`` RGB."""

    def check(image: Image) -> Image:
        if image.size != (side, side) or image.mode != "RGB":
            raise ValueError(
                f"is {image.height}x{image.width} {image.mode}, expected {side}x{side} RGB"
            )
        return image

    return check


def at_least(side: int) -> Callable[[Image], Image]:
    """To RGB; refuse what is less than ``side`` high or wide."""

    def convert(image: Image) -> Image:
        if min(image.size) < side:
            raise ValueError(f"is {image.height}x{image.width}, expected at least {side}x{side}")
        return image.convert("RGB")

    return convert


def squeezed(side: int) -> Callable[[Image], Image]:
    """To ``side`` x ``side`` x RGB: the whole picture, its proportions given up."""

    def convert(image: Image) -> Image:
        from PIL.Image import Resampling

        return image.convert("RGB").resize((side, side), Resampling.LANCZOS)

    return convert
