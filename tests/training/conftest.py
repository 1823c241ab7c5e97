"""One uninterrupted run, shared by all training tests of a session."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_run

from holderjax.training import train


@pytest.fixture(autouse=True, scope="session")
def _tiny_data() -> None:
    """The data set of the tests is known by its name."""
    tiny_run.register()


@pytest.fixture(scope="module")
def finished(shared_folder: Path) -> Path:
    """The folder of an uninterrupted run, trained once for the session, to be read only."""
    out = shared_folder / "finished"
    with (shared_folder / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            train(tiny_run.config(out))
    return out


@pytest.fixture
def copy_of(finished: Path, tmp_path: Path) -> Callable[[int], Path]:
    """A copy of the finished run as it was at a given step, to be altered."""

    def copy(step: int = 24) -> Path:
        out = tmp_path / f"run{step}"
        shutil.copytree(finished, out)
        for checkpoint in (out / "checkpoints").iterdir():
            if int(checkpoint.name) > step:
                shutil.rmtree(checkpoint)
        return out

    return copy
