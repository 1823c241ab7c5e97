"""A training step of MMVAE+ against MultiVae's, and of Hölder++ against our MMVAE+.

.venv-parity/bin/python benchmarks/training_step.py [--network mlp]   # of `make parity`

PolyMNIST's sizes: five modalities 28x28x3, latents 32 + 32, batch 32, the field's residual networks
with as many parameters on both sides, one importance sample, Adam, float32. A step is forward,
backward and update. MultiVae decodes every modality from every expert in turn; ours decodes from
all experts at once. Ours are the steps of `holderjax train`, several a dispatch, batches gathered
from bytes on the device; MultiVae gets its batches as tensors that are ready. Sides alternate, each
turn after steps that are not timed.
With ``--dtype bfloat16`` our encoders and decoders compute in that; MultiVae stays in float32.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import peers
import torch
import tyro
from common import trainer, write_results
from multivae.data.datasets.base import MultimodalBaseDataset

from holderjax import models
from holderjax.networks import NETWORKS

# Name in the results -> system, component budget.
OURS = {
    "mmvae+": ("mmvae+", None),
    "holder++, 15 components": ("holder++", None),
    "holder++, budget of 5": ("holder++", 5),
}
PEER = "multivae's mmvae+"


@dataclass(frozen=True)
class Config:
    """Of all sides alike."""

    network: str = "resnet"
    dtype: models.NetworkDtype = "float32"
    """Of our networks."""
    ours: tuple[str, ...] = tuple(OURS)
    """Which of them to time, mmvae+ first; all 15 components need some 9 GB at batch 32."""
    batch_size: int = 32
    rounds: int = 5
    steps: int = 24
    """In a round, for each side; ours are one dispatch, as 50 steps are by default."""
    examples: int = 256
    devices: int = 1
    """Of ours, that share a batch; on a CPU there are as many as JAX_NUM_CPU_DEVICES says."""
    out: Path | None = None


def ours(name: str, arrays: dict[str, np.ndarray], config: Config) -> Callable[[], float]:
    """The steps of one of `OURS`."""
    system, components = OURS[name]
    encoder, decoder = NETWORKS[config.network]
    modality = models.Modality(
        peers.SHAPE, encoder, decoder, models.Laplace(0.75), dtype=config.dtype
    )
    model = models.build(
        system,
        dict.fromkeys(peers.NAMES, modality),
        latent_dim=peers.LATENT,
        private_dim=peers.LATENT,
        components=components,
    )
    if name == "mmvae+":
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        size = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))
        theirs = sum(p.numel() for p in peers.mmvae_plus(config.network).parameters())
        # MultiVae's priors of z and w have means, and the shared one a scale, that do not learn.
        fixed = peers.LATENT * (len(peers.NAMES) + 4)
        if size != theirs - fixed:
            raise ValueError(f"{size} parameters of ours, {theirs} - {fixed} of MultiVae's")
    return trainer(model, arrays, config.batch_size, config.steps, config.devices).take


def theirs(arrays: dict[str, np.ndarray], config: Config) -> Callable[[], float]:
    """The same by MultiVae."""
    device = "cuda" if jax.devices()[0].platform == "gpu" else "cpu"
    model = peers.mmvae_plus(config.network).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    data = {name: x.to(device) for name, x in peers.tensors(arrays).items()}
    batches = [
        MultimodalBaseDataset(
            {name: x[first : first + config.batch_size] for name, x in data.items()}
        )
        for first in range(0, config.examples, config.batch_size)
    ]
    done = 0

    def take() -> float:
        nonlocal done
        for _ in range(config.steps):
            optimizer.zero_grad()
            loss = model(batches[done % len(batches)]).loss
            loss.backward()
            optimizer.step()
            done += 1
        return loss.item()

    return take


def main(config: Config) -> None:
    """Time, print, write."""
    rng = np.random.default_rng(0)
    shape = (config.examples, *peers.SHAPE)
    arrays = {name: rng.integers(0, 256, shape, dtype=np.uint8) for name in peers.NAMES}
    sides = {PEER: theirs(arrays, config)}
    sides |= {name: ours(name, arrays, config) for name in config.ours}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(config.rounds):
        for name, take in sides.items():
            # Not timed: while another side had its turn, the system took this one's memory back.
            take()
            start = time.perf_counter()
            take()
            times[name].append((time.perf_counter() - start) / config.steps)
            print(f"{name}: {times[name][-1]:.2f} s a step", flush=True)
    medians = {name: statistics.median(each) for name, each in times.items()}
    ratios = {f"mmvae+ / {PEER}": medians["mmvae+"] / medians[PEER]}
    ratios |= {f"{name} / mmvae+": medians[name] / medians["mmvae+"] for name in config.ours[1:]}
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3f}")
    measured = {"seconds": times, "ratios": ratios}
    name = f"training_step-{config.network}" + f"-{config.dtype}" * (config.dtype != "float32")
    name += f"-{config.devices}-devices" * (config.devices > 1)
    print(write_results(name, config, measured, "torch", "multivae"))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
