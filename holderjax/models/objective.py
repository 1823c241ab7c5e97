r"""The one objective of every system, in the order of Hölder++, section 3.

A bound is a sum over views of an example (`holderjax.models.bounds`); the Hölder family has one, in
which everything present explains everything present. With components k of a view's pooled
posterior, :math:`z_k \sim q_k`, targets T, and members(k) the modalities that component k has seen:

.. math::
  L(X) = \sum_k \pi_k \, E\Big[ \sum_{n \in T} \log p(x_n | z_k, w_n)
    - \beta \Big\{ \mathrm{KL}_z(k)
    + \sum_{n \in T \cap \mathrm{members}(k)}
      \mathrm{KL}\big(q(w_n|\cdot) \,\|\, p(w_n|\cdot)\big) \Big\} \Big]

where :math:`w_n \sim q(w_n | x_n)` or :math:`q(w_n | x_n, z_k)` for members and
:math:`w_n \sim r_n` for the others: a modality that component k has not seen must be reconstructed
from z alone (MMVAE+'s shortcut avoidance). :math:`r_n = N(0, \tau_n^2)`, or :math:`p(w_n | z_k)`
where that is learned. With :math:`\tau_n = 1` and :math:`\beta = 1` this bounds log p(X) from
below; a learned :math:`\tau_n` bounds the likelihood of the model whose cross-reconstructions see
:math:`r_n` in place of p(w).

With S > 1 importance samples the expectation inside each component becomes the log-mean-exp over
samples of the same expression, all KLs as log-ratios (MMVAE, Shi et al. 2019, section 3).

Arrays are sample and component first: [S, K, V, B, ...], with C in place of K under a component
budget, and V the views.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from holderjax.models.bounds import BOUNDS, Views
from holderjax.models.modality import Modality, ModalityNetworks
from holderjax.models.networks import Networks
from holderjax.models.systems import Kl, System
from holderjax.pooling import DiagGaussian, GaussianMixture, PooledPosterior
from holderjax.pooling.laplace import DiagLaplace
from holderjax.pooling.mixture import draw_components, gather

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, PRNGKeyArray

Params = Any
Batch = dict[str, Any]


class Components(NamedTuple):
    """The components that the objective visits: all K of them, or C drawn per example.

    Attributes:
      densities: [K, V, B, D].
      log_weights: log pi, [K, V, B].
      members: which present modalities each has seen, [K, V, B, M].
      drawn: whether they were drawn from pi instead of enumerated.
    """

    densities: DiagGaussian | DiagLaplace
    log_weights: Float[Array, "K V B"]
    members: Bool[Array, "K V B M"]
    drawn: bool


def visit(
    posterior: PooledPosterior,
    present: Bool[Array, "M B"],
    budget: int | None,
    keys: PRNGKeyArray,
) -> Components:
    """All components, or ``budget`` independent draws per example in proportion to their weight.

    Args:
      posterior: over z, components [K, V, B, D].
      present: which modalities each example has.
      budget: C, the number of components to draw; None, or K and more, visits all K.
      keys: one per example, [B].

    Returns:
      The components to visit.
    """
    if budget is None or budget >= len(posterior.log_weights):
        members = posterior.members[:, None, None, :] & present.T
        members = jnp.broadcast_to(members, (*posterior.log_weights.shape, len(present)))
        return Components(posterior.components, posterior.log_weights, members, False)
    draw = jax.vmap(partial(draw_components, shape=(budget,)), in_axes=(0, 2), out_axes=2)
    index = draw(keys, posterior.log_weights)
    log_weights = gather(posterior.log_weights, index, 2)
    members = posterior.members[index] & present.T
    return Components(posterior.choose(index), log_weights, members, True)


def expectation(components: Components, values: Float[Array, "K V B"]) -> Float[Array, "V B"]:
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


def encode(networks: Networks, batch: Batch) -> Any:
    """The experts of every modality, [M, B, ...]."""
    each = [net.expert(batch[name]) for name, net in networks.modalities.items()]
    return jax.tree.map(lambda *x: jnp.stack(x), *each)


def pool(networks: Networks, batch: Batch, present: Bool[Array, "M B"]) -> PooledPosterior:
    """The pooled posterior over z of the present modalities, components [K, B, D]."""
    return networks.aggregator.pool(encode(networks, batch), present)


def private_latents(
    networks: ModalityNetworks,
    x: Float[Array, "B *shape"],
    z: Float[Array, "S K V B D"],
    members: Bool[Array, "K V B"],
    noise: Float[Array, "S K V B P"],
) -> tuple[Float[Array, "S K V B P"], Float[Array, "S K V B"]]:
    """w of one modality and its KL: from the posterior for members, from r for the others."""
    posterior = networks.private_posterior(networks.private_features(x), z)
    prior: Any = networks.private_prior(z)  # of the posterior's family
    auxiliary = networks.auxiliary_prior(prior)
    chosen = jax.tree.map(lambda q, r: jnp.where(members[..., None], q, r), posterior, auxiliary)
    w = chosen.from_noise(noise)
    sampled = len(z) > 1
    kl = posterior.log_prob(w) - prior.log_prob(w) if sampled else posterior.kl(prior)
    return w, jnp.where(members, kl, 0.0)


def bound_terms(
    networks: Networks,
    modalities: dict[str, Modality],
    components: Components,
    views: Views,
    batch: Batch,
    noise: Float[Array, "S K V B N"],
) -> tuple[Float[Array, "S K V B D"], Float[Array, "M S K V B"], Float[Array, "M S K V B"]]:
    """Draw the latents of every component; reconstruct every target from them.

    Args:
      networks: of the model.
      modalities: of the model, by name, in the order of the mask.
      components: to visit.
      views: of the bound.
      batch: arrays [B, *shape] by name.
      noise: of scale one, N = D + M P: first for z, then for each modality's w.

    Returns:
      z, the log-likelihoods and the private KLs, zero where the modality is no target.
    """
    dim = components.densities.mean.shape[-1]
    z = components.densities.from_noise(noise[..., :dim])
    private_noise = jnp.split(noise[..., dim:], len(modalities), axis=-1)
    log_likelihoods, kls = [], []
    for n, (name, modality) in enumerate(modalities.items()):
        net, x = networks.modalities[name], batch[name]
        # Decoders run on the views that may need them, and on no others.
        at = slice(None) if views.decoded[n].all() else np.flatnonzero(views.decoded[n])
        z_n, w, kl = z[:, :, at], None, jnp.zeros(())
        if net.private_dim:
            members = components.members[..., n][:, at]
            w, kl = private_latents(net, x, z_n, members, private_noise[n][:, :, at])
        log_prob = modality.likelihood.log_prob(net.decode(z_n, w), x).astype(jnp.float32)
        log_prob = modality.weight * log_prob.sum(axis=tuple(range(4, log_prob.ndim)))
        target, nothing = views.targets[n, at], jnp.zeros(z.shape[:-1])
        log_likelihoods.append(nothing.at[:, :, at].set(jnp.where(target, log_prob, 0.0)))
        kls.append(nothing.at[:, :, at].set(jnp.where(target, kl, 0.0)))
    return z, jnp.stack(log_likelihoods), jnp.stack(kls)


def shared_kl(
    prior: GaussianMixture,
    posterior: PooledPosterior,
    components: Components,
    views: Views,
    z: Float[Array, "S K V B D"],
    kl: Kl,
) -> Float[Array, "S K V B"]:
    """KL_z of every component in every view, against the prior or another view's posterior.

    ``mixture`` is log q(z_k | X) - log rho(z_k), with the pooled density. ``components`` is
    KL(q_k || rho): in closed form where rho is one Gaussian and one sample is drawn, otherwise
    log q_k(z_k) - log rho(z_k).
    """
    log_q = (posterior if kl == "mixture" else components.densities).log_prob(z)

    def one_view(v: int) -> Float[Array, "S K B"]:
        reference = views.references[v]
        rho: GaussianMixture = prior if reference is None else _view(posterior, reference)
        if kl == "components" and len(rho.log_weights) == 1 and len(z) == 1:
            q = jax.tree.map(lambda x: x[:, v], components.densities)
            return q.kl(jax.tree.map(lambda x: x[0], rho.components))[None]
        return log_q[:, :, v] - rho.log_prob(z[:, :, v])

    return jnp.stack([one_view(v) for v in range(len(views.references))], axis=2)


def _view(posterior: PooledPosterior, v: int) -> GaussianMixture:
    components = jax.tree.map(lambda x: x[:, v], posterior.components)
    return GaussianMixture(components, posterior.log_weights[:, v])


def objective(
    networks: Networks,
    modalities: dict[str, Modality],
    system: System,
    batch: Batch,
    keys: PRNGKeyArray,
    *,
    beta: float | Array,
    weight_gradient: float | Array,
    budget: int | None,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """The negative bound in nats, the mean over the batch, and its parts.

    Args:
      networks: of the model.
      modalities: of the model, by name.
      system: the row: its bound, its estimator of KL_z, its importance samples.
      batch: arrays [B, *shape] by name, and optionally ``mask`` [B, M].
      keys: one per example, [B], so that the value does not depend on how a batch is sharded.
      beta: weight of the KL terms, may be traced.
      weight_gradient: scales the gradient through pi; 1 is the gradient of the bound.
      budget: components drawn per example; None sums over all.

    Returns:
      The loss and a dict of averages, summed over views: ``reconstruction`` (log-likelihood) and
      ``kl_private`` by modality, ``kl_z``; and for the posterior given everything its ``weights``
      [K] and their ``unimodal_mass``.
    """
    batch, present = mask_absent(modalities, batch)
    view_keys, choice_keys, noise_keys = jax.vmap(split_key, out_axes=1)(keys)
    views = BOUNDS[system.bound](present, view_keys, system.random_subsets)
    each_view = jax.tree.map(lambda x: x[:, None], encode(networks, batch))
    posterior = networks.aggregator.pool(each_view, views.observed)
    log_weights = scale_gradient(posterior.log_weights, weight_gradient)
    components = visit(replace(posterior, log_weights=log_weights), present, budget, choice_keys)

    dim = posterior.components.mean.shape[-1]
    size = dim + sum(net.private_dim for net in networks.modalities.values())
    shape = (system.importance_samples, *components.log_weights.shape[:2], size)
    draw = posterior.components.draw_noise
    noise = jax.vmap(lambda key: draw(key, shape), out_axes=3)(noise_keys)
    z, log_likelihoods, kl_private = bound_terms(
        networks, modalities, components, views, batch, noise
    )
    kl_z = shared_kl(networks.prior(), posterior, components, views, z, system.kl)
    values = log_likelihoods.sum(axis=0) - beta * (kl_z + kl_private.sum(axis=0))
    values = jax.nn.logsumexp(values, axis=0) - np.log(system.importance_samples)

    def total(values: Float[Array, "K V B"]) -> Float[Array, ""]:
        counts = views.observed.any(axis=0)
        return jnp.where(counts, expectation(components, values), 0.0).sum(axis=0).mean()

    def average(term: Float[Array, "S K V B"]) -> Float[Array, ""]:
        return total(term.mean(axis=0))

    weights = jnp.exp(posterior.log_weights[:, 0])
    unimodal = posterior.members.sum(axis=1) == 1
    aux = {
        "reconstruction": dict(zip(modalities, map(average, log_likelihoods), strict=True)),
        "kl_z": average(kl_z),
        "kl_private": {
            name: average(kl_private[n])
            for n, name in enumerate(modalities)
            if networks.modalities[name].private_dim
        },
        "weights": weights.mean(axis=1),
        "unimodal_mass": jnp.sum(weights * unimodal[:, None], axis=0).mean(),
    }
    return -total(values), jax.lax.stop_gradient(aux)


def split_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """Three keys: for the views, the components and the latents."""
    return jax.random.split(key, 3)


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
