"""The training loop: dispatches, their metrics, checkpoints, and the ways in which it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from holderjax import data
from holderjax.models import OPTIONS, Model
from holderjax.training.checkpoints import Checkpoints
from holderjax.training.clusters import check_clusters, fit_clusters
from holderjax.training.config import TrainConfig, build_model, load_dataset
from holderjax.training.folder import CHECKPOINTS_FOLDER, check_folder, open_folder
from holderjax.training.interruption import Interruption
from holderjax.training.logging import RunLog, read_metrics
from holderjax.training.metrics import NonFiniteLoss, first_non_finite, flatten, non_finite
from holderjax.training.optimizer import make_optimizer
from holderjax.training.parallel import local_devices, parallel, replicate, shard, unreplicate
from holderjax.training.step import (
    RunKeys,
    TrainState,
    init_state,
    make_held_out_loss,
    make_steps,
)

# What a checkpoint must agree on with the config that reads it.
MODEL_SETTINGS = (
    *("system", "data", "network", "latent_dim", "private_dim"),
    *("components", *OPTIONS),
)


@dataclass(frozen=True)
class RunResult:
    """The end of a run.

    Attributes:
      path: the run folder.
      step: the last one.
      loss: the mean training loss of the last interval of metrics, in nats.
      test_loss: the held-out loss at the last step, in nats.
    """

    path: Path
    step: int
    loss: float
    test_loss: float


def train(config: TrainConfig) -> RunResult:
    """Train a model into a run folder, from the beginning or from its newest whole checkpoint.

    A run that was killed and is resumed ends with the parameters of an uninterrupted one, bit for
    bit on the same machine: randomness and the order of the data depend on the step alone, and
    the dispatches lie on the same grid.

    Args:
      config: of the run; with ``resume`` it goes on with the run in ``out``, if there is one.

    Returns:
      Where the run is and how it ended.

    Raises:
      ValueError: for settings out of range, and for a resumption with other settings.
      FileExistsError: if the folder already holds a run and ``resume`` is not set.
      NonFiniteLoss: as soon as a part of the loss is NaN or infinite.
      KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
    """
    config.validate()
    devices = local_devices(config.devices, config.batch_size)
    check_folder(config)
    dataset = load_dataset(config)
    model = build_model(config, dataset.modalities)
    if config.fit_clusters is not None:
        check_clusters(model, len(dataset.train))
    open_folder(config, dataset, devices)
    with Checkpoints(config.out / CHECKPOINTS_FOLDER, keep=config.keep) as checkpoints:
        state, first_step = begin(config, model, checkpoints)
        config.save(config.out)
        if first_step < config.steps:
            programs = Programs.of(config, model, dataset, devices)
            with RunLog(config.out, first_step, config.steps) as log, Interruption() as stop:
                run_steps(config, programs, state, first_step, checkpoints, log, stop)
    last = read_metrics(config.out)[-1]
    return RunResult(config.out, last["step"], last["loss"], last["test_loss"])


def begin(config: TrainConfig, model: Model, checkpoints: Checkpoints) -> tuple[TrainState, int]:
    """The state to go on from, on the host, and its step: 0 if there is no checkpoint yet."""
    if not checkpoints.steps():
        # Not compiled: XLA takes longer over one program of all initialisers than they take to run.
        state = init_state(model, make_optimizer(config), RunKeys.of(config.seed).init)
        return jax.device_get(state), 0
    state, step = checkpoints.restore(state_template(config, model), model_facts(config))
    if step > config.steps:
        raise ValueError(f"steps: the run is at step {step} already, got {config.steps}")
    return state, step


def state_template(config: TrainConfig, model: Model) -> TrainState:
    """Shapes and types of the state, without computing one."""
    key = RunKeys.of(config.seed).init
    return jax.eval_shape(lambda: init_state(model, make_optimizer(config), key))


def model_facts(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide the model, as a checkpoint holds them."""
    return {name: getattr(config, name) for name in MODEL_SETTINGS}


@dataclass(frozen=True)
class Programs:
    """The compiled programs of a run, with the data on the devices that they read."""

    dispatch: Callable[[TrainState, int, int], tuple[TrainState, Any]]
    test_loss: Callable[[Any], float]
    fit_clusters: Callable[[Any], Any]
    devices: list[jax.Device]

    @classmethod
    def of(
        cls, config: TrainConfig, model: Model, dataset: data.Dataset, devices: list[jax.Device]
    ) -> Programs:
        keys, beta = RunKeys.of(config.seed), jnp.float32(config.beta)
        train_examples = replicate(dataset.train.arrays, devices)
        test_examples = jax.device_put(dataset.test.arrays, devices[0])
        per_device = make_steps(
            model, make_optimizer(config), config.beta_warmup, config.hold_weights
        )
        steps = parallel(per_device, devices)
        held_out = make_held_out_loss(model, len(dataset.test), config.batch_size)

        def dispatch(replicas: TrainState, first: int, last: int) -> tuple[TrainState, Any]:
            indices = data.epoch_indices(
                config.seed, len(dataset.train), config.batch_size, first, last - first
            )
            return steps(replicas, train_examples, shard(indices, devices), keys.steps, beta)

        def test_loss(params: Any) -> float:
            return float(held_out(params, test_examples, keys.held_out, beta))

        def with_clusters(params: Any) -> Any:
            return fit_clusters(model, params, dataset.train.arrays, keys.clusters)

        return cls(dispatch, test_loss, with_clusters, devices)


def run_steps(
    config: TrainConfig,
    programs: Programs,
    state: TrainState,
    first_step: int,
    checkpoints: Checkpoints,
    log: RunLog,
    stop: Interruption,
) -> None:
    """Train to the last step, dispatching ahead of the metrics that the host looks at."""
    replicas = replicate(state, programs.devices)
    # The dispatch whose metrics are still to be looked at, so that the device need not wait.
    pending: tuple[int, int, Any] | None = None
    for first, last in dispatches(first_step, config.steps, config.log_every):
        if first == config.fit_clusters:
            state = jax.device_get(unreplicate(replicas))
            state = replace(state, params=programs.fit_clusters(state.params))
            replicas = replicate(state, programs.devices)
        replicas, metrics = programs.dispatch(replicas, first, last)
        if pending:
            log.log(pending[1], interval_metrics(*pending, checkpoints))
        pending = first, last, metrics
        if last % config.checkpoint_every == 0 or last == config.steps or stop.requested:
            averages = interval_metrics(*pending, checkpoints)
            pending = None
            state = unreplicate(replicas)
            averages["test_loss"] = programs.test_loss(state.params)
            state = jax.device_get(state)
            bad = non_finite({"test_loss": averages["test_loss"], **flatten(state)})
            if bad:
                raise NonFiniteLoss(last, bad, last_good(checkpoints))
            # The line comes first: a run that is resumed from this checkpoint has to find it.
            log.log(last, averages)
            checkpoints.save(state, last, averages["test_loss"], model_facts(config))
            if stop.requested:
                checkpoints.wait()
                log.message(f"stopped at step {last}: {checkpoints.path(last)}")
                raise KeyboardInterrupt


def dispatches(first_step: int, steps: int, size: int) -> Iterator[tuple[int, int]]:
    """The (first, last] steps of every dispatch; each ends at a multiple of ``size`` or the end.

    The grid does not depend on ``first_step``, so a resumed run repeats the same programs.
    """
    while first_step < steps:
        last = min(first_step - first_step % size + size, steps)
        yield first_step, last
        first_step = last


def interval_metrics(
    first: int, last: int, metrics: Any, checkpoints: Checkpoints
) -> dict[str, Any]:
    """The metrics of one dispatch by name, averaged over its steps.

    Args:
      first: steps before the dispatch.
      last: steps after it.
      metrics: the programs' replicated metrics, [devices, S, ...].
      checkpoints: of the run, for the error.

    Returns:
      Numbers, or lists of them where a metric has an axis.

    Raises:
      NonFiniteLoss: if any metric of any step is NaN or infinite.
    """
    every_step = flatten(jax.device_get(unreplicate(metrics)))
    # The parts of the loss come before the loss, so that an error names the culprit.
    parts = {name: x for name, x in every_step.items() if name not in ("loss", "gradient_norm")}
    ordered = parts | every_step
    if bad := first_non_finite(ordered):
        raise NonFiniteLoss(first + 1 + bad[0], bad[1], last_good(checkpoints))
    means = {name: np.mean(ordered[name], axis=0, dtype=np.float64).tolist() for name in ordered}
    return {"loss": means.pop("loss"), **means}


def last_good(checkpoints: Checkpoints) -> Path | None:
    """The newest checkpoint, once it is on disk."""
    checkpoints.wait()
    steps = checkpoints.steps()
    return checkpoints.path(steps[-1]) if steps else None
