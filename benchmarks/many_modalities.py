"""Time and memory of a step of Hölder++ as modalities are added, at a fixed component budget.

python benchmarks/many_modalities.py [--counts 2 4 8 16 32 64]

The exact sum over components costs M(M+1)/2 decodings of M modalities; a budget of C components
costs C M. The steps are those of `holderjax train`: several a dispatch, gathered batches, Adam.
Dispatches of all sizes alternate within one process; the figures are medians and
ratios. Growth exponents are slopes over log M: of the logarithm of the time, and of that of the
memory that XLA plans for the dispatch beside data, parameters and moments.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from common import Trainer, trainer, write_results

from holderjax import models


@dataclass(frozen=True)
class Config:
    """Vector modalities, each with a pair of perceptrons."""

    counts: tuple[int, ...] = (4, 8, 16, 32)
    system: str = "holder++"
    components: int = 5
    examples: int = 1024
    batch_size: int = 256
    elements: int = 64
    """Of each modality."""
    rounds: int = 5
    steps: int = 4
    """A round, for each size."""
    out: Path | None = None


def stepper(count: int, config: Config) -> Trainer:
    """The training of M modalities."""
    names = [f"m{i}" for i in range(count)]
    modality = models.Modality((config.elements,), likelihood=models.Gaussian(1.0))
    model = models.build(
        config.system,
        dict.fromkeys(names, modality),
        latent_dim=16,
        private_dim=16,
        components=config.components,
    )
    rng = np.random.default_rng(0)
    shape = (config.examples, config.elements)
    arrays = {name: rng.standard_normal(shape, dtype=np.float32) for name in names}
    return trainer(model, arrays, config.batch_size, config.steps)


def main(config: Config) -> None:
    """Time, print, write."""
    steppers = {count: stepper(count, config) for count in config.counts}
    times = {count: [] for count in config.counts}
    for _ in range(config.rounds):
        for count, each in steppers.items():
            start = time.perf_counter()
            each.take()
            times[count].append((time.perf_counter() - start) / config.steps)
    medians = {count: statistics.median(each) for count, each in times.items()}
    first = config.counts[0]
    memory = {count: each.memory for count, each in steppers.items()}
    exponents = {
        name: np.polyfit(np.log(config.counts), np.log(list(each.values())), 1)[0]
        for name, each in (("time", medians), ("memory", memory))
    }
    for count, median in medians.items():
        spread = (min(times[count]), max(times[count]))
        print(
            f"M = {count:3}: {1e3 * median:8.1f} ms a step ({1e3 * spread[0]:.1f} to "
            f"{1e3 * spread[1]:.1f}), {median / medians[first]:.2f} times M = {first}, "
            f"linear would be {count / first:.2f}; {memory[count] / 1e6:.1f} MB"
        )
    print("growth exponents:", ", ".join(f"{name} {x:.2f}" for name, x in exponents.items()))
    measured = {
        "seconds": times,
        "ratios": {count: median / medians[first] for count, median in medians.items()},
        "memory_bytes": memory,
        "exponents": exponents,
    }
    print(write_results("many_modalities", config, measured))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
