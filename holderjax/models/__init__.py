"""Multimodal VAEs: one table of systems, one objective, pure functions of (params, batch, key)."""

from holderjax.likelihoods import Bernoulli, Categorical, Gaussian, Laplace
from holderjax.models.aggregators import count_components
from holderjax.models.modality import Modality, NetworkDtype
from holderjax.models.model import Model, build
from holderjax.models.systems import OPTIONS, SYSTEMS, System

__all__ = [
    "OPTIONS",
    "SYSTEMS",
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Laplace",
    "Modality",
    "Model",
    "NetworkDtype",
    "System",
    "build",
    "count_components",
]
