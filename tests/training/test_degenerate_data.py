"""Every system on data that says next to nothing: it trains, or stops with the reason.

Values ten times what a network expects make some rows stop at the default learning rate, and at a
tenth of it, as the error says, none.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from holderjax import data
from holderjax.models import SYSTEMS
from holderjax.training import NonFiniteLoss, TrainConfig, load_run, train
from holderjax.training.logging import read_metrics


def odd(size: int) -> data.Split:
    """A constant, black pictures, and values far outside [0, 1]."""
    rng = np.random.default_rng(size)
    return data.Split(
        {
            "constant": np.full((size, 5), 3.0, np.float32),
            "black": np.zeros((size, 8, 8, 1), np.uint8),
            "wild": 10 * rng.standard_normal((size, 4)).astype(np.float32),
        }
    )


def only(name: str, split: data.Split) -> data.Split:
    return data.Split({name: split.arrays[name]})


DATA = {
    "odd values": (odd(20), odd(9)),
    "one example": (odd(1), odd(1)),
    "one modality": (only("wild", odd(20)), only("wild", odd(9))),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_hundred_steps_are_finite_or_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, kind: str
) -> None:
    dataset = data.Dataset(kind, *DATA[kind])
    info = data.DatasetInfo(kind, "", "", "", lambda: dataset)
    monkeypatch.setitem(data.DATASETS, kind, info)
    config = TrainConfig(
        **{"out": tmp_path / "run", "system": system, "data": kind, "steps": 100},
        **{"batch_size": 8, "latent_dim": 4, "private_dim": 4, "checkpoint_every": 50},
    )
    stopped = None
    try:
        train(config)
    except NonFiniteLoss as error:
        stopped = error
    if stopped:
        assert re.search(r"training became non-finite at step \d+: \w+.* = ", str(stopped))
        # What was written before is finite.
        assert stopped.checkpoint is None or load_run(config.out).step < stopped.step
        assert "a smaller learning_rate may help" in str(stopped)
        train(replace(config, out=tmp_path / "slower", learning_rate=1e-4))
        return
    lines = read_metrics(config.out)
    assert [line["step"] for line in lines] == [50, 100]
    # A number that is not finite would have stopped the run; and something is learned.
    assert lines[1]["loss"] < lines[0]["loss"]
