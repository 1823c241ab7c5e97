"""Progress on the terminal; silent where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")


def track(items: Sequence[T], description: str) -> Iterable[T]:
    """The items, with a bar on the terminal's error stream while they are consumed."""
    console = Console(stderr=True)
    return rich_track(
        items, description, console=console, transient=True, disable=not console.is_terminal
    )
