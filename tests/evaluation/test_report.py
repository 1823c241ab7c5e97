"""A run's evaluation: its numbers in metrics.json, its pictures beside them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from fake_models import NUM_CLASSES, image_of
from matplotlib.image import imread

from holderjax import data, training
from holderjax.data.registry import DatasetInfo
from holderjax.evaluation import Recipe, evaluate, pictures
from holderjax.evaluation.report import first_examples, number

TINY = Recipe(widths=(2, 2, 2), hidden=4, steps=4, steps_per_dispatch=2, batch_size=4)
PICTURES = {"conditional.png", "unconditional.png", "training.png", "pi.png", "coherence.png"}


def split_of(size: int) -> data.Split:
    labels = (np.arange(size) % NUM_CLASSES).astype(np.int32)
    images = np.asarray(np.round(255 * image_of(labels))).astype(np.uint8)
    vector = np.eye(NUM_CLASSES, dtype=np.float32)[labels]
    return data.Split({"a": images, "b": images[..., :1], "v": vector}, labels)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run of two steps on two image modalities and a vector, and its evaluation."""
    folder = tmp_path_factory.mktemp("evaluated")
    dataset = data.Dataset("tiny", split_of(20), split_of(15), NUM_CLASSES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDERJAX_CACHE", str(folder / "cache"))
        row = DatasetInfo("tiny", "", "", "", lambda: dataset)
        patch.setitem(data.DATASETS, "tiny", row)
        config = training.TrainConfig(
            out=folder / "run",
            data="tiny",
            steps=2,
            batch_size=4,
            latent_dim=2,
            private_dim=2,
            checkpoint_every=1,
            log_every=1,
        )
        training.train(config)
        metrics = evaluate(config.out, prior_samples=20, recipe=TINY)
        yield config.out, metrics


def test_metrics_json_holds_what_was_returned_and_promised(evaluated):
    folder, metrics = evaluated
    stored = json.loads((folder / "metrics.json").read_text())
    assert stored == metrics
    coherence = stored["coherence"]
    assert 0 <= coherence["leave_one_out"] <= 1
    assert coherence["by_subset_size"].keys() == {"1", "2"}
    assert coherence["by_subset_size"]["2"] == pytest.approx(coherence["leave_one_out"])
    assert 0 <= coherence["unconditional"] <= 1
    assert coherence["unjudged"] == ["v"]
    assert stored["classifier"]["accuracy"].keys() == {"a", "b"}
    assert stored["reconstruction"]["absolute_error"].keys() == {"a", "b", "v"}
    assert stored["diversity"]["conditional"].keys() == {"a", "b", "v"}
    assert (stored["system"], stored["data"], stored["step"]) == ("holder++", "tiny", 2)
    assert stored["versions"].keys() >= {"jax", "holderjax"}
    assert stored["device"]


def test_every_picture_is_written_and_shows_something(evaluated):
    folder, _ = evaluated
    assert {path.name for path in folder.glob("*.png")} == PICTURES
    for name in PICTURES:
        pixels = imread(folder / name)
        assert min(pixels.shape[:2]) > 100
        assert pixels[..., :3].std() > 0.02


def test_a_second_evaluation_gives_the_same_numbers_and_pictures(evaluated):
    folder, metrics = evaluated
    before = {name: imread(folder / name) for name in PICTURES}
    assert evaluate(folder, prior_samples=20, recipe=TINY) == metrics
    for name, pixels in before.items():
        np.testing.assert_array_equal(imread(folder / name), pixels)


def test_grids_grow_with_what_they_show(evaluated, tmp_path):
    run = training.load_run(evaluated[0])

    def size(path):
        return np.array(imread(path).shape[:2])

    small, large = (
        size(
            pictures.conditional_grid(
                run, tmp_path / "grid.png", observed=["a", "v"], samples=n, rows=n
            )
        )
        for n in (2, 4)
    )
    assert (large > small).all()
    few, many = (
        size(pictures.unconditional_grid(run, tmp_path / "prior.png", samples=n)) for n in (30, 40)
    )
    assert many[1] > few[1]
    assert many[0] == few[0]


def test_a_picture_is_of_the_kind_that_its_suffix_says(evaluated, tmp_path):
    run = training.load_run(evaluated[0])
    path = pictures.unconditional_grid(run, tmp_path / "prior.pdf", samples=2)
    assert path.read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match="not supported"):
        pictures.unconditional_grid(run, tmp_path / "prior.nonsense", samples=2)
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_and_missing_names_are_refused(evaluated, tmp_path):
    run = training.load_run(evaluated[0])
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
