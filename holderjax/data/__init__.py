"""Data sets as arrays in memory, and the order in which training reads them."""

from holderjax.data.cache import cache_dir
from holderjax.data.dataset import Dataset, Split
from holderjax.data.incomplete import hide
from holderjax.data.picture import show
from holderjax.data.pipeline import batches, epoch_indices, to_float
from holderjax.data.prepared import is_prepared, state
from holderjax.data.registry import DATASETS, DatasetInfo, is_own, load, prepare
from holderjax.data.text import Vocabulary

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetInfo",
    "Split",
    "Vocabulary",
    "batches",
    "cache_dir",
    "epoch_indices",
    "hide",
    "is_own",
    "is_prepared",
    "load",
    "prepare",
    "show",
    "state",
    "to_float",
]
