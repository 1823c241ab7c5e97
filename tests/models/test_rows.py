"""Every row of the table against brute force, against its neighbours, and on incomplete data."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linear_models import (
    MODALITIES,
    in_float64,
    linear_modality,
    linear_model,
    quick_jit,
    random_batch,
    random_params,
    with_leaves,
)
from numpy_objective import (
    POOLS,
    affine,
    gaussian,
    kl_to_standard,
    log_normal,
    poe_components,
    terms,
)

from holderjax.models import SYSTEMS, System
from holderjax.pooling import DiagGaussian, holder_pool

KEYS = 4096
BETA = 1.5
NAMES = tuple(MODALITIES)
KEY = jax.random.key(0)


@partial(quick_jit, static_argnums=(0, 4))
def losses(model, params, batch, keys, beta):
    return jax.lax.map(lambda key: model.loss(params, batch, key, beta)[0], keys, batch_size=512)


# One of each kind of aggregator, prior and bound; all rows are among the slow tests.
KINDS = ("mvae", "mopoe", "cmvae", "holder++", "hmvae", "masked-attention")


def some(systems):
    """The systems, those beyond `KINDS` as slow tests."""
    return [
        name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in systems
    ]


def draws(model, params, batch, keys=KEYS, beta=BETA):
    """The loss under many keys."""
    return np.asarray(losses(model, params, batch, jax.random.split(KEY, keys), beta), np.float64)


def distance(found, expected, slack=5e-3):
    """Between a mean over keys and a number, in standard errors."""
    error = found.std() / np.sqrt(len(found))
    return max(abs(found.mean() - expected) - slack, 0.0) / error


def examples(batch, names=NAMES):
    size = len(next(iter(batch.values())))
    return [{name: np.asarray(batch[name][i]) for name in names} for i in range(size)]


def prior_of(params):
    prior = in_float64(params["prior"])
    weights = np.exp(prior["logits"]) / np.exp(prior["logits"]).sum()
    return weights, prior["mean"], np.exp(prior["log_var"])


# --- against brute force

JOINT = [
    name
    for name, row in SYSTEMS.items()
    if row.aggregator in POOLS and row.decoders == "all" and not name.startswith("holder")
]


@pytest.mark.parametrize("system", JOINT)
def test_the_term_of_the_whole_is_the_brute_force_expectation(system):
    row = SYSTEMS[system]
    model = linear_model(system, bound="joint", importance_samples=1, clusters=3)
    params, batch = random_params(model, seed=6), random_batch(model, 2)
    params = with_leaves(params, {"prior/mean": [[2.0, 1.0], [1.0, 2.0], [2.0, 2.0]]})
    prior = prior_of(params) if row.prior == "mixture" else None

    def expected(**changes):
        options = {"kl": row.kl, "aggregator": row.aggregator, "prior": prior} | changes
        each = [terms(in_float64(params), MODALITIES, x, **options) for x in examples(batch)]
        return np.mean([t.loss(BETA) for t in each])

    found = draws(model, params, batch)
    assert distance(found, expected()) < 4
    assert distance(found, expected(aggregator="moe" if row.aggregator != "moe" else "holder")) > 5
    if prior is not None:
        assert distance(found, expected(prior=None)) > 8


@pytest.mark.parametrize(
    "system", ["holder++", *(pytest.param(s, marks=pytest.mark.slow) for s in ("mvae", "mmvae+"))]
)
def test_the_subsampled_bound_adds_every_single_modality(system):
    row = SYSTEMS[system]
    model = linear_model(system, bound="subsets")
    params, batch = random_params(model, seed=6), random_batch(model, 2)

    def bound(names):
        each = [
            terms(in_float64(params), MODALITIES, x, kl=row.kl, aggregator=row.aggregator)
            for x in examples(batch, names)
        ]
        return np.mean([t.loss(BETA) for t in each])

    expected = bound(NAMES) + sum(bound([name]) for name in NAMES)
    found = draws(model, params, batch)
    assert distance(found, expected) < 4
    # Random subsets add the mean over what may be drawn: sizes first, then subsets of that size.
    more = draws(linear_model(system, bound="subsets", random_subsets=2), params, batch)
    sizes = [np.mean([bound(s) for s in combinations(NAMES, n)]) for n in (1, 2, 3)]
    assert distance(more, expected + 2 * np.mean(sizes)) < 4


def test_the_crossed_bound_decodes_everything_from_every_single_modality():
    model = linear_model("dmvae")
    params, batch = random_params(model, seed=6), random_batch(model, 2)
    expected = 0.0
    for observed in (None, *([name] for name in NAMES)):
        each = [
            terms(
                *(in_float64(params), MODALITIES, x),
                kl="components",
                aggregator="poe",
                observed=observed,
            )
            for x in examples(batch)
        ]
        expected += np.mean([t.loss(BETA) for t in each])
    assert distance(draws(model, params, batch), expected) < 4


def kl(m, v, mean, variance):
    return 0.5 * np.sum(np.log(variance / v) + (v + (m - mean) ** 2) / variance - 1)


def test_the_masked_bound_is_the_mean_over_subsets():
    # With PoE, whose posteriors are at hand: S explains itself, the whole explains the rest.
    model = linear_model("mvae", bound="masked")
    params, batch = random_params(model, seed=6), random_batch(model, 2)
    nets = in_float64(params)["modalities"]

    def posterior(x, names):
        each = [
            gaussian(nets[n]["head"], affine(nets[n]["encoder"]["linear"], x[n].reshape(-1)))
            for n in names
        ]
        _, m, v, _ = poe_components(*(np.stack(column) for column in zip(*each, strict=True)))
        return m[0], v[0]

    def log_likelihood(x, names, m, v):
        total = 0.0
        for n in names:
            # The expectation of a Gaussian log-density whose mean is linear in z.
            layer, scale = nets[n]["decoder"]["linear"], MODALITIES[n].likelihood.scale
            flat = x[n].reshape(-1)
            at_mean = log_normal(flat, affine(layer, m), np.full(flat.shape, scale**2))
            spread = np.sum(layer["kernel"].T ** 2 * v) / scale**2
            total += MODALITIES[n].weight * (at_mean - 0.5 * spread)
        return total

    def bound(x, some):
        (m, v), (mean, variance) = posterior(x, some), posterior(x, NAMES)
        rest = [n for n in NAMES if n not in some]
        return (
            log_likelihood(x, some, m, v)
            - BETA * kl_to_standard(m, v)
            + log_likelihood(x, rest, mean, variance)
            - BETA * kl(mean, variance, m, v)
        )

    expected = -np.mean(
        [
            np.mean([bound(x, s) for s in combinations(NAMES, size)])
            for x in examples(batch)
            for size in (1, 2, 3)
        ]
    )
    assert distance(draws(model, params, batch), expected) < 4


def test_importance_samples_close_the_gap_to_the_log_likelihood():
    model = partial(linear_model, "mmvae", {"a": linear_modality((2,), scale=0.8)})
    params, batch = random_params(model()), random_batch(model(), 4)
    layer = in_float64(params)["modalities"]["a"]["decoder"]["linear"]
    covariance = layer["kernel"].T @ layer["kernel"] + 0.64 * np.eye(2)
    difference = np.asarray(batch["a"], np.float64) - layer["bias"]
    exact = -0.5 * np.einsum("bi,ij,bj->b", difference, np.linalg.inv(covariance), difference)
    exact = np.mean(exact - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1])
    gaps = [
        exact + draws(model(importance_samples=s), params, batch, keys, beta=1.0).mean()
        for s, keys in ((1, 512), (10, 512), (1000, 16))
    ]
    assert gaps[0] > 3 * gaps[1] > 3 * gaps[2]
    assert abs(gaps[2]) < 0.02


def test_a_vae_of_one_modality_is_mopoe_at_m_1():
    model = linear_model("mopoe", {"a": MODALITIES["a"]})
    params, batch = random_params(model), random_batch(model, 3)
    net = in_float64(params)["modalities"]["a"]
    x = np.asarray(batch["a"], np.float64)
    m, v = gaussian(net["head"], affine(net["encoder"]["linear"], x))
    layer, scale = net["decoder"]["linear"], MODALITIES["a"].likelihood.scale
    log_likelihood = log_normal(x, affine(layer, m), np.full(2, scale**2))
    log_likelihood -= 0.5 * (v @ layer["kernel"] ** 2).sum(axis=-1) / scale**2
    expected = -np.mean(log_likelihood - BETA * kl_to_standard(m, v))
    assert distance(draws(model, params, batch), expected) < 4


# --- against each other


def same_loss(one, other, params, other_params=None):
    batch = random_batch(one, 4)
    results = [
        quick_jit(model.loss)(p, batch, KEY, BETA)
        for model, p in ((one, params), (other, other_params or params))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *results)


@pytest.mark.parametrize(("holder", "moe"), [("holder", "mmvae"), ("holder+", "mmvae+")])
def test_holder_at_order_1_is_the_mixture_of_experts_term_by_term(holder, moe):
    one = linear_model(holder, order=1, kl="mixture")
    other = linear_model(moe, importance_samples=1)
    same_loss(one, other, random_params(one))


@pytest.mark.parametrize("system", ["holder+", "holder++"])
def test_one_cluster_at_the_origin_is_no_mixture_prior(system):
    plain, clustered = linear_model(system), linear_model(f"c{system}", clusters=1)
    params = random_params(plain)
    prior = {"logits": jnp.zeros(1), "mean": jnp.zeros((1, 2)), "log_var": jnp.zeros((1, 2))}
    same_loss(plain, clustered, params, params | {"prior": prior})


def test_mmvae_plus_without_private_latents_is_mmvae():
    one = linear_model("mmvae+", private_dim=0, importance_samples=10)
    same_loss(one, linear_model("mmvae"), random_params(one))


def test_helvae_has_the_moments_of_the_exact_pool():
    helvae, holder = linear_model("helvae"), linear_model("holder")
    params, batch = random_params(helvae), random_batch(helvae, 5)
    one, pool = helvae.encode(params, batch), holder.encode(params, batch)
    np.testing.assert_allclose(one.mean(), pool.mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.variance(), pool.variance(), rtol=1e-5)


def test_a_new_row_is_a_row_and_nothing_else(monkeypatch):
    row = System("here", "holder", "private", "mixture", order=3, clusters=4)
    monkeypatch.setitem(SYSTEMS, "cubic", row)
    model = linear_model("cubic")
    params, batch = model.init(KEY), random_batch(model, 16)
    assert model.encode(params, batch).log_weights.shape == (10, 16)
    optimizer = optax.adam(3e-2)

    def step(carry, key):
        params, state = carry
        loss, gradient = jax.value_and_grad(lambda p: model.loss(p, batch, key)[0])(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), loss

    start = (params, optimizer.init(params))
    _, losses = quick_jit(partial(jax.lax.scan, step))(start, jax.random.split(KEY, 60))
    assert losses[-5:].mean() < 0.8 * losses[:5].mean()


# --- learned parts of rows


def test_learned_weights_start_uniform_and_then_weigh_the_pool():
    plain, learned = linear_model("holder"), linear_model("holder", expert_weights="learned")
    params = random_params(plain) | {"aggregator": {"logits": jnp.zeros(3)}}
    same_loss(plain, learned, random_params(plain), params)
    logits = jnp.array([0.5, -1.0, 0.2])
    params["aggregator"]["logits"] = logits
    batch = random_batch(plain, 5)
    experts = [
        gaussian(
            params["modalities"][n]["head"],
            affine(params["modalities"][n]["encoder"]["linear"], batch[n].reshape(5, -1)),
        )
        for n in NAMES
    ]
    mean, variance = (np.stack(column) for column in zip(*experts, strict=True))
    expected = holder_pool(DiagGaussian(mean, np.log(variance)), weights=jax.nn.softmax(logits))
    found = learned.encode(params, batch)
    np.testing.assert_allclose(found.log_weights, expected.log_weights, rtol=1e-4, atol=1e-4)
    gradient = quick_jit(jax.grad(lambda p: learned.loss(p, batch, KEY)[0]))(params)
    assert (jnp.abs(gradient["aggregator"]["logits"]) > 1e-3).all()


def test_laplace_latents_give_the_bound_in_closed_form():
    model = linear_model("mmvae+", family="laplace", kl="components")
    params, batch = random_params(model), random_batch(model, 1)
    x = {name: np.asarray(batch[name][0]).ravel() for name in NAMES}
    nets = in_float64(params["modalities"])

    def posterior(net, encoder, head):
        mean, raw = np.split(affine(net[head]["linear"], affine(net[encoder]["linear"], x[n])), 2)
        return mean, 2 * np.exp(raw) / np.exp(raw).sum() + 1e-6

    def divergence(mean, scale):
        return (abs(mean) + scale * np.exp(-abs(mean) / scale) - np.log(scale) - 1).sum()

    z, w, r = {}, {}, {}
    for n, net in nets.items():
        z[n], w[n] = (
            posterior(net, "encoder", "head"),
            posterior(net, "private_encoder", "private_head"),
        )
        tau = np.exp(2 * net["log_auxiliary_scale"])
        r[n] = np.zeros(2), 2 * tau / tau.sum() + 1e-6
    expected = 0.0
    for k in NAMES:
        for n, net in nets.items():
            private, scale = w[n] if n == k else r[n], MODALITIES[n].likelihood.scale
            mean, spread = (np.concatenate(pair) for pair in zip(z[k], private, strict=True))
            layer = net["decoder"]["linear"]
            # A Laplace variable of scale b has the variance 2 b^2.
            variance = scale**2 + 2 * np.square(spread) @ np.square(layer["kernel"])
            error = np.square(x[n] - affine(layer, mean)) + variance - scale**2
            log_prob = -0.5 * (error / scale**2 + np.log(2 * np.pi * scale**2)).sum()
            expected += MODALITIES[n].weight * log_prob / len(NAMES)
        expected -= BETA * (divergence(*z[k]) + divergence(*w[k])) / len(NAMES)
    found = draws(model, params, batch)
    assert distance(found, -expected) < 4
    assert found.std() / np.sqrt(len(found)) < 0.02 * abs(expected)


def test_pruned_clusters_are_gone_for_good():
    model = linear_model("cmvae", clusters=3)
    params, batch = random_params(model), random_batch(model, 6)
    pruned = model.prune_clusters(params, jnp.array([0.6, 0.001, 0.399]))
    probabilities = model.clusters(pruned, KEY, batch)
    assert (probabilities[:, 1] == 0).all()
    kept = model.clusters(params, KEY, batch)[:, ::2]
    assert (jnp.argsort(kept) == jnp.argsort(probabilities[:, ::2])).all()
    gradient = quick_jit(jax.grad(lambda p: model.loss(p, batch, KEY)[0]))(pruned)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert gradient["prior"]["logits"][1] == 0
    assert (gradient["prior"]["mean"][1] == 0).all()
    with pytest.raises(ValueError, match=r"no cluster has a share of 0\.9"):
        model.prune_clusters(params, jnp.array([0.6, 0.001, 0.399]), 0.9)
    with pytest.raises(ValueError, match=r"shares: expected the shape \(3,\), got \(2,\)"):
        model.prune_clusters(params, jnp.array([0.6, 0.4]))
    plain = linear_model("holder")
    with pytest.raises(ValueError, match="the prior of this system is 'normal'"):
        plain.prune_clusters(random_params(plain), jnp.ones(10))


def test_clusters_are_assigned_by_the_exact_posterior():
    model = linear_model("cmvae", clusters=3)
    params, batch = random_params(model), random_batch(model, 6)
    # Experts next to certain of z = 0: p(c | 0) by hand.
    params = with_leaves(params, {"head/linear/kernel": 0.0, "head/linear/bias": [0, 0, -20, -20]})
    weights, mean, variance = prior_of(params)
    joint = weights * np.exp(
        [log_normal(np.zeros(2), m, v) for m, v in zip(mean, variance, strict=True)]
    )
    found = model.clusters(params, KEY, batch)
    np.testing.assert_allclose(found, np.tile(joint / joint.sum(), (6, 1)), rtol=1e-3)


def test_a_conditional_prior_is_what_absent_private_latents_are_drawn_from():
    model = linear_model("holder++", private_prior="conditional", private_dim=1)
    params, batch = random_params(model), random_batch(model, 4)
    head = {"prior_head/linear/kernel": 0.0, "prior_head/linear/bias": [7.0, -25.0]}
    decoder = {"b/decoder/linear/kernel": [[0.0], [0.0], [1.0]], "b/decoder/linear/bias": 0.0}
    params = with_leaves(params, head | decoder)
    np.testing.assert_allclose(model.generate(params, KEY, batch, ("a",))["b"], 7.0, atol=1e-3)
    np.testing.assert_allclose(model.sample(params, KEY, 5)["b"], 7.0, atol=1e-3)


def test_decoders_of_hmvae_see_private_latents_alone():
    model = linear_model("hmvae", latent_dim=5, private_dim=3)
    kernel = model.init(KEY)["modalities"]["a"]["decoder"]["linear"]["kernel"]
    assert kernel.shape == (3, 2)


@pytest.mark.parametrize("system", SYSTEMS)
def test_parameters_keep_their_types_over_a_step_so_that_it_compiles_once(system):
    model = linear_model(system, expert_weights="learned")
    params = model.init(KEY)
    assert not [leaf for leaf in jax.tree.leaves(params) if leaf.weak_type]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


# --- incomplete data


@pytest.mark.parametrize("system", some(SYSTEMS))
def test_absent_modalities_are_as_if_they_had_never_been(system):
    full = linear_model(system)
    present = {name: MODALITIES[name] for name in ("a", "c")}
    subset = linear_model(system, present)
    params, batch = random_params(full, seed=3), random_batch(full, 2)
    kept = params | {"modalities": {name: params["modalities"][name] for name in present}}
    everything = jnp.ones((2, 3), bool)
    mask = everything.at[:, 1].set(False)
    absent = batch | {"b": jnp.full_like(batch["b"], jnp.nan), "mask": mask}
    # 256 units of attention make draws slow.
    count = 128 if SYSTEMS[system].aggregator == "attention" else 1024
    masked = draws(full, params, absent, count)
    without = draws(subset, kept, {name: batch[name] for name in present}, count)
    error = np.sqrt((masked.var() + without.var()) / count)
    assert abs(masked.mean() - without.mean()) < 4 * error + 1e-3
    whole = draws(full, params, batch | {"mask": everything}, count)
    assert abs(masked.mean() - whole.mean()) > 8 * error
    gradient = quick_jit(jax.grad(lambda p: full.loss(p, absent, KEY)[0]))(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient["modalities"]["b"]))


def test_every_option_out_of_range_is_named():
    for options, message in (
        ({"bound": "mask"}, "unknown bound 'mask': did you mean 'masked'"),
        ({"importance_samples": 0}, "importance_samples: expected an integer of at least 1, got 0"),
        ({"clusters": 0}, "clusters: expected an integer of at least 1, got 0"),
        ({"expert_weights": "learnt"}, "unknown expert_weights 'learnt': did you mean 'learned'"),
        ({"sampels": 3}, "unknown option 'sampels'"),
        ({"family": "laplace"}, "family: 'laplace' needs a mixture of experts, .* 'holder'"),
    ):
        with pytest.raises(ValueError, match=message):
            linear_model("holder", **options)
    assert replace(SYSTEMS["holder"], order=3) == linear_model("holder", order=3).system
