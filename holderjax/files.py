"""Files that are either old or new, never half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` once its block has ended without an error.

    The content is on the disk before it has the name: also ``kill -9`` and power cuts leave the old
    file or the new one.

    Args:
      path: of the file to make or to replace; its folder is made if need be.

    Yields:
      The file to write into.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two writers of the same file apart.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with naming(path), partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """The system's errors that name no file, as that of a full disk does not, name this one."""
    try:
        yield
    except OSError as error:
        # Without a number it is a message of somebody's own.
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace the file by a text, as UTF-8."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace the file by a value as JSON, for people to read as well."""
    write_text(path, json.dumps(value, indent=2) + "\n")
