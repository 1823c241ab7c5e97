"""What a run tells while it trains: JSON lines, TensorBoard events, progress on the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from tensorboardX import SummaryWriter

from holderjax.files import naming, write_text

METRICS_FILE = "metrics.jsonl"
PLAIN_LINE_SECONDS = 10.0


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics of a run, in order; a last line that was cut short is left out."""
    path = folder / METRICS_FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    # Whatever follows the last newline was never finished.
    return [json.loads(line) for line in lines[:-1] if line]


def trim_metrics(folder: Path, step: int) -> list[dict[str, Any]]:
    """Drop the lines beyond ``step``, atomically; returns those that stay."""
    kept = [line for line in read_metrics(folder) if line["step"] <= step]
    write_text(folder / METRICS_FILE, "".join(json.dumps(line) + "\n" for line in kept))
    return kept


class RunLog:
    """Writes the metrics of a run: JSON lines and TensorBoard events."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Open the files of a run folder.

        Args:
          folder: the run's.
          first_step: how many steps the run has behind it; metrics beyond are dropped.
        """
        self._folder = folder
        kept = trim_metrics(folder, first_step)
        self._seconds_before = kept[-1]["seconds"] if kept else 0.0
        self._lines = (folder / METRICS_FILE).open("a", encoding="utf-8")
        # TensorBoard hides events of the purged steps, which the resumed run writes again.
        self._events = SummaryWriter(
            str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else None
        )
        self._done = first_step
        self._begin = self._last = time.monotonic()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing writes what could not be written before.
        with naming(self._folder):
            self._events.close()
            self._lines.close()

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Write the metrics of the interval that ends at ``step``, numbers or lists of them."""
        now = time.monotonic()
        rate = (step - self._done) / max(now - self._last, 1e-9)
        self._done, self._last = step, now
        seconds = self._seconds_before + now - self._begin
        line = {"step": step, **metrics, "seconds": seconds, "steps_per_second": rate}
        with naming(self._folder):
            self._lines.write(json.dumps(line, allow_nan=False) + "\n")
            self._lines.flush()
            for name, value in line.items():
                if isinstance(value, float):
                    self._events.add_scalar(name, value, step)


class Display:
    """Shows how far training is: a bar on a terminal, elsewhere a plain line now and then."""

    def __init__(self, first_step: int, steps: int, quiet: bool = False) -> None:
        """Begin at ``first_step`` of ``steps``; if ``quiet``, show nothing."""
        self._steps, self._done = steps, first_step
        self._last, self._last_plain = time.monotonic(), -PLAIN_LINE_SECONDS
        self._console = Console(stderr=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            "train", total=steps, completed=first_step, status="compiling"
        )

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def message(self, text: str) -> None:
        """A line on the terminal, above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, step: int, losses: Sequence[float]) -> None:
        """The last step done, and the loss of every run that is going on."""
        now = time.monotonic()
        rate = (step - self._done) / max(now - self._last, 1e-9)
        self._done, self._last = step, now
        loss = f"loss {min(losses):.2f}"
        if len(losses) > 1:
            loss += f" to {max(losses):.2f} over {len(losses)} runs"
        status = f"{loss}, {rate:.1f} steps/s"
        self._progress.update(self._task, completed=step, status=status)
        due = now - self._last_plain >= PLAIN_LINE_SECONDS or step == self._steps
        if self._progress.disable and due:
            self._last_plain = now
            left = (self._steps - step) / rate
            self.message(f"step {step}/{self._steps}, {status}, {left:.0f} s left")
