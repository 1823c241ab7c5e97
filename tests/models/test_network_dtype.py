"""Networks in bfloat16: they compute in it, and nothing else does."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from linear_models import LinearDecoder, LinearEncoder, quick_jit

from holderjax import models
from holderjax.models import Categorical, Laplace, Modality
from holderjax.networks import NETWORKS, TextDecoder, TextEncoder

KEY = jax.random.key(0)
SMALL = {
    "mlp": ({"hidden": (16,)}, {"hidden": (16,)}),
    "conv": ({"widths": (4, 8)}, {"widths": (4, 8)}),
    "resnet": ({"width": 4}, {"width": 4}),
}


class Recorder(nnx.Module):
    """Notes what its network was given and what it has."""

    def __init__(self, *args, make, seen, rngs):
        self.network = make(*args, rngs=rngs)
        self.features = getattr(self.network, "features", None)
        self.seen = seen

    def __call__(self, x):
        types = [leaf.dtype for leaf in jax.tree.leaves(nnx.state(self.network, nnx.Param))]
        y = self.network(x)
        self.seen.append({x.dtype, y.dtype, *types})
        return y


class Seen(list):
    """A list that modules may hold as they hold a number."""

    __hash__ = object.__hash__


def of_types(shape, dtype, seen):
    encoder, decoder = (
        partial(Recorder, make=make, seen=seen) for make in (LinearEncoder, LinearDecoder)
    )
    return Modality(shape, encoder, decoder, Laplace(0.75), dtype=dtype)


def image_model(network, dtype, system="holder++"):
    encoder, decoder = (
        partial(make, **options)
        for make, options in zip(NETWORKS[network], SMALL[network], strict=True)
    )
    image = Modality((12, 12, 3), encoder, decoder, Laplace(0.75), dtype=dtype)
    text = Modality(
        (6,),
        partial(TextEncoder, num_symbols=5, width=8),
        partial(TextDecoder, width=8),
        Categorical(5),
        dtype=dtype,
    )
    return models.build(system, {"image": image, "text": text}, latent_dim=3, private_dim=2)


BATCH = {
    "image": jax.random.uniform(KEY, (4, 12, 12, 3)),
    "text": jax.random.randint(KEY, (4, 6), 0, 5),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_encoders_and_decoders_see_that_type_alone(dtype):
    seen = Seen()
    model = models.build(
        "holder++",
        {"a": of_types((3,), dtype, seen), "b": of_types((2,), "float32", Seen())},
        latent_dim=2,
        private_dim=2,
    )
    params = model.init(KEY)
    batch = {"a": jnp.ones((4, 3)), "b": jnp.ones((4, 2))}
    seen.clear()
    loss, aux = model.loss(params, batch, KEY)
    assert len(seen) == 3  # two encoders and a decoder
    assert all(types == {jnp.dtype(dtype)} for types in seen)
    posterior, made = model.encode(params, batch), model.sample(params, KEY, 5)
    of_float32 = params, loss, aux, posterior.components, posterior.log_weights, made
    assert {leaf.dtype for leaf in jax.tree.leaves(of_float32)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("network", NETWORKS)
def test_losses_and_gradients_are_float32_s_to_bfloat16_s_precision(network):
    models_of = {dtype: image_model(network, dtype) for dtype in ("float32", "bfloat16")}
    params = models_of["float32"].init(KEY)
    found = {
        dtype: quick_jit(jax.value_and_grad(lambda p, m=model: m.loss(p, BATCH, KEY)[0]))(params)
        for dtype, model in models_of.items()
    }
    (loss, gradient), (rounded_loss, rounded) = found.values()
    assert loss != rounded_loss
    np.testing.assert_allclose(rounded_loss, loss, rtol=1e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {jnp.dtype("float32")}
    error = optax.tree.norm(optax.tree.sub(rounded, gradient)) / optax.tree.norm(gradient)
    assert 0 < error < 0.05


def test_a_population_and_masks_go_through_bfloat16():
    model = image_model("mlp", "bfloat16")
    params = jax.vmap(model.init)(jax.random.split(KEY, 3))
    batch = BATCH | {"mask": jnp.array([[True, False], [False, True], [True, True], [True, True]])}
    loss = quick_jit(jax.vmap(lambda p: jax.grad(lambda q: model.loss(q, batch, KEY)[0])(p)))
    for leaf in jax.tree.leaves(loss(params)):
        assert leaf.dtype == jnp.float32
        assert jnp.isfinite(leaf).all()


def test_other_types_are_refused():
    with pytest.raises(ValueError, match=r"dtype 'bfloat61'.* did you mean 'bfloat16'"):
        Modality((3,), dtype="bfloat61")
