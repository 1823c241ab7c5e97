"""Not collected by default: these tests need PyTorch and MultiVae, which `make parity` installs.

They share the linear networks of tests/models.
"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
