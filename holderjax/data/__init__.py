"""Data sets as arrays in memory, and the order in which training reads them."""

from holderjax.data.cache import cache_dir
from holderjax.data.dataset import Dataset, Split
from holderjax.data.picture import show
from holderjax.data.pipeline import epoch_indices, to_float
from holderjax.data.registry import DATASETS, DatasetInfo, load

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetInfo",
    "Split",
    "cache_dir",
    "epoch_indices",
    "load",
    "show",
    "to_float",
]
