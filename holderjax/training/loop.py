"""The training loop: dispatches, their metrics, checkpoints, and the ways in which it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from holderjax import data
from holderjax.models import OPTIONS, Model
from holderjax.training import hosts
from holderjax.training.checkpoints import Checkpoints
from holderjax.training.clusters import check_clusters, fit_clusters
from holderjax.training.config import TrainConfig, build_model, data_facts, load_dataset
from holderjax.training.feed import Feed, make_feed
from holderjax.training.folder import CHECKPOINTS_FOLDER, check_folder, lock_folder, open_folder
from holderjax.training.interruption import Interruption
from holderjax.training.logging import Display, RunLog, read_metrics
from holderjax.training.metrics import NonFiniteLoss, first_non_finite, flatten, non_finite
from holderjax.training.optimizer import make_optimizer
from holderjax.training.parallel import fetch, local_devices, parallel, replicate, unreplicate
from holderjax.training.population import over_population, stack, take
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


# What may differ between runs that train as one program.
MEMBER_SETTINGS = ("seed", "beta", "out")


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
    (result,) = train_population([config])
    if isinstance(result, NonFiniteLoss):
        raise result
    return result


def train_population(configs: Sequence[TrainConfig]) -> list[RunResult | NonFiniteLoss]:
    """Train several runs together, as one compiled program with a leading population axis.

    Each is the run that `train` would make of its config, to floating-point tolerance, in an
    ordinary run folder. Runs that are resumed at different steps go on in groups.

    Args:
      configs: that differ in seed, beta and folder alone.

    Returns:
      For each, how it ended; a run that became non-finite ends with that error, the others go on.

    Raises:
      ValueError: as `train`, and for configs that differ in more.
      FileExistsError: as `train`.
      KeyboardInterrupt: as `train`.
    """
    check_population(configs)
    for config in configs:
        config.validate()
    hosts.check_same("settings", json.dumps([config.to_json() for config in configs]))
    for config in configs:
        hosts.in_first(partial(check_folder, config))
    shared = configs[0]
    devices = local_devices(shared.devices, shared.batch_size)
    dataset = load_dataset(shared)
    hosts.check_same("data", dataset.fingerprint)
    model = build_model(shared, data_facts(dataset))
    if shared.fit_clusters is not None:
        check_clusters(model, len(dataset.train))
    failed: dict[Path, NonFiniteLoss] = {}
    with ExitStack() as stack:
        waiting: dict[int, list[Member]] = {}
        for config in configs:
            member, step = begin(config, model, dataset, devices, stack)
            if step < config.steps:
                waiting.setdefault(step, []).append(member)
        stop = stack.enter_context(Interruption())
        for step, members in sorted(waiting.items()):
            with Display(step, shared.steps, quiet=not hosts.writes()) as display:
                group = [member.config for member in members]
                feed = feed_of(group, dataset, devices, step)
                display.message(feed.description)
                programs = Programs.of(group, model, dataset, devices, feed)
                failed |= run_steps(members, programs, step, display, stop)
    return [failed.get(config.out) or result_of(config) for config in configs]


def check_population(configs: Sequence[TrainConfig]) -> None:
    """Raise ValueError unless the configs can share one program and no folder."""
    folders = [config.out for config in configs]
    if len(set(folders)) < len(folders):
        raise ValueError(f"out: expected a folder for every run, got {list(map(str, folders))}")
    shared = replace(configs[0], **dict.fromkeys(MEMBER_SETTINGS))
    for config in configs:
        if replace(config, **dict.fromkeys(MEMBER_SETTINGS)) != shared:
            raise ValueError(
                f"{config.out}: runs trained together may differ in {', '.join(MEMBER_SETTINGS)} "
                f"alone, got {config} beside {configs[0]}"
            )


def result_of(config: TrainConfig) -> RunResult:
    """How a finished run ended, from its folder."""
    names = "step", "loss", "test_loss"
    last = hosts.in_first(lambda: read_metrics(config.out)[-1]) or dict.fromkeys(names, 0.0)
    step, loss, test_loss = hosts.of_first([np.float64(last[name]) for name in names])
    return RunResult(config.out, int(step), float(loss), float(test_loss))


def begin(
    config: TrainConfig,
    model: Model,
    dataset: data.Dataset,
    devices: Sequence[jax.Device],
    stack: ExitStack,
) -> tuple[Member, int]:
    """A run, and the step that it goes on from: 0 if it has no checkpoint yet.

    The first process opens the folder and tells the others the state, on the host.

    Args:
      config: of the run.
      model: of its config.
      dataset: that it is trained on.
      devices: of this process.
      stack: at whose end the folder is closed.

    Raises:
      ValueError, FileExistsError: as `train`.
    """
    opened = hosts.in_first(partial(open_run, config, model, dataset, devices, stack))
    if opened is None:
        shapes = state_template(config, model)
        opened = None, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes), 0
    files, state, step = opened
    state, step = hosts.of_first((state, step))
    return Member(config, files, state), int(step)


def open_run(
    config: TrainConfig,
    model: Model,
    dataset: data.Dataset,
    devices: Sequence[jax.Device],
    stack: ExitStack,
) -> tuple[Files | None, TrainState, int]:
    """Lock the folder, write what is known, restore; the files to write, None of a finished run."""
    stack.callback(lock_folder(config.out).release)
    # Again: another process may have begun a run there since.
    check_folder(config)
    open_folder(config, dataset, devices)
    folder = config.out / CHECKPOINTS_FOLDER
    checkpoints = stack.enter_context(Checkpoints(folder, keep=config.keep))
    if checkpoints.steps():
        state, step = checkpoints.restore(state_template(config, model), model_facts(config))
        if step > config.steps:
            raise ValueError(f"steps: the run is at step {step} already, got {config.steps}")
    else:
        # Not compiled: XLA takes longer over one program of all initialisers than they take to run.
        key = RunKeys.of(config.seed).init
        state, step = jax.device_get(init_state(model, make_optimizer(config), key)), 0
    config.save(config.out)
    if step == config.steps:
        return None, state, step
    log = stack.enter_context(RunLog(config.out, step))
    return Files(checkpoints, log), state, step


def state_template(config: TrainConfig, model: Model) -> TrainState:
    """Shapes and types of the state, without computing one."""
    key = RunKeys.of(config.seed).init
    return jax.eval_shape(lambda: init_state(model, make_optimizer(config), key))


def model_facts(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide the model, as a checkpoint holds them."""
    return {name: getattr(config, name) for name in MODEL_SETTINGS}


def feed_of(
    configs: Sequence[TrainConfig],
    dataset: data.Dataset,
    devices: Sequence[jax.Device],
    first_step: int,
) -> Feed:
    """What feeds a population from a step on: each member's own order of the training split."""
    config = configs[0]

    def indices_of(first: int, last: int) -> Any:
        return np.stack(
            [
                data.epoch_indices(
                    each.seed, len(dataset.train), config.batch_size, first, last - first
                )
                for each in configs
            ]
        )

    spans = dispatches(first_step, config.steps, config.log_every)
    return make_feed(config.feed, dataset.train.inputs, indices_of, spans, devices)


@dataclass(frozen=True)
class Files:
    """What a run writes while it trains."""

    checkpoints: Checkpoints
    log: RunLog


@dataclass(frozen=True)
class Member:
    """One run among those that train together: its settings, what it writes, where it begins.

    Its files are None where another process writes them.
    """

    config: TrainConfig
    files: Files | None
    state: TrainState


@dataclass(frozen=True)
class Programs:
    """The compiled programs of a population of P runs, with the data that they read.

    Attributes:
      dispatch: (replicas [devices, P, ...], first, last) to replicas and the metrics
        [devices, P, S, ...] of the steps between, in pieces of them.
      test_loss: parameters [P, ...] to held-out losses [P].
      with_clusters: (replicas, the indices of runs) to replicas with new clusters in these runs.
      devices: that share each batch.
    """

    dispatch: Callable[[TrainState, int, int], tuple[TrainState, list[Any]]]
    test_loss: Callable[[Any], Any]
    with_clusters: Callable[[TrainState, Iterable[int]], TrainState]
    devices: list[jax.Device]

    @classmethod
    def of(
        cls,
        configs: Sequence[TrainConfig],
        model: Model,
        dataset: data.Dataset,
        devices: list[jax.Device],
        feed: Feed,
    ) -> Programs:
        config = configs[0]
        keys = [RunKeys.of(config.seed) for config in configs]
        step_keys = jnp.stack([each.steps for each in keys])
        held_out_keys = jnp.stack([each.held_out for each in keys])
        betas = jnp.array([config.beta for config in configs], jnp.float32)
        test_examples = jax.device_put(dataset.test.arrays, devices[0])
        per_device = make_steps(
            model, make_optimizer(config), config.beta_warmup, config.hold_weights
        )
        steps = parallel(over_population(per_device, len(configs), (0, None, 0, 0, 0)), devices)
        held_out = make_held_out_loss(model, len(dataset.test), config.batch_size)
        held_out = jax.jit(over_population(held_out, len(configs), (0, None, 0, 0)))

        def dispatch(replicas: TrainState, first: int, last: int) -> tuple[TrainState, list[Any]]:
            parts = []
            for examples, indices in feed.pieces(first, last):
                replicas, metrics = steps(replicas, examples, indices, step_keys, betas)
                parts.append(metrics)
            return replicas, parts

        def test_loss(params: Any) -> Any:
            return jax.device_get(held_out(params, test_examples, held_out_keys, betas))

        def with_clusters(replicas: TrainState, going: Iterable[int]) -> TrainState:
            states = fetch(replicas)
            each = [take(states, i) for i in range(len(configs))]
            for i in going:
                params = fit_clusters(model, each[i].params, dataset.train.inputs, keys[i].clusters)
                each[i] = replace(each[i], params=hosts.of_first(params))
            return replicate(stack(each), devices)

        return cls(dispatch, test_loss, with_clusters, devices)


def run_steps(
    members: Sequence[Member],
    programs: Programs,
    first_step: int,
    display: Display,
    stop: Interruption,
) -> dict[Path, NonFiniteLoss]:
    """Train to the last step, dispatching ahead of the metrics that the host looks at.

    Args:
      members: the runs, all of them at ``first_step``; one that becomes non-finite is left alone
        from then on.
      programs: of these runs.
      first_step: steps behind them.
      display: shows how far they are.
      stop: the wish to stop, once everything is written.

    Returns:
      Why runs failed, by folder.
    """
    config = members[0].config
    replicas = replicate(stack([member.state for member in members]), programs.devices)
    recorder = Recorder(members, programs, display)
    # The dispatch whose metrics are still to be looked at, so that the device need not wait.
    pending: tuple[int, int, list[Any]] | None = None
    for first, last in dispatches(first_step, config.steps, config.log_every):
        if first == config.fit_clusters:
            if pending:
                recorder.record(*pending)
                pending = None
            replicas = programs.with_clusters(replicas, recorder.going)
        replicas, metrics = programs.dispatch(replicas, first, last)
        if pending:
            recorder.record(*pending)
        pending = first, last, metrics
        stopping = hosts.anywhere(stop.requested)
        if last % config.checkpoint_every == 0 or last == config.steps or stopping:
            recorder.record(*pending, unreplicate(replicas))
            pending = None
            if stopping:
                recorder.tell_stop(last)
                raise KeyboardInterrupt
        if not recorder.going:
            break
    return recorder.failed


class Recorder:
    """Writes what a population's dispatches have made; drops the runs that become non-finite.

    Attributes:
      going: the runs that have not failed, by their index in the population.
      failed: why the others have, by folder.
    """

    def __init__(self, members: Sequence[Member], programs: Programs, display: Display) -> None:
        """Of these runs, by their programs, telling the display."""
        self.going = dict(enumerate(members))
        self.failed: dict[Path, NonFiniteLoss] = {}
        self._programs, self._display = programs, display

    def record(
        self, first: int, last: int, metrics: list[Any], state: TrainState | None = None
    ) -> None:
        """Look at the metrics of a dispatch; with the state after it, write checkpoints.

        Args:
          first: steps before the dispatch.
          last: steps after it.
          metrics: by name, [devices, P, S, ...], in pieces of the steps.
          state: leaves [P, ...].
        """
        parts = [flatten(fetch(part)) for part in metrics]
        every_step = {name: np.concatenate([x[name] for x in parts], axis=1) for name in parts[0]}
        test_losses = None if state is None else self._programs.test_loss(state.params)
        state, losses = jax.device_get(state), []
        for i, member in list(self.going.items()):
            try:
                averages = interval_metrics(
                    first, last, {name: x[i] for name, x in every_step.items()}, member.files
                )
                if state is not None:
                    averages["test_loss"] = float(test_losses[i])
                    save(member, last, take(state, i), averages)
                elif member.files:
                    member.files.log.log(last, averages)
                losses.append(averages["loss"])
            except NonFiniteLoss as error:
                self.failed[member.config.out] = error
                del self.going[i]
                if self.going:
                    self._display.message(f"{member.config.out}: {error}")
        if losses:
            self._display.show(last, losses)

    def tell_stop(self, step: int) -> None:
        """Once the checkpoints of this step are written, say where they are."""
        for member in self.going.values():
            if member.files:
                path = last_good(member.files)
                self._display.message(f"stopped at step {step}: {path}")


def save(member: Member, step: int, state: TrainState, averages: dict[str, Any]) -> None:
    """Log the metrics of an interval and begin to write the state after it.

    Raises:
      NonFiniteLoss: if the held-out loss or the state is not finite; nothing is written then.
    """
    bad = non_finite({"test_loss": averages["test_loss"], **flatten(state)})
    if bad:
        raise NonFiniteLoss(step, bad, last_good(member.files))
    if member.files:
        # The line comes first: a run that is resumed from this checkpoint has to find it.
        member.files.log.log(step, averages)
        facts = model_facts(member.config)
        member.files.checkpoints.save(state, step, averages["test_loss"], facts)


def dispatches(first_step: int, steps: int, size: int) -> Iterator[tuple[int, int]]:
    """The (first, last] steps of every dispatch; each ends at a multiple of ``size`` or the end.

    The grid does not depend on ``first_step``, so a resumed run repeats the same programs.
    """
    while first_step < steps:
        last = min(first_step - first_step % size + size, steps)
        yield first_step, last
        first_step = last


def interval_metrics(
    first: int, last: int, every_step: dict[str, Any], files: Files | None
) -> dict[str, Any]:
    """The metrics of one dispatch of one run, averaged over its steps.

    Args:
      first: steps before the dispatch.
      last: steps after it.
      every_step: metrics by name, [S, ...].
      files: of the run, for the error.

    Returns:
      Numbers, or lists of them where a metric has an axis.

    Raises:
      NonFiniteLoss: if any metric of any step is NaN or infinite.
    """
    # The parts of the loss come before the loss, so that an error names the culprit.
    parts = {name: x for name, x in every_step.items() if name not in ("loss", "gradient_norm")}
    ordered = parts | every_step
    if bad := first_non_finite(ordered):
        raise NonFiniteLoss(first + 1 + bad[0], bad[1], last_good(files))
    means = {name: np.mean(ordered[name], axis=0, dtype=np.float64).tolist() for name in ordered}
    return {"loss": means.pop("loss"), **means}


def last_good(files: Files | None) -> Path | None:
    """The newest checkpoint, once it is on disk; None where another process writes them."""
    if files is None:
        return None
    files.checkpoints.wait()
    steps = files.checkpoints.steps()
    return files.checkpoints.path(steps[-1]) if steps else None
