from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from holderjax.training import TrainConfig
from holderjax.training.config import load_config


def test_a_config_survives_its_file(tmp_path: Path) -> None:
    config = TrainConfig(
        out=tmp_path,
        system="holder+",
        data="polymnist",
        beta=0.3,
        seed=7,
        components=4,
        kl="components",
        clip=5.0,
        decay="cosine",
        warmup=10,
        mnist=tmp_path / "mnist",
    )
    config.save(tmp_path)
    assert load_config(tmp_path) == config
    assert json.loads((tmp_path / "config.json").read_text())["mnist"] == str(tmp_path / "mnist")


def test_a_config_tells_where_its_folder_is_now(tmp_path: Path) -> None:
    TrainConfig(out=tmp_path / "before").save(tmp_path)
    assert load_config(tmp_path).out == tmp_path


def test_relative_paths_hold_from_any_working_directory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    TrainConfig(out=Path("run"), data="polymnist", mnist=Path("mnist")).save(tmp_path)
    assert load_config(tmp_path).mnist == tmp_path / "mnist"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": "holdr++"}, r"unknown system 'holdr\+\+': did you mean 'holder\+\+'"),
        ({"data": "digit"}, "unknown data 'digit': did you mean 'digits'"),
        ({"network": "mpl"}, "unknown network 'mpl': did you mean 'mlp'"),
        ({"kl": "mixtur"}, "unknown kl 'mixtur'"),
        ({"decay": "cos"}, "unknown decay 'cos'"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"batch_size": -3}, "batch_size: expected at least 1, got -3"),
        ({"components": 1}, "components: expected at least 2 draws, got 1"),
        ({"seed": 2**32}, "seed: expected 0 <= seed"),
        ({"beta": float("nan")}, "beta: expected a finite number, zero or more, got nan"),
        ({"learning_rate": 0.0}, "learning_rate: expected above zero, got 0.0"),
        ({"clip": -1.0}, "clip: expected a norm above zero, got -1.0"),
        ({"warmup": -1}, "warmup: expected zero or more, got -1"),
        ({"warmup": 9, "steps": 9, "decay": "cosine"}, "fewer than steps=9, got 9"),
        ({"log_every": 30}, "checkpoint_every: expected a multiple of log_every=30, got 500"),
        ({"mnist": Path("there")}, "mnist: only the data 'polymnist' takes it, not 'digits'"),
    ],
)
def test_a_setting_out_of_range_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TrainConfig(out=Path("run")), **change).validate()


def test_the_defaults_are_valid() -> None:
    TrainConfig(out=Path("run")).validate()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"out": "run", "bta": 1.0}', "unknown setting 'bta': did you mean 'beta'"),
        ('{"out": "run", ', "not readable as JSON"),
        ("[1, 2]", "should hold a JSON object, got list"),
        ('{"out": "run", "steps": "many"}', "config.json: a setting is of the wrong type"),
    ],
)
def test_a_damaged_config_file_is_an_error_that_names_it(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path)


def test_a_folder_without_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        load_config(tmp_path)
