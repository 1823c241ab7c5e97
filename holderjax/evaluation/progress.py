"""Progress on the terminal; silent where there is none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """The items, with a bar on the terminal's error stream while they are consumed.

    Args:
      items: any.
      description: what is done with them.
      total: how many there are, where they have no length.
    """
    console = Console(stderr=True)
    return rich_track(
        items,
        description,
        total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
