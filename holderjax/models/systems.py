"""The table of systems: each is a row of choices on one objective.

Adding a system is adding a row. ``build`` overrides a row's options by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Latents = Literal["shared", "private", "hierarchical"]
Prior = Literal["normal", "mixture"]
PrivatePrior = Literal["normal", "conditional"]
Decoders = Literal["all", "private"]
Bound = Literal["joint", "subsets", "crossed", "masked"]
Kl = Literal["mixture", "components"]
ExpertWeights = Literal["uniform", "learned"]
Family = Literal["gaussian", "laplace"]


@dataclass(frozen=True)
class System:
    """A row of the table.

    Attributes:
      paper: where the system comes from.
      aggregator: a key of `holderjax.models.aggregators.AGGREGATORS`.
      latents: ``shared`` (z), ``private`` (z and w_n from x_n) or ``hierarchical`` (w_n from x_n
        and z).
      prior: on z; ``normal`` is N(0, I), ``mixture`` a learned mixture of ``clusters`` Gaussians.
      bound: a key of `holderjax.models.bounds.BOUNDS`: which subsets are encoded and what is
        reconstructed from each.
      kl: the estimator of KL(q(z|X) || p(z)): ``mixture`` is the log-ratio of the pooled density
        at the sample, ``components`` the weighted sum of the components' own divergences, which is
        larger by convexity.
      order: of the Hölder pool, n = 1/alpha.
      expert_weights: in Hölder pools: ``uniform`` or ``learned``, a softmax of one logit per
        modality.
      private_prior: on w_n; ``normal`` is N(0, I), ``conditional`` the learned p(w_n | z).
      decoders: read ``all`` latents or the ``private`` ones alone.
      importance_samples: inside each component; more than one tighten the bound.
      random_subsets: that the bound ``subsets`` adds to the whole and the single modalities.
      clusters: of the mixture prior.
      family: of experts, private posteriors and all priors; ``laplace``, with normalised scales, is
        what the official results of MMVAE, MMVAE+ and CMVAE use. Mixtures of experts alone have it.
    """

    paper: str
    aggregator: str
    latents: Latents = "shared"
    prior: Prior = "normal"
    bound: Bound = "joint"
    kl: Kl = "components"
    order: int = 2
    expert_weights: ExpertWeights = "uniform"
    private_prior: PrivatePrior = "normal"
    decoders: Decoders = "all"
    importance_samples: int = 1
    random_subsets: int = 0
    clusters: int = 10
    family: Family = "gaussian"


# What `build` and the command line may change of a row, beside its aggregator and its latents.
OPTIONS: dict[str, tuple[str, ...] | None] = {
    "prior": get_args(Prior),
    "bound": get_args(Bound),
    "kl": get_args(Kl),
    "order": None,
    "expert_weights": get_args(ExpertWeights),
    "private_prior": get_args(PrivatePrior),
    "importance_samples": None,
    "random_subsets": None,
    "clusters": None,
    "family": get_args(Family),
}

_MVAE = "Wu and Goodman 2018"
_MMVAE = "Shi et al. 2019"
_MOPOE = "Sutter et al. 2021"
_HELVAE = "Vo and Valera 2026"
_MMVAE_PLUS = "Palumbo et al. 2023"
_CMVAE = "Palumbo et al. 2024"
_DMVAE = "Lee and Pavlovic 2021"
_HMVAE = "Wolff et al. 2022"
_MASKED = "Hirt et al. 2024"
_HOLDER = "Hölder++ (ICML 2026)"

# The Hölder++ paper calls its objective a weighted sum of terms, each a reconstruction minus a KL:
# the components' estimator. It also led in leave-one-out coherence on the digits. MMVAE's line
# compares samples with the density of the whole mixture.
SYSTEMS: dict[str, System] = {
    "mvae": System(_MVAE, "poe", bound="subsets"),
    "mmvae": System(_MMVAE, "moe", kl="mixture", importance_samples=10),
    "mopoe": System(_MOPOE, "mopoe"),
    "helvae": System(_HELVAE, "hellinger"),
    "mohelvae": System(_HELVAE, "mohellinger"),
    "holder": System(_HOLDER, "holder"),
    "mmvae+": System(_MMVAE_PLUS, "moe", "private", kl="mixture"),
    "cmvae": System(_CMVAE, "moe", "private", "mixture", kl="mixture"),
    "holder+": System(_HOLDER, "holder", "private"),
    "holder++": System(_HOLDER, "holder", "hierarchical"),
    "cholder+": System(_HOLDER, "holder", "private", "mixture"),
    "cholder++": System(_HOLDER, "holder", "hierarchical", "mixture"),
    "dmvae": System(_DMVAE, "poe", "private", bound="crossed"),
    "hmvae": System(_HMVAE, "poe", "hierarchical", private_prior="conditional", decoders="private"),
    "masked-sum": System(_MASKED, "sum", bound="masked"),
    "masked-attention": System(_MASKED, "attention", bound="masked"),
}
