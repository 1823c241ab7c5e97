"""The FID network in NumPy, with batch norms as they are, and random weights for it."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# Block: branch by branch, the chain of units; / opens a fork of two, + is the pool before a unit.
BLOCKS = {
    "A": "branch1x1, branch5x5_1 branch5x5_2, branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3, "
    "+ branch_pool",
    "B": "branch3x3, branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3, +",
    "C": "branch1x1, branch7x7_1 branch7x7_2 branch7x7_3, "
    "branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5, + branch_pool",
    "D": "branch3x3_1 branch3x3_2, branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4, +",
    "E": "branch1x1, branch3x3_1 branch3x3_2a/branch3x3_2b, "
    "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a/branch3x3dbl_3b, + branch_pool",
}
# By name: block, channels that enter it, pool.
MIXED = {
    **{"Mixed_5b": ("A", 192, "mean"), "Mixed_5c": ("A", 256, "mean")},
    **{"Mixed_5d": ("A", 288, "mean"), "Mixed_6a": ("B", 288, "halve")},
    **{"Mixed_6b": ("C", 768, "mean"), "Mixed_6c": ("C", 768, "mean")},
    **{"Mixed_6d": ("C", 768, "mean"), "Mixed_6e": ("C", 768, "mean")},
    **{"Mixed_7a": ("D", 768, "halve"), "Mixed_7b": ("E", 1280, "mean")},
    "Mixed_7c": ("E", 2048, "max"),
}
# Units of stride 2, and those that see nothing beyond the border.
STRIDED = {
    *("Conv2d_1a_3x3", "Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3"),
    *("Mixed_7a.branch3x3_2", "Mixed_7a.branch7x7x3_4"),
}
UNPADDED = {*STRIDED, "Conv2d_2a_3x3", "Conv2d_4a_3x3"}


def random_state(shapes, seed=0):
    """Tensors by PyTorch's names that keep activations near one through the whole network."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        part = name.rsplit(".", 2)[-2:]
        if part == ["conv", "weight"]:
            x = rng.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]))
        elif part in (["bn", "weight"], ["bn", "running_var"]):
            x = rng.uniform(0.5, 1.5, shape)
        else:
            x = rng.normal(scale=0.2, size=shape)
        state[name] = x.astype(np.float32)
    return state


def windows(x, kernel, stride, padding, fill):
    """[B, h, w, C, kh, kw] of images [B, H, W, C]."""
    (up, left) = ((k // 2 if padding else 0) for k in kernel)
    x = np.pad(x, ((0, 0), (up, up), (left, left), (0, 0)), constant_values=fill)
    return sliding_window_view(x, kernel, axis=(1, 2))[:, ::stride, ::stride]


def unit(state, name, x):
    weight = state[f"{name}.conv.weight"]
    seen = windows(x, weight.shape[2:], 1 + (name in STRIDED), name not in UNPADDED, 0)
    x = np.tensordot(seen, weight, axes=([3, 4, 5], [1, 2, 3]))
    gamma, beta, mean, variance = (
        state[f"{name}.bn.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return np.maximum(gamma * (x - mean) / np.sqrt(variance + 0.001) + beta, 0)


def pool(x, kind):
    """3 x 3; what lies beyond the border is no number and does not count."""
    if kind == "halve":
        return windows(x, (3, 3), 2, False, np.nan).max(axis=(-1, -2))
    over = {"mean": np.nanmean, "max": np.nanmax}[kind]
    return over(windows(x, (3, 3), 1, True, np.nan), axis=(-1, -2))


def mixed(state, name, x, kind=None):
    """One block; `kind` of its pool if not the FID network's."""
    block, channels, usual = MIXED[name]
    assert x.shape[-1] == channels
    outputs = []
    for branch in BLOCKS[block].split(", "):
        chains = [x]
        for step in branch.split():
            if step == "+":
                chains = [pool(x, kind or usual)]
            else:
                (last,) = chains
                chains = [unit(state, f"{name}.{part}", last) for part in step.split("/")]
        outputs += chains
    return np.concatenate(outputs, axis=-1)


def resized(images, side=299):
    """Linear interpolation between pixels' centres; beyond the outermost centres, these."""

    def along(x, axis):
        count = x.shape[axis]
        place = np.clip((np.arange(side) + 0.5) * count / side - 0.5, 0, count - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, count - 1)
        share = (place - low).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        return np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share

    return along(along(images, 1), 2)


def features(state, images):
    """[B, 2048] of images [B, H, W, 1 or 3] in [0, 1]."""
    x = resized(np.repeat(images, 3 // images.shape[-1], axis=-1)).astype(np.float32) * 2 - 1
    for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"):
        x = unit(state, name, x)
    x = pool(x, "halve")
    for name in ("Conv2d_3b_1x1", "Conv2d_4a_3x3"):
        x = unit(state, name, x)
    x = pool(x, "halve")
    for name in MIXED:
        x = mixed(state, name, x)
    return x.mean(axis=(1, 2))
