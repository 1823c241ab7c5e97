"""The settings of a run: typed, frozen, checked, and written into the run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from holderjax import data, models
from holderjax.files import write_json
from holderjax.likelihoods import Bernoulli, Categorical, Gaussian, Laplace, Likelihood
from holderjax.models.systems import Bound, ExpertWeights, Family, Kl, Prior, PrivatePrior
from holderjax.naming import unknown
from holderjax.networks import NETWORKS, TextDecoder, TextEncoder

# Where each path-valued setting goes in `data.load`, and the data sets that take it.
DATA_PATHS = {"polymnist": "root", "mnist": "mnist", "backgrounds": "backgrounds"}
CONFIG_FILE = "config.json"
# A run counts its steps in 32 bits.
MOST_STEPS = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class SharedConfig:
    """What the runs of a sweep have in common."""

    out: Path
    """The folder to make."""
    data: str = "digits"
    """Which data: a name that `holderjax data list` lists, or the path of an .npz file with the
    arrays NAME_train and NAME_test for each modality, or tfds:NAME for what TFDS has prepared."""
    steps: int = 2000
    """Optimiser steps in all."""
    beta_warmup: int = 0
    """Steps over which the weight of the KL terms grows linearly: z is put to use before it is paid
    for."""
    hold_weights: int = 0
    """First steps, whose gradient takes the components' weights pi as constant. Through pi, experts
    gain by becoming equal before they know anything, since a pair reconstructs two modalities from
    their own private latents; on large images they do not recover."""
    missing: tuple[float, ...] = ()
    """Shares of the training examples that lack a modality, at random: one for each modality, or
    one for all. Every example keeps at least one; test examples stay complete."""
    missing_seed: int = 0
    """Of which examples lack what; runs of other seeds lack the same."""
    batch_size: int = 64
    """Examples a step, over all devices together."""
    latent_dim: int = 16
    """Size of the shared latent z."""
    private_dim: int = 16
    """Size of each modality's private latent w; unused by systems without."""
    network: str = "mlp"
    """Encoders and decoders: mlp, conv or resnet."""
    network_dtype: models.NetworkDtype = "float32"
    """What they compute in; bfloat16 is for accelerators. Parameters, latents, pooling and
    likelihoods are float32 either way."""
    order: int | None = None
    """Order n of the Hölder pool, alpha = 1/n; the system's own if not given, like all down to
    --family."""
    expert_weights: ExpertWeights | None = None
    """Weights of the experts in Hölder pools and mixtures of experts."""
    prior: Prior | None = None
    """On z: N(0, I), or a learned mixture of --clusters Gaussians."""
    kl: Kl | None = None
    """Estimator of the KL of z."""
    bound: Bound | None = None
    """Which subsets of the modalities are encoded, and what each must explain."""
    private_prior: PrivatePrior | None = None
    """On w: N(0, I), or learned given z."""
    importance_samples: int | None = None
    """Inside each component; more than one tighten the bound."""
    random_subsets: int | None = None
    """That the bound "subsets" adds to the whole and the single modalities."""
    clusters: int | None = None
    """Components of a mixture prior."""
    family: Family | None = None
    """Of posteriors and priors; laplace for mixtures of experts."""
    fit_clusters: int | None = None
    """Step after which a mixture prior is fitted to the latents so far, a multiple of --log-every;
    clusters learned from the start alone tend to be one."""
    components: int | None = None
    """Component budget: components drawn per example and step; all of them if not given."""
    learning_rate: float = 1e-3
    """Of Adam, after the warm-up."""
    amsgrad: bool = False
    """Adam's second moments never shrink (AMSGrad)."""
    warmup: int = 0
    """Steps over which the learning rate grows linearly."""
    clip: float | None = None
    """Largest global norm of the gradient; longer ones are scaled down to it."""
    decay: Literal["constant", "cosine"] = "constant"
    """The learning rate after the warm-up; cosine reaches zero at the last step."""
    checkpoint_every: int = 500
    """Steps between checkpoints, a multiple of --log-every."""
    keep: int = 3
    """Latest checkpoints to keep, besides the best."""
    log_every: int = 50
    """Steps between lines of metrics, all of them one dispatch to the device."""
    resume: bool = False
    """Go on from the newest whole checkpoint in the folder, or begin if it has none."""
    devices: int | None = None
    """How many of the local devices share a batch; all of them if not given."""
    feed: Literal["auto", "device", "stream"] = "auto"
    """Where the training examples are: on every device, or streamed to them a piece at a time;
    auto puts them on the devices if they fill at most half of the free memory there."""
    mnist: Path | None = None
    """Folder of the MNIST files, for building polymnist."""
    backgrounds: Path | None = None
    """Folder of the background pictures, for building polymnist."""
    polymnist: Path | None = None
    """Folder of the official PolyMNIST tree, instead of building it."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(SharedConfig):
    """Everything that decides a run, and where its folder is."""

    system: str = "holder++"
    """Which VAE: a name that `holderjax systems` lists."""
    beta: float = 1.0
    """Weight of the KL terms."""
    seed: int = 0
    """Of the initial parameters, the order of the data and the latents drawn."""

    def validate(self) -> None:
        """Check every setting that can be checked without the data.

        Raises:
          ValueError: naming the setting, its value and what was expected.
        """
        self._validate_types()
        for kind, name, known in (
            ("system", self.system, models.SYSTEMS),
            ("data", self.data, (self.data,) if data.is_own(self.data) else data.DATASETS),
            ("network", self.network, NETWORKS),
            ("network_dtype", self.network_dtype, get_args(models.NetworkDtype)),
            ("decay", self.decay, ("constant", "cosine")),
            ("feed", self.feed, ("auto", "device", "stream")),
            *(
                (name, getattr(self, name), known)
                for name, known in models.OPTIONS.items()
                if known is not None and getattr(self, name) is not None
            ),
        ):
            if name not in known:
                raise unknown(kind, name, known)
        for name in (
            *("steps", "batch_size", "latent_dim", "private_dim"),
            *("order", "importance_samples", "clusters", "fit_clusters"),
            *("checkpoint_every", "keep", "log_every", "devices"),
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if self.components is not None and self.components < 2:
            raise ValueError(f"components: expected at least 2 draws, got {self.components}")
        if self.steps > MOST_STEPS:
            raise ValueError(f"steps: expected at most {MOST_STEPS}, got {self.steps}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: expected 0 <= seed < 2**32, got {self.seed}")
        if self.missing_seed < 0:
            raise ValueError(f"missing_seed: expected at least 0, got {self.missing_seed}")
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"beta: expected a finite number, zero or more, got {self.beta}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate: expected above zero, got {self.learning_rate}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip: expected a norm above zero, got {self.clip}")
        self._validate_steps()
        self._validate_paths()

    def _validate_types(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not _is_of(value, hint):
                expected = hint if get_args(hint) else hint.__name__
                raise ValueError(f"{name}: expected {expected}, got {value!r}")

    def _validate_steps(self) -> None:
        for name in ("warmup", "beta_warmup", "hold_weights", "random_subsets"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}: expected zero or more, got {value}")
        if self.decay == "cosine" and self.warmup >= self.steps:
            raise ValueError(
                f"warmup: cosine decay needs fewer than steps={self.steps}, got {self.warmup}"
            )
        for name in ("checkpoint_every", "fit_clusters"):
            value = getattr(self, name)
            if value is not None and value % self.log_every:
                near = max(1, round(value / self.log_every)) * self.log_every
                raise ValueError(
                    f"{name}: expected a multiple of log_every={self.log_every}, "
                    f"got {value}; try {near}"
                )

    def _validate_paths(self) -> None:
        given = [name for name in DATA_PATHS if getattr(self, name) is not None]
        if self.data != "polymnist" and given:
            raise ValueError(f"{given[0]}: only the data 'polymnist' takes it, not {self.data!r}")

    def to_json(self) -> dict[str, Any]:
        """As JSON values, paths made absolute so that they hold from any working directory."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: str(value.expanduser().absolute()) if isinstance(value, Path) else value
            for name, value in values.items()
        }

    def save(self, folder: Path) -> None:
        """Write ``config.json`` into the folder, atomically."""
        write_json(folder / CONFIG_FILE, self.to_json())


def load_config(folder: Path) -> TrainConfig:
    """The config that a run folder holds.

    Raises:
      FileNotFoundError: if the folder holds no ``config.json``.
      ValueError: if that is no JSON object, or has a setting that this version does not know or
        cannot use.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no run folder: it has no {CONFIG_FILE}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} should hold a JSON object, got {type(values).__name__}")
    known = [field.name for field in fields(TrainConfig)]
    for name in values:
        if name not in known:
            raise ValueError(f"{path}: {unknown('setting', name, known)}")
    # The folder may have been moved since it was written.
    values["out"] = folder
    # JSON has neither paths nor tuples.
    for name in DATA_PATHS:
        if isinstance(values.get(name), str):
            values[name] = Path(values[name])
    if isinstance(values.get("missing"), list):
        values["missing"] = tuple(values["missing"])
    config = TrainConfig(**values)
    try:
        config.validate()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return config


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of a setting's type; which strings are known is checked by their names."""
    kind, options = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_is_of(value, option) for option in options)
    if kind is Literal:
        return isinstance(value, str)
    if kind is tuple:
        return isinstance(value, tuple) and all(_is_of(x, options[0]) for x in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def load_dataset(config: TrainConfig) -> data.Dataset:
    """The data that the config names, from the paths that it names, with what is to be missing.

    Raises:
      ValueError, FileNotFoundError: as `data.load` and `data.hide`.
    """
    given = {key: getattr(config, name) for name, key in DATA_PATHS.items()}
    options = {key: path.expanduser() for key, path in given.items() if path is not None}
    dataset = data.load(config.data, **options)
    if not config.missing:
        return dataset
    return data.hide(dataset, config.missing, config.missing_seed)


def modality_of(
    network: str,
    shape: tuple[int, ...],
    vocabulary: data.Vocabulary | None,
    binary: bool,
    noise: float | None,
    dtype: models.NetworkDtype,
) -> models.Modality:
    """The networks and the likelihood that a modality of a data set gets.

    Args:
      network: what ``TrainConfig.network`` says; for images. Vectors get perceptrons.
      shape: of one example.
      vocabulary: of a text.
      binary: whether its values are yes or no.
      noise: its standard deviation, where it is Gaussian and known.
      dtype: what the networks compute in.

    Returns:
      Texts are categorical, binary modalities Bernoulli, those of known noise Gaussian; all others
      Laplace(0.75).
    """
    if vocabulary is not None:
        symbols = len(vocabulary.symbols)
        encoder = partial(TextEncoder, num_symbols=symbols)
        return models.Modality(shape, encoder, TextDecoder, Categorical(symbols), dtype=dtype)
    encoder, decoder = NETWORKS[network if len(shape) == 3 else "mlp"]
    likelihood: Likelihood = Laplace(0.75) if noise is None else Gaussian(noise)
    if binary:
        likelihood = Bernoulli()
    return models.Modality(shape, encoder, decoder, likelihood, dtype=dtype)


def data_facts(dataset: data.Dataset) -> dict[str, Any]:
    """What a model has to know of its data, as JSON values, for `build_model`."""
    return {
        "modalities": {name: list(shape) for name, shape in dataset.modalities.items()},
        "vocabularies": {name: v.to_json() for name, v in dataset.vocabularies.items()},
        "binary": list(dataset.binary),
        "noise": dict(dataset.noise),
    }


def read_vocabularies(facts: Mapping[str, Any]) -> dict[str, data.Vocabulary]:
    """Those of the texts in `data_facts`, which runs of before there were texts do not have."""
    return {
        name: data.Vocabulary.from_json(values)
        for name, values in facts.get("vocabularies", {}).items()
    }


def build_model(config: TrainConfig, facts: Mapping[str, Any]) -> models.Model:
    """The model that the config names, with modalities as `modality_of` has them.

    Args:
      config: of the run.
      facts: of its data, from `data_facts`.
    """
    vocabularies = read_vocabularies(facts)
    binary, noise = facts.get("binary", ()), facts.get("noise", {})
    return models.build(
        config.system,
        {
            name: modality_of(
                config.network,
                tuple(shape),
                vocabularies.get(name),
                name in binary,
                noise.get(name),
                config.network_dtype,
            )
            for name, shape in facts["modalities"].items()
        },
        latent_dim=config.latent_dim,
        private_dim=config.private_dim,
        components=config.components,
        **{name: getattr(config, name) for name in models.OPTIONS},
    )
