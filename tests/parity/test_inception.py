"""Inception's features are PyTorch's, from a file that PyTorch has saved."""

import jax
import numpy as np
import pytest
import torch
from numpy_inception import random_state
from torch.nn import functional

from holderjax.evaluation.inception import convert, features, load_inception, torch_shapes
from holderjax.evaluation.torch_files import read_state_dict


def torch_features(state, images, *, fid=True):
    """[B, 2048] of images [B, C, H, W] in [0, 1].

    Args:
      state: tensors by name.
      images: of any size.
      fid: with the pools of the FID network, or those of the published one.
    """

    def conv(x, name, stride=1, padding=0):
        x = functional.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=padding)
        norm = [state[f"{name}.bn.{p}"] for p in ("running_mean", "running_var", "weight", "bias")]
        return functional.relu(functional.batch_norm(x, *norm, training=False, eps=1e-3))

    def average(x):
        return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=not fid)

    def last_pool(x):
        return functional.max_pool2d(x, 3, stride=1, padding=1) if fid else average(x)

    def halve(x):
        return functional.max_pool2d(x, 3, stride=2)

    def thrice(x, name, stride):
        x = conv(conv(x, f"{name}_1"), f"{name}_2", padding=1)
        return conv(x, f"{name}_3", stride=stride, padding=1 if stride == 1 else 0)

    def a(x, b):
        five = conv(conv(x, f"{b}.branch5x5_1"), f"{b}.branch5x5_2", padding=2)
        pooled = conv(average(x), f"{b}.branch_pool")
        three = thrice(x, f"{b}.branch3x3dbl", 1)
        return torch.cat([conv(x, f"{b}.branch1x1"), five, three, pooled], dim=1)

    def b_(x, b):
        three = conv(x, f"{b}.branch3x3", stride=2)
        return torch.cat([three, thrice(x, f"{b}.branch3x3dbl", 2), halve(x)], dim=1)

    wide, high = (0, 3), (3, 0)

    def c(x, b):
        once = twice = x
        for i, padding in enumerate([0, wide, high], 1):
            once = conv(once, f"{b}.branch7x7_{i}", padding=padding)
        for i, padding in enumerate([0, high, wide, high, wide], 1):
            twice = conv(twice, f"{b}.branch7x7dbl_{i}", padding=padding)
        pooled = conv(average(x), f"{b}.branch_pool")
        return torch.cat([conv(x, f"{b}.branch1x1"), once, twice, pooled], dim=1)

    def d(x, b):
        three = conv(conv(x, f"{b}.branch3x3_1"), f"{b}.branch3x3_2", stride=2)
        seven = conv(conv(x, f"{b}.branch7x7x3_1"), f"{b}.branch7x7x3_2", padding=wide)
        seven = conv(seven, f"{b}.branch7x7x3_3", padding=high)
        return torch.cat([three, conv(seven, f"{b}.branch7x7x3_4", stride=2), halve(x)], dim=1)

    def e(x, b, pool):
        def fork(x, name, step):
            across = conv(x, f"{b}.{name}_{step}a", padding=(0, 1))
            return [across, conv(x, f"{b}.{name}_{step}b", padding=(1, 0))]

        once = fork(conv(x, f"{b}.branch3x3_1"), "branch3x3", 2)
        deep = conv(conv(x, f"{b}.branch3x3dbl_1"), f"{b}.branch3x3dbl_2", padding=1)
        twice = fork(deep, "branch3x3dbl", 3)
        pooled = conv(pool(x), f"{b}.branch_pool")
        return torch.cat([conv(x, f"{b}.branch1x1"), *once, *twice, pooled], dim=1)

    x = functional.interpolate(images, (299, 299), mode="bilinear", align_corners=False)
    x = conv(2 * x - 1, "Conv2d_1a_3x3", stride=2)
    x = conv(conv(x, "Conv2d_2a_3x3"), "Conv2d_2b_3x3", padding=1)
    x = halve(conv(conv(halve(x), "Conv2d_3b_1x1"), "Conv2d_4a_3x3"))
    x = a(a(a(x, "Mixed_5b"), "Mixed_5c"), "Mixed_5d")
    x = c(c(b_(x, "Mixed_6a"), "Mixed_6b"), "Mixed_6c")
    x = d(c(c(x, "Mixed_6d"), "Mixed_6e"), "Mixed_7a")
    return e(e(x, "Mixed_7b", average), "Mixed_7c", last_pool).mean(dim=(2, 3)).numpy()


@pytest.fixture(scope="module")
def state():
    """Random weights that PyTorch can save, as a module's state dict lies in memory."""
    state = {name: torch.from_numpy(x) for name, x in random_state(torch_shapes()).items()}
    state["Conv2d_1a_3x3.bn.num_batches_tracked"] = torch.tensor(5)
    return state


@pytest.fixture(scope="module")
def program():
    return jax.jit(features)


@pytest.mark.parametrize("size", [(32, 40), (299, 299), (360, 320)], ids=str)
def test_the_features_are_pytorchs(size, state, program):
    images = np.random.default_rng(1).uniform(size=(2, *size, 3)).astype(np.float32)
    params = convert({name: x.numpy() for name, x in state.items()})
    found = np.asarray(program(params, images))
    channels_first = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    expected = torch_features(state, channels_first)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.mean())
    # The pools of the published network give other features.
    published = torch_features(state, channels_first, fid=False)
    assert np.abs(published - expected).max() > 0.1 * expected.mean()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_what_pytorch_saves_is_read_exactly(zipped, tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, (1, 5)), torch.nn.BatchNorm2d(3))
    saved = module.state_dict()
    saved["parameter"] = module[0].weight
    saved["view"] = torch.arange(12.0).reshape(3, 4).T[1:]
    path = tmp_path / "state.pth"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    found = read_state_dict(path)
    assert list(found) == list(saved)
    for name, x in saved.items():
        np.testing.assert_array_equal(found[name], x.detach().numpy(), strict=True)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_a_saved_network_is_loaded(zipped, state, tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDERJAX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "weights.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    params = convert({name: x.numpy() for name, x in state.items()})
    jax.tree.map(np.testing.assert_array_equal, load_inception(path).params, params)
    for file in (path, *tmp_path.glob("cache/inception/*.npz")):
        file.unlink()


def test_a_saved_module_is_refused_by_name(tmp_path):
    path = tmp_path / "module.pth"
    torch.save(torch.nn.Linear(2, 3), path)
    with pytest.raises(ValueError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        read_state_dict(path)
