"""What every test shares: a profile of properties, compiled programs, and less to clean up."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from hypothesis import settings
from jax.experimental.compilation_cache import compilation_cache

settings.register_profile("suite", deadline=None, max_examples=20, derandomize=True, database=None)
settings.load_profile("suite")


# By how long their files take: the last file of one worker should not keep the other waiting.
FOLDERS = ("tests", "training", "models", "evaluation", "networks", "pooling", "data")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, with the order kept (--no-loadscope-reorder)."""
    order = {name: i for i, name in enumerate(FOLDERS)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(order)))


def pytest_collection_finish() -> None:
    """Python's collector need not walk again and again over all that was imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all pytest-xdist workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(autouse=True, scope="session")
def _compile_once(shared_folder: Path) -> Iterator[None]:
    """Tests run much the same programs: XLA compiles each once, for all workers and processes."""
    settings = {
        "jax_compilation_cache_dir": str(shared_folder / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        compilation_cache.reset_cache()
        yield


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Programs of a thousand tests take gigabytes of memory."""
    yield
    jax.clear_caches()
