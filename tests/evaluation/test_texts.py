"""Texts among the modalities: judged, compared, written into pictures."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from fake_models import NUM_CLASSES, image_of

from holderjax import data, models, training
from holderjax.data import Vocabulary
from holderjax.evaluation import Recipe, pictures
from holderjax.evaluation.classifiers import accuracy, load_classifier, load_classifiers
from holderjax.evaluation.report import as_means, score
from holderjax.training.config import build_model, data_facts

KEY = jax.random.key(0)
WORDS = Vocabulary(("", "one", "two", "three", "four", "five", "bird"), " ")
RECIPE = Recipe(widths=(2, 2, 16), hidden=32, steps=300, steps_per_dispatch=100, batch_size=16)


def split_of(size: int) -> data.Split:
    """Images, and captions that name their class somewhere among birds; yes or no as well."""
    rng = np.random.default_rng(size)
    labels = (np.arange(size) % NUM_CLASSES).astype(np.int32)
    text = np.where(rng.random((size, 6)) < 0.5, 6, 0).astype(np.int32)
    text[np.arange(size), rng.integers(6, size=size)] = 1 + labels
    images = np.asarray(255 * image_of(labels)).astype(np.uint8)
    flags = np.eye(NUM_CLASSES, dtype=np.float32)[labels]
    return data.Split({"image": images, "text": text, "flags": flags}, labels)


@pytest.fixture(scope="module")
def dataset():
    return data.Dataset(
        "tiny", split_of(200), split_of(15), NUM_CLASSES, {"text": WORDS}, binary=("flags",)
    )


@pytest.fixture(scope="module")
def model(dataset):
    config = training.TrainConfig(out="run", system="mmvae", latent_dim=2)
    return build_model(config, data_facts(dataset))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDERJAX_CACHE", str(tmp_path))


def test_the_data_decides_the_likelihoods(model):
    likelihoods = [modality.likelihood for modality in model.modalities.values()]
    assert likelihoods == [models.Laplace(0.75), models.Categorical(7), models.Bernoulli()]


def test_a_classifier_learns_words_wherever_they_are(dataset, model, monkeypatch):
    judge = load_classifier(dataset, "text", RECIPE)
    test = as_means(model, dataset.test)
    assert accuracy(judge, test.arrays["text"], dataset.test.labels) == 1
    monkeypatch.setattr("holderjax.evaluation.classifiers.train_classifier", None)
    again = load_classifier(dataset, "text", RECIPE)
    jax.tree.map(np.testing.assert_array_equal, judge, again)


def test_every_score_takes_texts(dataset, model):
    params = model.init(KEY)
    classifiers = load_classifiers(dataset, RECIPE)
    assert classifiers.keys() == {"image", "text"}
    scores = score(model, params, dataset.test, classifiers, KEY, 1, 20)
    assert scores["coherence"]["by_subset"]["image"].keys() == {"text"}
    assert scores["coherence"]["unjudged"] == ["flags"]
    # An untrained model gets most symbols wrong; an error is a share of them.
    assert 0.3 < scores["reconstruction"]["absolute_error"]["text"] <= 1
    # Two captions of a class differ in a share of their symbols, each in two of seven entries.
    assert 0 < scores["diversity"]["real"]["text"] < 2 / 7


def test_captions_are_written_into_grids(dataset, model, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    written = []
    original = Axes.text
    monkeypatch.setattr(
        Axes, "text", lambda self, x, y, s, **k: written.append(s) or original(self, x, y, s, **k)
    )
    config = SimpleNamespace(system="mmvae", data="tiny")
    run = training.Run(tmp_path, config, model, model.init(KEY), 1, {"text": WORDS})
    path = tmp_path / "grid.png"
    pictures.conditional_grids(run, path, dataset.test, [("text",)], samples=2, rows=5)
    observed = [WORDS.decode(ids) for ids in dataset.test.arrays["text"][:5]]
    shown = [" ".join(text.split()) for text in written]
    assert all(text in shown for text in observed)
    assert {"samples of image", "samples of text"} < set(shown)
    written.clear()
    pictures.unconditional_grid(run, path, samples=3)
    assert len(written) == 3 + 3
