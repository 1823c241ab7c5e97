"""The name of the device that a result was measured on."""

import os
import platform
import re
from pathlib import Path

import jax


def device_name() -> str:
    """An accelerator's own name; of a CPU the cores and the model, as far as they are known."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    model, info = platform.machine(), Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        model = found[1].strip()
    return f"{os.cpu_count()}-core {model}"


def file_name(benchmark: str) -> str:
    """Of the results of a benchmark on this device."""
    return f"{benchmark}-{re.sub(r'[^A-Za-z0-9]+', '-', device_name()).strip('-')}.json"
