"""Not collected by default: these tests need PyTorch and MultiVae, which `make parity` installs.

They share the linear networks of tests/models and the random weights of tests/evaluation.
"""

import sys
from pathlib import Path

import pytest
import torch

for folder in ("models", "evaluation"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
