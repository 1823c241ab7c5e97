"""What every test shares: one profile of properties, and programs that are forgotten in time."""

import jax
import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None, max_examples=20, derandomize=True, database=None)
settings.load_profile("suite")


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Programs of a thousand tests take gigabytes, which Python's garbage collector walks over."""
    yield
    jax.clear_caches()
