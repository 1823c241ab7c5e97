"""Where what is made once and used by many runs is kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder, made if missing.

    ``$HOLDERJAX_CACHE`` if set, else ``holderjax`` in the platform's cache folder:
    ``$XDG_CACHE_HOME`` or ``~/.cache``, ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on
    Windows.
    """
    if chosen := os.environ.get("HOLDERJAX_CACHE"):
        path = Path(chosen).expanduser()
    else:
        path = _platform_cache() / "holderjax"
    path.mkdir(parents=True, exist_ok=True)
    return path


def programs_dir() -> Path:
    """Where compiled programs are kept in the cache folder."""
    return cache_dir() / "xla"


def _platform_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
