"""A model: a row of the table with its modalities, as pure functions of (params, batch, key)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from holderjax.models.modality import Modality
from holderjax.models.networks import Networks
from holderjax.models.objective import Batch, Params, encode, mask_absent, objective, pool
from holderjax.models.priors import responsibilities
from holderjax.models.systems import OPTIONS, SYSTEMS, System
from holderjax.naming import unknown
from holderjax.pooling import PooledPosterior

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, PRNGKeyArray


class Encodings(NamedTuple):
    """All that the encoders say of a batch.

    Attributes:
      experts: what the aggregator pools, [M, B, ...].
      private_features: what the private heads read, by modality, [B, F]; empty without w.
    """

    experts: Any
    private_features: dict[str, Float[Array, "B F"]]


@dataclass(frozen=True, eq=False)
class Model:
    """Pure functions of one multimodal VAE; make it with `build`.

    Attributes:
      system: the row of the table, with the options that `build` was given.
      modalities: by name, in the order of every mask's last axis.
      latent_dim: size D of the shared latent z.
      private_dim: size P of each private latent w_n, 0 where the system has none.
      components: the component budget C, or None for all K.
    """

    system: System
    modalities: dict[str, Modality]
    latent_dim: int
    private_dim: int
    components: int | None
    _graph: Any

    def init(self, key: PRNGKeyArray) -> Params:
        """Fresh parameters, nested dicts of arrays; ``jax.vmap(model.init)`` makes a population."""
        return nnx.to_pure_dict(nnx.state(_networks(self, nnx.Rngs(key))))

    def loss(
        self,
        params: Params,
        batch: Batch,
        key: PRNGKeyArray,
        beta: float | Array = 1.0,
        weight_gradient: float | Array = 1.0,
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """The negative bound: see `holderjax.models.objective`.

        Args:
          params: from `init`.
          batch: arrays [B, *shape] by modality, and optionally ``mask`` [B, M] bool, True where a
            modality is present.
          key: a PRNG key, or one per example [B]; with the latter the loss of a batch is the mean
            of the losses of its parts.
          beta: weight of the KL terms, may be traced.
          weight_gradient: scales the gradient through the components' weights pi, may be traced;
            1 is the gradient of the bound, 0 treats pi as constant. The value does not change.

        Returns:
          The loss in nats, the mean over the batch, and the averages of its parts.

        Raises:
          ValueError: for a batch that lacks a modality or holds one of another shape, and for a
            mask or keys that do not fit it.
        """
        size = self._check_batch(batch, tuple(self.modalities))
        if key.shape not in ((), (size,)):
            raise ValueError(f"key: expected the shape () or ({size},), got {key.shape}")
        if "mask" in batch:
            self._check_mask(batch["mask"], (size,))
        return objective(
            self._merge(params),
            self.modalities,
            self.system,
            batch,
            key if key.ndim else jax.random.split(key, size),
            beta=beta,
            weight_gradient=weight_gradient,
            budget=self.components,
        )

    def encode(
        self, params: Params, batch: Batch, mask: Bool[Array, "..."] | None = None
    ) -> PooledPosterior:
        """q(z | x_O) of the observed modalities.

        Args:
          params: from `init`.
          batch: arrays [B, *shape] by modality; those that the mask leaves out may be missing.
          mask: [M] or [B, M] bool, True where observed; all of them, or ``batch["mask"]``, if None.

        Returns:
          The posterior, components [K, B, D].
        """
        if mask is None:
            mask = batch.get("mask", np.ones(len(self.modalities), bool))
        observed = self._observe(batch, mask)
        observed, present = mask_absent(self.modalities, observed)
        return pool(self._merge(params), observed, present)

    def infer(
        self, params: Params, batch: Batch, mask: Bool[Array, "..."] | None = None
    ) -> tuple[Float[Array, "B D"], dict[str, Float[Array, "B P"]]]:
        """The representation of the observed modalities: means of their latents.

        Args:
          params: from `init`.
          batch: arrays [B, *shape] by modality; those that the mask leaves out may be missing.
          mask: as in `encode`.

        Returns:
          The mean of q(z | x_O), and by modality the means of q(w_n | x_n), at that z where the
          system infers w given z; no w for systems without. The w of a modality that
          the mask leaves out means nothing.
        """
        z = self.encode(params, batch, mask).mean()
        if not self.private_dim:
            return z, {}
        networks = self._merge(params)
        w = {
            name: net.private_posterior(net.private_features(batch[name]), z).mean
            for name, net in networks.modalities.items()
            if name in batch
        }
        return z, w

    def generate(
        self,
        params: Params,
        key: PRNGKeyArray,
        batch: Batch,
        observed: Sequence[str] | Bool[Array, "..."],
        num_samples: int = 1,
        unobserved_private: Literal["prior", "auxiliary"] = "prior",
    ) -> dict[str, Float[Array, "S B *shape"]]:
        """Every modality, given the observed ones (Hölder++, section 4; MMVAE+, section 3).

        z comes from the pooled posterior of the observed modalities. The private latents of those
        come from their posteriors, which makes their output a reconstruction.

        Args:
          params: from `init`.
          key: PRNG key.
          batch: arrays [B, *shape] by modality; unobserved ones are not read and may be missing.
          observed: names, or a mask [M] or [B, M], which may be traced.
          num_samples: S draws of the latents per example.
          unobserved_private: what the other private latents are drawn from, p(w) or r.

        Returns:
          Means of the likelihoods by modality, [S, B, *shape].

        Raises:
          ValueError: for a name that is no modality, and for no observed modality.
        """
        batch, present = mask_absent(self.modalities, self._observe(batch, observed))
        z, w = self.latents(
            params,
            self.encodings(params, batch),
            key,
            present.T,
            num_samples=num_samples,
            unobserved_private=unobserved_private,
        )
        return {name: self.decode(params, name, z, w) for name in self.modalities}

    def encodings(self, params: Params, batch: Batch) -> Encodings:
        """All that the encoders say of a batch, for drawing latents given many subsets of it.

        Args:
          params: from `init`.
          batch: arrays [B, *shape] of every modality; what no mask will ever observe may be
            anything finite.

        Returns:
          Encodings, for `latents`.
        """
        self._check_batch(batch, tuple(self.modalities))
        networks = self._merge(params)
        features = {
            name: net.private_features(batch[name])
            for name, net in networks.modalities.items()
            if net.private_dim
        }
        return Encodings(encode(networks, batch), features)

    def latents(
        self,
        params: Params,
        encodings: Encodings,
        key: PRNGKeyArray,
        mask: Bool[Array, "..."],
        num_samples: int = 1,
        unobserved_private: Literal["prior", "auxiliary"] = "prior",
    ) -> tuple[Float[Array, "S B D"], dict[str, Float[Array, "S B P"]]]:
        """Draws of the latents given a subset of the modalities: what `generate` decodes.

        Args:
          params: from `init`.
          encodings: of a batch, from `encodings`.
          key: PRNG key.
          mask: [M] or [B, M] bool, True where observed.
          num_samples: S draws per example.
          unobserved_private: as in `generate`.

        Returns:
          z, and w by modality, empty for systems without.
        """
        if unobserved_private not in ("prior", "auxiliary"):
            raise unknown("unobserved_private", unobserved_private, ("prior", "auxiliary"))
        count, size = jax.tree.leaves(encodings.experts)[0].shape[:2]
        self._check_mask(mask, (), (size,))
        present = jnp.broadcast_to(mask, (size, count)).T
        networks = self._merge(params)
        posterior = networks.aggregator.pool(encodings.experts, present)
        key_z, *keys = jax.random.split(key, 1 + count)
        z, w = posterior.sample(key_z, (num_samples,)), {}
        for there, key_w, (name, net) in zip(
            present, keys, networks.modalities.items(), strict=True
        ):
            if net.private_dim:
                q = net.private_posterior(encodings.private_features[name], z)
                other = net.private_prior(z)
                if unobserved_private == "auxiliary":
                    other = net.auxiliary_prior(other)
                w[name] = jax.tree.map(
                    lambda a, b, there=there: jnp.where(there[:, None], a, b), q, other
                ).sample(key_w)
        return z, w

    def decode(
        self,
        params: Params,
        name: str,
        z: Float[Array, "... D"],
        w: Mapping[str, Float[Array, "... P"]],
    ) -> Float[Array, "... *shape"]:
        """The mean of the likelihood of one modality, from latents as `latents` returns them."""
        net = self._merge(params).modalities[name]
        return self.modalities[name].likelihood.mean(net.decode(z, w.get(name)))

    def sample(
        self, params: Params, key: PRNGKeyArray, num_samples: int
    ) -> dict[str, Float[Array, "S *shape"]]:
        """Every modality from the priors p(z) and p(w): means of the likelihoods, [S, *shape]."""
        networks = self._merge(params)
        key_z, *keys = jax.random.split(key, 1 + len(self.modalities))
        z = networks.prior().sample(key_z, (num_samples,))
        w = {}
        for key_w, (name, net) in zip(keys, networks.modalities.items(), strict=True):
            if net.private_dim:
                prior = net.private_prior(z)
                w[name] = prior.from_noise(prior.draw_noise(key_w, (num_samples, self.private_dim)))
        return {name: self.decode(params, name, z, w) for name in self.modalities}

    def clusters(
        self,
        params: Params,
        key: PRNGKeyArray,
        batch: Batch,
        mask: Bool[Array, "..."] | None = None,
        num_samples: int = 16,
    ) -> Float[Array, "B C"]:
        """p(c | x_O) of a mixture prior's clusters: E over q(z | x_O) of p(c | z) (CMVAE, 3.2).

        Args:
          params: from `init`.
          key: PRNG key.
          batch: arrays [B, *shape] by modality; those that the mask leaves out may be missing.
          mask: as in `encode`.
          num_samples: draws of z for each example.

        Returns:
          Probabilities, [B, C]; argmax is the assignment.
        """
        z = self.encode(params, batch, mask).sample(key, (num_samples,))
        return responsibilities(self._merge(params).prior(), z).mean(axis=1).T

    def log_likelihood(
        self, params: Params, batch: Batch, key: PRNGKeyArray, num_samples: int = 128
    ) -> Float[Array, " B"]:
        r"""An importance-weighted estimate of log p(X) of what is present, in nats.

        .. math::
          \log \frac1S \sum_s \frac{p(z_s) \prod_n p(w_{n,s} | z_s)\, p(x_n | z_s, w_{n,s})}
            {q(z_s | X) \prod_n q(w_{n,s} | x_n, z_s)}

        with the pooled posterior as the proposal (Burda et al. 2016). A lower bound in expectation,
        tight as S grows; every modality counts once, whatever its weight in the objective.

        Args:
          params: from `init`.
          batch: arrays [B, *shape] by modality, and optionally ``mask`` [B, M].
          key: PRNG key.
          num_samples: S; all go through the decoders at once.

        Returns:
          Estimates, [B].
        """
        self._check_batch(batch, tuple(self.modalities))
        batch, present = mask_absent(self.modalities, batch)
        networks = self._merge(params)
        posterior = pool(networks, batch, present)
        key_z, *keys = jax.random.split(key, 1 + len(self.modalities))
        z = posterior.sample(key_z, (num_samples,))
        log_ratio = networks.prior().log_prob(z) - posterior.log_prob(z)
        for there, key_w, (name, modality) in zip(
            present, keys, self.modalities.items(), strict=True
        ):
            net, w, terms = networks.modalities[name], None, jnp.zeros(())
            if net.private_dim:
                q: Any = net.private_posterior(net.private_features(batch[name]), z)
                w = q.sample(key_w)
                terms = net.private_prior(z).log_prob(w) - q.log_prob(w)
            log_prob = modality.likelihood.log_prob(net.decode(z, w), batch[name])
            log_prob = log_prob.astype(jnp.float32).sum(axis=tuple(range(2, log_prob.ndim)))
            log_ratio += jnp.where(there, terms + log_prob, 0.0)
        return jax.nn.logsumexp(log_ratio, axis=0) - np.log(num_samples)

    def prune_clusters(
        self, params: Params, shares: Float[Array, " C"], threshold: float = 0.01
    ) -> Params:
        """The parameters without the clusters that hold hardly any examples (CMVAE, section 3.2).

        They get the log-weight -inf and no gradient, for good; the weights of the others stay in
        proportion.

        Args:
          params: from `init`.
          shares: of the examples in each cluster, such as the means of `clusters` over a data set.
          threshold: clusters with a smaller share go.

        Returns:
          Parameters of the same shapes.

        Raises:
          ValueError: for a system without clusters, shares of another shape, and if none is left.
        """
        if self.system.prior != "mixture":
            raise ValueError(f"clusters: the prior of this system is {self.system.prior!r}")
        if jnp.shape(shares) != (self.system.clusters,):
            raise ValueError(
                f"shares: expected the shape ({self.system.clusters},), got {jnp.shape(shares)}"
            )
        keep = np.asarray(shares) >= threshold
        if not keep.any():
            raise ValueError(f"threshold: no cluster has a share of {threshold} or more")
        logits = jnp.where(keep, params["prior"]["logits"], -jnp.inf)
        return params | {"prior": params["prior"] | {"logits": logits}}

    def _merge(self, params: Params) -> Any:
        return nnx.merge(self._graph, params)

    def _observe(self, batch: Batch, observed: Any) -> Batch:
        """A batch with every modality and a mask [B, M], from names or a mask."""
        names = tuple(self.modalities)
        if not isinstance(observed, (jax.Array, np.ndarray)):
            observed = (observed,) if isinstance(observed, str) else tuple(observed)
            if not all(isinstance(name, str) for name in observed):
                raise ValueError(f"observed: expected names or an array, got {observed}")
            for name in observed:
                if name not in names:
                    raise unknown("modality", name, names)
            if not observed:
                raise ValueError(f"observed: expected at least one of {', '.join(names)}")
            size = self._check_batch(batch, observed)
            observed = np.isin(names, observed)
        else:
            size = self._check_batch(batch, [name for name in names if name in batch])
            self._check_mask(observed, (), (size,))
            missing = [i for i, name in enumerate(names) if name not in batch]
            if not isinstance(observed, jax.core.Tracer):
                for i in missing:
                    if np.asarray(observed)[..., i].any():
                        raise ValueError(f"batch: modality {names[i]!r} is observed but not given")
        full = {
            name: batch[name] if name in batch else jnp.zeros((size, *modality.shape))
            for name, modality in self.modalities.items()
        }
        return full | {"mask": jnp.broadcast_to(observed, (size, len(names)))}

    def _check_mask(self, mask: Any, *batch_shapes: tuple[int, ...]) -> None:
        shapes = [(*batch, len(self.modalities)) for batch in batch_shapes]
        if jnp.shape(mask) not in shapes:
            expected = " or ".join(map(str, shapes))
            raise ValueError(f"mask: expected the shape {expected}, got {jnp.shape(mask)}")

    def _check_batch(self, batch: Batch, names: Sequence[str]) -> int:
        """The batch size B; ValueError where a modality is missing or has another shape."""
        sizes = {}
        for name in names:
            if name not in batch:
                raise ValueError(f"batch: modality {name!r} is missing; it has {sorted(batch)}")
            shape, expected = jnp.shape(batch[name]), self.modalities[name].shape
            if shape[1:] != expected or not shape:
                raise ValueError(f"batch: {name!r} should be [B, *{expected}], got {shape}")
            sizes[name] = shape[0]
        if len(set(sizes.values())) != 1:
            raise ValueError(f"batch: expected one batch size for all modalities, got {sizes}")
        return next(iter(sizes.values()))


def build(
    system: str,
    modalities: Mapping[str, Modality],
    *,
    latent_dim: int = 32,
    private_dim: int = 32,
    components: int | None = None,
    **options: Any,
) -> Model:
    """A model of the named system.

    Args:
      system: a key of `SYSTEMS`.
      modalities: by name; their order is that of every mask.
      latent_dim: size of the shared latent z.
      private_dim: size of each modality's private latent, 0 for none; unused by systems without.
      components: component budget C >= 2: components drawn per example and step; all if None.
      **options: what `OPTIONS` names, instead of the row's; None leaves the row as it is.

    Returns:
      The model.

    Raises:
      ValueError: for an unknown system and for sizes or options out of range.
    """
    if system not in SYSTEMS:
        raise unknown("system", system, SYSTEMS)
    for name in options:
        if name not in OPTIONS:
            raise unknown("option", name, OPTIONS)
    given = {name: value for name, value in options.items() if value is not None}
    row = replace(SYSTEMS[system], **given)
    _check_options(row, modalities, latent_dim, private_dim, components)
    model = Model(
        system=row,
        modalities=dict(modalities),
        latent_dim=latent_dim,
        private_dim=0 if row.latents == "shared" else private_dim,
        components=components,
        _graph=None,
    )
    abstract = nnx.eval_shape(lambda: _networks(model, nnx.Rngs(0)))
    graph, state = nnx.split(abstract)
    for path, variable in nnx.to_flat_state(state):
        if not isinstance(variable, nnx.Param):
            raise ValueError(
                f"modalities: {'.'.join(map(str, path))} is a {type(variable).__name__}; networks "
                "must be pure functions of nnx.Param, so use e.g. LayerNorm instead of BatchNorm"
            )
    return replace(model, _graph=graph)


def _check_options(
    row: System,
    modalities: Mapping[str, Modality],
    latent_dim: int,
    private_dim: int,
    components: int | None,
) -> None:
    if not modalities:
        raise ValueError("modalities: expected at least one")
    for name, modality in modalities.items():
        if not isinstance(modality, Modality):
            raise ValueError(f"modalities: {name!r} should be a Modality, got {modality!r}")
    if "mask" in modalities:
        raise ValueError("modalities: 'mask' is the batch's key for the mask; use another name")
    if latent_dim < 1:
        raise ValueError(f"latent_dim: expected at least 1, got {latent_dim}")
    least = 1 if row.decoders == "private" else 0
    if private_dim < least:
        raise ValueError(
            f"private_dim: expected at least {least} for this system, got {private_dim}"
        )
    if components is not None and components < 2:
        raise ValueError(
            f"components: the unbiased estimator needs at least 2 draws, got {components}"
        )
    for name, least in (
        ("order", 1),
        ("importance_samples", 1),
        ("clusters", 1),
        ("random_subsets", 0),
    ):
        value = getattr(row, name)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
    if row.family == "laplace" and row.aggregator != "moe":
        raise ValueError(
            "family: 'laplace' needs a mixture of experts, as in mmvae, mmvae+ and cmvae; this "
            f"system's aggregator is {row.aggregator!r}"
        )
    for name, known in OPTIONS.items():
        if known is not None and getattr(row, name) not in known:
            raise unknown(name, getattr(row, name), known)


def _networks(model: Model, rngs: nnx.Rngs) -> Networks:
    return Networks(model.system, model.modalities, model.latent_dim, model.private_dim, rngs=rngs)
