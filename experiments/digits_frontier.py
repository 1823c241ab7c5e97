"""The Pareto frontier on digits: seven systems, three betas, two seeds, and the report of them.

python experiments/digits_frontier.py --out runs/digits_frontier [--systems holder++ ...] [--smoke]

The same recipe as the table of systems. Stopped, the same command with --resume goes on.
"""

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import digits_table
import tyro

from holderjax.cli import guarded, report, sweep
from holderjax.training import SweepConfig
from holderjax.training.config import SharedConfig

SHARED = {field.name: getattr(digits_table.RECIPE, field.name) for field in fields(SharedConfig)}
OWN = {"out": Path("runs/digits_frontier"), "importance_samples": 1, "fit_clusters": 2400}
RECIPE = SweepConfig(
    **SHARED | OWN,
    systems=("mmvae+", "cmvae", "helvae", "mopoe", "holder", "holder+", "holder++"),
    betas=(1.0, 2.5, 5.0),
    seeds=(0, 1),
)
FEW = {"systems": ("cmvae", "holder++"), "steps": 8, "log_every": 4, "fit_clusters": 4}


@dataclass(frozen=True)
class Config:
    """The sweep, and how much of it."""

    sweep: tyro.conf.OmitArgPrefixes[SweepConfig] = RECIPE
    smoke: bool = False
    """Take a few steps of two systems, to see that everything works."""


def main(config: Config) -> None:
    """Train and evaluate what is missing, then write the report."""
    chosen = replace(config.sweep, **FEW, checkpoint_every=8) if config.smoke else config.sweep
    sweep(chosen)
    runs = tuple(run.out for group in chosen.groups() for run in group)
    report(runs, chosen.out / "report.html")


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    sys.exit(guarded(lambda: main(config)))
