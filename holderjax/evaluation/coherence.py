r"""Coherence: do generated modalities show the class that they should show?

With O the observed modalities, t a modality that is not among them, c_t its classifier and y the
label that the modalities of an example share:

- conditional coherence of (O, t): the share of samples :math:`x_t \sim p(x_t | x_O)` with
  :math:`c_t(x_t) = y` (Shi et al. 2019; Sutter et al. 2021), over all subsets O;
- unconditional coherence: the share of prior samples on which all classifiers agree;
- F1 of (O, t), for modalities of yes and no (attributes, masks): :math:`2 TP / (2 TP + FP + FN)`
  over the elements of a sample whose mean is rounded at 1/2, against the real :math:`x_t`, averaged
  over samples; 1 where neither has a yes. (Hölder++, section 5.4, reports F1 on CelebAMask-HQ
  without saying how it is averaged);
- self-reconstruction: these with everything observed, and the mean absolute error;
- diversity: the mean absolute difference between two samples of one conditional, which is zero for
  a generator that ignores its noise.

Classifiers are callable pytrees from images in [0, 1], [..., H, W, C], to logits [..., K].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from holderjax import data
from holderjax.evaluation.examples import over_batches
from holderjax.evaluation.progress import track
from holderjax.evaluation.sampling import BATCH_SIZE, fold_in, prior_samples

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

    from holderjax.models import Model

Classifiers = Mapping[str, Callable[[Any], Any]]
# A modality of yes and no says yes where its mean is above this.
YES = 0.5
# "m0,m2", as `holderjax generate --observed` takes it -> target -> accuracy or F1.
Table = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Generated:
    """What was seen in the samples from every subset O of the modalities.

    Attributes:
      modalities: names, the order of the masks' axis.
      subsets: O as masks, [O, M], smaller ones first; everything observed comes last.
      predictions: classes by modality that has a classifier, [O, S, N]; -1 where the modality is
        observed and others are not.
      f1: by modality of yes and no, [O, S, N]; -1 likewise.
      errors: mean absolute errors with everything observed, by modality, [N], over all samples.
    """

    modalities: tuple[str, ...]
    subsets: Bool[np.ndarray, "O M"]
    predictions: dict[str, Int[np.ndarray, "O S N"]]
    f1: dict[str, Float[np.ndarray, "O S N"]]
    errors: dict[str, Float[np.ndarray, " N"]]


def all_subsets(count: int) -> Bool[np.ndarray, "O M"]:
    """The 2^M - 1 non-empty subsets of M modalities as masks, smaller ones first."""
    chosen = [c for size in range(1, count + 1) for c in combinations(range(count), size)]
    return np.array([np.isin(range(count), c) for c in chosen])


def generate_from_subsets(
    model: Model,
    params: Any,
    classifiers: Classifiers,
    arrays: Mapping[str, np.ndarray],
    key: PRNGKeyArray,
    *,
    binary: Sequence[str] = (),
    num_samples: int = 1,
    batch_size: int = BATCH_SIZE,
) -> Generated:
    """Sample every modality from every subset of the others, and judge the samples.

    One compiled program serves all batches: it encodes once, and decodes and judges for each subset
    only what is not observed, or everything if all is.

    Args:
      model: of at least two modalities.
      params: its parameters.
      classifiers: by modality; those that have none, and are not binary, are observed but not
        judged.
      arrays: test examples by modality, [N, *shape].
      key: PRNG key.
      binary: the modalities whose values are yes or no.
      num_samples: S per example and subset.
      batch_size: the most examples that are on the device at once.

    Returns:
      Predictions, F1 and errors.

    Raises:
      ValueError: for a model with less than two modalities.
    """
    names = tuple(model.modalities)
    if len(names) < 2:
        raise ValueError(f"coherence: expected at least two modalities, got {list(names)}")
    classifiers = {name: classifiers[name] for name in names if name in classifiers}
    subsets = all_subsets(len(names))

    @jax.jit
    def program(
        params: Any, classifiers: Classifiers, keys: PRNGKeyArray, batch: Any
    ) -> tuple[Any, dict[str, Array]]:
        batch = data.to_float(batch)
        encodings = model.encodings(params, batch)

        def draw(key: PRNGKeyArray, mask: Array) -> Callable[[str], Array]:
            latents = model.latents(params, encodings, key, mask, num_samples=num_samples)
            return lambda name: decided(model, params, name, latents)

        def judge(name: str, samples: Array) -> dict[str, Array]:
            seen = {}
            if name in classifiers:
                seen["class"] = classifiers[name](samples).argmax(-1)
            if name in binary:
                seen["f1"] = f1_score(samples, batch[name])
            return seen

        decode = draw(keys[-1], jnp.asarray(subsets[-1]))
        samples = {name: decode(name) for name in names}
        errors = {name: mean_error(model, name, samples[name], batch[name]) for name in names}
        last = {
            name: judge(name, samples[name])
            for name in names
            if name in classifiers or name in binary
        }

        def judge_unobserved(args: tuple[PRNGKeyArray, Array]) -> dict[str, dict[str, Array]]:
            key, mask = args
            decode = draw(key, mask)
            return {
                name: jax.lax.cond(
                    mask[names.index(name)],
                    lambda seen=seen: jax.tree.map(lambda x: jnp.full_like(x, -1), seen),
                    lambda name=name: judge(name, decode(name)),
                )
                for name, seen in last.items()
            }

        seen = jax.lax.map(judge_unobserved, (keys[:-1], jnp.asarray(subsets[:-1])))
        return jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), seen, last), errors

    def judged(b: int, batch: Any) -> tuple[Any, dict[str, Array]]:
        keys = jnp.stack([fold_in(key, o, b) for o in range(len(subsets))])
        return program(params, classifiers, keys, batch)

    seen, errors = over_batches(judged, arrays, names, batch_size, "generating from subsets")
    predictions, f1 = (
        {name: found[kind] for name, found in seen.items() if kind in found}
        for kind in ("class", "f1")
    )
    return Generated(names, subsets, predictions, f1, errors)


def f1_score(
    samples: Float[Array, "S B *shape"], x: Float[Array, "B *shape"]
) -> Float[Array, "S B"]:
    """The F1 of each sample's elements against its example's, which are 0 or 1; 1 without any yes.

    Args:
      samples: probabilities of a yes.
      x: the truth.
    """
    said, true = jnp.broadcast_arrays(samples > YES, x > YES)
    over = tuple(range(2, samples.ndim))
    both = 2 * jnp.sum(said & true, axis=over)
    each = jnp.sum(said, axis=over) + jnp.sum(true, axis=over)
    return jnp.where(each == 0, 1.0, both / jnp.maximum(each, 1))


def mean_error(
    model: Model, name: str, samples: Float[Array, "S B *mean"], x: Shaped[Array, "B *shape"]
) -> Float[Array, " B"]:
    """The likelihood's error of samples, over samples and elements, one for each example."""
    errors = model.modalities[name].likelihood.error(samples, x)
    return errors.mean(axis=(0, *range(2, errors.ndim)))


def decided(model: Model, params: Any, name: str, latents: Any) -> Float[Array, "S B *mean"]:
    """The values that one modality shows, from its latents: see `Likelihood.decide`."""
    return model.modalities[name].likelihood.decide(model.decode(params, name, *latents))


def coherence_table(generated: Generated, labels: Int[np.ndarray, " N"]) -> Table:
    """The conditional coherence of every (O, t): ``table["m0,m2"]["m1"]``.

    Args:
      generated: from `generate_from_subsets`.
      labels: which the modalities of an example share.

    Returns:
      Accuracies by the observed names, then by target.
    """
    right = {name: predicted == labels for name, predicted in generated.predictions.items()}
    return _table(generated, right)


def f1_table(generated: Generated) -> Table:
    """The F1 of every (O, t) whose target's values are yes or no: as `coherence_table`."""
    return _table(generated, generated.f1)


def _table(generated: Generated, scores: Mapping[str, Shaped[np.ndarray, "O S N"]]) -> Table:
    """Means of the scores of what was not observed, by the observed names, then by target."""
    table = {}
    for o, mask in enumerate(generated.subsets[:-1]):
        seen = dict(zip(generated.modalities, mask, strict=True))
        means = {name: float(np.mean(x[o])) for name, x in scores.items() if not seen[name]}
        if means:
            table[",".join(name for name in seen if seen[name])] = means
    return table


def by_subset_size(table: Table) -> dict[str, float]:
    """The mean score over all (O, t) with |O| = 1, 2, ..., M - 1."""
    sizes: dict[int, list[float]] = {}
    for observed, accuracies in table.items():
        sizes.setdefault(observed.count(",") + 1, []).extend(accuracies.values())
    return {str(size): float(np.mean(values)) for size, values in sorted(sizes.items())}


def leave_one_out(table: Table) -> dict[str, float]:
    """The score of each target given all the other modalities."""
    most = max(observed.count(",") for observed in table)
    return {
        target: value
        for observed, accuracies in table.items()
        if observed.count(",") == most
        for target, value in accuracies.items()
    }


def self_reconstruction(
    generated: Generated, labels: Int[np.ndarray, " N"] | None
) -> dict[str, dict[str, float]]:
    """With every modality observed: the mean absolute error, the classifier's accuracy, F1."""
    return {
        "absolute_error": {name: float(error.mean()) for name, error in generated.errors.items()},
        "classifier_accuracy": {
            name: float(np.mean(predicted[-1] == labels))
            for name, predicted in generated.predictions.items()
        },
        "f1": {name: float(f1[-1].mean()) for name, f1 in generated.f1.items()},
    }


def unconditional_coherence(
    model: Model,
    params: Any,
    classifiers: Classifiers,
    key: PRNGKeyArray,
    *,
    num_samples: int,
    batch_size: int = BATCH_SIZE,
) -> float:
    """The share of prior samples on which all classifiers agree.

    Args:
      model: whose prior to sample.
      params: its parameters.
      classifiers: by modality.
      key: PRNG key.
      num_samples: how many.
      batch_size: the most that are on the device at once.

    Returns:
      A number in [0, 1].
    """

    @jax.jit
    def agree(classifiers: Classifiers, samples: Any) -> Bool[Array, " B"]:
        shown = {name: model.modalities[name].likelihood.decide(samples[name]) for name in samples}
        each = [judge(shown[name]).argmax(-1) for name, judge in classifiers.items()]
        predicted = jnp.stack(each)
        return (predicted == predicted[0]).all(axis=0)

    batches = prior_samples(model, params, key, num_samples, batch_size)
    number = -(-num_samples // batch_size)
    parts = [
        np.asarray(agree(classifiers, samples))[:count]
        for count, samples in track(batches, "sampling from the prior", number)
    ]
    return float(np.concatenate(parts).mean())


def pairwise_distance(samples: Float[Array, "S ..."]) -> Float[Array, ""]:
    r"""The mean absolute difference between two different samples, over pairs and elements.

    For sorted values :math:`\sum_{i<j} |x_i - x_j| = \sum_k (2k - S - 1) x_{(k)}`, which needs no
    array over pairs.
    """
    count = samples.shape[0]
    ordered = jnp.sort(samples, axis=0).reshape(count, -1)
    coefficients = 2.0 * jnp.arange(1, count + 1) - count - 1
    return 2 / (count * (count - 1)) * jnp.mean(coefficients @ ordered)


def conditional_diversity(
    model: Model,
    params: Any,
    arrays: Mapping[str, np.ndarray],
    key: PRNGKeyArray,
    *,
    num_samples: int = 8,
) -> dict[str, float]:
    """The `pairwise_distance` of samples of each modality given all the others.

    Args:
      model: of at least two modalities.
      params: its parameters.
      arrays: test examples by modality, [B, *shape]; all go through the model at once.
      key: PRNG key.
      num_samples: per example.

    Returns:
      Distances by modality.
    """
    names = tuple(model.modalities)

    @jax.jit
    def program(params: Any, keys: PRNGKeyArray, batch: Any) -> dict[str, Array]:
        batch = data.to_float(batch)
        encodings = model.encodings(params, batch)

        def distance(name: str, key: PRNGKeyArray) -> Array:
            others = jnp.array([other != name for other in names])
            latents = model.latents(params, encodings, key, others, num_samples=num_samples)
            return pairwise_distance(decided(model, params, name, latents))

        return {name: distance(name, key) for name, key in zip(names, keys, strict=True)}

    keys = jnp.stack([jax.random.fold_in(key, t) for t in range(len(names))])
    found = program(params, keys, {name: arrays[name] for name in names})
    return {name: float(distance) for name, distance in found.items()}


def class_diversity(
    arrays: Mapping[str, np.ndarray], labels: Int[np.ndarray, " N"]
) -> dict[str, float]:
    """The `pairwise_distance` of real examples of one class, averaged over the classes.

    What `conditional_diversity` would be for a generator of real examples of the right class, where
    modalities share nothing but the class. Every class counts with as many examples as the rarest.
    """
    each = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    rarest = min(map(len, each))
    if rarest < 2:
        raise ValueError(f"diversity: expected two examples of every class, got {rarest}")
    index = np.stack([rows[:rarest] for rows in each])
    distances = jax.jit(jax.vmap(pairwise_distance))
    return {name: float(distances(data.to_float(x[index])).mean()) for name, x in arrays.items()}
