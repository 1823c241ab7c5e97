"""Building a model, and its encode, generate and sample."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from linear_models import (
    MODALITIES,
    LinearDecoder,
    LinearEncoder,
    in_float64,
    linear_modality,
    linear_model,
    quick_jit,
    random_batch,
    random_params,
    with_leaves,
)
from numpy_objective import affine, gaussian, holder_components

from holderjax import models
from holderjax.models import Bernoulli, Categorical, Gaussian, Modality
from holderjax.pooling import DiagGaussian, holder_pool

NAMES = tuple(MODALITIES)
KEY = jax.random.key(0)


class Counted:
    """A compiled function that knows how often it was traced."""

    def __init__(self, function):
        self.traces = 0

        def traced(*args):
            self.traces += 1
            return function(*args)

        self.call = quick_jit(traced)

    def __call__(self, *args):
        return self.call(*args)


@pytest.fixture(scope="module")
def model():
    return linear_model("holder++")


@pytest.fixture(scope="module")
def params(model):
    return random_params(model)


@pytest.fixture(scope="module")
def batch(model):
    return random_batch(model, 4)


@pytest.fixture(scope="module")
def generate(model):
    """(params, key, batch, mask) to three samples of every modality; the mask is traced."""
    return Counted(lambda *args: model.generate(*args, num_samples=3))


@pytest.fixture(scope="module")
def encode(model):
    return Counted(model.encode)


def assert_same(a, b, rtol=1e-5, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def subset_mask(*names):
    return np.isin(NAMES, names)


# --- build, init


def test_a_model_knows_what_it_was_built_of(model):
    assert model.modalities == MODALITIES
    assert (model.latent_dim, model.private_dim, model.components) == (2, 2, None)
    assert model.system == models.SYSTEMS["holder++"]
    other = linear_model("holder++", order=3, kl="mixture", components=4)
    assert (other.system.order, other.system.kl, other.components) == (3, "mixture", 4)
    assert linear_model("holder").private_dim == 0


def test_init_gives_nested_dicts_of_float32_and_is_pure(model):
    params = model.init(KEY)
    assert set(params["modalities"]) == set(NAMES)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    jax.tree.map(np.testing.assert_array_equal, params, model.init(KEY))
    other = model.init(jax.random.key(1))
    kernel = [p["modalities"]["a"]["encoder"]["linear"]["kernel"] for p in (params, other)]
    assert not np.allclose(*kernel)
    kernels = [net["head"]["linear"]["kernel"] for net in params["modalities"].values()]
    assert not np.allclose(kernels[0], kernels[1]), "modalities start apart"


@pytest.mark.slow
def test_a_population_is_a_vmap_away(batch):
    model = linear_model("holder+")
    population = jax.vmap(model.init)(jax.random.split(KEY, 3))
    single = model.init(jax.random.split(KEY, 3)[1])
    assert_same(jax.tree.map(lambda x: x[1], population), single)
    betas = jnp.array([0.5, 1.0, 2.0])

    def both(params, beta):
        loss = model.loss(params, batch, KEY, beta)
        return loss, model.generate(params, KEY, batch, ("a",))

    together = quick_jit(jax.vmap(both))(population, betas)
    assert_same(jax.tree.map(lambda x: x[1], together), quick_jit(both)(single, 1.0), 1e-4, 1e-4)
    assert len(np.unique(together[0][0])) == 3


# --- encode


def experts_by_hand(params, batch, names):
    params = in_float64(params)["modalities"]
    each = [
        gaussian(
            params[n]["head"],
            affine(params[n]["encoder"]["linear"], np.asarray(batch[n]).reshape(len(batch[n]), -1)),
        )
        for n in names
    ]
    return tuple(np.stack(column) for column in zip(*each, strict=True))


@pytest.mark.parametrize("observed", [NAMES, ("a", "c"), ("b",)])
def test_encoding_a_subset_pools_its_experts(encode, params, batch, observed):
    posterior = encode(params, batch, subset_mask(*observed))
    assert posterior.components.mean.shape == (6, 4, 2)
    assert posterior.log_weights.shape == (6, 4)
    assert posterior.members.shape == (6, 3)

    means, variances = experts_by_hand(params, batch, observed)
    pool = holder_pool(DiagGaussian(jnp.asarray(means), jnp.log(variances)))
    z = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 2)), jnp.float32)
    np.testing.assert_allclose(posterior.log_prob(z), pool.log_prob(z), rtol=1e-4, atol=1e-4)

    # Component for component, in the order of the whole pool.
    inside = [n in observed for n in NAMES]
    kept = [k for k, row in enumerate(posterior.members) if not (row & ~np.array(inside)).any()]
    for i in range(4):
        weights, mean, variance, members = holder_components(means[:, i], variances[:, i])
        np.testing.assert_allclose(np.exp(posterior.log_weights[kept, i]), weights, atol=1e-5)
        np.testing.assert_allclose(posterior.components.mean[kept, i], mean, atol=1e-4)
        np.testing.assert_allclose(posterior.components.variance[kept, i], variance, rtol=1e-3)
        np.testing.assert_array_equal(posterior.members[np.array(kept)][:, inside], members)
    np.testing.assert_allclose(jnp.exp(posterior.log_weights).sum(axis=0), 1.0, rtol=1e-5)


def test_each_example_may_have_a_subset_of_its_own(encode, params, batch):
    masks = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1]], bool)
    together = encode(params, batch, masks)
    in_batch = encode(params, batch | {"mask": masks}, None)
    assert_same(together, in_batch)
    for i, mask in enumerate(masks):
        alone = encode(params, batch, np.broadcast_to(mask, masks.shape))
        assert_same(
            (together.components.mean[:, i], together.log_weights[:, i]),
            (alone.components.mean[:, i], alone.log_weights[:, i]),
        )


def test_encode_needs_no_array_for_what_is_not_observed(model, params, batch):
    posterior = model.encode(params, {"b": batch["b"]}, subset_mask("b"))
    absent = batch | {n: jnp.full_like(batch[n], jnp.nan) for n in "ac"}
    assert_same(posterior, model.encode(params, absent, subset_mask("b")))


# --- generate


def test_names_and_masks_of_every_shape_agree(model, generate, params, batch):
    by_mask = generate(params, KEY, batch, jnp.asarray(subset_mask("a", "c")))
    for observed in (
        ("a", "c"),
        ["c", "a"],
        subset_mask("a", "c"),
        np.broadcast_to(subset_mask("a", "c"), (4, 3)),
    ):
        assert_same(
            model.generate(params, KEY, batch, observed, num_samples=3), by_mask, 1e-4, 1e-4
        )
    for name, modality in MODALITIES.items():
        assert by_mask[name].shape == (3, 4, *modality.shape)
    assert_same(model.generate(params, KEY, batch, "b"), model.generate(params, KEY, batch, ("b",)))


def test_one_compilation_serves_every_subset(generate, encode, params, batch):
    masks = [subset_mask("a"), subset_mask("b", "c"), subset_mask(*NAMES)]
    for program, args in ((generate, (params, KEY)), (encode, (params,))):
        program(*args, batch, masks[0])
        before = program.traces
        outputs = [jax.tree.leaves(program(*args, batch, mask))[0] for mask in masks]
        assert program.traces == before
        assert not np.allclose(outputs[0], outputs[1])


def test_generation_is_a_function_of_its_key(generate, params, batch):
    mask = subset_mask("a")
    first, again = (generate(params, KEY, batch, mask) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = generate(params, jax.random.key(1), batch, mask)
    for name in NAMES:
        assert not np.allclose(first[name], other[name])
        assert not np.allclose(first[name][0], first[name][1]), "samples differ"


def test_what_is_not_observed_is_not_read(generate, params, batch):
    mask = subset_mask("b")
    expected = generate(params, KEY, batch, mask)
    for fill in (jnp.nan, 3.0):
        unread = batch | {n: jnp.full_like(batch[n], fill) for n in "ac"}
        assert_same(generate(params, KEY, unread, mask), expected)


class IdentityDecoder(nnx.Module):
    """Gives the latents as they are."""

    def __init__(self, in_features, shape, *, rngs):
        assert shape == (in_features,)

    def __call__(self, latents):
        return latents


@pytest.mark.parametrize("system", ["holder+", "holder++"])
def test_private_latents_come_from_the_posterior_where_observed_and_else_from_a_prior(system):
    model = linear_model(
        system,
        {n: Modality((2,), LinearEncoder, IdentityDecoder, Gaussian()) for n in "ab"},
        latent_dim=1,
        private_dim=1,
    )
    last = "private_head/output/linear" if system == "holder++" else "private_head/linear"
    params = with_leaves(
        random_params(model),
        {
            f"{last}/kernel": 0.0,
            f"a/{last}/bias": [10.0, -25.0],
            f"b/{last}/bias": [20.0, -25.0],
            "log_auxiliary_scale": jnp.log(3.0),
        },
    )
    batch = random_batch(model, 500)
    observed = np.zeros((500, 2), bool)
    observed[:250, 0] = observed[250:, 1] = True
    for choice, scale in (("prior", 1.0), ("auxiliary", 3.0)):
        samples = model.generate(params, KEY, batch, observed, 2, unobserved_private=choice)
        w = {name: np.asarray(x[..., 1]) for name, x in samples.items()}
        np.testing.assert_allclose(w["a"][:, :250], 10.0, atol=1e-3)
        np.testing.assert_allclose(w["b"][:, 250:], 20.0, atol=1e-3)
        others = np.concatenate([w["a"][:, 250:], w["b"][:, :250]])
        assert abs(others.mean()) < 0.2 * scale
        assert abs(others.std() / scale - 1) < 0.1
        np.testing.assert_array_equal(samples["a"][..., 0], samples["b"][..., 0])  # one z for all
    z, w = model.sample(params, KEY, 2000)["a"].T
    for draws in (z, w):
        assert abs(draws.mean()) < 0.1
        assert abs(draws.std() - 1) < 0.1
    assert abs(np.corrcoef(z, w)[0, 1]) < 0.1


def test_z_of_a_generation_comes_from_the_pooled_posterior_of_the_observed():
    modality = Modality((1,), LinearEncoder, IdentityDecoder, Gaussian())
    model = linear_model("holder", {n: modality for n in "abc"}, latent_dim=1)
    params, batch = random_params(model, seed=2), random_batch(model, 1)
    mask = np.array([True, False, True])
    z = np.asarray(model.generate(params, KEY, batch, mask, 4000)["b"])[:, 0, 0]
    posterior = model.encode(params, batch, mask)
    mean, variance = float(posterior.mean()[0, 0]), float(posterior.variance()[0, 0])
    assert abs(z.mean() - mean) < 4 * np.sqrt(variance / 4000)
    assert abs(z.var() / variance - 1) < 0.15


def test_every_likelihood_generates_its_mean(batch):
    kinds = {
        "flags": Modality((3,), LinearEncoder, LinearDecoder, Bernoulli()),
        "tokens": Modality((4,), LinearEncoder, LinearDecoder, Categorical(5)),
        "image": Modality((2, 2, 1), LinearEncoder, LinearDecoder),
    }
    model = linear_model("holder+", kinds)
    params = model.init(KEY)
    x = {"image": jnp.ones((2, 2, 2, 1))}
    for samples, leading in (
        (quick_jit(lambda x: model.generate(params, KEY, x, ("image",), 3))(x), (3, 2)),
        (quick_jit(lambda key: model.sample(params, key, 6))(KEY), (6,)),
    ):
        assert {n: s.shape for n, s in samples.items()} == {
            "flags": (*leading, 3),
            "tokens": (*leading, 4, 5),
            "image": (*leading, 2, 2, 1),
        }
        assert ((samples["flags"] > 0) & (samples["flags"] < 1)).all()
        np.testing.assert_allclose(samples["tokens"].sum(axis=-1), 1.0, rtol=1e-5)
    full = x | {"flags": jnp.ones((2, 3)), "tokens": jnp.zeros((2, 4), int)}
    assert jnp.isfinite(quick_jit(model.loss)(params, full, KEY)[0])


def test_a_modality_s_weight_multiplies_its_log_likelihood(batch):
    reconstruction = {}
    for weight in (1.0, 3.0):
        model = linear_model("holder", {n: linear_modality((1,), 1.0, weight) for n in "ab"})
        _, aux = model.loss(random_params(model), {n: batch["b"] for n in "ab"}, KEY)
        reconstruction[weight] = aux["reconstruction"]["a"]
    np.testing.assert_allclose(reconstruction[3.0], 3 * reconstruction[1.0], rtol=1e-5)


@pytest.mark.parametrize("what", ["loss", "encode", "generate", "sample"])
def test_eager_and_compiled_agree(model, params, batch, what):
    calls = {
        "loss": lambda p: model.loss(p, batch, KEY, 0.7),
        "encode": lambda p: model.encode(p, batch),
        "generate": lambda p: model.generate(p, KEY, batch, ("a", "b"), 3),
        "sample": lambda p: model.sample(p, KEY, 3),
    }
    assert_same(calls[what](params), quick_jit(calls[what])(params), 1e-4, 1e-4)


def test_unconditional_samples_have_the_shapes_of_the_modalities(model, params):
    samples = model.sample(params, KEY, 5)
    assert {n: x.shape for n, x in samples.items()} == {
        n: (5, *m.shape) for n, m in MODALITIES.items()
    }
    jax.tree.map(np.testing.assert_array_equal, samples, model.sample(params, KEY, 5))


# --- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_model("holdr"), "unknown system 'holdr': did you mean 'holder'"),
        (lambda: linear_model("holder", {}), "modalities: expected at least one"),
        (lambda: linear_model("holder", {"a": (2,)}), "'a' should be a Modality"),
        (lambda: linear_model("holder", {"mask": MODALITIES["a"]}), "use another name"),
        (lambda: linear_model("holder", components=1), "components: .* at least 2 .* got 1"),
        (lambda: linear_model("holder", latent_dim=0), "latent_dim: .* got 0"),
        (lambda: linear_model("holder+", private_dim=-1), "private_dim: .* got -1"),
        (lambda: linear_model("hmvae", private_dim=0), "private_dim: .* at least 1 .* got 0"),
        (
            lambda: linear_model("holder", order=0),
            "order: expected an integer of at least 1, got 0",
        ),
        (
            lambda: linear_model("holder", order=1.5),
            "order: expected an integer of at least 1, got 1.5",
        ),
        (lambda: linear_model("holder", kl="mixtur"), "did you mean 'mixture'"),
        (lambda: linear_modality((2, 0)), r"shape: expected positive integers, got \(2, 0\)"),
        (lambda: linear_modality((2,), weight=0.0), "weight: expected a positive number, got 0.0"),
    ],
)
def test_what_cannot_be_built_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class NormalizingEncoder(LinearEncoder):
    def __init__(self, shape, *, rngs):
        super().__init__(shape, rngs=rngs)
        self.norm = nnx.BatchNorm(self.features, rngs=rngs)


class DroppingEncoder(LinearEncoder):
    def __init__(self, shape, *, rngs):
        super().__init__(shape, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (NormalizingEncoder, r"a\.encoder\.norm\.mean is a BatchStat.* LayerNorm instead"),
        (DroppingEncoder, r"a\.encoder\.dropout.* is a Rng"),
    ],
)
def test_networks_with_state_are_refused(encoder, message):
    with pytest.raises(ValueError, match=message):
        linear_model("holder", {"a": Modality((2,), encoder, LinearDecoder)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: {n: b[n] for n in "ac"}, r"'b' is missing; it has \['a', 'c'\]"),
        (lambda b: b | {"b": b["a"]}, r"'b' should be \[B, \*\(1,\)\], got \(4, 2\)"),
        (lambda b: b | {"b": b["b"][0]}, r"'b' should be \[B, \*\(1,\)\], got \(1,\)"),
        (lambda b: b | {"b": b["b"][:2]}, "one batch size for all modalities, got .*'b': 2"),
        (
            lambda b: b | {"mask": np.ones((3, 4), bool)},
            r"mask: expected the shape \(4, 3\), got \(3, 4\)",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(model, params, batch, change, message):
    with pytest.raises(ValueError, match=message):
        model.loss(params, change(batch), KEY)


def test_keys_that_do_not_fit_are_refused(model, params, batch):
    with pytest.raises(ValueError, match=r"key: .* \(4,\), got .*\(3,\)"):
        model.loss(params, batch, jax.random.split(KEY, 3))


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        (("a", "d"), "unknown modality 'd'.* Known: a, b, c"),
        ("aa", "unknown modality 'aa': did you mean 'a'"),
        ((), "observed: expected at least one of a, b, c"),
        (np.zeros(3, bool), "no expert is present"),
        (np.array([True, True]), r"mask: expected the shape \(3,\) or \(4, 3\), got \(2,\)"),
        ([True, False, True], "observed: expected names"),
    ],
)
def test_an_observed_subset_that_makes_no_sense_is_refused(model, params, batch, observed, message):
    with pytest.raises(ValueError, match=message):
        model.generate(params, KEY, batch, observed)


def test_an_observed_modality_must_be_given(model, params, batch):
    given = {"a": batch["a"]}
    with pytest.raises(ValueError, match="'b' is missing; it has"):
        model.generate(params, KEY, given, ("a", "b"))
    with pytest.raises(ValueError, match="'b' is observed but not given"):
        model.generate(params, KEY, given, subset_mask("a", "b"))
    with pytest.raises(ValueError, match="'b' is observed but not given"):
        model.encode(params, given)
    with pytest.raises(ValueError, match="unobserved_private"):
        model.generate(params, KEY, given, ("a",), unobserved_private="posterior")
