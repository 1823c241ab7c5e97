"""Checkpoints by Orbax, with a digest that tells a whole one from a damaged one."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PolicyCheckpointInfo, PreservationPolicy

from holderjax.files import naming
from holderjax.training.metrics import flatten

logger = logging.getLogger(__name__)

Which = Literal["last", "best"]
DAMAGED = ".damaged"


class DamagedCheckpoint(Exception):
    """A checkpoint that cannot be read, or does not hold what was written."""


class Checkpoints:
    """The checkpoints of a run, numbered by step: the latest few and the best by held-out loss.

    Writing is asynchronous and atomic. Every checkpoint carries the SHA-256 of its arrays and of
    its metadata, so that a damaged one is never taken for a whole one.
    """

    def __init__(self, folder: Path, keep: int | None = None) -> None:
        """Open the checkpoints of a folder.

        Args:
          folder: that holds them.
          keep: how many of the latest to keep besides the best; None only reads.
        """
        self.folder = folder.absolute()
        self._writes = keep is not None
        if self._writes:
            folder.mkdir(parents=True, exist_ok=True)
        # The held-out losses of the checkpoints, by step, as far as they are known.
        self._losses: dict[int, float] = {}
        found = {path.name for path in folder.glob("[0-9]*")}
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                # Orbax must not wait for other processes of the run: this one alone writes.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=jax.process_index(),
                    active_processes={jax.process_index()},
                    barrier_sync_key_prefix="first",
                ),
                create=False,
                cleanup_tmp_directories=self._writes,
                preservation_policy=LatestAndBest(keep, self._losses) if keep else None,
            ),
        )
        for name in sorted(found - {str(step) for step in self.steps()}):
            if DAMAGED not in name:
                logger.warning(
                    "skipped a checkpoint that was cut short or is still being written: %s",
                    self.folder / name,
                )
        # Of a run that goes on: what was written before is to make room as well.
        for step in self.steps() if self._writes else ():
            with suppress(DamagedCheckpoint):
                self._losses[step] = self._metadata(step)["test_loss"]

    def __enter__(self) -> Checkpoints:
        self._open = ExitStack()
        self._open.enter_context(quiet_abandoned_work())
        self._open.callback(self._close)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _close(self) -> None:
        with self._writing():
            self._manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What could not be written is an OSError that names the folder.

        Orbax writes while training goes on, and tells in its next call, by errors of many kinds.
        """
        try:
            with naming(self.folder):
                yield
        except Exception as error:
            # Orbax's frames hold its other writes. Those that failed as well report where they are
            # collected: in the block of `quiet_abandoned_work`, not when the error is dropped.
            traceback.clear_frames(error.__traceback__)
            if isinstance(error, OSError):
                raise
            reason = str(error).strip().split("\n")[0][:300]
            raise OSError(f"{self.folder}: a checkpoint could not be written: {reason}") from error

    def path(self, step: int) -> Path:
        return self.folder / str(step)

    def steps(self) -> list[int]:
        """The steps of all checkpoints, damaged ones as well, in ascending order."""
        return sorted(self._manager.all_steps())

    def save(self, state: Any, step: int, test_loss: float, facts: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint; it appears in the folder once it is whole.

        Args:
          state: a pytree of arrays on the host, which the caller will not change.
          step: of the state.
          test_loss: the held-out loss, which decides which checkpoint is the best.
          facts: JSON values that `restore` compares with its own.

        Raises:
          OSError: if this one or one before it cannot be written.
        """
        metadata = {
            "step": step,
            "test_loss": test_loss,
            "facts": dict(facts),
            "leaves": _describe(state),
            "state_sha256": state_digest(state),
        }
        self._losses[step] = test_loss
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    metadata=ocp.args.JsonSave(metadata | {"sha256": _json_digest(metadata)}),
                ),
            )

    def wait(self) -> None:
        """Return once everything begun is on disk; OSError if it cannot be written."""
        with self._writing():
            self._manager.wait_until_finished()

    def restore(
        self, template: Any, facts: Mapping[str, Any], which: Which = "last"
    ) -> tuple[Any, int]:
        """The newest or the best whole checkpoint; damaged ones are skipped with a warning.

        Args:
          template: a pytree of arrays or `jax.ShapeDtypeStruct`, as saved.
          facts: what the checkpoint should have been saved with.
          which: the newest, or the one of the lowest held-out loss.

        Returns:
          The state as NumPy arrays, bit for bit as saved, and its step.

        Raises:
          FileNotFoundError: if there is no checkpoint, or no whole one.
          ValueError: if the checkpoint is whole but of another model.
        """
        skipped: list[int] = []
        for step in self._candidates(which, skipped):
            try:
                metadata = self._metadata(step)
                self._check_compatible(step, metadata, template, facts)
                state = self._state(step, metadata, template)
            except DamagedCheckpoint as damage:
                logger.warning("skipped the damaged checkpoint %s: %s", self.path(step), damage)
                skipped.append(step)
                continue
            if self._writes:
                self._set_aside(skipped)
            return state, step
        damaged = f"; damaged: {', '.join(map(str, sorted(skipped)))}" if skipped else ""
        raise FileNotFoundError(f"no whole checkpoint in {self.folder}{damaged}")

    def _candidates(self, which: Which, skipped: list[int]) -> list[int]:
        if which not in ("last", "best"):
            raise ValueError(f"checkpoint: expected 'last' or 'best', got {which!r}")
        if which == "last":
            return self.steps()[::-1]
        losses = {}
        for step in self.steps():
            try:
                losses[step] = self._metadata(step)["test_loss"]
            except DamagedCheckpoint as damage:
                logger.warning("skipped the damaged checkpoint %s: %s", self.path(step), damage)
                skipped.append(step)
        return sorted(losses, key=lambda step: losses[step])

    def _metadata(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(metadata=ocp.args.JsonRestore())
        metadata = self._read(step, args)["metadata"]
        digest = metadata.pop("sha256", None) if isinstance(metadata, dict) else None
        if digest != _json_digest(metadata):
            raise DamagedCheckpoint("its metadata is not what was written")
        return metadata

    def _state(self, step: int, metadata: dict[str, Any], template: Any) -> Any:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(template))
        state = jax.tree.map(np.asarray, self._read(step, args)["state"])
        if state_digest(state) != metadata["state_sha256"]:
            raise DamagedCheckpoint("its arrays are not what was written")
        return state

    def _read(self, step: int, args: ocp.args.Composite) -> Any:
        try:
            return self._manager.restore(step, args=args)
        except Exception as error:  # a missing, short or altered file raises almost anything
            reason = str(error).strip().split("\n")[0][:200]
            raise DamagedCheckpoint(f"{type(error).__name__}: {reason}") from error

    def _check_compatible(
        self, step: int, metadata: dict[str, Any], template: Any, facts: Mapping[str, Any]
    ) -> None:
        for kind, written, expected in (
            ("", metadata["facts"], facts),
            ("array ", metadata["leaves"], _describe(template)),
        ):
            for name in [*expected, *written]:
                was, now = written.get(name, "absent"), expected.get(name, "absent")
                if was != now:
                    raise ValueError(
                        f"{self.path(step)} is a checkpoint of another model: "
                        f"{kind}{name} was {was!r} and should be {now!r}"
                    )

    def _set_aside(self, steps: list[int]) -> None:
        """Rename damaged checkpoints, so that the resumed run can write theirs anew."""
        for step in steps:
            aside = self.folder / f"{step}{DAMAGED}"
            while aside.exists():
                aside = aside.with_name(f"{aside.name}{DAMAGED}")
            self.path(step).rename(aside)
        if steps:
            self._manager.reload()


@dataclass(frozen=True)
class LatestAndBest(PreservationPolicy):
    """Orbax's question which checkpoints to keep: the latest, and the one of the least loss.

    Attributes:
      keep: how many of the latest.
      losses: by step.
    """

    keep: int
    losses: Mapping[int, float]

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: Any
    ) -> list[bool]:
        """For each checkpoint, whether it stays."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        known = [step for step in steps if step in self.losses]
        best = min(known, key=lambda step: self.losses[step], default=None)
        latest = sorted(steps)[-self.keep :]
        return [step in latest or step == best for step in steps]


@contextmanager
def quiet_abandoned_work() -> Iterator[None]:
    """Drop what Orbax's abandoned reads and writes print.

    Where one array cannot be read or written, Orbax gives up the others, and each of those reports
    a closed event loop on its own: dozens of tracebacks around the one error that says what
    happened.
    """
    hook = sys.unraisablehook

    def drop(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    def keep(record: logging.LogRecord) -> bool:
        # What Orbax logs with a traceback it raises as well.
        own = record.name == "asyncio" or "orbax" in record.pathname
        return not (own and record.exc_info)

    loggers = [logging.getLogger(name) for name in ("asyncio", "absl")]
    sys.unraisablehook = drop
    for each in loggers:
        each.addFilter(keep)
    try:
        yield
    finally:
        # Tasks report when they are collected.
        gc.collect()
        sys.unraisablehook = hook
        for each in loggers:
            each.removeFilter(keep)


def state_digest(state: Any) -> str:
    """SHA-256 over the names, types, shapes and bytes of all arrays of a pytree."""
    digest = hashlib.sha256()
    for name, leaf in flatten(state).items():
        array = np.asarray(leaf)
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _json_digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _describe(tree: Any) -> dict[str, str]:
    return {
        name: f"{np.dtype(leaf.dtype)}{list(leaf.shape)}" for name, leaf in flatten(tree).items()
    }
