"""The name of a device, for what was measured on it."""

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
