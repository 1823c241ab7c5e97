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


def read_image(file: Path, convert: Callable[[Image], Image]) -> UInt8[np.ndarray, "..."]:
    """The pixels of what ``convert`` makes of a picture.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file that is damaged.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            return np.asarray(convert(image))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {file}") from None
    # Pillow reports a damaged PNG as a SyntaxError.
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file} is not readable as a picture: {error}") from error


def read_images(
    files: Sequence[Path], convert: Callable[[Image], Image]
) -> UInt8[np.ndarray, "N ..."]:
    """The pictures of ``files``, in their order; ``convert`` makes all of one size and mode."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.stack(list(pool.map(lambda file: read_image(file, convert), files)))


def squeezed(side: int) -> Callable[[Image], Image]:
    """To ``side`` x ``side`` x RGB: the whole picture, its proportions given up."""

    def convert(image: Image) -> Image:
        from PIL.Image import Resampling

        return image.convert("RGB").resize((side, side), Resampling.LANCZOS)

    return convert
