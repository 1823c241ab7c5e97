"""How long the first step of Hölder++ takes to compile, and how long when it was compiled before.

python benchmarks/compile_time.py [--starts 3]

PolyMNIST's sizes: five modalities 28x28x3, residual networks, latents 32 + 32, all 15 components,
batch 32. Every start is a process of its own. Cold starts have an empty folder for compiled
programs, warm ones that of the cold start before them, as `holderjax train` has it in its cache.
Times are of tracing, lowering and compiling, without the imports; the step is not run.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import tyro
from common import write_results

from holderjax import models
from holderjax.device import keep_programs
from holderjax.networks import NETWORKS


@dataclass(frozen=True)
class Config:
    """Cold and warm starts alternate."""

    starts: int = 3
    """Of each kind."""
    network: str = "resnet"
    programs: Path | None = None
    """Compile once with this folder and print the seconds; what every start does."""
    out: Path | None = None


def seconds_to_compile(config: Config) -> float:
    """From a model to its compiled step, in this process."""
    keep_programs(config.programs)
    encoder, decoder = NETWORKS[config.network]
    modality = models.Modality((28, 28, 3), encoder, decoder, models.Laplace(0.75))
    modalities = {f"m{i}": modality for i in range(5)}
    model = models.build("holder++", modalities, latent_dim=32, private_dim=32)
    optimizer = optax.adam(1e-3)

    def step(params, state, batch, key):
        loss, gradient = jax.value_and_grad(lambda p: model.loss(p, batch, key)[0])(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss

    key = jax.random.key(0)
    params = jax.eval_shape(model.init, key)
    batch = dict.fromkeys(modalities, jax.ShapeDtypeStruct((32, 28, 28, 3), jnp.float32))
    state = jax.eval_shape(optimizer.init, params)
    start = time.perf_counter()
    jax.jit(step).lower(params, state, batch, key).compile()
    return time.perf_counter() - start


def start_process(config: Config, programs: Path) -> float:
    """The seconds that a new process takes."""
    command = [sys.executable, __file__, "--programs", str(programs), "--network", config.network]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main(config: Config) -> None:
    """Time, print, write."""
    if config.programs is not None:
        print(seconds_to_compile(config))
        return
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(config.starts):
        with tempfile.TemporaryDirectory() as folder:
            for kind, each in times.items():
                each.append(start_process(config, Path(folder)))
                print(f"{kind}: {each[-1]:.1f} s", flush=True)
    medians = {kind: statistics.median(each) for kind, each in times.items()}
    ratio = medians["warm"] / medians["cold"]
    print(f"warm / cold: {ratio:.3f}")
    print(write_results("compile_time", config, {"seconds": times, "ratio": ratio}))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
