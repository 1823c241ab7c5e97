"""Correlations between true and inferred latents, and the data that they are for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holderjax.data.identifiable import SLOPE, random_identifiable
from holderjax.evaluation.identifiability import affine_mean_correlation, mean_correlation

RNG = np.random.default_rng(0)
TRUE = RNG.normal(size=(400, 3)) * [1.0, 5.0, 0.2]


@given(
    st.permutations([0, 1, 2]), st.lists(st.floats(0.1, 9), min_size=3, max_size=3), st.booleans()
)
def test_order_scale_and_sign_do_not_matter(order, scales, flip):
    found = TRUE[:, order] * scales * (-1 if flip else 1) + 2
    assert mean_correlation(TRUE, found) == pytest.approx(1)
    assert affine_mean_correlation(TRUE, found) == pytest.approx(1)


def test_a_rotation_is_seen_by_the_strong_score_alone():
    c = np.sqrt(0.5)
    latents = RNG.normal(size=(20_000, 2))
    found = latents @ np.array([[c, -c], [c, c]])
    assert mean_correlation(latents, found) == pytest.approx(c, abs=0.02)
    assert affine_mean_correlation(latents, found) == pytest.approx(1)


def test_noise_scores_next_to_nothing_and_partial_knowledge_its_correlation():
    noise = RNG.normal(size=(400, 3))
    assert mean_correlation(TRUE, noise) < 0.15
    assert affine_mean_correlation(TRUE, noise) < 0.2
    half = np.column_stack([TRUE[:, 0], noise[:, 1:]])
    assert 0.3 < mean_correlation(TRUE, half) < 0.45


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="with E >= D"):
        mean_correlation(TRUE, TRUE[:, :2])


def test_views_are_injective_piecewise_linear_functions_of_separate_clusters():
    model = random_identifiable(np.random.default_rng(3), noise=0.0)
    views, z, clusters = model.draw(300, np.random.default_rng(4))
    for name, (first, second) in model.layers.items():
        hidden = views[name] @ second.T  # orthonormal rows
        found = np.where(hidden > 0, hidden, hidden / SLOPE) @ np.linalg.pinv(first)
        np.testing.assert_allclose(found, z, atol=1e-4)
    distance = np.linalg.norm(model.means[:, None] - model.means[None], axis=-1)
    assert distance[~np.eye(5, dtype=bool)].min() > 2 * model.scales.max()
    nearest = np.linalg.norm(z[:, None] - model.means, axis=-1).argmin(axis=1)
    assert np.mean(nearest == clusters) > 0.9
