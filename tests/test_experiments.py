"""Every experiment, whole, on a little invented data of the right kind."""

from __future__ import annotations

import importlib
import json
import string
from pathlib import Path

import numpy as np
import pytest

from holderjax.data import Split, Vocabulary, prepared
from holderjax.data.examples import Examples, Source

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SIZES = {"train": 40, "test": 32}
WORDS = Vocabulary(("", *string.ascii_lowercase), " ")
# By data set: shapes of images, (length, vocabulary) of texts, sizes of what is yes or no.
DATA = {
    "polymnist": ({f"m{m}": (28, 28, 3) for m in range(5)}, {}, {}),
    "mnist-svhn": ({"mnist": (28, 28, 1), "svhn": (32, 32, 3)}, {}, {}),
    "cubicc": ({"image": (64, 64, 3)}, {"caption": (32, WORDS)}, {}),
    "celebamask-hq": ({"image": (128, 128, 3)}, {}, {"face_mask": (128, 128, 1), "attributes": 18}),
}


@pytest.fixture(autouse=True)
def scripts(tmp_path, monkeypatch):
    """The scripts can be imported, and the cache is empty."""
    monkeypatch.setenv("HOLDERJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(EXPERIMENTS))


def write_data(name: str) -> None:
    """Prepare invented data of the data set's shapes."""
    images, texts, binary = DATA[name]
    splits = {}
    for split, size in SIZES.items():
        rng = np.random.default_rng(size)
        arrays = {
            key: rng.integers(0, 256, (size, *shape), np.uint8) for key, shape in images.items()
        }
        for key, shape in binary.items():
            said = rng.integers(0, 2, (size, *np.atleast_1d(shape)))
            arrays[key] = (255 * said).astype(np.uint8) if said.ndim > 2 else said.astype("f4")
        for key, (length, vocabulary) in texts.items():
            ids = rng.integers(1, len(vocabulary.symbols), (size, length))
            arrays[key] = ids.astype(np.int32)
        labels = None if binary else np.arange(size, dtype=np.int32) % 8
        splits[split] = Examples.of(Split(arrays, labels))
    vocabularies = {key: vocabulary for key, (_, vocabulary) in texts.items()}
    source = Source(splits, 0 if binary else 8, vocabularies, tuple(binary))
    prepared.write(name, source, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["polymnist_frontier", "mnist_svhn", "cubicc", "celebamask", "digits_frontier"]
)
def test_a_sweep_ends_in_a_report(name, tmp_path):
    script, sweeps = importlib.import_module(name), importlib.import_module("sweeps")
    if script.RECIPE.data in DATA:
        write_data(script.RECIPE.data)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        sweeps.command(script.RECIPE, script.__doc__, ["--out", str(out), "--smoke"])
    assert stop.value.code == 0
    systems = script.RECIPE.systems[-2:]
    runs = [next(out.glob(f"{system}_beta*")) for system in systems]
    metrics = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert all(found["step"] == 8 for found in metrics)
    scored = "f1" if name == "celebamask" else "coherence"
    assert all(0 <= found[scored]["leave_one_out"] <= 1 for found in metrics)
    assert all(("clustering" in found) == ("c" in found["system"]) for found in metrics)
    page = (out / "report.html").read_text()
    assert all(system in page for system in systems)


@pytest.mark.parametrize(
    "name", ["identifiable", pytest.param("linear_gaussian", marks=pytest.mark.slow)]
)
def test_a_simulation_ends_in_a_table(name, tmp_path, capsys):
    script = importlib.import_module(name)
    out = tmp_path / "out.json"
    script.main(script.Config(out=out, smoke=True))
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 2
    assert all(np.isfinite(x) for row in rows.values() for values in row.values() for x in values)
    assert str(out) in capsys.readouterr().out
