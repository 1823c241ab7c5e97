r"""The one objective of every system, in the order of Hölder++, section 3.

With components k of the pooled posterior, :math:`z_k \sim q_k`, and members(k) the modalities that
component k has seen:

.. math::
  L(X) = \sum_k \pi_k \, E\Big[ \sum_n \log p(x_n | z_k, w_n)
    - \beta \Big\{ \mathrm{KL}_z(k)
    + \sum_{n \in \mathrm{members}(k)} \mathrm{KL}\big(q(w_n|\cdot) \,\|\, p(w_n)\big) \Big\} \Big]

where :math:`w_n \sim q(w_n | x_n)` or :math:`q(w_n | x_n, z_k)` for members and
:math:`w_n \sim r_n = N(0, \tau_n^2)` for the others: a modality that component k has not seen must
be reconstructed from z alone (MMVAE+'s shortcut avoidance). With :math:`\tau_n = 1` and
:math:`\beta = 1` this bounds log p(X) from below; a learned :math:`\tau_n` bounds the likelihood of
the model whose cross-reconstructions see :math:`r_n` in place of p(w).

Arrays are component first: [K, B, ...], with C in place of K under a component budget.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from holderjax.models.aggregators import Aggregator
from holderjax.models.modality import Modality, ModalityNetworks
from holderjax.models.systems import Kl
from holderjax.pooling import DiagGaussian, PooledPosterior
from holderjax.pooling.gaussian import standard_normal
from holderjax.pooling.mixture import gather

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, PRNGKeyArray

Params = Any
Batch = dict[str, Any]


class Components(NamedTuple):
    """The components that the objective visits: all K of them, or C drawn per example.

    Attributes:
      gaussians: [K, B, D].
      log_weights: log pi, [K, B].
      members: which present modalities each has seen, [K, B, M].
      drawn: whether they were drawn from pi instead of enumerated.
    """

    gaussians: DiagGaussian
    log_weights: Float[Array, "K B"]
    members: Bool[Array, "K B M"]
    drawn: bool


def visit(
    posterior: PooledPosterior,
    present: Bool[Array, "M B"],
    budget: int | None,
    keys: PRNGKeyArray,
) -> Components:
    """All components, or ``budget`` independent draws per example in proportion to their weight.

    Args:
      posterior: over z, components [K, B, D].
      present: which modalities each example has.
      budget: C, the number of components to draw; None visits all K.
      keys: one per example, [B].

    Returns:
      The components to visit.
    """
    members = posterior.members[:, None, :] & present.T
    if budget is None:
        return Components(posterior.components, posterior.log_weights, members, False)
    index = jax.vmap(
        lambda key, log_weights: jax.random.categorical(key, log_weights, shape=(budget,)),
        in_axes=(0, 1),
        out_axes=1,
    )(keys, posterior.log_weights)
    gaussians, log_weights, members = jax.tree.map(
        lambda x: gather(x, index, 1), (posterior.components, posterior.log_weights, members)
    )
    return Components(gaussians, log_weights, members, True)


def expectation(components: Components, values: Float[Array, "K B"]) -> Float[Array, " B"]:
    r"""sum_k pi_k values_k, exact or unbiased, with its gradient through pi.

    Drawn components enter with the plain mean of their values. Its gradient misses
    :math:`\sum_k (\nabla \pi_k)\, v_k`, which the score function adds with a leave-one-out
    baseline (Kool et al. 2019): :math:`\frac1C \sum_c (v_c - \bar v_{-c}) \nabla \log \pi_c`. The
    draws are independent, so the baseline of the others is too and the sum stays unbiased; without
    it the score multiplies whole bounds of several hundred nats and training does not start.
    """
    if not components.drawn:
        return jnp.sum(jnp.exp(components.log_weights) * values, axis=0)
    count = values.shape[0]
    others = (values.sum(axis=0) - values) / (count - 1)
    score = components.log_weights - jax.lax.stop_gradient(components.log_weights)
    return jnp.mean(values + jax.lax.stop_gradient(values - others) * score, axis=0)


def pool(
    networks: dict[str, ModalityNetworks], aggregator: Aggregator, batch: Batch, present: Array
) -> tuple[DiagGaussian, PooledPosterior]:
    """The experts [M, B, D] and the pooled posterior over z of the present modalities [M, B]."""
    each = [networks[name].expert(batch[name]) for name in networks]
    experts = jax.tree.map(lambda *x: jnp.stack(x), *each)
    return experts, aggregator.pool(experts, mask=present)


def private_latents(
    networks: ModalityNetworks,
    x: Float[Array, "B *shape"],
    z: Float[Array, "K B D"],
    members: Bool[Array, "K B"],
    noise: Float[Array, "K B P"],
) -> tuple[Float[Array, "K B P"], Float[Array, "K B"]]:
    """w of one modality and its KL: from the posterior for members, from r for the others."""
    posterior = networks.private_posterior(networks.private_features(x), z)
    auxiliary = networks.auxiliary_prior()
    chosen = jax.tree.map(lambda q, r: jnp.where(members[..., None], q, r), posterior, auxiliary)
    w = chosen.mean + jnp.exp(0.5 * chosen.log_var) * noise
    kl = posterior.kl(networks.private_prior())
    return w, jnp.where(members, kl, 0.0)


def bound_terms(
    networks: dict[str, ModalityNetworks],
    modalities: dict[str, Modality],
    components: Components,
    batch: Batch,
    present: Bool[Array, "M B"],
    noise: Float[Array, "K B N"],
) -> tuple[Float[Array, "K B D"], Float[Array, "M K B"], Float[Array, "M K B"]]:
    """Draw the latents of every component; reconstruct every present modality from them.

    Args:
      networks: of every modality, by name.
      modalities: of the model, by name, in the order of the mask.
      components: to visit.
      batch: arrays [B, *shape] by name.
      present: which modalities each example has.
      noise: standard normal, N = D + M P: first for z, then for each modality's w.

    Returns:
      z, the log-likelihoods and the private KLs, zero where the modality is absent.
    """
    gaussians = components.gaussians
    dim = gaussians.mean.shape[-1]
    z = gaussians.mean + jnp.exp(0.5 * gaussians.log_var) * noise[..., :dim]
    private_noise = jnp.split(noise[..., dim:], len(modalities), axis=-1)
    log_likelihoods, kls = [], []
    for n, (name, modality) in enumerate(modalities.items()):
        net, x = networks[name], batch[name]
        w, kl = None, jnp.zeros(z.shape[:-1])
        if net.private_dim:
            w, kl = private_latents(net, x, z, components.members[..., n], private_noise[n])
        log_prob = modality.likelihood.log_prob(net.decode(z, w), x).astype(jnp.float32)
        log_likelihood = modality.weight * log_prob.sum(axis=tuple(range(2, log_prob.ndim)))
        log_likelihoods.append(jnp.where(present[n], log_likelihood, 0.0))
        kls.append(kl)
    return z, jnp.stack(log_likelihoods), jnp.stack(kls)


def objective(
    networks: dict[str, ModalityNetworks],
    modalities: dict[str, Modality],
    aggregator: Aggregator,
    batch: Batch,
    keys: PRNGKeyArray,
    *,
    beta: float | Array,
    weight_gradient: float | Array,
    kl: Kl,
    budget: int | None,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """The negative bound in nats, the mean over the batch, and its parts.

    Args:
      networks: of every modality, by name.
      modalities: of the model, by name.
      aggregator: of the experts.
      batch: arrays [B, *shape] by name, and optionally ``mask`` [B, M].
      keys: one per example, [B], so that the value does not depend on how a batch is sharded.
      beta: weight of the KL terms, may be traced.
      weight_gradient: scales the gradient through pi; 1 is the gradient of the bound.
      kl: the estimator of KL_z.
      budget: components drawn per example; None sums over all.

    Returns:
      The loss and a dict of averages: ``reconstruction`` (log-likelihood) and ``kl_private`` by
      modality, ``kl_z``, the posterior's ``weights`` [K] and its ``unimodal_mass``.
    """
    batch, present = mask_absent(modalities, batch)
    experts, posterior = pool(networks, aggregator, batch, present)
    log_weights = scale_gradient(posterior.log_weights, weight_gradient)
    posterior = replace(posterior, log_weights=log_weights)
    choice_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    components = visit(posterior, present, budget, choice_keys)

    count, _, dim = components.gaussians.mean.shape
    size = dim + sum(networks[name].private_dim for name in modalities)
    noise = jax.vmap(lambda key: jax.random.normal(key, (count, size)), out_axes=1)(noise_keys)
    z, log_likelihoods, kl_private = bound_terms(
        networks, modalities, components, batch, present, noise
    )
    prior = standard_normal((dim,))
    if kl == "mixture":
        kl_z = aggregator.log_prob(experts, z, mask=present) - prior.log_prob(z)
    else:
        kl_z = components.gaussians.kl(prior)

    values = log_likelihoods.sum(axis=0) - beta * (kl_z + kl_private.sum(axis=0))
    bound = expectation(components, values)

    def average(term: Float[Array, "K B"]) -> Float[Array, ""]:
        return expectation(components, term).mean()

    weights = jnp.exp(posterior.log_weights)
    unimodal = posterior.members.sum(axis=1) == 1
    aux = {
        "reconstruction": dict(zip(modalities, map(average, log_likelihoods), strict=True)),
        "kl_z": average(kl_z),
        "kl_private": {
            name: average(kl_private[n])
            for n, name in enumerate(modalities)
            if networks[name].private_dim
        },
        "weights": weights.mean(axis=1),
        "unimodal_mass": jnp.sum(weights * unimodal[:, None], axis=0).mean(),
    }
    return -bound.mean(), jax.lax.stop_gradient(aux)


def scale_gradient(x: Array, scale: float | Array) -> Array:
    """``x``, whose gradient is multiplied by ``scale``; entries of -inf stay -inf."""
    constant = jax.lax.stop_gradient(x)
    return constant + scale * jnp.where(jnp.isfinite(constant), x - constant, 0.0)


def mask_absent(modalities: dict[str, Modality], batch: Batch) -> tuple[Batch, Bool[Array, "M B"]]:
    """The presence of each modality, and the batch with zeros where a modality is absent.

    Absent values may be anything, NaN as well: zeros keep them out of the networks' gradients.
    """
    size = batch[next(iter(modalities))].shape[0]
    mask = batch.get("mask")
    if mask is None:
        return batch, jnp.ones((len(modalities), size), bool)
    present = jnp.asarray(mask).T
    zeroed = {}
    for there, name in zip(present, modalities, strict=True):
        x = batch[name]
        zeroed[name] = jnp.where(there.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros_like(x))
    return zeroed, present
