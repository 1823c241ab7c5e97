"""The objective by brute force, in float64 NumPy: every component, Gauss-Hermite over the latents.

Nothing of holderjax is used but the names of the parameters. Multisets and their integrals follow
the multinomial expansion; expectations over z and w are sums over tensor grids.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from itertools import product as all_of
from math import factorial, log, pi
from typing import NamedTuple

import numpy as np


class Terms(NamedTuple):
    """What each component k contributes, for one example.

    Attributes:
      weights: pi, [K].
      reconstruction: E log p(x_n | z, w_n), weighted, [M, K].
      kl_z: of the estimator asked for, [K].
      kl_private: zero for non-members, [M, K].
      members: [K, M].
    """

    weights: np.ndarray
    reconstruction: np.ndarray
    kl_z: np.ndarray
    kl_private: np.ndarray
    members: np.ndarray

    def values(self, beta):
        """The bound of each component, [K]."""
        kl = self.kl_z + self.kl_private.sum(axis=0)
        return self.reconstruction.sum(axis=0) - beta * kl

    def loss(self, beta, weights=None):
        return -(self.weights if weights is None else weights) @ self.values(beta)


def affine(layer, x):
    return x @ layer["kernel"] + layer.get("bias", 0.0)


def gaussian(head, features):
    mean, log_var = np.split(affine(head["linear"], features), 2, axis=-1)
    return mean, np.exp(log_var)


def log_normal(x, mean, var):
    return -0.5 * np.sum((x - mean) ** 2 / var + np.log(2 * pi * var), axis=-1)


def kl_to_standard(mean, var):
    return 0.5 * np.sum(var + mean**2 - 1 - np.log(var), axis=-1)


def grid(dim, nodes):
    """Points [Q, dim] and weights [Q] that integrate against N(0, I)."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    return (
        np.array(list(all_of(points, repeat=dim))),
        np.array([np.prod(w) for w in all_of(weights, repeat=dim)]),
    )


def holder_components(means, variances, order=2):
    """Weights [K], means and variances [K, D] and members [K, M] of the pool, uniform weights."""
    experts = range(len(means))
    multisets = list(combinations_with_replacement(experts, order))
    multisets.sort(key=lambda k: (len(set(k)), k))
    rows = []
    for k in multisets:
        counts = np.array([k.count(j) for j in experts])
        a = (counts / order)[:, None]
        precision = np.sum(a / variances, axis=0)
        mean = np.sum(a * means / variances, axis=0) / precision
        log_mass = np.log(factorial(order) / np.prod([factorial(c) for c in counts])) + np.sum(
            np.sum(a * (-0.5 * np.log(2 * pi * variances) - means**2 / (2 * variances)), axis=0)
            + 0.5 * np.log(2 * pi / precision)
            + 0.5 * mean**2 * precision
        )
        rows.append((np.exp(log_mass), mean, 1 / precision, counts > 0))
    mass, mean, variance, members = (np.stack(column) for column in zip(*rows, strict=True))
    return mass / mass.sum(), mean, variance, members


def product(means, variances):
    """The normalised product, [D] each."""
    precision = np.sum(1 / variances, axis=0)
    return np.sum(means / variances, axis=0) / precision, 1 / precision


def poe_components(means, variances):
    """One component: the product with a prior expert N(0, I)."""
    zeros, ones = np.zeros_like(means[:1]), np.ones_like(means[:1])
    m, v = product(np.concatenate([means, zeros]), np.concatenate([variances, ones]))
    return np.ones(1), m[None], v[None], np.ones((1, len(means)), bool)


def hellinger_components(means, variances):
    """One component: the moments of the exact pool of order 2."""
    weights, m, v, _ = holder_components(means, variances)
    mean = weights @ m
    variance = weights @ (v + m**2) - mean**2
    return np.ones(1), mean[None], variance[None], np.ones((1, len(means)), bool)


def over_subsets(pool):
    """The uniform mixture of what ``pool`` makes of every non-empty subset."""

    def components(means, variances):
        rows = []
        for members in list(all_of((False, True), repeat=len(means)))[1:]:
            s = np.array(members)
            m, v = pool(means[s], variances[s])
            rows.append((1.0, m, v, s))
        mass, mean, variance, members = (np.stack(column) for column in zip(*rows, strict=True))
        return mass / mass.sum(), mean, variance, members

    return components


POOLS = {
    "poe": poe_components,
    "moe": lambda means, variances: holder_components(means, variances, order=1),
    "mopoe": over_subsets(product),
    "hellinger": hellinger_components,
    "mohellinger": over_subsets(lambda m, v: tuple(x[0] for x in hellinger_components(m, v)[1:3])),
    "holder": holder_components,
}


def private_posterior(net, x, z):
    """Mean and variance [Q, P] of w at points z [Q, D]."""
    features, head = affine(net["private_encoder"]["linear"], x), net["private_head"]
    if "linear" in head:
        return tuple(np.broadcast_to(v, (len(z), v.shape[-1])) for v in gaussian(head, features))
    hidden = affine(head["features"], features) + affine(head["context"], z)
    return gaussian(head["output"], np.maximum(hidden, 0.0))


def terms(
    params,
    modalities,
    example,
    *,
    kl,
    order=2,
    aggregator="holder",
    observed=None,
    prior=None,
    cross="auxiliary",
    private_kl=True,
    nodes=20,
):
    """The exact expectation of every component's terms for one example.

    Args:
      params: nested dicts of float64 arrays, of `linear_models` networks.
      modalities: by name, with Gaussian likelihoods; those that the example lacks are absent.
      example: arrays [*shape] by name.
      kl: the estimator of KL_z.
      order: of the pool.
      aggregator: a key of `POOLS`.
      observed: names of the experts to pool, all that the example has if None.
      prior: weights [C], means and variances [C, D] of p(z), N(0, I) if None.
      cross: where non-members' w comes from; ``posterior`` is a mistake that a test must see.
      private_kl: whether members pay the KL of their w; False is another mistake.
      nodes: of the quadrature along each dimension of z.
    """
    nets = params["modalities"]
    names = [name for name in modalities if name in example]
    x = {name: np.asarray(example[name], np.float64).reshape(-1) for name in names}
    experts = [
        gaussian(nets[name]["head"], affine(nets[name]["encoder"]["linear"], x[name]))
        for name in (observed or names)
    ]
    means, variances = (np.stack(column) for column in zip(*experts, strict=True))
    if aggregator == "holder":
        weights, m, v, members = holder_components(means, variances, order)
    else:
        weights, m, v, members = POOLS[aggregator](means, variances)
    if observed:
        seen = np.zeros((len(members), len(names)), bool)
        seen[:, [names.index(name) for name in observed]] = members
        # A single component has seen all that there is (DMVAE's cross terms).
        members = np.ones_like(seen) if len(members) == 1 else seen
    points, mass = grid(m.shape[-1], nodes)

    def log_density(z):
        components = zip(weights, m, v, strict=True)
        return np.logaddexp.reduce([log(p) + log_normal(z, a, b) for p, a, b in components])

    def log_prior(z):
        if prior is None:
            return log_normal(z, 0.0, np.ones(z.shape[-1]))
        return np.logaddexp.reduce(
            [log(p) + log_normal(z, a, b) for p, a, b in zip(*prior, strict=True)]
        )

    reconstruction, kl_private = np.zeros((2, len(names), len(weights)))
    kl_z = kl_to_standard(m, v)
    for k in range(len(weights)):
        z = m[k] + np.sqrt(v[k]) * points
        if kl == "mixture" or prior is not None:
            log_q = log_density(z) if kl == "mixture" else log_normal(z, m[k], v[k])
            kl_z[k] = mass @ (log_q - log_prior(z))
        for n, name in enumerate(names):
            net, modality = nets[name], modalities[name]
            latents, latent_mass = z[:, None], np.ones(1)
            if "private_head" in net:
                mean, variance = private_posterior(net, x[name], z)
                if members[k, n] and private_kl:
                    kl_private[n, k] = mass @ kl_to_standard(mean, variance)
                if not members[k, n] and cross == "auxiliary":
                    mean, variance = 0 * mean, 0 * mean + np.exp(2 * net["log_auxiliary_scale"])
                # The decoder is linear, so the integrand is quadratic in w: 2 nodes are exact.
                w_points, latent_mass = grid(mean.shape[-1], 2)
                w = mean[:, None] + np.sqrt(variance)[:, None] * w_points
                z_again = np.broadcast_to(z[:, None], (*w.shape[:2], z.shape[-1]))
                latents = np.concatenate([z_again, w], axis=-1)
            output = affine(net["decoder"]["linear"], latents)
            scale = np.full(x[name].shape, modality.likelihood.scale)
            log_prob = log_normal(x[name], output, scale**2)
            reconstruction[n, k] = modality.weight * (mass @ log_prob @ latent_mass)
    return Terms(weights, reconstruction, kl_z, kl_private, members)
