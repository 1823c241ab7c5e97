"""The device: its name, for what was measured on it, and the programs compiled for it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import jax


def device_name(device: jax.Device | None = None) -> str:
    """An accelerator's own name; of a CPU the cores and the model, as far as they are known.

    Args:
      device: the first one if None.
    """
    device = device or jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    model, info = platform.machine(), Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        model = found[1].strip()
    return f"{os.cpu_count()}-core {model}"


def keep_programs(folder: Path) -> None:
    """Let XLA find in a folder what it has compiled before, in this process or another.

    A folder that the user chose for JAX (``JAX_COMPILATION_CACHE_DIR``) is left as it is, and so is
    a choice of none (``JAX_ENABLE_COMPILATION_CACHE=false``). JAX keeps programs that took a second
    or more to compile.

    Args:
      folder: which JAX makes when it needs it.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
