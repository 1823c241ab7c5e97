"""The command line: parses, calls, prints."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from holderjax.data.cache import programs_dir
from holderjax.device import keep_programs
from holderjax.training import NonFiniteLoss, ProcessLost, SweepConfig, TrainConfig

Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="A run folder.")]
Checkpoint = Annotated[
    Literal["last", "best"], tyro.conf.arg(help="The newest, or the one of least held-out loss.")
]

INCEPTION = "The file pt_inception-2015-12-05-6726825d.pth of pytorch-fid, to measure FID."
LIKELIHOOD = "Importance samples of the log-likelihood; it is not estimated if not given."

logger = logging.getLogger(__name__)


def train(
    config: tyro.conf.OmitArgPrefixes[TrainConfig],
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> None:
    """Train a model into a run folder.

    Args:
        config: Of the run.
        coordinator: HOST:PORT of the first of several processes that train together, each started
            by this command; auto, where SLURM, Open MPI, Kubernetes or a TPU pod started them.
        processes: How many they are.
        process: Which of them this is, from 0; the first one writes.
    """
    from holderjax import training

    training.join(coordinator, processes, process)
    training.train(config)


def sweep(
    config: tyro.conf.OmitArgPrefixes[SweepConfig],
    evaluate: Annotated[bool, tyro.conf.arg(help="Evaluate every run as well.")] = True,
    inception: Annotated[Path | None, tyro.conf.arg(help=INCEPTION)] = None,
) -> None:
    """Train systems x betas x seeds, the runs of a system as one compiled program."""
    from holderjax import evaluation, training

    trained = training.sweep(config)
    if evaluate:
        failures = evaluation.evaluate_each(trained, inception=inception)
    else:
        failures = [x for results in trained for x in results if isinstance(x, NonFiniteLoss)]
    print(config.out)
    if failures:
        raise failures[0]


def evaluate(
    run: Run,
    checkpoint: Checkpoint = "last",
    inception: Annotated[Path | None, tyro.conf.arg(help=INCEPTION)] = None,
    likelihood_samples: Annotated[int | None, tyro.conf.arg(help=LIKELIHOOD)] = None,
) -> None:
    """Measure coherence and reconstruction; write RUN/metrics.json and RUN/*.png."""
    from holderjax import evaluation

    evaluation.evaluate(
        run,
        checkpoint=checkpoint,
        inception=inception,
        likelihood_samples=likelihood_samples,
    )


def generate(
    run: Run,
    out: Path,
    observed: str,
    samples: int = 4,
    rows: int = 8,
    seed: int = 0,
    checkpoint: Checkpoint = "last",
) -> None:
    """Draw every modality given some of them, for held-out examples.

    Args:
        run: A run folder.
        out: The picture to write.
        observed: Names of the observed modalities, e.g. m0,m2.
        samples: Samples per example.
        rows: Held-out examples.
        seed: Of the latents drawn.
        checkpoint: The newest, or the one of least held-out loss.
    """
    from holderjax import training
    from holderjax.evaluation import pictures

    loaded = training.load_run(run, checkpoint=checkpoint)
    pictures.conditional_grid(
        loaded, out, observed=tuple(observed.split(",")), samples=samples, rows=rows, seed=seed
    )
    print(out)


def sample(
    run: Run, out: Path, samples: int = 16, seed: int = 0, checkpoint: Checkpoint = "last"
) -> None:
    """Draw all modalities from the prior.

    Args:
        run: A run folder.
        out: The picture to write.
        samples: Draws of the shared latent.
        seed: Of the latents drawn.
        checkpoint: The newest, or the one of least held-out loss.
    """
    from holderjax import training
    from holderjax.evaluation import pictures

    loaded = training.load_run(run, checkpoint=checkpoint)
    pictures.unconditional_grid(loaded, out, samples=samples, seed=seed)
    print(out)


def report(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUNS...")],
    out: Path,
) -> None:
    """Compare evaluated runs: the Pareto frontier, tables, samples, curves, in one HTML file.

    Args:
        runs: Run folders, and folders that contain some.
        out: The HTML file to write; figures and their numbers go beside it as PNG and CSV.
    """
    from holderjax.evaluation import page

    for file in page.write_report(runs, out):
        print(file)


def systems(modalities: int = 5) -> None:
    """Print the table of systems.

    Args:
        modalities: M, for counting components.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    from holderjax.models import SYSTEMS, count_components

    table = Table(
        Column("system", no_wrap=True),
        *("aggregator", "latents", "prior", "bound", "K", "paper"),
        box=box.SIMPLE_HEAD,
        caption_justify="left",
        caption=f"K: components of the posterior at M = {modalities} modalities. All rows train on "
        "incomplete data: put a mask [B, M] into the batch.",
    )
    for name, row in SYSTEMS.items():
        table.add_row(
            *(name, row.aggregator, row.latents, row.prior, row.bound),
            *(str(count_components(row, modalities)), row.paper),
        )
    Console().print(table)


@dataclass(frozen=True)
class ListData:
    """Print the data sets, what each needs on disk and which are prepared."""


@dataclass(frozen=True)
class ShowData:
    """Draw some examples: one row per example, one column per modality."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A name that `holderjax data list` prints, or the path of an .npz file."""
    out: Path
    """The picture to write."""
    rows: int = 8
    """Examples to show."""
    mnist: Path | None = None
    """Folder of the MNIST files, for building polymnist."""
    backgrounds: Path | None = None
    """Folder of the background pictures, for building polymnist."""
    root: Path | None = None
    """Folder of the official PolyMNIST tree, instead of building it."""


@dataclass(frozen=True)
class PrepareData:
    """Read a data set's raw files once and keep them in the cache folder."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A name that `holderjax data list` prints."""
    source: Annotated[Path | None, tyro.conf.arg(name="from", metavar="DIR")] = None
    """Folder of the raw files; without, they are fetched where their licence allows it."""
    seed: int | None = None
    """Of pairing modalities at random, 0 if not given."""
    modalities: int | None = None
    """Of polymnist, 5 if not given."""
    train_repeats: int | None = None
    """Of mnist-svhn: in how many examples each training image occurs, 20 if not given."""
    test_repeats: int | None = None
    """The same of its test images, 5 if not given."""
    replace: bool = False
    """Take the place of what is prepared."""


def data(
    command: Annotated[ListData, tyro.conf.subcommand("list", prefix_name=False)]
    | Annotated[PrepareData, tyro.conf.subcommand("prepare", prefix_name=False)]
    | Annotated[ShowData, tyro.conf.subcommand("show", prefix_name=False)],
) -> None:
    """List the data sets, prepare one, or look at one."""
    from holderjax import data

    if isinstance(command, ListData):
        from rich.console import Console
        from rich.table import Table

        table = Table("data set", "what it is", "modalities", "needs", "prepared")
        for info in data.DATASETS.values():
            state = "" if info.preparation is None else data.state(info.name)
            table.add_row(info.name, info.description, info.modalities, info.needs, state)
        Console().print(table)
    elif isinstance(command, PrepareData):
        options = {
            "seed": command.seed,
            "num_modalities": command.modalities,
            "train_repeats": command.train_repeats,
            "test_repeats": command.test_repeats,
        }
        chosen = {name: value for name, value in options.items() if value is not None}
        print(data.prepare(command.name, command.source, replace=command.replace, **chosen))
    else:
        paths = {name: getattr(command, name) for name in ("mnist", "backgrounds", "root")}
        given = {name: path for name, path in paths.items() if path is not None}
        data.show(data.load(command.name, **given), command.out, rows=command.rows)
        print(command.out)


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "sweep": sweep,
    "evaluate": evaluate,
    "generate": generate,
    "sample": sample,
    "report": report,
    "systems": systems,
    "data": data,
}


def guarded(call: Callable[[], Any]) -> int:
    """Run a command for a person: a mistake is one line on stderr and exit code 2, no traceback.

    Compiled programs are kept in the cache folder, so that the next start is quicker.
    """
    try:
        keep_programs(programs_dir())
    except OSError as error:
        logger.warning("compiled programs are not kept for the next start: %s", error)
    try:
        call()
    except (ValueError, OSError) as error:
        print(f"holderjax: {error}", file=sys.stderr)
        return 2
    except (NonFiniteLoss, ProcessLost) as error:
        print(f"holderjax: {error}", file=sys.stderr)
        return 1
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).split("\n")[0]
        print(
            f"holderjax: {reason}: if another process of the run has ended, start all of them "
            "again with --resume",
            file=sys.stderr,
            flush=True,
        )
        # At its end JAX would wait for that process.
        os._exit(1)
    except KeyboardInterrupt:
        print("holderjax: interrupted", file=sys.stderr)
        return 130
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The ``holderjax`` command; returns its exit code."""
    return guarded(
        lambda: tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="holderjax",
            description="Multimodal VAEs with exact Hölder pooling.",
            args=list(sys.argv[1:] if argv is None else argv),
            config=(tyro.conf.OmitArgPrefixes,),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
