r"""Scores of several runs: means and standard errors over seeds, and the Pareto frontier.

A point of the frontier is a system at one beta, with two scores: coherence, of which more is
better, and quality, of which less is better. It is Pareto-optimal if no other point is at least as
good in both and better in one. The standard error of n seeds is :math:`s / \sqrt{n}`, with s the
standard deviation around the mean, n - 1 in its denominator; one seed has none.

Everything here works on dicts as ``metrics.json`` holds them, and reads no files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

Metrics = Mapping[str, Any]
Keys = tuple[str, ...]
Kind = Literal["conditional", "unconditional"]
KINDS: tuple[Kind, ...] = ("conditional", "unconditional")


@dataclass(frozen=True)
class Score:
    """A number in ``metrics.json``.

    Attributes:
      label: for people.
      path: its keys; where they lead to a dict of numbers by modality, the mean of these is meant.
      better: which side of it is.
    """

    label: str
    path: Keys
    better: Literal["higher", "lower"]


COHERENCE: dict[Kind, Score] = {
    "conditional": Score("leave-one-out coherence", ("coherence", "leave_one_out"), "higher"),
    "unconditional": Score("unconditional coherence", ("coherence", "unconditional"), "higher"),
}
# Of data without labels, coherence is the F1 of what is yes or no in it.
F1 = Score("leave-one-out F1", ("f1", "leave_one_out"), "higher")
RECONSTRUCTION = Score("reconstruction error", ("reconstruction", "absolute_error"), "lower")
# By preference. A Fréchet distance in a classifier's features is not FID and is not called so.
DISTANCES = {"fid": "FID", "classifier_fd": "classifier-fd"}


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
      mean: of the seeds that have the score.
      standard_error: None for a single seed.
      count: how many seeds have the score.
    """

    mean: float
    standard_error: float | None
    count: int

    def text(self, decimals: int) -> str:
        """The mean, and its standard error if there is one."""
        text = f"{self.mean:.{decimals}f}"
        if self.standard_error is not None:
            text += f" ± {self.standard_error:.{decimals}f}"
        return text


@dataclass(frozen=True)
class Point:
    """A system at one beta, on the plane of quality and coherence.

    Attributes:
      curve: the system, and what else tells it from the others.
      beta: weight of the KL terms.
      quality: less is better.
      coherence: more is better.
      optimal: whether no other point dominates it.
    """

    curve: str
    beta: float
    quality: Estimate
    coherence: Estimate
    optimal: bool


# The metrics of the seeds by curve and beta.
Seeds = Mapping[tuple[str, float], Sequence[Metrics]]


def score_of(metrics: Metrics, path: Keys) -> float | None:
    """The number at the path, or the mean of the numbers there.

    Args:
      metrics: of one run.
      path: keys.

    Returns:
      None if the run has no such score.

    Raises:
      ValueError: if there is something else than finite numbers.
    """
    found: Any = metrics
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    if found is None or found == {}:
        return None
    values = list(found.values()) if isinstance(found, Mapping) else [found]
    for value in values:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ValueError(f"{'.'.join(path)}: expected finite numbers, got {value!r}")
    return float(np.mean(values))


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error of at least one value."""
    if not values:
        raise ValueError("estimate: expected at least one value, got none")
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), None if error is None else float(error), len(values))


def estimate_score(seeds: Sequence[Metrics], path: Keys) -> Estimate | None:
    """The estimate from those of the seeds that have the score; None if none has."""
    values = [value for metrics in seeds if (value := score_of(metrics, path)) is not None]
    return estimate(values) if values else None


def quality_scores(runs: Sequence[Metrics]) -> dict[Kind, Score]:
    """The best measure of quality that every run has: FID, classifier-fd, reconstruction error.

    Args:
      runs: the metrics of each.

    Returns:
      The score for either kind of coherence. The reconstruction error is the same for both.
    """
    for key, label in DISTANCES.items():
        scores: dict[Kind, Score] = {
            kind: Score(f"{kind} {label}", (key, kind), "lower") for kind in KINDS
        }
        if all(score_of(m, score.path) is not None for m in runs for score in scores.values()):
            return scores
    return dict.fromkeys(KINDS, RECONSTRUCTION)


def coherence_scores(runs: Sequence[Metrics]) -> dict[Kind, Score]:
    """What is called coherence: of classes, or, if no run has that, of what is yes or no.

    Args:
      runs: the metrics of each.

    Returns:
      The score for either kind. The F1 is of conditional samples alone.
    """
    if any(score_of(m, score.path) is not None for m in runs for score in COHERENCE.values()):
        return COHERENCE
    return {**COHERENCE, "conditional": F1}


def pareto_optimal(
    quality: Float[np.ndarray, " N"], coherence: Float[np.ndarray, " N"]
) -> Bool[np.ndarray, " N"]:
    """Which points no other dominates; equal points do not dominate one another.

    Args:
      quality: less is better.
      coherence: more is better.
    """
    quality, coherence = np.asarray(quality), np.asarray(coherence)
    no_worse = (quality[:, None] <= quality) & (coherence[:, None] >= coherence)
    better = (quality[:, None] < quality) | (coherence[:, None] > coherence)
    return ~(no_worse & better).any(axis=0)


def frontier(seeds: Seeds, quality: Score, coherence: Score) -> list[Point]:
    """A point for each curve and beta that has both scores.

    Args:
      seeds: metrics by curve and beta.
      quality: less is better.
      coherence: more is better.

    Returns:
      Points in the order of ``seeds``, flagged by their means.
    """
    pairs = {
        key: (estimate_score(runs, quality.path), estimate_score(runs, coherence.path))
        for key, runs in seeds.items()
    }
    found = {key: (q, c) for key, (q, c) in pairs.items() if q is not None and c is not None}
    optimal = pareto_optimal(
        np.array([q.mean for q, _ in found.values()]),
        np.array([c.mean for _, c in found.values()]),
    )
    return [
        Point(*key, q, c, bool(flag))
        for (key, (q, c)), flag in zip(found.items(), optimal, strict=True)
    ]


def table_scores(runs: Sequence[Metrics]) -> dict[str, list[Score]]:
    """The columns of the tables, by title: every score that at least one of the runs has."""

    def by_size(key: str) -> list[Score]:
        sizes = {int(size) for m in runs for size in m.get(key, {}).get("by_subset_size", {})}
        return [
            Score(f"{n} observed", (key, "by_subset_size", str(n)), "higher") for n in sorted(sizes)
        ]

    tables = {
        "Coherence": [
            COHERENCE["conditional"],
            *by_size("coherence"),
            COHERENCE["unconditional"],
        ],
        "F1": [F1, *by_size("f1")],
        "Quality": [
            *(
                Score(f"{kind} {label}", (key, kind), "lower")
                for key, label in DISTANCES.items()
                for kind in KINDS
            ),
            RECONSTRUCTION,
            Score("log-likelihood (nats)", ("log_likelihood", "nats"), "higher"),
        ],
        "Representation and clustering": [
            Score("class from joint z", ("representation", "joint"), "higher"),
            Score("class from z of one modality", ("representation", "z"), "higher"),
            Score("class from w", ("representation", "w"), "lower"),
            Score("clustering accuracy", ("clustering", "accuracy"), "higher"),
            Score("clustering NMI", ("clustering", "nmi"), "higher"),
            Score("clustering ARI", ("clustering", "ari"), "higher"),
        ],
    }
    present = {
        title: [s for s in scores if any(score_of(m, s.path) is not None for m in runs)]
        for title, scores in tables.items()
    }
    return {title: scores for title, scores in present.items() if scores}


def best(estimates: Sequence[Estimate | None], better: str) -> list[bool]:
    """Which of a column's means are the best; none is where there is nothing to compare."""
    means = [e.mean for e in estimates if e is not None]
    if len(means) < 2:
        return [False] * len(estimates)
    extreme = max(means) if better == "higher" else min(means)
    return [e is not None and e.mean == extreme for e in estimates]
