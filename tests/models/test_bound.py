"""The bound is a bound: on a linear Gaussian model the log-likelihood is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_models import (
    MODALITIES,
    in_float64,
    linear_modality,
    linear_model,
    quick_jit,
    random_params,
    with_leaves,
)
from scipy.stats import multivariate_normal

from holderjax.models import SYSTEMS

# Rows whose likelihood is the linear Gaussian's and whose experts are Gaussian posteriors.
ROWS = [
    name
    for name, row in SYSTEMS.items()
    if row.prior == "normal" and row.decoders == "all" and row.bound != "masked"
]
KEYS = 64
BATCH = 64
PLAIN = {name: linear_modality(m.shape, m.likelihood.scale) for name, m in MODALITIES.items()}


def decoders(params, modalities, latent_dim):
    """x = A z + B w + b + noise of every modality, as (A, B, b, noise variance)."""
    found = []
    for name, modality in modalities.items():
        layer = in_float64(params["modalities"][name]["decoder"]["linear"])
        kernel = layer["kernel"].T
        variance = modality.likelihood.scale**2 * np.eye(len(kernel))
        found.append((kernel[:, :latent_dim], kernel[:, latent_dim:], layer["bias"], variance))
    return found


def marginal(params, modalities, latent_dim):
    """Mean and covariance of the joint p(X), all modalities flattened one after the other."""
    a, own, bias = [], [], []
    for loading, private, b, noise in decoders(params, modalities, latent_dim):
        a.append(loading)
        own.append(private @ private.T + noise)
        bias.append(b)
    a, size = np.concatenate(a), sum(len(block) for block in own)
    covariance, at = a @ a.T, 0
    for block in own:
        covariance[at : at + len(block), at : at + len(block)] += block
        at += len(block)
    assert at == size
    return np.concatenate(bias), covariance


def draw(mean, covariance, modalities):
    flat = np.random.default_rng(0).multivariate_normal(mean, covariance, BATCH)
    sizes = np.cumsum([np.prod(m.shape) for m in modalities.values()])[:-1]
    parts = zip(modalities.items(), np.split(flat, sizes, axis=1), strict=True)
    return flat, {
        name: jnp.asarray(x.reshape(BATCH, *m.shape), jnp.float32) for (name, m), x in parts
    }


def posterior_map(loading, bias, noise):
    """Mean G x + g and precision of a standard normal u, given x = loading u + bias + noise."""
    precision = np.eye(loading.shape[1]) + loading.T @ np.linalg.solve(noise, loading)
    gain = np.linalg.solve(precision, np.linalg.solve(noise, loading).T)
    return gain, -gain @ bias, precision


def write(params, prefix, gain, offset, precision):
    """Parameters of a linear encoder and its head: the best diagonal Gaussian of that posterior."""
    dim, size = gain.shape
    kernel, bias = np.zeros((size, 3)), np.zeros(3)
    kernel[:, :dim], bias[:dim] = gain.T, offset
    head = np.zeros((3, 2 * dim))
    head[:dim, :dim] = np.eye(dim)
    return with_leaves(
        params,
        {
            f"{prefix}encoder/linear/kernel": kernel,
            f"{prefix}encoder/linear/bias": bias,
            f"{prefix}head/linear/kernel": head,
            f"{prefix}head/linear/bias": [*np.zeros(dim), *-np.log(np.diag(precision))],
        },
    )


def with_good_encoders(params, modalities, system, latent_dim):
    """Encoders that know the model: q(z | x_n) and q(w_n | x_n), or q(w_n | x_n, z), exact."""
    rows = decoders(params, modalities, latent_dim)
    for name, (a, own, bias, noise) in zip(modalities, rows, strict=True):
        shared = posterior_map(a, bias, own @ own.T + noise)
        params = write(params, f"{name}/", *shared)
        if SYSTEMS[system].latents == "private":
            params = write(params, f"{name}/private_", *posterior_map(own, bias, a @ a.T + noise))
        if SYSTEMS[system].latents == "hierarchical":
            gain, offset, precision = posterior_map(own, bias, noise)
            params = write_conditional(params, name, gain, offset, precision, a)
    return params


def write_conditional(params, name, gain, offset, precision, a):
    """The mean G (x - A z - b), linear, in a hidden layer of ReLU: relu(h) - relu(-h) = h."""
    dim, size = gain.shape
    net = params["modalities"][name]
    hidden = net["private_head"]["context"]["kernel"].shape[1]
    encoder, features = np.zeros((size, 3)), np.zeros((3, hidden))
    encoder[:, :dim] = gain.T
    signs = np.concatenate([np.eye(dim), -np.eye(dim)], axis=1)
    features[:dim, : 2 * dim] = signs
    bias, context = np.zeros(hidden), np.zeros((a.shape[1], hidden))
    bias[: 2 * dim], context[:, : 2 * dim] = offset @ signs, -(gain @ a).T @ signs
    output = np.zeros((hidden, 2 * dim))
    output[: 2 * dim, :dim] = signs.T
    return with_leaves(
        params,
        {
            f"{name}/private_encoder/linear/kernel": encoder,
            f"{name}/private_encoder/linear/bias": 0.0,
            f"{name}/private_head/features/kernel": features,
            f"{name}/private_head/features/bias": bias,
            f"{name}/private_head/context/kernel": context,
            f"{name}/private_head/output/linear/kernel": output,
            f"{name}/private_head/output/linear/bias": [
                *np.zeros(dim),
                *-np.log(np.diag(precision)),
            ],
        },
    )


def bounds(system, order, modalities, latent_dim, private_dim):
    """The bound of random and of good encoders by KL estimator, and the log-likelihood.

    Bounds are means over the same examples, [encoders, keys]; the log-likelihood is their mean too.
    """
    # The other bounds are sums over subsets; their term of the whole is this one.
    sizes = {"latent_dim": latent_dim, "private_dim": private_dim, "order": order, "bound": "joint"}
    by_kl = {
        kl: linear_model(system, modalities, kl=kl, **sizes) for kl in ("components", "mixture")
    }
    model = by_kl["mixture"]
    # With tau = 1 the auxiliary r is the prior p(w), and the objective bounds p(X) itself.
    params = with_leaves(random_params(model), {"log_auxiliary_scale": 0.0})
    good = with_good_encoders(params, modalities, system, latent_dim)
    mean, covariance = marginal(params, modalities, latent_dim)
    flat, batch = draw(mean, covariance, modalities)

    @quick_jit
    @jax.vmap
    def losses(params):
        keys = jax.random.split(jax.random.key(0), KEYS)
        each = jax.vmap(lambda key: [by_kl[kl].loss(params, batch, key)[0] for kl in by_kl])
        return each(keys)

    found = losses(jax.tree.map(lambda *p: jnp.stack(p), params, good))
    by_kl = {kl: -np.asarray(x, np.float64) for kl, x in zip(by_kl, found, strict=True)}
    return by_kl, multivariate_normal(mean, covariance).logpdf(flat).mean()


def standard_error(draws):
    return draws.std(axis=-1) / np.sqrt(draws.shape[-1])


@pytest.mark.parametrize(
    ("system", "order"), [*((system, 2) for system in ROWS), ("holder++", 1), ("holder+", 3)]
)
def test_no_encoder_lifts_the_bound_over_the_log_likelihood(system, order):
    bound, log_likelihood = bounds(system, order, PLAIN, latent_dim=2, private_dim=2)
    for draws in bound.values():
        assert (draws.mean(axis=-1) <= log_likelihood + 4 * standard_error(draws)).all()
        gap = log_likelihood - draws.mean(axis=-1)
        assert gap[1] < gap[0], "good encoders come closer"
        assert gap[1] < 4, gap
    # The KL of a mixture is at most the mean KL of its components.
    difference = bound["mixture"] - bound["components"]
    assert (difference.mean(axis=-1) >= -4 * standard_error(difference)).all()


@pytest.mark.parametrize("system", ["holder", "holder+", "holder++"])
def test_the_bound_is_tight_for_one_modality_where_its_true_posterior_has_the_form(system):
    # One number, little noise: given x, z and w hang together. q(z | x) q(w | x, z) can be the
    # true posterior, q(z | x) q(w | x) cannot.
    modality = {"a": linear_modality((1,), scale=0.1)}
    bound, log_likelihood = bounds(system, 2, modality, latent_dim=1, private_dim=1)
    for draws in bound.values():
        gap, error = log_likelihood - draws[1].mean(), standard_error(draws[1])
        if system == "holder+":
            assert gap > 8 * error
        else:
            assert abs(gap) < 4 * error + 1e-4
            assert error < 0.02
    assert log_likelihood - bound["mixture"][0].mean() > 0.2


@pytest.mark.parametrize("system", ["mmvae", "holder+", "holder++", "helvae"])
def test_the_importance_weighted_likelihood_is_the_exact_one(system):
    model = linear_model(system)
    params = with_good_encoders(random_params(model), MODALITIES, system, 2)
    mean, covariance = marginal(params, MODALITIES, 2)
    flat, batch = draw(mean, covariance, MODALITIES)
    estimate = quick_jit(lambda batch, key: model.log_likelihood(params, batch, key, 2048))
    exact = multivariate_normal(mean, covariance).logpdf(flat)
    found = np.asarray(estimate(batch, jax.random.key(1)))
    np.testing.assert_allclose(found, exact, atol=0.5)
    assert found.mean() == pytest.approx(exact.mean(), abs=0.05)
    # b absent, and anything in its place: the marginal of a and c, elements 0, 1 and 3 to 6.
    mask = np.tile([True, False, True], (BATCH, 1))
    absent = batch | {"b": jnp.full_like(batch["b"], jnp.nan), "mask": jnp.asarray(mask)}
    kept = np.array([0, 1, 3, 4, 5, 6])
    exact = multivariate_normal(mean[kept], covariance[np.ix_(kept, kept)]).logpdf(flat[:, kept])
    found = np.asarray(estimate(absent, jax.random.key(1)))
    assert found.mean() == pytest.approx(exact.mean(), abs=0.05)
