"""One small convolutional classifier per modality, image or text: the judges of coherence.

Each is trained once on the real training examples of its modality and kept in the cache folder of
the data, under a key of everything that it was trained on and with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from holderjax import data
from holderjax.evaluation.progress import track
from holderjax.files import replacing
from holderjax.networks.layers import Conv

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Integer, PRNGKeyArray

logger = logging.getLogger(__name__)

DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Recipe:
    """How a classifier is built and trained; part of the key of the cache.

    Attributes:
      widths: channels of the three convolutions.
      hidden: units of the layer after them.
      steps: of AdamW, a multiple of ``steps_per_dispatch``.
      steps_per_dispatch: steps that one call of the compiled program makes.
      batch_size: examples a step.
      learning_rate: peak of the one-cycle schedule.
      weight_decay: decoupled, times the learning rate.
      dropout: before each of the two dense layers.
      smoothing: of the labels.
      rotation: largest, in radians.
      scale: largest relative change of size, of each axis.
      shift: largest, as a fraction of the image's side.
      version: to be raised when the code changes what the other fields mean.
    """

    widths: tuple[int, int, int] = (24, 48, 64)
    hidden: int = 128
    steps: int = 800
    steps_per_dispatch: int = 50
    batch_size: int = 128
    learning_rate: float = 5e-3
    weight_decay: float = 0.1
    dropout: float = 0.3
    smoothing: float = 0.05
    rotation: float = 0.2
    scale: float = 0.1
    shift: float = 0.1
    version: int = 2


RECIPE = Recipe()


class Network(nnx.Module):
    """Two dense layers over what a kind of modality makes of its examples in `trunk`.

    Attributes:
      rank: of one example's shape.
    """

    rank: ClassVar[int]

    def __init__(self, width: int, num_classes: int, recipe: Recipe, *, rngs: nnx.Rngs) -> None:
        self.dense0 = nnx.Linear(width, recipe.hidden, rngs=rngs)
        self.dense1 = nnx.Linear(recipe.hidden, num_classes, rngs=rngs)
        self.dropout = nnx.Dropout(recipe.dropout)

    def __call__(
        self, x: Float[Array, "B *shape"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "B K"]:
        """Logits; with a key, features are dropped at random."""
        keys = [None, None] if key is None else jax.random.split(key)
        x = self.features(x, keys[0])
        return self.dense1(self.dropout(x, deterministic=key is None, rngs=keys[1]))

    def features(
        self, x: Float[Array, "B *shape"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "B F"]:
        """What the last layer reads; with a key, what that reads is dropped at random."""
        x = self.dropout(self.trunk(x), deterministic=key is None, rngs=key)
        return jax.nn.relu(self.dense0(x))

    @abstractmethod
    def trunk(self, x: Float[Array, "B *shape"]) -> Float[Array, "B W"]:
        """What the dense layers read."""

    @abstractmethod
    def inputs(
        self, key: PRNGKeyArray, examples: Integer[Array, "B ..."], recipe: Recipe
    ) -> Float[Array, "B *shape"]:
        """Examples for training, as the data set holds them, made into what the network reads."""


class ImageNetwork(Network):
    """Three convolutions (4x4 by 2, 3x3, 3x3 by 2), then the dense layers: [B, H, W, C]."""

    rank = 3

    def __init__(
        self, shape: tuple[int, int, int], num_classes: int, recipe: Recipe, *, rngs: nnx.Rngs
    ) -> None:
        height, width, channels = shape
        first, second, third = recipe.widths
        conv = partial(Conv, kernel_init=nnx.initializers.he_normal())
        self.conv0 = conv(channels, first, 4, 2, rngs=rngs)
        self.conv1 = conv(first, second, 3, 1, rngs=rngs)
        self.conv2 = conv(second, third, 3, 2, rngs=rngs)
        flat = -(-height // 4) * -(-width // 4) * third
        super().__init__(flat, num_classes, recipe, rngs=rngs)

    def trunk(self, x: Float[Array, "B H W C"]) -> Float[Array, "B W"]:
        x = x - 0.5
        for conv in (self.conv0, self.conv1, self.conv2):
            x = jax.nn.relu(conv(x))
        return x.reshape(x.shape[0], -1)

    def inputs(
        self, key: PRNGKeyArray, examples: Integer[Array, "B H W C"], recipe: Recipe
    ) -> Float[Array, "B H W C"]:
        return augment(key, data.to_float(examples), recipe)


class TextNetwork(Network):
    """Windows of three symbols, the strongest of each feature, then the dense layers: [B, L, S].

    Wherever in the text a word is, it looks the same.
    """

    rank = 2

    def __init__(
        self, shape: tuple[int, int], num_classes: int, recipe: Recipe, *, rngs: nnx.Rngs
    ) -> None:
        self.num_symbols = shape[-1]
        width = recipe.widths[-1]
        self.embedding = nnx.Linear(self.num_symbols, width, use_bias=False, rngs=rngs)
        self.windows = nnx.Linear(3 * width, recipe.hidden, rngs=rngs)
        super().__init__(recipe.hidden, num_classes, recipe, rngs=rngs)

    def trunk(self, x: Float[Array, "B L S"]) -> Float[Array, "B W"]:
        x = jnp.pad(self.embedding(x), ((0, 0), (1, 1), (0, 0)))
        windows = jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=-1)
        return jax.nn.relu(self.windows(windows)).max(axis=1)

    def inputs(
        self, key: PRNGKeyArray, examples: Integer[Array, "B L"], recipe: Recipe
    ) -> Float[Array, "B L S"]:
        return jax.nn.one_hot(examples, self.num_symbols)


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["graph"])
@dataclass(frozen=True)
class Classifier:
    """A trained network, a pytree; call it on examples [..., *shape] for logits [..., K].

    Examples are images [H, W, C], or texts, one-hot [L, S]. Values beyond [0, 1], which a decoder
    may give, count as the black or white that they look like.

    Attributes:
      graph: the network without its parameters.
      params: nested dicts of arrays.
    """

    graph: Any
    params: Any

    def __call__(self, examples: Float[Array, "*batch_shape"]) -> Float[Array, "*batch K"]:
        return self._apply("__call__", examples)

    def features(self, examples: Float[Array, "*batch_shape"]) -> Float[Array, "*batch F"]:
        """The activations that the last layer reads."""
        return self._apply("features", examples)

    def _apply(self, method: str, examples: Array) -> Array:
        network = nnx.merge(self.graph, self.params)
        batch, shape = examples.shape[: -network.rank], examples.shape[-network.rank :]
        flat = jnp.clip(examples, 0, 1).reshape(-1, *shape)
        return getattr(network, method)(flat).reshape(*batch, -1)


def image_modalities(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The names of those modalities that are images: bytes of shape [N, H, W, C]."""
    return [name for name, x in arrays.items() if x.ndim == 4 and x.dtype == np.uint8]


def judged_modalities(dataset: data.Dataset) -> list[str]:
    """The names of those modalities that a classifier can read: images and texts."""
    images = image_modalities(dataset.train.arrays)
    return [name for name in dataset.modalities if name in images or name in dataset.vocabularies]


def load_classifiers(dataset: data.Dataset, recipe: Recipe = RECIPE) -> dict[str, Classifier]:
    """A classifier for every image and text, from the cache or else trained and put there.

    Args:
      dataset: whose training split is learned.
      recipe: how.

    Returns:
      Classifiers by modality; modalities that are neither are left out.

    Raises:
      ValueError: if no modality is an image or a text, or the data has no labels.
    """
    names = judged_modalities(dataset)
    if dataset.train.labels is None:
        raise ValueError(f"classifiers: the data {dataset.name!r} has no labels to learn")
    if not names:
        raise ValueError(
            "classifiers: expected at least one image, uint8 [H, W, C], or text, got "
            f"{dataset.modalities}"
        )
    return {name: load_classifier(dataset, name, recipe) for name in names}


def load_classifier(dataset: data.Dataset, name: str, recipe: Recipe = RECIPE) -> Classifier:
    """The classifier of one modality, from the cache or else trained and put there.

    A damaged file in the cache is replaced, with a warning.

    Args:
      dataset: whose training split is learned.
      name: of an image or a text.
      recipe: how.

    Returns:
      The classifier.

    Raises:
      ValueError: if the modality is neither.
    """
    examples = dataset.train.arrays[name]
    if name not in judged_modalities(dataset):
        raise ValueError(
            f"classifiers: {name!r} should be an image, uint8 [H, W, C], or a text, "
            f"got {examples.dtype} {list(examples.shape[1:])}"
        )
    shape = examples.shape[1:]
    if name in dataset.vocabularies:
        shape = (*shape, len(dataset.vocabularies[name].symbols))
    build = partial(new_classifier, shape, dataset.num_classes, recipe)
    path = cache_path(dataset, name, recipe)
    if path.exists():
        try:
            return read_classifier(path, build)
        except DAMAGE as error:
            logger.warning("%s is damaged (%s): training the classifier again", path, error)
    classifier = train_classifier(
        build(jax.random.key(0)),
        examples,
        dataset.train.labels,
        recipe,
        description=f"training the classifier of {name}",
    )
    write_classifier(path, classifier)
    return classifier


def cache_path(dataset: data.Dataset, name: str, recipe: Recipe) -> Path:
    """Where the cache keeps the classifier of this data, modality and recipe."""
    facts = [dataset.fingerprint, name, dataset.num_classes, dataclasses.asdict(recipe)]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return data.cache_dir() / "classifiers" / f"{dataset.name}-{name}-{key}.npz"


def new_classifier(
    shape: tuple[int, ...], num_classes: int, recipe: Recipe, key: PRNGKeyArray
) -> Classifier:
    """An untrained classifier of images [H, W, C], or of one-hot texts [L, S]."""
    network = ImageNetwork if len(shape) == 3 else TextNetwork
    graph, state = nnx.split(network(shape, num_classes, recipe, rngs=nnx.Rngs(key)))
    return Classifier(graph, nnx.to_pure_dict(state))


def train_classifier(
    classifier: Classifier,
    examples: Integer[np.ndarray, "N ..."],
    labels: Int[np.ndarray, " N"],
    recipe: Recipe,
    description: str,
) -> Classifier:
    """Train on all examples: smoothed cross-entropy, AdamW; images turned, stretched and shifted.

    Args:
      classifier: where to start.
      examples: images, uint8 [N, H, W, C], or texts, ids [N, L].
      labels: integers in [0, K).
      recipe: how.
      description: of the progress bar.

    Returns:
      The trained classifier.
    """
    params = classifier.params
    moments = optimizer(recipe).init(params)
    examples, labels = jnp.asarray(examples), jnp.asarray(labels)
    size = recipe.steps_per_dispatch
    for first in track(range(0, recipe.steps, size), description):
        indices = data.epoch_indices(0, len(labels), recipe.batch_size, first, size)
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(1)))(first + jnp.arange(size))
        params, moments = train_steps(
            recipe, classifier.graph, params, moments, examples, labels, indices, keys
        )
        # Dispatching is asynchronous: without this the bar would fill at once and then stand.
        jax.block_until_ready(params)
    return Classifier(classifier.graph, params)


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW on a one-cycle schedule."""
    schedule = optax.cosine_onecycle_schedule(recipe.steps, recipe.learning_rate, pct_start=0.2)
    return optax.adamw(schedule, weight_decay=recipe.weight_decay)


@partial(jax.jit, static_argnums=(0, 1))
def train_steps(
    recipe: Recipe,
    graph: Any,
    params: Any,
    moments: Any,
    examples: Integer[Array, "N ..."],
    labels: Int[Array, " N"],
    indices: Int[Array, "S B"],
    keys: PRNGKeyArray,
) -> tuple[Any, Any]:
    """S steps in one dispatch; modalities of one shape share the compiled program."""

    def loss(params: Any, batch: Array, targets: Array, key: PRNGKeyArray) -> Float[Array, ""]:
        logits = nnx.merge(graph, params)(batch, key)
        targets = jax.nn.one_hot(targets, logits.shape[-1])
        targets = optax.smooth_labels(targets, recipe.smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean()

    def step(carry: tuple[Any, Any], now: tuple[Array, PRNGKeyArray]) -> tuple[Any, None]:
        params, moments = carry
        index, key = now
        augment_key, dropout_key = jax.random.split(key)
        batch = nnx.merge(graph, params).inputs(augment_key, examples[index], recipe)
        gradient = jax.grad(loss)(params, batch, labels[index], dropout_key)
        updates, moments = optimizer(recipe).update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), None

    return jax.lax.scan(step, (params, moments), (indices, keys))[0]


def augment(
    key: PRNGKeyArray, images: Float[Array, "B H W C"], recipe: Recipe
) -> Float[Array, "B H W C"]:
    """Turn, stretch and shift each image a little."""
    keys = jax.random.split(key, 3)
    batch, height, width, _ = images.shape

    def uniform(key: PRNGKeyArray, largest: float, *shape: int) -> Array:
        return jax.random.uniform(key, (batch, *shape), minval=-largest, maxval=largest)

    angle = uniform(keys[0], recipe.rotation)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
    matrix = turn * (1 + uniform(keys[1], recipe.scale, 2))[:, :, None]
    sides = jnp.array([height, width])
    shift = uniform(keys[2], recipe.shift, 2) * sides
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1)
    center = (sides - 1) / 2
    where = jnp.einsum("bij,hwj->bihw", matrix, grid - center)
    where = where + (center + shift)[:, :, None, None]

    def warp(channel: Float[Array, "H W"], where: Float[Array, "2 H W"]) -> Float[Array, "H W"]:
        return jax.scipy.ndimage.map_coordinates(channel, list(where), order=1, mode="nearest")

    every_channel = jax.vmap(warp, in_axes=(-1, None), out_axes=-1)
    return jax.vmap(every_channel)(images, where)


def write_classifier(path: Path, classifier: Classifier) -> None:
    """Write the parameters, atomically."""
    leaves = jax.tree_util.tree_leaves_with_path(classifier.params)
    with replacing(path) as file:
        np.savez(file, **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})


def read_classifier(path: Path, build: Callable[[PRNGKeyArray], Classifier]) -> Classifier:
    """Read what `write_classifier` wrote.

    Args:
      path: of the file.
      build: makes an untrained classifier of the same shape.

    Returns:
      The classifier.

    Raises:
      One of `DAMAGE` if the file is not whole or holds something else.
    """
    template = jax.eval_shape(build, jax.random.key(0))
    with np.load(path, allow_pickle=False) as stored:

        def read(path: Any, expected: jax.ShapeDtypeStruct) -> Array:
            leaf = stored[jax.tree_util.keystr(path)]
            if (leaf.shape, leaf.dtype) != (expected.shape, expected.dtype):
                raise ValueError(
                    f"{jax.tree_util.keystr(path)} should be {expected.dtype}{expected.shape}, "
                    f"got {leaf.dtype}{leaf.shape}"
                )
            return jnp.asarray(leaf)

        params = jax.tree_util.tree_map_with_path(read, template.params)
    return Classifier(template.graph, params)


def accuracy(
    classifier: Callable[[Array], Array], examples: np.ndarray, labels: np.ndarray
) -> float:
    """The share of examples whose largest logit is the label's.

    Args:
      classifier: a pytree that maps images in [0, 1], or one-hot texts, to logits.
      examples: uint8 images, or one-hot texts.
      labels: integers, [N].

    Returns:
      A number in [0, 1].
    """
    size = 1000
    predicted = [
        np.asarray(predict(classifier, examples[first : first + size]))
        for first in range(0, len(examples), size)
    ]
    return float(np.mean(np.concatenate(predicted) == labels))


@jax.jit
def predict(classifier: Callable[[Array], Array], examples: Array) -> Int[Array, " N"]:
    """The classes of real examples, uint8 images or one-hot texts."""
    return classifier(data.to_float(examples)).argmax(-1)
