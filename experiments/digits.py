"""Hölder++ on real handwritten digits over pictures: the embedded data, minutes on two cores.

python experiments/digits.py --out runs/digits [--steps 500 ...]
"""

import sys
from pathlib import Path

import tyro

from holderjax.cli import guarded
from holderjax.evaluation import evaluate
from holderjax.training import TrainConfig, train

DEFAULTS = TrainConfig(
    out=Path("runs/digits"),
    system="holder++",
    data="digits",
    steps=3200,
    beta=2.5,
    beta_warmup=800,
    hold_weights=3200,
    decay="cosine",
    latent_dim=16,
    private_dim=16,
    network="mlp",
)


def main(config: TrainConfig) -> None:
    """Train, evaluate, and draw the pictures."""
    train(config)
    evaluate(config.out)


if __name__ == "__main__":
    config = tyro.cli(TrainConfig, default=DEFAULTS, description=__doc__)
    sys.exit(guarded(lambda: main(config)))
