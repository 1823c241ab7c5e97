"""Evaluated runs: found on disk, read, checked, and sorted into what may be compared.

Runs of one data set are compared with each other. Runs that differ in nothing but their seed are
averaged; a system has one curve over beta for each of its other settings.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holderjax.evaluation.frontier import (
    COHERENCE,
    F1,
    RECONSTRUCTION,
    Seeds,
    score_of,
    table_scores,
)
from holderjax.evaluation.report import METRICS_JSON
from holderjax.models import SYSTEMS
from holderjax.training.config import CONFIG_FILE, DATA_PATHS, TrainConfig, load_config
from holderjax.training.folder import VERSIONS_FILE, read_versions
from holderjax.training.logging import METRICS_FILE, read_metrics

# Settings that say where a run lies and how it is logged or computed, not what it is. The data is
# known by its fingerprint.
INCIDENTAL = (
    *("out", "resume", "devices", "checkpoint_every", "keep", "log_every"),
    *DATA_PATHS,
)
# Settings are part of a curve's name up to this many characters; beyond, it has a number instead.
LONGEST_TRAITS = 24


@dataclass(frozen=True)
class EvaluatedRun:
    """What a run folder says of a run.

    Attributes:
      path: the folder.
      config: as it was trained.
      versions: what it depended on beside its config.
      metrics: what ``holderjax evaluate`` found.
    """

    path: Path
    config: TrainConfig
    versions: Mapping[str, Any]
    metrics: Mapping[str, Any]

    def settings(self) -> dict[str, Any]:
        """All that decides its scores but the seed: what averaged runs have in common."""
        values = self.config.to_json()
        kept = {k: v for k, v in values.items() if k not in (*INCIDENTAL, "seed", "data")}
        return {**kept, "evaluated": self.evaluated(), "examples": self.metrics["examples"]}

    def evaluated(self) -> str:
        """At which point of training it was evaluated."""
        if self.metrics["checkpoint"] != "last":
            # Of another step in each seed.
            return f"{self.metrics['checkpoint']} checkpoint"
        step = self.metrics["step"]
        return "at the end" if step == self.config.steps else f"at step {step:,}"

    def training(self) -> list[dict[str, Any]]:
        """The lines of metrics that training wrote; ValueError if they are damaged."""
        try:
            return read_metrics(self.path)
        except ValueError as error:
            raise ValueError(f"{self.path / METRICS_FILE} is not readable: {error}") from error


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
      curve: the system, with what tells it from its other curves or a number.
      traits: the settings that tell it from its other curves; empty if it has no others.
      system: its name.
      beta: weight of the KL terms.
      runs: by seed.
    """

    curve: str
    traits: str
    system: str
    beta: float
    runs: tuple[EvaluatedRun, ...]


@dataclass(frozen=True)
class Section:
    """Runs of one data set.

    Attributes:
      name: of the data set, with the begin of its fingerprint where two share the name.
      data: its name in the registry.
      groups: by curve in the order of the table of systems, then by beta.
    """

    name: str
    data: str
    groups: tuple[Group, ...]

    @property
    def runs(self) -> list[EvaluatedRun]:
        """All runs, in the order of the groups."""
        return [run for group in self.groups for run in group.runs]

    @property
    def curves(self) -> list[str]:
        """The names of the curves, in order."""
        return list(dict.fromkeys(group.curve for group in self.groups))

    @property
    def traits(self) -> dict[str, str]:
        """By curve, the settings that tell it from the other curves of its system."""
        return {group.curve: group.traits for group in self.groups}

    @property
    def seeds(self) -> Seeds:
        """The metrics of the seeds by curve and beta."""
        return {(g.curve, g.beta): [run.metrics for run in g.runs] for g in self.groups}


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run folders among the paths and below them, each once.

    Args:
      paths: run folders, and folders that contain some at any depth.

    Returns:
      Folders in the order given.

    Raises:
      ValueError: for no path.
      FileNotFoundError: for a path that is no run folder and contains none.
    """
    if not paths:
        raise ValueError("report: expected at least one run folder, got none")
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; expected a run folder")
        folders = list(_run_folders(path))
        if not folders:
            raise FileNotFoundError(
                f"{path} is no run folder and contains none: a run folder has a {CONFIG_FILE}, "
                "which `holderjax train` writes"
            )
        for folder in folders:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _run_folders(path: Path) -> Iterator[Path]:
    if (path / CONFIG_FILE).is_file():
        yield path
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            # A link may lead to a run, but a search through links might not end.
            if not child.is_symlink() or (child / CONFIG_FILE).is_file():
                yield from _run_folders(child)


def read_runs(paths: Sequence[Path]) -> list[EvaluatedRun]:
    """Read the run folders among the paths and below them.

    Args:
      paths: run folders, and folders that contain some.

    Returns:
      The runs, in the order given.

    Raises:
      ValueError: for no path, a damaged file, or scores of another run than the config's.
      FileNotFoundError: for a path without runs, and for runs that were not evaluated: it names the
        commands to do so.
    """
    folders = find_runs(paths)
    missing = [folder for folder in folders if not (folder / METRICS_JSON).is_file()]
    if missing:
        commands = "; ".join(f"holderjax evaluate {shlex.quote(str(f))}" for f in missing)
        raise FileNotFoundError(f"no {METRICS_JSON} yet, evaluate first: {commands}")
    return [read_run(folder) for folder in folders]


def read_run(folder: Path) -> EvaluatedRun:
    """Read one run folder; raises as `read_runs` does."""
    config = load_config(folder)
    if not (folder / VERSIONS_FILE).is_file():
        raise FileNotFoundError(f"{folder} has no {VERSIONS_FILE}, which `holderjax train` writes")
    try:
        versions = read_versions(folder)
    except ValueError as error:
        raise ValueError(f"{folder / VERSIONS_FILE} is not readable as JSON: {error}") from error
    path = folder / METRICS_JSON
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from error
    _check(path, metrics, config)
    if not isinstance(versions, dict) or "fingerprint" not in versions.get("data", {}):
        raise ValueError(f"{folder / VERSIONS_FILE}: expected the data's fingerprint in it")
    return EvaluatedRun(folder, config, versions, metrics)


def _check(path: Path, metrics: Any, config: TrainConfig) -> None:
    again = f"run `holderjax evaluate {shlex.quote(str(path.parent))}` again"
    for key in ("system", "data", "checkpoint", "step", "examples", "reconstruction"):
        if not isinstance(metrics, dict) or key not in metrics:
            raise ValueError(f"{path}: expected {key!r} in it; {again}")
    for key, expected in (("system", config.system), ("data", config.data)):
        if metrics[key] != expected:
            raise ValueError(
                f"{path} is of {key} {metrics[key]!r}, but {CONFIG_FILE} of {expected!r}; {again}"
            )
    try:
        table_scores([metrics])  # that all of them are numbers
        needed = [
            RECONSTRUCTION.path,
            *(x.path for x in (COHERENCE["conditional"], F1) if x.path[0] in metrics),
        ]
        missing = [path for path in needed if score_of(metrics, path) is None]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: {error}; {again}") from error
    if missing:
        raise ValueError(f"{path}: expected {'.'.join(missing[0])} in it; {again}")


def sort_runs(runs: Sequence[EvaluatedRun]) -> list[Section]:
    """Sort runs into sections by data set, and there into groups by settings.

    Args:
      runs: of any data sets.

    Returns:
      A section for each data set, in the order of the runs.

    Raises:
      ValueError: for two runs with the same settings and seed, naming their folders.
    """
    by_data: dict[tuple[str, str], list[EvaluatedRun]] = {}
    for run in runs:
        key = (run.config.data, run.versions["data"]["fingerprint"])
        by_data.setdefault(key, []).append(run)
    names = [name for name, _ in by_data]
    return [
        Section(
            name if names.count(name) == 1 else f"{name} {fingerprint[:8]}",
            name,
            tuple(_groups(members)),
        )
        for (name, fingerprint), members in by_data.items()
    ]


def _groups(runs: Sequence[EvaluatedRun]) -> list[Group]:
    grouped: dict[tuple[str, float], dict[int, EvaluatedRun]] = {}
    traits: dict[str, str] = {}
    for run, (curve, text) in zip(runs, _curves(runs), strict=True):
        traits[curve] = text
        seeds = grouped.setdefault((curve, run.config.beta), {})
        twin = seeds.setdefault(run.config.seed, run)
        if twin is not run:
            raise ValueError(
                f"{twin.path} and {run.path} are the same run: {curve}, "
                f"beta {shown(run.config.beta)}, seed {run.config.seed}; name one of them only"
            )
    order = {name: i for i, name in enumerate(SYSTEMS)}
    groups = []
    for (curve, beta), seeds in grouped.items():
        members = tuple(seeds[seed] for seed in sorted(seeds))
        groups.append(Group(curve, traits[curve], members[0].config.system, beta, members))
    return sorted(groups, key=lambda g: (order[g.system], g.curve, g.beta))


def _curves(runs: Sequence[EvaluatedRun]) -> list[tuple[str, str]]:
    """The name of each run's curve, and what tells it from others of its system."""
    by_system: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_system.setdefault(run.config.system, []).append(run.settings())
    traits = []
    for run in runs:
        found = run.settings()
        differing = differences(by_system[run.config.system])
        traits.append(", ".join(f"{k} {shown(found[k])}" for k in differing if k != "beta"))
    names = []
    for run, text in zip(runs, traits, strict=True):
        system = run.config.system
        own = dict.fromkeys(
            t for r, t in zip(runs, traits, strict=True) if r.config.system == system
        )
        if max(map(len, own)) > LONGEST_TRAITS:
            names.append(f"{system} #{list(own).index(text) + 1}")
        else:
            names.append(f"{system} ({text})" if text else system)
    return list(zip(names, traits, strict=True))


def differences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all rows, in the order of the rows' keys."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if any(row.get(key) != rows[0].get(key) for row in rows)]


def shown(value: Any) -> str:
    """A setting, for people."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
