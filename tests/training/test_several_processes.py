"""Processes that train one run together: JAX's distributed runtime over loopback, on CPUs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import PATIENCE, wait_for_step

from holderjax.data import epoch_indices
from holderjax.training import ProcessLost, hosts, load_run, train
from holderjax.training.logging import read_metrics
from holderjax.training.parallel import shares

# Small steps: see test_processes.
SETTINGS = {"steps": 8, "learning_rate": 1e-4}


@contextmanager
def together(
    out: Path,
    *flags: str,
    of_second: Sequence[str] = (),
    counts: tuple[int, int] = (2, 2),
    **changes: Any,
) -> Iterator[list[subprocess.Popen]]:
    """The two processes of a run, of so many devices; the second may have flags of its own."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    with ExitStack() as stack:
        started = []
        for process, count in enumerate(counts):
            device_count = f"--xla_force_host_platform_device_count={count}"
            command = tiny_run.command(
                **{"out": out, "coordinator": coordinator, "processes": 2, "process": process},
                **changes,
            )
            each = subprocess.Popen(
                [*command, *flags, *(of_second if process else ())],
                env={
                    **os.environ,
                    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {device_count}",
                },
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(each.communicate)
            stack.callback(each.kill)
            started.append(each)
        yield started


def ends(process: subprocess.Popen) -> tuple[int, str]:
    """Its exit code and what it said."""
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def test_two_processes_follow_the_trajectory_of_one_device(tmp_path: Path) -> None:
    train(tiny_run.config(tmp_path / "one", **SETTINGS))
    with together(tmp_path / "two", **SETTINGS) as processes:
        (first, told), (second, said) = map(ends, processes)
    assert (first, second) == (0, 0), told + said
    # The other one writes nothing and says nothing of its progress.
    assert "step 8/8" in told
    assert "step 8/8" not in said
    both = [read_metrics(tmp_path / name) for name in ("two", "one")]
    for two, one in zip(*both, strict=True):
        for name in set(one) - {"seconds", "steps_per_second"}:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-5, err_msg=name)
    assert load_run(tmp_path / "two").step == 8


@pytest.mark.slow
def test_killing_one_ends_the_other_and_both_resume(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = {"steps": 120, "checkpoint_every": 4}
    with together(whole, **settings) as processes:
        assert [ends(each)[0] for each in processes] == [0, 0]
    for victim in (1, 0):
        with together(killed, "--resume", **settings) as processes:
            wait_for_step(killed, 20 if victim else 60, processes[0])
            processes[victim].send_signal(signal.SIGKILL)
            begin = time.monotonic()
            code, said = ends(processes[1 - victim])
            assert time.monotonic() - begin < 2 * hosts.PATIENCE_SECONDS
            assert code != 0
            # The first is ours, of a collective that fails; the other of JAX, which misses signs of
            # life and ends the process.
            assert "if another process of the run has ended" in said or "another task died" in said
            assert "start all of them again with --resume" in said
            assert "Traceback" not in said
    with together(killed, "--resume", **settings) as processes:
        ended = [ends(each) for each in processes]
    assert [code for code, _ in ended] == [0, 0], ended
    params = [load_run(out).params for out in (killed, whole)]
    jax.tree.map(np.testing.assert_array_equal, *params)


@pytest.mark.slow
def test_one_that_cannot_begin_ends_the_others(tmp_path: Path) -> None:
    """The second process alone is given a setting that no run has."""
    begin = time.monotonic()
    with together(tmp_path / "run", of_second=["--batch-size=0"]) as processes:
        (first, told), (second, said) = map(ends, processes)
    assert time.monotonic() - begin < 4 * hosts.PATIENCE_SECONDS
    # JAX ends both once the second has waited in vain for the first to end as well.
    assert first != 0
    assert second != 0
    assert "batch_size: expected" in said
    assert "start all of them again" in told


@pytest.mark.slow
def test_ctrl_c_to_one_stops_both_after_a_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with together(out, steps=10**6, checkpoint_every=10**6) as processes:
        wait_for_step(out, 6, processes[0])
        processes[1].send_signal(signal.SIGINT)
        ended = [ends(each) for each in processes]
    assert [code for code, _ in ended] == [130, 130], ended
    assert load_run(out).step >= 6


@pytest.mark.slow
def test_what_the_first_process_refuses_ends_the_others(finished: Path) -> None:
    with together(finished) as processes:
        (first, told), (second, said) = map(ends, processes)
    assert "already holds a run" in told
    assert "the first process could not go on" in said
    assert (first, second) == (2, 1)


@pytest.mark.slow
def test_a_batch_that_does_not_divide_among_all_devices_is_refused(tmp_path: Path) -> None:
    with together(tmp_path / "run", batch_size=6) as processes:
        ended = [ends(each) for each in processes]
    for code, said in ended:
        assert code == 2
        assert "batch_size: expected a multiple of the 4 devices, got 6" in said


@pytest.mark.slow
def test_processes_of_different_device_counts_are_refused(tmp_path: Path) -> None:
    with together(tmp_path / "run", counts=(2, 1)) as processes:
        ended = [ends(each) for each in processes]
    for process, (code, said) in enumerate(ended):
        assert code == 2
        assert f"got {2 - process} of 3 in process {process}" in said


@pytest.mark.slow
def test_processes_of_other_settings_are_refused(tmp_path: Path) -> None:
    with together(tmp_path / "run", of_second=["--seed=1"]) as processes:
        ended = sorted(ends(each) for each in processes)
    assert [code for code, _ in ended] == [1, 2]
    assert "the processes of the run have different settings" in ended[0][1]
    assert "process 1 has other settings than the first process" in ended[1][1]


@given(
    **{"processes": st.integers(1, 4), "count": st.integers(1, 3), "share": st.integers(1, 3)},
    **{"examples": st.integers(1, 50), "seed": st.integers(0, 9)},
)
def test_an_epoch_over_all_processes_holds_every_example_once(
    processes: int, count: int, share: int, examples: int, seed: int
) -> None:
    batch = processes * count * share
    # As many steps as end an epoch and a batch at once.
    steps = examples
    indices = epoch_indices(seed, examples, batch, 0, steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "process_count", lambda: processes)
        each = []
        for process in range(processes):
            patch.setattr(jax, "process_index", lambda process=process: process)
            each.append(shares(indices, count))
    assert all(x.shape == (count, steps, share) for x in each)
    # Devices in the order of their processes hold a batch in its order.
    both = np.concatenate(each)
    read = np.moveaxis(both, 0, 1).reshape(-1)
    for epoch in range(batch):
        part = read[epoch * examples : (epoch + 1) * examples]
        assert sorted(part) == list(range(examples))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((None, 2, None), "processes: expected --coordinator"),
        (("auto", 2, None), "auto finds --processes and --process out by itself"),
        (("nowhere", 2, 0), "expected HOST:PORT or auto, got 'nowhere'"),
        (("here:80", 2, 2), "0 <= I < N beside it, got 2 and 2"),
        (("here:80", None, 0), "0 <= I < N beside it, got None and 0"),
    ],
)
def test_processes_that_cannot_be_joined(arguments: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        hosts.join(*arguments)


def test_outside_a_cluster_there_is_none_to_find(tmp_path: Path) -> None:
    cluster = ("SLURM", "OMPI", "JAX_COORDINATOR", "KUBERNETES")
    found = subprocess.run(
        tiny_run.command(tmp_path / "run", coordinator="auto"),
        env={name: x for name, x in os.environ.items() if not name.startswith(cluster)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert found.returncode == 2
    assert "holderjax: coordinator: no cluster found" in found.stderr


def test_alone_everything_is_as_it_would_be_without() -> None:
    assert hosts.writes()
    assert not hosts.anywhere(False)
    assert hosts.of_first("anything") == "anything"
    with pytest.raises(KeyError):
        hosts.in_first(lambda: {}["absent"])
    assert issubclass(ProcessLost, Exception)
