"""Inception's features against NumPy, and its weights from a file of PyTorch's."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import numpy_inception
import pytest
from flax import nnx
from torch_writer import references, write_zip

from holderjax.evaluation import inception
from holderjax.evaluation.inception import convert, features, load_inception, template, torch_shapes

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def state():
    return numpy_inception.random_state(torch_shapes())


@pytest.fixture(scope="module")
def params(state):
    return convert(state)


@pytest.fixture(scope="module")
def program():
    return jax.jit(features)


def close(found, expected, tolerance=1e-3):
    """To a share of the largest expected value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_the_network_is_inceptions_in_names_and_numbers():
    # Torchvision counts 21,785,568 up to the classes, with two numbers for each of the 17,216
    # channels of the batch norms, of which folding leaves one.
    sizes = {name: int(np.prod(shape)) for name, shape in template()[1].items()}
    assert sum(sizes.values()) == 21_785_568 - 17_216
    assert sum(size for name, size in sizes.items() if name.endswith("bias")) == 17_216
    shapes = torch_shapes()
    assert len(shapes) == 94 * 5 + 2
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert shapes["Mixed_6d.branch7x7dbl_4.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_7c.branch3x3dbl_3a.bn.running_var"] == (384,)
    assert shapes["fc.weight"] == (1008, 2048)


@pytest.mark.parametrize("shape", [(40, 32, 3), (310, 400, 1)], ids=["small", "large-grey"])
def test_the_features_are_numpys(shape, state, params, program):
    images = RNG.uniform(size=(2, *shape)).astype(np.float32)
    found = np.asarray(program(params, images))
    expected = numpy_inception.features(state, images)
    assert found.shape == (2, 2048)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.mean())


@pytest.mark.parametrize("name", ["Mixed_5b", "Mixed_6b", "Mixed_7b", "Mixed_7c"])
def test_pools_leave_out_what_lies_beyond_the_border_and_the_last_takes_maxima(name, state, params):
    """Also seen by the other pool giving other numbers."""
    _, channels, _ = numpy_inception.MIXED[name]
    build = {
        "Mixed_5b": lambda rngs: inception.BlockA(channels, 32, rngs=rngs),
        "Mixed_6b": lambda rngs: inception.BlockC(channels, 128, rngs=rngs),
        "Mixed_7b": lambda rngs: inception.BlockE(channels, "average", rngs=rngs),
        "Mixed_7c": lambda rngs: inception.BlockE(channels, "largest", rngs=rngs),
    }[name]
    graph, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    x = RNG.normal(size=(2, 4, 5, channels)).astype(np.float32)
    found = jax.jit(lambda p, x: nnx.merge(graph, p)(x))(params[name], x)
    close(found, numpy_inception.mixed(state, name, x), 1e-5)
    other = "mean" if name == "Mixed_7c" else "max"
    assert np.abs(found - numpy_inception.mixed(state, name, x, other)).max() > 0.1


def test_the_average_counts_only_pixels():
    found = inception.average(jnp.ones((1, 3, 4, 1)))
    np.testing.assert_allclose(found, 1, rtol=1e-6)
    ramp = jnp.arange(4.0)[None, :, None, None]
    np.testing.assert_allclose(inception.average(ramp).ravel(), [0.5, 1, 2, 2.5], rtol=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (28, 32), (64, 299), (299, 299), (512, 400)])
def test_images_are_resized_without_antialiasing(size):
    images = RNG.uniform(size=(1, *size, 3)).astype(np.float32)
    expected = 2 * numpy_inception.resized(images) - 1
    np.testing.assert_allclose(inception.prepare(images), expected, atol=1e-4)


def test_grey_is_three_equal_channels_and_values_beyond_white_and_black_are_cut():
    grey = RNG.normal(size=(1, 8, 8, 1)).astype(np.float32)
    found = inception.prepare(grey)
    np.testing.assert_array_equal(found[..., :1], found[..., 2:])
    colours = inception.prepare(np.repeat(np.clip(grey, 0, 1), 3, axis=-1))
    np.testing.assert_allclose(found, colours, atol=1e-5)


def test_a_batch_of_any_size_is_the_images_one_by_one(monkeypatch, params, program):
    images = RNG.uniform(size=(5, 9, 9, 3)).astype(np.float32)
    monkeypatch.setattr(inception, "CHUNK", 2)
    found = jax.jit(lambda p, x: features(p, x))(params, images)
    assert found.shape == (5, 2048)
    chosen = np.array([4, 1])
    close(found[chosen], program(params, images[chosen]), 1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 8, 4), (2, 8, 8), (2, 3, 8, 8)])
def test_other_images_are_refused(shape):
    with pytest.raises(ValueError, match="1 or 3"):
        features({}, np.zeros(shape))


# --- weights


def test_missing_strange_and_misshapen_tensors_are_named(state):
    name = "Mixed_6a.branch3x3.bn.running_mean"
    cases = {
        rf"expected a tensor {name} \[384\]": {k: x for k, x in state.items() if k != name},
        rf"{name}: expected \[384\], got \[383\]": {**state, name: state[name][:383]},
        rf"{name}: expected finite": {**state, name: np.full(384, np.nan, np.float32)},
        # Torchvision's own weights.
        r"fc.weight: expected \[1008, 2048\]": {**state, "fc.weight": np.zeros((1000, 2048))},
        "AuxLogits.fc.bias: not a tensor": {**state, "AuxLogits.fc.bias": np.zeros(3)},
        "Conv2d_1a_3x3.bn.running_var: expected variances, got -1": {
            **state,
            "Conv2d_1a_3x3.bn.running_var": np.full(32, -1.0),
        },
    }
    for expected, wrong in cases.items():
        with pytest.raises(ValueError, match=expected):
            convert(wrong)


def test_counts_of_batches_are_ignored(state, params):
    counted = {**state, "Conv2d_1a_3x3.bn.num_batches_tracked": np.array(3)}
    jax.tree.map(np.testing.assert_array_equal, convert(counted), params)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDERJAX_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "inception"
    # 90 MB each, of which pytest would keep those of the last three runs.
    for path in tmp_path.rglob("*.*z"):
        path.unlink()
    (tmp_path / "weights.pth").unlink()


def test_a_file_is_converted_once(cache, tmp_path, state, params, monkeypatch, caplog):
    path = tmp_path / "weights.pth"
    write_zip(path, references(state))
    weights = load_inception(path)
    assert weights.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    jax.tree.map(np.testing.assert_array_equal, weights.params, params)
    (kept,) = cache.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(inception, "read_state_dict", None)
        again = load_inception(path)
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    assert not caplog.records
    kept.write_bytes(kept.read_bytes()[:1000])
    again = load_inception(path)
    assert "is damaged" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    assert list(cache.iterdir()) == [kept]


def test_a_wrong_file_is_named_and_nothing_is_kept(cache, tmp_path):
    path = tmp_path / "weights.pth"
    write_zip(path, references({"weight": np.zeros(3, np.float32)}))
    with pytest.raises(ValueError, match=r"weights\.pth: expected a tensor Conv2d_1a_3x3\.bn"):
        load_inception(path)
    assert not cache.exists()
