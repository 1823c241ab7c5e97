"""An epoch of MMVAE+ on PolyMNIST from disk against MultiVae's trainer, reading the data included.

.venv-parity/bin/python benchmarks/epoch.py --mnist FOLDER --backgrounds FOLDER   # of `make parity`

PolyMNIST's 60,000 examples of five images, latents 32 + 32, batch 32, Adam, the networks of
`training_step.py`. Ours is `holderjax train` on prepared data: reading it, its fingerprint, the
epoch, the held-out loss of 10,000 test examples and a checkpoint. MultiVae's is its
`MMNISTDataset` on the tensors that it reads, and its `BaseTrainer` for one epoch, which ends by
saving the model; it evaluates nothing. Whole times, from the settings to the saved model, with
compiled programs found in the cache. Sides alternate.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import peers
import torch
import tyro
from common import write_results
from multivae.data.datasets import MMNISTDataset
from multivae.trainers import BaseTrainer, BaseTrainerConfig

from holderjax import data
from holderjax.data.cache import programs_dir
from holderjax.device import keep_programs
from holderjax.training import TrainConfig, train
from holderjax.training.config import load_dataset


@dataclass(frozen=True)
class Config:
    """Of both sides alike."""

    mnist: Path | None = None
    """Folder of the MNIST files; not needed once PolyMNIST is prepared."""
    backgrounds: Path | None = None
    """Folder of the background pictures; not needed once PolyMNIST is prepared."""
    network: str = "mlp"
    batch_size: int = 32
    rounds: int = 2
    out: Path | None = None


def their_files(dataset: data.Dataset, root: Path) -> None:
    """The training examples as `MMNISTDataset` reads them: float32 tensors of whole modalities."""
    folder = root / "MMNIST" / "train"
    folder.mkdir(parents=True)
    for name, images in peers.tensors(dataset.train.arrays).items():
        torch.save(images, folder / f"{name}.pt")
    torch.save(torch.from_numpy(dataset.train.labels), folder / "labels.pt")


def theirs(root: Path, config: Config) -> None:
    """An epoch by MultiVae."""
    with tempfile.TemporaryDirectory() as folder:
        BaseTrainer(
            peers.mmvae_plus(config.network),
            MMNISTDataset(str(root)),
            training_config=BaseTrainerConfig(
                output_dir=folder,
                num_epochs=1,
                per_device_train_batch_size=config.batch_size,
                learning_rate=1e-3,
            ),
        ).train()


def ours(settings: TrainConfig) -> None:
    """An epoch by `holderjax train`."""
    with tempfile.TemporaryDirectory() as folder:
        train(replace(settings, out=Path(folder) / "run"))


def main(config: Config) -> None:
    """Time, print, write."""
    logging.getLogger("multivae").setLevel(logging.WARNING)
    keep_programs(programs_dir())
    settings = TrainConfig(
        out=Path(),
        system="mmvae+",
        data="polymnist",
        network=config.network,
        batch_size=config.batch_size,
        latent_dim=peers.LATENT,
        private_dim=peers.LATENT,
        mnist=config.mnist,
        backgrounds=config.backgrounds,
    )
    dataset = load_dataset(settings)
    steps = int(np.ceil(len(dataset.train) / config.batch_size))
    settings = replace(settings, steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        their_files(dataset, Path(folder))
        del dataset
        sides: dict[str, Callable[[], None]] = {
            "multivae": lambda: theirs(Path(folder), config),
            "holderjax": lambda: ours(settings),
        }
        # Compiles both sizes of dispatch, and brings what ours reads into the system's cache; the
        # other's is there, having just been written.
        ours(replace(settings, steps=settings.log_every + steps % settings.log_every))
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(config.rounds):
            for name, epoch in sides.items():
                start = time.perf_counter()
                epoch()
                times[name].append(time.perf_counter() - start)
                print(f"{name}: {times[name][-1]:.1f} s an epoch", flush=True)
    ratio = statistics.median(times["holderjax"]) / statistics.median(times["multivae"])
    print(f"holderjax / multivae: {ratio:.3f}")
    measured = {"seconds": times, "ratio": ratio}
    print(write_results(f"epoch-{config.network}", config, measured, "torch", "multivae"))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
