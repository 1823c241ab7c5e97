"""What the benchmarks share."""

import re
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from holderjax.device import device_name
from holderjax.files import write_json

RESULTS = Path(__file__).parent / "results"


def write_results(benchmark: str, config: Any, measured: dict, *packages: str) -> Path:
    """Write what was measured, with the device, the date, the versions and the settings.

    Args:
      benchmark: its name.
      config: a dataclass; its ``out`` says where to, ``results/`` if that is None.
      measured: JSON values.
      *packages: whose versions matter, beside JAX.

    Returns:
      The file.
    """
    device = device_name()
    file = re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-")
    out = config.out or RESULTS / f"{benchmark}-{file}.json"
    facts = {
        "device": device,
        "date": date.today().isoformat(),
        "versions": {name: version(name) for name in ("jax", *packages)},
        "config": {
            name: str(x) if isinstance(x, Path) else x
            for name, x in vars(config).items()
            if name != "out"
        },
    }
    write_json(out, facts | measured)
    return out
