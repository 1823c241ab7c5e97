"""What the benchmarks share."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from holderjax.data import epoch_indices
from holderjax.device import device_name
from holderjax.files import write_json
from holderjax.models import Model
from holderjax.training.parallel import fetch, parallel, replicate, shard
from holderjax.training.step import RunKeys, init_state, make_steps

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Trainer:
    """A compiled training program.

    Attributes:
      take: takes the next steps of one dispatch, and returns the last one's loss.
      memory: bytes that the program plans for, beside its arguments and results.
    """

    take: Callable[[], float]
    memory: int


def trainer(
    model: Model,
    arrays: Mapping[str, np.ndarray],
    batch_size: int,
    steps: int,
    num_devices: int = 1,
) -> Trainer:
    """Training as `holderjax train` does it: Adam, one program of many steps.

    Args:
      model: to train, from fresh parameters on.
      arrays: the training examples by modality, [N, *shape]; they stay on the device.
      batch_size: of a step.
      steps: in one dispatch.
      num_devices: that share a batch.

    Returns:
      The program, which has run once. It raises FloatingPointError if the loss is not finite.

    Raises:
      ValueError: if there are fewer devices.
    """
    if num_devices > jax.local_device_count():
        raise ValueError(f"{num_devices} devices, but there are {jax.local_device_count()}")
    keys, devices = RunKeys.of(0), jax.local_devices()[:num_devices]
    optimizer = optax.adam(1e-3)
    examples = replicate(dict(arrays), devices)
    state = replicate(jax.device_get(init_state(model, optimizer, keys.init)), devices)
    first, beta = 0, np.float32(1.0)

    def indices() -> jax.Array:
        size = len(next(iter(arrays.values())))
        return shard(epoch_indices(0, size, batch_size, first, steps), devices)

    program = parallel(make_steps(model, optimizer), devices)
    program = program.lower(state, examples, indices(), keys.steps, beta).compile()

    def take() -> float:
        nonlocal state, first
        state, metrics = program(state, examples, indices(), keys.steps, beta)
        first += steps
        loss = float(fetch(metrics["loss"])[-1])
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {first}")
        return loss

    take()
    return Trainer(take, program.memory_analysis().temp_size_in_bytes)


def write_results(benchmark: str, config: Any, measured: dict, *packages: str) -> Path:
    """Write what was measured, with the device, the date, the versions and the settings.

    Args:
      benchmark: its name.
      config: a dataclass; its ``out`` says where to, ``results/`` if that is None.
      measured: JSON values.
      *packages: whose versions matter, beside JAX.

    Returns:
      The file.
    """
    device = device_name()
    file = re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-")
    out = config.out or RESULTS / f"{benchmark}-{file}.json"
    facts = {
        "device": device,
        "date": date.today().isoformat(),
        "versions": {name: version(name) for name in ("jax", *packages)},
        "config": {
            name: str(x) if isinstance(x, Path) else x
            for name, x in vars(config).items()
            if name != "out"
        },
    }
    write_json(out, facts | measured)
    return out
