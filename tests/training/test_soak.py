"""A run that is killed again and again, at any moment of its life, loses nothing."""

from __future__ import annotations

import subprocess
import time
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run
from tiny_run import PATIENCE, wait_for_step

from holderjax.training import load_run
from holderjax.training.logging import read_metrics

KILLS = 50
# A checkpoint after every dispatch: most moments lie in the writing of one.
SETTINGS = {"steps": 4000, "checkpoint_every": 2, "keep": 3}


@pytest.mark.slow
def test_a_run_killed_fifty_times_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """Also while it starts, restores a checkpoint, or cleans up after the last kill."""
    rng = np.random.default_rng(0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    begin = time.monotonic()
    once = SETTINGS | {"checkpoint_every": SETTINGS["steps"]}
    with subprocess.Popen(tiny_run.command(whole, **once)) as one:
        wait_for_step(whole, 1, one)
        to_first_step = time.monotonic() - begin
        assert one.wait(PATIENCE) == 0

    command = [*tiny_run.command(killed, **SETTINGS), "--resume"]
    reached = [0]
    for _ in range(KILLS):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            time.sleep(rng.uniform(0, 1.5) * to_first_step)
            process.kill()
        assert process.returncode == -9, "the run ended before it was killed: make it longer"
        lines = read_metrics(killed)
        reached.append(lines[-1]["step"] if lines else 0)
    # Two dispatches of two steps at most were lost each time: one whose checkpoint was being
    # written, and one with a line in the metrics whose checkpoint waited for the other.
    assert all(after >= before - 4 for before, after in pairwise(reached)), reached
    # The kills were spread over the run.
    assert len(set(reached)) > 1

    assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=PATIENCE).returncode == 0
    params = [load_run(out).params for out in (killed, whole)]
    jax.tree.map(np.testing.assert_array_equal, *params)
    losses = [
        [(line["step"], line["loss"]) for line in read_metrics(out)] for out in (killed, whole)
    ]
    assert losses[0] == losses[1]
    # Nothing that was cut short is left behind.
    assert len(list((killed / "checkpoints").iterdir())) <= SETTINGS["keep"] + 1
