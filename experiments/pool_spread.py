"""What the Hölder pool of a trained run's experts is made of: its pairs, and where its spread is.

python experiments/pool_spread.py RUN [RUN ...]
"""

import sys
from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import tyro

from holderjax import data
from holderjax.cli import guarded
from holderjax.pooling import holder_pool
from holderjax.training import Run, load_run

EXAMPLES = 200


def spread(run: Run) -> str:
    """Of the first test examples, everything observed, means over examples and dimensions."""
    batch = {name: data.to_float(x[:EXAMPLES]) for name, x in run.dataset().test.arrays.items()}
    experts = run.model.encodings(run.params, batch).experts
    pool = holder_pool(experts)
    pi, mean = jnp.exp(pool.log_weights)[..., None], pool.components.mean
    within = (pi * jnp.exp(pool.components.log_var)).sum(axis=0)
    between = (pi * (mean - pool.mean()) ** 2).sum(axis=0)
    return (
        f"variance of an expert {jnp.exp(experts.log_var).mean():.4f}, "
        f"weight of all pairs {pi[len(experts.mean) :].sum(axis=0).mean():.2g}, "
        "share of the pool's variance between components "
        f"{(between / (within + between)).mean():.2f}"
    )


def main(runs: Annotated[tuple[Path, ...], tyro.conf.Positional]) -> None:
    """Print a line for each run.

    Args:
        runs: run folders of systems whose experts are Gaussians.
    """
    for path in runs:
        print(f"{path.name}: {spread(load_run(path))}")


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(main, description=__doc__)))
