"""Incomplete data: an absent modality is as if the model had never had it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_models import (
    MODALITIES,
    in_float64,
    linear_model,
    quick_jit,
    random_batch,
    random_params,
    with_leaves,
)
from numpy_objective import terms

KEYS = 4096
MASK = np.array([[True, False, True], [False, True, False], [True, True, True]])


def without_absent(batch, fill):
    """The batch with its mask, and ``fill`` wherever a modality is absent."""
    filled = {
        name: jnp.where(MASK[:, n].reshape(-1, *[1] * (x.ndim - 1)), x, fill)
        for n, (name, x) in enumerate(batch.items())
    }
    return filled | {"mask": jnp.asarray(MASK)}


@pytest.mark.parametrize(
    ("system", "kl", "budget"),
    [("holder", "components", None), ("holder+", "mixture", 2), ("holder++", "mixture", None)],
)
def test_loss_is_that_of_the_observed_subset(system, kl, budget):
    model = linear_model(system, kl=kl, components=budget)
    params, batch = random_params(model, seed=6), random_batch(model, len(MASK))
    masked = without_absent(batch, jnp.nan)
    program = quick_jit(
        lambda keys: jax.lax.map(
            lambda key: model.loss(params, masked, key, 1.7)[0], keys, batch_size=1024
        )
    )
    losses = np.asarray(program(jax.random.split(jax.random.key(0), KEYS)), np.float64)
    error = losses.std() / np.sqrt(KEYS)

    def expected(mask):
        each = [
            {name: x[i] for n, (name, x) in enumerate(batch.items()) if mask[i, n]}
            for i in range(len(mask))
        ]
        params64 = in_float64(params)
        return np.mean([terms(params64, MODALITIES, x, kl=kl).loss(1.7) for x in each])

    assert abs(losses.mean() - expected(MASK)) < 4 * error + 5e-3
    assert abs(losses.mean() - expected(np.ones_like(MASK))) > 20 * error


def test_loss_and_gradient_are_those_of_a_model_built_on_the_subset():
    # Where the noise has no say: decoders blind to z, private posteriors and r next to certain.
    full = linear_model("holder+", kl="components")
    observed = ("a", "c")
    subset = linear_model("holder+", {n: MODALITIES[n] for n in observed}, kl="components")
    params = random_params(full)
    for net in params["modalities"].values():
        net["decoder"]["linear"]["kernel"] = net["decoder"]["linear"]["kernel"].at[:2].set(0.0)
        head = net["private_head"]["linear"]
        head["kernel"] = head["kernel"].at[:, 2:].set(0.0)
        head["bias"] = head["bias"].at[2:].set(-28.0)
    params = with_leaves(params, {"log_auxiliary_scale": -14.0})
    batch, key = random_batch(full, 3), jax.random.key(0)
    mask = jnp.broadcast_to(jnp.array([True, False, True]), (3, 3))

    def encoders(model, batch, params):
        (loss, aux), gradient = quick_jit(
            jax.value_and_grad(lambda p: model.loss(p, batch, key), has_aux=True)
        )(params)
        del aux["weights"]
        return (
            loss,
            aux,
            {name: net["encoder"] | net["head"] for name, net in gradient["modalities"].items()},
        )

    absent = batch | {"b": jnp.full_like(batch["b"], jnp.nan), "mask": mask}
    loss, aux, gradient = encoders(full, absent, params)
    kept = params | {"modalities": {n: params["modalities"][n] for n in observed}}
    expected = encoders(subset, {n: batch[n] for n in observed}, kept)
    assert aux["reconstruction"].pop("b") == 0
    assert aux["kl_private"].pop("b") == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient.pop("b")))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        (loss, aux, gradient),
        expected,
    )


@pytest.fixture(scope="module")
def masked_program():
    """(params, batch, keys) to loss, aux and gradient of Hölder++ with a component budget."""
    model = linear_model("holder++", kl="mixture", components=2)
    program = quick_jit(jax.value_and_grad(model.loss, has_aux=True))
    return random_params(model), random_batch(model, len(MASK)), program


def test_what_stands_for_an_absent_modality_reaches_neither_loss_nor_gradient(masked_program):
    params, batch, program = masked_program
    keys = jax.random.split(jax.random.key(0), len(MASK))
    zeros, *others = (
        program(params, without_absent(batch, fill), keys) for fill in (0.0, jnp.nan, jnp.inf)
    )
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(zeros))
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, other, zeros)


def test_with_a_key_per_example_the_loss_is_the_mean_over_the_parts_of_a_batch(masked_program):
    params, batch, program = masked_program
    keys = jax.random.split(jax.random.key(0), len(MASK))
    batch = without_absent(batch, 0.0)

    def whole(order):
        moved = {name: x[order] for name, x in batch.items()}
        return program(params, moved, keys[order])

    def only(i):
        return whole(np.full(len(MASK), i))

    together = whole(np.arange(len(MASK)))
    apart = jax.tree.map(lambda *x: sum(x) / len(x), *(only(i) for i in range(len(MASK))))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), together, apart
    )


def test_an_example_with_nothing_observed_adds_nothing(masked_program):
    params, batch, program = masked_program
    keys = jax.random.split(jax.random.key(0), len(MASK))
    batch = without_absent(batch, 0.0)
    nothing = batch | {"mask": batch["mask"].at[0].set(False)}
    (loss, aux), gradient = program(params, nothing, keys)
    last = {name: jnp.stack([x[1], x[1], x[2]]) for name, x in batch.items()}
    (doubled, _), _ = program(params, last, keys[np.array([1, 1, 2])])
    (single, _), _ = program(
        params, {n: x[np.array([1, 1, 1])] for n, x in batch.items()}, keys[np.array([1, 1, 1])]
    )
    np.testing.assert_allclose(loss, doubled - single / 3, rtol=1e-4)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((aux, gradient)))


def test_nothing_observed_is_an_error_where_it_can_be_seen():
    model = linear_model("holder")
    batch = random_batch(model, 2) | {"mask": np.array([[True, True, True], [False] * 3])}
    with pytest.raises(ValueError, match="no expert is present"):
        model.loss(random_params(model), batch, jax.random.key(0))
