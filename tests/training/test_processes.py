"""What only shows in another process: signals, and several devices."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
from tiny_run import PATIENCE, wait_for_step

import holderjax
from holderjax.training import load_run, train
from holderjax.training.checkpoints import Checkpoints
from holderjax.training.logging import read_metrics


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def same(a: Any, b: Any) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def kill_when_at(step: int, delay: float, command: list[str], out: Path) -> None:
    with running(command) as process:
        wait_for_step(out, step, process)
        time.sleep(delay)
        process.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL, process.stderr.read()


def test_a_run_killed_and_resumed_ends_bit_for_bit_as_an_uninterrupted_one(
    finished: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    out = tmp_path / "killed"
    # More checkpoints than the uninterrupted run has, so that the kill may well hit one.
    settings = {"checkpoint_every": 2}
    command = tiny_run.command(out, **settings)
    kill_when_at(int(rng.choice([8, 10, 12])), rng.uniform(0, 0.03), command, out)
    with Checkpoints(out / "checkpoints") as checkpoints:
        assert 0 < checkpoints.steps()[-1] < 24
    # Compiled anew, as after a crash, not the very program of the uninterrupted run.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert train(tiny_run.config(out, resume=True, **settings)).step == 24
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert same(load_run(out).params, load_run(finished).params)
    losses = [[line["loss"] for line in read_metrics(folder)] for folder in (out, finished)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_digits_killed_three_times_ends_bit_for_bit_as_uninterrupted(tmp_path: Path) -> None:
    """The command itself, on real digits and all components, compiled anew every time."""
    rng = np.random.default_rng(1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "holderjax.cli", "train", "--system", "holder++"]
    command += ["--steps", "120", "--log-every", "5", "--checkpoint-every", "10", "--resume"]
    with running([*command, "--out", str(whole)]) as process:
        assert process.wait(PATIENCE) == 0, process.stderr.read()
    for step in (25, 55, 85):
        delay = rng.uniform(0, 1.0)
        kill_when_at(step, delay, [*command, "--out", str(killed)], killed)
    with running([*command, "--out", str(killed)]) as process:
        assert process.wait(PATIENCE) == 0, process.stderr.read()
    assert same(load_run(whole).params, load_run(killed).params)


def test_ctrl_c_leaves_a_checkpoint_and_no_second_process_writes_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    with running(tiny_run.command(out, steps=10**6, checkpoint_every=10**6)) as process:
        wait_for_step(out, 6, process)
        before = sorted(path.name for path in out.iterdir())
        with pytest.raises(
            FileExistsError, match="interrupted is being written by another process"
        ):
            train(tiny_run.config(out, steps=10**6, checkpoint_every=10**6, resume=True))
        assert sorted(path.name for path in out.iterdir()) == before
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert "Traceback" not in process.stderr.read()
    run, lines = load_run(out), read_metrics(out)
    assert run.step == lines[-1]["step"] >= 6
    assert "test_loss" in lines[-1]
    assert len(list((out / "checkpoints").iterdir())) == 1


def test_eight_devices_follow_the_trajectory_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small steps: with large ones, rounding now and then carries an element over a kink of the
    # Laplace likelihood or a ReLU, and the trajectories part.
    settings = {"steps": 8, "learning_rate": 1e-4}
    train(tiny_run.config(tmp_path / "one", **settings))
    flags = os.environ.get("XLA_FLAGS", "")
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_force_host_platform_device_count=8")
    out = tmp_path / "eight"
    with running(tiny_run.command(out, **settings)) as process:
        assert process.wait(PATIENCE) == 0, process.stderr.read()
    assert len(json.loads((out / "versions.json").read_text())["devices"]) == 8
    for eight, one in zip(read_metrics(out), read_metrics(tmp_path / "one"), strict=True):
        for name in set(one) - {"seconds", "steps_per_second"}:
            np.testing.assert_allclose(eight[name], one[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_batch_that_does_not_divide_among_the_devices_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: [jax.devices()[0]] * 4)
    with pytest.raises(ValueError, match="batch_size: expected a multiple of the 4 devices, got 6"):
        train(tiny_run.config(tmp_path / "run", batch_size=6))
    with pytest.raises(ValueError, match=r"devices: expected at most 4 .*, got 5"):
        train(tiny_run.config(tmp_path / "run", devices=5))
    assert not (tmp_path / "run").exists()


def test_pmap_is_named_in_one_file() -> None:
    root = Path(holderjax.__file__).parent
    files = [p for p in root.rglob("*.py") if re.search(r"\bpmap\b", p.read_text("utf-8"))]
    assert [str(p.relative_to(root)) for p in files] == ["training/parallel.py"]
