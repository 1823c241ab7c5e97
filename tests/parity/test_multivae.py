"""Parity with MultiVae 1.0.3: the same weights, data and noise give the same loss.

MultiVae's loss is a sum over the batch for MMVAE, MMVAE+ and CMVAE and a mean for the others; ours
is a mean, and `SUMS` says which to divide. Where the definitions differ beyond that, the test's
docstring says how, and the test changes the one thing that differs and compares the rest.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from linear_models import linear_model, quick_jit, random_batch, random_params
from peers import dataset, feed, noise_of, pairs, peer_of, to_torch

from holderjax.models.aggregators import AGGREGATORS, ClosedForm
from holderjax.pooling import mixture_of_products, product_of_experts
from holderjax.pooling.experts import subsets
from holderjax.pooling.gaussian import standard_normal

SIZE = 5
BETA = 1.5
SAMPLES = 3
CLUSTERS = 4
KEY = jax.random.key(0)
RTOL = 1e-4
NAMES = ("a", "b", "c")
OBSERVED = [names for size in (1, 2, 3) for names in combinations(NAMES, size)]
# Every modality is absent somewhere, one example has everything, and one has one alone.
MASK = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 1, 1]], bool)

LOOSER = {"prior_and_posterior_dist": "normal", "loss": "iwae_looser"}
PRIVATE = LOOSER | {"modalities_specific_dim": 2, "beta": BETA}
# System: MultiVae's class, its options, and our options.
CLASSES = {
    "mvae": ("MVAE", {"beta": BETA, "warmup": 0}, {}),
    "mmvae": ("MMVAE", LOOSER, {"importance_samples": SAMPLES}),
    "mopoe": ("MoPoE", {"beta": BETA}, {}),
    "mmvae+": ("MMVAEPlus", PRIVATE, {"importance_samples": SAMPLES}),
    "cmvae": (
        "CMVAE",
        PRIVATE | {"number_of_clusters": CLUSTERS},
        {"importance_samples": SAMPLES, "clusters": CLUSTERS},
    ),
    "dmvae": (
        "DMVAE",
        {
            "beta": BETA,
            "modalities_specific_dim": dict.fromkeys(NAMES, 2),
            # It weighs private divergences by these alone, we by beta.
            "modalities_specific_betas": dict.fromkeys(NAMES, BETA),
        },
        {},
    ),
}
# The mixtures of experts once more with Laplace densities of normalised scale.
SUMS = ("mmvae", "mmvae+", "cmvae")
for name in SUMS:
    peer_class, theirs, ours = CLASSES[name]
    theirs = theirs | {"prior_and_posterior_dist": "laplace_with_softmax"}
    CLASSES[f"{name} laplace"] = (peer_class, theirs, ours | {"family": "laplace"})
# MultiVae's MMVAE takes a beta and never reads it.
BETAS = {name: 1.0 if name.startswith("mmvae") and "+" not in name else BETA for name in CLASSES}


def system_of(name):
    """The system of a key of `CLASSES`."""
    return name.split()[0]


def both(system, options=None, ours=None):
    """Our model, its parameters, and MultiVae's model with the same."""
    name, theirs, own = CLASSES[system]
    own = own | (ours or {})
    theirs = theirs | (options or {})
    if system_of(system) in SUMS:
        theirs["K"] = own["importance_samples"]
    model = linear_model(system_of(system), **own)
    params = random_params(model)
    return model, params, peer_of(model, params, name, **theirs)


def incomplete(batch):
    """The batch with `MASK`, and zeros where it leaves out, as MultiVae expects."""
    kept = {
        name: batch[name] * MASK[:, i].reshape(-1, *[1] * (batch[name].ndim - 1))
        for i, name in enumerate(NAMES)
    }
    return kept | {"mask": jnp.asarray(MASK)}


def our_loss(model, params, batch, beta):
    """The loss and its gradient."""
    program = quick_jit(jax.value_and_grad(lambda p: model.loss(p, batch, KEY, beta)[0]))
    return program(params)


def per_example(system, output):
    """MultiVae's loss as a mean over the batch."""
    return output.loss / SIZE if system_of(system) in SUMS else output.loss


def noise_for(system, model):
    """Our noise in the order in which MultiVae's forward pass asks for it; MoPoE see `spread`."""
    if system == "mvae":
        z, _ = noise_of(model, KEY, SIZE, components=1, views=4)
        return list(z[0, 0])
    if system_of(system) == "mmvae":
        z, _ = noise_of(model, KEY, SIZE, components=3)
        return list(z[:, :, 0].transpose(0, 1))
    if system == "dmvae":
        z, w = noise_of(model, KEY, SIZE, components=1, views=4)
        return [x for v in range(4) for x in (z[0, 0, v], *(w[n][0, 0, v] for n in NAMES))]
    # z and w of the component's own modality, then the draws from r of the others.
    z, w = noise_of(model, KEY, SIZE, components=3)
    return [
        x
        for k, own in enumerate(NAMES)
        for x in (z[:, k, 0], *(w[n][:, k, 0] for n in sorted(NAMES, key=lambda n: n != own)))
    ]


def spread(model, batch, monkeypatch):
    """A batch in which every example meets each component of its MoPoE posterior equally often.

    MultiVae decodes one component an example: of complete data the first seventh of the batch from
    the first component and so on, of incomplete data one drawn among those that the example has.
    We sum over components. 1, 3 or 7 components an example make 21 copies of each even.

    Returns:
      The batch and its noise; what MultiVae draws is set to be each copy's component.
    """
    present = np.asarray(batch.get("mask", np.ones((SIZE, 3), bool)))
    has = (present[:, None] | ~np.asarray(subsets(3))).all(axis=-1)
    component, example = np.nonzero(has.T)
    copies = 21 // has.sum(axis=1)[example]
    component, example = np.repeat(component, copies), np.repeat(example, copies)
    chosen = torch.nn.functional.one_hot(torch.from_numpy(component), 7)
    monkeypatch.setattr(torch.distributions.OneHotCategorical, "sample", lambda self: chosen)
    z, _ = noise_of(model, KEY, SIZE, components=7)
    return {name: x[example] for name, x in batch.items()}, [z[0, component, 0, example]]


def same(found, expected):
    np.testing.assert_allclose(
        np.asarray(found), np.asarray(expected.detach()), rtol=RTOL, atol=1e-5
    )


def same_gradients(peer, loss, gradient, among=None):
    """Of the loss by the parameters that MultiVae trains, or those of them that are ``among``."""
    loss.backward()
    compared = 0
    for parameter, ours in pairs(peer, gradient, log_var_factor=0.5):
        if parameter.requires_grad and (among is None or any(parameter is p for p in among)):
            same(ours, parameter.grad)
            compared += 1
    assert compared


# --- definitions of MultiVae's that are not the row's, as aggregators of ours


def prior_in_the_whole(experts, mask):
    """MoPoE's products, the one of all modalities times N(0, I)."""
    posterior = mixture_of_products(experts, mask=mask)
    prior = standard_normal(experts.mean.shape[-1:])
    whole = product_of_experts(experts, prior=prior, mask=mask).components
    components = jax.tree.map(lambda x, y: x.at[-1].set(y[0]), posterior.components, whole)
    return replace(posterior, components=components)


def no_prior_in_singles(experts, mask):
    """The product of the experts, times N(0, I) in the first view alone, which is the whole."""
    prior = standard_normal(experts.mean.shape[-1:])
    product = product_of_experts(experts, prior=prior, mask=mask)
    bare = product_of_experts(experts, mask=mask).components
    whole = (jnp.arange(mask.shape[1]) == 0)[:, None, None]
    components = jax.tree.map(lambda x, y: jnp.where(whole, x, y), product.components, bare)
    return replace(product, components=components)


@pytest.fixture
def multivae_aggregators(monkeypatch):
    """What differs of MoPoE's and DMVAE's pools; every other row stays as it is."""

    def use(system):
        if system == "mopoe":
            build = lambda row, m, d, rngs: ClosedForm(prior_in_the_whole, d)  # noqa: E731
            monkeypatch.setitem(AGGREGATORS, "mopoe", build)
        if system == "dmvae":
            build = lambda row, m, d, rngs: ClosedForm(no_prior_in_singles, d)  # noqa: E731
            monkeypatch.setitem(AGGREGATORS, "poe", build)

    return use


# --- losses and gradients


@pytest.mark.parametrize("system", CLASSES)
def test_the_loss_and_its_gradient_are_the_same(system, monkeypatch, multivae_aggregators):
    """With several importance samples where MultiVae has them, and Gaussian and Laplace posteriors.

    MVAE: without random subsets, which MultiVae draws once a batch among the sizes 2 to M - 1, and
    we for each example among all.

    MMVAE, MMVAE+, CMVAE: MultiVae's option ``iwae_looser``; its default is another estimator, see
    `test_dreg_changes_the_gradient_of_the_encoders_alone`.

    MoPoE: MultiVae (as its authors' code) multiplies N(0, I) into the product of all modalities
    and into no other; the row has it in none. Here ours has it where MultiVae has it. MultiVae
    decodes one component an example, we all of them: see `spread`.

    DMVAE: MultiVae (as its authors' code) takes a single modality's posterior as its encoder gives
    it, where the row multiplies N(0, I) into it as into the product. Here ours does not either.

    CMVAE: MultiVae writes log p(z) as an expectation over p(c|z), which is the same number. It
    keeps the clusters' variances fixed, so their gradients are not compared.
    """
    multivae_aggregators(system)
    model, params, peer = both(system)
    batch = random_batch(model, SIZE)
    loss, gradient = our_loss(model, params, batch, BETAS[system])
    if system == "mopoe":
        batch, noise = spread(model, batch, monkeypatch)
    else:
        noise = noise_for(system, model)
    left = feed(monkeypatch, noise)
    found = per_example(system, peer(dataset(batch)))
    assert not left
    same(loss, found)
    same_gradients(peer, found, gradient)


@pytest.mark.parametrize("system", CLASSES)
def test_the_loss_of_incomplete_data_is_the_same(system, monkeypatch, multivae_aggregators):
    """With modalities that examples lack.

    MVAE: MultiVae takes the mean of a subset's bound over the examples that have any of the
    subset, where we take the mean over the batch; here it is weighed by their share.
    """
    multivae_aggregators(system)
    model, params, peer = both(system)
    batch = incomplete(random_batch(model, SIZE))
    loss, _ = our_loss(model, params, batch, BETAS[system])
    views = [NAMES, *((name,) for name in NAMES)]
    counted = [MASK[:, np.isin(NAMES, names)].any(axis=1) for names in views]
    if system == "mopoe":
        batch, noise = spread(model, batch, monkeypatch)
    else:
        noise = noise_for(system, model)
    if system == "mvae":
        noise = [x[torch.from_numpy(rows)] for x, rows in zip(noise, counted, strict=True)]
    left = feed(monkeypatch, noise)
    output = peer(dataset(batch))
    assert not left
    found = per_example(system, output)
    if system == "mvae":
        bounds = [output.metrics["_".join(names)] for names in views]
        found = sum(b * rows.mean() for b, rows in zip(bounds, counted, strict=True))
    same(loss, found)


@pytest.mark.parametrize("system", ["mmvae+", "cmvae"])
def test_one_sample_differs_by_the_closed_form_of_the_private_divergence(system, monkeypatch):
    """With one sample our KL(q(w) || p(w)) is exact; MultiVae's is the log-ratio at the sample."""
    model, params, peer = both(system, ours={"importance_samples": 1})
    batch = random_batch(model, SIZE)
    loss, _ = our_loss(model, params, batch, BETA)
    _, w = noise_of(model, KEY, SIZE, components=3)
    excess, prior = 0.0, torch.distributions.Normal(0.0, 1.0)
    for k, name in enumerate(NAMES):
        output = peer.encoders[name](to_torch(batch[name]))
        scale = torch.exp(0.5 * output.style_log_covariance)
        q = torch.distributions.Normal(output.style_embedding, scale)
        sample = q.loc + q.scale * w[name][0, k, 0]
        ratio = q.log_prob(sample) - prior.log_prob(sample)
        exact = torch.distributions.kl_divergence(q, prior)
        excess += (ratio - exact).sum(dim=-1).mean() / len(NAMES)
    assert abs(excess) > 1e-2
    left = feed(monkeypatch, noise_for(system, model))
    found = per_example(system, peer(dataset(batch)))
    assert not left
    same(loss, found - BETA * excess)


@pytest.mark.parametrize("system", ["mmvae", "mmvae+", "cmvae"])
def test_dreg_changes_the_gradient_of_the_encoders_alone(system, monkeypatch):
    """MultiVae's default loss is the doubly reparameterised estimator, of the same bound.

    It holds the posteriors' densities and the weights over samples constant and weighs the
    latents' gradients twice, so the value that it reports, and the gradient by the encoders, are
    others. Those by decoders, by r and by the prior are our bound's.
    """
    model, params, peer = both(system, {"loss": "dreg_looser"})
    batch = random_batch(model, SIZE)
    loss, gradient = our_loss(model, params, batch, BETAS[system])
    feed(monkeypatch, noise_for(system, model))
    found = per_example(system, peer(dataset(batch)))
    encoders = list(peer.encoders.parameters())
    others = [p for p in peer.parameters() if not any(p is e for e in encoders)]
    same_gradients(peer, found, gradient, among=others)
    # Seen by the numbers being different, so that the test would notice if they were not.
    assert abs(loss - found.item()) > 1e-2
    assert any(
        (ours - parameter.grad).abs().max() > 1e-2
        for parameter, ours in pairs(peer, gradient, log_var_factor=0.5)
        if any(parameter is e for e in encoders)
    )


# --- conditional means


@pytest.mark.parametrize("observed", OBSERVED, ids="".join)
@pytest.mark.parametrize("system", CLASSES)
def test_the_conditional_means_are_the_same(system, observed, monkeypatch):
    """The mean of q(z | x_O), from every observed subset O; no aggregator is changed here.

    CMVAE: MultiVae gives the mean of one observed expert, drawn at random, where we give the
    mixture's; here it is the mean over what may be drawn.

    MoPoE: given a proper subset O MultiVae gives the product of O, where our posterior is the
    mixture of the products of every subset of O; here we compare our component of O. Given
    everything both are the mixture's, of which MultiVae's last product contains N(0, I).
    """
    model, params, peer = both(system)
    batch = random_batch(model, SIZE)
    mask = np.isin(NAMES, observed)
    posterior = model.encode(params, batch, mask)
    ours = posterior.mean()

    def theirs():
        return peer.encode(dataset(batch), list(observed), return_mean=True).z

    if system_of(system) == "cmvae":
        found = 0.0
        for name in observed:
            monkeypatch.setattr(np.random, "choice", lambda _, name=name: name)
            found += theirs() / len(observed)
    else:
        found = theirs()
    if system == "mopoe":
        (k,) = np.flatnonzero((np.asarray(posterior.members) == mask).all(axis=1))
        component = jax.tree.map(lambda x: x[k], posterior.components)
        if observed == NAMES:
            shrunk = component.mean / (1 + jnp.exp(component.log_var))
            ours += (shrunk - component.mean) / len(posterior.members)
        else:
            ours = component.mean
    same(ours, found)
