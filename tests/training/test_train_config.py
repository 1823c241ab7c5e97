from __future__ import annotations

import dataclasses
import json
from math import inf, nan
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from holderjax.cli import main
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
        ({"steps": 2**31}, "steps: expected at most 2147483647, got 2147483648"),
        ({"steps": True}, "steps: expected int, got True"),
        ({"steps": 10.0}, "steps: expected int, got 10.0"),
        ({"system": ["holder"]}, r"system: expected str, got \['holder'\]"),
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
        ('{"out": "run", "steps": "many"}', "config.json: steps: expected int, got 'many'"),
        ('{"out": "run", "beta": null}', "config.json: beta: expected float, got None"),
        ('{"out": "run", "mnist": 3}', r"config.json: mnist: expected pathlib.* got 3"),
        ('{"out": "run", "missing": 0.5}', r"config.json: missing: expected tuple.* got 0.5"),
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


HINTS = {name: hint for name, hint in get_type_hints(TrainConfig).items() if name != "out"}
# What the command line writes for it, if it can.
FLAGS = {name: "--" + name.replace("_", "-") for name in HINTS}


def malformed(hint: Any) -> list[Any]:
    """JSON values that no setting of this type takes."""
    options = set(get_args(hint)) or {hint}
    wrong: list[Any] = [{}, {"a": 1}] + [None] * (NoneType not in options)
    if Path in options:
        return [*wrong, 3, True, 0.5, []]
    if get_origin(hint) is tuple:
        return [*wrong, 3, "0.5", ["a"], [[0.5]], [True]]
    wrong += [[], [1]]
    if bool in options:
        return [*wrong, 3, 1.0, "yes"]
    if int in options:
        return [*wrong, -1, -(10**12), 1.5, nan, True, "three", ""]
    if float in options:
        return [*wrong, -1.0, -1, nan, -inf, True, "three", ""]
    return [*wrong, 3, 1.5, True, "no such name", ""]


@pytest.mark.parametrize("name", HINTS)
def test_a_malformed_config_file_names_the_setting_and_starts_nothing(
    tmp_path: Path, name: str
) -> None:
    good = TrainConfig(out=tmp_path).to_json()
    for value in malformed(HINTS[name]):
        (tmp_path / "config.json").write_text(json.dumps({**good, name: value}))
        with pytest.raises(ValueError, match=rf"config\.json: (.*unknown )?{name}\b"):
            load_config(tmp_path)


def test_there_are_hundreds_of_them() -> None:
    assert sum(len(malformed(hint)) for hint in HINTS.values()) >= 200


@pytest.mark.parametrize("name", [name for name, hint in HINTS.items() if hint is not bool])
def test_a_malformed_command_line_names_the_setting_and_starts_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    out = tmp_path / "run"
    texts = [str(x) for x in malformed(HINTS[name]) if isinstance(x, str | int | float)]
    if Path in get_args(HINTS[name]):
        # Any text is a path, and these belong to polymnist alone.
        texts = ["there"]
    # One share is right as text, and "True" would be a flag's value.
    for text in sorted({*texts} - {"0.5", "True"}):
        try:
            code = main(["train", "--out", str(out), f"{FLAGS[name]}={text}"])
        except SystemExit as stop:
            code = stop.code
        said = capfd.readouterr().err
        assert code == 2, text
        assert name in said.replace("-", "_"), text
        assert "Traceback" not in said, text
        assert not out.exists(), text
