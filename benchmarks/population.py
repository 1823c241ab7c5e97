"""Runs that train as one program against the same runs one after another.

python benchmarks/population.py [--betas 1 2.5 5 10] [--seeds 0 1 2]

The digits, perceptrons, every beta with every seed. Whole times are from the settings to the last
checkpoint of the last run, with compiled programs found in the cache; times of the steps alone come
from the runs' metrics. Both ways alternate; the figures are medians of seconds for all members.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import tyro
from common import write_results

from holderjax.data.cache import programs_dir
from holderjax.device import keep_programs
from holderjax.training import TrainConfig, train_population
from holderjax.training.logging import read_metrics

# Name in the results -> how many members at a time; None for all.
WAYS = {"together": None, "in turn": 1}


@dataclass(frozen=True)
class Config:
    """The population."""

    system: str = "holder++"
    betas: tuple[float, ...] = (1.0, 2.5, 5.0, 10.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 400
    """Of each member, a multiple of eight: in as many dispatches."""
    rounds: int = 2
    """After one that compiles."""
    out: Path | None = None


def step_alone(run: Path) -> float:
    """Seconds a step, the median of all intervals but the first, in which programs are loaded."""
    return statistics.median(
        (b["seconds"] - a["seconds"]) / (b["step"] - a["step"])
        for a, b in pairwise(read_metrics(run))
    )


def seconds(config: Config, at_a_time: int | None) -> dict[str, float]:
    """All members, so many at a time: seconds of the whole, and of a step of each of them."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            TrainConfig(
                out=Path(folder) / f"{beta}-{seed}",
                system=config.system,
                beta=beta,
                seed=seed,
                steps=config.steps,
                checkpoint_every=config.steps,
                log_every=config.steps // 8,
            )
            for beta, seed in product(config.betas, config.seeds)
        ]
        size = at_a_time or len(runs)
        start = time.perf_counter()
        for first in range(0, len(runs), size):
            for result in train_population(runs[first : first + size]):
                if isinstance(result, Exception):
                    raise result
        whole = time.perf_counter() - start
        # The members of a program have the same times.
        return {"whole": whole, "step": sum(step_alone(run.out) for run in runs[::size])}


def main(config: Config) -> None:
    """Time, print, write."""
    keep_programs(programs_dir())
    times: dict[str, dict[str, list[float]]] = {
        kind: {way: [] for way in WAYS} for kind in ("whole", "step")
    }
    for i in range(config.rounds + 1):
        for way, at_a_time in WAYS.items():
            for kind, x in seconds(config, at_a_time).items():
                times[kind][way] += [x] if i else []
                print(f"{way}, {kind}: {x:.3f} s", flush=True)
    ratios = {}
    for kind, each in times.items():
        medians = {way: statistics.median(x) for way, x in each.items()}
        ratios[kind] = medians["together"] / medians["in turn"]
        print(f"{kind}, together / in turn: {ratios[kind]:.3f}")
    measured = {"seconds": times, "ratios": ratios}
    print(write_results(f"population-{config.system}", config, measured))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
