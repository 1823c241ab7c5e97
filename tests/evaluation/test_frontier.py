"""Means over seeds, and which points no other dominates."""

from __future__ import annotations

import math
import statistics
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from holderjax.evaluation.frontier import (
    COHERENCE,
    F1,
    RECONSTRUCTION,
    Estimate,
    best,
    coherence_scores,
    estimate,
    estimate_score,
    frontier,
    pareto_optimal,
    quality_scores,
    score_of,
    table_scores,
)
from holderjax.evaluation.labels import spread

# Few values, so that ties are common.
POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12)


def metrics(error: float = 0.1, coherence: float = 0.5, **more) -> dict:
    return {
        "coherence": {"leave_one_out": coherence, "unconditional": coherence / 2},
        "reconstruction": {"absolute_error": {"a": error, "b": error}},
        **more,
    }


def distance(value: float) -> dict:
    return {kind: {"a": value, "b": value} for kind in ("conditional", "unconditional")}


@given(POINTS)
def test_optimal_points_are_those_that_brute_force_finds(points):
    def dominates(p, q):
        return p[0] <= q[0] and p[1] >= q[1] and p != q

    expected = [not any(dominates(p, q) for p in points) for q in points]
    quality, coherence = np.array(points, float).reshape(-1, 2).T
    assert pareto_optimal(quality, coherence).tolist() == expected


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
def test_an_estimate_is_the_mean_and_its_standard_error(values):
    found = estimate(values)
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    expected = statistics.stdev(values) / math.sqrt(len(values))
    assert found.standard_error == pytest.approx(expected, abs=1e-9)
    assert found.count == len(values)


def test_one_seed_has_no_standard_error_and_no_seed_no_estimate():
    assert estimate([0.25]) == Estimate(0.25, None, 1)
    with pytest.raises(ValueError, match="at least one"):
        estimate([])


def test_a_score_is_a_number_or_the_mean_over_modalities_or_missing():
    found = {"x": {"a": 1.0, "b": 4}, "y": 3, "none": None, "empty": {}}
    assert score_of(found, ("x",)) == 2.5
    assert score_of(found, ("x", "b")) == 4
    for path in (("z",), ("none",), ("empty",), ("y", "deeper")):
        assert score_of(found, path) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.5", True, {"a": {"b": 1.0}}])
def test_a_score_that_is_no_finite_number_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"coherence\.unconditional: expected finite"):
        score_of({"coherence": {"unconditional": value}}, ("coherence", "unconditional"))


def test_seeds_without_a_score_are_left_out_of_its_estimate():
    seeds = [{"x": 1.0}, {}, {"x": 3.0}]
    assert estimate_score(seeds, ("x",)) == Estimate(2.0, 1.0, 2)
    assert estimate_score(seeds, ("y",)) is None


def test_quality_is_the_best_measure_that_every_run_has():
    plain, judged = metrics(), metrics(classifier_fd=distance(3))
    both = metrics(classifier_fd=distance(3), fid=distance(90))
    assert quality_scores([both, both])["conditional"].path == ("fid", "conditional")
    mixed = quality_scores([both, judged])
    assert mixed["unconditional"].path == ("classifier_fd", "unconditional")
    assert "FID" not in mixed["unconditional"].label
    assert quality_scores([both, plain])["conditional"] is RECONSTRUCTION
    half = metrics(classifier_fd={"conditional": {"a": 3.0}, "unconditional": {}})
    assert quality_scores([half])["conditional"] is RECONSTRUCTION


def test_coherence_is_of_classes_where_any_run_has_them():
    classes, flags = metrics(), {"f1": {"leave_one_out": 0.5, "by_subset_size": {"2": 0.5}}}
    assert coherence_scores([classes, flags]) == COHERENCE
    found = coherence_scores([flags, {}])
    assert found["conditional"] is F1
    assert found["unconditional"] is COHERENCE["unconditional"]
    assert [score.path[-1] for score in table_scores([flags])["F1"]] == ["leave_one_out", "2"]


def test_a_frontier_has_the_means_and_flags_of_each_curve_and_beta():
    seeds = {
        ("x", 1.0): [metrics(0.1, 0.5), metrics(0.3, 0.7)],
        ("x", 2.0): [metrics(0.4, 0.6)],
        ("y", 1.0): [metrics(0.5, 0.9)],
        ("z", 1.0): [{"coherence": {"leave_one_out": None}, "reconstruction": {}}],
    }
    points = frontier(seeds, RECONSTRUCTION, COHERENCE["conditional"])
    assert [(p.curve, p.beta) for p in points] == list(seeds)[:3]
    assert [p.optimal for p in points] == [True, False, True]
    assert points[0].quality.mean == pytest.approx(0.2)
    assert points[0].quality.standard_error == pytest.approx(0.1)
    assert points[0].coherence.mean == pytest.approx(0.6)
    assert points[1].coherence == Estimate(0.6, None, 1)


def test_no_point_has_both_scores():
    assert frontier({("x", 1.0): [{}]}, RECONSTRUCTION, COHERENCE["conditional"]) == []


def test_tables_have_the_columns_that_some_run_has():
    run = metrics(representation={"joint": 0.9, "z": {"a": 0.8}, "w": {}})
    run["coherence"]["by_subset_size"] = {"1": 0.3, "10": 0.5, "2": 0.4}
    tables = table_scores([metrics(), run])
    assert [s.path[-1] for s in tables["Coherence"]] == [
        *("leave_one_out", "1", "2", "10", "unconditional")
    ]
    assert tables["Quality"] == [RECONSTRUCTION]
    assert [s.path for s in tables["Representation and clustering"]] == [
        ("representation", "joint"),
        ("representation", "z"),
    ]
    assert "Representation and clustering" not in table_scores([metrics()])


def test_the_best_of_a_column_are_its_extremes_where_there_are_two_to_compare():
    one, two = Estimate(1.0, 0.1, 2), Estimate(2.0, None, 1)
    assert best([one, None, two, two], "higher") == [False, False, True, True]
    assert best([one, None, two], "lower") == [True, False, False]
    assert best([one, None], "higher") == [False, False]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12, unique=True),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_labels_keep_out_of_each_others_way(points, crowded):
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    # In a fifth of the picture, or all over it.
    size = 0.2 if crowded else 1.0
    points = [(size * x, size * y) for x, y in points]
    axes.plot(*zip(*points, strict=True), "o-")
    axes.set(xlim=(-0.1, 1.1), ylim=(-0.1, 1.1))
    labels = [
        axes.annotate(
            f"β {i}", xy, (0, 9), textcoords="offset points", ha="center", va="center",
            fontsize=7.5, arrowprops={"arrowstyle": "-"},
        )
        for i, xy in enumerate(points)
    ]  # fmt: skip
    figure.draw_without_rendering()
    spread(axes, labels, start=135)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(label) for label in labels]
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    frame = axes.get_window_extent()
    for box, xy in zip(boxes, points, strict=True):
        assert frame.contains(box.x0, box.y0)
        assert frame.contains(box.x1, box.y1)
        # Near its point, and on no marker.
        assert np.hypot(*(np.array([box.x0, box.y0]) - axes.transData.transform(xy))) < 200
        assert not any(box.contains(*axes.transData.transform(other)) for other in points)
