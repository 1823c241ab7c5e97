"""Compiled programs and one uninterrupted run, shared by all training tests of a session."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
import tiny_run
from jax.experimental.compilation_cache import compilation_cache

from holderjax.training import train


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all pytest-xdist workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(autouse=True, scope="module")
def _compile_once(shared_folder: Path) -> Iterator[None]:
    """Most tests run the same programs: XLA compiles each of them once for the whole session."""
    settings = {
        "jax_compilation_cache_dir": str(shared_folder / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        compilation_cache.reset_cache()
        tiny_run.register()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def finished(shared_folder: Path, _compile_once: None) -> Path:
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
