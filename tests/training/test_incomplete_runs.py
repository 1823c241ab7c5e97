"""Training on data that lacks modalities at random."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny_run

from holderjax import data
from holderjax.training import load_run, train
from holderjax.training.checkpoints import state_digest

SETTINGS = {"steps": 4, "missing": (0.5, 0.2), "missing_seed": 3}


def spoilt(dataset: data.Dataset) -> data.Dataset:
    """With other values wherever the runs of these tests may not look."""
    observed = data.hide(dataset, SETTINGS["missing"], SETTINGS["missing_seed"]).train.observed
    arrays = {}
    for m, (name, x) in enumerate(dataset.train.arrays.items()):
        arrays[name] = np.where(observed[:, m, None, None, None], x, 255 - x).astype(np.uint8)
    return dataclasses.replace(dataset, train=data.Split(arrays, dataset.train.labels))


def test_what_is_missing_is_never_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by a step nor where clusters are fitted."""
    options = SETTINGS | {"system": "cmvae", "clusters": 3, "fit_clusters": 2}
    one, other = (tiny_run.config(tmp_path / name, **options) for name in ("a", "b"))
    train(one)
    row = data.DATASETS["tiny"]
    monkeypatch.setitem(
        data.DATASETS, "tiny", dataclasses.replace(row, loader=lambda: spoilt(row.loader()))
    )
    train(other)
    params = [load_run(config.out).params for config in (one, other)]
    assert state_digest(params[0]) == state_digest(params[1])
    assert load_run(one.out).config == one


def test_other_shares_are_another_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    tiny_run.config(out, missing=(0.5,)).save(out)
    with pytest.raises(ValueError, match=r"missing was \(0\.5,\) and is \(0\.4,\)"):
        train(tiny_run.config(out, steps=4, missing=(0.4,), resume=True))


def test_a_wrong_number_of_shares_starts_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one for each of rows, columns, got 3"):
        train(tiny_run.config(tmp_path / "run", missing=(0.5, 0.1, 0.1)))
    assert not (tmp_path / "run").exists()
