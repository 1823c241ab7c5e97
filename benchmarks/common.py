"""What the benchmarks share."""

import re
from pathlib import Path

from holderjax.device import device_name

RESULTS = Path(__file__).parent / "results"


def results_file(benchmark: str) -> Path:
    """Where the results of a benchmark on this device are kept."""
    device = re.sub(r"[^A-Za-z0-9]+", "-", device_name()).strip("-")
    return RESULTS / f"{benchmark}-{device}.json"
