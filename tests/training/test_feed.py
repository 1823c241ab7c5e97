"""However the examples reach the device, a step reads the same ones: the run is the same run.

To rounding: a piece of one step is another program than a dispatch of two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
from hypothesis import given
from hypothesis import strategies as st

from holderjax.training import feed, load_run, train, train_population
from holderjax.training.feed import Pieces, cut, fits, make_feed
from holderjax.training.logging import read_metrics

# Of the tiny data: two images of 4 x 4 bytes.
EXAMPLE_BYTES = 32
DEVICES = jax.local_devices()[:1]


def same_run(one: Path, other: Path) -> None:
    def close(x: Any, y: Any) -> None:
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)

    jax.tree.map(close, load_run(one).params, load_run(other).params)
    lines = [
        [{k: v for k, v in x.items() if "second" not in k} for x in read_metrics(out)]
        for out in (one, other)
    ]
    jax.tree.map(close, *lines)


def small_pieces(monkeypatch: pytest.MonkeyPatch, steps: int, members: int = 1) -> None:
    """Streams of so many steps at a time."""
    size = steps * members * tiny_run.SETTINGS["batch_size"] * EXAMPLE_BYTES
    whole = feed.streamed
    monkeypatch.setattr(feed, "streamed", lambda *args: whole(*args, piece_bytes=size))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_streamed_run_is_the_run_with_its_data_on_the_device(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    steps: int,
) -> None:
    small_pieces(monkeypatch, steps)
    config = tiny_run.config(tmp_path / "run", feed="stream")
    train(config)
    same_run(config.out, finished)
    # 61 examples; a dispatch is two steps of eight.
    said = f"training examples: 0.0 MB, streamed by Grain, {steps * 8 * 32 / 1e6:.1f} MB at a time"
    assert said in capfd.readouterr().err


def test_a_run_may_be_resumed_with_another_feed(
    finished: Path, copy_of: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    out = copy_of(step=12)
    train(tiny_run.config(out, resume=True, feed="stream"))
    assert "streamed by Grain" in capfd.readouterr().err
    same_run(out, finished)


def test_incomplete_data_streams_with_its_mask(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for kind in ("device", "stream"):
        train(tiny_run.config(tmp_path / kind, feed=kind, missing=(0.5,), steps=4))
    same_run(tmp_path / "device", tmp_path / "stream")
    assert "0.0 MB on the device" in capfd.readouterr().err


def test_members_of_a_population_stream_their_own_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch, 1, members=2)
    for kind in ("device", "stream"):
        train_population(
            [
                tiny_run.config(tmp_path / f"{kind}{seed}", seed=seed, feed=kind, steps=4)
                for seed in (0, 1)
            ]
        )
    for seed in (0, 1):
        same_run(tmp_path / f"device{seed}", tmp_path / f"stream{seed}")
    seeds = [load_run(tmp_path / f"stream{seed}").params for seed in (0, 1)]
    assert not jax.tree.all(jax.tree.map(np.array_equal, *seeds))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
def test_every_device_gets_its_share_of_every_batch(members, steps, share, devices):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.integers(0, 256, (50, 2), np.uint8), "mask": rng.random((50, 2)) < 0.5}
    indices = rng.integers(0, 50, (members, steps, share * devices))
    source = Pieces(arrays, lambda first, last: indices, [(0, steps)], devices)
    span, places, examples = source[0]
    assert span == (0, steps)
    for name, array in arrays.items():
        read = [own[at] for own, at in zip(examples[name], places, strict=True)]
        np.testing.assert_array_equal(np.concatenate(read, axis=2), array[indices])


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 60))
def test_steps_are_cut_into_few_almost_equal_parts(first, steps, size):
    parts = list(cut(first, first + steps, size))
    lengths = [stop - start for start, stop in parts]
    assert (parts[0][0], parts[-1][1]) == (first, first + steps)
    assert all(a[1] == b[0] for a, b in pairwise(parts))
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert len(parts) == -(-steps // size)


def test_half_of_the_free_memory_of_the_fullest_device_decides():
    def device(limit, used):
        stats = {"bytes_limit": limit, "bytes_in_use": used}
        return SimpleNamespace(memory_stats=lambda: stats)

    host = SimpleNamespace(memory_stats=lambda: None)
    assert fits(400, [device(1000, 200), host])
    assert not fits(401, [device(1000, 200), device(9000, 0)])
    assert fits(10**15, [host])


def test_what_does_not_fit_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"x": np.zeros((10, 500_000), np.uint8)}
    args = (arrays, lambda first, last: np.zeros((1, last - first, 2), int), [(0, 3)], DEVICES)
    assert make_feed("auto", *args).description == "training examples: 5.0 MB on the device"
    monkeypatch.setattr(feed, "fits", lambda size, devices: size < 5_000_000)
    described = make_feed("auto", *args).description
    assert described == "training examples: 5.0 MB, streamed by Grain, 3.0 MB at a time"


def test_an_unknown_feed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown feed 'steam'.*did you mean 'stream'"):
        replace(tiny_run.config(tmp_path), feed="steam").validate()  # type: ignore[arg-type]
