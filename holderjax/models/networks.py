"""All the networks of one model, as one Flax module."""

from __future__ import annotations

from collections.abc import Mapping

from flax import nnx

from holderjax.models.aggregators import AGGREGATORS
from holderjax.models.modality import Modality, ModalityNetworks
from holderjax.models.priors import PRIORS
from holderjax.models.systems import System


class Networks(nnx.Module):
    """The modalities' networks by name, the aggregator, and the prior over z.

    The last two have parameters where the row asks for learned ones.
    """

    def __init__(
        self,
        system: System,
        modalities: Mapping[str, Modality],
        latent_dim: int,
        private_dim: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.aggregator = AGGREGATORS[system.aggregator](system, len(modalities), latent_dim, rngs)
        self.prior = PRIORS[system.prior](system.clusters, latent_dim, system.family, rngs)
        self.modalities = nnx.Dict(
            {
                name: ModalityNetworks(
                    modality, system, self.aggregator, latent_dim, private_dim, rngs=rngs
                )
                for name, modality in modalities.items()
            }
        )
