"""What the experiments that are sweeps share: train, evaluate, report; a smoke test of all that."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from holderjax import evaluation, training
from holderjax.cli import guarded
from holderjax.evaluation.page import write_report
from holderjax.training import SweepConfig

# What the field's residual runs share (MMVAE+, appendix), one at a time: they fill an accelerator.
# Betas and seeds are the defaults of `SweepConfig`, which are the papers'.
RESIDUAL = {"network": "resnet", "importance_samples": 1, "amsgrad": True, "together": 1}

# Everything once, on little of everything. A perceptron of large images needs a small rate.
FEW_STEPS = {"steps": 8, "log_every": 4, "checkpoint_every": 8, "learning_rate": 1e-4}
FEW_SIZES = {"batch_size": 8, "network": "mlp", "latent_dim": 4, "private_dim": 4, "components": 2}
FEW_EXAMPLES = {
    "examples": 32,
    "prior_samples": 32,
    "recipe": evaluation.Recipe(widths=(4, 4, 4), hidden=8, steps=8, steps_per_dispatch=8),
}


@dataclass(frozen=True)
class Config:
    """A sweep, and how much of it."""

    sweep: tyro.conf.OmitArgPrefixes[SweepConfig]
    inception: Path | None = None
    """The file pt_inception-2015-12-05-6726825d.pth of pytorch-fid, to measure FID."""
    smoke: bool = False
    """Take a few steps of the last two systems, and score few examples."""


def few(sweep: SweepConfig) -> SweepConfig:
    """A minute of a sweep, with small networks."""
    once = {"systems": sweep.systems[-2:], "betas": sweep.betas[:1], "seeds": sweep.seeds[:1]}
    fitted = {"fit_clusters": None if sweep.fit_clusters is None else 4}
    off = {"warmup": 0, "beta_warmup": 0}
    return replace(sweep, **FEW_STEPS, **FEW_SIZES, **once, **fitted, **off)


def main(config: Config) -> None:
    """Train and evaluate what is missing, then write the report."""
    sweep = few(config.sweep) if config.smoke else config.sweep
    options = FEW_EXAMPLES if config.smoke else {}
    failures = evaluation.evaluate_each(
        training.sweep(sweep), inception=config.inception, **options
    )
    runs = (run.out for group in sweep.groups() for run in group)
    evaluated = tuple(run for run in runs if evaluation.evaluated_step(run) is not None)
    if evaluated:
        for file in write_report(evaluated, sweep.out / "report.html"):
            print(file)
    if failures:
        raise failures[0]


def command(recipe: SweepConfig, description: str, args: Sequence[str] | None = None) -> None:
    """The script of one sweep: its recipe with the options of `holderjax sweep`, then exit."""
    config = tyro.cli(Config, default=Config(recipe), description=description, args=args)
    sys.exit(guarded(lambda: main(config)))
