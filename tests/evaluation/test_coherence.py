"""Coherence counts what the classifiers say about generated images, subset by subset."""

from __future__ import annotations

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_models import (
    CONSTANT,
    JUDGES,
    NAMES,
    NUM_CLASSES,
    ORACLE,
    RANDOM,
    FakeModel,
    image_of,
    mean_of_observed,
    noisy_split,
    read_class,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score as f1

from holderjax.data import batches
from holderjax.evaluation.classifiers import accuracy
from holderjax.evaluation.coherence import (
    all_subsets,
    by_subset_size,
    class_diversity,
    coherence_table,
    conditional_diversity,
    f1_score,
    f1_table,
    generate_from_subsets,
    leave_one_out,
    pairwise_distance,
    self_reconstruction,
    unconditional_coherence,
)

KEY = jax.random.key(0)


def table_of(model, split, **options):
    generated = generate_from_subsets(model, {}, JUDGES, split.arrays, KEY, **options)
    return coherence_table(generated, split.labels)


def every_proper_subset():
    return [c for size in range(1, len(NAMES)) for c in combinations(NAMES, size)]


def test_every_nonempty_subset_occurs_once_smaller_ones_first():
    masks = all_subsets(4)
    assert len({tuple(mask) for mask in masks}) == len(masks) == 15
    assert masks.any(axis=1).all()
    assert (np.diff(masks.sum(axis=1)) >= 0).all()
    assert masks[-1].all()


def test_an_oracle_is_as_coherent_as_the_classifiers_are_accurate():
    split = noisy_split(101)
    table = table_of(ORACLE, split, batch_size=16)
    real = {name: accuracy(read_class, split.arrays[name], split.labels) for name in NAMES}
    assert max(real.values()) < 0.9
    for observed in every_proper_subset():
        assert table[",".join(observed)] == {n: real[n] for n in NAMES if n not in observed}
    assert leave_one_out(table) == real


@given(
    st.integers(1, 6).flatmap(
        lambda d: st.tuples(
            arrays(np.float32, (3, 4, d), elements=st.floats(0, 1, width=32)),
            arrays(np.float32, (4, d), elements=st.sampled_from([0, 1])),
        )
    )
)
def test_f1_is_scikit_learns_of_each_example_at_one_half(case):
    samples, x = case
    found = np.asarray(f1_score(jnp.asarray(samples), jnp.asarray(x)))
    for said, each in zip(samples > 0.5, found, strict=True):
        expected = [f1(t, s, zero_division=1.0) for t, s in zip(x, said, strict=True)]
        np.testing.assert_allclose(each, expected, atol=1e-6)


def test_f1_is_of_what_was_not_observed_and_of_every_sample():
    split = noisy_split(21)
    flags = {name: np.where(x > 110, 255, 0).astype(np.uint8) for name, x in split.arrays.items()}
    generated = generate_from_subsets(
        CONSTANT, {}, {}, flags, KEY, binary=("m0", "m2"), num_samples=2, batch_size=8
    )
    assert generated.predictions == {}
    # Images of one brightness are all yes or all no; 1/2 is not above 1/2, so the model says no.
    expected = {name: (flags[name][:, 0, 0, 0] == 0).mean() for name in ("m0", "m2")}
    assert 0.2 < min(expected.values()) < max(expected.values()) < 0.8
    table = f1_table(generated)
    for observed in every_proper_subset():
        targets = [name for name in expected if name not in observed]
        assert table.get(",".join(observed), {}).keys() == set(targets)
        for name in targets:
            assert table[",".join(observed)][name] == pytest.approx(expected[name])
    assert self_reconstruction(generated, None)["f1"] == pytest.approx(expected)


def test_without_anything_to_judge_by_there_are_still_errors():
    split = noisy_split(21)
    generated = generate_from_subsets(ORACLE, {}, {}, split.arrays, KEY)
    assert generated.predictions == generated.f1 == coherence_table(generated, split.labels) == {}
    assert self_reconstruction(generated, None)["absolute_error"] == dict.fromkeys(NAMES, 0.0)


def test_a_model_that_ignores_its_input_is_coherent_by_chance():
    split, samples = noisy_split(400), 5
    chance = 1 / NUM_CLASSES
    for accuracies in table_of(RANDOM, split, num_samples=samples).values():
        for value in accuracies.values():
            error = np.sqrt(chance * (1 - chance) / (400 * samples))
            assert abs(value - chance) < 5 * error


def test_the_table_is_what_a_loop_over_subsets_targets_and_examples_counts():
    split = noisy_split(23)
    model = FakeModel(mean_of_observed, lambda key: {})
    expected = {}
    for observed in every_proper_subset():
        row = {}
        for target in set(NAMES) - set(observed):
            right = 0
            for i, label in enumerate(split.labels):
                image = np.mean([split.arrays[name][i] / 255 for name in observed], axis=0)
                right += int(np.argmax(read_class(jnp.float32(image)))) == label
            row[target] = right / len(split)
        expected[",".join(observed)] = row
    # 23 examples in batches of 8 leave one row of padding.
    table = table_of(model, split, batch_size=8)
    assert table.keys() == expected.keys()
    for observed, row in expected.items():
        assert table[observed] == pytest.approx(row)


def test_batches_have_one_size_and_cover_every_example_once():
    arrays = {"x": np.arange(23)}
    parts = list(batches(arrays, ["x"], 8))
    assert {len(batch["x"]) for _, batch in parts} == {8}
    np.testing.assert_array_equal(
        np.concatenate([batch["x"][:count] for count, batch in parts]), arrays["x"]
    )


def test_all_subsets_and_batches_share_one_compiled_program():
    traces = []

    def generate(key, batch, mask):
        traces.append(1)
        return mean_of_observed(key, batch, mask)

    table_of(FakeModel(generate, lambda key: {}), noisy_split(23), batch_size=8)
    # The loop over subsets, and what follows it with everything observed.
    assert len(traces) == 2


def test_different_subsets_and_examples_get_different_noise():
    split = noisy_split(64)
    generated = generate_from_subsets(RANDOM, {}, JUDGES, split.arrays, KEY, batch_size=32)
    # Given m0 alone, and given m2 alone.
    predicted = generated.predictions["m1"]
    assert not (predicted[0] == predicted[2]).all()
    assert not (predicted[0, :, :32] == predicted[0, :, 32:]).all()
    assert (generated.predictions["m0"][0] == -1).all()


def test_sizes_and_targets_are_averaged_over_their_pairs():
    table = {
        "a": {"b": 0.1, "c": 0.2},
        "b": {"a": 0.3, "c": 0.4},
        "c": {"a": 0.5, "b": 0.6},
        "a,b": {"c": 0.7},
        "a,c": {"b": 0.8},
        "b,c": {"a": 0.0},
    }
    assert by_subset_size(table) == pytest.approx({"1": 0.35, "2": 0.5})
    assert leave_one_out(table) == {"c": 0.7, "b": 0.8, "a": 0.0}


def test_modalities_without_a_classifier_are_observed_but_not_judged():
    split = noisy_split(40)
    judges = {name: JUDGES[name] for name in ("m0", "m1")}
    generated = generate_from_subsets(ORACLE, {}, judges, split.arrays, KEY)
    table = coherence_table(generated, split.labels)
    assert set(table["m2"]) == {"m0", "m1"}
    assert set(table["m0"]) == {"m1"}
    assert "m0,m1" not in table
    assert by_subset_size(table).keys() == {"1", "2"}


def test_self_reconstruction_looks_at_the_samples_that_saw_everything():
    split = noisy_split(50)
    generated = generate_from_subsets(ORACLE, {}, JUDGES, split.arrays, KEY)
    scores = self_reconstruction(generated, split.labels)
    assert set(scores["absolute_error"].values()) == {0.0}
    assert scores["classifier_accuracy"]["m1"] == accuracy(
        read_class, split.arrays["m1"], split.labels
    )
    constant = generate_from_subsets(CONSTANT, {}, JUDGES, split.arrays, KEY)
    error = np.abs(split.arrays["m0"] / 255 - np.asarray(image_of(2))).mean()
    errors = self_reconstruction(constant, split.labels)["absolute_error"]
    assert errors["m0"] == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("model", [CONSTANT, ORACLE], ids=["one class", "one class a draw"])
def test_unconditional_coherence_is_one_where_all_modalities_show_one_class(model):
    assert unconditional_coherence(model, {}, JUDGES, KEY, num_samples=50, batch_size=16) == 1.0


def test_unconditional_coherence_of_independent_modalities_is_the_chance_of_agreement():
    value = unconditional_coherence(RANDOM, {}, JUDGES, KEY, num_samples=3000)
    chance = NUM_CLASSES ** (1 - len(NAMES))
    assert abs(value - chance) < 5 * np.sqrt(chance * (1 - chance) / 3000)


def test_pairwise_distance_is_the_mean_over_pairs():
    samples = np.asarray(jax.random.normal(KEY, (5, 3, 4)))
    pairs = [np.abs(a - b).mean() for a, b in combinations(samples, 2)]
    assert float(pairwise_distance(samples)) == pytest.approx(np.mean(pairs), rel=1e-5)


def test_a_constant_model_has_no_diversity_and_a_random_one_that_of_its_classes():
    split = noisy_split(200)
    assert conditional_diversity(CONSTANT, {}, split.arrays, KEY) == dict.fromkeys(NAMES, 0.0)
    # E |a - b| of two uniform classes, in brightness.
    expected = np.mean(np.abs(np.subtract.outer(*[np.arange(NUM_CLASSES)] * 2))) / NUM_CLASSES
    for value in conditional_diversity(RANDOM, {}, split.arrays, KEY).values():
        assert value == pytest.approx(expected, rel=0.1)


def test_diversity_of_real_images_compares_images_of_one_class():
    labels = np.array([0, 1, 0, 1, 0])
    images = np.zeros((5, 2, 2, 1), np.uint8)
    images[[0, 2]] = np.array([0, 51], np.uint8)[:, None, None, None]
    images[[1, 3]] = np.array([0, 102], np.uint8)[:, None, None, None]
    assert class_diversity({"x": images}, labels)["x"] == pytest.approx((0.2 + 0.4) / 2)


def test_impossible_requests_are_refused():
    split = noisy_split(10)
    one = FakeModel(ORACLE.from_batch, ORACLE.from_prior, names=("m0",))
    with pytest.raises(ValueError, match="at least two modalities"):
        generate_from_subsets(one, {}, JUDGES, split.arrays, KEY)
    with pytest.raises(ValueError, match="two examples of every class"):
        class_diversity(split.arrays, np.arange(10))
