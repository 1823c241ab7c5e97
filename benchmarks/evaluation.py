"""PolyMNIST's coherence protocol against MultiVae's: all subsets of the modalities, all targets.

.venv-parity/bin/python benchmarks/evaluation.py [--examples 10000 --rounds 3]   # of `make parity`

Both sides score MMVAE+ with the same networks and classifiers (convolutional and dense layers), of
random weights, on the same images of random pixels: neither's time depends on them.
MultiVae encodes, decodes and classifies subset after subset; ours is one compiled program that
encodes once, and reconstructs everything from everything besides. The two alternate. Every
call of ours compiles anew, as an evaluation does; the first round of each is not in the medians.
"""

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import torch
import tyro
from common import write_results
from multivae.data.datasets.base import MultimodalBaseDataset
from multivae.metrics import CoherenceEvaluator, CoherenceEvaluatorConfig
from peers import LATENT, NAMES, SHAPE, mmvae_plus, tensors

from holderjax import models
from holderjax.evaluation.classifiers import RECIPE, new_classifier
from holderjax.evaluation.coherence import coherence_table, generate_from_subsets
from holderjax.networks import NETWORKS

NUM_CLASSES = 10


@dataclass(frozen=True)
class Config:
    """Of both sides alike."""

    network: str = "mlp"
    """Of encoders and decoders: perceptrons, or with resnet the field's residual networks."""
    examples: int = 10_000
    rounds: int = 3
    """Of each, after the first."""
    batch_size: int = 256
    out: Path | None = None


def peer_classifier() -> torch.nn.Module:
    """The layers of `holderjax.evaluation.classifiers.ImageNetwork`."""
    first, second, third = RECIPE.widths
    return torch.nn.Sequential(
        torch.nn.Conv2d(SHAPE[-1], first, 4, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(first, second, 3, 1, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(second, third, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(7 * 7 * third, RECIPE.hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(RECIPE.hidden, NUM_CLASSES),
    )


def ours(arrays: dict, labels: np.ndarray, config: Config) -> Callable[[], float]:
    """Scores everything, and returns the mean coherence."""
    encoder, decoder = NETWORKS[config.network]
    modality = models.Modality(SHAPE, encoder, decoder, models.Laplace(0.75))
    model = models.build(
        "mmvae+", dict.fromkeys(NAMES, modality), latent_dim=LATENT, private_dim=LATENT
    )
    params = model.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), len(NAMES))
    classifiers = {
        name: new_classifier(SHAPE, NUM_CLASSES, RECIPE, key)
        for name, key in zip(NAMES, keys, strict=True)
    }

    def run() -> float:
        generated = generate_from_subsets(
            *(model, params, classifiers, arrays, jax.random.key(2)),
            batch_size=config.batch_size,
        )
        table = coherence_table(generated, labels)
        return float(np.mean([x for row in table.values() for x in row.values()]))

    return run


def theirs(arrays: dict, labels: np.ndarray, config: Config) -> Callable[[], float]:
    """The same by MultiVae."""
    evaluator = CoherenceEvaluator(
        mmvae_plus(config.network),
        {name: peer_classifier() for name in NAMES},
        MultimodalBaseDataset(tensors(arrays), torch.from_numpy(labels).long()),
        eval_config=CoherenceEvaluatorConfig(batch_size=config.batch_size, num_classes=NUM_CLASSES),
    )
    evaluator.logger.setLevel(logging.ERROR)

    def run() -> float:
        with torch.no_grad():
            return float(np.mean(evaluator.cross_coherences()[0]))

    return run


def main(config: Config) -> None:
    """Time, print, write."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 256, (config.examples, *SHAPE), dtype=np.uint8) for name in NAMES
    }
    labels = (np.arange(config.examples) % NUM_CLASSES).astype(np.int32)
    sides = {
        "holderjax": ours(arrays, labels, config),
        "multivae": theirs(arrays, labels, config),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(config.rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            coherence = run()
            times[name].append(time.perf_counter() - start)
            # Untrained: all must be at chance.
            if abs(coherence - 1 / NUM_CLASSES) > 0.05:
                raise ValueError(f"{name}: expected coherence at chance, got {coherence}")
            print(f"{name}: {times[name][-1]:.1f} s", flush=True)
    medians = {name: statistics.median(each[1:]) for name, each in times.items()}
    ratio = medians["holderjax"] / medians["multivae"]
    print(f"holderjax / multivae: {ratio:.3f}")
    measured = {"seconds": times, "ratio": ratio}
    print(write_results(f"evaluation-{config.network}", config, measured, "torch", "multivae"))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
