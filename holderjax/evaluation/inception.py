r"""Inception-v3 up to the features of FID: the network, and its weights from PyTorch's file.

The network is that of Szegedy et al. 2016 as the TensorFlow graph of 2015-12-05 has it, in which
Heusel et al. 2017 measure. It differs from the published one in its pools of size 3 x 3: the
averages leave out what lies beyond the border, and the last block takes maxima instead.

A batch norm at inference is affine, so it is folded into the convolution before it:

.. math:: W' = W \gamma / \sqrt{v + 10^{-3}}, \quad b' = \beta - m \gamma / \sqrt{v + 10^{-3}}
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from holderjax import data
from holderjax.evaluation.classifiers import DAMAGE
from holderjax.evaluation.torch_files import read_state_dict
from holderjax.files import replacing

if TYPE_CHECKING:
    from jaxtyping import Array, Float

logger = logging.getLogger(__name__)

SIDE = 299
FEATURES = 2048
CLASSES = 1008
EPSILON = 1e-3  # of the batch norms
# Images that pass through the network at once: about 1 GB of activations.
CHUNK = 64
# To be raised when `features` or `convert` changes what it computes: part of the caches' keys.
VERSION = 1


class Unit(nnx.Conv):
    """A convolution with a bias, and a ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        padding: Literal["SAME", "VALID"] = "SAME",
        *,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            inputs,
            outputs,
            kernel,
            stride,
            padding=padding,
            # Accelerators would round the factors to 10 bits: a distance of its own for each.
            precision=jax.lax.Precision.HIGHEST,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        return jax.nn.relu(super().__call__(x))


def average(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Means over 3 x 3, of what lies within the image."""
    return nnx.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def largest(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Maxima over 3 x 3."""
    return nnx.max_pool(x, (3, 3), padding="SAME")


def halve(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Maxima over 3 x 3 at every second place."""
    return nnx.max_pool(x, (3, 3), strides=(2, 2))


def join(*branches: Float[Array, "B H W _"]) -> Float[Array, "B H W C"]:
    """Along the channels."""
    return jnp.concatenate(branches, axis=-1)


# The names of the units below are those of PyTorch's file.


class BlockA(nnx.Module):
    """35 x 35: kernels of 1, 5, and two of 3."""

    def __init__(self, inputs: int, pooled: int, *, rngs: nnx.Rngs) -> None:
        unit = partial(Unit, rngs=rngs)
        self.branch1x1 = unit(inputs, 64)
        self.branch5x5_1 = unit(inputs, 48)
        self.branch5x5_2 = unit(48, 64, (5, 5))
        self.branch3x3dbl_1 = unit(inputs, 64)
        self.branch3x3dbl_2 = unit(64, 96, (3, 3))
        self.branch3x3dbl_3 = unit(96, 96, (3, 3))
        self.branch_pool = unit(inputs, pooled)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return join(
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            double,
            self.branch_pool(average(x)),
        )


class BlockB(nnx.Module):
    """35 x 35 to 17 x 17."""

    def __init__(self, inputs: int, *, rngs: nnx.Rngs) -> None:
        unit = partial(Unit, rngs=rngs)
        self.branch3x3 = unit(inputs, 384, (3, 3), 2, "VALID")
        self.branch3x3dbl_1 = unit(inputs, 64)
        self.branch3x3dbl_2 = unit(64, 96, (3, 3))
        self.branch3x3dbl_3 = unit(96, 96, (3, 3), 2, "VALID")

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return join(self.branch3x3(x), double, halve(x))


class BlockC(nnx.Module):
    """17 x 17: kernels of 7 in one direction after the other."""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs) -> None:
        unit = partial(Unit, rngs=rngs)
        self.branch1x1 = unit(inputs, 192)
        self.branch7x7_1 = unit(inputs, width)
        self.branch7x7_2 = unit(width, width, (1, 7))
        self.branch7x7_3 = unit(width, 192, (7, 1))
        self.branch7x7dbl_1 = unit(inputs, width)
        self.branch7x7dbl_2 = unit(width, width, (7, 1))
        self.branch7x7dbl_3 = unit(width, width, (1, 7))
        self.branch7x7dbl_4 = unit(width, width, (7, 1))
        self.branch7x7dbl_5 = unit(width, 192, (1, 7))
        self.branch_pool = unit(inputs, 192)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return join(self.branch1x1(x), single, double, self.branch_pool(average(x)))


class BlockD(nnx.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self, inputs: int, *, rngs: nnx.Rngs) -> None:
        unit = partial(Unit, rngs=rngs)
        self.branch3x3_1 = unit(inputs, 192)
        self.branch3x3_2 = unit(192, 320, (3, 3), 2, "VALID")
        self.branch7x7x3_1 = unit(inputs, 192)
        self.branch7x7x3_2 = unit(192, 192, (1, 7))
        self.branch7x7x3_3 = unit(192, 192, (7, 1))
        self.branch7x7x3_4 = unit(192, 192, (3, 3), 2, "VALID")

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        long = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return join(self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(long), halve(x))


class BlockE(nnx.Module):
    """8 x 8: kernels of 3 in both directions beside each other."""

    def __init__(self, inputs: int, pool: Literal["average", "largest"], *, rngs: nnx.Rngs) -> None:
        unit = partial(Unit, rngs=rngs)
        self.pool = {"average": average, "largest": largest}[pool]
        self.branch1x1 = unit(inputs, 320)
        self.branch3x3_1 = unit(inputs, 384)
        self.branch3x3_2a = unit(384, 384, (1, 3))
        self.branch3x3_2b = unit(384, 384, (3, 1))
        self.branch3x3dbl_1 = unit(inputs, 448)
        self.branch3x3dbl_2 = unit(448, 384, (3, 3))
        self.branch3x3dbl_3a = unit(384, 384, (1, 3))
        self.branch3x3dbl_3b = unit(384, 384, (3, 1))
        self.branch_pool = unit(inputs, 192)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return join(
            self.branch1x1(x),
            *(self.branch3x3_2a(single), self.branch3x3_2b(single)),
            *(self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)),
            self.branch_pool(self.pool(x)),
        )


class Network(nnx.Module):
    """Images in [-1, 1], of 299 x 299, to the 2048 features before the classes."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        unit = partial(Unit, rngs=rngs)
        self.Conv2d_1a_3x3 = unit(3, 32, (3, 3), 2, "VALID")
        self.Conv2d_2a_3x3 = unit(32, 32, (3, 3), 1, "VALID")
        self.Conv2d_2b_3x3 = unit(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = unit(64, 80)
        self.Conv2d_4a_3x3 = unit(80, 192, (3, 3), 1, "VALID")
        self.Mixed_5b = BlockA(192, 32, rngs=rngs)
        self.Mixed_5c = BlockA(256, 64, rngs=rngs)
        self.Mixed_5d = BlockA(288, 64, rngs=rngs)
        self.Mixed_6a = BlockB(288, rngs=rngs)
        self.Mixed_6b = BlockC(768, 128, rngs=rngs)
        self.Mixed_6c = BlockC(768, 160, rngs=rngs)
        self.Mixed_6d = BlockC(768, 160, rngs=rngs)
        self.Mixed_6e = BlockC(768, 192, rngs=rngs)
        self.Mixed_7a = BlockD(768, rngs=rngs)
        self.Mixed_7b = BlockE(1280, "average", rngs=rngs)
        self.Mixed_7c = BlockE(2048, "largest", rngs=rngs)

    def __call__(self, x: Float[Array, "B 299 299 3"]) -> Float[Array, "B 2048"]:
        x = halve(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = halve(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean(axis=(1, 2))


@cache
def template() -> tuple[Any, dict[str, tuple[int, ...]]]:
    """The network without its parameters, and their shapes by name, as ``Mixed_5b.x.kernel``."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Network(rngs=nnx.Rngs(0))))
    leaves = flatten_dict(nnx.to_pure_dict(state), sep=".")
    return graph, {name: leaf.shape for name, leaf in leaves.items()}


def prepare(images: Float[Array, "B H W C"]) -> Float[Array, "B 299 299 3"]:
    """What the network reads: resized by linear interpolation between pixels' centres, in [-1, 1].

    Shrinking skips pixels instead of averaging over them, as FID's definition has it. Values beyond
    [0, 1] count as the black or white that they look like.
    """
    size, *_, channels = images.shape
    resized = jax.image.resize(
        jnp.clip(images, 0, 1), (size, SIDE, SIDE, channels), "bilinear", antialias=False
    )
    return jnp.broadcast_to(2 * resized - 1, (size, SIDE, SIDE, 3))


def features(params: Any, images: Float[Array, "B H W C"]) -> Float[Array, "B 2048"]:
    """The features of FID: a pure function, to be compiled by its caller.

    Args:
      params: nested dicts of arrays, from `load_inception`.
      images: in [0, 1], of any size, with one channel or three.

    Returns:
      What Inception-v3's last layer would read.

    Raises:
      ValueError: for other images.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"inception: expected images [B, H, W, 1 or 3], got {images.shape}")
    count = len(images)
    parts = -(-count // CHUNK)
    size = -(-count // parts)
    padded = jnp.pad(images, ((0, parts * size - count), (0, 0), (0, 0), (0, 0)))
    graph, _ = template()
    found = jax.lax.map(
        lambda chunk: nnx.merge(graph, params)(prepare(chunk)),
        padded.reshape(parts, size, *images.shape[1:]),
    )
    return found.reshape(parts * size, FEATURES)[:count]


@dataclass(frozen=True)
class Weights:
    """Trained parameters.

    Attributes:
      params: nested dicts of arrays.
      digest: SHA-256 (hex) of the file that they came from.
    """

    params: Any
    digest: str


def load_inception(path: str | Path) -> Weights:
    """The weights in PyTorch's file ``pt_inception-2015-12-05-6726825d.pth``.

    What is read of it is kept in the cache folder of the data, under the file's SHA-256. A damaged
    file there is replaced, with a warning.

    Args:
      path: of the state dict of the FID network, as `torch.save` wrote it.

    Returns:
      The weights.

    Raises:
      OSError: if there is no such file.
      ValueError: naming the file and the first tensor that is missing, of another shape or strange.
    """
    path = Path(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    cached = data.cache_dir() / "inception" / f"{digest[:16]}-{VERSION}.npz"
    if cached.exists():
        try:
            return Weights(read_params(cached), digest)
        except DAMAGE as error:
            logger.warning("%s is damaged (%s): converting %s again", cached, error, path)
    state = read_state_dict(path)
    try:
        params = convert(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with replacing(cached) as file:
        np.savez(file, **flatten_dict(params, sep="."))
    return Weights(params, digest)


def convert(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters of `Network` from the tensors of PyTorch's.

    Args:
      state: by PyTorch's names; kernels are [outputs, inputs, height, width] there.

    Returns:
      Nested dicts of float32 arrays, the batch norms folded into kernels and biases.

    Raises:
      ValueError: naming the first tensor that is missing, of another shape, or not of this network.
    """
    shapes = torch_shapes()
    for name, shape in shapes.items():
        if name not in state:
            raise ValueError(f"expected a tensor {name} {list(shape)}, found none")
        if state[name].shape != shape:
            raise ValueError(f"{name}: expected {list(shape)}, got {list(state[name].shape)}")
        if not np.isfinite(state[name]).all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    for name in state:
        # How many batches a norm has seen says nothing at inference.
        if name not in shapes and not name.endswith(".bn.num_batches_tracked"):
            raise ValueError(f"{name}: not a tensor of the FID network")
    units = [name.removesuffix(".conv.weight") for name in shapes if name.endswith(".conv.weight")]
    leaves = {}
    for unit in units:
        kernel, gamma, beta, mean, variance = (
            np.asarray(state[f"{unit}.{part}"], np.float64)
            for part in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        )
        if variance.min() < 0:
            raise ValueError(f"{unit}.bn.running_var: expected variances, got {variance.min()}")
        scale = gamma / np.sqrt(variance + EPSILON)
        leaves[f"{unit}.kernel"] = np.float32(kernel.transpose(2, 3, 1, 0) * scale)
        leaves[f"{unit}.bias"] = np.float32(beta - mean * scale)
    return unflatten_dict(leaves, sep=".")


def torch_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of PyTorch's network, by name, with the layer of classes that is unused here."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in template()[1].items():
        unit, _, part = name.rpartition(".")
        if part == "kernel":
            height, width, inputs, outputs = shape
            shapes[f"{unit}.conv.weight"] = (outputs, inputs, height, width)
        else:
            for statistic in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{unit}.bn.{statistic}"] = shape
    # Tells these weights from those of other ports, which have 1000 classes.
    return {**shapes, "fc.weight": (CLASSES, FEATURES), "fc.bias": (CLASSES,)}


def read_params(path: Path) -> dict[str, Any]:
    """Read what `load_inception` has kept; raises one of `DAMAGE` if that is not whole."""
    leaves = {}
    with np.load(path, allow_pickle=False) as stored:
        for name, shape in template()[1].items():
            leaves[name] = stored[name]
            if (leaves[name].shape, leaves[name].dtype) != (shape, np.float32):
                raise ValueError(
                    f"{name} should be float32{shape}, got {leaves[name].dtype}{leaves[name].shape}"
                )
    return unflatten_dict(leaves, sep=".")
