"""A data set and a config that train in seconds; as a script, `holderjax` with that data set."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from holderjax import data
from holderjax.cli import main
from holderjax.training import TrainConfig
from holderjax.training.logging import read_metrics

# Seconds after which a process that does not end is taken for one that hangs.
PATIENCE = 900


def load_tiny(seed: int = 0) -> data.Dataset:
    """Two modalities of noisy stripes, 61 training and 21 test examples of three classes."""
    rng = np.random.default_rng(seed)
    stripes = np.array([[0, 200, 0, 200], [200, 200, 0, 0], [200, 0, 0, 0]])

    def split(size: int) -> data.Split:
        labels = rng.integers(3, size=size).astype(np.int32)
        rows = stripes[labels][:, :, None, None] + rng.integers(50, size=(size, 4, 4, 1))
        arrays = {"rows": rows.astype(np.uint8), "columns": rows.swapaxes(1, 2).astype(np.uint8)}
        return data.Split(arrays, labels)

    return data.Dataset("tiny", split(61), split(21), num_classes=3)


def register() -> None:
    data.DATASETS["tiny"] = data.DatasetInfo("tiny", "stripes", "rows, columns", "", load_tiny)


# Twelve dispatches of two steps, and a checkpoint after every other one.
SETTINGS: dict[str, Any] = {
    **{"data": "tiny", "steps": 24, "batch_size": 8, "latent_dim": 2, "private_dim": 2},
    **{"log_every": 2, "checkpoint_every": 4, "keep": 100},
}


def config(out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(out=out, **SETTINGS | changes)


def command(out: Path, **changes: Any) -> list[str]:
    """The same run as a command, for another process."""
    settings = {"out": out, **SETTINGS, **changes}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return [sys.executable, __file__, "train", *flags]


def wait_for_step(out: Path, step: int, process: subprocess.Popen) -> None:
    """Return as soon as the metrics of the step are written by that process."""
    deadline = time.monotonic() + PATIENCE
    while not any(line["step"] >= step for line in read_metrics(out)):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, "the run does not move"
        time.sleep(0.001)


if __name__ == "__main__":
    register()
    sys.exit(main())
