"""The evaluation of a run: all scores into ``metrics.json``, all pictures, a table."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from jax.tree_util import Partial
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from holderjax import data
from holderjax.device import device_name
from holderjax.evaluation.classifiers import (
    RECIPE,
    Recipe,
    accuracy,
    image_modalities,
    load_classifiers,
)
from holderjax.evaluation.clustering import cluster_probabilities, clustering_scores
from holderjax.evaluation.coherence import (
    Classifiers,
    Table,
    all_subsets,
    by_subset_size,
    class_diversity,
    coherence_table,
    conditional_diversity,
    generate_from_subsets,
    leave_one_out,
    self_reconstruction,
    unconditional_coherence,
)
from holderjax.evaluation.examples import first_examples
from holderjax.evaluation.fid import fid_measure
from holderjax.evaluation.frechet import Distances, Measure, frechet_distances, measure
from holderjax.evaluation.inception import load_inception
from holderjax.evaluation.representation import linear_accuracy
from holderjax.files import write_json
from holderjax.training import load_run
from holderjax.training.logging import read_metrics

if TYPE_CHECKING:
    from jaxtyping import PRNGKeyArray

    from holderjax.models import Model
    from holderjax.training import Run

logger = logging.getLogger(__name__)

METRICS_JSON = "metrics.json"
# Below this a classifier's mistakes are no longer small beside the model's.
TRUSTED_ACCURACY = 0.9
DIVERSITY_EXAMPLES = 200


def evaluated_step(path: Path) -> int | None:
    """The step of the checkpoint that ``metrics.json`` was made of, None if there is none."""
    file = path / METRICS_JSON
    return json.loads(file.read_text())["step"] if file.exists() else None


def evaluate(
    path: str | Path,
    checkpoint: Literal["last", "best"] = "last",
    *,
    examples: int | None = None,
    num_samples: int = 1,
    prior_samples: int = 2000,
    seed: int = 0,
    recipe: Recipe = RECIPE,
    inception: str | Path | None = None,
) -> dict[str, Any]:
    """Score a run, write ``metrics.json`` and the pictures into its folder, print a table.

    Args:
      path: the run folder.
      checkpoint: the last one or the one of the lowest held-out loss.
      examples: how many of the test examples to score, from the first on; all if None.
      num_samples: per test example and observed subset.
      prior_samples: for unconditional coherence and distances.
      seed: of all samples.
      recipe: of the classifiers.
      inception: the file of Inception-v3's weights that `load_inception` takes; FID is measured if
        it is given.

    Returns:
      What ``metrics.json`` holds.

    Raises:
      FileNotFoundError: if the path is no run folder, or there are no weights of Inception.
      ValueError: if the data has no labels, or no image modality, or the weights are damaged.
    """
    run = load_run(path, checkpoint)
    weights = None if inception is None else load_inception(inception)
    dataset = run.dataset()
    split = first_examples(dataset.test, examples)
    classifiers = load_classifiers(dataset, recipe)
    key = jax.random.key(seed)
    judged = {
        name: Partial(type(classifiers[name]).features, classifiers[name])
        for name in image_modalities(split.arrays)
    }
    measures = {"classifier_fd": measure(judged, split.arrays)}
    if weights is not None:
        measures["fid"] = fid_measure(weights, dataset, split)
    metrics = {
        **describe(run, checkpoint, split, seed),
        "classifier": {
            "accuracy": classifier_accuracy(classifiers, as_means(run.model, dataset.test))
        },
        **score(run.model, run.params, split, classifiers, key, num_samples, prior_samples),
        # A key beyond the three of `score`.
        **frechet_scores(run, measures, split, jax.random.fold_in(key, 3), prior_samples),
        "representation": linear_accuracy(run.model, run.params, dataset.train, split),
    }
    if weights is not None:
        metrics["fid"]["weights"] = weights.digest
    if run.model.system.prior == "mixture":
        probabilities = cluster_probabilities(
            run.model, run.params, split.arrays, jax.random.fold_in(key, 4)
        )
        metrics["clustering"] = clustering_scores(probabilities.argmax(axis=1), split.labels)
    write_json(run.path / METRICS_JSON, metrics)
    files = [run.path / METRICS_JSON, *write_pictures(run, split, dataset.num_classes, metrics)]
    console = Console()
    console.print(score_table(metrics))
    console.print("Look at:")
    for file in files:
        console.print(f"  {file}", highlight=False, markup=False, soft_wrap=True)
    return metrics


def describe(run: Run, checkpoint: str, split: data.Split, seed: int) -> dict[str, Any]:
    """What was evaluated, on what, and with which versions."""
    return {
        "system": run.config.system,
        "data": run.config.data,
        "checkpoint": checkpoint,
        "step": run.step,
        "examples": len(split),
        "seed": seed,
        "device": device_name(),
        "versions": {name: version(name) for name in ("holderjax", "jax", "flax", "numpy")},
    }


def as_means(model: Model, split: data.Split) -> data.Split:
    """Real examples in the shapes of what the model generates: texts are one-hot."""
    arrays = {
        name: np.asarray(model.modalities[name].likelihood.as_mean(x))
        for name, x in split.arrays.items()
    }
    return data.Split(arrays, split.labels)


def classifier_accuracy(classifiers: Classifiers, split: data.Split) -> dict[str, float]:
    """The classifiers' accuracies on real test examples; warns of those that judge badly."""
    accuracies = {
        name: accuracy(classifier, split.arrays[name], split.labels)
        for name, classifier in classifiers.items()
    }
    for name, value in accuracies.items():
        if value < TRUSTED_ACCURACY:
            logger.warning(
                "the classifier of %s is right on %.1f %% of real test examples: "
                "coherence with it as a target says little",
                name,
                100 * value,
            )
    return accuracies


def score(
    model: Model,
    params: Any,
    split: data.Split,
    classifiers: Classifiers,
    key: PRNGKeyArray,
    num_samples: int,
    prior_samples: int,
) -> dict[str, Any]:
    """Every score of a model, as nested dicts of numbers.

    Args:
      model: of at least two modalities.
      params: its parameters.
      split: real examples with labels.
      classifiers: by modality.
      key: PRNG key.
      num_samples: per example and observed subset.
      prior_samples: for unconditional coherence.

    Returns:
      ``coherence``, ``reconstruction`` and ``diversity``. Modalities without a classifier are
      observed but not judged, and listed under ``coherence.unjudged``; unconditional coherence is
      None if fewer than two have one.
    """
    keys = jax.random.split(key, 3)
    generated = generate_from_subsets(
        model, params, classifiers, split.arrays, keys[0], num_samples=num_samples
    )
    table = coherence_table(generated, split.labels)
    by_target = leave_one_out(table)
    unconditional = None
    if len(classifiers) > 1:
        unconditional = unconditional_coherence(
            model, params, classifiers, keys[1], num_samples=prior_samples
        )
    few = first_examples(split, min(len(split), DIVERSITY_EXAMPLES))
    return {
        "coherence": {
            "leave_one_out": float(np.mean(list(by_target.values()))),
            "leave_one_out_by_target": by_target,
            "by_subset_size": by_subset_size(table),
            "unconditional": unconditional,
            "by_subset": table,
            "unjudged": [name for name in model.modalities if name not in classifiers],
        },
        "reconstruction": self_reconstruction(generated, split.labels),
        "diversity": {
            "conditional": conditional_diversity(model, params, few.arrays, keys[2]),
            "real": class_diversity(as_means(model, split).arrays, split.labels),
        },
    }


def frechet_scores(
    run: Run,
    measures: Mapping[str, Measure],
    split: data.Split,
    key: PRNGKeyArray,
    prior_samples: int,
) -> dict[str, Any]:
    """``classifier_fd``, and ``fid`` if there is a measure of it, from the same samples.

    Args:
      run: whose model to sample.
      measures: by these names.
      split: real examples.
      key: PRNG key.
      prior_samples: for the unconditional distances.

    Returns:
      Distances of modalities that have features, given all the others and unconditional; FID given
      every other subset as well.
    """
    subsets = all_subsets(len(run.model.modalities))[:-1]
    if "fid" not in measures:
        subsets = subsets[subsets.sum(axis=1) == subsets.shape[1] - 1]
    distances = frechet_distances(
        run.model, run.params, measures, split.arrays, subsets, key, prior_samples
    )
    scores: dict[str, Any] = {"classifier_fd": given_others_and_nothing(distances["classifier_fd"])}
    if "fid" in measures:
        counts = {"real_images": len(split), "prior_samples": prior_samples}
        scores["fid"] = {**fid_scores(distances["fid"]), **counts}
    return scores


def given_others_and_nothing(distances: Distances) -> dict[str, dict[str, float]]:
    """Distances by modality, of samples given all the others and of samples from the prior."""
    return {
        "conditional": leave_one_out(distances.by_subset),
        "unconditional": distances.unconditional,
    }


def fid_scores(distances: Distances) -> dict[str, Any]:
    """FID by modality, of every (O, t), and the mean over all of these."""
    table = distances.by_subset
    return {
        **given_others_and_nothing(distances),
        "conditional_mean": float(np.mean([x for row in table.values() for x in row.values()])),
        "by_subset_size": by_subset_size(table),
        "by_subset": table,
    }


def write_pictures(
    run: Run, split: data.Split, num_classes: int, metrics: Mapping[str, Any]
) -> list[Path]:
    """Draw everything that the run has data for into its folder."""
    # Plotting is imported where something is drawn.
    from holderjax.evaluation import pictures

    names = list(run.model.modalities)
    coherence, lines = metrics["coherence"], read_metrics(run.path)
    files = [
        pictures.conditional_grids(
            run, run.path / "conditional.png", split, pictures.nested_subsets(names)
        ),
        pictures.unconditional_grid(run, run.path / "unconditional.png"),
        pictures.coherence_curves(
            run,
            run.path / "coherence.png",
            coherence["by_subset"],
            coherence["unconditional"],
            num_classes,
        ),
    ]
    if lines:
        files.append(pictures.training_curves(run, run.path / "training.png", lines))
        one = {name: data.to_float(x[:1]) for name, x in split.arrays.items()}
        members = np.asarray(jax.jit(run.model.encode)(run.params, one).members)
        files.append(pictures.pi_over_training(run, run.path / "pi.png", lines, members))
    return files


def score_table(metrics: Mapping[str, Any]) -> RichTable:
    """The scores of every modality, and their means."""
    coherence, reconstruction = metrics["coherence"], metrics["reconstruction"]
    sizes = list(coherence["by_subset_size"])
    table = RichTable(
        title=f"{metrics['system']} on {metrics['data']}, step {metrics['step']:,}",
        box=box.SIMPLE_HEAD,
        caption_justify="left",
    )
    table.add_column("target", no_wrap=True)
    for column in ("real", *sizes, "all", "error", "diversity"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = []
    for name, error in reconstruction["absolute_error"].items():
        real = metrics["diversity"]["real"][name]
        rows.append(
            [
                metrics["classifier"]["accuracy"].get(name),
                *(by_subset_size(only(coherence["by_subset"], name)).get(s) for s in sizes),
                reconstruction["classifier_accuracy"].get(name),
                error,
                metrics["diversity"]["conditional"][name] / real if real else None,
            ]
        )
        table.add_row(name, *map(number, rows[-1]))
    table.add_section()
    columns = [[x for x in column if x is not None] for column in zip(*rows, strict=True)]
    means = [float(np.mean(column)) if column else None for column in columns]
    table.add_row("mean", *map(number, means), style="bold")
    table.caption = (
        "accuracy of the target's classifier on real images, on samples given so many other "
        "modalities, and on reconstructions given all; mean absolute error of these; diversity of "
        "samples given all others, relative to real images of one class\n"
        f"coherence: leave-one-out {number(coherence['leave_one_out'])}, "
        f"unconditional {number(coherence['unconditional'])}"
    )
    if "fid" in metrics:
        fid = metrics["fid"]
        table.caption += (
            f"\nFID: mean over observed subsets and targets {fid['conditional_mean']:.1f}, "
            f"unconditional {np.mean(list(fid['unconditional'].values())):.1f}"
        )
    return table


def only(table: Table, target: str) -> Table:
    """The part of a table of coherences that is about one target."""
    return {o: {target: row[target]} for o, row in table.items() if target in row}


def number(value: float | None) -> str:
    """Three decimals, a dash for what there is none of."""
    return "-" if value is None else f"{value:.3f}"
