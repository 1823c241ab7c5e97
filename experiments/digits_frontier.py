"""The Pareto frontier on digits: seven systems, three betas, two seeds, and the report of them.

python experiments/digits_frontier.py --out runs/digits_frontier [--systems holder++ ...] [--smoke]

The same recipe as the table of systems. Stopped, the same command with --resume goes on.
"""

from dataclasses import fields
from pathlib import Path

import digits_table
from sweeps import command

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

if __name__ == "__main__":
    command(RECIPE, __doc__)
