"""Hölder++ on PolyMNIST, built from the MNIST files and a folder of background pictures.

python experiments/polymnist.py --out runs/polymnist --mnist DIR --backgrounds DIR [...]
"""

import sys
from pathlib import Path

import tyro

from holderjax.cli import guarded
from holderjax.evaluation import evaluate
from holderjax.training import TrainConfig, train

DEFAULTS = TrainConfig(
    out=Path("runs/polymnist"),
    system="holder++",
    data="polymnist",
    steps=20_000,
    beta=1.0,
    beta_warmup=1000,
    hold_weights=20_000,
    decay="cosine",
    components=5,
    checkpoint_every=1000,
    latent_dim=32,
    private_dim=32,
    network="mlp",
)


def main(config: TrainConfig) -> None:
    """Train, evaluate, and draw the pictures."""
    train(config)
    evaluate(config.out)


if __name__ == "__main__":
    config = tyro.cli(TrainConfig, default=DEFAULTS, description=__doc__)
    sys.exit(guarded(lambda: main(config)))
