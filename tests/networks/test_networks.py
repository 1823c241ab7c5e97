"""Encoders, decoders and heads."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from holderjax import models
from holderjax.models import Modality
from holderjax.networks import (
    NETWORKS,
    ConditionalHead,
    ConvDecoder,
    ConvEncoder,
    GaussianHead,
    MlpDecoder,
    MlpEncoder,
    ResidualDecoder,
    ResidualEncoder,
)
from holderjax.networks.convolution_cpu import activation
from holderjax.networks.residual import SLOPE, ResidualBlock, _halve

quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)


def count(tree):
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("pixels", [16, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_pair_serves_every_size(network, pixels, channels):
    make_encoder, make_decoder = NETWORKS[network]
    shape = (pixels, pixels, channels)

    def both(x, latents):
        encoder, decoder = (
            make_encoder(shape, rngs=nnx.Rngs(0)),
            make_decoder(7, shape, rngs=nnx.Rngs(1)),
        )
        assert encoder(x).shape == (5, encoder.features)
        return decoder(latents)

    images = jax.ShapeDtypeStruct((5, *shape), jnp.float32)
    decoded = jax.eval_shape(both, images, jax.ShapeDtypeStruct((9, 7), jnp.float32))
    assert decoded.shape == (9, *shape)


# Narrow, so that they compile fast.
NARROW = {"mlp": {"hidden": (8, 8)}, "conv": {"widths": (4, 5, 6)}, "resnet": {"width": 4}}


@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_depend_on_all_of_the_input_row_by_row(network):
    shape = (16, 16, 3)
    make_encoder, make_decoder = (partial(make, **NARROW[network]) for make in NETWORKS[network])

    def reconstruct(x):
        features = make_encoder(shape, rngs=nnx.Rngs(0))(x)
        y = make_decoder(features.shape[-1], shape, rngs=nnx.Rngs(1))(features)
        return jnp.abs(y).sum(), y

    run = quick_jit(jax.value_and_grad(reconstruct, has_aux=True))
    x = jax.random.normal(KEY, (3, *shape))
    (_, y), sensitivity = run(x)
    assert jnp.isfinite(y).all()
    assert jnp.isfinite(sensitivity).all()
    assert (sensitivity != 0).any(axis=(0, 3)).mean() > 0.9, "nearly every pixel matters"
    (_, backwards), _ = run(x[::-1])
    np.testing.assert_allclose(backwards[::-1], y, rtol=1e-4, atol=1e-5)
    (_, changed), _ = run(x.at[0].add(1.0))
    assert not np.allclose(changed[0], y[0])
    np.testing.assert_allclose(changed[1:], y[1:], rtol=1e-4, atol=1e-5)


def test_perceptrons_take_examples_of_any_shape():
    def both(x, latents):
        encoder = MlpEncoder((2, 3, 4), hidden=(6, 5), rngs=nnx.Rngs(0))
        decoder = MlpDecoder(3, (2, 7), hidden=(6,), rngs=nnx.Rngs(0))
        assert encoder.features == 5
        return encoder(x), decoder(latents)

    features, decoded = jax.eval_shape(both, jnp.ones((8, 2, 3, 4)), jnp.ones((9, 3)))
    assert features.shape == (8, 5)
    assert decoded.shape == (9, 2, 7)


@pytest.mark.parametrize("network", ["conv", "resnet"])
@pytest.mark.parametrize("shape", [(12,), (16, 20, 3), (16, 16)])
def test_image_networks_refuse_what_is_no_square_image(network, shape):
    make_encoder, make_decoder = NETWORKS[network]
    for build in (partial(make_encoder, shape), partial(make_decoder, 4, shape)):
        with pytest.raises(ValueError, match=r"an image network needs \[H, H, C\]"):
            build(rngs=nnx.Rngs(0))


def test_the_residual_decoder_refuses_sizes_that_it_cannot_reach():
    with pytest.raises(ValueError, match="doubles 5 pixels 2 times; it cannot reach 18"):
        ResidualDecoder(4, (18, 18, 1), width=4, rngs=nnx.Rngs(0))


def test_the_small_convolutional_pair_is_the_mopoe_line_s():
    # Three stride-2 convolutions, 32-64-128 channels, 3x3.
    shape = (28, 28, 3)
    encoder = nnx.eval_shape(lambda: ConvEncoder(shape, rngs=nnx.Rngs(0)))
    kernels = [layer.kernel_shape for layer in encoder.layers.values()]
    assert kernels == [(3, 3, 3, 32), (3, 3, 32, 64), (3, 3, 64, 128)]
    assert encoder.features == 4 * 4 * 128
    decoder = nnx.eval_shape(lambda: ConvDecoder(8, shape, rngs=nnx.Rngs(0)))
    assert [layer.kernel_shape[-2:] for layer in decoder.layers.values()] == [
        (128, 64),
        (64, 32),
        (32, 3),
    ]


def test_the_residual_recipe_has_the_22_2_million_parameters_of_mmvae_plus():
    pair = NETWORKS["resnet"]
    one_of_five = {"m0": Modality((28, 28, 3), *pair)}
    model = models.build("holder+", one_of_five, latent_dim=32, private_dim=32)
    params = jax.eval_shape(model.init, KEY)
    assert round(5 * count(params) / 1e6, 1) == 22.2


def test_the_residual_encoder_halves_28_pixels_to_7():
    encoder = nnx.eval_shape(lambda: ResidualEncoder((28, 28, 3), rngs=nnx.Rngs(0)))
    assert encoder.features == 7 * 7 * 256
    widths = [block.second.out_features for block in encoder.blocks.values()]
    assert widths == [64, 128, 256]


def test_a_residual_block_adds_a_tenth():
    def added(x):
        block = ResidualBlock(4, 4, rngs=nnx.Rngs(0))
        inner = block.second(jax.nn.leaky_relu(block.first(jax.nn.leaky_relu(x, 0.2)), 0.2))
        return block(x) - x, inner

    change, inner = quick_jit(added)(jax.random.normal(KEY, (1, 8, 8, 4)))
    np.testing.assert_allclose(change, 0.1 * inner, rtol=1e-3, atol=1e-5)


def test_a_doubling_block_is_a_block_of_doubled_images():
    def both(x):
        doubling = ResidualBlock(4, 3, doubles=True, rngs=nnx.Rngs(0))
        plain = ResidualBlock(4, 3, rngs=nnx.Rngs(0))
        return doubling(x), plain(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))

    doubled, plain = quick_jit(both)(jax.random.normal(KEY, (2, 5, 5, 4)))
    np.testing.assert_allclose(doubled, plain, atol=1e-5)


def assert_same_gradients(function, expected, x):
    y, pull = jax.vjp(function, x)
    other, other_pull = jax.vjp(expected, x)
    cotangent = jax.random.normal(jax.random.key(1), y.shape)
    np.testing.assert_allclose(y, other, atol=1e-6)
    np.testing.assert_allclose(*pull(cotangent), *other_pull(cotangent), atol=1e-6)


@pytest.mark.parametrize("size", [28, 7, 1])
def test_halving_is_average_pooling(size):
    def pooled(x):
        return nnx.avg_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    assert_same_gradients(_halve, pooled, jax.random.normal(KEY, (2, size, size, 3)))


def test_the_activation_is_a_leaky_relu_with_a_slope_of_a_fifth():
    x = jnp.concatenate([jax.random.normal(KEY, (9,)), jnp.zeros(1)])
    assert_same_gradients(activation(SLOPE), lambda x: jax.nn.leaky_relu(x, 0.2), x)


def test_heads_give_float32_gaussians_from_half_precision_features():
    head = GaussianHead(6, 3, initial_log_var=-4.0, rngs=nnx.Rngs(0))
    q = head(jnp.ones((2, 6), jnp.bfloat16))
    assert q.mean.shape == q.log_var.shape == (2, 3)
    assert q.mean.dtype == q.log_var.dtype == jnp.float32
    np.testing.assert_allclose(head(jnp.zeros((2, 6))).log_var, -4.0)


def test_the_conditional_head_broadcasts_features_over_components():
    def apply(features, z):
        head = ConditionalHead(6, 2, 3, hidden=10, rngs=nnx.Rngs(0))
        return head(features, z), head(features, z[:1])

    features, z = jax.random.normal(KEY, (4, 6)), jax.random.normal(KEY, (5, 4, 2))
    q, first = quick_jit(apply)(features, z)
    assert q.mean.shape == (5, 4, 3)
    np.testing.assert_allclose(first.mean[0], q.mean[0], rtol=1e-4)
    assert not np.allclose(q.mean[0], q.mean[1])


class CountingEncoder(MlpEncoder):
    """Notes the shape of every input that its trunk is run on."""

    calls: ClassVar[list] = []

    def __call__(self, x):
        self.calls.append(x.shape)
        return super().__call__(x)


@pytest.mark.parametrize(("system", "trunks"), [("holder", 1), ("holder+", 2), ("holder++", 2)])
@pytest.mark.parametrize("components", [None, 4])
def test_every_trunk_runs_once_per_input_and_not_per_component(system, trunks, components):
    small = partial(CountingEncoder, hidden=(6,))
    modalities = {
        f"m{i}": Modality((3,), small, partial(MlpDecoder, hidden=(6,))) for i in range(4)
    }
    model = models.build(system, modalities, latent_dim=2, private_dim=2, components=components)
    params = jax.eval_shape(model.init, KEY)
    batch = {name: jax.ShapeDtypeStruct((5, 3), jnp.float32) for name in modalities}
    observed = np.array([True, True, False, False])
    for call in (
        lambda p, x: model.loss(p, x, KEY)[0],
        lambda p, x: model.generate(p, KEY, x, observed, num_samples=7),
    ):
        CountingEncoder.calls.clear()
        jax.eval_shape(call, params, batch)
        assert CountingEncoder.calls == [(5, 3)] * (trunks * 4)


@pytest.mark.parametrize("network", ["conv", pytest.param("resnet", marks=pytest.mark.slow)])
def test_gradients_of_image_models_are_finite(network):
    image = Modality((16, 16, 3), *(partial(make, **NARROW[network]) for make in NETWORKS[network]))
    vector = Modality((3,), *(partial(make, **NARROW["mlp"]) for make in NETWORKS["mlp"]))
    model = models.build("holder++", {"a": image, "b": vector}, latent_dim=3, private_dim=3)
    batch = {"a": jax.random.uniform(KEY, (2, 16, 16, 3)), "b": jnp.ones((2, 3))}
    gradient = quick_jit(jax.grad(lambda p: model.loss(p, batch, KEY)[0]))(
        quick_jit(model.init)(KEY)
    )
    for leaf in jax.tree.leaves(gradient):
        assert jnp.isfinite(leaf).all()
        assert (leaf != 0).any()
