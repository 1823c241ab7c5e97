"""A run folder: what it holds, and when a run may begin or go on in it."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock, Timeout

from holderjax.data import Dataset
from holderjax.device import device_name
from holderjax.files import write_json
from holderjax.training.config import CONFIG_FILE, TrainConfig, data_facts, load_config
from holderjax.training.logging import METRICS_FILE

logger = logging.getLogger(__name__)

CHECKPOINTS_FOLDER = "checkpoints"
VERSIONS_FILE = "versions.json"
LOCK_FILE = ".lock"
# What may differ between a run and its resumption.
RESUMABLE = ("steps", "out", "resume", "feed")
PACKAGES = ("holderjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def check_folder(config: TrainConfig) -> None:
    """Check that a run of this config may begin or go on in its folder.

    Raises:
      FileExistsError: if the folder holds a run that was not to be resumed.
      ValueError: if the run to be resumed has other settings, naming them.
    """
    names = (CONFIG_FILE, METRICS_FILE, CHECKPOINTS_FOLDER)
    if not any((config.out / name).exists() for name in names):
        return
    if not config.resume:
        raise FileExistsError(
            f"{config.out} already holds a run; choose another folder, or resume it with --resume"
        )
    old, new = load_config(config.out).to_json(), config.to_json()
    changed = [
        f"{name} was {old[name]!r} and is {new[name]!r}"
        for name in new
        if name not in RESUMABLE and old[name] != new[name]
    ]
    if changed:
        raise ValueError(f"resume: {config.out} has other settings: {'; '.join(changed)}")


def lock_folder(out: Path) -> FileLock:
    """Keep a run's folder, made if need be, from every other process until the lock is released.

    A process that ends in any way releases its locks.

    Raises:
      FileExistsError: if another process holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK_FILE)
    try:
        return lock.acquire(blocking=False).lock
    except Timeout as error:
        raise FileExistsError(f"{out} is being written by another process") from error


def open_folder(config: TrainConfig, dataset: Dataset, devices: Sequence[jax.Device]) -> None:
    """Write the config and the versions into the folder, which this process has locked.

    The config of a run that is there already stays, until its resumption is known to go on.

    Raises:
      ValueError: if the data is not what the run began with.
    """
    if not (config.out / CONFIG_FILE).exists():
        config.save(config.out)
    versions = describe_versions(dataset, devices)
    path = config.out / VERSIONS_FILE
    if path.exists():
        check_same_data(dataset, config.out)
        before = read_versions(config.out)
        changed = [name for name in versions if versions[name] != before.get(name)]
        if changed:
            logger.warning(
                "%s began under other versions of %s: it will not be reproduced bit for bit",
                config.out,
                ", ".join(changed),
            )
    write_json(path, versions)


def describe_versions(dataset: Dataset, devices: Sequence[jax.Device]) -> dict[str, Any]:
    """What a run depends on beside its config, as JSON values."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in PACKAGES},
        "devices": [device_name(device) for device in devices],
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            **data_facts(dataset),
        },
    }


def read_versions(folder: Path) -> dict[str, Any]:
    """What `open_folder` wrote."""
    return json.loads((folder / VERSIONS_FILE).read_text(encoding="utf-8"))


def check_same_data(dataset: Dataset, folder: Path) -> None:
    """Raise ValueError if the data is not what the run in the folder began with."""
    began = read_versions(folder)["data"]["fingerprint"]
    if dataset.fingerprint != began:
        raise ValueError(
            f"the data {dataset.name!r} is not what the run in {folder} began with: "
            f"fingerprint {dataset.fingerprint[:12]}, expected {began[:12]}"
        )
