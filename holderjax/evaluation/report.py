"""The evaluation of a run: all scores into ``metrics.json``, all pictures, a table."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
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
    judged_modalities,
    load_classifiers,
)
from holderjax.evaluation.clustering import cluster_probabilities, clustering_scores
from holderjax.evaluation.coherence import (
    YES,
    Classifiers,
    Table,
    all_subsets,
    by_subset_size,
    class_diversity,
    coherence_table,
    conditional_diversity,
    f1_table,
    generate_from_subsets,
    leave_one_out,
    self_reconstruction,
    unconditional_coherence,
)
from holderjax.evaluation.examples import first_examples
from holderjax.evaluation.fid import fid_measure
from holderjax.evaluation.frechet import Distances, Measure, frechet_distances, measure
from holderjax.evaluation.inception import load_inception
from holderjax.evaluation.likelihood import mean_log_likelihood
from holderjax.evaluation.representation import linear_accuracy
from holderjax.files import write_json
from holderjax.training import NonFiniteLoss, load_run
from holderjax.training.logging import read_metrics

if TYPE_CHECKING:
    from jaxtyping import PRNGKeyArray

    from holderjax.models import Model
    from holderjax.training import Run, RunResult

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
    likelihood_samples: int | None = None,
    recipe: Recipe = RECIPE,
    inception: str | Path | None = None,
) -> dict[str, Any]:
    """Score a run, write ``metrics.json`` and the pictures into its folder, print a table.

    What latents know of the class needs labels, coherence and classifier-fd images or texts as
    well; data without them is scored by the rest.

    Args:
      path: the run folder.
      checkpoint: the last one or the one of the lowest held-out loss.
      examples: how many of the test examples to score, from the first on; all if None.
      num_samples: per test example and observed subset.
      prior_samples: for unconditional coherence and distances.
      seed: of all samples.
      likelihood_samples: importance samples of the log-likelihood, which is not estimated if None.
      recipe: of the classifiers.
      inception: the file of Inception-v3's weights that `load_inception` takes; FID is measured if
        it is given.

    Returns:
      What ``metrics.json`` holds.

    Raises:
      FileNotFoundError: if the path is no run folder, or there are no weights of Inception.
      ValueError: for a model with less than two modalities, no importance sample, or damaged
        weights.
    """
    run = load_run(path, checkpoint)
    weights = None if inception is None else load_inception(inception)
    dataset = run.dataset()
    split = first_examples(dataset.test, examples)
    labelled = dataset.num_classes > 0
    classifiers = {}
    if labelled and judged_modalities(dataset):
        classifiers = load_classifiers(dataset, recipe)
    key = jax.random.key(seed)
    measures = {}
    judged = {
        name: Partial(type(classifiers[name]).features, classifiers[name])
        for name in image_modalities(split.arrays)
        if name in classifiers
    }
    if judged:
        measures["classifier_fd"] = measure(judged, split.arrays)
    if weights is not None:
        measures["fid"] = fid_measure(weights, dataset, split)
    metrics = {
        **describe(run, checkpoint, split, seed),
        **score(
            run.model,
            run.params,
            split,
            classifiers,
            key,
            num_samples,
            prior_samples,
            binary=dataset.binary,
        ),
    }
    if measures:
        # A key beyond the three of `score`.
        fold = jax.random.fold_in(key, 3)
        metrics |= frechet_scores(run, measures, split, fold, prior_samples)
    if weights is not None:
        metrics["fid"]["weights"] = weights.digest
    if likelihood_samples is not None:
        fold = jax.random.fold_in(key, 5)
        nats = mean_log_likelihood(run.model, run.params, split.arrays, fold, likelihood_samples)
        metrics["log_likelihood"] = {"nats": nats, "samples": likelihood_samples}
    if classifiers:
        accuracies = classifier_accuracy(classifiers, as_means(run.model, dataset.test))
        metrics["classifier"] = {"accuracy": accuracies}
    if labelled:
        metrics["representation"] = linear_accuracy(run.model, run.params, dataset.train, split)
    if labelled and run.model.system.prior == "mixture":
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


def evaluate_each(
    groups: Iterable[Sequence[RunResult | NonFiniteLoss]], **options: Any
) -> list[NonFiniteLoss]:
    """Evaluate the runs of a sweep, each group as soon as it is trained.

    Args:
      groups: from `holderjax.training.sweep`. Runs whose last checkpoint was evaluated are left.
      **options: as `evaluate` takes them.

    Returns:
      The failures among the runs.
    """
    failures = []
    for results in groups:
        for result in results:
            if isinstance(result, NonFiniteLoss):
                failures.append(result)
            elif evaluated_step(result.path) != result.step:
                evaluate(result.path, **options)
    return failures


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
    *,
    binary: Sequence[str] = (),
) -> dict[str, Any]:
    """Every score of a model's samples, as nested dicts of numbers.

    Args:
      model: of at least two modalities.
      params: its parameters.
      split: real examples.
      classifiers: by modality; none for examples without labels.
      key: PRNG key.
      num_samples: per example and observed subset.
      prior_samples: for unconditional coherence.
      binary: the modalities whose values are yes or no.

    Returns:
      ``reconstruction`` and ``diversity``; ``coherence`` where there are classifiers, ``f1`` where
      there are binary modalities. Modalities without a classifier are observed but not judged by
      coherence, and listed under ``coherence.unjudged``; unconditional coherence is None if fewer
      than two have one.
    """
    keys = jax.random.split(key, 3)
    generated = generate_from_subsets(
        model, params, classifiers, split.arrays, keys[0], binary=binary, num_samples=num_samples
    )
    few = first_examples(split, min(len(split), DIVERSITY_EXAMPLES))
    diversity = {"conditional": conditional_diversity(model, params, few.arrays, keys[2])}
    if split.labels is not None:
        diversity["real"] = class_diversity(as_means(model, split).arrays, split.labels)
    scores = {
        "reconstruction": self_reconstruction(generated, split.labels),
        "diversity": diversity,
    }
    if classifiers:
        unconditional = None
        if len(classifiers) > 1:
            unconditional = unconditional_coherence(
                model, params, classifiers, keys[1], num_samples=prior_samples
            )
        scores["coherence"] = {
            **subset_scores(coherence_table(generated, split.labels)),
            "unconditional": unconditional,
            "unjudged": [name for name in model.modalities if name not in classifiers],
        }
    if generated.f1:
        scores["f1"] = {**subset_scores(f1_table(generated)), "threshold": YES}
    return scores


def subset_scores(table: Table) -> dict[str, Any]:
    """A table of scores by subset, and its means."""
    by_target = leave_one_out(table)
    return {
        "leave_one_out": float(np.mean(list(by_target.values()))),
        "leave_one_out_by_target": by_target,
        "by_subset_size": by_subset_size(table),
        "by_subset": table,
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
    scores: dict[str, Any] = {}
    if "classifier_fd" in measures:
        scores["classifier_fd"] = given_others_and_nothing(distances["classifier_fd"])
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
    lines = read_metrics(run.path)
    files = []
    if pictures.drawable(run):
        subsets = pictures.nested_subsets(names)
        files += [
            pictures.conditional_grids(run, run.path / "conditional.png", split, subsets),
            pictures.unconditional_grid(run, run.path / "unconditional.png"),
        ]
    if "coherence" in metrics:
        coherence = metrics["coherence"]
        levels = {"unconditional": coherence["unconditional"]}
        levels["conditional at chance"] = 1 / num_classes
        title, label = "Conditional coherence", "accuracy of the target's classifier"
        path = run.path / "coherence.png"
        files.append(
            pictures.subset_curves(run, path, title, label, coherence["by_subset"], levels)
        )
    if "f1" in metrics:
        title, path = "F1 of yes and no", run.path / "f1.png"
        files.append(pictures.subset_curves(run, path, title, "F1", metrics["f1"]["by_subset"], {}))
    if lines:
        files.append(pictures.training_curves(run, run.path / "training.png", lines))
        one = {name: data.to_float(x[:1]) for name, x in split.arrays.items()}
        members = np.asarray(jax.jit(run.model.encode)(run.params, one).members)
        files.append(pictures.pi_over_training(run, run.path / "pi.png", lines, members))
    return files


def score_table(metrics: Mapping[str, Any]) -> RichTable:
    """The scores of every modality, and their means."""
    reconstruction = metrics["reconstruction"]
    # By preference; a modality that both can judge has the accuracy here.
    judges = [
        (metrics[key]["by_subset"], reconstruction[all_given], label)
        for key, all_given, label in (
            ("coherence", "classifier_accuracy", "accuracy"),
            ("f1", "f1", "F1"),
        )
        if key in metrics
    ]
    sizes = sorted({size for table, _, _ in judges for size in by_subset_size(table)}, key=int)
    table = RichTable(
        title=f"{metrics['system']} on {metrics['data']}, step {metrics['step']:,}",
        box=box.SIMPLE_HEAD,
        caption_justify="left",
    )
    for column in ("target", "judged by"):
        table.add_column(column, no_wrap=True)
    for column in ("real", *sizes, "all", "error", "diversity"):
        table.add_column(column, justify="right", no_wrap=True)
    rows: dict[str, list[list[float | None]]] = {}
    for name, error in reconstruction["absolute_error"].items():
        by_subset, given_all, label = next(
            (judge for judge in judges if name in judge[1]), ({}, {}, "-")
        )
        real = metrics["diversity"].get("real", {}).get(name)
        distance = metrics["diversity"]["conditional"][name]
        row = [
            metrics.get("classifier", {}).get("accuracy", {}).get(name),
            *(by_subset_size(only(by_subset, name)).get(size) for size in sizes),
            given_all.get(name),
            error,
            distance / real if real else None,
        ]
        rows.setdefault(label, []).append(row)
        table.add_row(name, label, *map(number, row))
    table.add_section()
    for label, each in rows.items():
        columns = [[x for x in column if x is not None] for column in zip(*each, strict=True)]
        means = [float(np.mean(column)) if column else None for column in columns]
        table.add_row("mean", label, *map(number, means), style="bold")
    table.caption = (
        "accuracy of the target's classifier (or F1 of its yes and no) on real examples, on "
        "samples given so many other modalities, and on reconstructions given all; mean absolute "
        "error of these; diversity of samples given all others, relative to real examples of one "
        "class"
    )
    for key, label in (("coherence", "coherence"), ("f1", "F1")):
        if key in metrics:
            table.caption += f"\n{label}: leave-one-out {number(metrics[key]['leave_one_out'])}"
    if "coherence" in metrics:
        table.caption += f", unconditional {number(metrics['coherence']['unconditional'])}"
    if "log_likelihood" in metrics:
        nats, samples = (metrics["log_likelihood"][key] for key in ("nats", "samples"))
        table.caption += f"\nlog-likelihood: {nats:,.2f} nats an example ({samples} samples)"
    if "fid" in metrics:
        fid = metrics["fid"]
        table.caption += (
            f"\nFID: mean over observed subsets and targets {fid['conditional_mean']:.1f}, "
            f"unconditional {np.mean(list(fid['unconditional'].values())):.1f}"
        )
    return table


def only(table: Table, target: str) -> Table:
    """The part of a table of scores that is about one target."""
    return {o: {target: row[target]} for o, row in table.items() if target in row}


def number(value: float | None) -> str:
    """Three decimals, a dash for what there is none of."""
    return "-" if value is None else f"{value:.3f}"
