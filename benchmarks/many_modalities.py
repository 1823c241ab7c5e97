"""The time of a training step of Hölder++ as modalities are added, at a fixed component budget.

python benchmarks/many_modalities.py [--counts 4 8 16 32]

The exact sum over components costs M(M+1)/2 decodings of M modalities; a budget of C components
costs C M. Steps of all sizes alternate within one process; the figures are medians and ratios. The
growth exponent is the slope of log time over log M.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import optax
import tyro
from common import write_results

from holderjax import models


@dataclass(frozen=True)
class Config:
    """Vector modalities, each with a pair of perceptrons."""

    counts: tuple[int, ...] = (4, 8, 16, 32)
    system: str = "holder++"
    components: int = 5
    batch_size: int = 64
    elements: int = 64
    """Of each modality."""
    rounds: int = 9
    steps: int = 8
    """A round, for each size."""
    out: Path | None = None


def stepper(count: int, config: Config):
    """A function that takes training steps and returns the loss, compiled and warm."""
    names = [f"m{i}" for i in range(count)]
    modality = models.Modality((config.elements,), likelihood=models.Gaussian(1.0))
    model = models.build(
        config.system,
        dict.fromkeys(names, modality),
        latent_dim=16,
        private_dim=16,
        components=config.components,
    )
    keys = jax.random.split(jax.random.key(0), count)
    shape = (config.batch_size, config.elements)
    batch = {name: jax.random.normal(key, shape) for name, key in zip(names, keys, strict=True)}
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state, key):
        loss, gradient = jax.value_and_grad(lambda p: model.loss(p, batch, key)[0])(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss

    params = model.init(jax.random.key(1))
    at = {"params": params, "state": optimizer.init(params), "step": 0}

    def take(steps: int) -> float:
        for _ in range(steps):
            key = jax.random.fold_in(jax.random.key(2), at["step"])
            at["params"], at["state"], loss = step(at["params"], at["state"], key)
            at["step"] += 1
        return float(loss)

    take(2)
    return take


def main(config: Config) -> None:
    """Time, print, write."""
    steppers = {count: stepper(count, config) for count in config.counts}
    times = {count: [] for count in config.counts}
    for _ in range(config.rounds):
        for count, take in steppers.items():
            start = time.perf_counter()
            loss = take(config.steps)
            times[count].append((time.perf_counter() - start) / config.steps)
            if not np.isfinite(loss):
                raise FloatingPointError(f"the loss at M = {count} is {loss}")
    medians = {count: statistics.median(each) for count, each in times.items()}
    first = config.counts[0]
    slope = np.polyfit(np.log(config.counts), np.log(list(medians.values())), 1)[0]
    for count, median in medians.items():
        spread = (min(times[count]), max(times[count]))
        print(
            f"M = {count:3}: {1e3 * median:8.1f} ms a step ({1e3 * spread[0]:.1f} to "
            f"{1e3 * spread[1]:.1f}), {median / medians[first]:.2f} times M = {first}, "
            f"linear would be {count / first:.2f}"
        )
    print(f"growth exponent {slope:.2f}")
    measured = {
        "seconds": times,
        "ratios": {count: median / medians[first] for count, median in medians.items()},
        "exponent": slope,
    }
    print(write_results("many_modalities", config, measured))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
