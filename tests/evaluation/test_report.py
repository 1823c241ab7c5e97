"""A run's evaluation: its numbers in metrics.json, its pictures beside them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpy_inception
import pytest
from fake_models import NUM_CLASSES, SHAPE, image_of
from matplotlib.image import imread
from rich.console import Console
from torch_writer import references, write_zip

from holderjax import data, models, training
from holderjax.evaluation import Recipe, evaluate, inception, pictures, report
from holderjax.evaluation.report import first_examples, number, score_table
from holderjax.training.logging import METRICS_FILE
from holderjax.training.metrics import flatten

KEY = jax.random.key(0)
TINY = Recipe(widths=(2, 2, 2), hidden=4, steps=4, steps_per_dispatch=2, batch_size=4)
PICTURES = {"conditional.png", "unconditional.png", "training.png", "pi.png", "coherence.png"}


def split_of(size: int) -> data.Split:
    labels = (np.arange(size) % NUM_CLASSES).astype(np.int32)
    noise = np.random.default_rng(size).integers(0, 30, (size, *SHAPE))
    images = np.asarray(200 * image_of(labels) + noise).astype(np.uint8)
    vector = np.eye(NUM_CLASSES, dtype=np.float32)[labels]
    return data.Split({"a": images, "b": 255 - images, "v": vector}, labels)


def write_metrics(folder, model, params, batch) -> None:
    """Two lines as training writes them."""
    loss, aux = jax.jit(model.loss)(params, batch, KEY)
    line = {"loss": float(loss), **{k: np.asarray(x).tolist() for k, x in flatten(aux).items()}}
    lines = [{"step": 1, **line}, {"step": 2, **line, "test_loss": float(loss)}]
    (folder / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An untrained Hölder++ of two images and a vector, as `load_run` gives a trained one."""
    folder = tmp_path_factory.mktemp("run")
    dataset = data.Dataset("tiny", split_of(20), split_of(15), NUM_CLASSES)
    modalities = {name: models.Modality(shape) for name, shape in dataset.modalities.items()}
    model = models.build("holder++", modalities, latent_dim=2, private_dim=2)
    params = jax.jit(model.init)(KEY)
    config = training.TrainConfig(out=folder, data="tiny")
    run = training.Run(folder, config, model, params, step=2)
    batch = {name: data.to_float(x) for name, x in dataset.train.arrays.items()}
    write_metrics(folder, model, params, batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Run, "dataset", lambda self: dataset)
        patch.setattr(report, "load_run", lambda path, checkpoint: run)
        patch.setenv("HOLDERJAX_CACHE", str(folder / "cache"))
        yield run


@pytest.fixture(scope="module")
def metrics(run):
    """What `evaluate` returns."""
    return evaluate(run.path, prior_samples=20, recipe=TINY)


def test_metrics_json_holds_what_was_returned_and_promised(run, metrics):
    stored = json.loads((run.path / "metrics.json").read_text())
    assert stored == metrics
    coherence = stored["coherence"]
    assert 0 <= coherence["leave_one_out"] <= 1
    assert coherence["by_subset_size"].keys() == {"1", "2"}
    assert coherence["by_subset_size"]["2"] == pytest.approx(coherence["leave_one_out"])
    assert coherence["by_subset"]["b,v"].keys() == {"a"}
    for kind in ("conditional", "unconditional"):
        assert stored["classifier_fd"][kind].keys() == {"a", "b"}
        assert min(stored["classifier_fd"][kind].values()) > 0
    assert stored["representation"]["z"].keys() == {"a", "b", "v"}
    assert 0 <= coherence["unconditional"] <= 1
    assert coherence["unjudged"] == ["v"]
    assert stored["classifier"]["accuracy"].keys() == {"a", "b"}
    assert stored["reconstruction"]["absolute_error"].keys() == {"a", "b", "v"}
    assert stored["diversity"]["conditional"].keys() == {"a", "b", "v"}
    assert (stored["system"], stored["data"], stored["step"]) == ("holder++", "tiny", 2)
    assert stored["versions"].keys() >= {"jax", "holderjax"}
    assert stored["device"]


def test_data_without_labels_is_scored_by_all_that_needs_none(run, tmp_path, monkeypatch, capsys):
    def unlabelled(size):
        return data.Split(split_of(size).arrays)

    dataset = data.Dataset("tiny", unlabelled(20), unlabelled(15), binary=("v",))
    monkeypatch.setattr(training.Run, "dataset", lambda self: dataset)
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder)
    other = replace(run, path=folder)
    monkeypatch.setattr(report, "load_run", lambda path, checkpoint: other)
    for picture in PICTURES:
        (folder / picture).unlink(missing_ok=True)
    found = evaluate(folder, prior_samples=20, recipe=TINY)
    assert found == json.loads((folder / "metrics.json").read_text())
    assert not found.keys() & {"coherence", "classifier", "classifier_fd", "representation"}
    assert found["f1"]["by_subset"].keys() == {"a", "b", "a,b"}
    assert all(row.keys() == {"v"} for row in found["f1"]["by_subset"].values())
    assert found["f1"]["leave_one_out"] == found["f1"]["by_subset"]["a,b"]["v"]
    assert found["f1"]["threshold"] == 0.5
    assert found["reconstruction"]["f1"].keys() == {"v"}
    assert found["reconstruction"]["absolute_error"].keys() == {"a", "b", "v"}
    drawn = {path.name for path in folder.glob("*.png")}
    assert drawn == PICTURES - {"coherence.png"} | {"f1.png"}
    assert "F1: leave-one-out" in capsys.readouterr().out


def test_vectors_with_classes_have_no_coherence_but_a_likelihood(run, tmp_path, monkeypatch):
    """And there is nothing to draw but curves."""

    def vectors(size):
        split = split_of(size)
        return data.Split({"v": split.arrays["v"], "u": -split.arrays["v"]}, split.labels)

    dataset = data.Dataset("tiny", vectors(20), vectors(15), NUM_CLASSES, noise={"v": 0.5})
    model = models.build(
        "mmvae",
        {
            name: models.Modality(shape, likelihood=models.Gaussian(0.5))
            for name, shape in dataset.modalities.items()
        },
        latent_dim=2,
    )
    other = replace(run, path=tmp_path, model=model, params=model.init(KEY))
    monkeypatch.setattr(training.Run, "dataset", lambda self: dataset)
    monkeypatch.setattr(report, "load_run", lambda path, checkpoint: other)
    found = evaluate(tmp_path, prior_samples=20, likelihood_samples=3)
    assert not found.keys() & {"coherence", "f1", "classifier", "classifier_fd", "fid"}
    assert 0 <= found["representation"]["joint"] <= 1
    assert found["diversity"]["real"].keys() == {"v", "u"}
    batch = {name: jnp.asarray(x) for name, x in dataset.test.arrays.items()}
    key = jax.random.fold_in(jax.random.fold_in(KEY, 5), 0)
    expected = model.log_likelihood(other.params, batch, key, num_samples=3).mean()
    assert found["log_likelihood"] == {"nats": pytest.approx(float(expected)), "samples": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    with pytest.raises(ValueError, match="likelihood_samples: expected at least 1, got 0"):
        evaluate(tmp_path, prior_samples=20, likelihood_samples=0)


def test_fid_is_added_and_the_classifiers_see_what_they_see_without_it(
    run, metrics, tmp_path, monkeypatch
):
    """With features that are quick to compute in place of Inception's."""

    def brightness(params, images):
        mean = images.mean(axis=(1, 2, 3))[:, None]
        return params * jnp.pad(mean, ((0, 0), (0, 2047)))

    other = replace(run, path=tmp_path)
    monkeypatch.setattr(report, "load_run", lambda path, checkpoint: other)
    monkeypatch.setattr(report, "write_pictures", lambda *args: [])
    monkeypatch.setattr(inception, "features", brightness)
    weights = inception.Weights(np.float32(9), "abc")
    monkeypatch.setattr(report, "load_inception", {"weights.pth": weights}.get)

    measured = evaluate(tmp_path, prior_samples=20, recipe=TINY, inception="weights.pth")
    assert json.loads((tmp_path / "metrics.json").read_text()) == measured
    assert "fid" not in metrics
    assert measured["classifier_fd"] == metrics["classifier_fd"]
    scores = measured["fid"]
    table = scores["by_subset"]
    pairs = {"a": ["b"], "b": ["a"], "v": ["a", "b"], "a,v": ["b"], "b,v": ["a"]}
    assert {o: sorted(row) for o, row in table.items()} == pairs
    values = [x for row in table.values() for x in row.values()]
    assert min(values) > 0
    assert scores["conditional_mean"] == pytest.approx(np.mean(values))
    assert scores["conditional"] == {"a": table["b,v"]["a"], "b": table["a,v"]["b"]}
    assert scores["unconditional"].keys() == {"a", "b"}
    assert (scores["real_images"], scores["prior_samples"], scores["weights"]) == (15, 20, "abc")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(score_table(measured))
    assert f"targets {scores['conditional_mean']:.1f}" in console.export_text()


def test_missing_weights_are_named_before_anything_is_measured(run, monkeypatch):
    monkeypatch.setattr(report, "load_classifiers", None)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        evaluate(run.path, inception="nowhere.pth")


@pytest.mark.slow
def test_fid_with_inception_itself(run, tmp_path, monkeypatch):
    """Random weights, but everything that a measurement runs through."""
    other = replace(run, path=tmp_path)
    monkeypatch.setattr(report, "load_run", lambda path, checkpoint: other)
    monkeypatch.setattr(report, "write_pictures", lambda *args: [])
    path = tmp_path / "weights.pth"
    write_zip(path, references(numpy_inception.random_state(inception.torch_shapes())))
    found = evaluate(tmp_path, prior_samples=3, recipe=TINY, examples=10, inception=path)["fid"]
    assert min(x for row in found["by_subset"].values() for x in row.values()) > 0
    assert np.isfinite([found["conditional_mean"], *found["unconditional"].values()]).all()
    (kept,) = data.cache_dir().glob(f"inception/{found['weights'][:16]}-*.npz")
    for file in (kept, path):
        file.unlink()


def test_every_picture_is_written_and_shows_something(run, metrics):
    assert {path.name for path in run.path.glob("*.png")} == PICTURES
    for name in PICTURES:
        pixels = imread(run.path / name)
        assert min(pixels.shape[:2]) > 100
        assert pixels[..., :3].std() > 0.02


def test_the_table_names_every_modality_and_the_coherence(metrics):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(score_table(metrics))
    text = console.export_text()
    assert {"a", "b", "v", "mean"} <= set(text.split())
    assert f"leave-one-out {metrics['coherence']['leave_one_out']:.3f}" in text


def test_a_grid_is_reproducible_and_grows_with_what_it_shows(run, tmp_path):
    def grid(count):
        path = tmp_path / "grid.png"
        observed = ["a", "v"]
        return imread(
            pictures.conditional_grid(run, path, observed=observed, samples=count, rows=count)
        )

    small = grid(1)
    np.testing.assert_array_equal(small, grid(1))
    height, width, _ = grid(2).shape
    assert height > small.shape[0]
    assert width > small.shape[1]


def test_the_grid_of_prior_samples_has_a_column_for_each(run, tmp_path):
    few, many = (
        imread(pictures.unconditional_grid(run, tmp_path / "prior.png", samples=count)).shape
        for count in (25, 30)
    )
    assert many[1] > few[1]
    assert many[0] == few[0]


def test_a_picture_is_of_the_kind_that_its_suffix_says(tmp_path):
    path = pictures.save(pictures.Grid(3, 3).figure, tmp_path / "grid.pdf")
    assert path.read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match="not supported"):
        pictures.save(pictures.Grid(3, 3).figure, tmp_path / "grid.nonsense")
    assert list(tmp_path.iterdir()) == [path]


def test_a_tile_shows_its_image_in_its_place(tmp_path):
    grid = pictures.Grid(4, 2)
    grid.image(0, 0, np.array([[[2.0]]]))
    grid.image(1, 0, np.array([[[-1.0]]]))
    grid.image(2, 1, np.array([[[1.0, 0.0, 0.0]]]))
    pixels = imread(pictures.save(grid.figure, tmp_path / "grid.png"))
    tile = pixels.shape[0] // 2
    middles = [
        pixels[tile // 2 + row * tile, tile // 2 + column * tile, :3]
        for row, column in ((0, 0), (0, 1), (1, 2))
    ]
    np.testing.assert_array_equal(middles, [[1, 1, 1], [0, 0, 0], [1, 0, 0]])


def test_unknown_and_missing_names_are_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"unknown modality 'c'.*a, b, v"):
        pictures.conditional_grid(run, tmp_path / "grid.png", observed=["a", "c"])
    with pytest.raises(ValueError, match="at least one of a, b, v"):
        pictures.conditional_grid(run, tmp_path / "grid.png", observed=[])
    assert not list(tmp_path.iterdir())


def test_examples_are_counted_and_shown_one_of_each_class_in_turn():
    split = data.Split({"v": np.zeros((6, 1), np.float32)}, np.int32([2, 2, 0, 2, 0, 1]))
    assert pictures.rows_of_all_classes(split, 5).tolist() == [2, 5, 0, 4, 1]
    assert len(first_examples(split, None)) == 6
    assert first_examples(split, 2).labels.tolist() == [2, 2]
    with pytest.raises(ValueError, match="1 to 6, got 7"):
        first_examples(split, 7)


@pytest.mark.parametrize(
    ("count", "sizes"), [(2, [1]), (3, [1, 2]), (5, [1, 2, 3, 4]), (9, [1, 3, 6, 8])]
)
def test_the_conditional_picture_goes_from_one_observed_modality_to_all_but_one(count, sizes):
    names = [f"m{i}" for i in range(count)]
    assert [len(subset) for subset in pictures.nested_subsets(names)] == sizes


def test_numbers_that_do_not_exist_are_shown_as_a_dash():
    assert (number(None), number(0.12345)) == ("-", "0.123")


def test_plotting_is_imported_when_something_is_drawn():
    check = (
        "import sys, holderjax, holderjax.models\n"
        "assert 'holderjax.evaluation' not in sys.modules\n"
        "import holderjax.evaluation\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
