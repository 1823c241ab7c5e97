"""The step with a model so small that its arithmetic can be done by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from holderjax.training.parallel import fetch, parallel, replicate, shard
from holderjax.training.step import TrainState, make_held_out_loss, make_steps

DEVICES = jax.local_devices()[:1]


def loss(
    params: Any, batch: Any, key: jax.Array, beta: Any, *_: Any
) -> tuple[jax.Array, dict[str, Any]]:
    """(w - mean x)^2 / 2, and what it was called with."""
    value = 0.5 * jnp.square(params["w"] - batch["x"].mean())
    return value, {"beta": jnp.asarray(beta), "mean": batch["x"].mean(), "keys": key.shape[0]}


MODEL: Any = SimpleNamespace(loss=loss)


def run(steps: int, beta: float, beta_warmup: int, x: np.ndarray) -> tuple[TrainState, Any]:
    optimizer = optax.sgd(0.5)
    params = {"w": np.float32(1)}
    state = replicate(TrainState(params, optimizer.init(params), np.int32(0)), DEVICES)
    program = parallel(make_steps(MODEL, optimizer, beta_warmup), DEVICES)
    indices = shard(np.arange(2 * steps, dtype=np.int32).reshape(steps, 2), DEVICES)
    examples = replicate({"x": x}, DEVICES)
    return fetch(program(state, examples, indices, jax.random.key(0), jnp.float32(beta)))


def test_a_step_reads_its_examples_in_unit_scale_and_follows_their_gradient() -> None:
    x = np.array([0, 0, 255, 255, 0, 255], np.uint8)
    state, metrics = run(3, 1.0, 0, x)
    np.testing.assert_allclose(metrics["mean"], [0.0, 1.0, 0.5])
    # w <- w - (w - mean) / 2 from w = 1
    np.testing.assert_allclose(state.params["w"], 0.625)
    np.testing.assert_allclose(metrics["gradient_norm"], [1.0, 0.5, 0.25])
    np.testing.assert_allclose(metrics["loss"], [0.5, 0.125, 0.03125])
    assert metrics["keys"].tolist() == [2, 2, 2]
    assert int(state.step) == 3


@pytest.mark.parametrize(
    ("warmup", "betas"), [(0, [0.5] * 4), (1, [0.5] * 4), (4, [0.125, 0.25, 0.375, 0.5])]
)
def test_beta_rises_linearly_over_its_warmup(warmup: int, betas: list[float]) -> None:
    _, metrics = run(4, 0.5, warmup, np.zeros(8, np.uint8))
    np.testing.assert_allclose(metrics["beta"], betas)


@pytest.mark.parametrize(("num_examples", "batch_size", "read"), [(9, 3, 9), (10, 4, 9), (5, 8, 5)])
def test_the_held_out_loss_reads_equal_batches_in_order(
    num_examples: int, batch_size: int, read: int
) -> None:
    x = np.arange(num_examples, dtype=np.float32)
    model: Any = SimpleNamespace(loss=lambda params, batch, *_: (batch["x"].mean(), {}))
    held_out = make_held_out_loss(model, num_examples, batch_size)
    assert float(held_out({}, {"x": x}, jax.random.key(0), 1.0)) == pytest.approx(x[:read].mean())
