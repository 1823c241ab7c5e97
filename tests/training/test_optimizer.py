from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from holderjax.training import TrainConfig
from holderjax.training.optimizer import make_optimizer, make_schedule


def updates(gradients: list[float], **settings: Any) -> list[float]:
    """What the optimiser adds to a scalar parameter for a sequence of gradients."""
    optimizer = make_optimizer(TrainConfig(out=Path("run"), learning_rate=0.1, **settings))
    state = optimizer.init(jnp.zeros(()))
    added = []
    for gradient in gradients:
        update, state = optimizer.update(jnp.float32(gradient), state)
        added.append(float(update))
    return added


def adam(gradients: list[float], rates: list[float], amsgrad: bool = False) -> list[float]:
    """Adam (Kingma & Ba 2015) and AMSGrad (Reddi et al. 2018), written out."""
    mean = square = largest = 0.0
    added = []
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        mean = 0.9 * mean + 0.1 * g
        square = 0.999 * square + 0.001 * g * g
        corrected = square / (1 - 0.999**t)
        largest = max(largest, corrected)
        second = largest if amsgrad else corrected
        added.append(-rate * mean / (1 - 0.9**t) / (np.sqrt(second) + 1e-8))
    return added


GRADIENTS = [10.0, 0.1, -0.2, 0.1]


def test_the_default_is_adam_at_a_constant_rate() -> None:
    np.testing.assert_allclose(updates(GRADIENTS), adam(GRADIENTS, [0.1] * 4), rtol=1e-4)


def test_amsgrad_never_forgets_a_large_gradient() -> None:
    np.testing.assert_allclose(
        updates(GRADIENTS, amsgrad=True), adam(GRADIENTS, [0.1] * 4, amsgrad=True), rtol=1e-4
    )
    assert abs(updates(GRADIENTS, amsgrad=True)[-1]) < abs(updates(GRADIENTS)[-1])


def test_warmup_rises_linearly_from_its_first_step() -> None:
    rates = [0.1 * min(1.0, (t + 1) / 3) for t in range(4)]
    np.testing.assert_allclose(updates(GRADIENTS, warmup=3), adam(GRADIENTS, rates), rtol=1e-4)


def test_clipping_acts_on_the_global_norm() -> None:
    np.testing.assert_allclose(
        updates(GRADIENTS, clip=1.0), adam([1.0, *GRADIENTS[1:]], [0.1] * 4), rtol=1e-4
    )
    optimizer = make_optimizer(TrainConfig(out=Path("run"), clip=1.0))
    _, state = optimizer.update(
        {"a": jnp.float32(3), "b": jnp.float32(4)},
        optimizer.init({"a": jnp.zeros(()), "b": jnp.zeros(())}),
    )
    first_moment = state[1][0].mu
    np.testing.assert_allclose([first_moment["a"], first_moment["b"]], [0.06, 0.08], rtol=1e-4)


@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_cosine_decay_reaches_zero_at_the_last_step(warmup: int) -> None:
    settings: dict[str, Any] = {"decay": "cosine", "warmup": warmup, "steps": 20}
    schedule = make_schedule(TrainConfig(out=Path("run"), learning_rate=0.1, **settings))
    expected = [
        0.1 * (t + 1) / warmup
        if t < warmup
        else 0.05 * (1 + np.cos(np.pi * (t - warmup) / (20 - warmup)))
        for t in range(21)
    ]
    np.testing.assert_allclose([schedule(t) for t in range(21)], expected, rtol=1e-4, atol=1e-8)
    assert float(schedule(20)) == pytest.approx(0.0, abs=1e-8)
