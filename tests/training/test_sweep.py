from __future__ import annotations

from pathlib import Path

import pytest
import tiny_run

from holderjax.training import SweepConfig, load_run, sweep


def config(out: Path, **changes) -> SweepConfig:
    settings = {"systems": ("mmvae", "holder"), "betas": (1.0, 2.5), "seeds": (0, 3)}
    return SweepConfig(out=out, **tiny_run.SETTINGS | {"steps": 4} | settings | changes)


def test_a_sweep_is_every_combination(tmp_path: Path) -> None:
    groups = config(tmp_path).groups()
    names = [
        [f"{system}_beta{beta}_seed{seed}" for beta in ("1", "2.5") for seed in (0, 3)]
        for system in ("mmvae", "holder")
    ]
    assert [[run.out.name for run in group] for group in groups] == names
    assert [group[0].system for group in groups] == ["mmvae", "holder"]


@pytest.mark.slow
def test_a_sweep_is_ordinary_runs_of_every_combination(tmp_path: Path) -> None:
    results = [result for group in sweep(config(tmp_path)) for result in group]
    names = [
        f"{system}_beta{beta}_seed{seed}"
        for system in ("mmvae", "holder")
        for beta in ("1", "2.5")
        for seed in (0, 3)
    ]
    assert [result.path.name for result in results] == names
    for name in names:
        run = load_run(tmp_path / name)
        settings = run.config.system, f"{run.config.beta:g}", run.config.seed
        assert name == "{}_beta{}_seed{}".format(*settings)
        assert run.step == 4


def test_a_stopped_sweep_goes_on_and_takes_more_ordinary_runs(tmp_path: Path) -> None:
    part = {"systems": ("mmvae",), "seeds": (0,)}
    next(sweep(config(tmp_path, **part)))
    before = (tmp_path / "mmvae_beta1_seed0" / "metrics.jsonl").read_text()
    with pytest.raises(FileExistsError, match="--resume"):
        next(sweep(config(tmp_path, **part)))
    more = config(tmp_path, systems=("mmvae",), resume=True)
    results = [result for group in sweep(more) for result in group]
    assert len(results) == 4
    for result in results:
        run = load_run(result.path)
        settings = run.config.system, f"{run.config.beta:g}", run.config.seed
        assert result.path == tmp_path / "{}_beta{}_seed{}".format(*settings)
        assert run.step == 4
    assert (tmp_path / "mmvae_beta1_seed0" / "metrics.jsonl").read_text() == before


def test_fewer_may_train_together(tmp_path: Path) -> None:
    groups = config(tmp_path, seeds=(0, 1, 2), together=2).groups()
    assert [len(group) for group in groups] == [2, 2, 2] * 2


def test_clusters_are_fitted_where_there_are_any(tmp_path: Path) -> None:
    groups = config(tmp_path, systems=("mmvae+", "cmvae"), fit_clusters=2).groups()
    assert {c.system: c.fit_clusters for group in groups for c in group} == {
        "mmvae+": None,
        "cmvae": 2,
    }
    (group,) = config(tmp_path, systems=("mmvae+",), fit_clusters=2, prior="mixture").groups()
    assert group[0].fit_clusters == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": ("mmvae", "holdr")}, r"'holdr'.*holder"),
        ({"systems": ()}, r"systems: expected one or more different values, got \(\)"),
        ({"seeds": (1, 1)}, r"seeds: expected one or more different values, got \(1, 1\)"),
        ({"betas": (1.0, -1.0)}, r"beta: expected a finite number, zero or more, got -1\.0"),
        ({"together": 0}, "together: expected at least 1, got 0"),
    ],
)
def test_a_mistake_is_said_before_anything_is_trained(
    tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        next(sweep(config(tmp_path, **changes)))
    assert not list(tmp_path.iterdir())
